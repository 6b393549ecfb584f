"""Barriers and exchanges on etcd: each member makes one write, the last one more, and all hear of that.

What there is of a group, behind ``<prefix>g/<kind><length>:<name>/``:

==============  ============  =======================================================================================
``n``                         how many members this company has
``a/<rank>``    session       the arrival: its session, its label, its value in an exchange
``p/<rank>``    session       the member has been here, and lives: its session and its label
``l/<rank>``    session       the member gave up, and nobody has arrived since
``s``                         generations that have met, and etcd's revision at which the last of them was complete
==============  ============  =======================================================================================

Rules:

- An arrival is one transaction, whose answer says how many arrivals there are with it. Who sees that it is the last one
  writes ``s`` and removes all arrivals; the others watch ``s``. The values of an exchange are read as they were at the
  revision in ``s``.
- Whoever gives up removes his arrival and writes ``s`` anew as it is: either that is done or the meeting, never both.
- ``p`` stands under the lease of its store's session. One that goes while somebody waits fails the meeting for all that
  do: a member is gone. One that was gone before a new session took a place in the group counts no more.

Cost: one request, the last member two, in exchanges one more; the first use of a name by a store some more.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, Final, NamedTuple

from rallypoint.clock import Deadline
from rallypoint.errors import BarrierBrokenError, BarrierTimeoutError, LeaseLostError, RefusedError
from rallypoint.store import etcd_wire as wire
from rallypoint.store.base import as_timeout_s, decode_key
from rallypoint.store.etcd_ground import EtcdGround
from rallypoint.store.etcd_names import Span
from rallypoint.store.etcd_watch import Arrivals
from rallypoint.store.etcd_writer import Outcome
from rallypoint.types import Member, Text, Timeout, as_bytes

__all__ = ["EtcdMeetings"]

MEET: Final = b"m"
EXCHANGE: Final = b"x"
_KINDS: Final = {MEET: "meet", EXCHANGE: "exchange"}


class _State(NamedTuple):
    """What ``s`` says: how many generations have met, when the last was complete, and when that was written."""

    generation: int
    complete_at: int
    revision: int


class _News(NamedTuple):
    """Since when the news of a group are wanted: of its state, and of members that go."""

    since: int
    gone_since: int
    is_missed: bool = False


class _Company(NamedTuple):
    """Who meets: the places of a group, and one member of it."""

    kind: bytes
    name: bytes
    base: bytes
    rank: int
    size: int
    session: str
    label: str
    head: bytes  # of this very arrival

    def place(self, what: bytes) -> bytes:
        """Give the place of the member's own entry."""
        return self.base + what + b"/%08d" % self.rank

    def span(self, what: bytes) -> Span:
        """Give the places of all members' entries."""
        start = self.base + what + b"/"
        return Span(start, wire.end_of_prefix(start))

    @property
    def state(self) -> bytes:
        """The place of ``s``."""
        return self.base + b"s"


