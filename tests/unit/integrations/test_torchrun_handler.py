"""What torchrun's agent sees of a rendezvous that a test tells what to do."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.agents import ScriptedHandler, round_info
from tests.support.torch_peers import torch_dist

from rallypoint import errors
from rallypoint.integrations import torchrun_handler as module
from rallypoint.integrations.torchrun_handler import TorchrunHandler, make_handler, torchs_errors
from rallypoint.rendezvous.handler import RendezvousParameters, RoundStatus
from rallypoint.store.tcp import TCPStore

assert torch_dist
import torch.distributed.elastic.rendezvous as torchs  # noqa: E402 - torch_peers keeps its warnings away


class ChildFailedError(Exception):
    """As torch's, whose text is long; torch itself would need an agent to make one."""

    def __init__(self, **failure: Any) -> None:
        super().__init__("a long text")
        self.failure = SimpleNamespace(**failure)

    def get_first_failure(self) -> tuple[int, Any]:
        return 3, self.failure


def handler_of(ours: ScriptedHandler) -> TorchrunHandler:
    return TorchrunHandler(ours, "rallypoint", ExitStack())


def joined(*rounds: Any) -> tuple[ScriptedHandler, TorchrunHandler]:
    ours = ScriptedHandler(*(rounds or (round_info(0, rank=1, count=2),)))
    handler = handler_of(ours)
    handler.next_rendezvous()
    ours.calls.clear()
    return ours, handler


# --- rounds ----------------------------------------------------------------------------------------------


def test_a_round_has_what_torchs_agent_reads() -> None:
    info = handler_of(ScriptedHandler(round_info(0, rank=1, count=2))).next_rendezvous()
    where = info.bootstrap_store_info
    assert (info.rank, info.world_size, where.master_addr, where.master_port) == (1, 2, "node-a", 4242)
    info.store.set("k", "v")
    assert info.store.multi_get(["k"]) == [b"v"]


def test_it_calls_itself_what_torchrun_calls_it() -> None:
    handler = TorchrunHandler(ScriptedHandler(), "by-another-name", ExitStack())
    assert (handler.get_backend(), handler.get_run_id(), handler.use_agent_store) == ("by-another-name", "run-7", False)


@pytest.mark.parametrize(
    ("status", "outcome", "waiting"),
    [
        (RoundStatus.CURRENT, None, 0),
        (RoundStatus.OVER, None, 1),
        (RoundStatus.FENCED, None, 1),
        (RoundStatus.CUT_OFF, None, 1),
        (RoundStatus.CLOSED, "failed", 1),
        (RoundStatus.CLOSED, "closed", 1),
        (RoundStatus.CLOSED, "succeeded", 0),
    ],
)
def test_a_round_that_ends_is_a_node_that_waits(status: RoundStatus, outcome: str | None, waiting: int) -> None:
    ours, handler = joined()
    ours.tell(status, outcome=outcome)
    assert handler.num_nodes_waiting() == waiting


def test_a_server_that_is_away_for_a_moment_is_no_news() -> None:
    ours, handler = joined()
    ours.troubles.append(errors.RendezvousConnectionError("nobody there"))
    assert handler.num_nodes_waiting() == 0


def test_a_foreign_state_is_torchs_error() -> None:
    ours, handler = joined()
    ours.troubles.append(errors.RendezvousStateError("a pickle"))
    with pytest.raises(torchs.RendezvousStateError, match="a pickle"):
        handler.num_nodes_waiting()


def test_closing_passes_through() -> None:
    ours, handler = joined()
    assert not handler.is_closed()
    handler.set_closed()
    assert handler.is_closed()
    assert ours.calls == ["set_closed"]


# --- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "RendezvousError",
        "RendezvousClosedError",
        "RendezvousTimeoutError",
        "RendezvousConnectionError",
        "RendezvousGracefulExitError",
        "RendezvousStateError",
    ],
)
def test_an_error_is_torchs_of_the_same_name_with_our_text(name: str) -> None:
    kind = torchs.RendezvousError if name == "RendezvousError" else getattr(torchs, name)
    ours = ScriptedHandler(getattr(errors, name)("1 of 2 nodes came"))
    with pytest.raises(torchs.RendezvousError, match="1 of 2 nodes came") as caught:
        handler_of(ours).next_rendezvous()
    assert type(caught.value) is kind
    assert isinstance(caught.value.__cause__, errors.RendezvousError)


