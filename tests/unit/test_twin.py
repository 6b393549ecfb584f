from __future__ import annotations

import sys

import pytest

from rallypoint import twin


@pytest.fixture(autouse=True)
def _fresh_choice():
    twin.choice.cache_clear()
    yield
    twin.choice.cache_clear()


@pytest.mark.parametrize("value", ["1", "yes"])
def test_the_environment_forces_the_python_twin(monkeypatch, value):
    monkeypatch.setenv("RALLYPOINT_PURE", value)
    assert twin.native() is None
    assert twin.choice().why == f"RALLYPOINT_PURE is set to {value!r}"


def test_without_the_compiled_module_the_python_twin_runs_and_says_why(monkeypatch):
    monkeypatch.delenv("RALLYPOINT_PURE", raising=False)
    monkeypatch.setitem(sys.modules, "rallypoint._native", None)
    monkeypatch.delattr("rallypoint._native", raising=False)
    assert twin.native() is None
    assert "cannot be loaded" in twin.choice().why
