from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from tests.support.rendezvous_backends import MemoryBackend

from rallypoint import events
from rallypoint.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousStateError,
    RendezvousTimeoutError,
)
from rallypoint.rendezvous.dynamic import (
    DynamicRendezvousHandler,
    RendezvousSettings,
    RendezvousTimeout,
    create_handler,
)
from rallypoint.rendezvous.handler import RendezvousInfo, RendezvousParameters, RoundStatus
from rallypoint.rendezvous.state import State, decode_state
from rallypoint.store.hash import HashStore

WAIT_S = 60.0


class FakeServer:
    def __init__(self, port: int) -> None:
        self.port = port
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Job:
    """Nodes of one run in one process: a thread for each call that blocks."""

    def __init__(self) -> None:
        self.backend = MemoryBackend()
        self.store = HashStore()
        self.servers: list[FakeServer] = []
        self.handlers: list[DynamicRendezvousHandler] = []
        self.pool = ThreadPoolExecutor(16)

    def serve(self, _host: str) -> FakeServer:
        self.servers.append(FakeServer(4000 + len(self.servers)))
        return self.servers[-1]

    def node(self, min_nodes: int, max_nodes: int, name: str = "node1", **fields: Any) -> DynamicRendezvousHandler:
        timeout = RendezvousTimeout(join=fields.pop("join", WAIT_S), last_call=fields.pop("last_call", 0.05))
        settings = RendezvousSettings("run", min_nodes, max_nodes, timeout, **fields)
        handler = DynamicRendezvousHandler(settings, self.backend, self.store, local_addr=name, serve=self.serve)
        self.handlers.append(handler)
        return handler

    def joining(self, handler: DynamicRendezvousHandler) -> Future[RendezvousInfo]:
        return self.pool.submit(handler.next_rendezvous)

    def join(self, *handlers: DynamicRendezvousHandler) -> list[RendezvousInfo]:
        return [future.result(WAIT_S) for future in [self.joining(handler) for handler in handlers]]

    @property
    def state(self) -> State:
        assert self.backend.data is not None
        return decode_state(self.backend.data)

    def wait_for_state(self, is_so: Callable[[State], bool]) -> None:
        pause = threading.Event()
        for _ in range(int(WAIT_S / 0.01)):
            if self.backend.data is not None and is_so(self.state):
                return
            pause.wait(0.01)
        raise AssertionError(f"it did not happen: {self.state}")


@pytest.fixture
def job() -> Iterator[Job]:
    job = Job()
    yield job
    job.backend.break_with(None)
    shutdowns = [job.pool.submit(handler.shutdown) for handler in job.handlers]
    job.pool.shutdown(wait=True)
    assert all(done.result() for done in shutdowns)


# --- meeting ---


def test_nodes_meet_and_read_one_descriptor(job: Job) -> None:
    infos = job.join(*(job.node(3, 3, f"node{n}") for n in (10, 2, 1)))
    assert [info.rank for info in infos] == [2, 1, 0]
    assert {info.world_size for info in infos} == {3}
    assert {info.round for info in infos} == {0}
    assert {(i.bootstrap_store_info.master_addr, i.bootstrap_store_info.master_port) for i in infos} == {
        ("node1", 4000)
    }


def test_the_rounds_store_has_torchs_prefix_and_tells_the_master(job: Job) -> None:
    (info,) = job.join(job.node(1, 1))
    info.store.set("key", "value")
    assert job.store.get("torch.rendezvous.run.0/key") == b"value"
    assert job.store.get("torch.rendezvous.run.0/MASTER_ADDR") == b"node1"
    assert job.store.get("torch.rendezvous.run.0/MASTER_PORT") == b"4000"


def test_each_round_has_keys_and_a_workers_store_of_its_own(job: Job) -> None:
    node = job.node(1, 1)
    (first,) = job.join(node)
    first.store.set("key", "old")
    (second,) = job.join(node)
    assert second.round == 1
    assert not second.store.check(["key"])
    assert second.bootstrap_store_info.master_port == 4001
    assert [server.is_closed for server in job.servers] == [True, False]


def test_the_workers_store_moves_with_rank_0(job: Job) -> None:
    first, second = job.node(1, 2, "node1"), job.node(1, 2, "node2")
    before = job.join(first, second)
    first.leave("told to")
    (info,) = job.join(second)
    assert (info.rank, info.bootstrap_store_info.master_addr) == (0, "node2")
    assert info.bootstrap_store_info.master_port != before[0].bootstrap_store_info.master_port


def test_a_rank_that_was_wished_for_is_given(job: Job) -> None:
    infos = job.join(job.node(2, 2, "node1"), job.node(2, 2, "node2", rank_wish=0))
    assert [info.rank for info in infos] == [1, 0]