class EtcdMeetings(EtcdGround):
    """The barriers and exchanges of an etcd store."""

    def meet(self, name: Text, rank: int, world_size: int, *, label: str = "", timeout: Timeout | None = None) -> int:
        """Wait until all members have come; see :meth:`Store.meet`."""
        return self._gather(self._company(MEET, name, rank, world_size, label), b"", timeout).generation

    def exchange(
        self, name: Text, rank: int, world_size: int, value: Text, *, label: str = "", timeout: Timeout | None = None
    ) -> list[bytes]:
        """Give one value, and get every member's; see :meth:`Store.exchange`. Only each alone has a limit."""
        company = self._company(EXCHANGE, name, rank, world_size, label)
        met = self._gather(company, as_bytes(value), timeout)
        answer = self._range(wire.range_of(*company.span(b"a"), revision=met.complete_at))
        return [entry.value.partition(b"\n")[2] for entry in answer.entries]

    def _company(self, kind: bytes, name: Text, rank: int, size: int, label: str) -> _Company:
        text = as_bytes(name, "name")
        for what, number in (("rank", rank), ("world_size", size)):
            if not isinstance(number, int):
                raise TypeError(f"{what} must be an int, not {type(number).__name__}")
        if not 0 <= rank < size <= 99_999_999:
            raise RefusedError(
                f"a rank is from 0 to below the world size, got rank {rank} of {size}",
                reason="group_mismatch",
                endpoint=self._cluster.endpoint,
            )
        session = self._writers.session
        head = json.dumps([session, label, self._writers.unique().decode()], ensure_ascii=False).encode()
        return _Company(kind, text, self._names.group(kind, text), rank, size, session, label, head)

    def _gather(self, company: _Company, value: bytes, timeout: Timeout | None) -> _State:
        """Arrive, and wait for all others; give the state in which all have met."""
        deadline = Deadline(self._timeout_s if timeout is None else as_timeout_s(timeout))
        state, count, looked_at = self._arrive(company, value, deadline)
        news = _News(looked_at, state.revision or looked_at)
        while True:
            met = self._complete(company, state, looked_at, deadline) if count == company.size else None
            met = met or self._await_others(company, state, news, deadline)
            if met is not None:
                return met
            count, now, looked_at = self._look_at(company, deadline)
            if now.generation > state.generation:
                return now
            state = now
            news = _News(looked_at, looked_at if news.is_missed else news.gone_since, news.is_missed)

    # --- arriving ----------------------------------------------------------------------------------------

    def _arrive(self, company: _Company, value: bytes, deadline: Deadline) -> tuple[_State, int, int]:
        """Write the arrival; give the state, how many have arrived, and the revision of that."""
        grace = self._grace(deadline)
        size_place, size_text = company.base + b"n", b"%d" % company.size
        who = company.head
        count = wire.op_range(wire.range_of(*company.span(b"a"), is_count=True))
        same_size = wire.has_value(size_place, size_text)
        compare: list[bytes] = [same_size]
        more: list[bytes] = []
        stale = 0
        while True:
            lease = self._leases.session(stale, grace)
            success = [
                wire.op_range(wire.range_of(company.place(b"p"))),
                *more,
                wire.op_put(wire.put(company.place(b"a"), who + b"\n" + value, lease=lease)),
                wire.op_put(wire.put(company.place(b"p"), who, lease=lease)),
                wire.op_delete(wire.delete(*company.span(b"l"))),
                count,
                wire.op_range(wire.range_of(company.state)),
            ]
            failure = [wire.op_range(wire.range_of(size_place)), count]
            try:
                outcome = self._write(success, compare=compare, failure=failure, lease=lease, deadline=grace)
            except LeaseLostError:
                if stale == lease:
                    raise
                stale = lease  # this process stood still for longer than its session lasts
                continue
            if outcome.is_done:
                return self._enter(company, outcome, grace)
            sizes, there = (wire.read_range(one) for one in outcome.answers or [])
            if there.total and sizes.entries and sizes.entries[0].value != size_text:
                raise RefusedError(
                    f"{_KINDS[company.kind]} {decode_key(company.name)!r} is of {decode_key(sizes.entries[0].value)} "
                    f"members, and rank {company.rank} takes it to be of {company.size}",
                    reason="group_mismatch",
                    endpoint=self._cluster.endpoint,
                )
            seen = sizes.entries[0].revision if sizes.entries else 0
            compare, more = [same_size], []
            if not sizes.entries or sizes.entries[0].value != size_text:  # a new company begins
                compare = [wire.has_revision(size_place, seen), wire.is_absent(*company.span(b"a"))]
                own, everybody = company.place(b"p"), company.span(b"p")
                others = [Span(everybody.start, own), Span(own + b"\0", everybody.end)]  # etcd wants them apart
                more = [wire.op_delete(wire.delete(*span)) for span in others]
                more.append(wire.op_put(wire.put(size_place, size_text)))

    def _enter(self, company: _Company, outcome: Outcome, deadline: Deadline) -> tuple[_State, int, int]:
        """Take in what an arrival was answered; make those forgotten who were gone before a new session came."""
        if outcome.answers is None:
            count, state, _ = self._look_at(company, deadline, at=outcome.revision)
            return state, count, outcome.revision
        before = wire.read_range(outcome.answers[0]).entries
        was_here = bool(before) and _who(before[0].value)[0] == company.session
        count = wire.read_range(outcome.answers[-2]).total
        state = _state(wire.read_range(outcome.answers[-1]))
        if not was_here and state.revision:
            state = self._touch(company, state, deadline)
        return state, count, outcome.revision

    def _touch(self, company: _Company, state: _State, deadline: Deadline) -> _State:
        """Write the state anew as it is: those who are gone by now count no more."""
        text = b"%d %d" % (state.generation, state.complete_at)
        outcome = self._write(
            [wire.op_put(wire.put(company.state, text))],
            compare=[wire.has_revision(company.state, state.revision)],
            failure=[wire.op_range(wire.range_of(company.state))],
            deadline=deadline,
        )
        if outcome.is_done:
            return state._replace(revision=outcome.revision)
        found = _state(wire.read_range((outcome.answers or [b""])[0]))
        return state if found.generation > state.generation else found  # who waits sees that it has met

    def _complete(self, company: _Company, state: _State, complete_at: int, deadline: Deadline) -> _State | None:
        """Let all pass; ``None`` if the state has changed meanwhile."""
        new = _State(state.generation + 1, complete_at, 0)
        outcome = self._write(
            [
                wire.op_put(wire.put(company.state, b"%d %d" % new[:2])),
                wire.op_delete(wire.delete(*company.span(b"a"))),
            ],
            compare=[wire.has_revision(company.state, state.revision)],
            failure=[wire.op_range(wire.range_of(company.state))],
            deadline=self._grace(deadline),
        )
        if outcome.is_done:
            return new
        found = _state(wire.read_range((outcome.answers or [b""])[0]))
        return found if found.generation > state.generation else None

    # --- waiting -----------------------------------------------------------------------------------------

    def _look_at(self, company: _Company, deadline: Deadline, *, at: int = 0) -> tuple[int, _State, int]:
        """Give how many have arrived, the state, and etcd's revision; as of now, or of a revision."""
        requests = [
            wire.range_of(*company.span(b"a"), is_count=True, revision=at),
            wire.range_of(company.state, revision=at),
        ]
        (arrivals, state), revision = self._read_all(requests, self._grace(deadline))
        return arrivals.total, _state(state), at or revision

    def _await_others(self, company: _Company, state: _State, news: _News, deadline: Deadline) -> _State | None:
        """Wait for the state to change; ``None`` if a look is due.

        Raises:
            BarrierTimeoutError: the time is up.
            BarrierBrokenError: a member is gone.
            RefusedError: another member has the same rank.
        """
        with Arrivals(self._hub, needed=1) as arrivals:
            changed = arrivals.expect(news.since + 1, Span(company.state))
            mine = arrivals.expect(news.since + 1, Span(company.place(b"a")))
            gone = arrivals.expect(
                news.gone_since + 1, company.span(b"p"), is_deaf_to_deletions=False, is_deaf_to_writes=True
            )
            has_news = arrivals.wait(deadline)
        if changed.entry is not None:
            found = _parse(changed.entry)
            return found if found.generation > state.generation else None
        if mine.entry is not None and not mine.entry.value.startswith(company.head):
            raise RefusedError(
                f"rank {company.rank} of {_KINDS[company.kind]} {decode_key(company.name)!r} was taken by another "
                "member with the same rank",
                reason="taken_over",
                endpoint=self._cluster.endpoint,
            )
        lost = self._gone(company, news, deadline) if gone.entry is not None else []
        if not lost and has_news and not deadline.has_passed():
            return None
        met = self._give_up(company, state, deadline)
        if met is None:
            raise self._broken(company, lost, deadline) if lost else self._late(company, deadline)
        return met

    def _gone(self, company: _Company, news: _News, deadline: Deadline) -> list[Member]:
        """Give the members that were here and are not any more."""
        span, grace = company.span(b"p"), self._grace(deadline)
        now = {entry.key for entry in self._range(wire.range_of(*span), grace).entries}
        before: dict[bytes, wire.KeyValue] = {}
        for revision in {news.gone_since, news.since}:
            with contextlib.suppress(RefusedError):  # compacted: nobody remembers
                answer = self._range(wire.range_of(*span, revision=revision), grace)
                before.update((entry.key, entry) for entry in answer.entries)
        return [_member(entry) for key, entry in sorted(before.items()) if key not in now]

    def _give_up(self, company: _Company, state: _State, deadline: Deadline) -> _State | None:
        """Take the arrival back; give the state if all have met meanwhile."""
        grace = self._grace(deadline)
        while True:
            lease = self._leases.session(0, grace)
            leave = [
                wire.op_delete(wire.delete(company.place(b"a"))),
                wire.op_put(wire.put(company.place(b"l"), b"", lease=lease)),
                wire.op_put(wire.put(company.state, b"%d %d" % (state.generation, state.complete_at))),
            ]
            try:
                outcome = self._write(
                    leave,
                    compare=[wire.has_revision(company.state, state.revision)],
                    failure=[wire.op_range(wire.range_of(company.state))],
                    lease=lease,
                    deadline=grace,
                )
            except LeaseLostError:
                return None  # the arrival has gone with the lease
            if outcome.is_done:
                return None
            found = _state(wire.read_range((outcome.answers or [b""])[0]))
            if found.generation > state.generation:
                return found
            state = found

    def _broken(self, company: _Company, lost: list[Member], deadline: Deadline) -> BarrierBrokenError:
        names = [str(member) for member in lost]
        return BarrierBrokenError(
            f"{_KINDS[company.kind]} {decode_key(company.name)!r} cannot become complete: {', '.join(names)} of "
            f"{company.size} members {'is' if len(names) == 1 else 'are'} gone (waited {deadline.waited_s():.3f} s on "
            f"{self._cluster.endpoint})",
            gone=names,
            gone_members=lost,
            expected=company.size,
            waited_s=deadline.waited_s(),
            endpoint=self._cluster.endpoint,
        )

    def _late(self, company: _Company, deadline: Deadline) -> BarrierTimeoutError:
        spans = [wire.range_of(*company.span(what)) for what in (b"a", b"l", b"p")]
        (arrived, left, known), _ = self._read_all(spans, self._grace(deadline))
        here = {_rank(entry) for entry in (*arrived.entries, *left.entries)} | {company.rank}
        labels = {_rank(entry): _member(entry) for entry in known.entries}
        missing = [labels.get(rank, Member(rank, "")) for rank in range(company.size) if rank not in here]
        waiting = [labels.get(rank, Member(rank, "")) for rank in sorted(here - {company.rank})]
        names = [str(member) for member in missing]
        count = company.size - len(missing)
        return BarrierTimeoutError(
            f"{_KINDS[company.kind]} timeout after {int(deadline.timeout_s * 1000)}ms, name: "
            f"{decode_key(company.name)} ({count} of {company.size} came, missing: {', '.join(names)}; waited "
            f"{deadline.waited_s():.3f} s on {self._cluster.endpoint})",
            missing=names,
            missing_members=missing,
            waiting=waiting,
            arrived=count,
            expected=company.size,
            waited_s=deadline.waited_s(),
            endpoint=self._cluster.endpoint,
        )


def _parse(entry: wire.KeyValue) -> _State:
    generation, _, complete_at = entry.value.partition(b" ")
    return _State(int(generation), int(complete_at), entry.revision)


def _state(answer: wire.Ranged) -> _State:
    return _parse(answer.entries[0]) if answer.entries else _State(0, 0, 0)


def _who(value: bytes) -> tuple[str, str]:
    """Give the session and the label of a member's entry."""
    try:
        told: Any = json.loads(value.partition(b"\n")[0])
        return str(told[0]), str(told[1])
    except (ValueError, LookupError, TypeError):
        return "", ""


def _rank(entry: wire.KeyValue) -> int:
    return int(entry.key.rpartition(b"/")[2])


def _member(entry: wire.KeyValue) -> Member:
    return Member(_rank(entry), _who(entry.value)[1])
