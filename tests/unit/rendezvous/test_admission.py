from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from rallypoint.rendezvous import admission as module
from rallypoint.rendezvous.actions import Drop, Fail, Propose
from rallypoint.rendezvous.admission import REOPEN_PAUSE_S, Admission
from rallypoint.rendezvous.affairs import Affairs
from rallypoint.rendezvous.change import acknowledge
from rallypoint.rendezvous.decision import Rules
from rallypoint.rendezvous.orders import Clerk
from rallypoint.rendezvous.placement import Placement, find_placement
from rallypoint.rendezvous.policy import Books, Ledger, Policy
from rallypoint.rendezvous.reports import OrderKind, Report
from rallypoint.rendezvous.state import Card, Phase, Standing, State, new_state
from rallypoint.types import Endpoint

A, B, C, D = (letter * 32 for letter in "abcd")


class Desk:
    """An admission with all that it works on, for two to three nodes."""

    def __init__(
        self,
        policy: Policy | None = None,
        place: Placement | None = None,
        last_call_s: float = 30.0,
        max_nodes: int = 3,
    ) -> None:
        self.max_nodes = max_nodes
        self.affairs = Affairs(
            new_state("0" * 32, 2, max_nodes), Ledger(Books(policy=policy or Policy()), 0.0), {}, 0.0
        )
        self.clerk = Clerk(1)
        rules = Rules(2, max_nodes, last_call_s=last_call_s)
        self.admission = Admission(self.affairs, self.clerk, rules, place or find_placement("sticky"), {})
        self.numbers = 0

    @property
    def state(self) -> State:
        return self.affairs.state

    def want(
        self, node: str, now: float = 0.0, acknowledged: int = 0, entered: int | None = None, store: str = "embedded"
    ) -> None:
        self.numbers += 1
        report = Report(
            node=node,
            number=self.numbers,
            card=Card(host=f"host-{node[0]}", address="h"),
            min_nodes=2,
            max_nodes=self.max_nodes,
            wants_in=True,
            acknowledged=acknowledged,
            entered=entered,
            worker_store=store,
        )
        self.admission.reports[node] = report
        self.admission.let_in(report, now)

    def complete(self, now: float = 0.0) -> None:
        members = {node: Endpoint("h", 1) for node in self.state.members}
        self.affairs.make(acknowledge(self.state, self.state.proposal, members), now)
        assert self.state.phase is Phase.COMPLETE

    def fail(self, node: str, now: float = 0.0) -> None:
        self.affairs.act(Fail(self.state.round, "boom", 1, final=False), node, now, cause="failed")


def running(desk: Desk, *nodes: str) -> Desk:
    for node in nodes:
        desk.want(node)
    desk.admission.gather(0.0)
    desk.admission.gather(30.0)
    desk.complete(30.0)
    return desk


def test_a_world_is_proposed_when_it_is_full_or_the_last_call_is_over() -> None:
    desk = Desk()
    desk.want(A)
    desk.want(B)
    desk.admission.gather(10.0)
    assert desk.state.phase is Phase.GATHERING
    assert desk.admission.next_deadline() == 40.0
    assert desk.admission.tell_wait(10.0) == "2 of 2 to 3 nodes, the last call of 30 s is running"
    desk.want(C)
    desk.admission.gather(11.0)
    assert desk.state.phase is Phase.PROPOSED
    assert desk.admission.tell_wait(11.0) == ""


def test_the_first_node_says_what_kind_of_store_the_workers_of_all_get() -> None:
    desk = Desk()
    desk.want(A, store="gateway")
    desk.want(B)
    desk.want(C, store="gateway")
    assert set(desk.state.nodes) == {A, C}
    order = desk.clerk.order_for(desk.state, desk.admission.reports[B], "")
    assert order is not None
    assert order.kind is OrderKind.REFUSED
    for node in (A, C):
        desk.affairs.act(Drop({node: "gone"}), "", 1.0)
    desk.want(B)
    assert set(desk.state.nodes) == {B}


def test_a_spare_is_seated_when_a_place_is_free() -> None:
    desk = running(Desk(), A, B, C)
    desk.want(D)
    assert desk.state.nodes[D].standing is Standing.SPARE
    desk.affairs.act(Drop({B: "gone"}), "", 40.0, about=B, cause="dropped")
    desk.admission.seat_spares(40.0)
    assert desk.state.nodes[D].standing is Standing.READY


def test_a_round_that_lost_nobody_is_proposed_again_at_once() -> None:
    desk = running(Desk(), A, B)
    desk.fail(A, 50.0)
    desk.admission.gather(50.0)
    assert (desk.state.phase, desk.state.members) == (Phase.PROPOSED, {A: 0, B: 1})
    assert desk.admission.next_deadline() == 80.0
    desk.want(A, 55.0, acknowledged=2, entered=0)
    assert desk.state.nodes[A].standing is Standing.READY
    assert desk.admission.pass_time(79.0) == []
    assert desk.state.phase is Phase.PROPOSED
    desk.admission.pass_time(80.0)
    assert desk.state.phase is Phase.GATHERING
    assert B in desk.state.nodes


