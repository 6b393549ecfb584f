from __future__ import annotations

import pytest
from native import build
from tools import generate_spec

from rallypoint.protocol.spec import CloseReason, Verb


def test_the_native_twins_table_is_what_the_python_twin_says():
    assert generate_spec.main(["--check"]) == 0


def test_a_stale_table_is_told(tmp_path, capsys):
    table = tmp_path / "spec.inc"
    assert generate_spec.main(["--output", str(table)]) == 0
    assert generate_spec.main(["--check", "--output", str(table)]) == 0
    table.write_text(table.read_text().replace("kKeySizeMax = 8192", "kKeySizeMax = 8191"))
    assert generate_spec.main(["--check", "--output", str(table)]) == 1
    assert "is stale: run python tools/generate_spec.py" in capsys.readouterr().out


def test_a_table_that_is_not_there_is_stale(tmp_path):
    assert generate_spec.main(["--check", "--output", str(tmp_path / "spec.inc")]) == 1


def test_verbs_and_reasons_carry_the_numbers_that_both_twins_use():
    table = generate_spec.text()
    assert all(f" {verb.name} = {verb.value}," in table for verb in Verb)
    assert all(f" {reason.name} = {number}," in table for number, reason in enumerate(CloseReason))


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A compiler that does what it is told by its caller: make its output, or complain."""

    def make(body):
        path = tmp_path / "fake-compiler"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))

    monkeypatch.delenv("RALLYPOINT_PURE", raising=False)
    monkeypatch.setattr(build, "headers", lambda: tmp_path)
    return make


def refusal(folder, capsys):
    """The reason that a build leaves, which it also says, once."""
    package = folder / "package"
    package.mkdir(exist_ok=True)
    (package / "_native.abi3.so").write_text("of an earlier build")
    assert build.build_if_possible(package, is_quiet=True) is None
    assert [path.name for path in package.iterdir()] == ["_native.txt"]
    reason = (package / "_native.txt").read_text().strip()
    said = capsys.readouterr().err
    assert said == f"rallypoint: the native twin was not built: {reason}; the Python twin serves\n"
    return reason


def test_a_build_leaves_the_module_and_no_reason(compiler, tmp_path):
    compiler('while [ "$1" != -o ]; do shift; done; echo module > "$2"')
    package = tmp_path / "package"
    package.mkdir()
    (package / "_native.txt").write_text("of an earlier build")
    assert build.build_if_possible(package) == package / "_native.abi3.so"
    assert [path.name for path in package.iterdir()] == ["_native.abi3.so"]


def test_sources_that_change_amid_a_build_are_compiled_again(compiler, tmp_path, monkeypatch):
    sources = tmp_path / "native"
    sources.mkdir()
    (sources / "module.cpp").write_text("int one;")
    monkeypatch.setattr(build, "HERE", sources)
    calls = tmp_path / "calls"
    compiler(
        f'echo "$*" >> {calls}; [ -e {sources}/late.hpp ] || echo "int two;" > {sources}/late.hpp\n'
        'while [ "$1" != -o ]; do shift; done; echo module > "$2"'
    )
    build.build(tmp_path / "module.so", is_quiet=True)
    assert [" -c " in call for call in calls.read_text().splitlines()] == [True, True, False]


def test_a_compiler_that_fails_is_quoted(compiler, tmp_path, capsys):
    compiler('echo "In file included from there:" >&2; echo "x.cpp:1:1: fatal error: no such thing" >&2; exit 1')
    reason = refusal(tmp_path, capsys)
    assert reason.endswith("fake-compiler failed: x.cpp:1:1: fatal error: no such thing")


def test_a_compiler_that_fails_without_a_word_is_told(compiler, tmp_path, capsys):
    compiler("exit 1")
    assert refusal(tmp_path, capsys).endswith("failed: it gives no reason")


def test_where_no_compiler_is_the_names_looked_for_are_told(compiler, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refusal(tmp_path, capsys) == "no C++ compiler was found (looked for c++, g++, clang++)"


def test_a_compiler_may_be_a_command_with_options(compiler, tmp_path, monkeypatch, capsys):
    compiler('echo "error: called with $1 $2" >&2; exit 1')
    monkeypatch.setenv("CXX", f"{tmp_path}/fake-compiler -m64 '-D NAME=a b'")
    assert refusal(tmp_path, capsys).endswith("failed: error: called with -m64 -D NAME=a b")


def test_a_compiler_that_is_not_there_is_told_by_its_name(compiler, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXX", f"{tmp_path}/nonesuch -m64")
    assert refusal(tmp_path, capsys) == f"no C++ compiler was found (CXX says {tmp_path}/nonesuch)"


def test_where_no_headers_are_the_one_that_is_missing_is_told(compiler, tmp_path, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.delenv("RALLYPOINT_PURE", raising=False)
    monkeypatch.setattr(build, "find_compiler", lambda: ["c++"])
    monkeypatch.setattr(build.sysconfig, "get_path", lambda name: str(tmp_path))
    assert refusal(tmp_path, capsys) == f"Python's headers are not installed ({tmp_path}/Python.h is missing)"


def test_another_system_is_named(compiler, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build.sys, "platform", "darwin")
    assert refusal(tmp_path, capsys) == "it needs Linux's epoll, this is darwin"


def test_another_interpreter_is_refused(compiler, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build.sysconfig, "get_config_var", lambda name: 1)
    assert refusal(tmp_path, capsys) == "it needs CPython's stable ABI, which this interpreter does not have"


def test_the_environment_asks_for_no_build(compiler, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RALLYPOINT_PURE", "1")
    assert refusal(tmp_path, capsys) == "RALLYPOINT_PURE was set at the build"


def test_by_hand_a_build_that_fails_is_an_error(compiler, tmp_path):
    compiler('echo "error: no such thing" >&2; exit 1')
    with pytest.raises(SystemExit, match=r"the native twin was not built: .* failed: error: no such thing"):
        build.main(["--output", str(tmp_path / "package" / "module.so")])
