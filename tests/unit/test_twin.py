from __future__ import annotations

import sys
import types

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


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ([], "the native twin was not built: this is a bare source tree; pip install builds it"),
        (["_native.abi3.so"], "the native twin cannot be loaded: "),
    ],
)
def test_without_the_compiled_module_the_python_twin_runs_and_says_why(monkeypatch, tmp_path, files, why):
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.delenv("RALLYPOINT_PURE", raising=False)
    monkeypatch.setitem(sys.modules, "rallypoint._native", None)
    monkeypatch.delattr("rallypoint._native", raising=False)
    monkeypatch.setattr(twin, "__file__", str(tmp_path / "twin.py"))
    assert twin.native() is None
    assert twin.choice().why.startswith(why)


def test_the_builds_reason_is_what_is_said(monkeypatch, tmp_path):
    monkeypatch.delenv("RALLYPOINT_PURE", raising=False)
    monkeypatch.setitem(sys.modules, "rallypoint._native", None)
    monkeypatch.delattr("rallypoint._native", raising=False)
    (tmp_path / "_native.txt").write_text("no C++ compiler was found (looked for c++, g++)\n")
    monkeypatch.setattr(twin, "__file__", str(tmp_path / "twin.py"))
    assert twin.choice() == (None, "the native twin was not built: no C++ compiler was found (looked for c++, g++)")


@pytest.mark.parametrize("value", ["", "0"])
def test_the_compiled_module_runs_wherever_it_is(monkeypatch, value):
    module = types.ModuleType("rallypoint._native")
    module.__file__ = "/there/_native.abi3.so"
    monkeypatch.setenv("RALLYPOINT_PURE", value)
    monkeypatch.setitem(sys.modules, "rallypoint._native", module)
    monkeypatch.setattr("rallypoint._native", module, raising=False)
    assert twin.native() is module
    assert twin.choice().why == "it was built for this machine (/there/_native.abi3.so)"
