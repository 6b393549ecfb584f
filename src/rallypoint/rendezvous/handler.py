"""What an agent sees of a rendezvous: parameters in, a round out, and news about that round.

``RendezvousHandler`` has two halves. The first is torch's own interface, so that handlers written for torchrun
work here and ours work there. The second is what rallypoint's agent asks on top (``check_round`` and its
neighbours); every method of it has a default made from the first half, so a handler that knows only torch's
methods is served as well as those methods allow.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

from rallypoint.clock import SYSTEM_CLOCK, Clock, Deadline
from rallypoint.rendezvous.parameters import RendezvousParameters

if TYPE_CHECKING:
    from rallypoint.rendezvous.reports import Places
    from rallypoint.store.base import Store

__all__ = [
    "RendezvousHandler",
    "RendezvousHandlerCreator",
    "RendezvousInfo",
    "RendezvousParameters",
    "RendezvousStoreInfo",
    "RoundNews",
    "RoundStatus",
]

_CHECK_INTERVAL_S = 0.5


@dataclass
class RendezvousStoreInfo:
    """Where the workers of a round find the store that they share.

    Attributes:
        master_addr: host name or address, handed to workers as ``MASTER_ADDR``.
        master_port: TCP port, handed to workers as ``MASTER_PORT``.
    """

    MASTER_ADDR_KEY: ClassVar[str] = "MASTER_ADDR"
    MASTER_PORT_KEY: ClassVar[str] = "MASTER_PORT"

    master_addr: str
    master_port: int

    @staticmethod
    def build(rank: int, store: Store, local_addr: str | None, server_port: int | None = None) -> RendezvousStoreInfo:
        """Let node 0 publish where the workers' store is, and read on every node what it published.

        Args:
            rank: this node's rank in the round; rank 0 publishes.
            store: the round's store; nothing of an earlier round may be in it.
            local_addr: node 0's address as others reach it; ``None``: its fully qualified host name.
            server_port: the port of a server that already runs on node 0; ``None``: a port that is free now, for
                a server that the worker of rank 0 starts.

        Raises:
            DistStoreError: if node 0 published nothing within the store's timeout.

        Cost: two writes on node 0, two reads on every node.
        """
        if rank == 0:
            if server_port is None:
                from rallypoint.store.bootstrap import get_free_port

                server_port = get_free_port()
            store.set(RendezvousStoreInfo.MASTER_ADDR_KEY, local_addr or socket.getfqdn())
            store.set(RendezvousStoreInfo.MASTER_PORT_KEY, str(server_port))
        address = store.get(RendezvousStoreInfo.MASTER_ADDR_KEY).decode()
        port = int(store.get(RendezvousStoreInfo.MASTER_PORT_KEY).decode())
        return RendezvousStoreInfo(address, port)


class RendezvousInfo:
    """One agreed round, as one node sees it.

    Args:
        store: shared by the agents of the round; nothing of another round is in it.
        rank: this node's rank, 0 and up.
        world_size: the number of nodes in the round.
        bootstrap_store_info: where the workers find their store.
        round: the number of the round, 0 and up; it grows with every new agreement of the run.
        places: where this node's workers stand among all workers of the round, if the nodes have agreed on that too.
        is_store_plain: whether what serves the workers' store speaks c10d only, and only on this machine.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        world_size: int,
        bootstrap_store_info: RendezvousStoreInfo,
        round: int = 0,  # noqa: A002 - the word for it everywhere else
        *,
        places: Places | None = None,
        is_store_plain: bool = False,
    ) -> None:
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._bootstrap_store_info = bootstrap_store_info
        self._round = round
        self._places = places
        self._is_store_plain = is_store_plain

    @property
    def store(self) -> Store:
        """The store of the round's agents."""
        return self._store

    @property
    def rank(self) -> int:
        """This node's rank."""
        return self._rank

    @property
    def world_size(self) -> int:
        """The number of nodes."""
        return self._world_size

    @property
    def bootstrap_store_info(self) -> RendezvousStoreInfo:
        """Where the workers find their store."""
        return self._bootstrap_store_info

    @property
    def round(self) -> int:
        """The number of the round."""
        return self._round

    @property
    def places(self) -> Places | None:
        """Where this node's workers stand; ``None``: the nodes have to tell each other."""
        return self._places

    @property
    def is_store_plain(self) -> bool:
        """Whether what serves the workers' store speaks c10d only, and only on this machine."""
        return self._is_store_plain

    def __repr__(self) -> str:
        return f"RendezvousInfo(round={self._round}, rank={self._rank}, world_size={self._world_size})"


class RoundStatus(Enum):
    """What has become of the round that this node is in."""

    CURRENT = "current"  # it goes on
    OVER = "over"
    """It has ended: stop the workers and call ``next_rendezvous`` again."""
    CLOSED = "closed"
    """The whole run has ended: stop the workers and finish."""
    FENCED = "fenced"
    """It goes on without this node, which was taken for lost: stop the workers at once, then join again."""
    CUT_OFF = "cut_off"  # nobody has answered for so long that the same may be true: do as for FENCED


