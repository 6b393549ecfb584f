from __future__ import annotations

from msgspec.structs import replace

from rallypoint.rendezvous.orders import Clerk
from rallypoint.rendezvous.reports import ORDER_SIZE_MAX, Order, OrderKind, Places, Report, Workers, encode_order
from rallypoint.rendezvous.state import MESSAGE_SIZE_MAX, Card, Closure, News, Node, Phase, Standing, State, new_state
from rallypoint.types import Endpoint

A, B, C = "a" * 32, "b" * 32, "c" * 32
CARD = Card(host="h", address="h")


def state(phase: Phase = Phase.COMPLETE, standing: Standing = Standing.RUNNING, acknowledged: int = 1) -> State:
    nodes = {id_: Node(card=CARD, standing=standing, arrival=1, acknowledged=acknowledged) for id_ in (A, B)}
    members = {} if phase is Phase.GATHERING else {A: 0, B: 1}
    endpoint = Endpoint("h", 1) if phase is Phase.COMPLETE else None
    base = replace(new_state("0" * 32, 1, 2), round=3, proposal=1, nodes=nodes)
    return replace(base, phase=phase, members=members, endpoint=endpoint)


def report(**rest: object) -> Report:
    fields: dict[str, object] = {"node": A, "number": 5, "card": CARD, "min_nodes": 1, "max_nodes": 2, "joining": 1}
    return Report(**(fields | rest))  # type: ignore[arg-type]


def ordered(state: State, asked: Report, clerk: Clerk | None = None) -> Order:
    order = (clerk or Clerk(9)).order_for(state, asked, "1 of 2 nodes")
    assert order is not None
    return order


def test_each_standing_has_its_order() -> None:
    ready = state(Phase.GATHERING, Standing.READY)
    waiting = ordered(ready, report(wants_in=True))
    assert (waiting.kind, waiting.why, waiting.term, waiting.report) == (OrderKind.WAIT, "1 of 2 nodes", 9, 5)
    assert ordered(state(Phase.GATHERING, Standing.SPARE), report(wants_in=True)).kind is OrderKind.STAND_BY
    proposed = ordered(state(Phase.PROPOSED, Standing.READY, 0), report(wants_in=True, node=B))
    assert (proposed.kind, proposed.rank, proposed.size, proposed.proposal) == (OrderKind.PROPOSED, 1, 2, 1)
    admitted = ordered(state(), report(wants_in=True, acknowledged=1))
    assert (admitted.kind, admitted.round, admitted.endpoint) == (OrderKind.ADMITTED, 3, Endpoint("h", 1))
    assert ordered(state(), report(entered=2)).kind is OrderKind.OVER
    assert ordered(state(), report(node=C, entered=3)).kind is OrderKind.FENCED
    assert ordered(state(), report(node=C, wants_in=True)).kind is OrderKind.FENCED


def test_who_needs_no_order_gets_none() -> None:
    clerk = Clerk(9)
    assert clerk.order_for(state(), report(entered=3), "") is None
    assert clerk.order_for(state(), report(), "") is None
    assert clerk.order_for(state(), report(wants_in=True, leaving="told to"), "") is None
    assert clerk.order_for(state(), report(node=C, entered=3, going="told to"), "") is None
    assert clerk.order_for(state(Phase.PROPOSED, Standing.READY, 1), report(wants_in=True), "") is None
    closed = replace(state(), closure=Closure(outcome="closed", why="told to"))
    assert clerk.order_for(closed, report(has_heard=True), "") is None
    end = ordered(closed, report(entered=3))
    assert (end.outcome, end.stood_by) == ("closed", False)
    assert ordered(closed, report(entered=3, going="told to")).kind is OrderKind.CLOSED


def test_who_stood_by_at_the_end_is_told_so() -> None:
    closed = replace(state(Phase.GATHERING, Standing.SPARE), closure=Closure(outcome="succeeded", why="all did"))
    assert ordered(closed, report(wants_in=True)).stood_by


def test_the_same_is_not_told_twice_but_a_new_wish_is_answered() -> None:
    clerk, gathering = Clerk(9), state(Phase.GATHERING, Standing.READY)
    first = ordered(gathering, report(wants_in=True), clerk)
    assert clerk.order_for(replace(gathering, round=4), report(wants_in=True, number=6), "other") is None
    again = ordered(gathering, report(wants_in=True, joining=2, number=7), clerk)
    assert again.number > first.number
    clerk.forget(A)
    assert clerk.order_for(gathering, report(wants_in=True, joining=2, number=8), "") is not None


