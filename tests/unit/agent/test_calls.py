from __future__ import annotations

import functools
from multiprocessing.reduction import ForkingPickler

import pytest

from rallypoint.agent.calls import FunctionCall, read_values


def work() -> None:
    """Be called."""


def test_a_call_is_named_after_its_function() -> None:
    assert FunctionCall(work).name == "work"
    assert FunctionCall(functools.partial(work, "x")).name == "work"
    assert FunctionCall(FunctionCall).name == "FunctionCall"


def test_an_unknown_start_method_is_refused() -> None:
    with pytest.raises(ValueError, match="'thread'; it must be one of spawn, forkserver, fork"):
        FunctionCall(work, start_method="thread")


def test_commands_return_nothing_and_functions_what_they_left() -> None:
    assert read_values({0: b"", 1: b""}, [0, 1]) == {0: None, 1: None}
    assert read_values({0: bytes(ForkingPickler.dumps([1]))}, [0, 1]) == {0: [1], 1: None}