class RoundNews(NamedTuple):
    """What a handler says about the round that this node is in.

    Attributes:
        status: what has become of it.
        why: one sentence, for logs, pages and errors.
        outcome: for ``CLOSED``: ``"succeeded"``, ``"failed"`` or ``"closed"`` (told to); else ``None``.
    """

    status: RoundStatus
    why: str
    outcome: str | None = None


class RendezvousHandler(ABC):
    """One node's way to meet the others.

    Threads: the agent calls ``next_rendezvous`` and the reports from one thread, the rest from any.

    Source: the names and signatures of torch 2.13.0's class; the methods after ``shutdown`` are ours.
    """

    _clock: Clock = SYSTEM_CLOCK

    @abstractmethod
    def get_backend(self) -> str:
        """Give the name under which this kind of handler is registered."""

    @property
    def use_agent_store(self) -> bool:
        """Whether workers connect to a store that the agents already serve, instead of worker 0 serving one."""
        return False

    @abstractmethod
    def next_rendezvous(self) -> RendezvousInfo:
        """Wait until a round is agreed that this node takes part in. Leaves the round it was in, if any.

        Raises:
            RendezvousClosedError: if the run has ended.
            RendezvousConnectionError: if the backend cannot be reached.
            RendezvousStateError: if the backend holds something else than a state of ours.
            RendezvousTimeoutError: if too few nodes came in time.
        """

    @abstractmethod
    def is_closed(self) -> bool:
        """Tell whether the run has ended."""

    @abstractmethod
    def set_closed(self) -> None:
        """End the run: nobody is taken in any more. Calling it again does nothing."""

    @abstractmethod
    def num_nodes_waiting(self) -> int:
        """Count the nodes that came too late for the present round and wait for the next."""

    @abstractmethod
    def get_run_id(self) -> str:
        """Give the name of the run."""

    @abstractmethod
    def shutdown(self) -> bool:
        """Close all that the handler holds, this node's place included.

        Returns:
            Whether it went as it should; calling it again is allowed.
        """

    @property
    def keeps_budget(self) -> bool:
        """Whether the handler, for all nodes together, counts restarts and says when none is left.

        Then the agent reports no failure as final; the run closes when the budget is used up.
        """
        return False

    def expect_workers(self, role: str, count: int) -> None:  # noqa: B027 - most handlers do not number workers
        """Say what this node runs, before it joins for the first time, so that the handler can number the workers.

        Args:
            role: the workers' role.
            count: how many there are, at least 1.
        """

    def check_round(self) -> RoundNews:
        """Look once whether the round that this node is in still goes on.

        Raises:
            RendezvousConnectionError: if the backend cannot be reached.
            RendezvousStateError: if the backend holds something else than a state of ours.
        """
        if self.is_closed():
            return RoundNews(RoundStatus.CLOSED, "the run was closed", "closed")
        waiting = self.num_nodes_waiting()
        if waiting > 0:
            return RoundNews(RoundStatus.OVER, f"{waiting} nodes wait to join")
        return RoundNews(RoundStatus.CURRENT, "the round goes on")

    def wait_for_news(self, timeout_s: float) -> RoundNews:
        """Pause until the round no longer goes on, or the time is up.

        Args:
            timeout_s: the longest pause, in seconds; 0 or less looks once.

        Returns:
            What ``check_round`` said last.

        Raises:
            RendezvousError: as ``check_round``.
        """
        deadline = Deadline(timeout_s, self._clock)
        while True:
            news = self.check_round()
            if news.status is not RoundStatus.CURRENT or deadline.has_passed():
                return news
            self._clock.sleep(min(_CHECK_INTERVAL_S, deadline.remaining_s()))

    def report_success(self) -> None:  # noqa: B027 - saying nothing is a fair default
        """Say that all workers of this node have ended well in the present round.

        Once every node of the round has said so, the run closes with the outcome ``"succeeded"``. The default
        tells nobody.
        """

    def report_failure(self, message: str, exit_code: int, final: bool) -> None:  # noqa: ARG002 - for overriders
        """Say that a worker of this node failed in the present round.

        The default closes the run if ``final``, and otherwise tells nobody.

        Args:
            message: one sentence about the first failure.
            exit_code: the failed worker's exit code; negative: the number of the signal that ended it.
            final: ``False``: the round is over and all nodes meet again; ``True``: no restart is left, the run
                closes with the outcome ``"failed"``.
        """
        if final:
            self.set_closed()

    def report_going(self, why: str) -> None:  # noqa: B027 - as above
        """Say that this node was asked to go, stops its workers, and leaves as soon as they have ended.

        So the others need not wait for that with the end of their round. The default tells nobody before ``leave``.

        Args:
            why: one sentence.
        """

    def leave(self, why: str) -> None:  # noqa: B027 - as above
        """Say that this node goes away on purpose, so that nobody waits for it. The default tells nobody.

        Args:
            why: one sentence.
        """


RendezvousHandlerCreator: TypeAlias = Callable[[RendezvousParameters], RendezvousHandler]
"""Makes the handler of one node; registered under the name of its backend."""
