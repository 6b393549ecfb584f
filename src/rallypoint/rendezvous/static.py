"""Fixed ranks at a fixed address: every node knows its rank and where the store is; node 0 hosts it.

One TCPStore serves agents and workers alike. How its nodes begin and end rounds together is told in ``rounds``.
"""

from __future__ import annotations

import errno
import threading

from rallypoint.clock import Deadline
from rallypoint.errors import (
    BindError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousGracefulExitError,
)
from rallypoint.events import emit
from rallypoint.rendezvous.endpoint import parse_rendezvous_endpoint
from rallypoint.rendezvous.handler import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    RoundNews,
    RoundStatus,
)
from rallypoint.rendezvous.patience import told_if_slow
from rallypoint.rendezvous.rounds import FixedRounds
from rallypoint.store.base import Store
from rallypoint.store.bootstrap import open_endpoint
from rallypoint.store.tcp import TCPStore
from rallypoint.types import Endpoint

__all__ = ["StaticTCPRendezvous", "create_rdzv_handler"]

_TIMEOUT_S = 600.0
_LINGER_S = 5.0  # how long the store host stays for nodes that have yet to hear how the run ended
_NO_PORT = -1


class StaticTCPRendezvous(RendezvousHandler):
    """Meets at a fixed address with fixed ranks.

    Creating it binds and connects nothing; the first ``next_rendezvous`` does. If the port is served already, by an
    earlier store of this process or by a store server that runs for itself, node 0 becomes its client.

    Args:
        master_addr: host name or address of node 0 as all nodes reach it; IPv6 without brackets.
        master_port: the TCP port of the store; 0 only if there is one node.
        rank: this node's rank, 0 and up.
        world_size: the number of nodes.
        run_id: the name of the run.
        timeout: how long ``next_rendezvous`` waits, in seconds.
        store: a store to meet in instead; node 0 then hosts nothing, and ``shutdown`` does not close it.

    Raises:
        ValueError: if rank, world size and port make no sense together.

    Source: the arguments and what a caller sees as observed in torch 2.13.0; the keys are ours.
    """

    def __init__(  # noqa: PLR0917 - torch's signature
        self,
        master_addr: str,
        master_port: int,
        rank: int,
        world_size: int,
        run_id: str,
        timeout: float,
        *,
        store: Store | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"the node rank of a static rendezvous is {rank}; it must be from 0 to {world_size - 1}")
        if master_port == 0 and world_size > 1:
            raise ValueError(f"{world_size} nodes of a static rendezvous cannot find port 0: name a port")
        self._master = Endpoint(master_addr, master_port)
        self._rank = rank
        self._world_size = world_size
        self._run_id = run_id
        self._timeout_s = timeout
        self._is_host = False
        self._lends_store = store is not None
        self._rounds = None if store is None else self._rounds_in(store)
        self._round: int | None = None  # the round that this node is in, or was in last
        self._has_succeeded = False
        self._shutdowns = 0
        self._lock = threading.Lock()  # guards the four above; never held while the store is asked

    # --- torch's methods ---------------------------------------------------------------------------------

    def get_backend(self) -> str:
        """``static``."""
        return "static"

    @property
    def use_agent_store(self) -> bool:
        """Workers use the store that node 0 hosts."""
        return True

    def get_run_id(self) -> str:
        """See the base class."""
        return self._run_id

    def next_rendezvous(self) -> RendezvousInfo:
        """See the base class; the node gets the rank that it was made with, and the others meet again with it.

        Raises:
            RendezvousError: if another agent has this node's rank, or took it over.
        """
        deadline = Deadline(self._timeout_s)
        rounds = self._open(deadline)
        if self._round is None:
            rounds.take_rank()
        else:
            rounds.end(self._round, f"node {self._rank} meets again")
        number = rounds.join(deadline)
        with self._lock:
            self._round, self._has_succeeded = number, False
        emit(
            "rendezvous.joined",
            f"round {number} of run {self._run_id!r} is complete: this is node {self._rank} of {self._world_size}",
            backend="static",
            run_id=self._run_id,
            round=number,
            rank=self._rank,
            world_size=self._world_size,
        )
        port = rounds.store.port if isinstance(rounds.store, TCPStore) else self._master.port
        return RendezvousInfo(
            rounds.store_of(number),
            self._rank,
            self._world_size,
            RendezvousStoreInfo(self._master.host, port),
            number,
        )

    def is_closed(self) -> bool:
        """See the base class; a node that has not met anybody yet knows of no end."""
        return self._rounds is not None and self._rounds.closing() is not None

    def set_closed(self) -> None:
        """See the base class; a node that has not met anybody yet has nobody to tell."""
        if self._rounds is not None:
            self._rounds.close("closed", f"node {self._rank} closed the run")

    def num_nodes_waiting(self) -> int:
        """Give 0: all nodes of a static rendezvous are in every round."""
        return 0

    def shutdown(self) -> bool:
        """See the base class; once the run is closed, the store host stays a few seconds until all know."""
        with self._lock:
            self._shutdowns += 1
            rounds, self._rounds = self._rounds, self._rounds if self._lends_store else None
        if rounds is None:
            return True  # who is still connecting has nobody to say goodbye to, and gives up by itself
        rounds.is_leaving = True
        try:
            if self._round is not None:
                rounds.say_goodbye()
                if self._is_host and rounds.closing() is not None:
                    rounds.await_goodbyes(_LINGER_S)
        except RendezvousError:
            return False
        finally:
            if not self._lends_store:
                rounds.store.close()
        return True

    # --- what our agent asks -----------------------------------------------------------------------------

    def check_round(self) -> RoundNews:
        """See the base class."""
        rounds, number = self._rounds, self._round
        if rounds is None or number is None:
            return RoundNews(RoundStatus.OVER, "this node has not joined a round yet")
        verdict = rounds.verdict(number)
        if verdict is None:
            return RoundNews(RoundStatus.CURRENT, f"round {number} goes on")
        if verdict.outcome is None:
            return RoundNews(RoundStatus.OVER, verdict.why)
        return RoundNews(RoundStatus.CLOSED, verdict.why, verdict.outcome)

    def wait_for_news(self, timeout_s: float) -> RoundNews:
        """See the base class; the news end the wait at once."""
        rounds, number = self._rounds, self._round
        if rounds is not None and number is not None and timeout_s > 0:
            rounds.await_verdict(number, timeout_s)
        return self.check_round()

    def report_success(self) -> None:
        """See the base class; telling it again in the same round changes nothing."""
        with self._lock:
            rounds, number, is_known = self._rounds, self._round, self._has_succeeded
            self._has_succeeded = True
        if rounds is None or number is None or is_known:
            return
        if rounds.count_success(number) == self._world_size:
            rounds.close("succeeded", f"the workers of all {self._world_size} nodes ended well in round {number}")

    def report_failure(self, message: str, exit_code: int, final: bool) -> None:
        """See the base class; the other nodes hear of it at once."""
        code = f"exit code {exit_code}"
        why = f"node {self._rank}: {message}" + ("" if code in message else f" ({code})")
        rounds, number = self._rounds, self._round
        if rounds is None or number is None:
            return
        if final:
            rounds.close("failed", why)
        else:
            rounds.end(number, why)

    def leave(self, why: str) -> None:
        """See the base class; the others stop their workers and wait for an agent with this rank to come back."""
        if self._rounds is not None:
            self._rounds.is_leaving = True
        if self._rounds is not None and self._round is not None:
            self._rounds.end(self._round, f"node {self._rank} left: {why}")

    # --- the store ---------------------------------------------------------------------------------------

    def _rounds_in(self, store: Store) -> FixedRounds:
        return FixedRounds(store, str(self._master), self._run_id, self._rank, self._world_size)

    def _open(self, deadline: Deadline) -> FixedRounds:
        with self._lock:
            rounds, shutdowns = self._rounds, self._shutdowns
        if rounds is not None:
            rounds.is_leaving = False
            return rounds
        try:
            with told_if_slow(self._master, self._timeout_s, self._run_id):
                store = self._host_store(deadline) if self._rank == 0 else self._connect(deadline, is_host=False)
        except (OSError, RuntimeError) as error:
            raise RendezvousConnectionError(
                f"the store of run {self._run_id!r} at {self._master} cannot be reached: {error}"
            ) from error
        rounds = self._rounds_in(store)
        with self._lock:
            if self._shutdowns == shutdowns:
                self._rounds = rounds
                return rounds
        store.close()
        raise RendezvousGracefulExitError(f"node {self._rank} was shut down while it was connecting to {self._master}")

    def _host_store(self, deadline: Deadline) -> TCPStore:
        try:
            store = self._connect(deadline, is_host=True)
        except BindError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return self._connect(deadline, is_host=False)  # there is a server already, or what listens is none
        self._is_host = True
        return store

    def _connect(self, deadline: Deadline, *, is_host: bool) -> TCPStore:
        store = open_endpoint(self._master, is_host, timeout=deadline.remaining_s())
        store.set_timeout(self._timeout_s)
        return store


