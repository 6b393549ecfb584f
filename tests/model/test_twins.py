"""The engine's twins beside each other: any script of steps, every byte, every effect, every number the same."""

from __future__ import annotations

import random
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.session_script import SessionScript, read_session_limits
from tests.support.twin_script import Observed, Script, play, read_limits
from tests.support.twins import TWINS

from rallypoint.server.changes import Change, State, apply
from rallypoint.server.engine import Engine
from rallypoint.server.journal import Journal
from rallypoint.server.journal_log import decode_changes
from rallypoint.server.limits import Limits
from rallypoint.server.native_engine import NativeEngine

CORPUS = sorted((Path(__file__).parents[1] / "fuzz" / "corpus").iterdir())


def play_over_all(data: bytes) -> int:
    script = Script(data)
    limits = read_limits(script)
    return play(script, [make(limits, journal=True) for make in TWINS.values()])


def play_sessions_over_all(data: bytes) -> int:
    script = SessionScript(data)
    limits = read_session_limits(script)
    return play(script, [make(limits, journal=True) for make in TWINS.values()])


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=400))
def test_any_script_is_played_alike(data: bytes) -> None:
    play_over_all(data)


@pytest.mark.parametrize("seed", range(8))
def test_a_long_script_is_played_alike(seed: int) -> None:
    assert play_over_all(bytes([seed % 2]) + random.Random(seed).randbytes(4000)) > 300


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=600))
def test_any_script_of_sessions_is_played_alike(data: bytes) -> None:
    play_sessions_over_all(data)


@pytest.mark.parametrize("seed", range(12))
def test_a_long_script_of_sessions_is_played_alike(seed: int) -> None:
    assert play_sessions_over_all(bytes([seed % 2]) + random.Random(seed).randbytes(8000)) > 300


@pytest.mark.parametrize("seed", range(12))
def test_a_life_after_another_is_played_alike(seed: int) -> None:
    chance = random.Random(seed)
    state = State()
    first = SessionScript(bytes([0]) + chance.randbytes(4000))
    play(first, [Engine(Limits(), journal=True)], lambda seen: apply(state, changes_in(seen.commit)))
    lives = [make(Limits(), seed=b"another life".ljust(32), journal=True) for make in TWINS.values()]
    for engine in lives:
        engine.restore(state, 0.0)
    assert play(SessionScript(bytes([1]) + chance.randbytes(4000)), lives) > 150


def changes_in(commit: bytes) -> list[Change]:
    return decode_changes(commit) if commit else []


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_what_a_fuzzer_kept_is_played_alike(path: Path) -> None:
    play_over_all(path.read_bytes())


def test_the_fuzzer_has_kept_something() -> None:
    assert CORPUS


@pytest.mark.skipif("native" not in TWINS, reason="only the compiled engine adds up")
@pytest.mark.parametrize("seed", range(6))
def test_what_commits_add_up_to_is_folded_as_the_commits_are(seed: int, tmp_path: Path) -> None:
    engine = NativeEngine(Limits(), journal=True)
    with closing(Journal(tmp_path / "each", bytes(16))) as each, closing(Journal(tmp_path / "sums", bytes(16))) as sums:
        steps = count()

        def write(seen: Observed) -> None:
            if seen.commit:
                each.write(changes_in(seen.commit))
                sums.write_encoded(seen.commit, 0)
            if next(steps) % 40 == 39:
                sums.fold(engine.take_sum())

        play(SessionScript(bytes([seed % 2]) + random.Random(seed).randbytes(6000)), [engine], write)
        sums.fold(engine.take_sum())
        state, expected = sums.load(), each.load()
        for session in (*state.sessions.values(), *expected.sessions.values()):
            session.answers = {number: kept for number, kept in session.answers.items() if number >= session.done}
        assert state == expected
        assert list(state.keys) == list(expected.keys)
