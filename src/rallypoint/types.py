"""The words that every layer shares: text, durations, endpoints.

Nothing here does I/O or keeps state; machines may import it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import timedelta
from typing import NamedTuple, TypeAlias

__all__ = ["Endpoint", "Keys", "Member", "Text", "Timeout", "as_bytes", "as_keys", "as_seconds"]

Text: TypeAlias = str | bytes | bytearray
"""A key or a value as callers give it: ``str`` travels as UTF-8."""

Keys: TypeAlias = Iterable[Text]
"""Several keys; a bare ``str`` is refused, because it would mean one key a letter."""

Timeout: TypeAlias = float | timedelta
"""A duration as callers give it: seconds, or a ``timedelta``."""


class Endpoint(NamedTuple):
    """Where a server can be reached: a host name or address, and a TCP port.

    ``str()`` gives RFC 3986 form: ``host:port``, IPv6 addresses in brackets.
    """

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Member(NamedTuple):
    """A member of a barrier or an exchange, as others tell of it.

    Attributes:
        rank: its place.
        label: how it calls itself; empty if it gave no label or was never seen.
        since_s: for how long it has waited, or has been gone, in seconds; ``None`` if that is not known.
    """

    rank: int
    label: str
    since_s: float | None = None

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.label})" if self.label else f"rank {self.rank}"


def as_bytes(text: Text, what: str = "value") -> bytes:
    """Give the bytes that travel for a key or a value.

    Args:
        text: ``str`` (sent as UTF-8), ``bytes`` or ``bytearray``.
        what: the argument's name, for the error.

    Raises:
        TypeError: for any other type.
        UnicodeEncodeError: for a ``str`` that is no text.
    """
    if isinstance(text, bytes):
        return text
    if isinstance(text, str):
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            why = f"the {what} has a lone surrogate, which UTF-8 cannot say; what is no text is given as bytes"
            raise UnicodeEncodeError(error.encoding, text, error.start, error.end, why) from None
    if isinstance(text, bytearray):
        return bytes(text)
    raise TypeError(f"{what} must be str, bytes or bytearray, not {type(text).__name__}")


def as_keys(keys: Keys) -> list[bytes]:
    """Give the bytes of several keys, in order.

    Raises:
        TypeError: if ``keys`` is one ``str``, ``bytes`` or ``bytearray``, or holds something else than text.
    """
    if isinstance(keys, (str, bytes, bytearray)):
        raise TypeError(f"keys must be a list of keys, not one {type(keys).__name__}: write [{keys!r}]")
    return [as_bytes(key, "key") for key in keys]


def as_seconds(timeout: Timeout, what: str = "timeout") -> float:
    """Give a duration in seconds.

    Args:
        timeout: seconds (``int`` or ``float``) or a ``timedelta``.
        what: the argument's name, for the error.

    Raises:
        TypeError: for any other type, ``None`` and ``bool`` included.
        ValueError: if it is not a number (NaN).
    """
    if type(timeout) is float and timeout == timeout:  # noqa: PLR0124 - the common case first; NaN differs from itself
        return timeout
    if isinstance(timeout, timedelta):
        return timeout.total_seconds()
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"{what} must be seconds or a timedelta, not {type(timeout).__name__}")
    if math.isnan(timeout):
        raise ValueError(f"{what} must be a number of seconds, not NaN")
    return float(timeout)
