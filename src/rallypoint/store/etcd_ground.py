"""What all parts of an etcd store stand on: reading, writing and waiting for keys below the store's prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rallypoint.clock import Deadline
from rallypoint.errors import LeaseLostError, RemoteProtocolError, StoreTimeoutError
from rallypoint.store import etcd_wire as wire
from rallypoint.store.base import Store, wait_timed_out
from rallypoint.store.etcd_cluster import Cluster, Refused
from rallypoint.store.etcd_hub import Hub
from rallypoint.store.etcd_leases import Leases, lease_lost
from rallypoint.store.etcd_names import Names, Span
from rallypoint.store.etcd_refusal import as_refusal
from rallypoint.store.etcd_watch import Arrivals
from rallypoint.store.etcd_writer import OPERATIONS_MAX, Outcome, Writers

__all__ = ["CALL_MIN_S", "READS_MAX", "EtcdGround"]

CALL_MIN_S: Final = 5.0
"""What a call that waits for nothing may take at least, however short the store's timeout is, in seconds."""

NEST_WIDTH: Final = 64
"""Operations of a transaction inside another one, and how many of those there are at most: etcd counts both together
against its limit of 128."""

READS_MAX: Final = NEST_WIDTH * NEST_WIDTH
"""Keys that are read with one request."""


