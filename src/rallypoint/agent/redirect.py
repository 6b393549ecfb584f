"""Redirect this process' own standard streams to a file, descriptors included: children and C code are caught too.

Source: names and behaviour as observed in torch 2.13.0. Works wherever there are descriptors, macOS included.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

__all__ = ["get_std_cm", "redirect", "redirect_stderr", "redirect_stdout"]

_DESCRIPTORS = {"stdout": 1, "stderr": 2}


class _Redirect(Protocol):
    def __call__(self, to_file: str) -> AbstractContextManager[Any]: ...


def _flush(std: str) -> None:
    """Write out what Python and C still hold back."""
    stream = getattr(sys, std)
    if stream is not None:
        stream.flush()
    ctypes.CDLL(None).fflush(None)


@contextmanager
def redirect(std: str, to_file: str) -> Iterator[None]:
    """Redirect one stream to a file as long as the context lasts.

    Args:
        std: ``stdout`` or ``stderr``.
        to_file: the file; what it held is gone.

    Raises:
        ValueError: if there is no such stream.
        OSError: if the file cannot be opened.

    Threads: the streams are the whole process'.
    """
    if std not in _DESCRIPTORS:
        raise ValueError(f"unknown standard stream <{std}>, must be one of {set(_DESCRIPTORS)}")
    target = _DESCRIPTORS[std]
    before = os.dup(target)
    try:
        file = os.open(to_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            _flush(std)
            os.dup2(file, target)
        finally:
            os.close(file)
        try:
            yield
        finally:
            _flush(std)
            os.dup2(before, target)
    finally:
        os.close(before)


redirect_stdout = functools.partial(redirect, "stdout")
"""``redirect_stdout(to_file)``."""

redirect_stderr = functools.partial(redirect, "stderr")
"""``redirect_stderr(to_file)``."""


def get_std_cm(std_rd: str, redirect_fn: _Redirect) -> AbstractContextManager[Any]:
    """Give a context that redirects to a file, or does nothing if no file is named."""
    return redirect_fn(std_rd) if std_rd else nullcontext()
