"""The engine's twins, Python and native, so that one test runs over both.

A test that uses the fixture ``each_twin`` runs once over each: ``make_engine``, and with it every ``Wire``, takes the
twin that the test runs over. Without the native twin there is one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import pytest

from rallypoint import twin
from rallypoint.server.engine import Engine
from rallypoint.server.journal_log import encode_changes
from rallypoint.server.limits import Limits
from rallypoint.server.native_engine import NativeEngine

__all__ = [
    "TWINS",
    "AnyEngine",
    "each_twin",
    "make_engine",
    "over_each_twin",
    "python_twin_only",
    "running_over",
    "take_commit",
    "tested",
]

AnyEngine: TypeAlias = Engine | NativeEngine

TWINS: Final[Mapping[str, Callable[..., AnyEngine]]] = MappingProxyType(
    {"python": Engine} | ({"native": NativeEngine} if twin.native() is not None else {})
)


def tested(names: Iterable[str]) -> list[str]:
    """Give those of the twins, or of the clients by their twin, that this run of the tests is about."""
    only = os.environ.get("TESTED_TWIN", "")  # a sanitized run has nothing to find in Python's
    return [name for name in names if only in name]


over_each_twin = pytest.mark.usefixtures("each_twin")
"""For a module or a test: run it over each twin."""

python_twin_only = pytest.mark.parametrize("each_twin", ["python"], indirect=True)
"""For a test about the Python twin's own objects, in a module that runs over each twin."""

_running_over = ["python"]


@contextmanager
def running_over(name: str) -> Iterator[None]:
    """Let ``make_engine`` give this twin."""
    _running_over.append(name)
    try:
        yield
    finally:
        _running_over.pop()


@pytest.fixture(params=tested(TWINS))
def each_twin(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run over each twin; give its name."""
    with running_over(request.param):
        yield request.param


def make_engine(limits: Limits | None = None, **options: Any) -> AnyEngine:
    """Give an engine of the twin that the test runs over."""
    return TWINS[_running_over[-1]](limits or Limits(), **options)


def take_commit(engine: AnyEngine) -> bytes:
    """Give what has changed as a journal writes it; nothing if nothing has, or without a journal."""
    if isinstance(engine, NativeEngine):
        return engine.take_commit()
    changes = engine.take_changes()
    return encode_changes(changes) if changes else b""
