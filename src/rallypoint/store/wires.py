"""What users say as it travels: keys behind a ``/``, whole numbers, and the seconds that a patience stands for."""

from __future__ import annotations

from rallypoint.store.calls import Patience
from rallypoint.types import Keys, Text, as_bytes, as_keys

__all__ = ["as_integer", "as_wire", "as_wires", "lease_ms", "seconds_of"]


def as_wire(key: Text) -> bytes:
    """Give a key as it travels.

    Raises:
        TypeError: it is no text.
    """
    return b"/" + as_bytes(key, "key")


def as_wires(keys: Keys) -> list[bytes]:
    """Give several keys as they travel.

    Raises:
        TypeError: ``keys`` is one ``str`` or ``bytes``, or holds something else than text.
    """
    return [b"/" + key for key in as_keys(keys)]


def as_integer(number: int, what: str) -> int:
    """Give a whole number; ``what`` is the argument's name.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(number, int):
        raise TypeError(f"{what} must be an int, not {type(number).__name__}")
    return int(number)


def lease_ms(ttl_s: float | None) -> int:
    """Give a lease's time to live in milliseconds; 0 for one that lasts as long as its session."""
    return 0 if ttl_s is None else max(1, round(ttl_s * 1000))


def seconds_of(patience: Patience) -> float:
    """Give the seconds that a caller waits."""
    return patience if isinstance(patience, float) else patience._timeout_s  # noqa: SLF001 - see Patient
