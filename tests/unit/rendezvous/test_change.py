from __future__ import annotations

import pytest
from msgspec.structs import replace

from rallypoint.rendezvous.change import (
    Acknowledge,
    Action,
    Beat,
    Close,
    Drop,
    Fail,
    Hear,
    Join,
    Leave,
    Propose,
    StandBy,
    Succeed,
    change,
)
from rallypoint.rendezvous.state import (
    MESSAGE_SIZE_MAX,
    NEWS_COUNT_MAX,
    Card,
    Closure,
    Phase,
    Standing,
    State,
    decode_state,
    encode_state,
    new_state,
)
from rallypoint.types import Endpoint

A, B, C, STRANGER = "a" * 32, "b" * 32, "c" * 32, "f" * 32
WHERE = Endpoint("host-a", 29500)
EVERY_ACTION: list[Action] = [
    Join(Card(host="h", address="h"), 1, 3),
    StandBy(Card(host="h", address="h")),
    Beat(),
    Drop({B: "it is silent"}),
    Propose({A: 0, B: 1}),
    Acknowledge(1, WHERE),
    Succeed(0),
    Fail(0, "boom", 1, final=False),
    Fail(0, "boom", 1, final=True),
    Leave("told to"),
    Close("closed", "told to"),
    Hear(),
]


def join(node_id: str) -> Join:
    return Join(Card(host=f"host-{node_id[0]}", address=f"host-{node_id[0]}"), 1, 3)


def after(state: State, *steps: tuple[str, Action]) -> State:
    for node_id, action in steps:
        state = change(state, action, node_id)
    return state


def gathering() -> State:
    return after(new_state("0" * 32, 1, 3), (A, join(A)), (B, join(B)))


def proposed() -> State:
    return after(gathering(), (A, Propose({A: 0, B: 1})))


def complete() -> State:
    return after(proposed(), (B, Acknowledge(1)), (A, Acknowledge(1, WHERE)))


def with_spare() -> State:
    return after(complete(), (C, StandBy(Card(host="host-c", address="host-c"))))


def closed() -> State:
    return after(complete(), (A, Close("closed", "told to")))


STATES = [new_state("0" * 32, 1, 3), gathering(), proposed(), complete(), with_spare(), closed()]


@pytest.mark.parametrize("state", STATES, ids=["new", "gathering", "proposed", "complete", "spare", "closed"])
@pytest.mark.parametrize("action", EVERY_ACTION, ids=lambda action: type(action).__name__)
@pytest.mark.parametrize("node_id", [A, B, C, STRANGER])
def test_every_action_of_everybody_leaves_a_coherent_state_or_the_same(
    state: State, action: Action, node_id: str
) -> None:
    result = change(state, action, node_id)
    if result is state:
        return
    assert result.version == state.version + 1
    assert result.round >= state.round
    assert decode_state(encode_state(result)) == result
    if node_id in state.nodes and node_id in result.nodes:
        assert result.nodes[node_id].beat == state.nodes[node_id].beat + 1


# --- joining ---


def test_joining_makes_a_node_ready_in_order_of_arrival() -> None:
    state = gathering()
    assert state.standing(Standing.READY) == [A, B]
    assert state.arrivals == 2
    assert change(state, join(A), A) is state


def test_who_comes_first_sets_the_bounds_and_nobody_after() -> None:
    state = change(new_state("0" * 32, 1, 3), Join(Card(host="h", address="h"), 2, 4), A)
    assert (state.min_nodes, state.max_nodes) == (2, 4)
    assert change(state, Join(Card(host="h", address="h"), 7, 8), B).max_nodes == 4


def test_a_member_that_joins_again_ends_its_round() -> None:
    state = change(complete(), join(B), B)
    assert (state.round, state.phase, state.members, state.endpoint) == (1, Phase.GATHERING, {}, None)
    assert state.previous == {A: 0, B: 1}
    assert state.standing(Standing.READY) == [B]
    assert state.returning == [A]
    assert state.reason == "host-b#bbbbbb came back for the next round"


def test_a_newcomer_ends_a_complete_round() -> None:
    state = change(complete(), join(C), C)
    assert (state.round, state.returning) == (1, [A, B])
    assert state.reason == "host-c#cccccc came, and there is room for it"


