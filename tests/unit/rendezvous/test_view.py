from __future__ import annotations

from msgspec.structs import replace

from rallypoint.rendezvous.state import Card, Node, Phase, Standing, State, new_state
from rallypoint.rendezvous.view import View

ME, OTHER = "a" * 32, "b" * 32
INTERVAL_S = 5.0


def state(version: int, other_beat: int, standing: Standing = Standing.READY, born: str = "0" * 32) -> State:
    card = Card(host="h", address="h")
    nodes = {
        ME: Node(card=card, standing=standing, arrival=1),
        OTHER: Node(card=card, standing=Standing.READY, arrival=2, beat=other_beat),
    }
    return replace(new_state(born, 2, 2), version=version, nodes=nodes)


def look(view: View, seen: State, now: float) -> View:
    return view.observe(seen, ME, INTERVAL_S, now)


def test_a_beat_that_stands_still_is_counted_while_it_is_watched() -> None:
    view = look(View(), state(1, 7), 100.0)
    assert view.silent_s(OTHER) == 0.0
    view = look(look(view, state(1, 7), 103.0), state(1, 7), 107.0)
    assert view.silent_s(OTHER) == 7.0


def test_a_beat_that_moved_ends_the_silence() -> None:
    view = look(look(look(View(), state(1, 7), 0.0), state(1, 7), 4.0), state(2, 8), 8.0)
    assert view.silent_s(OTHER) == 0.0


def test_a_gap_between_looks_counts_for_one_interval_at_most() -> None:
    view = look(look(View(), state(1, 7), 0.0), state(1, 7), 1000.0)
    assert view.silent_s(OTHER) == INTERVAL_S


def test_a_clock_that_goes_back_makes_nobody_older() -> None:
    view = look(look(View(), state(1, 7), 10.0), state(1, 7), 2.0)
    assert view.silent_s(OTHER) == 0.0


def test_a_look_that_is_older_than_the_last_changes_nothing() -> None:
    view = look(View(), state(5, 7), 10.0)
    assert look(view, state(4, 6), 11.0) is view


def test_another_life_of_the_run_is_seen_with_fresh_eyes() -> None:
    view = look(look(View(), state(9, 7), 0.0), state(9, 7), 5.0)
    fresh = look(view, state(1, 7, born="1" * 32), 9.0)
    assert fresh.version == 1
    assert fresh.silent_s(OTHER) == 0.0


def test_nobody_is_silent_who_was_never_seen() -> None:
    assert View().silent_s(OTHER) == 0.0


def test_enough_nodes_are_timed_from_the_first_look_that_shows_them() -> None:
    alone = replace(state(1, 1), nodes={ME: state(1, 1).nodes[ME]})
    view = look(View(), alone, 0.0)
    assert view.enough_since is None
    view = look(look(view, state(2, 1), 3.0), state(3, 2), 9.0)
    assert view.enough_since == 3.0


def test_enough_begins_anew_with_the_round_and_after_a_loss() -> None:
    view = look(View(), state(1, 1), 3.0)
    assert look(view, replace(state(2, 1), round=1), 9.0).enough_since == 9.0
    alone = replace(state(2, 1), nodes={ME: state(2, 1).nodes[ME]})
    assert look(look(view, alone, 5.0), state(3, 1), 8.0).enough_since == 8.0


def test_spares_count_towards_enough_if_somebody_is_ready() -> None:
    assert look(View(), state(1, 1, Standing.SPARE), 3.0).enough_since == 3.0
    spare = replace(state(1, 1, Standing.SPARE), min_nodes=1, nodes={ME: state(1, 1, Standing.SPARE).nodes[ME]})
    assert look(View(), spare, 3.0).enough_since is None


def test_a_complete_round_needs_no_more_nodes() -> None:
    assert look(View(), replace(state(1, 1), phase=Phase.COMPLETE), 3.0).enough_since is None


def test_a_proposal_is_timed_from_the_first_look_that_shows_it() -> None:
    view = look(look(View(), replace(state(1, 1), proposal=4), 3.0), replace(state(2, 1), proposal=4), 9.0)
    assert view.proposed_since == 3.0
    assert look(view, replace(state(3, 1), proposal=5), 11.0).proposed_since == 11.0


def test_standing_by_is_timed_and_its_end_remembered() -> None:
    view = look(look(View(), state(1, 1, Standing.SPARE), 3.0), state(2, 1, Standing.SPARE), 9.0)
    assert (view.spare_since, view.spare_until) == (3.0, 9.0)
    view = look(view, state(3, 1), 12.0)
    assert (view.spare_since, view.spare_until) == (None, 9.0)