def test_who_is_kept_out_hears_why_until_it_may_come() -> None:
    clerk, gathering = Clerk(9), state(Phase.GATHERING, Standing.READY)
    clerk.refuse(A, "other bounds")
    assert ordered(gathering, report(wants_in=True), clerk).kind is OrderKind.REFUSED
    clerk.keep_out(A, "for another 5 s")
    assert ordered(gathering, report(wants_in=True), clerk).kind is OrderKind.QUARANTINED
    clerk.clear(A)
    assert ordered(gathering, report(wants_in=True), clerk).kind is OrderKind.WAIT
    clerk.stand_by(A, "no room")
    assert ordered(state(Phase.GATHERING, Standing.SPARE), report(wants_in=True), clerk).why == "no room"


def test_an_order_to_wait_can_be_held_back_and_nothing_else() -> None:
    clerk, gathering = Clerk(9), state(Phase.GATHERING, Standing.READY)
    assert clerk.order_for(gathering, report(wants_in=True), "1 of 2 nodes", holds_waits=True) is None
    assert list(clerk.held) == [A]
    assert ordered(gathering, report(wants_in=True), clerk).kind is OrderKind.WAIT
    assert not clerk.held
    clerk.order_for(gathering, report(wants_in=True, joining=2), "1 of 2 nodes", holds_waits=True)
    spare = clerk.order_for(state(Phase.GATHERING, Standing.SPARE), report(wants_in=True), "", holds_waits=True)
    assert spare is not None
    assert not clerk.held
    clerk.order_for(gathering, report(wants_in=True, joining=3), "1 of 2 nodes", holds_waits=True)
    clerk.forget(A)
    assert not clerk.held


def test_a_twin_is_refused_once_and_the_node_itself_is_told_what_stands() -> None:
    clerk = Clerk(9)
    clerk.refuse_twin(A, "two of them", 77)
    refusal = ordered(state(), report(wants_in=True, acknowledged=1), clerk)
    assert (refusal.kind, refusal.report) == (OrderKind.REFUSED, 77)
    assert ordered(state(), report(wants_in=True, acknowledged=1), clerk).kind is OrderKind.ADMITTED


def test_the_end_of_a_round_carries_its_news_and_the_proposal_that_is_open_already() -> None:
    pieces = tuple(
        News(kind="failed", round=round_, node=B, host="h", message=f"in {round_}", exit_code=1) for round_ in (1, 3)
    )
    ended = replace(state(Phase.PROPOSED), round=4, proposal=2, previous={A: 0, B: 1}, news=pieces, reason="b failed")
    order = ordered(ended, report(entered=3))
    assert (order.kind, order.why, order.round, order.proposal) == (OrderKind.OVER, "b failed", 3, 2)
    assert [news.message for news in order.news] == ["in 3"]


def test_workers_are_numbered_if_all_members_said_what_they_run() -> None:
    told = {
        A: report(wants_in=True, acknowledged=1, workers=Workers(count=4)),
        B: report(node=B, wants_in=True, acknowledged=1, workers=Workers(count=2)),
    }
    order = Clerk(9).order_for(state(), told[B], "", told)
    assert order is not None
    assert order.places == Places(first_rank=4, world_size=6, first_role_rank=4, role_world_size=6)
    order = Clerk(9).order_for(state(), told[B], "", told | {A: replace(told[A], workers=None)})
    assert order is not None
    assert order.places is None


def test_an_order_stays_small_however_much_there_is_to_say() -> None:
    news = tuple(News(kind="failed", round=3, node=B, host="h" * 255, message="€" * 1024) for _ in range(8))
    ended = replace(state(), round=4, news=news, reason="€" * 1024)
    assert len(encode_order(ordered(ended, report(entered=3)))) < ORDER_SIZE_MAX


def test_progress_is_told_in_every_phase() -> None:
    clerk = Clerk(9)
    assert clerk.tell_progress(state()) == "round 3 goes on with 2 nodes"
    alone = replace(
        state(), members={A: 0}, nodes=state().nodes | {B: replace(state().nodes[B], standing=Standing.SPARE)}
    )
    assert clerk.tell_progress(alone) == "round 3 goes on with 1 node, 1 stands by"
    assert "1 of 2 acknowledgements missing" in clerk.tell_progress(
        replace(
            state(Phase.PROPOSED, Standing.READY), nodes=state().nodes | {B: replace(state().nodes[B], acknowledged=0)}
        )
    )
    closed = replace(state(), closure=Closure(outcome="failed", why="boom"))
    assert clerk.tell_progress(closed) == "the run is closed, failed: boom"


def test_a_notice_says_after_which_order_it_was_made() -> None:
    clerk = Clerk(9)
    assert clerk.order_for(state(), report(wants_in=True), "") is not None
    told = clerk.notice(state(), "")
    assert (told.term, told.number, told.text) == (9, 1, clerk.tell_progress(state()))
    assert len(clerk.notice(state(), "€" * 2000).text) == MESSAGE_SIZE_MAX