def test_a_newcomer_reopens_a_proposal_under_the_same_round() -> None:
    state = change(after(proposed(), (A, Acknowledge(1, WHERE))), join(C), C)
    assert (state.round, state.phase, state.members, state.endpoint) == (0, Phase.GATHERING, {}, None)
    assert state.standing(Standing.READY) == [A, B, C]


def test_a_spare_that_joins_keeps_its_place_in_the_order_of_arrival() -> None:
    state = change(with_spare(), Leave("told to"), A)
    assert change(state, join(C), C).nodes[C].arrival == 3


def test_a_member_does_not_become_a_spare() -> None:
    state = complete()
    assert change(state, StandBy(Card(host="h", address="h")), A) is state


# --- proposing and agreeing ---


@pytest.mark.parametrize(
    "ranks",
    [{}, {A: 1}, {A: 0, B: 0}, {A: 0, B: 2}, {A: 0, STRANGER: 1}, {A: 0, B: 1, C: 2, STRANGER: 3}],
    ids=["nobody", "no rank 0", "equal ranks", "a hole", "a stranger", "too many"],
)
def test_a_proposal_that_is_no_world_changes_nothing(ranks: dict[str, int]) -> None:
    state = gathering()
    assert change(state, Propose(ranks), A) is state


def test_a_world_below_the_minimum_is_not_proposed() -> None:
    state = replace(gathering(), min_nodes=3)
    assert change(state, Propose({A: 0, B: 1}), A) is state


def test_a_node_that_still_runs_its_workers_is_not_proposed() -> None:
    state = change(complete(), join(B), B)
    assert change(state, Propose({A: 0, B: 1}), B) is state


def test_a_round_is_complete_with_the_last_acknowledgement() -> None:
    state = change(proposed(), Acknowledge(1), B)
    assert state.phase is Phase.PROPOSED
    state = change(state, Acknowledge(1, WHERE), A)
    assert (state.phase, state.endpoint) == (Phase.COMPLETE, WHERE)
    assert state.standing(Standing.RUNNING) == [A, B]


def test_rank_0_cannot_agree_without_saying_where_the_workers_store_is() -> None:
    state = proposed()
    assert change(state, Acknowledge(1), A) is state


def test_only_rank_0_says_where_the_workers_store_is() -> None:
    assert change(proposed(), Acknowledge(1, WHERE), B).endpoint is None


@pytest.mark.parametrize(("node_id", "proposal"), [(B, 0), (B, 2), (C, 1)], ids=["old", "unknown", "not a member"])
def test_an_acknowledgement_that_does_not_fit_changes_nothing(node_id: str, proposal: int) -> None:
    state = proposed()
    assert change(state, Acknowledge(proposal, WHERE), node_id) is state


def test_agreeing_to_one_proposal_is_not_agreeing_to_the_next() -> None:
    state = after(proposed(), (B, Acknowledge(1)), (C, join(C)), (A, Propose({A: 0, B: 1, C: 2})))
    assert state.proposal == 2
    assert state.unacknowledged == [A, B, C]


# --- going away ---


def test_a_member_that_leaves_ends_the_round_and_does_not_close_the_run() -> None:
    state = change(complete(), Leave("SIGTERM"), B)
    assert (state.round, state.phase, state.closure) == (1, Phase.GATHERING, None)
    assert state.reason == "host-b#bbbbbb (node 1) left: SIGTERM"
    assert (state.news[-1].kind, state.news[-1].rank, state.news[-1].node) == ("left", 1, B)


def test_a_member_that_stops_its_workers_first_is_said_to_be_going() -> None:
    state = change(complete(), Leave("SIGTERM", is_stopping=True), B)
    assert (state.round, B in state.nodes) == (1, False)
    assert state.reason == "host-b#bbbbbb (node 1) is going: SIGTERM"


def test_a_proposal_that_loses_a_member_is_given_up() -> None:
    state = change(proposed(), Drop({B: "it is silent"}), A)
    assert (state.round, state.phase, state.members) == (0, Phase.GATHERING, {})
    assert A in state.nodes


