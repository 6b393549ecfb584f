"""Files that hold secrets: read only if nobody else can read them.

A secret that every user of the machine can read, or could have put there, is none. The group may read it: so do
services that run as a user of their own get theirs, and containers (``defaultMode: 0440``).
"""

from __future__ import annotations

import os
import stat

__all__ = ["check_is_private", "read_secret"]

_SIZE_MAX = 1 << 20


def check_is_private(path: str) -> None:
    """Refuse a file that other users than its owner and its group can use, or its group can change.

    Raises:
        ValueError: in one sentence that names the file and says what to do; also if it is not there.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - a path is text here
    except OSError as error:
        raise ValueError(f"the file {path} cannot be used: {error.strerror}") from error
    _check(path, found.st_mode)


def read_secret(path: str) -> str:
    """Give the text of a file that holds a secret.

    Raises:
        ValueError: it cannot be read, is no text, or is readable by others; the sentence does not show what it says.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a path is text here
            _check(path, os.fstat(file.fileno()).st_mode)
            data = file.read(_SIZE_MAX + 1)
    except OSError as error:
        raise ValueError(f"the file {path} cannot be used: {error.strerror}") from error
    if len(data) > _SIZE_MAX:
        raise ValueError(f"the file {path} is larger than {_SIZE_MAX} bytes: it is no file of secrets")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError(f"the file {path} is no text in UTF-8") from None


def _check(path: str, mode: int) -> None:
    if stat.S_ISREG(mode) and mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise ValueError(
            f"the file {path} holds a secret and has mode {stat.S_IMODE(mode):04o}, so that others can read or change "
            f"it: chmod 600 {path}"
        )