class EtcdGround(Store):
    """The part of an etcd store that the others call."""

    _cluster: Cluster
    _names: Names
    _leases: Leases
    _writers: Writers
    _hub: Hub

    def _patience(self) -> Deadline:
        """Give the deadline of a call that waits for nothing but etcd."""
        return Deadline(max(self._timeout_s, CALL_MIN_S))

    # --- reading -----------------------------------------------------------------------------------------

    def _range(self, request: bytes, deadline: Deadline | None = None) -> wire.Ranged:
        return wire.read_range(self._cluster.ask("KV/Range", request, deadline or self._patience()))

    def _read_all(self, requests: Sequence[bytes], deadline: Deadline) -> tuple[list[wire.Ranged], int]:
        """Read several ranges as they are at one moment; give the answers and etcd's revision then.

        Only the first ``READS_MAX`` of them are sure to be of one moment.
        """
        if len(requests) == 1:
            answer = self._range(requests[0], deadline)
            return [answer], answer.revision
        answers: list[wire.Ranged] = []
        revision = 0
        for at in range(0, len(requests), READS_MAX):
            operations = [wire.op_range(request) for request in requests[at : at + READS_MAX]]
            is_nested = len(operations) > OPERATIONS_MAX
            if is_nested:
                operations = wire.nested(operations, NEST_WIDTH)
            result = wire.read_txn(self._cluster.ask("KV/Txn", wire.txn((), operations), deadline))
            revision = revision or result.revision
            replies = result.answers
            if is_nested:
                replies = [one for reply in replies for one in wire.read_txn(reply).answers]
            answers += [wire.read_range(reply) for reply in replies]
        if len(answers) != len(requests):
            raise RemoteProtocolError(
                f"etcd answered {len(answers)} of {len(requests)} reads", endpoint=self._cluster.endpoint
            )
        return answers, revision

    def _entry(self, place: bytes, deadline: Deadline | None = None) -> wire.KeyValue | None:
        entries = self._range(wire.range_of(place), deadline).entries
        return entries[0] if entries else None

    # --- writing -----------------------------------------------------------------------------------------

    def _write(
        self,
        success: Sequence[bytes],
        *,
        compare: Sequence[bytes] = (),
        failure: Sequence[bytes] = (),
        lease: int = 0,
        deadline: Deadline | None = None,
    ) -> Outcome:
        """Write, once; see ``Writers.write``.

        Raises:
            LeaseLostError: ``lease``, which an operation names, has ended.
        """
        until = deadline or self._patience()
        try:
            return self._writers.write(compare, success, failure, deadline=until, has_lease=lease != 0)
        except Refused as refused:
            if lease:
                raise lease_lost(lease) from refused.error
            raise as_refusal(refused.error, refused.endpoint, refused.size) from refused.error

    def _deleted(self, outcome: Outcome, span: Span, deadline: Deadline) -> int:
        """Give how many keys a deletion has removed; if its answer was lost, by what was there before."""
        if outcome.answers is not None:
            return wire.numbers_of(outcome.answers[0]).get(2, 0)
        before = outcome.revision - 1
        return self._range(wire.range_of(*span, revision=before, is_count=True), deadline).total

    def _check_lease(self, lease: int, deadline: Deadline) -> None:
        """Refuse to go on with a lease that has ended."""
        if lease and not self._leases.is_alive(lease, deadline):
            raise LeaseLostError(f"there is no lease {lease} (any more)", lease=lease)

    # --- waiting -----------------------------------------------------------------------------------------

    def _look(self, names: Sequence[bytes], deadline: Deadline, *, with_queues: bool) -> tuple[list[bytes], int]:
        """Give the names that are not present, and etcd's revision then."""
        unique = list(dict.fromkeys(names))
        spans = [self._presence(name, with_queues) for name in unique]
        requests = [wire.range_of(*span, is_count=True) for group in spans for span in group]
        answers, revision = self._read_all(requests, deadline)
        width = 2 if with_queues else 1
        totals = [sum(one.total for one in answers[at : at + width]) for at in range(0, len(answers), width)]
        return [name for name, total in zip(unique, totals, strict=True) if not total], revision

    def _presence(self, name: bytes, with_queues: bool) -> list[Span]:
        key = Span(self._names.key(name))
        return [key, self._names.queue(name)] if with_queues else [key]

    def _await(self, names: Sequence[bytes], deadline: Deadline, *, with_queues: bool) -> None:
        """Wait until all names are present, at one time.

        Raises:
            StoreTimeoutError: some were not; it names them.

        Cost: one request if they are; else a message for each that is missing, and a request when they have come.
        """
        if not names:
            return
        missing, revision = self._look(names, self._grace(deadline), with_queues=with_queues)
        while missing:
            if deadline.has_passed():
                raise self._expired(names, missing, deadline)
            with Arrivals(self._hub) as arrivals:
                for name in missing:
                    arrivals.expect(revision + 1, *self._presence(name, with_queues))
                has_come = arrivals.wait(deadline)
            if has_come and not arrivals.must_look and len(names) == 1:
                return
            missing, revision = self._look(names, self._grace(deadline), with_queues=with_queues)

    def _first(self, name: bytes, span: Span, deadline: Deadline) -> wire.KeyValue:
        """Give the first key in a range, waiting until there is one.

        Args:
            name: what is waited for, as the caller named it.
            span: the range.
            deadline: how long; a passed one looks once.

        Raises:
            StoreTimeoutError: nothing came.

        Cost: one request if it is there; else a message, too.
        """
        while True:
            answer = self._range(wire.range_of(*span, limit=1), self._grace(deadline))
            if answer.entries:
                return answer.entries[0]
            if deadline.has_passed():
                raise self._expired([name], [name], deadline)
            with Arrivals(self._hub) as arrivals:
                expected = arrivals.expect(answer.revision + 1, span)
                arrivals.wait(deadline)
                if expected.entry is not None:
                    return expected.entry

    def _expired(self, names: Sequence[bytes], missing: Sequence[bytes], deadline: Deadline) -> StoreTimeoutError:
        return wait_timed_out(
            names,
            missing,
            timeout_s=deadline.timeout_s,
            waited_s=deadline.waited_s(),
            endpoint=self._cluster.endpoint,
        )

    def _grace(self, deadline: Deadline) -> Deadline:
        """Give the deadline of one look: that of the wait, but never too short for a round trip."""
        return deadline if deadline.remaining_s() > CALL_MIN_S else Deadline(CALL_MIN_S)
