"""The threads of a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

__all__ = ["pool", "together"]

_PATIENCE_S: Final = 30.0
_THREADS: Final = 8


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for what must not hold up the test's own."""
    with ThreadPoolExecutor(_THREADS) as threads:
        yield threads


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Make calls at the same time, each in a thread of its own; give results or errors in order."""
    outcomes = [None] * len(calls)

    def run(place: int) -> None:
        try:
            outcomes[place] = calls[place]()
        except Exception as error:  # noqa: BLE001 - looked at by the test
            outcomes[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_PATIENCE_S)
        assert not thread.is_alive()
    return outcomes
