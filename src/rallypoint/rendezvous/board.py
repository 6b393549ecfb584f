"""The keys through which the nodes of a run and its coordinator talk, over any store that keeps sessions.

Below ``rallypoint.rendezvous.<run id>/`` stand::

    nodes/<node id>     a node's Report        under the node's lease, so that it goes when the node goes
    orders/<node id>    its Order              under the office lease, so that nobody but who is in office can write it
    coordinator         who coordinates        under the office lease; taken by creating it
    state               the minutes            swapped by revision, so that who was deposed cannot write them either
    progress            one sentence           under the office lease
    rounds/<n>/...      what the agents, and the workers, of round n share
    dropped             the rounds below this number have nothing left there

The *term* of a coordinator is the revision at which it took ``coordinator``: a store numbers all its changes, so that
every coordinator's term is above those of its predecessors.

What this file does not know: what any of the values means. Each method is one call, or as many as it says, and takes
``call_s`` at most, and then the store's own grace for an answer that is owed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import msgspec

from rallypoint.errors import LeaseLostError
from rallypoint.store.base import Store
from rallypoint.store.bootstrap import store_timeout
from rallypoint.store.prefix import PrefixStore
from rallypoint.store.session_calls import ABSENT, ANY_REVISION, Entry, Watch

__all__ = ["CALL_S", "Board", "Holder", "Minutes", "Posted", "node_of"]

CALL_S: Final = 5.0
"""How long one call may take, in seconds, unless told otherwise."""

NODES: Final = "nodes/"
ORDERS: Final = "orders/"
ROUNDS: Final = "rounds/"
COORDINATOR: Final = "coordinator"
STATE: Final = "state"
PROGRESS: Final = "progress"
DROPPED: Final = "dropped"


class Holder(msgspec.Struct, frozen=True):
    """Who coordinates.

    Attributes:
        node: the id of its node.
        label: how people call it.
    """

    node: str
    label: str


class Posted(NamedTuple):
    """A report as it was found.

    Attributes:
        node: whose.
        data: what stands there.
        revision: the number of the change that wrote it.
    """

    node: str
    data: bytes
    revision: int


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

    Raises of every method: what the store raises.
    """

    def __init__(self, store: Store, run_id: str, *, call_s: float = CALL_S) -> None:
        self._below = store
        self._run_id = run_id
        self._store = PrefixStore(f"rallypoint.rendezvous.{run_id}", store)
        self.call_s = call_s

    @contextmanager
    def _bounded(self) -> Iterator[Store]:
        with store_timeout(self._below, self.call_s):
            yield self._store

    # --- leases ------------------------------------------------------------------------------------------

    def grant(self, ttl_s: float) -> int:
        """Begin a lease. Cost: 1 call."""
        with self._bounded() as store:
            return store.lease_grant(ttl_s)

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

    # --- what a node does --------------------------------------------------------------------------------

    def post_report(self, node: str, data: bytes, lease: int) -> int:
        """Put a node's report up; give its revision. Cost: 1 call.

        Raises:
            LeaseLostError: the lease has ended.
        """
        with self._bounded() as store:
            return store.swap(NODES + node, ANY_REVISION, data, lease=lease)[1]

    def order(self, node: str) -> bytes | None:
        """Give the order for a node, ``None`` if there is none. Cost: 1 call."""
        with self._bounded() as store:
            entry = store.read(ORDERS + node)
        return None if entry is None else entry.value

    def watch_order(self, node: str) -> Watch:
        """Watch the order for a node from now on. Cost: 1 call."""
        with self._bounded() as store:
            return store.watch(ORDERS + node)

    def progress(self) -> str:
        """Give what the coordinator says of how far it is; empty if it says nothing. Cost: 1 call."""
        with self._bounded() as store:
            entry = store.read(PROGRESS)
        return "" if entry is None else entry.value.decode(errors="replace")

    # --- who coordinates ---------------------------------------------------------------------------------

    def holder(self) -> Holder | None:
        """Give who coordinates, ``None`` for nobody. Cost: 1 call."""
        with self._bounded() as store:
            entry = store.read(COORDINATOR)
        if entry is None:
            return None
        try:
            return msgspec.json.decode(entry.value, type=Holder)
        except msgspec.DecodeError:
            return Holder("", "somebody who does not say its name")

    def take_office(self, holder: Holder, lease: int) -> int:
        """Take the office if it is free.

        Returns:
            The term, above all before; 0 if somebody else was quicker.

        Cost: 1 call.
        """
        with self._bounded() as store:
            is_taken, revision = store.swap(COORDINATOR, ABSENT, msgspec.json.encode(holder), lease=lease)
        return revision if is_taken else 0

    def watch_office(self) -> Watch:
        """Watch who coordinates from now on. Cost: 1 call."""
        with self._bounded() as store:
            return store.watch(COORDINATOR)

    # --- what a coordinator does -------------------------------------------------------------------------

    def reports(self) -> list[Posted]:
        """Give all reports that are up. Cost: 1 call; grows with them."""
        with self._bounded() as store:
            return [_posted(entry) for entry in store.read_prefix(NODES)]

    def watch_reports(self) -> Watch:
        """Watch all reports from now on; ``node_of`` names the node of an event. Cost: 1 call."""
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

    def tell_progress(self, text: str, lease: int) -> None:
        """Say how far it is. Cost: 1 call.

        Raises:
            LeaseLostError: as ``send``.
        """
        with self._bounded() as store:
            store.swap(PROGRESS, ANY_REVISION, text, lease=lease)

    # --- what rounds share -------------------------------------------------------------------------------

    def agents_store(self, number: int) -> Store:
        """Give the store that the agents of a round share; nothing of another round is in it."""
        return PrefixStore(f"{ROUNDS}{number}/agents", self._store)

    def workers_prefix(self, number: int) -> str:
        """Give what stands before every key of a round's workers, where they have no store of their own."""
        return f"rallypoint.rendezvous.{self._run_id}/{ROUNDS}{number}/workers"

    def drop_rounds(self, below: int) -> None:
        """Remove what the agents and workers of all rounds below a number had. Cost: 2 calls, and 1 for each round."""
        with self._bounded() as store:
            entry = store.read(DROPPED)
            begun = int(entry.value) if entry is not None and entry.value.isdigit() else 0
            if begun >= below:
                return
            for number in range(begun, below):
                store.delete_prefix(f"{ROUNDS}{number}/")
            store.set(DROPPED, str(below))


def node_of(key: str) -> str:
    """Give the node that a key of ``watch_reports`` belongs to."""
    return key.removeprefix(NODES)


def _posted(entry: Entry) -> Posted:
    return Posted(node_of(entry.key), entry.value, entry.revision)
