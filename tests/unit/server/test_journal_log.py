from __future__ import annotations

import random

import pytest
from hypothesis import given
from tests.support.changes import changes

from rallypoint.server.changes import Answer, AnswerKept
from rallypoint.server.journal_log import decode_changes, encode_changes
from rallypoint.server.journal_tables import DamagedError

S = bytes(16)


@given(changes())
def test_what_is_encoded_comes_back(given_changes):
    decoded = decode_changes(encode_changes(given_changes))
    assert decoded == given_changes
    assert list(map(type, decoded)) == list(map(type, given_changes))


def test_a_body_that_answers_share_is_written_once_and_shared_again():
    body = bytes(100_000)
    kept = [AnswerKept(S, number, Answer(b"%d" % number, body)) for number in range(50)]
    data = encode_changes(kept)
    assert len(data) < 2 * len(body)
    decoded = decode_changes(data)
    assert decoded == kept
    assert len({id(change.answer.body) for change in decoded}) == 1


@pytest.mark.parametrize("data", [b"", b"x", b"\x92\x90", b"\x92\x90\x91\x92\x63\x90", b"\x92\x90\x91\x92\x00\x90"])
def test_what_was_never_encoded_is_damage(data):
    with pytest.raises(DamagedError, match="a commit is not what was written"):
        decode_changes(data)


@pytest.mark.parametrize("seed", range(50))
def test_other_bytes_are_damage_or_other_changes_and_nothing_worse(seed):
    chance = random.Random(seed)
    data = bytearray(encode_changes([AnswerKept(S, 1, Answer(b"head", b"body")), AnswerKept(S, 2, None)]))
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    try:
        decode_changes(bytes(data))
    except DamagedError as error:
        assert str(error)  # noqa: PT017 - either is right
