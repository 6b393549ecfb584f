from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest
from tests.support.stores import making_stores

from rallypoint.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousTimeoutError,
    SessionLostError,
)
from rallypoint.rendezvous.coordinated import SESSION_S, CoordinatedRendezvousHandler
from rallypoint.rendezvous.ground import Ground
from rallypoint.rendezvous.handler import RendezvousParameters, RoundStatus
from rallypoint.rendezvous.settings import CoordinatedSettings
from rallypoint.rendezvous.term import ENDED_S
from rallypoint.store.prefix import PrefixStore

JOIN_S = 20
CURRENT, OVER, CLOSED = RoundStatus.CURRENT, RoundStatus.OVER, RoundStatus.CLOSED


class Served:
    def __init__(self, port=4242):
        self.port, self.is_closed = port, False

    def close(self):
        self.is_closed = True


class Stage:
    """Several nodes of one run in one process."""

    def __init__(self, stack):
        self.stack = stack
        self.build = stack.enter_context(making_stores())
        self.server = self.build(dialect="session", session_timeout=SESSION_S)
        self.served = []
        self.gateways = []

    def node(self, name, least=2, most=2, *, is_host=False, gateway=None, **options):
        options = {"join_timeout": JOIN_S, "last_call_timeout": 0.2, "close_timeout": JOIN_S} | options
        params = RendezvousParameters("rallypoint", "", "run", least, most, **options)
        settings = CoordinatedSettings.from_parameters(params)
        ground = Ground(self.server.clone(), "the store", is_host)
        handler = CoordinatedRendezvousHandler(settings, ground, local_addr=name, serve=self.serve, gateway=gateway)
        self.stack.callback(handler.shutdown)
        return handler

    def serve(self, host):
        self.served.append(Served())
        return self.served[-1]

    def gateway(self, store, prefix):
        self.gateways.append(prefix)
        return Served(5252)


def together(*calls):
    """Make calls at the same time; give what each returned or raised."""
    results = [None] * len(calls)

    def run(index):
        try:
            results[index] = calls[index]()
        except Exception as error:  # noqa: BLE001 - looked at by the test
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * JOIN_S)
    return results


def join(*nodes):
    return together(*(node.next_rendezvous for node in nodes))


@pytest.fixture
def stage():
    with ExitStack() as stack:
        yield Stage(stack)


def test_two_nodes_meet_with_ranks_places_and_a_store(stage):
    a, b = stage.node("a"), stage.node("b")
    a.expect_workers("trainer", 2)
    b.expect_workers("trainer", 3)
    first, second = join(a, b)
    assert sorted((first.rank, second.rank)) == [0, 1]
    assert (first.world_size, first.round, second.round) == (2, 0, 0)
    assert first.bootstrap_store_info == second.bootstrap_store_info
    assert (first.bootstrap_store_info.master_port, first.is_store_plain) == (4242, False)
    places = {first.rank: first.places, second.rank: second.places}
    assert (places[0].first_rank, places[0].world_size, places[1].world_size) == (0, 5, 5)
    assert places[1].first_rank in {2, 3}
    first.store.set("k", "v")
    assert second.store.get("k") == b"v"
    assert second.store.get("MASTER_PORT") == b"4242"
    assert (a.get_backend(), a.get_run_id(), a.use_agent_store) == ("rallypoint", "run", True)


def test_a_failure_ends_the_round_for_all_and_the_next_is_another(stage):
    a, b = stage.node("a"), stage.node("b")
    join(a, b)
    a.report_failure("boom", 3, final=False)
    for node in (a, b):
        news = node.wait_for_news(JOIN_S)
        assert news.status is OVER
        assert news.why.endswith("exit code 3: boom")
        assert node.num_nodes_waiting() == 1
    assert [info.round for info in join(a, b)] == [1, 1]
    assert a.check_round().status is CURRENT
    assert a.num_nodes_waiting() == 0


