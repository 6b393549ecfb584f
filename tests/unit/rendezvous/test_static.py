from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rallypoint import events
from rallypoint.errors import (
    ConnectionLostError,
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousGracefulExitError,
)
from rallypoint.rendezvous.handler import RendezvousInfo, RendezvousParameters, RendezvousStoreInfo, RoundStatus
from rallypoint.rendezvous.static import StaticTCPRendezvous, create_rdzv_handler
from rallypoint.store.hash import HashStore
from rallypoint.store.tcp import TCPStore

PATIENCE_S = 30.0


def parameters(endpoint: str | None, max_nodes: int = 1, **options: Any) -> RendezvousParameters:
    return RendezvousParameters("static", endpoint or "", "run", 1, max_nodes, **options)


def meet(*handlers: StaticTCPRendezvous) -> list[RendezvousInfo]:
    """Let all handlers rendezvous at the same time; give their rounds in the same order."""
    found: dict[int, RendezvousInfo | Exception] = {}

    def run(index: int) -> None:
        try:
            found[index] = handlers[index].next_rendezvous()
        except Exception as error:  # noqa: BLE001 - handed to the test
            found[index] = error

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(handlers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    infos = []
    for index in range(len(handlers)):
        answer = found[index]
        if isinstance(answer, Exception):
            raise answer
        infos.append(answer)
    return infos


def nodes(count: int = 2) -> list[StaticTCPRendezvous]:
    store = HashStore()
    return [StaticTCPRendezvous("h", 29500, rank, count, "run", PATIENCE_S, store=store) for rank in range(count)]


# --- making one ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["", None, "  "])
def test_an_endpoint_is_needed(endpoint: str | None) -> None:
    with pytest.raises(ValueError, match=r"no endpoint: name node 0 by --master-addr and --master-port"):
        create_rdzv_handler(parameters(endpoint, rank=0))


@pytest.mark.parametrize("endpoint", ["node0", "[::1]", "192.0.2.1"])
def test_a_port_is_needed(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"has no port: add it by --master-port, or write .*:29500$"):
        create_rdzv_handler(parameters(endpoint, rank=0))


def test_an_ipv6_address_needs_brackets() -> None:
    assert create_rdzv_handler(parameters("[::1]:29500", rank=0)).get_backend() == "static"
    with pytest.raises(ValueError, match="written in brackets"):
        create_rdzv_handler(parameters("2001:db8::1", rank=0))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "add it by --node-rank"),
        ({"rank": "x"}, "valid integer"),
        ({"rank": 2}, "the node rank of a static rendezvous is 2; it must be from 0 to 1"),
        ({"rank": -1}, "is -1; it must be"),
        ({"rank": 0, "timeout": "-3"}, "at least 0"),
    ],
)
def test_rank_and_timeout_are_checked(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        create_rdzv_handler(parameters("h:1", 2, **options))


def test_port_0_is_for_one_node() -> None:
    with pytest.raises(ValueError, match="2 nodes of a static rendezvous cannot find port 0"):
        create_rdzv_handler(parameters("localhost:0", 2, rank=0))


def test_making_a_handler_binds_and_connects_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        handler = create_rdzv_handler(parameters(f"127.0.0.1:{taken.getsockname()[1]}", rank="0", timeout=1))
        assert handler.get_run_id() == "run"
        assert handler.use_agent_store
        assert not handler.is_closed()
        assert handler.num_nodes_waiting() == 0
        handler.set_closed()
        handler.report_success()
        handler.report_failure("x", 1, final=True)
        handler.leave("x")
        assert handler.check_round().status is RoundStatus.OVER
        assert handler.shutdown()


# --- hosting ---------------------------------------------------------------------------------------------


@pytest.fixture
def alone() -> Iterator[StaticTCPRendezvous]:
    handler = create_rdzv_handler(parameters("127.0.0.1:0", rank=0, timeout=PATIENCE_S))
    yield handler
    handler.shutdown()


def test_one_node_alone_meets_again_and_again(alone: StaticTCPRendezvous) -> None:
    first, second = alone.next_rendezvous(), alone.next_rendezvous()
    for number, info in enumerate((first, second)):
        assert (info.rank, info.world_size, info.round) == (0, 1, number)
    where = first.bootstrap_store_info
    assert where == second.bootstrap_store_info
    assert where.master_addr == "127.0.0.1"
    with TCPStore(where.master_addr, where.master_port, wait_for_workers=False, timeout=PATIENCE_S) as worker:
        worker.set("key", "value")
        assert worker.get("key") == b"value"


def test_workers_of_a_new_round_do_not_read_what_the_last_ones_wrote(alone: StaticTCPRendezvous) -> None:
    where = alone.next_rendezvous().bootstrap_store_info
    with TCPStore(where.master_addr, where.master_port, wait_for_workers=False, timeout=PATIENCE_S) as worker:
        worker.set("address", "old")
        assert worker.check(["address"])
        alone.next_rendezvous()
        assert not worker.check(["address"])


def test_nodes_meet_at_the_server_of_node_0() -> None:
    with TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) as server:
        endpoint = f"127.0.0.1:{server.port}"  # served already, so node 0 becomes a client too
        pair = [create_rdzv_handler(parameters(endpoint, 2, rank=rank, timeout=PATIENCE_S)) for rank in range(2)]
        infos = meet(*pair)
        assert [(info.rank, info.world_size, info.round) for info in infos] == [(0, 2, 0), (1, 2, 0)]
        assert {(info.bootstrap_store_info.master_port) for info in infos} == {server.port}
        infos[0].store.set("key", "value")
        assert infos[1].store.get("key") == b"value"
        assert [handler.shutdown() for handler in pair] == [True, True]


