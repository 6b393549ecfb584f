from __future__ import annotations

from typing import get_args

from rallypoint.server import engine, vocabulary
from rallypoint.server.vocabulary import Effect, Event, Reply


def test_every_event_and_effect_is_a_tuple_that_names_its_peer_first() -> None:
    for kind in (*get_args(Event), *get_args(Effect)):
        assert issubclass(kind, tuple)
        assert kind in (vocabulary.Ticked, vocabulary.Stopping) or kind._fields[0] == "peer"


def test_the_words_are_had_where_the_engine_is() -> None:
    others = {"EndReason", "Hold", "Machine", "Origin", "Release", "Secured"}  # other drivers', and machines'
    words = set(vocabulary.__all__) - others
    assert words <= set(engine.__all__)
    assert all(getattr(engine, word) is getattr(vocabulary, word) for word in words)


def test_an_effect_is_told_by_its_type_and_not_by_its_fields() -> None:
    assert Reply(1, b"") == (1, b"")
    assert not isinstance((1, b""), Reply)
