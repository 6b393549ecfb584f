"""The clients of a TCP store, so that one test runs over each: c10d's and the session's, both in Python and native.

A test module that imports the fixture ``each_client`` and uses it (``pytestmark``) runs once over each: every TCPStore
that it makes has that client. With the session's in Python, a server in a process of its own is of the Python twin;
one on a thread is not: torch's clients do not always give the interpreter lock away while they wait for it. A test
about the c10d wire says ``each_c10d_client``, or ``dialect="c10d"``.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tests.support.twins import tested

from rallypoint import twin
from rallypoint.store import native

__all__ = ["CLIENTS", "SESSION_CLIENTS", "each_c10d_client", "each_client"]

IS_BUILT = twin.native() is not None
CLIENTS = ["python", "native"] if IS_BUILT else ["python"]
SESSION_CLIENTS = ["session", "native session"] if IS_BUILT else ["session"]


def _use(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RALLYPOINT_DIALECT", "auto" if name in SESSION_CLIENTS else "c10d")
    if name in ("python", "session"):
        monkeypatch.setattr(native, "twin", SimpleNamespace(native=lambda: None))
    if name == "session":
        monkeypatch.setenv("RALLYPOINT_PURE", "1")
    return name


@pytest.fixture(params=tested([*CLIENTS, *SESSION_CLIENTS]))
def each_client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run over each client; give its name."""
    return _use(str(request.param), monkeypatch)


@pytest.fixture(params=tested(CLIENTS))
def each_c10d_client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run over each twin of the c10d client; give its name."""
    return _use(str(request.param), monkeypatch)
