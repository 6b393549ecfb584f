from __future__ import annotations

from rallypoint.rendezvous.actions import Drop, Fail, Join, Leave, Propose
from rallypoint.rendezvous.affairs import Affairs
from rallypoint.rendezvous.change import acknowledge
from rallypoint.rendezvous.gathering import take_census
from rallypoint.rendezvous.policy import Books, Ledger, Policy
from rallypoint.rendezvous.state import Card, Phase, new_state
from rallypoint.types import Endpoint

A, B, C = "a" * 32, "b" * 32, "c" * 32


def running(now: float = 0.0, **limits: int) -> Affairs:
    """Two nodes of three are in round 0."""
    ledger = Ledger(Books(policy=Policy(restarts=limits, flap_limit=1)), now)
    affairs = Affairs(new_state("0" * 32, 1, 3), ledger, {C: 2}, now)
    join(affairs, A, now)
    join(affairs, B, now)
    affairs.act(Propose({A: 0, B: 1}), "", now)
    affairs.make(acknowledge(affairs.state, 1, {A: Endpoint("h", 1), B: None}), now)
    assert affairs.state.phase is Phase.COMPLETE
    return affairs


def join(affairs: Affairs, node: str, now: float = 0.0) -> None:
    affairs.act(Join(Card(host=f"host-{node[0]}", address="h"), 1, 3), node, now, cause="joined")


def test_the_census_is_kept_up_through_every_change() -> None:
    affairs = running()
    assert affairs.census == take_census(affairs.state)
    join(affairs, C)
    assert affairs.census == take_census(affairs.state)
    join(affairs, A)
    affairs.act(Drop({B: "gone"}), "", 0.0, about=B, cause="dropped")
    affairs.act(Leave("told to"), C, 0.0, cause="left")
    assert affairs.census == take_census(affairs.state)


def test_each_round_that_ends_early_is_counted_under_its_cause() -> None:
    affairs = running()
    affairs.act(Fail(0, "boom", 1, final=False), A, 0.0, cause="failed")
    affairs.act(Fail(0, "late", 1, final=False), B, 0.0, cause="failed")
    assert affairs.ledger.restarts == {"failed": 1, "dropped": 0, "left": 0, "joined": 0}
    assert affairs.has_just_ended


def test_a_cause_that_has_no_restart_left_closes_the_run() -> None:
    affairs = running(dropped=0)
    affairs.act(Drop({B: "its connection was lost"}), "", 0.0, about=B, cause="dropped")
    assert affairs.state.closure is not None
    assert affairs.state.closure.outcome == "failed"
    assert "host-b#bbbbbb (node 1) is gone: its connection was lost; no restart is allowed" in affairs.state.closure.why


def test_a_node_that_comes_never_closes_the_run() -> None:
    affairs = running(joined=0)
    join(affairs, C)
    assert affairs.state.closure is None
    assert affairs.state.round == 1


def test_a_newcomer_that_ended_a_round_and_went_has_flapped() -> None:
    affairs = running()
    join(affairs, C, 100.0)
    affairs.act(Drop({C: "gone"}), "", 100.0, about=C, cause="dropped")
    assert affairs.ledger.cooling_s("host-c", 100.0) > 0


def test_nodes_of_one_machine_answer_for_themselves_if_their_labels_say_so() -> None:
    affairs = running()
    card = Card(host="machine", address="h", labels={"host": "first"})
    affairs.act(Join(card, 1, 3), C, 100.0, cause="joined")
    affairs.act(Drop({C: "gone"}), "", 100.0, about=C, cause="dropped")
    assert affairs.ledger.cooling_s("first", 100.0) > 0
    assert affairs.ledger.cooling_s("machine", 100.0) == 0


def test_a_member_of_long_standing_that_goes_has_not() -> None:
    affairs = running()
    affairs.act(Drop({B: "gone"}), "", 100.0, about=B, cause="dropped")
    assert affairs.ledger.cooling_s("host-b", 100.0) == 0


def test_ranks_are_remembered_where_the_state_forgets_them() -> None:
    affairs = running()
    assert affairs.other_ranks == {C: 2}
    assert affairs.last_ranks == {C: 2, A: 0, B: 1}


def test_a_new_stage_concerns_everybody_and_an_arrival_does_not() -> None:
    affairs = running()
    affairs.is_new_stage = affairs.has_moved = False
    affairs.act(Leave("unknown"), C, 0.0, cause="left")
    assert not affairs.has_moved
    before = affairs.decided
    join(affairs, C)
    assert affairs.is_new_stage
    assert affairs.decided != before
    affairs.is_new_stage = False
    join(affairs, A)
    assert affairs.has_moved
    assert not affairs.is_new_stage
