"""Rendezvous through a coordinator: nodes say where they stand, one of them decides, each is told its own part.

``CoordinatedRendezvousHandler`` has torch's methods and those of our agent. The rules are in ``office`` and
``follower``; ``coordinator`` and ``following`` drive them; ``coordinated_store`` opens the store between them. What is
left here is the life of one handler: join, make ready what the workers need, report, leave.

A node that is lost is known to all in about the time that a session outlives its connection, ``SESSION_S``: the store
removes its report at once, and if it was the coordinator, its office too.
"""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Callable
from typing import Final

from rallypoint.clock import SYSTEM_CLOCK, Clock, Deadline
from rallypoint.errors import (
    DistError,
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousTimeoutError,
    SessionLostError,
)
from rallypoint.events import emit
from rallypoint.rendezvous.board import Board
from rallypoint.rendezvous.decision import StopKind
from rallypoint.rendezvous.follower_moves import (
    AllSucceeded,
    Closing,
    Event,
    Going,
    Leaving,
    Stop,
    Wanted,
    WorkerFailed,
)
from rallypoint.rendezvous.ground import Ground, linger, tell_progress
from rallypoint.rendezvous.handler import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousStoreInfo,
    RoundNews,
    RoundStatus,
)
from rallypoint.rendezvous.hands import Hands, begin
from rallypoint.rendezvous.reports import Order, Workers
from rallypoint.rendezvous.settings import CoordinatedSettings
from rallypoint.rendezvous.state import Card
from rallypoint.rendezvous.verdict import VerdictKind
from rallypoint.rendezvous.worker_store import (
    EmbeddedSpace,
    GatewaySpace,
    MakeGateway,
    Served,
    WorkerSpace,
    WorkerStore,
    is_sharing_off,
    known_gateway,
    prepare_to_serve,
    serve_store,
)

__all__ = ["SESSION_S", "CoordinatedRendezvousHandler"]

SESSION_S: Final = 0.1
"""How long the store keeps the session of a node whose connection is lost, in seconds."""

LINGER_S: Final = 2.0
"""How long a node that serves the run's store stays after the end for those that have yet to hear of it."""

CANDIDATES: Final = 8
"""So many nodes of a round, those with the lowest ranks, stand for the office; another does when it finds it empty.

Where hundreds have just met, so many connections and watches would stand in the way of their work.
"""

RETIRE_S: Final = 0.5
"""How long a coordinator that leaves may take to hear its own node's farewell, in seconds."""


