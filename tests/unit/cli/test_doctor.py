from __future__ import annotations

import json
import re
import resource
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from rallypoint import twin
from rallypoint.cli import doctor
from rallypoint.cli.commands import group
from rallypoint.cli.doctor import ENVIRONMENT

NAMES = [
    "twin",
    "python",
    "platform",
    "rallypoint",
    "dependencies",
    "descriptors",
    "somaxconn",
    "epoll",
    "unix sockets",
    "loopback",
    "store",
    "environment",
]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _no_variables_of_ours(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


def consult(*arguments):
    return CliRunner().invoke(group, ["doctor", *arguments])


def test_a_machine_that_works_is_told_so():
    result = consult()
    assert result.exit_code == 0, result.output
    assert "BROKEN" not in result.output
    assert [line.split()[0] for line in result.output.splitlines() if "->" not in line] == [
        name.split()[0] for name in NAMES
    ]


def test_json_says_the_same():
    result = consult("--json")
    assert result.exit_code == 0
    report = json.loads(result.output)
    assert report["works"] is True
    assert list(report["findings"]) == NAMES
    assert report["findings"]["twin"]["facts"]["why"] == twin.choice().why
    assert report["findings"]["python"]["facts"]["path"] == sys.executable


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (twin.Choice(None, "RALLYPOINT_PURE is set to '1'"), "Python: RALLYPOINT_PURE is set to '1'"),
        (twin.Choice(json, "it was built for this machine"), "native: it was built for this machine"),
    ],
)
def test_the_twin_and_the_reason_are_said(monkeypatch, choice, text):
    monkeypatch.setattr(twin, "choice", lambda: choice)
    assert doctor._twin().text == text


def test_a_missing_dependency_breaks(monkeypatch):
    def version(name):
        if name == "psutil":
            raise metadata.PackageNotFoundError(name)
        return "99.0"

    monkeypatch.setattr(doctor.metadata, "version", version)
    found = doctor._dependencies()
    assert found.is_broken
    assert "psutil is missing" in found.text
    assert found.advice == "psutil is missing: pip install --upgrade rallypoint"


def test_an_old_dependency_breaks(monkeypatch):
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["click>=8.1", "numpy>=1.24; extra == 'demo'"])
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "7.9.9")
    found = doctor._dependencies()
    assert found.is_broken
    assert found.advice == "click 7.9.9 is older than 8.1: pip install --upgrade rallypoint"
    assert found.facts == {"click": "7.9.9"}


@pytest.mark.parametrize(
    ("limits", "text", "is_advised"),
    [
        ((256, 4096), "256 at a time, can be raised up to 4096", True),
        ((65536, resource.RLIM_INFINITY), "65536 at a time, can be raised without limit", False),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), "without limit", False),
    ],
)
def test_few_descriptors_are_advised_against_but_work(monkeypatch, limits, text, is_advised):
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits)
    found = doctor._descriptors()
    assert found.text == text
    assert bool(found.advice) is is_advised
    assert not found.is_broken


def test_loopback_that_cannot_be_bound_breaks(monkeypatch):
    class Refusing(socket.socket):
        def bind(self, address):
            raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(doctor.socket, "socket", Refusing)
    result = consult("--json")
    assert result.exit_code == 1
    report = json.loads(result.output)
    assert report["works"] is False
    broken = report["findings"]["loopback"]
    assert broken["is_broken"] is True
    assert broken["text"] == "OSError: [Errno 99] Cannot assign requested address"
    assert report["findings"]["unix sockets"]["is_broken"] is False


def test_a_variable_that_stops_stores_breaks(monkeypatch):
    monkeypatch.setenv("RALLYPOINT_SERVER", "cloud")
    result = consult()
    assert result.exit_code == 1
    assert re.search("^BROKEN +store .*RALLYPOINT_SERVER must be .*'cloud'", result.output, re.MULTILINE)


def test_variables_in_force_are_listed_and_unknown_ones_advised_against(monkeypatch):
    monkeypatch.setenv("RALLYPOINT_UNIX", "0")
    monkeypatch.setenv("RALLYPOINT_PURER", "1")
    found = doctor._environment()
    assert found.facts == {"RALLYPOINT_UNIX": "0", "RALLYPOINT_PURER": "(not shown)"}
    assert found.advice == "nothing reads RALLYPOINT_PURER: is a name misspelled?"


@pytest.mark.parametrize("name", ["RALLYPOINT_TOKEN", "RALLYPOINT_TOKN", "RALLYPOINT_ETCD_PASSWORD"])
def test_a_secret_is_not_shown(monkeypatch, name):
    monkeypatch.setenv(name, "the-token-of-the-job")
    found = doctor._environment()
    assert "the-token" not in repr(found)
    assert name in found.text


def test_every_variable_of_the_source_is_known_and_in_the_reference():
    used = {
        name
        for path in (ROOT / "src").rglob("*.py")
        if path.name != "doctor.py"
        for name in re.findall(r"RALLYPOINT_[A-Z_]+", path.read_text(encoding="utf-8"))
    }
    assert set(ENVIRONMENT) == used
    page = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(RALLYPOINT_[A-Z_]+)`", page)) == used


def test_the_command_is_light():
    script = (
        "import sys\nimport rallypoint.cli.doctor\n"
        "sys.exit(any(name in sys.modules for name in ('psutil', 'msgspec', 'torch', 'rallypoint.store.tcp')))"
    )
    subprocess.run([sys.executable, "-c", script], timeout=60, check=True)
