"""Rendezvous through a state that all nodes swap: for any backend that can compare-and-swap, torch's server included.

``DynamicRendezvousHandler`` has torch's methods and those of our agent. The rules are in ``decide``; the looking and
swapping in ``participant``; a thread of its own (``keep_alive``) keeps the node's place and hears the news. What is
left here is the life of one handler: join, serve a store for the workers if the node got rank 0, report, leave.

A round is handed out as the state describes it, and nothing of it is kept for the next one::

    state: round 3, members {a: 0, b: 1}, endpoint host-a:41873      every node reads the same
       -> RendezvousInfo(rank, world size, MASTER_ADDR/MASTER_PORT, keys below torch.rendezvous.<run id>.3/)
"""

from __future__ import annotations

import itertools
import os
import random
import socket
import weakref
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from rallypoint.clock import SYSTEM_CLOCK, Clock
from rallypoint.errors import (
    DistError,
    RendezvousClosedError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousTimeoutError,
)
from rallypoint.events import emit
from rallypoint.primitives.kind import has_sessions
from rallypoint.rendezvous.backend import RendezvousBackend
from rallypoint.rendezvous.change import Acknowledge, Action, Close, Fail, Succeed
from rallypoint.rendezvous.decide import Enter, Stop, StopKind
from rallypoint.rendezvous.handler import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    RoundNews,
    RoundStatus,
)
from rallypoint.rendezvous.keep_alive import KeepAlive
from rallypoint.rendezvous.pace import GAP_MIN_S
from rallypoint.rendezvous.participant import Participant
from rallypoint.rendezvous.settings import RendezvousSettings, RendezvousTimeout
from rallypoint.rendezvous.state import Card, Standing, State
from rallypoint.rendezvous.verdict import Verdict
from rallypoint.rendezvous.worker_store import Served, WorkerStore, is_sharing_off, serve_store
from rallypoint.store.base import Store
from rallypoint.store.prefix import PrefixStore
from rallypoint.types import Timeout, as_seconds

__all__ = ["DynamicRendezvousHandler", "RendezvousSettings", "RendezvousTimeout", "create_handler"]

JOIN_JITTER_S = 0.01
"""Nodes that are let go at one moment spread their first looks over this time."""

LINGER_S = 2.0
"""How long a node that shuts down after the closing stays for those that have yet to hear: it may hold the store."""

_local_ids = itertools.count()


