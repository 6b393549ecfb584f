from __future__ import annotations

import typing

from rallypoint.rendezvous import actions
from rallypoint.rendezvous.change import change
from rallypoint.rendezvous.state import Card, new_state


def test_every_action_is_exported_and_known_to_change() -> None:
    state = new_state("0" * 32, 1, 1)
    made = [
        actions.Join(Card(host="h", address="h"), 1, 1),
        actions.StandBy(Card(host="h", address="h")),
        actions.Beat(),
        actions.Drop({}),
        actions.Propose({}),
        actions.Withdraw(),
        actions.Acknowledge(1),
        actions.Succeed(0),
        actions.Fail(0, "it failed", 1, final=False),
        actions.Leave("told to"),
        actions.Close("closed", "told to"),
        actions.Hear(),
    ]
    assert {type(action) for action in made} == set(typing.get_args(actions.Action))
    for action in made:
        assert type(action).__name__ in actions.__all__
        change(state, action, "a" * 32)  # total: none of them raises
