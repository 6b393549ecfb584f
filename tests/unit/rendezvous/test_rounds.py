from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.agents import observed

from rallypoint.clock import Deadline
from rallypoint.errors import (
    ConnectionLostError,
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousStateError,
    RendezvousTimeoutError,
)
from rallypoint.rendezvous import rounds as module
from rallypoint.rendezvous.rounds import FixedRounds, Verdict
from rallypoint.store.base import Store
from rallypoint.store.hash import HashStore
from rallypoint.store.tcp import TCPStore

PATIENCE_S = 30.0
PREFIX = "rallypoint.static/run/"


def node(store: Store, rank: int, world_size: int = 2) -> FixedRounds:
    rounds = FixedRounds(store, "h:1", "run", rank, world_size)
    rounds.take_rank()
    return rounds


class Outcome:
    """What a call in another thread came to."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._value: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self._value = call()
        except Exception as error:  # noqa: BLE001 - handed to the test
            self._error = error

    def get(self) -> Any:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return self._value


def join(rounds: FixedRounds, timeout_s: float = PATIENCE_S) -> Outcome:
    return Outcome(lambda: rounds.join(Deadline(timeout_s)))


def meet(*nodes: FixedRounds) -> list[int]:
    return [outcome.get() for outcome in [join(one) for one in nodes]]


def test_a_round_opens_when_all_have_come() -> None:
    store = HashStore()
    first = join(node(store, 0))
    second = join(node(store, 1))
    assert (first.get(), second.get()) == (0, 0)


def test_one_node_alone_meets_itself() -> None:
    assert meet(node(HashStore(), 0, 1)) == [0]


def test_after_its_end_the_next_round_is_joined() -> None:
    store = HashStore()
    nodes = [node(store, rank, 3) for rank in range(3)]
    assert meet(*nodes) == [0, 0, 0]
    nodes[1].end(0, "worker 4 failed")
    nodes[2].end(0, "worker 5 failed")
    assert nodes[0].verdict(0) == Verdict("worker 4 failed")
    assert meet(*nodes) == [1, 1, 1]
    assert nodes[0].verdict(1) is None


def test_agents_of_one_round_do_not_see_the_keys_of_another() -> None:
    store = HashStore()
    nodes = [node(store, 0), node(store, 1)]
    meet(*nodes)
    nodes[0].store_of(0).set("role", "a")
    assert nodes[1].store_of(0).get("role") == b"a"
    nodes[0].end(0, "again")
    meet(*nodes)
    assert not nodes[1].store_of(1).check(["role"])


def test_what_workers_left_is_gone_in_the_next_round_and_what_was_there_before_stays() -> None:
    store = HashStore()
    store.set("somebody else's", "1")
    nodes = [node(store, 0), node(store, 1)]
    meet(*nodes)
    store.set("default_pg/0//cpu//0/0", "old address")
    store.set("somebody else's", "2")
    nodes[1].end(0, "again")
    assert store.check(["default_pg/0//cpu//0/0"])
    meet(*nodes)
    assert not store.check(["default_pg/0//cpu//0/0"])
    assert store.get("somebody else's") == b"2"


def test_what_workers_wrote_stays_until_every_node_has_stopped_its_workers() -> None:
    store = HashStore()
    nodes = [node(store, 0), node(store, 1)]
    meet(*nodes)
    store.set("address", "old")
    nodes[0].end(0, "again")
    waiting = join(nodes[0])
    with pytest.raises(RendezvousTimeoutError):
        nodes[0].join(Deadline(0.05))
    assert store.check(["address"])
    join(nodes[1]).get()
    waiting.get()
    assert not store.check(["address"])


def test_the_keys_of_ended_rounds_do_not_pile_up() -> None:
    store = HashStore()
    nodes = [node(store, 0), node(store, 1)]
    counts = []
    for number in range(4):
        assert meet(*nodes) == [number, number]
        for rounds in nodes:
            rounds.store_of(number).set(f"role/{number}", "x")
        counts.append(store.num_keys())
        nodes[0].end(number, "again")
    assert counts[3] - counts[2] == 1  # the verdict
    assert counts[2] - counts[1] == 1


def test_keys_that_are_no_text_are_left_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Binary(HashStore):
        def list_keys(self) -> list[str]:
            return [b"\xff".decode()]

    with caplog.at_level(logging.WARNING, "rallypoint.rendezvous"):
        assert meet(node(Binary(), 0, 1)) == [0]
    assert "a key is not text" in caplog.text


def test_a_missing_node_is_named_when_the_time_is_up() -> None:
    store = HashStore()
    second = node(store, 1, 3)
    with pytest.raises(RendezvousTimeoutError, match=r"1 of 3 nodes came to round 0 of run 'run' at h:1") as caught:
        second.join(Deadline(0.05))
    assert str(caught.value).endswith("missing are the nodes of rank 0, 2")
    assert (caught.value.arrived, caught.value.expected) == (1, 3)
    assert caught.value.waited_s >= 0.05


def test_a_world_of_missing_nodes_names_the_first_few() -> None:
    with pytest.raises(RendezvousTimeoutError, match=r"rank 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, …$"):
        node(HashStore(), 0, 100).join(Deadline(0.05))


def test_a_store_host_that_does_not_open_the_round_is_told_of() -> None:
    store = HashStore()
    FixedRounds(store, "h:1", "run", 0, 2)._create("round/0/node/0", b"{}")
    with pytest.raises(RendezvousTimeoutError, match=r"2 of 2 nodes came .* node 0 did not open it$"):
        node(store, 1).join(Deadline(0.05))


def test_a_node_may_come_again_after_its_time_was_up() -> None:
    store = HashStore()
    first = node(store, 0)
    with pytest.raises(RendezvousTimeoutError):
        first.join(Deadline(0.05))
    assert meet(first, node(store, 1)) == [0, 0]


# --- closing ---------------------------------------------------------------------------------------------


def test_a_closed_run_takes_nobody_in() -> None:
    store = HashStore()
    nodes = [node(store, 0), node(store, 1)]
    meet(*nodes)
    nodes[0].close("failed", "worker 3 failed")
    nodes[1].close("succeeded", "too late")
    assert nodes[1].closing() == Verdict("worker 3 failed", "failed")
    assert nodes[1].verdict(0) == Verdict("worker 3 failed", "failed")
    with pytest.raises(RendezvousClosedError, match=r"^run 'run' is closed: worker 3 failed$") as caught:
        nodes[1].join(Deadline(PATIENCE_S))
    assert caught.value.outcome == "failed"


def test_closing_ends_the_wait_of_those_who_are_joining() -> None:
    store = HashStore()
    waiting = join(node(store, 1))
    node(store, 0).close("closed", "told to")
    with pytest.raises(RendezvousClosedError):
        waiting.get()


def test_a_verdict_wakes_those_who_wait_for_it() -> None:
    store = HashStore()
    nodes = [node(store, 0), node(store, 1)]
    meet(*nodes)
    waiting = Outcome(lambda: nodes[1].await_verdict(0, 10 * PATIENCE_S))
    nodes[0].end(0, "again")
    waiting.get()
    nodes[1].await_verdict(1, 0)


def test_successes_are_counted() -> None:
    store = HashStore()
    assert [node(store, rank).count_success(3) for rank in range(2)] == [1, 2]


def test_goodbyes_are_awaited() -> None:
    store = HashStore()
    nodes = [node(store, 0), node(store, 1)]
    waiting = Outcome(lambda: nodes[0].await_goodbyes(10 * PATIENCE_S))
    for rounds in nodes:
        rounds.say_goodbye()
    waiting.get()


# --- two agents with one rank ----------------------------------------------------------------------------


def test_an_agent_that_was_started_again_takes_its_rank_over_and_ends_the_round() -> None:
    store = HashStore()
    first = node(store, 0)
    forerunner = node(store, 1)
    meet(first, forerunner)
    again = join(node(store, 1))
    first.await_verdict(0, PATIENCE_S)
    verdict = first.verdict(0)
    assert verdict is not None
    assert verdict.why.startswith("node 1 came back as the agent with pid ")
    assert join(first).get() == 1
    assert again.get() == 1


def test_a_forerunner_that_still_lives_gives_up_with_the_name_of_the_other() -> None:
    store = HashStore()
    first, forerunner = node(store, 0), node(store, 1)
    meet(first, forerunner)
    again = join(node(store, 1))
    first.await_verdict(0, PATIENCE_S)
    with pytest.raises(RendezvousError, match=r"rank 1 of run 'run' was taken over by the agent with pid \d+ on "):
        forerunner.join(Deadline(PATIENCE_S))
    assert join(first).get() == 1
    assert again.get() == 1


def test_two_waiting_agents_with_one_rank_become_one() -> None:
    store = HashStore()
    earlier = join(node(store, 1))
    earlier_claim = f"{PREFIX}round/0/node/1"
    store.wait([earlier_claim], PATIENCE_S)
    later = join(node(store, 1))
    with pytest.raises(RendezvousError, match="taken over"):
        earlier.get()
    assert join(node(store, 0)).get() == 1
    assert later.get() == 1


def test_an_agent_that_lives_keeps_its_rank_and_both_are_told_what_would_be_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_SLICE_S", 0.01)
    monkeypatch.setattr(module, "_ANSWER_S", PATIENCE_S)
    store = HashStore()
    with observed() as events:
        owner = node(store, 1)
        joined = join(owner)
        monkeypatch.setattr(module.socket, "gethostname", lambda: "elsewhere")
        with pytest.raises(RendezvousError, match=r"has rank 1 of run 'run' and lives: give each node a --node-rank"):
            node(store, 1)
        assert join(node(store, 0)).get() == joined.get() == 0
    (told,) = [event.message for event in events if event.name == "rendezvous.refused"]
    assert "on elsewhere asked for rank 1 of run 'run', which this node has: give each node a --node-rank" in told
    assert "--rdzv-backend c10d" in told


def test_an_agent_in_a_round_answers_for_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLICE_S", 0.01)
    monkeypatch.setattr(module, "_ANSWER_S", PATIENCE_S)
    store = HashStore()
    first, second = node(store, 0), node(store, 1)
    meet(first, second)
    monkeypatch.setattr(module.socket, "gethostname", lambda: "elsewhere")
    newcomer = Outcome(lambda: node(store, 1))
    store.wait([f"{PREFIX}challenge/1"], PATIENCE_S)
    for _ in range(1000):
        second.await_verdict(0, 0.01)
        if store.check([f"{PREFIX}alive/1/{newcomer_id(store)}"]):
            break
    with pytest.raises(RendezvousError, match="lives"):
        newcomer.get()


def newcomer_id(store: Store) -> str:
    return str(json.loads(store.get(f"{PREFIX}challenge/1"))["id"])


def test_an_agent_that_does_not_answer_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANSWER_S", 0.01)
    store = HashStore()
    node(store, 0, 1)
    monkeypatch.setattr(module.socket, "gethostname", lambda: "elsewhere")
    assert join(node(store, 0, 1)).get() == 0


def test_an_agent_whose_process_is_gone_is_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    store = HashStore()
    monkeypatch.setattr(module, "_ANSWER_S", PATIENCE_S)
    gone = {"id": "forerunner", "host": socket.gethostname(), "pid": 2**22 + 1}  # above the kernel's largest
    store.set(f"{PREFIX}owner/0", json.dumps(gone))
    assert join(node(store, 0, 1)).get() == 0
    assert not store.check([f"{PREFIX}challenge/0"])


def test_whom_a_node_waits_for_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLICE_S", 0.01)
    store = HashStore()
    with observed() as events:
        first = node(store, 0, 3)
        with pytest.raises(RendezvousTimeoutError):
            first.join(Deadline(0.1))
    (told,) = [event.message for event in events]
    assert told.startswith("node 0 of 3 waits for rank 1, 2 at h:1, ")


def test_a_node_on_its_way_out_does_not_tell_whom_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLICE_S", 0.01)
    store = HashStore()
    with observed() as events:
        first = node(store, 0, 3)
        first.is_leaving = True
        with pytest.raises(RendezvousTimeoutError):
            first.join(Deadline(0.1))
    assert events == []


def test_a_rank_that_nobody_signed_for_is_not_joined() -> None:
    with pytest.raises(RendezvousError, match="taken over by nobody"):
        FixedRounds(HashStore(), "h:1", "run", 0, 1).join(Deadline(1))


# --- a store that fails ----------------------------------------------------------------------------------


def test_a_foreign_value_under_a_key_of_ours_is_a_state_error() -> None:
    store = HashStore()
    store.set(f"{PREFIX}closed", "nonsense")
    with pytest.raises(RendezvousStateError, match="something else than a Verdict"):
        node(store, 0).closing()


def test_a_store_that_fails_is_a_connection_error() -> None:
    class Gone(HashStore):
        def wait(self, *arguments: Any) -> None:
            raise ConnectionLostError("the peer is gone")

    with pytest.raises(RendezvousConnectionError, match=r"store of run 'run' at h:1 cannot be used: the peer is gone"):
        node(Gone(), 0).await_verdict(0, 1.0)


def test_over_a_session_rounds_open_and_close_as_elsewhere() -> None:
    with TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, dialect="session", server="thread") as store:
        nodes = [node(store, 0), node(store, 1)]
        joining = [join(one) for one in nodes]
        assert [outcome.get() for outcome in joining] == [0, 0]
        assert nodes[1].verdict(0) is None
        nodes[0].end(0, "enough")
        assert nodes[1].verdict(0) == Verdict("enough")
        assert nodes[1].closing() is None
        nodes[1].close("succeeded", "all done")
        assert nodes[0].closing() == Verdict("all done", "succeeded")