def test_a_round_with_somebody_new_gathers() -> None:
    desk = running(Desk(), A, B)
    desk.want(C, 50.0)
    desk.admission.gather(50.0)
    assert desk.state.phase is Phase.GATHERING


def test_who_has_just_come_back_gets_its_full_time_to_acknowledge() -> None:
    desk = running(Desk(), A, B)
    desk.fail(A, 50.0)
    desk.admission.gather(50.0)
    desk.want(B, 55.0, acknowledged=2, entered=0)
    desk.want(A, 78.0, entered=0)
    assert desk.admission.next_deadline() == 93.0


def test_the_mute_are_dropped_and_count_again_with_a_new_report() -> None:
    desk = Desk()
    for node in (A, B, C):
        desk.want(node)
    desk.admission.gather(0.0)
    desk.affairs.make(acknowledge(desk.state, 1, {A: Endpoint("h", 1), B: None}), 0.0)
    desk.admission.pass_time(15.0)
    assert set(desk.state.nodes) == {A, B}
    desk.admission.let_in(desk.admission.reports[C], 15.0)
    assert C not in desk.state.nodes
    desk.want(C, 16.0)
    assert C in desk.state.nodes


def test_a_host_that_cools_down_is_kept_out_and_let_in_afterwards() -> None:
    desk = running(Desk(Policy(flap_limit=1, cool_down_s=20.0)), A, B)
    desk.want(C, 50.0)
    desk.affairs.act(Drop({C: "gone"}), "", 50.0, about=C, cause="dropped")
    desk.admission.gather(50.0)
    desk.want(C, 60.0)
    assert C not in desk.state.nodes
    order = desk.clerk.order_for(desk.state, desk.admission.reports[C], "")
    assert order is not None
    assert order.kind is OrderKind.QUARANTINED
    assert desk.admission.next_deadline() == 70.0
    assert desk.admission.pass_time(70.0) == [C]
    assert C in desk.state.nodes


def test_who_could_not_read_that_it_was_in_is_taken_back() -> None:
    desk = running(Desk(), A, B)
    desk.affairs.act(Drop({B: "gone"}), "", 40.0, about=B, cause="dropped")
    assert desk.state.nodes[A].standing is Standing.RUNNING
    desk.admission.take_back(40.0)
    assert desk.state.nodes[A].standing is Standing.READY


def test_who_does_not_want_in_any_more_has_left() -> None:
    desk = Desk()
    desk.want(A)
    report = desk.admission.reports[A]
    desk.admission.look_at_idle(Report(node=A, number=9, card=report.card, min_nodes=2, max_nodes=3), 1.0)
    assert A not in desk.state.nodes


def test_a_placement_that_gives_no_ranks_is_not_taken() -> None:
    def broken(_state: State, chosen: Sequence[str], _before: Mapping[str, int]) -> dict[str, int]:
        return dict.fromkeys(chosen, 0)

    desk = Desk(place=broken)
    for node in (A, B, C):
        desk.want(node)
    desk.admission.gather(0.0)
    assert desk.state.members == {A: 0, B: 1, C: 2}


def test_a_proposal_of_strangers_is_never_made() -> None:
    desk = Desk()
    desk.affairs.act(Propose({A: 0, B: 1}), "", 0.0)
    assert desk.state.phase is Phase.GATHERING


def test_newcomers_that_come_one_by_one_reopen_a_proposal_only_so_often() -> None:
    desk = Desk(last_call_s=0.0, max_nodes=5)
    desk.want(A)
    desk.want(B)
    desk.admission.gather(0.0)
    assert desk.state.phase is Phase.PROPOSED
    desk.want(C, 1.0)
    desk.admission.gather(1.0)
    desk.want(D, 1.01)
    desk.admission.gather(1.01)
    assert desk.state.phase is Phase.GATHERING
    assert desk.admission.next_deadline() == 1.0 + REOPEN_PAUSE_S
    desk.admission.gather(1.0 + REOPEN_PAUSE_S)
    assert desk.state.phase is Phase.PROPOSED
    assert set(desk.state.members) == {A, B, C, D}
    desk.want("e" * 32, 2.0)
    desk.admission.gather(2.0)
    assert desk.state.phase is Phase.PROPOSED  # full: nobody else can be on the way


def test_nobody_is_let_in_whom_no_successor_could_read_in_the_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NODE_COUNT_MAX", 2)
    desk = Desk(max_nodes=5)
    for node in (A, B, C):
        desk.want(node)
    assert set(desk.state.nodes) == {A, B}
