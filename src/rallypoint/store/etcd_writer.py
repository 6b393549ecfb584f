"""Writes that count once, whatever becomes of connections and members on their way.

Rules:

- A write is one transaction. Besides what it is for, it notes its number at a place of its writer's own, the mark; and
  it is done only if the mark still has the number before.
- So a copy of it that comes late does nothing. Whoever does not know what became of a write sends the same bytes again:
  either they do it, or the mark tells that it is done, and its revision when.
- A write whose own comparisons do not hold is not done. If a copy of it is still on its way, the mark is moved first,
  so that it cannot be done any more.
- Marks are under a lease, so that those of the dead go by themselves. A mark that has gone (this process stood still
  for longer than the lease lives) tells nothing about a write that was under way; the caller is told so.

A writer writes one thing at a time; each thread takes one that is free, so there are as many as there were threads at
the same time.

::

    mark = 7   [if mark == 7: set key; mark = 8]  ~~ lost ~~>  done or not?
               [if mark == 7: set key; mark = 8]  ---------->  mark is 8: it was
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from rallypoint.clock import Deadline
from rallypoint.errors import SessionLostError
from rallypoint.store import etcd_wire as wire
from rallypoint.store.etcd_cluster import Cluster, Refused
from rallypoint.store.etcd_names import Names
from rallypoint.store.etcd_refusal import NO_SUCH_LEASE, as_refusal, is_about

__all__ = ["OPERATIONS_MAX", "Outcome", "Writers"]

OPERATIONS_MAX: Final = 127
"""Operations of one write: etcd's default of 128 for a transaction, and one is the mark."""


class Outcome(NamedTuple):
    """What became of a write.

    Attributes:
        is_done: its comparisons held.
        revision: of the write if it is done, else etcd's when it was refused.
        answers: what its operations were answered; ``None`` if it is done and the answer was lost.
    """

    is_done: bool
    revision: int
    answers: list[bytes] | None


class _Work(NamedTuple):
    """What a write is: comparisons, what is done if they hold, what is read otherwise, whether a lease is named."""

    compare: Sequence[bytes]
    success: Sequence[bytes]
    failure: Sequence[bytes]
    has_lease: bool


class _Writer:
    """One writer: its mark, and the number that stands there as far as we know; 0 for none."""

    __slots__ = ("number", "place", "who")

    def __init__(self, who: bytes, place: bytes) -> None:
        self.who = who
        self.place = place
        self.number = 0


