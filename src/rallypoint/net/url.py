"""What people write to say where something is, as a URL or not: split, and told without the secrets in it.

Whatever is told of an endpoint, in an event, a log, an error or on a screen, goes through ``without_secrets`` before:
more people read it than may know the password. The function errs on the safe side: where it cannot tell which part of
a malformed text is the password, it leaves out more.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

__all__ = ["refuse_user", "split_url", "without_secrets"]

_NO_USER: Final = re.compile(r"\s*(unix:|[a-z+]*file:(/|///)(?!/)|/|\.)", re.IGNORECASE)
"""How a text begins that is a path, in which ``@`` and ``:`` are letters like any others."""

_SCHEME: Final = re.compile(r"\s*[\w+.-]*(:/{1,2}|//)")
"""What stands before the place, also if one of the signs is missing."""

_NO_PORT: Final = re.compile(r"^(\s*[\w+.-]*://[^/?#:@\[\]]+:)(?![0-9]*([,/?#]|$))[^/?#]*")
"""A URL's host and what stands in the place of its port: a password, if what is behind it was forgotten."""

_SECRET_OPTION: Final = re.compile(r"([?&;](?:[^=&;?#]*[_-])?(?:password|passwd|secret|token)=)[^&]*", re.IGNORECASE)

_SHOWN_INSTEAD: Final = "..."


def without_secrets(text: str) -> str:
    """Give an endpoint as it may be told.

    The user and the password before ``@`` are left out, ``etcd://u:p@host`` becomes ``etcd://host``, and the values of
    a query's options ``password``, ``secret`` and ``token`` become three dots; so does, in a URL, what stands in the
    place of a port and is none.

    Args:
        text: a URL of any scheme, or ``[user:password@]host[:port]``, well formed or not.

    Returns:
        The same text if there is no secret in it.
    """
    if not _NO_USER.match(text) and "@" in text:
        begin = _SCHEME.match(text)
        rest = text if begin is None else text[begin.end() :]
        who, _, place = rest.rpartition("@")
        if ":" in who or "@" in re.split(r"[/?#]", rest, maxsplit=1)[0]:
            text = place if begin is None else begin[0] + place
    text = _NO_PORT.sub(r"\1...", text)
    return _SECRET_OPTION.sub(rf"\1{_SHOWN_INSTEAD}", text)


def split_url(url: str) -> SplitResult:
    """Split a URL as ``urllib.parse.urlsplit`` does.

    Raises:
        ValueError: it is none; the sentence shows no password.
    """
    try:
        return urlsplit(url)
    except ValueError:
        pass  # its error is not to be seen behind ours: some quote what they stumble over
    raise ValueError(f"{without_secrets(url)!r} is no URL: write scheme://host:port, an IPv6 address in brackets")


def refuse_user(text: str) -> None:
    """Refuse an endpoint with a user or a password in it, where nobody asks for them.

    Raises:
        ValueError: it has one; the sentence does not show it.
    """
    if "@" in text and not _NO_USER.match(text):
        raise ValueError(
            f"the endpoint {without_secrets(text)!r} was given with a user or a password: an endpoint shows up in "
            "lists of processes, give a token in RALLYPOINT_TOKEN or RALLYPOINT_TOKEN_FILE"
        )
