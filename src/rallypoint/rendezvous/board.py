"""The keys through which the nodes of a run and its coordinator talk, over any store that keeps sessions.

Below ``rallypoint.rendezvous.<run id>/`` stand::

    nodes/<node id>         a node's Report    under the node's lease, which ends when the node is silent
    nodes/<node id>/here    its mark           as long as the node's session lasts
    first                   who came first     as long as its session lasts; need not wait before it takes the office
    orders/<node id>        its Order          under the office lease, so that nobody but who is in office can write it
    coordinator             who coordinates    under the office lease; taken by creating it
    coordinator/here        its mark           as long as the coordinator's session lasts
    state                   the minutes        swapped by revision, so that who was deposed cannot write them either
    progress                a Notice           under the office lease
    rounds/..., dropped     what the agents, and the workers, of a round share: ``key_spaces``

A lease is a right, and ends by time alone; it catches nodes that are frozen, or behind a broken network. A mark says
that its process is connected, and goes soon after a process was killed. A node is there while both of its keys are; a
candidate that sees the mark of who is in office go ends the lease of the office.

The *term* of a coordinator is the revision at which it took ``coordinator``: a store numbers all its changes, so that
every coordinator's term is above those of its predecessors.

What this file does not know: what any of the values means. Each method is one call, or as many as it says, and takes
``call_s`` at most, and then the store's own grace for an answer that is owed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Final, NamedTuple

import msgspec

from rallypoint.errors import LeaseLostError, RefusedError
from rallypoint.rendezvous.key_spaces import CALL_S, KeySpaces, root_of
from rallypoint.store.base import Store
from rallypoint.store.bootstrap import store_timeout
from rallypoint.store.prefix import PrefixStore
from rallypoint.store.session_calls import ABSENT, ANY_REVISION, Watch

__all__ = ["Board", "Holder", "Minutes", "Place", "Posted", "is_mark", "node_of"]

HERE: Final = "/here"
NODES: Final = "nodes/"
ORDERS: Final = "orders/"
COORDINATOR: Final = "coordinator"
FIRST: Final = "first"
STATE: Final = "state"
PROGRESS: Final = "progress"

HEX_DIGITS: Final = "0123456789abcdef"
"""What a node's id may begin with."""

EVICTION_S: Final = 1.0
"""The lease under which a key is put to remove it outlives a candidate that dies doing so by this time, in seconds."""


class Holder(msgspec.Struct, frozen=True):
    """Who coordinates.

    Attributes:
        node: the id of its node.
        label: how people call it.
        lease: the office lease; 0 before there is one.
    """

    node: Annotated[str, msgspec.Meta(max_length=255)]
    label: Annotated[str, msgspec.Meta(max_length=512)]
    lease: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0


class Posted(NamedTuple):
    """A node that is connected, as it was found.

    Attributes:
        node: its id.
        data: its report; ``None`` if there is none.
        revision: the number of the change that wrote the last of report and mark.
    """

    node: str
    data: bytes | None
    revision: int


class Place(NamedTuple):
    """How a node stands.

    Attributes:
        is_marked: its mark is there.
        is_led: somebody is in office, and its mark is there.
        progress: what the coordinator says of how far it is; empty if it says nothing.
    """

    is_marked: bool
    is_led: bool
    progress: bytes


class Minutes(NamedTuple):
    """What a coordinator has recorded.

    Attributes:
        data: its minutes; ``None`` if nobody has recorded anything.
        revision: of the key, ``ABSENT`` if there is none.
    """

    data: bytes | None
    revision: int


