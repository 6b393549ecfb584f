from __future__ import annotations

import pytest
from msgspec.structs import replace

from rallypoint.rendezvous.outsiders import Outsiders
from rallypoint.rendezvous.reports import Report
from rallypoint.rendezvous.state import Card, Phase, State, new_state

A, B, C = "a" * 32, "b" * 32, "c" * 32
PATIENCE_S = 15.0
NEVER = float("-inf")


def state(proposal: int = 5, *members: str, phase: Phase = Phase.PROPOSED) -> State:
    ranks = {member: rank for rank, member in enumerate(members)}
    return replace(new_state("0" * 32, 1, 4), phase=phase, proposal=proposal, members=ranks)


def report(node: str, **rest: object) -> Report:
    fields: dict[str, object] = {"node": node, "number": 5, "card": Card(host="h", address="h")}
    return Report(min_nodes=1, max_nodes=4, **(fields | rest))  # type: ignore[arg-type]


def look(
    outsiders: Outsiders, state: State, *reports: Report, affected: tuple[str, ...] = (), now: float = 0.0
) -> None:
    outsiders.look(state, {report.node: report for report in reports}, affected, now)


@pytest.mark.parametrize(
    ("fields", "is_it"),
    [
        ({"entered": 3}, True),
        ({"entered": 3, "done": 2}, True),
        ({"entered": 3, "done": 3}, False),
        ({"entered": 3, "leaving": "told to"}, False),
        ({"entered": 3, "going": "told to"}, False),
        ({"entered": None}, False),
        ({"wants_in": True, "entered": 3}, False),
        ({"wants_in": True, "acknowledged": 3}, True),
        ({"wants_in": True, "acknowledged": 5}, False),
    ],
)
def test_a_node_may_run_an_earlier_round_until_its_report_says_that_it_does_not(
    fields: dict[str, object], is_it: bool
) -> None:
    outsiders, found = Outsiders(PATIENCE_S), report(B, **fields)
    look(outsiders, state(5, A), found)
    assert (B in outsiders) is is_it
    look(outsiders, state(6, A, B), found)
    assert B not in outsiders
    look(outsiders, state(6, A, phase=Phase.COMPLETE), found)
    assert B not in outsiders


def test_what_was_acknowledged_and_came_to_nothing_lets_nobody_run() -> None:
    outsiders = Outsiders(PATIENCE_S)
    look(outsiders, state(3, A, B, phase=Phase.COMPLETE))
    for acknowledged, is_it in ((3, True), (4, False)):
        look(outsiders, state(5 + acknowledged, A), report(B, wants_in=True, acknowledged=acknowledged))
        assert (B in outsiders) is is_it


def test_a_proposal_is_held_up_until_all_that_it_leaves_out_have_reported_or_are_gone() -> None:
    outsiders = Outsiders(PATIENCE_S)
    runs = [report(node, entered=3) for node in (B, C)]
    look(outsiders, state(5, A), report(A, entered=3), *runs, now=100.0)
    assert outsiders.held_until() == 100.0 + PATIENCE_S
    look(outsiders, state(5, A), report(B, wants_in=True), affected=(B,), now=101.0)
    assert outsiders.held_until() == 100.0 + PATIENCE_S
    outsiders.forget(C)
    assert outsiders.held_until() == NEVER


def test_who_is_going_is_waited_for_without_limit_and_not_fenced() -> None:
    outsiders = Outsiders(PATIENCE_S)
    goes = report(B, entered=3, going="told to")
    look(outsiders, state(5, A), goes, report(C, entered=3), now=100.0)
    assert (B in outsiders, C in outsiders) == (False, True)
    assert outsiders.held_until() == float("inf")
    assert outsiders.tell_wait(state(5, A)) == (
        "round 0 is proposed, and waits for the workers of a node#bbbbbb to end, which is going"
    )
    look(outsiders, state(5, A), report(B, entered=3, leaving="told to"), affected=(B,), now=300.0)
    assert outsiders.held_until() == 100.0 + PATIENCE_S
    assert outsiders.tell_wait(state(5, A)) == ""


def test_who_is_going_and_gone_or_done_is_not_waited_for() -> None:
    outsiders = Outsiders(PATIENCE_S)
    look(outsiders, state(5, A), report(B, entered=3, going="told to"), report(C, entered=3, done=3, going="told to"))
    assert outsiders.held_until() == float("inf")
    outsiders.forget(B)
    assert outsiders.held_until() == NEVER


def test_who_is_left_out_and_then_is_asked_to_go_is_waited_for_longer() -> None:
    outsiders = Outsiders(PATIENCE_S)
    look(outsiders, state(5, A), report(B, entered=3))
    look(outsiders, state(5, A), report(B, entered=3, going="told to"), affected=(B,))
    assert outsiders.held_until() == float("inf")
    assert B not in outsiders


def test_another_proposal_begins_anew() -> None:
    outsiders = Outsiders(PATIENCE_S)
    look(outsiders, state(5, A), report(B, entered=3))
    look(outsiders, state(5, phase=Phase.GATHERING), report(B, entered=3))
    assert outsiders.held_until() == NEVER
    look(outsiders, state(6, A), report(B, entered=3), now=7.0)
    assert outsiders.held_until() == 7.0 + PATIENCE_S
    look(outsiders, state(7, A, B), report(B, entered=3), now=8.0)
    assert outsiders.held_until() == NEVER