def test_a_port_held_by_something_else_is_a_connection_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        handler = create_rdzv_handler(parameters(f"127.0.0.1:{port}", rank=0, timeout="0.3"))
        with pytest.raises(RendezvousConnectionError, match=rf"store of run 'run' at 127\.0\.0\.1:{port} cannot be"):
            handler.next_rendezvous()


def test_the_store_host_ends_when_all_know_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    pair = [create_rdzv_handler(parameters(f"127.0.0.1:{port}", 2, rank=rank, timeout=PATIENCE_S)) for rank in range(2)]
    meet(*pair)
    pair[0].set_closed()
    ending = threading.Thread(target=pair[0].shutdown, daemon=True)
    ending.start()
    assert pair[1].wait_for_news(PATIENCE_S).status is RoundStatus.CLOSED
    assert pair[1].shutdown()
    ending.join(PATIENCE_S)
    assert not ending.is_alive()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), PATIENCE_S).close()


# --- together --------------------------------------------------------------------------------------------


def test_workers_get_the_address_as_the_user_gave_it() -> None:
    for info in meet(*nodes(3)):
        assert info.bootstrap_store_info == RendezvousStoreInfo("h", 29500)


def test_a_failure_on_one_node_is_news_for_the_others() -> None:
    pair = nodes()
    meet(*pair)
    assert pair[1].check_round().status is RoundStatus.CURRENT
    pair[0].report_failure("worker 1 died", -9, final=False)
    news = pair[1].wait_for_news(PATIENCE_S)
    assert news.status is RoundStatus.OVER
    assert news.why == "node 0: worker 1 died (exit code -9)"
    assert [info.round for info in meet(*pair)] == [1, 1]
    assert pair[1].check_round().status is RoundStatus.CURRENT


def test_a_failure_without_restarts_left_ends_the_run() -> None:
    pair = nodes()
    meet(*pair)
    pair[1].report_failure("worker 3 ended with exit code 42", 42, final=True)
    news = pair[0].wait_for_news(PATIENCE_S)
    assert (news.status, news.outcome) == (RoundStatus.CLOSED, "failed")
    assert news.why == "node 1: worker 3 ended with exit code 42"
    assert pair[0].is_closed()
    with pytest.raises(RendezvousClosedError):
        pair[0].next_rendezvous()


