"""Rules with a fault put in on purpose: what the simulator is there to find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rallypoint.rendezvous import admission, lifeline, office
from rallypoint.rendezvous.admission import Admission
from rallypoint.rendezvous.follower import Follower
from rallypoint.rendezvous.office import Office
from rallypoint.rendezvous.orders import Clerk
from rallypoint.rendezvous.reports import OrderKind
from rallypoint.rendezvous.state import State

__all__ = ["BROKEN_RULES"]

Break = Callable[[pytest.MonkeyPatch], None]


def never_cut_off(patch: pytest.MonkeyPatch) -> None:
    """A node trusts in its lease for ever."""
    patch.setattr(lifeline, "CUT_OFF_SHARE", 1e9)


def a_lost_connection_means_nothing(patch: pytest.MonkeyPatch) -> None:
    """A node whose connection is lost, and not made again, waits for the end of its lease."""
    patch.setattr(Follower, "_doubt", lambda self, event, now: None)


def the_next_world_comes_at_once(patch: pytest.MonkeyPatch) -> None:
    """Who is lost has no time to find that out."""
    patch.setattr(office, "HOLD_S", 0.0)


def complete_without_all(patch: pytest.MonkeyPatch) -> None:
    """A round is complete with the first acknowledgement that names a store."""
    patch.setattr(State, "unacknowledged", property(lambda self: [] if self.endpoint else self.ranked))
    acknowledge = office.acknowledge

    def acknowledge_for_all(state: State, proposal: int, said: Any) -> State:
        return acknowledge(state, proposal, dict.fromkeys(state.members, next(iter(said.values()))) if said else said)

    patch.setattr(office, "acknowledge", acknowledge_for_all)


def successor_without_minutes(patch: pytest.MonkeyPatch) -> None:
    """Who takes office does not read what was recorded."""
    take_office = Office._take_office
    patch.setattr(Office, "_take_office", lambda self, event: take_office(self, event._replace(minutes=None)))


def told_before_recorded(patch: pytest.MonkeyPatch) -> None:
    """Orders are sent, and nothing is written down."""
    patch.setattr(Office, "_is_recorded", lambda self: True)


def the_dead_are_kept(patch: pytest.MonkeyPatch) -> None:
    """That a node is gone changes nothing."""
    patch.setattr(Office, "_lose", lambda self, event: None)


def the_closing_is_not_told(patch: pytest.MonkeyPatch) -> None:
    """A run ends, and its nodes are not told."""
    order_for = Clerk.order_for

    def order_for_others(self: Any, *arguments: Any) -> Any:
        order = order_for(self, *arguments)
        return None if order is not None and order.kind is OrderKind.CLOSED else order

    patch.setattr(Clerk, "order_for", order_for_others)


def spares_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Who stands by is not taken in when a place is free."""
    patch.setattr(Admission, "seat_spares", lambda self, now: None)
    choose_world = admission.choose_world

    def choose_without_spares(state: State, *arguments: Any, **options: Any) -> Any:
        choice = choose_world(state, *arguments, **options)
        if choice is None:
            return None
        ready = [node for node in choice.node_ids if state.nodes[node].standing.value == "ready"]
        return choice._replace(node_ids=ready) if len(ready) >= state.min_nodes else None

    patch.setattr(admission, "choose_world", choose_without_spares)


def everybody_has_rank_0(patch: pytest.MonkeyPatch) -> None:
    """Ranks are not what they should be."""
    patch.setattr(Admission, "_rank", lambda self, chosen: dict.fromkeys(chosen, 0))


BROKEN_RULES: tuple[Break, ...] = (
    never_cut_off,
    a_lost_connection_means_nothing,
    the_next_world_comes_at_once,
    complete_without_all,
    successor_without_minutes,
    told_before_recorded,
    the_dead_are_kept,
    the_closing_is_not_told,
    spares_are_forgotten,
    everybody_has_rank_0,
)