def create_rdzv_handler(params: RendezvousParameters) -> StaticTCPRendezvous:
    """Make the handler of one node.

    Options (``params.config``): ``rank``, this node's rank; ``timeout``, how long to wait for the others, in seconds
    (default 600).

    Args:
        params: the endpoint is ``host:port`` of node 0, with the port; ``max_nodes`` is the number of nodes.

    Raises:
        ValueError: if the endpoint, its port or the rank is missing or wrong.
    """
    if not (params.endpoint or "").strip():
        raise ValueError(
            "the static rendezvous has no endpoint: name node 0 by --master-addr and --master-port, or by "
            "--rdzv-endpoint=host:port"
        )
    host, port = parse_rendezvous_endpoint(params.endpoint, _NO_PORT)
    if port == _NO_PORT:
        raise ValueError(
            f"the endpoint '{params.endpoint}' of the static rendezvous has no port: add it by --master-port, or "
            f"write {Endpoint(host, 29500)}"
        )
    rank = params.get_as_int("rank")
    if rank is None:
        raise ValueError("the static rendezvous does not know this node's rank: add it by --node-rank")
    timeout_s = params.get_as_seconds("timeout")
    return StaticTCPRendezvous(
        host, port, rank, params.max_nodes, params.run_id, _TIMEOUT_S if timeout_s is None else timeout_s
    )
