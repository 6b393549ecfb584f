from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rallypoint import errors
from rallypoint.rendezvous.adapter import AdaptedHandler, adapt_handler
from rallypoint.rendezvous.handler import RendezvousStoreInfo, RoundNews, RoundStatus


class RendezvousClosedError(Exception):
    """Named like torch's, and no relation of ours."""


class LatecomerError(RendezvousClosedError):
    """Somebody's own kind of it."""


class Foreign:
    """What a plug-in for torchrun gives: torch's methods and nothing else."""

    use_agent_store = True

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.waiting = 0
        self.calls: list[str] = []

    def _answer(self, name: str, value: Any) -> Any:
        self.calls.append(name)
        if self.error is not None:
            raise self.error
        return value

    def get_backend(self) -> str:
        return "foreign"

    def get_run_id(self) -> str:
        return "run"

    def next_rendezvous(self) -> Any:
        where = SimpleNamespace(master_addr="h", master_port="29500")
        info = SimpleNamespace(store=self, rank=1, world_size=2, bootstrap_store_info=where)
        return self._answer("next_rendezvous", info)

    def is_closed(self) -> bool:
        return bool(self._answer("is_closed", False))

    def set_closed(self) -> None:
        self._answer("set_closed", None)

    def num_nodes_waiting(self) -> int:
        return int(self._answer("num_nodes_waiting", self.waiting))

    def shutdown(self) -> bool:
        return bool(self._answer("shutdown", True))


def test_a_handler_of_ours_is_given_back_as_it_is() -> None:
    handler = adapt_handler(Foreign())
    assert adapt_handler(handler) is handler


def test_torchs_methods_are_passed_on() -> None:
    foreign = Foreign()
    handler = adapt_handler(foreign)
    assert (handler.get_backend(), handler.get_run_id(), handler.use_agent_store) == ("foreign", "run", True)
    assert handler.is_closed() is False
    assert handler.num_nodes_waiting() == 0
    assert handler.shutdown() is True
    handler.set_closed()
    assert foreign.calls == ["is_closed", "num_nodes_waiting", "shutdown", "set_closed"]


def test_rounds_without_a_number_are_counted() -> None:
    foreign = Foreign()
    handler = adapt_handler(foreign)
    first, second = handler.next_rendezvous(), handler.next_rendezvous()
    assert (first.round, second.round) == (0, 1)
    assert (first.store, first.rank, first.world_size) == (foreign, 1, 2)
    assert first.bootstrap_store_info == RendezvousStoreInfo("h", 29500)


def test_methods_of_ours_come_from_our_defaults() -> None:
    foreign = Foreign()
    handler = adapt_handler(foreign)
    foreign.waiting = 3
    assert handler.wait_for_news(60.0) == RoundNews(RoundStatus.OVER, "3 nodes wait to join")
    handler.report_failure("worker 0 failed", 1, final=True)
    assert foreign.calls[-1] == "set_closed"


def test_methods_of_ours_that_the_foreign_handler_has_are_used() -> None:
    foreign: Any = Foreign()
    foreign.check_round = lambda: RoundNews(RoundStatus.FENCED, "lost")
    assert adapt_handler(foreign).wait_for_news(60.0) == RoundNews(RoundStatus.FENCED, "lost")


@pytest.mark.parametrize("error", [RendezvousClosedError("the end"), LatecomerError("the end")])
@pytest.mark.parametrize("method", ["next_rendezvous", "is_closed", "set_closed", "num_nodes_waiting", "shutdown"])
def test_errors_named_like_ours_become_ours(error: Exception, method: str) -> None:
    foreign = Foreign()
    foreign.error = error
    with pytest.raises(errors.RendezvousClosedError, match=r"^the end$") as caught:
        getattr(AdaptedHandler(foreign), method)()
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyError("k"), errors.RendezvousStateError("ours")])
def test_other_errors_pass_unchanged(error: Exception) -> None:
    foreign = Foreign()
    foreign.error = error
    with pytest.raises(type(error)) as caught:
        adapt_handler(foreign).next_rendezvous()
    assert caught.value is error