class DynamicRendezvousHandler(RendezvousHandler):
    """One node's way to meet the others over a backend.

    Args:
        settings: what this node was told.
        backend: holds the state.
        store: what the agents of a round share keys in; each round has a prefix of its own.
        local_addr: where the other nodes reach this one; ``None``: its fully qualified host name.
        clock: what all times are measured on.
        serve: starts the store that rank 0 serves for the workers.

    Attributes:
        settings: what this node was told.

    Threads: ``next_rendezvous`` in one thread at a time; the rest in any.

    Source: names and signatures of torch 2.13.0's class.
    """

    def __init__(
        self,
        settings: RendezvousSettings,
        backend: RendezvousBackend,
        store: Store,
        *,
        local_addr: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
        serve: Callable[[str], Served] = serve_store,
    ) -> None:
        self.settings = settings
        self._backend = backend
        self._store = store
        self._clock = clock
        self._local_id = next(_local_ids)
        address = local_addr or socket.getfqdn()
        card = Card(
            host=(local_addr or socket.gethostname())[:255],
            address=address[:255],
            pid=os.getpid(),
            rank_wish=settings.rank_wish,
        )
        self._participant = Participant(backend, settings.rules, card, settings.run_id, clock=clock)
        self._is_shared = not is_sharing_off()
        self._worker_store = WorkerStore(address, self._is_shared, serve)
        self._keep_alive: KeepAlive | None = None
        self._agent_store: Store | None = None

    @classmethod
    def from_backend(  # noqa: PLR0917 - torch's signature
        cls,
        run_id: str,
        store: Store,
        backend: RendezvousBackend,
        min_nodes: int,
        max_nodes: int,
        local_addr: str | None = None,
        timeout: RendezvousTimeout | None = None,
        keep_alive_interval: Timeout = 5,
        keep_alive_max_attempt: int = 3,
    ) -> DynamicRendezvousHandler:
        """Make a handler.

        Args:
            run_id: the name of the run, not empty.
            store: as for the class, ``backend`` and ``local_addr`` too.
            backend: see there.
            min_nodes: see ``RendezvousSettings``, as for the rest; the interval in seconds or as a ``timedelta``.
            max_nodes: see there.
            local_addr: see there.
            timeout: see there; ``None`` takes the defaults.
            keep_alive_interval: see there.
            keep_alive_max_attempt: see there.

        Raises:
            ValueError: if a value is out of range.
        """
        settings = RendezvousSettings(
            run_id=run_id,
            min_nodes=min_nodes,
            max_nodes=max_nodes,
            timeout=timeout or RendezvousTimeout(),
            keep_alive_interval=timedelta(seconds=as_seconds(keep_alive_interval, "keep_alive_interval")),
            keep_alive_max_attempt=keep_alive_max_attempt,
        )
        return cls(settings, backend, store, local_addr=local_addr)

    # --- torch's methods -----------------------------------------------------------------------------------

    def get_backend(self) -> str:
        """Give the backend's name."""
        return self._backend.name

    @property
    def use_agent_store(self) -> bool:
        """True, unless ``TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1`` asks that worker 0 serves the store itself."""
        return self._is_shared

    def get_run_id(self) -> str:
        """Give the name of the run."""
        return self.settings.run_id

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait until a complete round names this node. A round that it is still in ends for everybody.

        Raises:
            RendezvousClosedError: if the run has ended; ``.outcome`` tells how.
            RendezvousGracefulExitError: if the run ended, or the time to stand by did, while this node was a spare.
            RendezvousTimeoutError: if too few nodes came within the join timeout.
            RendezvousConnectionError: if the backend cannot be reached.
            RendezvousStateError: if the backend holds no state of ours.
            RendezvousError: if the other nodes were told other numbers of nodes.

        Cost: at least two swaps and one look; while waiting, a wait for the next change, or looks that grow rarer.
        """
        participant = self._participant
        participant.begin_to_join()
        try:
            self._start_keep_alive()
            self._clock.sleep(random.uniform(0.0, JOIN_JITTER_S))  # noqa: S311 - spreads load, hides nothing
            state = self._join()
            return self._round_info(state)
        except BaseException as error:
            # Nobody is there to acknowledge any more: a place that is kept alive would hold up everybody else.
            self._withdraw(error)
            raise

    def is_closed(self) -> bool:
        """Look once whether the run has ended.

        Raises:
            RendezvousError: if the backend cannot be reached, or holds no state of ours.
        """
        return self._participant.look().state.closure is not None

    def set_closed(self) -> None:
        """End the run for everybody, with the outcome ``"closed"``.

        Raises:
            RendezvousTimeoutError: if every attempt lost to other nodes within the close timeout.
            RendezvousError: if the backend cannot be reached, or holds no state of ours.
        """
        why = f"{self._participant.label} closed the run"
        self._participant.make(Close("closed", why), self.settings.timeout.close)

    def num_nodes_waiting(self) -> int:
        """Look once, and count the nodes that are ready for a round that this node is not in; spares do not count.

        Raises:
            RendezvousError: if the backend cannot be reached, or holds no state of ours.
        """
        state = self._participant.look().state
        ready = len(state.standing(Standing.READY))
        entered = self._participant.entered
        if entered is not None and state.round != entered and state.closure is None:
            return max(1, ready)  # the round is over, even if nobody has come back yet
        return ready

    def shutdown(self) -> bool:
        """Leave, and end what the handler runs. The run goes on without this node; ``set_closed`` ends it.

        Returns:
            Whether the departure could be stored.
        """
        is_fine = True
        try:
            state = self._participant.depart("it shut down", self.settings.timeout.close)
            if state.closure is not None:
                self._participant.linger(LINGER_S)
        except (RendezvousError, DistError) as error:
            is_fine = False
            emit("rendezvous.trouble", f"leaving run {self.get_run_id()!r} failed: {error}", run_id=self.get_run_id())
        finally:
            self._stop_keep_alive()
            self._worker_store.close()
            self._close_agent_store()
        return is_fine

    # --- what our agent asks -------------------------------------------------------------------------------

    def check_round(self) -> RoundNews:
        """Say what has become of this node's round, as the keep-alive thread saw it last; asks nobody, never blocks.

        Raises:
            RendezvousError: if the last look failed.
        """
        return _as_news(self._participant.news())

    def wait_for_news(self, timeout_s: float) -> RoundNews:
        """Wait until this node's round no longer goes on, or the time is up.

        Raises:
            RendezvousError: if the last look failed.
        """
        return _as_news(self._participant.wait_for_news(timeout_s))

    def report_success(self) -> None:
        """Say that all workers of this node ended well; closes the run as succeeded if it was the last node to say so.

        Raises:
            RendezvousError: if it could not be stored.
        """
        if (entered := self._participant.entered) is not None:
            self._participant.make(Succeed(entered), self.settings.timeout.close)

    def report_failure(self, message: str, exit_code: int, final: bool) -> None:
        """Say that a worker of this node failed; ends the round, or the run if ``final``.

        Raises:
            RendezvousError: if it could not be stored.
        """
        if (entered := self._participant.entered) is not None:
            self._participant.make(Fail(entered, message, exit_code, final), self.settings.timeout.close)

    def leave(self, why: str) -> None:
        """Give up this node's place; if it was in a round, that is over for everybody at once.

        Raises:
            RendezvousError: if it could not be stored.
        """
        try:
            self._participant.depart(why, self.settings.timeout.close)
        finally:
            self._stop_keep_alive()

    # --- joining -------------------------------------------------------------------------------------------

    def _join(self) -> State:
        participant, seen, version, gap_s = self._participant, None, -1, GAP_MIN_S
        while participant.is_joining:
            decision, seen, is_moving = participant.advance(seen, self._prepare)
            if isinstance(decision.action, Enter):
                return seen.state
            if isinstance(decision.action, Stop):
                raise self._stop_error(decision.action.kind, decision.why, seen.state)
            if not is_moving:
                version, gap_s = seen.state.version, participant.pause(seen, gap_s)
                seen = participant.look()
            gap_s = GAP_MIN_S if is_moving or seen.state.version != version else gap_s
        raise RendezvousGracefulExitError("this node left while it was joining")

    def _prepare(self, action: Action, state: State) -> Action:
        if isinstance(action, Acknowledge) and state.members.get(self._participant.node_id) == 0:
            return replace(action, endpoint=self._worker_store.open(state.proposal))
        return action

    def _stop_error(self, kind: StopKind, why: str, state: State) -> RendezvousError:
        if kind is StopKind.NOT_NEEDED:
            return RendezvousGracefulExitError(why)
        if kind is StopKind.CLOSED:
            return RendezvousClosedError(why, outcome=state.closure.outcome if state.closure else None)
        if kind is StopKind.TIMED_OUT:
            return RendezvousTimeoutError(
                why,
                waited_s=self.settings.rules.join_timeout_s,
                arrived=len(state.standing(Standing.READY)),
                expected=state.min_nodes,
            )
        return RendezvousError(why)

    def _round_info(self, state: State) -> RendezvousInfo:
        assert state.endpoint is not None, "a complete round has an endpoint"
        rank = state.members[self._participant.node_id]
        store = PrefixStore(f"torch.rendezvous.{self.get_run_id()}.{state.round}", self._store_for_agents())
        if rank == 0:
            # Torch's agents leave them here, and other people's code has learned to look.
            store.set(RendezvousStoreInfo.MASTER_ADDR_KEY, state.endpoint.host)
            store.set(RendezvousStoreInfo.MASTER_PORT_KEY, str(state.endpoint.port))
        else:
            self._worker_store.close()
        bootstrap = RendezvousStoreInfo(state.endpoint.host, state.endpoint.port)
        return RendezvousInfo(store, rank, len(state.members), bootstrap, state.round)

    def _store_for_agents(self) -> Store:
        """Give the agents a connection of their own: without sessions, a blocked call may block others, beats too."""
        if self._agent_store is None:
            try:
                self._agent_store = self._store if has_sessions(self._store) else self._store.clone()
            except (AttributeError, RuntimeError):  # strangers that cannot; NotImplementedError is a RuntimeError
                self._agent_store = self._store
        return self._agent_store

    # --- leaving -------------------------------------------------------------------------------------------

    def _withdraw(self, error: BaseException) -> None:
        try:
            if not isinstance(error, ConnectionError):
                self._participant.depart(f"{type(error).__name__}: {error}", self.settings.timeout.close)
        except (RendezvousError, DistError, OSError) as trouble:
            # The first error is on its way up already; the others will drop this node when its beats stop.
            emit("rendezvous.trouble", f"withdrawing from run {self.get_run_id()!r} failed: {trouble}")
        finally:
            self._participant.stop_joining()
            self._stop_keep_alive()
            self._worker_store.close()

    def _start_keep_alive(self) -> None:
        if self._keep_alive is None:
            self._keep_alive = KeepAlive(self._participant, f"RendezvousKeepAliveTimer_{self._local_id}")
            weakref.finalize(self, self._keep_alive.stopper)
            self._keep_alive.start()

    def _stop_keep_alive(self) -> None:
        keep_alive, self._keep_alive = self._keep_alive, None
        if keep_alive is not None:
            keep_alive.stop(self.settings.timeout.heartbeat.total_seconds())

    def _close_agent_store(self) -> None:
        store, self._agent_store = self._agent_store, None
        if store is not None and store is not self._store and hasattr(store, "close"):
            store.close()


def create_handler(store: Store, backend: RendezvousBackend, params: RendezvousParameters) -> DynamicRendezvousHandler:
    """Make a handler from parameters, as a registry does.

    Args:
        store: what the agents of a round share keys in.
        backend: holds the state.
        params: the run, the bounds and the options (``RendezvousSettings.from_parameters``).

    Raises:
        ValueError: for an option that does not exist, and for bad values.
    """
    try:
        settings = RendezvousSettings.from_parameters(params)
        return DynamicRendezvousHandler(settings, backend, store, local_addr=params.local_addr)
    except Exception as error:
        emit("rendezvous.failed", f"run {params.run_id!r} cannot be joined: {error}", run_id=params.run_id)
        raise


def _as_news(verdict: Verdict) -> RoundNews:
    return RoundNews(RoundStatus(verdict.kind.value), verdict.why, verdict.outcome)
