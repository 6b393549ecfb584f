r"""Counting who comes: arrival numbers, generations, and the way back.

Rules:

- Whoever comes adds 1 to one counter; the answer is its arrival number. Members ``g*n+1`` to ``(g+1)*n`` of a
  gathering of ``n`` are generation ``g``, so the same name serves again and again.
- The last of a generation opens its gate, a key. Generation 0 has torch's key, so that torch's members can take part.
- Whoever opens a gate removes the one before the last: all of this generation have passed it. Two gates stay.
- A member that gives up takes its arrival back by a swap that fails once the generation is complete; so a member
  either counts or has left, never both.

A swap answers with the value that is there, and two leavers may want the same number. Each therefore signs its
number with white space, which every reader of decimal text ignores::

    b"7" --leaver A--> b"6 \t\t ..." --arrival--> b"7" --leaver B--> b"6\t \t ..."
"""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple

from rallypoint.clock import Deadline
from rallypoint.errors import DistStoreError
from rallypoint.store.base import LAST_MEMBER, MEMBER_COUNT, Store

__all__ = ["IGNORED", "Arrival", "arrive", "gate_key", "is_timeout", "open_gate", "take_back"]

IGNORED = "<val_ignored>"
"""What torch writes where only the key's existence matters."""

SIGNATURE_BITS = 64

_TIMEOUT_TEXT = re.compile(r"tim(e|ed)[ -]?out", re.IGNORECASE)


class Arrival(NamedTuple):
    """One member's place.

    Attributes:
        prefix: the gathering's name.
        world_size: how many make a generation.
        number: how many had come when this member had, itself included; from 1.
    """

    prefix: str
    world_size: int
    number: int

    @property
    def generation(self) -> int:
        """How many generations were full before this one."""
        return (self.number - 1) // self.world_size

    @property
    def is_last(self) -> bool:
        """Whether this member completed its generation."""
        return self.number % self.world_size == 0

    @property
    def gate(self) -> str:
        """The key that appears when the generation is complete."""
        return gate_key(self.prefix, self.generation)


def gate_key(prefix: str, generation: int) -> str:
    """Give the key that the last member of a generation sets."""
    return f"{prefix}{LAST_MEMBER}" if generation == 0 else f"{prefix}{LAST_MEMBER}/{generation}"


def arrive(store: Store, prefix: str, world_size: int) -> Arrival:
    """Count the caller in. Cost: 1 call.

    Raises:
        DistStoreError: the counter is not one of ours: its new value is below 1.
    """
    number = int(store.add(prefix + MEMBER_COUNT, 1))
    if number < 1:
        raise DistStoreError(
            f"the counter {prefix + MEMBER_COUNT!r} is at {number} after an arrival, expected 1 or more"
        )
    return Arrival(prefix, world_size, number)


def open_gate(store: Store, arrival: Arrival) -> None:
    """Let a complete generation through, and remove the gate before the last. Cost: 1 or 2 calls."""
    store.set(arrival.gate, IGNORED)
    if arrival.generation >= 2:
        store.delete_key(gate_key(arrival.prefix, arrival.generation - 2))


def take_back(store: Store, arrival: Arrival, deadline: Deadline) -> int:
    """Count the caller out again, unless its generation is complete.

    Returns:
        How many of the generation were there, the caller included. ``world_size`` means that it is complete and the
        caller still counts; anything less, that the caller has left.

    Raises:
        DistStoreError: others changed the counter all the time until the deadline.

    Cost: 2 calls, 2 more each time that somebody else comes or leaves in between.
    """
    key = arrival.prefix + MEMBER_COUNT
    number = int(store.add(key, 0))
    while True:
        arrived = _of_generation(arrival, number)
        if not 0 < arrived < arrival.world_size:
            return arrived
        desired = f"{number - 1}{_signature()}".encode()
        if bytes(store.compare_set(key, str(number), desired)) == desired:
            return arrived
        if deadline.has_passed():
            raise DistStoreError(f"arrival {arrival.number} could not be taken back from {key!r}: others change it")
        number = int(store.add(key, 0))  # which also makes it plain text again


def is_timeout(error: BaseException) -> bool:
    """Tell whether an error of any store means that the time was up."""
    return isinstance(error, TimeoutError) or (
        isinstance(error, RuntimeError) and _TIMEOUT_TEXT.search(str(error)) is not None
    )


def _of_generation(arrival: Arrival, number: int) -> int:
    return min(max(number - arrival.generation * arrival.world_size, 0), arrival.world_size)


def _signature() -> str:
    bits = secrets.randbits(SIGNATURE_BITS)
    return "".join(" \t"[bits >> place & 1] for place in range(SIGNATURE_BITS))