class CoordinatedRendezvousHandler(RendezvousHandler):
    """One node's way to meet the others through a coordinator.

    Args:
        settings: what this node was told.
        ground: the store between the nodes.
        backend: the name under which the handler was asked for.
        local_addr: where the other nodes reach this one; ``None``: its fully qualified host name.
        clock: what all times are measured on.
        serve: starts the store that rank 0 serves for the workers.
        gateway: starts what serves the run's own store to this machine's workers; ``None``: as the process was told.

    Raises:
        ValueError: if a gateway is asked for, and the process knows none.

    Threads: ``next_rendezvous`` in one thread at a time; the rest in any.

    Cost: a round takes each node two or three writes and two or three events of some hundred bytes each, however many
    nodes there are.
    """

    def __init__(
        self,
        settings: CoordinatedSettings,
        ground: Ground,
        *,
        backend: str = "rallypoint",
        local_addr: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
        serve: Callable[[str], Served] = serve_store,
        gateway: MakeGateway | None = None,
    ) -> None:
        self.settings = settings
        self._ground = ground
        self._backend = backend
        self._clock = clock
        self._run_id = settings.node.run_id
        rules = settings.node.rules
        self._board = Board(ground.store, self._run_id, call_s=rules.answer_s)
        self._card = Card(
            host=(local_addr or socket.gethostname())[:255],
            address=(local_addr or socket.getfqdn())[:255],
            pid=os.getpid(),
            rank_wish=settings.node.rank_wish,
            labels=dict(settings.labels),
        )
        self._is_shared = not is_sharing_off()
        self._space: WorkerSpace = (
            EmbeddedSpace(WorkerStore(self._card.address, self._is_shared, serve))
            if settings.worker_store == "embedded"
            else GatewaySpace(ground.store, self._board.spaces.of_workers, gateway or known_gateway())
        )
        if serve is serve_store and self._is_shared and settings.worker_store == "embedded":
            prepare_to_serve()
        self._workers: Workers | None = None
        self._hands: Hands | None = None

    # --- torch's methods -----------------------------------------------------------------------------------

    def get_backend(self) -> str:
        """Give the name under which the handler was asked for."""
        return self._backend

    @property
    def use_agent_store(self) -> bool:
        """True, unless ``TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1`` asks that worker 0 serves the store itself."""
        return self._is_shared

    def get_run_id(self) -> str:
        """Give the name of the run."""
        return self._run_id

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait until the coordinator admits this node to a round. One that it is still in ends for everybody.

        Raises:
            RendezvousClosedError: if the run has ended; ``.outcome`` tells how.
            RendezvousGracefulExitError: if the run ended, or the time to stand by did, while this node was a spare.
            RendezvousTimeoutError: if too few nodes came within the join timeout.
            RendezvousConnectionError: if the store is gone for good, or was out of reach until the time was up.
            RendezvousError: if the other nodes were told other numbers of nodes, or another ``worker_store``.
        """
        hands = self._begin()
        following = hands.following
        following.forget_entry()
        following.tell(Wanted())
        following.start()
        try:
            outcome = following.await_entry()
            if isinstance(outcome, Order):
                if outcome.rank < CANDIDATES:
                    hands.coordinator.start()
                return self._round_info(outcome)
        except BaseException as error:
            # Nobody is there to acknowledge any more: a place that is kept would hold up everybody else.
            self._depart(f"{type(error).__name__}: {error}", RETIRE_S)
            raise
        if outcome is None:
            raise RendezvousGracefulExitError("this node left while it was joining")
        if isinstance(outcome, Exception):
            raise RendezvousConnectionError(f"run {self._run_id!r} cannot go on: {outcome}") from outcome
        raise self._stop_error(outcome)

    def is_closed(self) -> bool:
        """Tell whether this node knows that the run has ended; costs no call."""
        verdict = None if self._hands is None else self._hands.following.verdict()[0]
        return verdict is not None and verdict.kind is VerdictKind.CLOSED

    def set_closed(self) -> None:
        """End the run for everybody, with the outcome ``"closed"``.

        Raises:
            RendezvousTimeoutError: if it could not be stored within the close timeout.
        """
        hands = self._begin()
        hands.following.start()
        self._say(Closing(f"{hands.label} closed the run"), "the closing")

    def num_nodes_waiting(self) -> int:
        """Give 1 if the round is over because of others, else 0; costs no call.

        A newcomer that fits in ends the round, so nobody needs to count.
        """
        return int(self.check_round().status in (RoundStatus.OVER, RoundStatus.FENCED, RoundStatus.CUT_OFF))

    def shutdown(self) -> bool:
        """Leave, and end what the handler runs. The run goes on without this node; ``set_closed`` ends it.

        Returns:
            Whether the departure could be stored.
        """
        is_fine = True
        try:
            is_fine = self._depart("it shut down", self._close_s)
        except (DistError, OSError) as error:
            is_fine = False
            emit("rendezvous.trouble", f"leaving run {self._run_id!r} failed: {error}", run_id=self._run_id)
        finally:
            self._space.close()
            self._ground.store.close()
        return is_fine

    # --- what our agent asks -------------------------------------------------------------------------------

    @property
    def keeps_budget(self) -> bool:
        """Whether the coordinator counts restarts; it does if it was told a limit."""
        return "failed" in self.settings.policy.restarts

    def expect_workers(self, role: str, count: int) -> None:
        """Say what this node runs, before it joins, so that the coordinator numbers all workers of a round."""
        self._workers = Workers(role=role, count=count)

    def check_round(self) -> RoundNews:
        """Say what has become of this node's round, as far as it was told; asks nobody, never blocks.

        Raises:
            RendezvousConnectionError: if the store does not answer, and this node is not cut off yet.
        """
        if self._hands is None:
            return RoundNews(RoundStatus.CURRENT, "this node is in no round")
        verdict, trouble = self._hands.following.verdict()
        if verdict is not None and verdict.kind is not VerdictKind.CURRENT:
            return RoundNews(RoundStatus(verdict.kind.value), verdict.why, verdict.outcome)
        if isinstance(trouble, RendezvousError):
            raise trouble
        if trouble is not None:
            raise RendezvousConnectionError(f"{self._ground.where} failed: {trouble}") from trouble
        return RoundNews(RoundStatus.CURRENT, "this node is in no round" if verdict is None else verdict.why)

    def wait_for_news(self, timeout_s: float) -> RoundNews:
        """Wait until this node's round no longer goes on, or the time is up.

        Raises:
            RendezvousConnectionError: as ``check_round``.
        """
        if self._hands is None:
            self._clock.sleep(timeout_s)
        else:
            self._hands.following.await_verdict(timeout_s)
        return self.check_round()

    def report_success(self) -> None:
        """Say that all workers of this node ended well; the run closes as succeeded once all nodes have said so.

        Raises:
            RendezvousTimeoutError: if it could not be stored within the close timeout.
        """
        self._say(AllSucceeded(), "the success of this node's workers")

    def report_failure(self, message: str, exit_code: int, final: bool) -> None:
        """Say that a worker of this node failed; ends the round, or the run if ``final`` or the budget is used up.

        Raises:
            RendezvousTimeoutError: if it could not be stored within the close timeout.
        """
        self._say(WorkerFailed(message, exit_code, final), "the failure of a worker")

    def report_going(self, why: str) -> None:
        """Say that this node stops its workers and then leaves: the round it is in is over for the others at once.

        Raises:
            RendezvousTimeoutError: if it could not be stored within the close timeout.
        """
        self._say(Going(why), "that this node is going")

    def leave(self, why: str) -> None:
        """Give up this node's place; if it was in a round, that is over for everybody at once.

        Raises:
            RendezvousTimeoutError: if it could not be stored within the close timeout.
        """
        if not self._depart(why, self._close_s):
            raise self._not_stored("the farewell")

    # --- joining -------------------------------------------------------------------------------------------

    def _begin(self) -> Hands:
        """Make what follows, and what stands for the office where that is called for, unless they are there."""
        if self._hands is not None:
            return self._hands
        self._hands = hands = begin(
            self._board, self._ground, self.settings, self._card, self._workers, self._space.open, self._clock
        )
        for stopper in (hands.following.stopper, hands.coordinator.stopper):
            weakref.finalize(self, stopper)
        return hands

    def _round_info(self, order: Order) -> RendezvousInfo:
        assert order.endpoint is not None, "who is admitted is told where the workers' store is"
        endpoint = self._space.enter(order.round, order.rank, order.endpoint)
        store = self._board.spaces.of_agents(order.round)
        if order.rank == 0:
            # Torch's agents leave them here, and other people's code has learned to look.
            keys = [RendezvousStoreInfo.MASTER_ADDR_KEY, RendezvousStoreInfo.MASTER_PORT_KEY]
            values = [endpoint.host, str(endpoint.port)]
            try:
                try:
                    store.multi_set(keys, values)
                except SessionLostError:  # it may have been done, and may be done again
                    store.multi_set(keys, values)
            except (DistError, OSError) as error:
                raise RendezvousConnectionError(f"{self._ground.where} failed: {error}") from error
        bootstrap = RendezvousStoreInfo(endpoint.host, endpoint.port)
        return RendezvousInfo(
            store,
            order.rank,
            order.size,
            bootstrap,
            order.round,
            places=order.places,
            is_store_plain=self._space.is_plain,
        )

    def _stop_error(self, stop: Stop) -> RendezvousError:
        if stop.kind is StopKind.NOT_NEEDED:
            return RendezvousGracefulExitError(stop.why)
        if stop.kind is StopKind.CLOSED:
            return RendezvousClosedError(stop.why, outcome=stop.outcome)
        if stop.kind is not StopKind.TIMED_OUT:
            return RendezvousError(stop.why)
        assert self._hands is not None, "a node that stops has begun"
        trouble = self._hands.following.verdict()[1]
        if trouble is not None:
            error: RendezvousError = RendezvousConnectionError(f"{stop.why}: {trouble}")
            error.__cause__ = trouble
            return error
        return RendezvousTimeoutError(
            stop.why + tell_progress(self._board, stop.why),
            waited_s=self.settings.node.rules.join_timeout_s,
            expected=self.settings.node.min_nodes,
        )

    # --- reports and the end -------------------------------------------------------------------------------

    @property
    def _close_s(self) -> float:
        return self.settings.node.timeout.close.total_seconds()

    def _say(self, event: Event, what: str) -> None:
        hands = self._hands
        if hands is None:
            return
        hands.following.tell(event)
        if not hands.following.await_published(self._close_s):
            raise self._not_stored(what)

    def _not_stored(self, what: str) -> RendezvousTimeoutError:
        return RendezvousTimeoutError(
            f"{what} could not be stored within {self._close_s:g} s: {self._ground.where} does not answer",
            waited_s=self._close_s,
        )

    def _depart(self, why: str, timeout_s: float) -> bool:
        """Give up this node's place and end what runs; tell whether the others were told."""
        hands, self._hands = self._hands, None
        if hands is None:
            return True
        deadline = Deadline(timeout_s, self._clock)
        verdict = hands.following.verdict()[0]
        hands.coordinator.retire()
        hands.following.tell(Leaving(why))
        is_stored = hands.following.await_published(deadline.remaining_s())
        if is_stored:
            hands.coordinator.join(min(RETIRE_S, deadline.remaining_s()))
        # A thread that waits for a store that is gone is left behind: what it holds ends with its session.
        hands.coordinator.stop(RETIRE_S)
        hands.following.stop(RETIRE_S)
        if self._ground.is_host and verdict is not None and verdict.kind is VerdictKind.CLOSED:
            linger(self._board, LINGER_S)
        return is_stored
