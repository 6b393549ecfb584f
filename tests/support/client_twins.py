"""The client's twins, Python and native, so that one test runs over both.

A test module that imports the fixture ``each_client`` and uses it (``pytestmark``) runs once over each: every TCPStore
that it makes has a client of that twin, whichever twin its server is. Without the native twin there is one.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rallypoint import twin
from rallypoint.store import native

__all__ = ["CLIENTS", "each_client"]

CLIENTS = ["python", "native"] if twin.native() is not None else ["python"]


@pytest.fixture(params=CLIENTS)
def each_client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run over each twin; give its name."""
    if request.param == "python":
        monkeypatch.setattr(native, "twin", SimpleNamespace(native=lambda: None))
    return str(request.param)