class Board:
    """The keys of one run.

    Args:
        store: with sessions.
        run_id: the name of the run.
        call_s: how long one call may take, in seconds.

    Attributes:
        spaces: what agents and workers of a round share.

    Raises of every method: what the store raises.
    """

    def __init__(self, store: Store, run_id: str, *, call_s: float = CALL_S) -> None:
        self.spaces = KeySpaces(store, run_id, call_s=call_s)
        self._below = store
        self._store = PrefixStore(root_of(run_id), store)
        self.call_s = call_s
        self._marks = 0  # the lease of this process' marks

    @contextmanager
    def _bounded(self) -> Iterator[Store]:
        with store_timeout(self._below, self.call_s):
            yield self._store

    def session_ends_at(self) -> float:
        """Give when the store may end this process' session, on the monotonic clock; infinity: not yet. Cost: none."""
        return self._below.session_ends_at()

    # --- leases ------------------------------------------------------------------------------------------

    def grant(self, ttl_s: float) -> int:
        """Begin a lease. Cost: 1 call."""
        with self._bounded() as store:
            return store.lease_grant(ttl_s)

    def grant_place(self, ttl_s: float) -> int:
        """Begin a lease, and that of this process' marks if there is none. Cost: 1 call."""
        with self._bounded() as store:
            if self._marks:
                return store.lease_grant(ttl_s)
            with store.pipeline() as batch:
                lease, marks = batch.lease_grant(ttl_s), batch.lease_grant(None)
            self._marks = marks.value
            return lease.value

    def take_place(self, node: str, report: bytes | None, lease: int) -> bool:
        """Say that a node is connected, and put its report up; tell whether it is the first that is there.

        Raises:
            LeaseLostError: the lease, or that of the marks, has ended since ``grant_place``.

        Cost: 1 call.
        """
        begun, self._marks = self._marks, 0  # begun anew, unless it turns out to be there
        with self._bounded() as store, store.pipeline() as batch:
            batch.swap(NODES + node + HERE, ANY_REVISION, "", lease=begun)
            first = batch.swap(FIRST, ABSENT, node, lease=begun)
            if report is not None:
                batch.swap(NODES + node, ANY_REVISION, report, lease=lease)
        self._marks = begun
        return first.value[0]

    def renew_place(self, node: str, lease: int) -> Place:
        """Let a lease live on, and look how the node stands, and how far the others are. Cost: 1 call.

        Raises:
            LeaseLostError: it has ended.
        """
        with self._bounded() as store, store.pipeline() as batch:
            batch.lease_renew(lease)
            keys = (NODES + node + HERE, PROGRESS, COORDINATOR, COORDINATOR + HERE)
            mark, progress, holder, here = map(batch.read, keys)
        if mark.value is None:
            self._marks = 0  # its lease has ended
        is_led = _incumbent_in(holder.value, here.value)[1]
        return Place(mark.value is not None, is_led, progress.value or b"")

    def renew(self, lease: int) -> None:
        """Let a lease live on. Cost: 1 call.

        Raises:
            LeaseLostError: it has ended.
        """
        with self._bounded() as store:
            store.lease_renew(lease)

    def revoke(self, lease: int) -> None:
        """End a lease, and what stands under it; one that has ended already is fine. Cost: 1 call."""
        with self._bounded() as store:
            try:
                store.lease_revoke(lease)
            except LeaseLostError:
                return

    def _mark(self, key: str, value: str) -> None:
        """Write a key that goes with this process' session."""
        with self._bounded() as store:
            for _ in range(2):
                self._marks = self._marks or store.lease_grant(None)
                try:
                    store.swap(key, ANY_REVISION, value, lease=self._marks)
                except LeaseLostError:  # of an earlier session
                    self._marks = 0
                else:
                    return
        raise LeaseLostError(f"the session ended twice while {key!r} was written", lease=0)

    # --- what a node does --------------------------------------------------------------------------------

    def mark(self, node: str) -> None:
        """Say that a node is connected. Cost: 1 call, 2 for the first mark.

        Raises:
            LeaseLostError: the session does not last long enough for that.
        """
        self._mark(NODES + node + HERE, "")

    def is_marked(self, node: str) -> bool:
        """Tell whether a node's mark is there. Cost: 1 call."""
        with self._bounded() as store:
            return store.read(NODES + node + HERE) is not None

    def post_report(self, node: str, data: bytes, lease: int) -> int:
        """Put a node's report up; give its revision. Cost: 1 call.

        Raises:
            LeaseLostError: the lease has ended.
        """
        with self._bounded() as store:
            return store.swap(NODES + node, ANY_REVISION, data, lease=lease)[1]

    def order(self, node: str) -> tuple[bytes, int] | None:
        """Give the order for a node, and its revision; ``None`` if there is none. Cost: 1 call."""
        with self._bounded() as store:
            entry = store.read(ORDERS + node)
        return None if entry is None else (entry.value, entry.revision)

    def watch_order(self, node: str) -> Watch:
        """Watch the order for a node from now on. Cost: 1 call."""
        with self._bounded() as store:
            return store.watch(ORDERS + node)

    def progress(self) -> bytes:
        """Give what the coordinator says of how far it is; empty if it says nothing. Cost: 1 call."""
        with self._bounded() as store:
            entry = store.read(PROGRESS)
        return b"" if entry is None else entry.value

    # --- who coordinates ---------------------------------------------------------------------------------

    def holder(self) -> Holder | None:
        """Give who coordinates, ``None`` for nobody. Cost: 1 call."""
        return self.incumbent()[0]

    def incumbent(self) -> tuple[Holder | None, bool]:
        """Give who coordinates, ``None`` for nobody, and whether its mark is there. Cost: 1 call."""
        with self._bounded() as store:
            found = {entry.key: entry.value for entry in store.read_prefix(COORDINATOR)}
        return _incumbent_in(found.get(COORDINATOR), found.get(COORDINATOR + HERE))

    def take_office(self, holder: Holder, lease: int) -> int:
        """Take the office if it is free.

        Returns:
            The term, above all before; 0 if somebody else was quicker.

        Cost: 1 call, up to 3 if it was free.
        """
        value = msgspec.json.encode(msgspec.structs.replace(holder, lease=lease))
        with self._bounded() as store:
            is_taken, revision = store.swap(COORDINATOR, ABSENT, value, lease=lease)
        if not is_taken:
            return 0
        self._mark(COORDINATOR + HERE, str(lease))
        return revision

    def evict(self, lease: int) -> None:
        """Free the office of who holds it under a lease, be the key under that lease or not. Cost: 2 calls, up to 5."""
        self.revoke(lease)
        with self._bounded() as store:
            entry = store.read(COORDINATOR)
            if entry is None or _holder_in(entry.value).lease != lease:
                return
            # Somebody wrote the key without that lease. It is put under one that ends, unless it changes meanwhile.
            own = store.lease_grant(EVICTION_S)
            store.swap(COORDINATOR, entry.revision, entry.value, lease=own)
        self.revoke(own)

    def watch_office(self) -> Watch:
        """Watch who coordinates, and its mark, from now on. Cost: 1 call."""
        with self._bounded() as store:
            return store.watch(COORDINATOR, is_prefix=True)

    # --- what a coordinator does -------------------------------------------------------------------------

    def reports(self) -> list[Posted]:
        """Give all nodes that are connected, with their reports; those of many nodes are not as of one moment.

        Cost: 1 call, 17 where a server refuses so many keys at once; grows with the nodes.
        """
        with self._bounded() as store:
            try:
                entries = store.read_prefix(NODES)
            except RefusedError:  # two keys for each node are more than the server's ``prefix_keys_max``
                entries = [entry for digit in HEX_DIGITS for entry in store.read_prefix(NODES + digit)]
        found = {entry.key: entry for entry in entries}
        posted = []
        for key, mark in found.items():
            if is_mark(key):
                report = found.get(key.removesuffix(HERE))
                last = mark.revision if report is None else max(mark.revision, report.revision)
                posted.append(Posted(node_of(key), None if report is None else report.value, last))
        return posted

    def watch_reports(self) -> Watch:
        """Watch all reports and marks from now on; ``node_of`` and ``is_mark`` read an event's key. Cost: 1 call."""
        with self._bounded() as store:
            return store.watch(NODES, is_prefix=True)

    def minutes(self) -> Minutes:
        """Give what was recorded. Cost: 1 call."""
        with self._bounded() as store:
            entry = store.read(STATE)
        return Minutes(None, ABSENT) if entry is None else Minutes(entry.value, entry.revision)

    def record(self, data: bytes, revision: int) -> int:
        """Record in place of what has this revision.

        Returns:
            The new revision; 0 if somebody else has recorded since.

        Cost: 1 call.
        """
        with self._bounded() as store:
            is_recorded, now = store.swap(STATE, revision, data)
        return now if is_recorded else 0

    def put_away(self, data: bytes, revision: int, kept_s: float) -> int:
        """Record as ``record`` does, for so many seconds. Cost: 2 calls."""
        with self._bounded() as store:
            is_recorded, now = store.swap(STATE, revision, data, lease=store.lease_grant(kept_s))
        return now if is_recorded else 0

    def send(self, orders: Sequence[tuple[str, bytes]], lease: int) -> None:
        """Write orders, all of them or as many as the lease outlives.

        Raises:
            LeaseLostError: the lease has ended: somebody else may be in office.

        Cost: about 1 call for a thousand.
        """
        with self._bounded() as store:
            if len(orders) == 1:
                store.swap(ORDERS + orders[0][0], ANY_REVISION, orders[0][1], lease=lease)
                return
            with store.pipeline() as batch:
                for node, data in orders:
                    batch.swap(ORDERS + node, ANY_REVISION, data, lease=lease)

    def tell_progress(self, data: bytes, lease: int) -> None:
        """Say how far it is. Cost: 1 call.

        Raises:
            LeaseLostError: as ``send``.
        """
        with self._bounded() as store:
            store.swap(PROGRESS, ANY_REVISION, data, lease=lease)


def _incumbent_in(value: bytes | None, mark: bytes | None) -> tuple[Holder | None, bool]:
    if value is None:
        return None, False
    holder = _holder_in(value)
    return holder, mark == str(holder.lease).encode()


def _holder_in(value: bytes) -> Holder:
    try:
        return msgspec.json.decode(value, type=Holder)
    except msgspec.DecodeError:
        return Holder("", "somebody who does not say its name")


def node_of(key: str) -> str:
    """Give the node that a key of ``watch_reports`` belongs to."""
    return key.removeprefix(NODES).removesuffix(HERE)


def is_mark(key: str) -> bool:
    """Tell whether a key of ``watch_reports`` is a mark."""
    return key.endswith(HERE)
