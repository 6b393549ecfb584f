from __future__ import annotations

from rallypoint.protocol import spec
from rallypoint.protocol.spec import VERBS, CloseReason, Kind, Verb


def test_verbs_number_from_0_to_18_without_a_gap() -> None:
    assert [int(verb) for verb in Verb] == list(range(19))


def test_every_verb_has_a_row() -> None:
    assert list(VERBS) == list(Verb)


def test_requests_use_only_kinds_that_a_request_can_have() -> None:
    replies_only = {Kind.U8, Kind.STORED, Kind.STORED_EACH, Kind.POPPED, Kind.LISTED}
    assert {kind for row in VERBS.values() for kind in row.request}.isdisjoint(replies_only)


def test_only_wait_and_barrier_are_answered_late() -> None:
    assert [verb for verb, row in VERBS.items() if row.is_deferred] == [Verb.WAIT, Verb.BARRIER]


def test_writes_without_a_result_have_no_reply() -> None:
    silent = [verb for verb, row in VERBS.items() if not row.reply]
    assert silent == [Verb.VALIDATE, Verb.SET, Verb.APPEND, Verb.MULTI_SET, Verb.QUEUE_PUSH]


def test_limits_are_those_measured_on_torch() -> None:
    assert (spec.KEY_SIZE_MAX, spec.VALUE_SIZE_MAX, spec.KEY_COUNT_MAX) == (8192, 8_388_608, 131_072)


def test_close_reasons_are_plain_words() -> None:
    assert all(reason.value == reason.name.lower() for reason in CloseReason)
