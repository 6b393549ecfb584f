"""Signs of life on a store without leases."""

from __future__ import annotations

import pytest
from tests.support.session_store import PlainStore

from rallypoint.errors import LeaseLostError
from rallypoint.primitives.beats import SEALED, Beat, Sighting, is_sealed, peek, seal


def test_peeking_neither_waits_nor_writes():
    store = PlainStore()
    assert peek(store, "k") is None
    assert store.num_keys() == 0
    store.set("k", "v")
    assert peek(store, "k") == b"v"
    assert store.get("k") == b"v"


def test_a_beat_moves_and_stops():
    store = PlainStore()
    beat = Beat(store, "b")
    beat.move()
    assert peek(store, "b") == b"2"
    beat.stop()
    assert store.num_keys() == 0


def test_a_sealed_beat_never_moves_again():
    store = PlainStore()
    beat = Beat(store, "b")
    assert seal(store, "b", b"1")
    for _ in range(3):
        with pytest.raises(LeaseLostError, match="nobody saw it move"):
            beat.move()
    assert is_sealed(peek(store, "b"))


def test_a_beat_that_moved_is_not_sealed():
    store = PlainStore()
    beat = Beat(store, "b")
    beat.move()
    assert not seal(store, "b", b"1")
    beat.move()


def test_a_beat_may_be_sealed_before_it_begins_and_by_two():
    store = PlainStore()
    assert seal(store, "b", None)
    assert seal(store, "b", None)
    assert store.get("b") == SEALED
    with pytest.raises(LeaseLostError):
        Beat(store, "b")


def test_an_owner_whose_beat_was_cleared_away_is_dead_and_leaves_nothing():
    store = PlainStore()
    beat = Beat(store, "b")
    store.delete_key("b")
    with pytest.raises(LeaseLostError):
        beat.move()
    assert store.num_keys() == 0


def test_quiet_is_counted_from_when_the_watcher_saw_it_move():
    sighting = Sighting()
    assert sighting.look(b"1", 100.0) == 0
    assert sighting.look(b"1", 103.0) == 3
    assert sighting.look(b"2", 104.0) == 0
    assert sighting.look(b"2", 104.5) == 0.5


def test_a_beat_that_never_began_is_quiet_too():
    sighting = Sighting()
    assert sighting.look(None, 5.0) == 0
    assert sighting.look(None, 7.0) == 2
