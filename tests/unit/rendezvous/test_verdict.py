from __future__ import annotations

from msgspec.structs import replace

from rallypoint.rendezvous.state import Card, Closure, News, Node, Phase, Standing, State, new_state
from rallypoint.rendezvous.verdict import Verdict, VerdictKind, judge
from rallypoint.types import Endpoint

A, B = "a" * 32, "b" * 32


def running() -> State:
    card = Card(host="h", address="h")
    nodes = {id_: Node(card=card, standing=Standing.RUNNING, arrival=1, acknowledged=1) for id_ in (A, B)}
    return replace(
        new_state("0" * 32, 1, 2),
        round=3,
        phase=Phase.COMPLETE,
        proposal=1,
        members={A: 0, B: 1},
        nodes=nodes,
        endpoint=Endpoint("h", 1),
    )


def test_a_round_goes_on_for_its_members_while_it_is_the_present_one() -> None:
    assert judge(running(), A, 3) == Verdict(VerdictKind.CURRENT, "round 3 goes on, its world size is 2", None)


def test_a_round_is_over_when_another_gathers_and_the_reason_is_told() -> None:
    state = replace(running(), round=4, phase=Phase.GATHERING, members={}, endpoint=None, reason="b left")
    assert judge(state, A, 3) == Verdict(VerdictKind.OVER, "b left", None)


def test_a_round_that_nobody_gave_a_reason_for_is_over_all_the_same() -> None:
    assert judge(replace(running(), round=4), A, 3) == Verdict(VerdictKind.OVER, "the present round is 4, not 3", None)


def test_a_node_that_is_in_the_round_but_no_member_has_no_part_in_it() -> None:
    assert judge(replace(running(), members={B: 0}), A, 3).kind is VerdictKind.OVER


def test_a_node_that_is_not_named_was_dropped_and_hears_why() -> None:
    news = News(kind="dropped", round=3, node=A, host="h", message="h#aaaaaa is gone: it was silent")
    state = replace(running(), nodes={B: running().nodes[B]}, news=(news,))
    assert judge(state, A, 3) == Verdict(
        VerdictKind.FENCED, "this node is no longer in round 3: h#aaaaaa is gone: it was silent", None,
    )  # fmt: skip
    assert "does not name it" in judge(replace(state, news=()), A, 3).why


def test_a_node_that_is_done_waits_and_cannot_be_fenced() -> None:
    state = replace(running(), done=(A,))
    assert judge(state, A, 3) == Verdict(VerdictKind.CURRENT, "1 of 2 nodes are done", None)
    assert judge(replace(state, nodes={B: state.nodes[B]}), A, 3).kind is VerdictKind.CURRENT


def test_a_closed_run_is_closed_for_everybody() -> None:
    state = replace(running(), closure=Closure(outcome="succeeded", why="all did"), nodes={}, done=(A, B))
    for node_id, entered in ((A, 3), (A, 1), (B, 9)):
        assert judge(state, node_id, entered) == Verdict(VerdictKind.CLOSED, "all did", "succeeded")


def test_only_worse_things_are_news_after_others() -> None:
    assert VerdictKind.OVER.is_worse_than(VerdictKind.CURRENT)
    assert VerdictKind.CLOSED.is_worse_than(VerdictKind.FENCED)
    assert not VerdictKind.OVER.is_worse_than(VerdictKind.FENCED)
    assert not VerdictKind.OVER.is_worse_than(VerdictKind.OVER)
