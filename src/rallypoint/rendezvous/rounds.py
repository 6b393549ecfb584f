"""Rounds of fixed members, kept in plain keys of a store.

Who takes part, and with which rank, is known beforehand; what is left to agree on is when. Workers put no prefix
before their keys, so a round must not begin before every worker of the last one has stopped, nor with their keys
still there. Hence it opens in three steps, all of them keys below ``rallypoint.static/<run id>/``::

    every node   round/4/node/<rank> = who      "my workers have stopped; I am ready for round 4"
    node 0       waits for all of these, deletes what workers left, sets round/4/open
    every node   waits for round/4/open, and uses round/4/agents/ for itself

A round ends when somebody writes ``round/4/verdict``, once and for good: "over, meet again", or "closed" with an
outcome. Who waits for news waits for that key. ``epoch`` is the number of the round to join.

An agent that is started again takes its rank over: it signs ``owner/<rank>`` and ends the round that its forerunner
was in. Before, it makes sure that the forerunner is gone: it signs ``challenge/<rank>`` too, and who has the rank and
waits, for a round or for its end, answers with ``alive/<rank>/<challenger>``. Who is answered gives up, with an error
that names the other. A forerunner that lives but was too busy to answer finds the other signature before its next
round and gives up likewise, so two agents with one rank by mistake do not chase each other for ever.

What this does not know, beyond that: whether a node lives. A dead one is missed when the next round opens.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable
from typing import TypeVar

import msgspec

from rallypoint.clock import SYSTEM_CLOCK, Deadline
from rallypoint.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousStateError,
    RendezvousTimeoutError,
    StoreTimeoutError,
)
from rallypoint.events import emit
from rallypoint.primitives.kind import has_sessions
from rallypoint.store.base import Store
from rallypoint.store.prefix import PrefixStore
from rallypoint.types import as_bytes

__all__ = ["FixedRounds", "Verdict"]

_log = logging.getLogger("rallypoint.rendezvous")

_SLICE_S = 1.0  # a wait for one key looks this often whether the round has ended meanwhile
_ANSWER_S = 2.5  # how long a live agent may take to answer a challenge
_HINT = "give each node a --node-rank of its own, or let --rdzv-backend c10d hand the ranks out"
_NAMED_MAX = 16  # so many missing ranks are named in an error
_NOBODYS = b"-"  # no value is ever this

Result = TypeVar("Result")


class _Agent(msgspec.Struct, frozen=True):
    id: str
    host: str
    pid: int


class Verdict(msgspec.Struct, frozen=True):
    """How a round ended.

    Attributes:
        why: one sentence.
        outcome: ``None`` if the nodes meet again; otherwise the outcome with which the run closed.
    """

    why: str
    outcome: str | None = None


class FixedRounds:
    """The rounds of one run as one of its nodes sees them.

    Args:
        store: shared by all nodes.
        where: the store's address, for errors.
        run_id: the name of the run.
        rank: this node's rank.
        world_size: the number of nodes.

    Attributes:
        store: shared by all nodes.
        is_leaving: this node is on its way out, and has nothing more to say about what it waits for.

    Raises:
        RendezvousConnectionError: by every method, if the store cannot be used.
        RendezvousStateError: by every method that reads, if a key holds something else than it should.
    """

    def __init__(self, store: Store, where: str, run_id: str, rank: int, world_size: int) -> None:
        self.store = store
        self._where = where
        self._run_id = run_id
        self._rank = rank
        self._world_size = world_size
        self._prefix = f"rallypoint.static/{run_id}/"
        self._agent = _Agent(secrets.token_hex(16), socket.gethostname(), os.getpid())
        self._me = msgspec.json.encode(self._agent)
        self.is_leaving = False
        self._challenger = b""
        self._answers_at = 0.0
        self._told = -1  # the round that people were told of last

    # --- joining -----------------------------------------------------------------------------------------

    def take_rank(self) -> None:
        """Sign for this node's rank, in place of an agent that had it before and is gone.

        Raises:
            RendezvousError: if that agent lives.

        Cost: one round trip; in place of an agent of another machine ``_ANSWER_S`` seconds.
        """
        owner = self._create(f"owner/{self._rank}", self._me)
        if owner == self._me:
            return
        if self._lives(owner):
            raise RendezvousError(
                f"{self._describe(owner)} has rank {self._rank} of run {self._run_id!r} and lives: {_HINT}"
            )
        self._call(lambda: self.store.set(f"{self._prefix}owner/{self._rank}", self._me))

    def join(self, deadline: Deadline) -> int:
        """Wait until a round is open, and give its number.

        Raises:
            RendezvousClosedError: if the run is closed.
            RendezvousError: if another agent took this node's rank over.
            RendezvousTimeoutError: if a node did not come before the deadline; it names the missing ranks.
        """
        while True:
            number = self._claim(deadline)
            if self._rank == 0 and self._await_keys(number, self._claims(number), deadline):
                self._clear_leftovers(number)
                self._call(lambda number=number: self.store.set(f"{self._prefix}round/{number}/open", b"1"))  # type: ignore[misc]
            if self._await_keys(number, [f"round/{number}/open"], deadline):
                return number

    def store_of(self, number: int) -> PrefixStore:
        """Give the agents' own part of the store in one round."""
        return PrefixStore(f"{self._prefix}round/{number}/agents", self.store)

    # --- ending ------------------------------------------------------------------------------------------

    def end(self, number: int, why: str) -> None:
        """End a round if it has not ended; the first verdict stands."""
        self._create(f"round/{number}/verdict", msgspec.json.encode(Verdict(why)))
        self._call(lambda: self.store.compare_set(f"{self._prefix}epoch", str(number), str(number + 1)))

    def close(self, outcome: str, why: str) -> None:
        """Close the run if it is not closed; the first closing stands."""
        closing = self._create("closed", msgspec.json.encode(Verdict(why, outcome)))
        self._create(f"round/{self._epoch()}/verdict", closing)

    def count_success(self, number: int) -> int:
        """Count this node as done in a round; give how many are."""
        return self._call(lambda: self.store.add(f"{self._prefix}round/{number}/succeeded", 1))

    def closing(self) -> Verdict | None:
        """Give how the run closed, or ``None`` if it goes on."""
        return self._verdict_at("closed")

    def verdict(self, number: int) -> Verdict | None:
        """Give how a round ended, or ``None`` if it goes on."""
        return self._verdict_at(f"round/{number}/verdict")

    def await_verdict(self, number: int, timeout_s: float) -> None:
        """Pause until a round has ended, at most ``timeout_s`` seconds."""
        self._answer()
        self._are_there([f"round/{number}/verdict"], timeout_s)

    def say_goodbye(self) -> None:
        """Tell the store host that this node needs the store no longer."""
        self._call(lambda: self.store.set(f"{self._prefix}gone/{self._rank}", b"1"))

    def await_goodbyes(self, timeout_s: float) -> None:
        """Pause until every node has said goodbye, at most ``timeout_s`` seconds."""
        self._are_there([f"gone/{rank}" for rank in range(self._world_size)], timeout_s)

    # --- inside ------------------------------------------------------------------------------------------

    def _claim(self, deadline: Deadline) -> int:
        """Say that this node is ready for the round to come, and give its number."""
        while True:
            self._refuse_if_closed()
            owner = self._look(f"owner/{self._rank}")
            if owner != self._me:
                raise RendezvousError(
                    f"rank {self._rank} of run {self._run_id!r} was taken over by {self._describe(owner)}, and two "
                    f"agents cannot have one rank: {_HINT}"
                )
            number = self._epoch()
            claim = self._create(f"round/{number}/node/{self._rank}", self._me)
            if claim == self._me and self.verdict(number) is None:
                return number
            self.end(number, f"node {self._rank} came back as {self._describe(self._me)}")
            if deadline.has_passed():
                raise self._timed_out(number, deadline)

    def _clear_leftovers(self, number: int) -> None:
        """Delete what the workers, and the agents in earlier rounds, have left; what was there before us stays."""
        try:
            keys = self._call(self.store.list_keys)
        except UnicodeDecodeError as error:
            _log.warning("what workers left in the store of run %r stays: a key is not text: %s", self._run_id, error)
            return
        foreign = [key for key in keys if not key.startswith(self._prefix)]
        kept = _decode(self._create("kept", msgspec.json.encode(foreign)), set[str])
        for key in keys:
            if self._is_leftover(key, number, kept):
                self._call(lambda key=key: self.store.delete_key(key))  # type: ignore[misc]

    def _is_leftover(self, key: str, number: int, kept: set[str]) -> bool:
        if not key.startswith(self._prefix):
            return key not in kept
        below = key.removeprefix(self._prefix)
        is_old = below.startswith("round/") and not below.startswith(f"round/{number}/")
        return is_old and not below.endswith("/verdict")  # a late reader may still ask how a round ended

    def _await_keys(self, number: int, keys: list[str], deadline: Deadline) -> bool:
        """Wait for all keys of a round; ``False`` if the round ends first."""
        while not self._are_there(keys, min(_SLICE_S, deadline.remaining_s())):
            self._refuse_if_closed()
            if self.verdict(number) is not None:
                return False
            if deadline.has_passed():
                raise self._timed_out(number, deadline)
            self._answer()
            self._tell_wait(number, deadline)
        return True

    def _tell_wait(self, number: int, deadline: Deadline) -> None:
        """Tell people, once a round, whom this node waits for."""
        if self._told == number or self.is_leaving:
            return
        self._told = number
        missing = self._missing(number) if self._rank == 0 or self._world_size <= _NAMED_MAX else []
        others = "rank " + _enumerate(missing) if missing else "node 0"
        emit(
            "rendezvous.wait",
            f"node {self._rank} of {self._world_size} waits for {others} at {self._where}, "
            f"{deadline.remaining_s():.0f} s more; each node has a --node-rank of its own",
            run_id=self._run_id,
            round=number,
            rank=self._rank,
        )

    def _lives(self, owner: bytes) -> bool:
        """Tell whether the agent that has this node's rank lives."""
        known = _decode(owner, _Agent)
        if known.host == self._agent.host and _is_gone(known.pid):
            return False
        self._call(lambda: self.store.set(f"{self._prefix}challenge/{self._rank}", self._me))
        return self._are_there([f"alive/{self._rank}/{self._agent.id}"], _ANSWER_S)

    def _answer(self) -> None:
        """Answer who asks whether this node lives; looks at most once in ``_SLICE_S``."""
        now = SYSTEM_CLOCK.now()
        if now < self._answers_at:
            return
        self._answers_at = now + _SLICE_S
        challenger = self._look(f"challenge/{self._rank}")
        if challenger is None or challenger == self._challenger or self._look(f"owner/{self._rank}") != self._me:
            return
        self._challenger = challenger
        self._call(lambda: self.store.set(f"{self._prefix}alive/{self._rank}/{_decode(challenger, _Agent).id}", b"1"))
        emit(
            "rendezvous.refused",
            f"{self._describe(challenger)} asked for rank {self._rank} of run {self._run_id!r}, which this node has: "
            f"{_HINT}",
            run_id=self._run_id,
            rank=self._rank,
        )

    def _missing(self, number: int) -> list[int]:
        return [rank for rank, key in enumerate(self._claims(number)) if self._look(key) is None]

    def _claims(self, number: int) -> list[str]:
        return [f"round/{number}/node/{rank}" for rank in range(self._world_size)]

    def _timed_out(self, number: int, deadline: Deadline) -> RendezvousTimeoutError:
        missing = self._missing(number)
        arrived = self._world_size - len(missing)
        why = f"missing are the nodes of rank {_enumerate(missing)}" if missing else "node 0 did not open it"
        return RendezvousTimeoutError(
            f"{arrived} of {self._world_size} nodes came to round {number} of run {self._run_id!r} at {self._where} "
            f"within {deadline.waited_s():.1f} s; {why}",
            waited_s=deadline.waited_s(),
            arrived=arrived,
            expected=self._world_size,
        )

    def _refuse_if_closed(self) -> None:
        closing = self.closing()
        if closing is not None:
            raise RendezvousClosedError(f"run {self._run_id!r} is closed: {closing.why}", outcome=closing.outcome)

    def _describe(self, agent: bytes | None) -> str:
        if agent is None:
            return "nobody"
        known = _decode(agent, _Agent)
        return f"the agent with pid {known.pid} on {known.host}"

    def _epoch(self) -> int:
        return self._call(lambda: self.store.add(f"{self._prefix}epoch", 0))

    def _verdict_at(self, key: str) -> Verdict | None:
        found = self._look(key)
        return None if found is None else _decode(found, Verdict)

    def _create(self, key: str, value: bytes) -> bytes:
        """Set a key that nobody has set; give the value that stands."""
        return as_bytes(self._call(lambda: self.store.compare_set(self._prefix + key, b"", value)))

    def _look(self, key: str) -> bytes | None:
        """Give a value without waiting: without sessions, a swap of what is not there says what is."""
        if has_sessions(self.store):
            entry = self._call(lambda: self.store.read(self._prefix + key))
            return None if entry is None else entry.value
        found = as_bytes(self._call(lambda: self.store.compare_set(self._prefix + key, _NOBODYS, _NOBODYS)))
        return None if found == _NOBODYS else found

    def _are_there(self, keys: list[str], timeout_s: float) -> bool:
        names = [self._prefix + key for key in keys]
        try:
            self._call(lambda: self.store.wait(names, timeout_s))
        except RendezvousConnectionError as error:
            if isinstance(error.__cause__, StoreTimeoutError):
                return False
            raise
        return True

    def _call(self, call: Callable[[], Result]) -> Result:
        try:
            return call()
        except (OSError, RuntimeError) as error:
            raise RendezvousConnectionError(
                f"the store of run {self._run_id!r} at {self._where} cannot be used: {error}"
            ) from error


def _enumerate(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks[:_NAMED_MAX])) + (", …" if len(ranks) > _NAMED_MAX else "")


def _is_gone(pid: int) -> bool:
    """Tell whether an earlier agent of this machine is gone; one of this very process has made room for the next."""
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is there, and not ours
        return False
    return False


def _decode(value: bytes, kind: type[Result]) -> Result:
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RendezvousStateError(f"the store holds something else than a {kind.__name__}: {error}") from error
