"""The engine's twins beside each other: any script of steps, every byte, every effect, every number the same."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.session_script import SessionScript, read_session_limits
from tests.support.twin_script import Script, play, read_limits
from tests.support.twins import TWINS

CORPUS = sorted((Path(__file__).parents[1] / "fuzz" / "corpus").iterdir())


def play_over_all(data: bytes) -> int:
    script = Script(data)
    limits = read_limits(script)
    return play(script, [make(limits) for make in TWINS.values()])


def play_sessions_over_all(data: bytes) -> int:
    script = SessionScript(data)
    limits = read_session_limits(script)
    return play(script, [make(limits) for make in TWINS.values()])


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


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_what_a_fuzzer_kept_is_played_alike(path: Path) -> None:
    play_over_all(path.read_bytes())


def test_the_fuzzer_has_kept_something() -> None:
    assert CORPUS
