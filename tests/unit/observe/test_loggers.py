from __future__ import annotations

import logging

import pytest

from rallypoint.observe.loggers import derive_module_name, get_log_level, get_logger


def test_a_logger_is_named_after_the_module_that_asks() -> None:
    assert get_logger().name == __name__


@pytest.mark.parametrize("name", [None, ""])
def test_no_name_is_the_callers_module(name: str | None) -> None:
    assert get_logger(name).name == __name__


def test_a_name_that_is_given_is_taken() -> None:
    assert get_logger("my.job").name == "my.job"


@pytest.mark.parametrize(
    ("text", "level"), [("DEBUG", logging.DEBUG), ("debug", logging.DEBUG), ("nonsense", logging.WARNING)]
)
def test_the_level_comes_from_the_environment(text: str, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGLEVEL", text)
    assert get_logger("levelled").level == level


def test_without_a_word_the_level_is_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOGLEVEL", raising=False)
    assert get_logger("levelled").level == logging.WARNING


def test_the_direct_caller_is_one_call_back() -> None:
    assert derive_module_name() == __name__
    assert derive_module_name(depth=1) == __name__


def test_there_is_nobody_beyond_the_first_call() -> None:
    assert derive_module_name(depth=100_000) is None


def test_the_usual_level_is_warning() -> None:
    assert get_log_level() == "WARNING"
