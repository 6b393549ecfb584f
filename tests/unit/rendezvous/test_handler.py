from __future__ import annotations

import socket
import threading
from datetime import timedelta
from typing import Any, cast

import pytest

from rallypoint.rendezvous.handler import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    RoundNews,
    RoundStatus,
)
from rallypoint.testing.clock import ManualClock

PATIENCE_S = 30.0


def parameters(**options: Any) -> RendezvousParameters:
    return RendezvousParameters("c10d", "localhost", "run", 1, 2, **options)


# --- parameters ------------------------------------------------------------------------------------------


def test_parameters_keep_what_they_were_given() -> None:
    params = RendezvousParameters("c10d", "h:1", "run", 1, 3, "10.0.0.1", read_timeout="5")
    assert (params.backend, params.endpoint, params.run_id) == ("c10d", "h:1", "run")
    assert (params.min_nodes, params.max_nodes, params.local_addr) == (1, 3, "10.0.0.1")
    assert params.config == {"read_timeout": "5"}
    assert params.get("read_timeout") == "5"
    assert params.get("other") is None
    assert params.get("other", 4) == 4
    assert "run_id='run'" in repr(params)


@pytest.mark.parametrize("backend", ["", None])
def test_a_backend_must_be_named(backend: Any) -> None:
    with pytest.raises(ValueError, match=r"^The rendezvous backend name must be a non-empty string\.$"):
        RendezvousParameters(backend, "h", "run", 1, 1)


def test_errors_about_node_counts_name_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"^The minimum number of rendezvous nodes \(0\) must be greater than zero\.$"):
        RendezvousParameters("b", "h", "run", 0, 1)
    sentence = (
        r"^The maximum number of rendezvous nodes \(2\) must be greater than or equal to the minimum number of "
        r"rendezvous nodes \(3\)\.$"
    )
    with pytest.raises(ValueError, match=sentence):
        RendezvousParameters("b", "h", "run", 3, 2)


@pytest.mark.parametrize("value", [1, True, "1", "true", "True", "t", "T", "yes", "YES", "y"])
def test_values_that_mean_yes(value: object) -> None:
    assert parameters(x=value).get_as_bool("x") is True


@pytest.mark.parametrize("value", [0, False, "0", "false", "FALSE", "f", "no", "n", "N"])
def test_values_that_mean_no(value: object) -> None:
    assert parameters(x=value).get_as_bool("x") is False


@pytest.mark.parametrize("value", [2, -1, "01", "g", "", "on", "off", 1.0])
def test_other_values_mean_neither(value: object) -> None:
    with pytest.raises(ValueError, match=r"^The rendezvous configuration option 'x' does not represent a valid bool"):
        parameters(x=value).get_as_bool("x")


@pytest.mark.parametrize(("value", "number"), [(3, 3), ("3", 3), (" -12 ", -12), ("1_000", 1000)])
def test_whole_numbers(value: object, number: int) -> None:
    assert parameters(x=value).get_as_int("x") == number


@pytest.mark.parametrize("value", ["", "1.5", "12x", "0x1", [1], float("inf")])
def test_other_values_are_no_whole_numbers(value: object) -> None:
    with pytest.raises(ValueError, match=r"^The rendezvous configuration option 'x' does not represent a valid int"):
        parameters(x=value).get_as_int("x")


@pytest.mark.parametrize(
    ("value", "seconds"), [(3, 3.0), ("0.5", 0.5), (" 2 ", 2.0), (timedelta(milliseconds=20), 0.02), (0, 0.0)]
)
def test_durations_may_be_fractions(value: object, seconds: float) -> None:
    assert parameters(x=value).get_as_seconds("x") == seconds


@pytest.mark.parametrize("value", ["", "5s", "-1", "nan", "inf", [], timedelta(seconds=-1)])
def test_a_bad_duration_is_named_with_its_value(value: object) -> None:
    with pytest.raises(ValueError, match=r"option 'x' is .*it must be a number of seconds, at least 0\.$") as caught:
        parameters(x=value).get_as_seconds("x")
    assert repr(value) in str(caught.value)


def test_a_missing_option_gives_the_default() -> None:
    params = parameters(none=None)
    for key in ("missing", "none"):
        assert params.get_as_bool(key) is None
        assert params.get_as_bool(key, True) is True
        assert params.get_as_int(key, 4) == 4
        assert params.get_as_seconds(key, 0.5) == 0.5


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
    handler.leave("told to")
    handler.report_failure("worker 0 failed", 1, final=False)
    assert handler.closed_by_us == 0
    handler.report_failure("worker 0 failed", 1, final=True)
    assert handler.closed_by_us == 1
