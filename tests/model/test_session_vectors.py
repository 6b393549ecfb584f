"""The conversations of the session dialect that are written down, replayed against each engine, cut in several ways."""

from __future__ import annotations

import json

import pytest
from tests.support.session_vectors import CONVERSATIONS, PATH, replay
from tests.support.twins import over_each_twin

from rallypoint.protocol.session.spec import SESSION_VERBS, SessionVerb, Status

VECTORS = {vector["name"]: vector for vector in map(json.loads, PATH.read_text().splitlines())}

pytestmark = over_each_twin


@pytest.mark.parametrize("cut", [None, 1, 7])
@pytest.mark.parametrize("name", VECTORS)
def test_a_conversation_is_repeated_byte_for_byte(name: str, cut: int | None) -> None:
    assert replay(VECTORS[name], cut) == VECTORS[name]["steps"]


def test_all_conversations_are_written_down() -> None:
    assert list(VECTORS) == [hold.__name__ for hold in CONVERSATIONS]


def test_every_verb_and_status_is_in_one() -> None:
    said = {text.split()[1] for vector in VECTORS.values() for text in vector["says"] if ":" in text}
    # PROVE needs a token, STATUS tells what no two runs have in common.
    assert {verb.name for verb in SESSION_VERBS} - said == {SessionVerb.PROVE.name, SessionVerb.STATUS.name}
    statuses = {
        int(reply[8:10], 16)
        for vector in VECTORS.values()
        for step in vector["steps"]
        for name, reply in step["recv"].items()
        if name != "c" or not reply.startswith("00")
    }
    assert statuses >= set(Status) - {Status.CHALLENGE}
