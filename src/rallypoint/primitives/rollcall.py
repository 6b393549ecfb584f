"""Who is there, by rank: marks that every member leaves where every other can read them.

Rules:

- Each rank has one key, and writes it before it is counted: "generation g, here, token". It is the key that torch's
  members write when their time is up, so that a torch rank 0 finds us and we find them.
- A rank that comes twice in one generation is refused by name, before it is counted. It may come again when the
  generation is complete, or when it has left.
- Marks are overwritten by the next generation: a barrier keeps one key a rank, however often it is used.
- Who left stays readable as such, so that members whose time is up a moment later do not take it for missing. It also
  says how many it left behind: the counter no longer tells the later ones how many had come.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final, NamedTuple

from rallypoint.clock import SYSTEM_CLOCK, Clock, Deadline
from rallypoint.errors import DuplicateMemberError
from rallypoint.store.base import MEMBER_COUNT, Store

__all__ = ["HERE", "LEFT", "Mark", "Roll", "call_roll", "mark_arrival", "mark_key", "write_mark"]

HERE: Final = "here"
LEFT: Final = "left"

CHECKED_TOGETHER = 1024
"""Marks looked at by one call at first; a call that finds one missing is split in two."""

TORCH_PAUSE_S = 0.02
"""Between two looks for the marks of torch's members, which write them late."""


class Mark(NamedTuple):
    """What a rank wrote.

    Attributes:
        generation: of its latest arrival.
        state: ``"here"`` or ``"left"``.
        token: random, so that a swap that writes it can be told from any other.
        arrived: how many were counted when this rank left, itself included; 0 while it is here.
    """

    generation: int
    state: str
    token: str
    arrived: int = 0

    @classmethod
    def new(cls, generation: int, state: str, arrived: int = 0) -> Mark:
        """Make a mark with a token of its own."""
        return cls(generation, state, secrets.token_hex(8), arrived)

    @classmethod
    def decode(cls, data: bytes) -> Mark:
        """Read a mark; what is not one of ours is torch's: generation 0, gave up."""
        words = data.decode(errors="replace").split(" ")
        if len(words) == 4 and words[0].isdigit() and words[1] in {HERE, LEFT} and words[3].isdigit():
            return cls(int(words[0]), words[1], words[2], int(words[3]))
        return cls(0, LEFT, "")

    def encode(self) -> bytes:
        """Give the bytes that are stored. Shape: decimal generation, state, token, number; one space between."""
        return f"{self.generation} {self.state} {self.token} {self.arrived}".encode()


class Roll(NamedTuple):
    """Who of one generation left a mark.

    Attributes:
        marked: the ranks that came, those that left again included.
        left: those of them that left again.
        missing: the ranks that did not come.
        unknown: the ranks that could not be looked at in time.
        has_strangers: whether some that came left torch's mark, or none.
    """

    marked: list[int]
    left: list[int]
    missing: list[int]
    unknown: list[int]
    has_strangers: bool


def mark_key(prefix: str, rank: int) -> str:
    """Give the key under which a rank leaves its mark: torch's."""
    return f"{prefix}{rank}/TRACE"


def mark_arrival(store: Store, prefix: str, rank: int, world_size: int, name: str) -> int:
    """Leave the mark "here" for the generation that is gathering.

    Returns:
        That generation.

    Raises:
        DuplicateMemberError: this rank is already there.

    Cost: 1 call the first time, 3 later.
    """
    key = mark_key(prefix, rank)
    mine = Mark.new(0, HERE).encode()
    found = bytes(store.compare_set(key, "", mine))
    if found == mine:
        return 0
    latest = Mark.decode(found)
    generation = latest.generation
    if latest.state == HERE:
        generation = int(store.add(prefix + MEMBER_COUNT, 0)) // world_size
    if latest.state == LEFT or generation > latest.generation:
        mine = Mark.new(generation, HERE).encode()
        if bytes(store.compare_set(key, found, mine)) == mine:
            return generation
    raise DuplicateMemberError(
        f"rank {rank} ({name}) came to barrier {prefix!r} twice in generation {generation}: another process has the "
        "same rank, or one died there; each restart needs a prefix of its own",
        member=name,
    )


def write_mark(store: Store, prefix: str, rank: int, mark: Mark) -> None:
    """Replace the mark of a rank, whatever it was. Cost: 1 call."""
    store.set(mark_key(prefix, rank), mark.encode())


def call_roll(
    store: Store,
    prefix: str,
    world_size: int,
    generation: int,
    *,
    arrived: int,
    deadline: Deadline,
    clock: Clock = SYSTEM_CLOCK,
) -> Roll:
    """Find out which ranks came to a generation.

    Args:
        store: any store.
        prefix: the barrier's.
        world_size: ranks 0 to ``world_size - 1`` are looked at.
        generation: the one that is asked about.
        arrived: how many were counted; whoever left before may know of more. If fewer left marks, some are torch's
            members, which write theirs only when their time is up: they are waited for.
        deadline: the end of all this.
        clock: for the pauses.

    Cost: about ``m * log2(world_size / m)`` calls for ``m`` ranks without a mark, and 1 call for each 1024 marks.
    """
    marks: dict[int, Mark] = {}
    open_ranks: Sequence[int] = range(world_size)
    while True:
        absent, unknown = _read(store, prefix, open_ranks, marks, deadline)
        came = [rank for rank, mark in marks.items() if mark.generation == generation]
        arrived = max(arrived, *(marks[rank].arrived for rank in came), 0)
        if len(came) >= arrived or generation > 0 or deadline.has_passed():
            break
        open_ranks = absent
        clock.sleep(min(TORCH_PAUSE_S, deadline.remaining_s()))
    came.sort()
    return Roll(
        marked=came,
        left=[rank for rank in came if marks[rank].state == LEFT],
        missing=sorted(set(range(world_size)) - set(came) - set(unknown)),
        unknown=sorted(unknown),
        has_strangers=len(came) < arrived or not all(marks[rank].token for rank in came),
    )


def _read(
    store: Store, prefix: str, ranks: Sequence[int], marks: dict[int, Mark], deadline: Deadline
) -> tuple[list[int], list[int]]:
    """Read the marks of ``ranks`` into ``marks``; give the ranks without one and those not looked at in time."""
    absent: list[int] = []
    unknown: list[int] = []
    parts = [ranks[start : start + CHECKED_TOGETHER] for start in range(0, len(ranks), CHECKED_TOGETHER)]
    while parts:
        part = parts.pop()
        if deadline.has_passed():
            unknown.extend(part)
            continue
        keys = [mark_key(prefix, rank) for rank in part]
        if store.check(keys):
            values = store.multi_get(keys) if hasattr(store, "multi_get") else [store.get(key) for key in keys]
            marks.update(zip(part, (Mark.decode(bytes(value)) for value in values), strict=True))
        elif len(part) == 1:
            absent.extend(part)
        else:
            middle = len(part) // 2
            parts += [part[:middle], part[middle:]]
    return absent, unknown