def test_without_sharing_no_server_is_started(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    node = job.node(1, 1)
    (info,) = job.join(node)
    assert (node.use_agent_store, job.servers) == (False, [])
    assert 0 < info.bootstrap_store_info.master_port < 65536


def test_a_handler_tells_who_it_is(job: Job) -> None:
    node = job.node(1, 1)
    assert (node.get_backend(), node.get_run_id(), node.use_agent_store) == ("memory", "run", True)
    assert node.settings.min_nodes == 1


# --- news ---


def test_a_failure_reaches_the_others_and_all_meet_again(job: Job) -> None:
    first, second = job.node(2, 2, "node1"), job.node(2, 2, "node2")
    job.join(first, second)
    second.report_failure("boom", 3, final=False)
    status, why, outcome = first.wait_for_news(WAIT_S)
    assert (status, outcome) == (RoundStatus.OVER, None)
    assert why.endswith("(node 1) failed in round 0 with exit code 3: boom")
    assert {info.round for info in job.join(first, second)} == {1}


def test_a_final_failure_closes_the_run(job: Job) -> None:
    first, second = job.node(2, 2, "node1"), job.node(2, 2, "node2")
    job.join(first, second)
    second.report_failure("boom", 3, final=True)
    assert first.wait_for_news(WAIT_S)[::2] == (RoundStatus.CLOSED, "failed")
    assert second.check_round().status is RoundStatus.CLOSED
    with pytest.raises(RendezvousClosedError, match=r"the run has failed: .*boom") as caught:
        job.join(first)
    assert caught.value.outcome == "failed"


def test_the_run_succeeds_with_its_last_node(job: Job) -> None:
    first, second = job.node(2, 2, "node1"), job.node(2, 2, "node2")
    job.join(first, second)
    first.report_success()
    assert first.check_round().status is RoundStatus.CURRENT
    second.report_success()
    assert first.wait_for_news(WAIT_S)[::2] == (RoundStatus.CLOSED, "succeeded")
    assert first.is_closed()


def test_reports_without_a_round_tell_nobody(job: Job) -> None:
    node = job.node(1, 1)
    node.report_success()
    node.report_failure("boom", 1, final=True)
    assert job.backend.version == 0


def test_a_newcomer_is_news_and_gets_in(job: Job) -> None:
    first, second = job.node(1, 2, "node1"), job.node(1, 2, "node2")
    job.join(first)
    assert first.num_nodes_waiting() == 0
    late = job.joining(second)
    assert first.wait_for_news(WAIT_S).status is RoundStatus.OVER
    assert first.num_nodes_waiting() == 1
    (info,) = job.join(first)
    assert (info.rank, info.world_size, late.result(WAIT_S).rank) == (0, 2, 1)


def test_leaving_is_news_for_the_others_and_does_not_close_the_run(job: Job) -> None:
    first, second = job.node(1, 2, "node1"), job.node(1, 2, "node2")
    job.join(first, second)
    second.leave("SIGTERM")
    assert first.wait_for_news(WAIT_S).why.endswith("left: SIGTERM")
    assert not first.is_closed()
    assert job.join(first)[0].world_size == 1


def test_a_spare_takes_the_place_of_a_node_that_is_gone(job: Job) -> None:
    nodes = [job.node(2, 2, f"node{n}", keep_alive_interval=RendezvousTimeout(1).join) for n in range(3)]
    job.join(*nodes[:2])
    spare = job.joining(nodes[2])
    job.wait_for_state(lambda state: len(state.nodes) == 3)
    assert nodes[0].check_round().status is RoundStatus.CURRENT
    nodes[1].leave("told to")
    assert nodes[0].wait_for_news(WAIT_S).status is RoundStatus.OVER
    (info,) = job.join(nodes[0])
    assert (info.world_size, spare.result(WAIT_S).world_size) == (2, 2)


def test_a_spare_ends_well_when_the_run_does(job: Job) -> None:
    node = job.node(1, 1, "node1")
    job.join(node)
    spare = job.joining(job.node(1, 1, "node2"))
    job.wait_for_state(lambda state: len(state.nodes) == 2)
    node.report_success()
    with pytest.raises(RendezvousGracefulExitError, match="the run has succeeded"):
        spare.result(WAIT_S)


# --- ends ---


def test_closing_is_for_everybody_and_may_be_repeated(job: Job) -> None:
    first, second = job.node(1, 2, "node1"), job.node(1, 2, "node2")
    first.set_closed()
    first.set_closed()
    assert second.is_closed()
    with pytest.raises(RendezvousClosedError, match=r"the run was closed: node1#\w{6} closed the run"):
        job.join(second)


def test_too_few_nodes_end_in_an_error_with_the_counts(job: Job) -> None:
    with pytest.raises(RendezvousTimeoutError, match=r"for 2 nodes in round 0, 1 ready: node1#") as caught:
        job.join(job.node(2, 2, join=0.1))
    assert (caught.value.arrived, caught.value.expected) == (1, 2)
    assert isinstance(caught.value, TimeoutError)
    assert job.state.nodes == {}, "who gives up holds nobody up"


def test_a_node_that_was_told_other_bounds_is_refused(job: Job) -> None:
    job.join(job.node(1, 1))
    with pytest.raises(RendezvousError, match="told 2 nodes, the run has 1"):
        job.join(job.node(2, 2))


def test_a_foreign_state_is_an_error_of_its_own_kind(job: Job) -> None:
    job.backend.set_state(b"\x80\x04pickle")
    with pytest.raises(RendezvousStateError, match="pickle"):
        job.join(job.node(1, 1))
    job.backend.erase()


def test_a_backend_that_is_gone_is_an_error_and_later_an_end(job: Job) -> None:
    node = job.node(1, 1)
    job.join(node)
    job.backend.break_with(RendezvousConnectionError("gone"))
    with pytest.raises(RendezvousConnectionError, match="gone"):
        node.wait_for_news(WAIT_S)
    with pytest.raises(RendezvousConnectionError):
        job.join(node)
    assert node.shutdown() is False


def test_a_server_that_cannot_start_leaves_no_ghost_behind(job: Job) -> None:
    def fail(_host: str) -> FakeServer:
        raise OSError("no port is free")

    settings = RendezvousSettings("run", 1, 1)
    node = DynamicRendezvousHandler(settings, job.backend, job.store, local_addr="node1", serve=fail)
    with pytest.raises(OSError, match="no port is free"):
        node.next_rendezvous()
    assert job.state.nodes == {}
    assert job.state.news[-1].message.endswith("left: OSError: no port is free")


def test_shutting_down_leaves_and_does_not_close(job: Job) -> None:
    first, second = job.node(1, 2, "node1"), job.node(1, 2, "node2")
    job.join(first, second)
    assert first.shutdown() is True
    assert first.shutdown() is True
    assert job.servers[0].is_closed
    assert second.wait_for_news(WAIT_S).why.endswith("left: it shut down")
    assert not second.is_closed()


def test_errors_that_are_nobodys_business_pass_through_a_shutdown(job: Job) -> None:
    node = job.node(1, 1)
    job.join(node)
    job.backend.break_with(ZeroDivisionError("odd"))
    with pytest.raises(ZeroDivisionError):
        node.shutdown()


# --- threads and objects ---


def keepers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("RendezvousKeepAliveTimer_")]


