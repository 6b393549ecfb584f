"""What the attackers of the benchmarks do, as far as it needs no server."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.attackers import ATTACKS, strikes
from benchmarks.attacks import ATTACKED, QUESTION, attacked
from benchmarks.bars import bars_of
from benchmarks.impostors import is_welcome
from benchmarks.peers import NATIVE
from benchmarks.strangers import VALIDATE, Prefixes

from benchmarks import attackers
from rallypoint.protocol.session.codec import encode_closing, encode_number
from rallypoint.protocol.spec import CloseReason, Verb


def test_every_row_has_its_attack_and_every_judged_one_its_bars() -> None:
    assert {row.attack for row in ATTACKED} == set(ATTACKS)
    texts = [bar.text for bar in bars_of(NATIVE) if bar.question == QUESTION]
    for row, peer, dialect in attacked():
        assert sum(text.startswith(f"{peer}, {dialect}, {row.attack}: ") for text in texts) == 1


def test_every_beginning_of_a_request_is_said_and_never_the_whole() -> None:
    said = Prefixes(0, Path())._talks
    for cut in range(len(VALIDATE)):
        assert VALIDATE[:cut] in said
    counts = [talk[len(VALIDATE) :] for talk in said if talk.startswith(VALIDATE)]
    assert {talk[0] for talk in counts if talk} >= {Verb.SET, Verb.ADD, Verb.MULTI_SET, Verb.WAIT, Verb.BARRIER}
    assert not any(talk == bytes((Verb.GETNUMKEYS,)) for talk in counts)
    assert len(said) < Prefixes.rate * max(row.seconds for row in ATTACKED if "prefix" in row.attack)


def test_a_welcome_is_an_ok_behind_whatever_frames() -> None:
    closing = encode_closing(CloseReason.AUTHENTICATION_FAILED, "no")
    assert not is_welcome(b"")
    assert not is_welcome(closing)
    assert is_welcome(encode_number(0, 7))
    assert is_welcome(closing + encode_number(0, 7))


def test_strikes_come_when_due_and_those_missed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Time:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now += seconds

    clock = Time()
    monkeypatch.setattr(attackers, "time", clock)
    at = []
    for number in strikes(100.0, 1.0):
        at.append(clock.now)
        clock.now += 0.5 if number == 10 else 0.0
    assert at[:10] == pytest.approx([number / 100 for number in range(10)])
    assert 50 <= len(at) <= 53