def test_an_error_says_what_is_behind_it() -> None:
    with pytest.raises(torchs.RendezvousConnectionError, match=r"^no store \(nobody listens\)$"), torchs_errors():
        raise errors.RendezvousConnectionError("no store") from OSError("nobody listens")


# --- the end ---------------------------------------------------------------------------------------------


def test_an_end_without_an_exception_is_a_success() -> None:
    ours, handler = joined()
    assert handler.shutdown()
    assert ours.calls == ["report_success", "shutdown"]


def shut_down_in_finally(handler: TorchrunHandler, error: Exception) -> None:
    """Do as torchrun does."""
    with pytest.raises(type(error)):  # noqa: PT012 - the finally is the point
        try:
            raise error
        finally:
            handler.shutdown()


def test_failed_workers_are_the_end_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, handler = joined()
    told: list[Any] = []
    monkeypatch.setattr(ours, "report_failure", lambda *failure, final: told.append((*failure, final)))
    shut_down_in_finally(handler, ChildFailedError(exitcode=-9, message="Signal 9", error_file="<N/A>"))
    assert told == [("rank 3: Signal 9", -9, True)]


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        ({"exitcode": 7, "message": "a hint", "error_file": "<N/A>"}, ("rank 3 left no error file", 7)),
        ({"exitcode": 1, "message": {"message": "ValueError: x"}, "error_file": "/e"}, ("rank 3: ValueError: x", 1)),
        ({"exitcode": 1}, ("a long text", 1)),
    ],
)
def test_the_first_failure_is_told_in_few_words(failure: dict[str, Any], told: tuple[str, int]) -> None:
    assert module._first_failure(ChildFailedError(**failure)) == told


def test_another_exception_ends_this_node_only() -> None:
    ours, handler = joined()
    shut_down_in_finally(handler, OSError("no disk"))
    assert ours.calls == ["shutdown"]


def test_who_never_was_in_a_round_has_nothing_to_report() -> None:
    ours = ScriptedHandler(errors.RendezvousTimeoutError("too few"))
    handler = handler_of(ours)
    with pytest.raises(torchs.RendezvousTimeoutError):
        handler.next_rendezvous()
    handler.shutdown()
    assert ours.calls == ["next_rendezvous", "shutdown"]


def test_an_end_that_cannot_be_told_is_no_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, handler = joined()

    def fail() -> None:
        raise errors.RendezvousConnectionError("nobody there")

    monkeypatch.setattr(ours, "report_success", fail)
    assert not handler.shutdown()
    assert ours.calls == ["shutdown"]


# --- making one ------------------------------------------------------------------------------------------


def parameters(port: int, **config: Any) -> Any:
    """Give what torchrun gives."""
    return torchs.RendezvousParameters("rallypoint", f"127.0.0.1:{port}", "run", 1, 2, "127.0.0.1", **config)


def test_torchruns_parameters_become_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[RendezvousParameters] = []

    def keep(params: RendezvousParameters) -> Any:
        asked.append(params)
        return ScriptedHandler()

    monkeypatch.setattr(module, "get_rendezvous_handler", keep)
    assert make_handler(parameters(1, timeout=900, join_timeout="5")).get_backend() == "rallypoint"
    assert vars(asked[0]) | {"backend": ""} == {
        "backend": "",
        "endpoint": "127.0.0.1:1",
        "run_id": "run",
        "min_nodes": 1,
        "max_nodes": 2,
        "local_addr": "127.0.0.1",
        "config": {"timeout": 900, "join_timeout": "5"},
    }


def test_an_option_that_would_be_ignored_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'join_timeout'"):
        make_handler(parameters(1, join_timout="5"))


def test_an_endpoint_where_nobody_serves_is_torchs_error() -> None:
    with TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) as server:
        port = server.port
    with pytest.raises(torchs.RendezvousConnectionError, match=str(port)):
        make_handler(parameters(port, is_host="0", read_timeout="0.2"))


def test_one_node_joins_and_succeeds() -> None:
    with TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) as server:
        handler = make_handler(parameters(server.port, timeout=900, last_call_timeout="0.01"))
        info = handler.next_rendezvous()
        assert (info.rank, info.world_size, handler.num_nodes_waiting()) == (0, 1, 0)
        assert handler.shutdown()
        late = make_handler(parameters(server.port, timeout=900))
        with pytest.raises(torchs.RendezvousClosedError, match="succeeded"):
            late.next_rendezvous()
        late.shutdown()