def test_the_budget_is_of_all_nodes_together(stage):
    a, b = stage.node("a", max_restarts=1), stage.node("b", max_restarts=1)
    assert a.keeps_budget
    assert not stage.node("c").keeps_budget
    join(a, b)
    a.report_failure("first", 3, final=False)
    join(a, b)
    b.report_failure("second", 4, final=False)
    for node in (a, b):
        news = node.wait_for_news(JOIN_S)
        assert (news.status, news.outcome) == (CLOSED, "failed")
        assert "second" in news.why
        assert "is used up" in news.why
    errors = join(a, b)
    assert [error.outcome for error in errors] == ["failed", "failed"]
    assert all(isinstance(error, RendezvousClosedError) for error in errors)


def test_the_run_ends_when_all_have_succeeded(stage):
    a, b = stage.node("a", is_host=True), stage.node("b")
    join(a, b)
    a.report_success()
    assert a.wait_for_news(0.05).status is CURRENT
    b.report_success()
    for node in (a, b):
        assert node.wait_for_news(JOIN_S)[::2] == (CLOSED, "succeeded")
        assert node.is_closed()
    assert together(a.shutdown, b.shutdown) == [True, True]
    assert a.shutdown()


def test_the_name_of_a_run_that_has_ended_is_free_after_some_time(stage):
    a, b = stage.node("a"), stage.node("b")
    join(a, b)
    stage.server.set("rallypoint.rendezvous.run/rounds/0/agents/of", "the first run")
    together(a.report_success, b.report_success)
    for node in (a, b):
        assert node.wait_for_news(JOIN_S).status is CLOSED
    together(a.shutdown, b.shutdown)
    c = stage.node("c")
    (late,) = join(c)
    c.shutdown()
    assert isinstance(late, RendezvousClosedError)
    assert late.outcome == "succeeded"
    leases = stage.server.status("leases")["leases"]
    for lease in [one["lease"] for one in leases if one["ttl_s"] == ENDED_S]:
        stage.server.lease_revoke(lease)
    again = join(stage.node("a"), stage.node("b"))
    assert [info.round for info in again] == [0, 0]
    assert not again[0].store.check(["of"])


def test_a_run_can_be_closed(stage):
    a, b = stage.node("a"), stage.node("b")
    join(a, b)
    assert not b.is_closed()
    a.set_closed()
    news = b.wait_for_news(JOIN_S)
    assert news[::2] == (CLOSED, "closed")
    assert "closed the run" in news.why
    late = join(stage.node("c"))[0]
    assert isinstance(late, RendezvousClosedError)
    assert late.outcome == "closed"


def test_a_node_that_leaves_is_news_at_once_and_may_come_back(stage):
    a, b = stage.node("a", 1, 2), stage.node("b", 1, 2)
    join(a, b)
    b.leave("told to")
    news = a.wait_for_news(JOIN_S)
    assert news.status is OVER
    assert news.why.endswith("left: told to")
    assert b.check_round().why == "this node is in no round"
    assert {info.world_size for info in join(a, b)} <= {1, 2}


def test_a_node_that_is_going_is_news_at_once_and_the_next_round_waits_for_it(stage):
    nodes = [stage.node(name, 2, 3, last_call_timeout=JOIN_S) for name in "abc"]
    join(*nodes)
    a, b, c = nodes
    c.report_going("SIGTERM received")
    for node in (a, b):
        news = node.wait_for_news(JOIN_S)
        assert (news.status, news.why.endswith("is going: SIGTERM received")) == (OVER, True)
    assert c.check_round().status is CURRENT
    order = []
    waiting = [threading.Thread(target=lambda node=node: order.extend(join(node))) for node in (a, b)]
    for thread in waiting:
        thread.start()
    while (told := stage.server.read("rallypoint.rendezvous.run/progress")) is None or b"is going" not in told.value:
        pass
    assert order == []
    order.append("left")
    c.leave("SIGTERM received")
    for thread in waiting:
        thread.join(JOIN_S)
    assert order[0] == "left"
    assert [info.world_size for info in order[1:]] == [2, 2]


