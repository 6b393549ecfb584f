"""The table of the session dialect says the same thing everywhere."""

from __future__ import annotations

import pytest

from rallypoint.protocol import spec
from rallypoint.protocol.session.spec import OPENING, SESSION_VERBS, Field, SessionVerb

REPLY_ONLY = {Field.STORED, Field.STORED_EACH, Field.LISTED, Field.ENTRIES, Field.MEMBERS}


def test_every_verb_has_a_row() -> None:
    assert set(SESSION_VERBS) == set(SessionVerb)


@pytest.mark.parametrize("verb", [verb for verb in SessionVerb if verb <= max(spec.Verb)])
def test_verbs_of_both_dialects_have_one_request_layout(verb: SessionVerb) -> None:
    twin = spec.Verb[verb.name]
    assert twin == verb
    assert [field.name for field in SESSION_VERBS[verb].request] == [kind.name for kind in spec.VERBS[twin].request]


@pytest.mark.parametrize("verb", list(SessionVerb))
def test_requests_have_no_fields_of_replies(verb: SessionVerb) -> None:
    assert not REPLY_ONLY.intersection(SESSION_VERBS[verb].request)


def test_a_connection_of_this_dialect_cannot_be_taken_for_another() -> None:
    assert OPENING[0] not in (spec.Verb.VALIDATE, 0x16)