def test_the_run_succeeds_when_every_node_has() -> None:
    pair = nodes()
    meet(*pair)
    pair[0].report_success()
    pair[0].report_success()
    assert pair[1].check_round().status is RoundStatus.CURRENT
    pair[1].report_success()
    for handler in pair:
        news = handler.wait_for_news(PATIENCE_S)
        assert (news.status, news.outcome) == (RoundStatus.CLOSED, "succeeded")


def test_success_in_an_ended_round_does_not_count_in_the_next() -> None:
    pair = nodes()
    meet(*pair)
    pair[0].report_success()
    pair[1].report_failure("worker 3 died", 1, final=False)
    meet(*pair)
    pair[1].report_success()
    assert pair[0].check_round().status is RoundStatus.CURRENT
    pair[0].report_success()
    assert pair[0].check_round().outcome == "succeeded"


def test_a_node_that_leaves_ends_the_round() -> None:
    pair = nodes()
    meet(*pair)
    pair[1].leave("drained")
    assert pair[0].wait_for_news(PATIENCE_S).why == "node 1 left: drained"


def test_told_to_close_the_run_closes() -> None:
    pair = nodes()
    meet(*pair)
    pair[1].set_closed()
    pair[1].set_closed()
    assert pair[0].check_round().outcome == "closed"


def test_waiting_for_news_ends_when_the_time_is_up() -> None:
    pair = nodes()
    meet(*pair)
    assert pair[0].wait_for_news(0.01).status is RoundStatus.CURRENT
    assert pair[0].wait_for_news(0).status is RoundStatus.CURRENT


def test_a_node_that_still_connects_shuts_down_at_once_and_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, freed, closed = threading.Event(), threading.Event(), threading.Event()

    class SlowStore(HashStore):
        def __init__(self, *_args: Any, **_options: Any) -> None:
            super().__init__()
            begun.set()
            assert freed.wait(PATIENCE_S)

        def close(self) -> None:
            closed.set()

    monkeypatch.setattr("rallypoint.store.tcp.TCPStore", SlowStore)
    handler = StaticTCPRendezvous("127.0.0.1", 29500, 1, 2, "run", PATIENCE_S)
    errors: list[Exception] = []

    def join() -> None:
        try:
            handler.next_rendezvous()
        except RendezvousGracefulExitError as error:
            errors.append(error)

    thread = threading.Thread(target=join)
    thread.start()
    assert begun.wait(PATIENCE_S)
    assert handler.shutdown()
    freed.set()
    thread.join(PATIENCE_S)
    assert [str(error) for error in errors] == ["node 1 was shut down while it was connecting to 127.0.0.1:29500"]
    assert closed.is_set()


def test_a_store_that_was_lent_is_not_closed() -> None:
    store = HashStore()
    handler = StaticTCPRendezvous("h", 1, 0, 1, "run", PATIENCE_S, store=store)
    handler.next_rendezvous()
    assert handler.shutdown()
    store.set("key", "value")
    assert handler.shutdown()


def test_shutting_down_on_a_store_that_fails_is_no_success() -> None:
    class Failing(HashStore):
        is_gone = False

        def set(self, *arguments: Any) -> None:
            if self.is_gone:
                raise ConnectionLostError("the peer is gone")
            super().set(*arguments)

    store = Failing()
    handler = StaticTCPRendezvous("h", 1, 0, 1, "run", PATIENCE_S, store=store)
    handler.next_rendezvous()
    store.is_gone = True
    assert handler.shutdown() is False


def test_a_round_that_opens_is_an_event() -> None:
    heard: list[events.Event] = []

    def sink(event: events.Event) -> None:
        heard.append(event)

    events.subscribe(sink)
    try:
        meet(*nodes(1))
    finally:
        events.unsubscribe(sink)
    (event,) = heard
    assert event.name == "rendezvous.joined"
    assert event.message == "round 0 of run 'run' is complete: this is node 0 of 1"