def test_a_round_goes_on_when_its_coordinator_leaves(stage):
    nodes = [stage.node(name, 1, 3) for name in "abc"]
    join(*nodes)
    (head,) = [node for node in nodes if node._hands.coordinator.is_in_office]
    others = [node for node in nodes if node is not head]
    head.shutdown()
    for node in others:
        assert node.wait_for_news(JOIN_S).status is OVER
    assert [info.world_size for info in join(*others)] == [2, 2]


def test_a_spare_is_let_go_at_the_end(stage):
    a, b, c = (stage.node(name) for name in "abc")
    join(a, b)
    results = []
    waiting = threading.Thread(target=lambda: results.extend(join(c)))
    waiting.start()
    for node in (a, b):
        node.report_success()
    waiting.join(JOIN_S)
    assert isinstance(results[0], (RendezvousGracefulExitError, RendezvousClosedError))


def test_too_few_nodes_are_named_with_who_coordinates(stage):
    (error,) = join(stage.node("a", join_timeout=0.5))
    assert isinstance(error, RendezvousTimeoutError)
    assert "waiting for 1" in str(error)
    assert "a#" in str(error)
    assert "coordinates" in str(error)


def test_nodes_that_were_told_other_sizes_are_refused(stage):
    a, b = stage.node("a", 2, 2), stage.node("b", 3, 4)
    results = []
    waiting = threading.Thread(target=lambda: results.extend(join(a)))
    waiting.start()
    while not stage.server.read_prefix("rallypoint.rendezvous.run/orders/"):
        pass
    (error,) = join(b)
    assert type(error) is RendezvousError
    assert "this node was told 3 to 4 nodes, the run has 2" in str(error)
    a.leave("seen enough")
    waiting.join(JOIN_S)
    assert isinstance(results[0], RendezvousGracefulExitError)


def test_each_node_serves_the_runs_store_where_that_is_asked_for(stage):
    a, b = (stage.node(name, gateway=stage.gateway, worker_store="gateway") for name in "ab")
    infos = join(a, b)
    assert {info.bootstrap_store_info.master_port for info in infos} == {5252}
    assert {info.bootstrap_store_info.master_addr for info in infos} == {"127.0.0.1"}
    assert all(info.is_store_plain for info in infos)
    assert set(stage.gateways) == {"rallypoint.rendezvous.run/rounds/0/workers"}
    assert stage.served == []


def test_what_only_rank_0_served_ends_with_it(stage):
    a, b = stage.node("a"), stage.node("b")
    join(a, b)
    assert [served.is_closed for served in stage.served] == [False]
    a.shutdown()
    b.shutdown()
    assert [served.is_closed for served in stage.served] == [True]


def test_a_store_that_is_gone_is_an_error_of_the_connection(stage):
    node = stage.node("a")
    threading.Timer(0.2, lambda: end(node)).start()

    def end(node):
        node._ground.store._client.trunk._uplink.fail(SessionLostError, "has ended")

    (error,) = join(node)
    assert isinstance(error, RendezvousConnectionError)
    assert "has ended" in str(error)


def test_a_session_that_is_lost_while_rank_0_says_where_the_store_is_costs_nothing(stage, monkeypatch):
    losses = [SessionLostError("the session has ended")]
    multi_set = PrefixStore.multi_set

    def lose_once(self, keys, values):
        if losses:
            raise losses.pop()
        multi_set(self, keys, values)

    monkeypatch.setattr(PrefixStore, "multi_set", lose_once)
    first, _ = sorted(join(stage.node("a"), stage.node("b")), key=lambda info: info.rank)
    assert not losses
    assert first.store.get("MASTER_PORT") == b"4242"


def test_before_it_joins_a_node_is_in_no_round(stage):
    node = stage.node("a")
    assert node.check_round().status is CURRENT
    assert node.wait_for_news(0.01).status is CURRENT
    assert not node.is_closed()
    node.report_success()
    node.report_failure("x", 1, final=True)
    node.leave("never came")
    assert node.shutdown()
