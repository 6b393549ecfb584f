"""Stores for tests: real ones that are closed at the end, and one that writes down what it is asked.

A test module says which stores its fixtures give: ``make = make_store``, ``store = first_store``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, Final

import pytest

from rallypoint.server import native
from rallypoint.store.tcp import TCPStore

__all__ = ["HOST", "JOIN_S", "Recorder", "first_store", "make_session_store", "make_store", "making_stores"]

HOST: Final = "127.0.0.1"

JOIN_S: Final = 60
"""How long a test waits for what must come, in seconds."""


@contextlib.contextmanager
def making_stores() -> Iterator[Callable[..., TCPStore]]:
    """Give a function that makes a ``TCPStore``, without port a server and its first client; close them all."""
    with contextlib.ExitStack() as stack:

        def make(
            host_name: str = HOST, port: int = 0, *arguments: Any, is_master: bool | None = None, **options: Any
        ) -> TCPStore:
            options.setdefault("timeout", JOIN_S)
            options.setdefault("server", "thread")
            options.setdefault("wait_for_workers", "world_size" in options or bool(arguments))
            options["is_master"] = port == 0 if is_master is None else is_master
            return stack.enter_context(contextlib.closing(TCPStore(host_name, port, *arguments, **options)))

        yield make


@pytest.fixture
def make_store() -> Iterator[Callable[..., TCPStore]]:
    """Make stores; see ``making_stores``."""
    with making_stores() as make:
        yield make


@pytest.fixture
def make_session_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., TCPStore]]:
    """Make stores that speak the session dialect with a server of the Python twin."""
    monkeypatch.setattr(native, "native", lambda: None)
    monkeypatch.setenv("RALLYPOINT_DIALECT", "session")
    with making_stores() as make:
        yield make


@pytest.fixture
def first_store(make: Callable[..., TCPStore]) -> TCPStore:
    """A server and its first client, of the module's ``make``."""
    return make()


class Recorder:
    """A store of no class of ours that writes down what it is asked, as torch's own tests have one.

    Args:
        arrival_number: what every ``add`` answers.
        wait_error: what every ``wait`` raises, if anything.
    """

    def __init__(self, arrival_number: int, wait_error: Exception | None = None) -> None:
        self.ops: list[tuple[object, ...]] = []
        self.arrival_number = arrival_number
        self.wait_error = wait_error

    @property
    def timeout(self) -> timedelta:
        self.ops.append(("timeout",))
        return timedelta(seconds=1234)

    def set_timeout(self, timeout: timedelta) -> None:
        self.ops.append(("set_timeout", timeout))

    def set(self, key: str, value: str) -> None:
        self.ops.append(("set", key, value))

    def add(self, key: str, amount: int) -> int:
        self.ops.append(("add", key, amount))
        return self.arrival_number

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        self.ops.append(("multi_get", keys))
        return [b"value"] * len(keys)

    def wait(self, keys: Sequence[str]) -> None:
        self.ops.append(("wait", keys))
        if self.wait_error:
            raise self.wait_error
