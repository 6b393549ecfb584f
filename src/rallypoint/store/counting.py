"""Counters of the stores that hold their keys themselves: what ``add`` does to a keyspace, in the caller's words."""

from __future__ import annotations

from rallypoint.errors import LocalProtocolError, NotANumberError
from rallypoint.server.keyspace import Keyspace, KeyspaceError
from rallypoint.store.base import decode_key
from rallypoint.types import Text

__all__ = ["add_to_counter"]

AMOUNT_BITS = 64


def add_to_counter(space: Keyspace, name: bytes, amount: int, key: Text) -> tuple[int, bool]:
    """Add to the counter under a name; an empty value counts as 0.

    Args:
        space: the keys; left as they are if there is an error.
        name: the counter's name in it.
        amount: a signed 64-bit number.
        key: the counter as the caller named it, for the errors.

    Returns:
        The new value, and whether a key of that name is new.

    Raises:
        LocalProtocolError: ``amount`` does not fit into 64 bits.
        NotANumberError: the present value is not the decimal text of a 64-bit number.
    """
    bound = 1 << (AMOUNT_BITS - 1)
    if not -bound <= amount < bound:
        raise LocalProtocolError(f"ADD on key {decode_key(key)!r} was given {amount}, which 64 bits cannot hold")
    if space.get(name) == b"":
        space.delete(name)
    try:
        return space.add(name, amount)
    except KeyspaceError as error:
        shown = (space.get(name) or b"")[:64]
        raise NotANumberError(
            f"the value of key {decode_key(key)!r} is {shown!r}, not the decimal text of a 64-bit number: "
            "nothing can be added to it",
            key=decode_key(key),
        ) from error