def test_the_keep_alive_thread_lives_from_joining_to_shutdown(job: Job) -> None:
    before = keepers()
    node = job.node(1, 1)
    assert keepers() == before
    job.join(node)
    assert len(keepers()) == len(before) + 1
    node.shutdown()
    assert keepers() == before


def test_a_handler_that_nobody_needs_can_be_collected_and_its_thread_ends() -> None:
    job = Job()
    node = job.node(1, 1)
    job.join(node)
    job.pool.shutdown()
    job.handlers.clear()
    name = f"RendezvousKeepAliveTimer_{node._local_id}"
    ghost = weakref.ref(node)
    del node
    gc.collect()
    assert ghost() is None
    pause = threading.Event()
    while name in keepers():
        pause.wait(0.01)


def test_a_store_that_can_clone_gives_the_agents_a_connection_of_their_own(job: Job) -> None:
    class Cloning(HashStore):
        def __init__(self) -> None:
            super().__init__()
            self.twins: list[HashStore] = []

        def clone(self) -> HashStore:
            self.twins.append(Twin())
            return self.twins[-1]

    class Twin(HashStore):
        is_closed = False

        def close(self) -> None:
            self.is_closed = True

    job.store = store = Cloning()
    node = job.node(1, 1)
    infos = job.join(node) + job.join(node)
    infos[1].store.set("key", "value")
    (twin,) = store.twins
    assert twin.get("torch.rendezvous.run.1/key") == b"value"
    node.shutdown()
    assert isinstance(twin, Twin)
    assert twin.is_closed


# --- making one ---


def test_from_backend_takes_torchs_arguments() -> None:
    handler = DynamicRendezvousHandler.from_backend(
        "run", HashStore(), MemoryBackend(), 1, 2, "node7", RendezvousTimeout(join=9), 0.5, 4
    )
    rules = handler.settings.rules
    assert (rules.min_nodes, rules.max_nodes, rules.join_timeout_s) == (1, 2, 9.0)
    assert (rules.keep_alive_interval_s, rules.keep_alive_max_attempt) == (0.5, 4)


@pytest.mark.parametrize(("run_id", "least", "most"), [("", 1, 1), ("run", 0, 1), ("run", 2, 1)])
def test_from_backend_refuses_what_makes_no_sense(run_id: str, least: int, most: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        DynamicRendezvousHandler.from_backend(run_id, HashStore(), MemoryBackend(), least, most)


def test_create_handler_reads_the_options() -> None:
    params = RendezvousParameters("memory", "", "run", 1, 2, "node7", join_timeout="1.5", timeout=900)
    handler = create_handler(HashStore(), MemoryBackend(), params)
    assert handler.settings.rules.join_timeout_s == 1.5


def test_create_handler_tells_what_is_wrong_as_an_event_too() -> None:
    told: list[events.Event] = []
    events.subscribe(told.append)
    try:
        params = RendezvousParameters("memory", "", "run", 1, 2, join_timout=1)
        with pytest.raises(ValueError, match="did you mean 'join_timeout'"):
            create_handler(HashStore(), MemoryBackend(), params)
    finally:
        events.unsubscribe(told.append)
    assert [event.name for event in told] == ["rendezvous.failed"]