def test_a_member_that_is_gone_ends_the_round() -> None:
    state = change(complete(), Drop({B: "it is silent"}), A)
    assert (state.round, state.returning) == (1, [A])
    assert state.reason == "host-b#bbbbbb (node 1) is gone: it is silent"


def test_a_spare_that_goes_ends_nothing() -> None:
    assert change(with_spare(), Leave("told to"), C).round == 0
    assert change(with_spare(), Drop({C: "it is silent"}), A).phase is Phase.COMPLETE


def test_nobody_drops_itself_or_who_is_not_there() -> None:
    state = complete()
    assert change(state, Drop({A: "odd"}), A) is state
    assert change(state, Drop({STRANGER: "odd"}), A) is state
    assert change(state, Leave("odd"), STRANGER) is state
    assert change(state, Beat(), STRANGER) is state


def test_who_has_done_its_part_may_go() -> None:
    state = after(complete(), (A, Succeed(0)), (A, Leave("told to")))
    assert (state.round, state.phase, state.members) == (0, Phase.COMPLETE, {A: 0, B: 1})
    assert change(state, Succeed(0), B).closure == Closure(outcome="succeeded", why="all 2 nodes of round 0 succeeded")


# --- ends ---


def test_a_run_has_succeeded_when_every_member_says_so() -> None:
    state = change(complete(), Succeed(0), A)
    assert (state.closure, state.done) == (None, (A,))
    assert change(state, Succeed(0), A) is state
    closure = change(state, Succeed(0), B).closure
    assert closure is not None
    assert closure.outcome == "succeeded"


@pytest.mark.parametrize(("node_id", "round_"), [(A, 1), (A, 7), (C, 0)], ids=["early", "wrong", "a spare"])
def test_success_in_another_round_counts_for_nothing(node_id: str, round_: int) -> None:
    state = with_spare()
    assert change(state, Succeed(round_), node_id) is state


def test_success_is_forgotten_with_its_round() -> None:
    state = after(complete(), (A, Succeed(0)), (B, Fail(0, "boom", 1, final=False)))
    assert (state.round, state.done, state.closure) == (1, (), None)


def test_a_failure_ends_the_round_and_is_news_in_full() -> None:
    state = change(complete(), Fail(0, "Traceback\nValueError: no", -9, final=False), B)
    assert state.reason == "a worker of host-b#bbbbbb (node 1) failed in round 0 by signal 9: Traceback"
    news = state.news[-1]
    assert (news.kind, news.round, news.node, news.host, news.rank, news.exit_code, news.message) == (
        "failed", 0, B, "host-b", 1, -9, "Traceback\nValueError: no",
    )  # fmt: skip


def test_a_failure_of_an_old_round_ends_nothing() -> None:
    state = change(complete(), join(B), B)
    assert change(state, Fail(0, "boom", 1, final=False), A) is state


def test_a_final_failure_closes_the_run() -> None:
    closure = change(complete(), Fail(0, "boom", 1, final=True), B).closure
    assert closure is not None
    assert closure.outcome == "failed"
    assert closure.why.endswith("exit code 1: boom; no restart is left")


def test_a_node_that_was_dropped_closes_nothing() -> None:
    state = change(complete(), Drop({B: "it is silent"}), A)
    assert change(state, Fail(0, "boom", 1, final=True), B) is state


def test_a_closing_is_final() -> None:
    state = closed()
    for action in EVERY_ACTION:
        assert change(state, action, A).closure == Closure(outcome="closed", why="told to")
    assert change(state, join(C), C) is state
    assert change(state, Propose({A: 0}), A) is state


def test_hearing_of_the_closing_is_noted_once() -> None:
    state = change(closed(), Hear(), A)
    assert state.unaware == [B]
    assert change(state, Hear(), A) is state
    assert change(complete(), Hear(), A).unaware == []


def test_long_sentences_are_cut_and_old_news_forgotten() -> None:
    state = complete()
    for _ in range(NEWS_COUNT_MAX + 3):
        state = after(state, (C, join(C)), (C, Leave("x" * 9000)))
    assert len(state.news) == NEWS_COUNT_MAX
    assert len(state.news[-1].message) == MESSAGE_SIZE_MAX
    assert len(change(complete(), Fail(0, "y" * 9000, 1, final=False), A).reason) == MESSAGE_SIZE_MAX
