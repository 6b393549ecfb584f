from __future__ import annotations

from collections.abc import Sequence

import pytest

from rallypoint.errors import RemoteProtocolError
from rallypoint.protocol.call import (
    Call,
    Wait,
    WaitExpired,
    ask_and_wait,
    ask_missing,
    read_is_ready,
    read_number,
    read_stored,
    wait_until_present,
)
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import REPLY_SIZE_MAX, Verb

CANCEL = encode_request(Verb.CANCEL_WAIT)


def run(call: Call[object], *answers: bytes | Exception) -> tuple[list[object], object]:
    """Give what a call asked for and what it returned."""
    asked: list[object] = []
    left = iter(answers)
    try:
        step = next(call)
        while True:
            asked.append(step)
            answer = b"" if isinstance(step, bytes) else next(left)
            step = call.throw(answer) if isinstance(answer, Exception) else call.send(answer)
    except StopIteration as done:
        return asked, done.value


def test_a_value_is_read_after_its_length() -> None:
    assert run(read_stored(), (3).to_bytes(8, "little"), b"abc") == ([8, 3], b"abc")


def test_an_empty_value_is_not_asked_for() -> None:
    assert run(read_stored(), bytes(8)) == ([8], b"")


def test_a_claim_of_the_largest_value_is_believed_and_one_byte_more_is_not() -> None:
    call = read_stored()
    next(call)
    assert call.send(REPLY_SIZE_MAX.to_bytes(8, "little")) == REPLY_SIZE_MAX
    with pytest.raises(RemoteProtocolError, match=f"claims a value of {REPLY_SIZE_MAX + 1} bytes"):
        run(read_stored(), (REPLY_SIZE_MAX + 1).to_bytes(8, "little"))


def test_a_number_has_a_sign() -> None:
    assert run(read_number(), b"\xff" * 8) == ([8], -1)


@pytest.mark.parametrize(("answer", "is_ready"), [(b"\x00", True), (b"\x01", False)])
def test_check_says_ready_or_not(answer: bytes, is_ready: bool) -> None:
    assert run(read_is_ready(), answer) == ([1], is_ready)


WAIT = encode_request(Verb.WAIT, [b"/k"])


@pytest.mark.parametrize(
    ("answers", "asked", "is_over"),
    [
        ([b"\x00"], [WAIT, Wait(1)], True),
        ([WaitExpired(), b"\x01"], [WAIT, Wait(1), CANCEL, 1], False),
        ([WaitExpired(), b"\x00", b"\x01"], [WAIT, Wait(1), CANCEL, 1, 1], True),
    ],
)
def test_a_wait_reads_every_answer_that_it_is_owed(
    answers: Sequence[bytes | Exception], asked: list[object], is_over: bool
) -> None:
    assert run(ask_and_wait(WAIT), *answers) == (asked, is_over)


def test_missing_keys_are_asked_for_once_each_in_one_segment() -> None:
    checks = encode_request(Verb.CHECK, [b"/a"]) + encode_request(Verb.CHECK, [b"/b"])
    assert run(ask_missing([b"/a", b"/b", b"/a"]), b"\x00\x01") == ([checks, 2], (b"/b",))


def test_no_keys_are_never_missing() -> None:
    assert run(ask_missing([])) == ([], ())


def test_waiting_that_expired_raises_what_is_missing() -> None:
    with pytest.raises(WaitExpired) as caught:
        run(wait_until_present([b"/k"]), WaitExpired(), b"\x01", b"\x01")
    assert caught.value.missing == (b"/k",)
    assert str(caught.value) == "1 keys were missing when the time was up"


def test_waiting_that_expired_says_so_if_nothing_is_missing_after_all() -> None:
    assert run(wait_until_present([b"/k"]), WaitExpired(), b"\x01", b"\x00")[1] is False
    assert run(wait_until_present([b"/k"]), b"\x00")[1] is True
