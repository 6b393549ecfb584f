from __future__ import annotations

import socket
import threading
from typing import Any, cast

import pytest

from rallypoint.rendezvous.handler import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousStoreInfo,
    RoundNews,
    RoundStatus,
)
from rallypoint.testing.clock import ManualClock

PATIENCE_S = 30.0


# --- a round ---------------------------------------------------------------------------------------------


class DictStore:
    """As much of a store as two threads need to pass an address."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._changed = threading.Condition()

    def set(self, key: str, value: str) -> None:
        with self._changed:
            self._values[key] = value.encode()
            self._changed.notify_all()

    def get(self, key: str) -> bytes:
        with self._changed:
            assert self._changed.wait_for(lambda: key in self._values, PATIENCE_S)
            return self._values[key]


def build(rank: int, store: DictStore, addr: str | None, port: int | None = None) -> RendezvousStoreInfo:
    return RendezvousStoreInfo.build(rank, cast("Any", store), addr, port)


def test_node_0_publishes_the_address_and_others_read_it() -> None:
    store = DictStore()
    seen: list[RendezvousStoreInfo] = []
    other = threading.Thread(target=lambda: seen.append(build(1, store, "not this one", 1)))
    other.start()
    assert build(0, store, "10.0.0.1", 4321) == RendezvousStoreInfo("10.0.0.1", 4321)
    other.join(PATIENCE_S)
    assert seen == [RendezvousStoreInfo("10.0.0.1", 4321)]


def test_node_0_without_address_and_port_gives_its_full_name_and_a_free_port() -> None:
    store = DictStore()
    info = build(0, store, None)
    assert info.master_addr == socket.getfqdn()
    assert 0 < info.master_port < 65536
    assert build(1, store, None) == info


def test_a_round_is_read_only_and_prints_itself() -> None:
    where = RendezvousStoreInfo("h", 1)
    store = cast("Any", DictStore())
    info = RendezvousInfo(store, 1, 2, where, 7)
    assert (info.store, info.rank, info.world_size, info.round) == (store, 1, 2, 7)
    assert info.bootstrap_store_info is where
    assert RendezvousInfo(store, 0, 1, where).round == 0
    with pytest.raises(AttributeError):
        info.rank = 3  # type: ignore[misc]
    assert repr(info) == "RendezvousInfo(round=7, rank=1, world_size=2)"


# --- a handler that knows only torch's methods -----------------------------------------------------------


class OldHandler(RendezvousHandler):
    def __init__(self) -> None:
        self._clock = self.clock = ManualClock()
        self.closes_at = self.waits_from = float("inf")
        self.closed_by_us = 0

    def get_backend(self) -> str:
        return "old"

    def next_rendezvous(self) -> RendezvousInfo:
        raise NotImplementedError

    def is_closed(self) -> bool:
        return self.clock.now() >= self.closes_at

    def set_closed(self) -> None:
        self.closed_by_us += 1

    def num_nodes_waiting(self) -> int:
        return 2 if self.clock.now() >= self.waits_from else 0

    def get_run_id(self) -> str:
        return "run"

    def shutdown(self) -> bool:
        return True


def test_news_are_made_from_closed_and_waiting() -> None:
    handler = OldHandler()
    assert handler.check_round().status is RoundStatus.CURRENT
    handler.waits_from = 0.0
    assert handler.check_round() == RoundNews(RoundStatus.OVER, "2 nodes wait to join", None)
    handler.closes_at = 0.0
    assert handler.check_round() == RoundNews(RoundStatus.CLOSED, "the run was closed", "closed")


def test_waiting_for_news_ends_with_the_news() -> None:
    handler = OldHandler()
    handler.waits_from = 2.2
    assert handler.wait_for_news(60.0).status is RoundStatus.OVER
    assert 2.2 <= handler.clock.now() <= 3.0


def test_waiting_for_news_ends_when_the_time_is_up() -> None:
    handler = OldHandler()
    assert handler.wait_for_news(1.2).status is RoundStatus.CURRENT
    assert handler.clock.now() == pytest.approx(1.2)
    assert handler.wait_for_news(0).status is RoundStatus.CURRENT
    assert handler.clock.now() == pytest.approx(1.2)


def test_reports_fall_back_to_closing() -> None:
    handler = OldHandler()
    assert handler.use_agent_store is False
    handler.report_success()
    handler.report_going("told to")
    handler.leave("told to")
    handler.report_failure("worker 0 failed", 1, final=False)
    assert handler.closed_by_us == 0
    handler.report_failure("worker 0 failed", 1, final=True)
    assert handler.closed_by_us == 1