class Writers:
    """All writers of one store.

    Args:
        cluster: whom to ask.
        names: where marks are.
        who: this store's own name, different from all others'.
        lease: gives the number of the lease of marks; told a number, another one if that is it and has ended.

    Threads: any.
    """

    def __init__(self, cluster: Cluster, names: Names, who: bytes, lease: Callable[[int, Deadline], int]) -> None:
        self._cluster = cluster
        self._names = names
        self._who = who
        self._lease = lease
        self._lock = threading.RLock()
        self._free: list[_Writer] = []
        self._count = 0

    def write(
        self,
        compare: Sequence[bytes],
        success: Sequence[bytes],
        failure: Sequence[bytes] = (),
        *,
        deadline: Deadline,
        has_lease: bool = False,
    ) -> Outcome:
        """Do operations if all comparisons hold, else others, which only read.

        Args:
            compare: what must be so.
            success: what is done then.
            failure: what is read otherwise.
            deadline: until when it is tried.
            has_lease: an operation names a lease; that it has ended is the caller's affair.

        Raises:
            Refused: etcd refuses the write, and no copy of it was or will be done.
            DistError: etcd refuses, by the table of ``etcd_refusal``.
            UnreachableError: no member answered in time; whether the write was done is not known.
            SessionLostError: it is not known whether it was done, and will not be.

        Cost: one round trip, and a commit of etcd's.
        """
        with self._lock:
            writer = self._free.pop() if self._free else self._new()
        outcome = self._write(writer, _Work(compare, success, failure, has_lease), deadline)
        with self._lock:  # not after an error: nobody knows what its mark says
            self._free.append(writer)
        return outcome

    @property
    def session(self) -> str:
        """The name of this store, different from all others'."""
        return self._who.decode()

    def unique(self) -> bytes:
        """Give a name that nobody else has."""
        with self._lock:
            self._count += 1
            return b"%s.%d" % (self._who, self._count)

    def _new(self) -> _Writer:
        self._count += 1
        who = b"%s.%d" % (self._who, self._count)
        return _Writer(who, self._names.writer(who))

    def _write(self, writer: _Writer, work: _Work, deadline: Deadline) -> Outcome:
        lease = self._lease(0, deadline)
        while True:
            note = b"%d" % (writer.number + 1)
            request = wire.txn(
                [self._is_as_it_was(writer), *work.compare],
                [*work.success, wire.op_put(wire.put(writer.place, note, lease=lease))],
                [wire.op_range(wire.range_of(writer.place)), *work.failure],
            )
            try:
                answer = self._cluster.request("KV/Txn", request, deadline)
            except Refused as refused:
                outcome = self._done_before(writer, refused.was_unsure, deadline)
                if outcome is not None:
                    return outcome
                if is_about(refused.error, NO_SUCH_LEASE):
                    fresh = self._lease(lease, deadline)
                    if fresh != lease:
                        lease = fresh
                        continue
                    if work.has_lease:
                        raise
                raise as_refusal(refused.error, refused.endpoint, refused.size) from refused.error
            result = wire.read_txn(answer.data)
            if result.is_done:
                writer.number += 1
                return Outcome(True, result.revision, result.answers[:-1])
            found = wire.read_range(result.answers[0]).entries
            if found and found[0].value == note:
                writer.number += 1
                return Outcome(True, found[0].revision, None)
            if not self._is_known(writer, found, answer.was_unsure):
                continue
            if answer.was_unsure:
                outcome = self._done_before(writer, True, deadline)
                if outcome is not None:
                    return outcome
            return Outcome(False, result.revision, result.answers[1:])

    def _is_as_it_was(self, writer: _Writer) -> bytes:
        if writer.number:
            return wire.has_value(writer.place, b"%d" % writer.number)
        return wire.is_absent(writer.place)

    def _is_known(self, writer: _Writer, found: Sequence[wire.KeyValue], was_unsure: bool) -> bool:
        """Tell whether the mark is what we took it for; if not, learn what it is."""
        number = int(found[0].value) if found else 0
        if number == writer.number:
            return True
        if was_unsure:
            raise SessionLostError(
                "it is not known whether a write was done: the lease that would tell has ended, because etcd did not "
                "hear of this process for too long",
                endpoint=self._cluster.endpoint,
            )
        writer.number = number
        return False

    def _done_before(self, writer: _Writer, was_unsure: bool, deadline: Deadline) -> Outcome | None:
        """Find out whether an earlier copy of a write was done, and see to it that none will be."""
        if not was_unsure:
            return None
        note = b"%d" % (writer.number + 1)
        fence = b"%d" % (writer.number + 2)
        mark = wire.op_range(wire.range_of(writer.place))
        while True:
            lease = self._lease(0, deadline)
            move = wire.op_put(wire.put(writer.place, fence, lease=lease))
            request = wire.txn([self._is_as_it_was(writer)], [move], [mark])
            try:
                result = wire.read_txn(self._cluster.request("KV/Txn", request, deadline).data)
            except Refused as refused:
                if is_about(refused.error, NO_SUCH_LEASE) and self._lease(lease, deadline) != lease:
                    continue
                raise as_refusal(refused.error, refused.endpoint, refused.size) from refused.error
            if result.is_done:
                writer.number += 2
                return None
            found = wire.read_range(result.answers[0]).entries
            if found and found[0].value == note:
                writer.number += 1
                return Outcome(True, found[0].revision, None)
            if found and found[0].value == fence:
                writer.number += 2
                return None
            self._is_known(writer, found, True)
