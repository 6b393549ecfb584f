"""One line for people who wait: a connection that takes long is told of, and why it does."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from rallypoint.clock import Deadline
from rallypoint.errors import DistNetworkError
from rallypoint.events import emit
from rallypoint.net.connect import connect
from rallypoint.types import Endpoint

__all__ = ["SLOW_S", "said_if_slow", "told_if_slow"]

SLOW_S = 1.0
"""After so many seconds somebody who watches begins to wonder."""

LOOK_S = 1.0
"""How long the look at what is wrong may take, in seconds."""


def told_if_slow(endpoint: Endpoint, timeout_s: float, run_id: str) -> AbstractContextManager[threading.Event]:
    """Emit one event if what is done in the ``with`` takes longer than ``SLOW_S``.

    Args:
        endpoint: whom the caller tries to reach; looked at once, for the reason.
        timeout_s: how long the caller tries, in seconds; infinity is not told.
        run_id: the run, for the event.

    Returns:
        As ``said_if_slow``.
    """
    return said_if_slow(endpoint, timeout_s, partial(emit, "rendezvous.wait", run_id=run_id))


@contextmanager
def said_if_slow(endpoint: Endpoint, timeout_s: float, say: Callable[[str], object]) -> Iterator[threading.Event]:
    """Say one sentence if what is done in the ``with`` takes longer than ``SLOW_S``.

    Args:
        endpoint: as of ``told_if_slow``.
        timeout_s: as of ``told_if_slow``.
        say: takes the sentence, in a thread of its own.

    Returns:
        What silences it when it is set; leaving the ``with`` does.

    Threads: the waiting and looking is done in a thread of its own, which is left to end by itself.
    """
    ended = threading.Event()
    threading.Thread(
        target=_say_later, args=(endpoint, timeout_s, say, ended), name="rallypoint-patience", daemon=True
    ).start()
    try:
        yield ended
    finally:
        ended.set()


def _say_later(endpoint: Endpoint, timeout_s: float, say: Callable[[str], object], ended: threading.Event) -> None:
    if ended.wait(SLOW_S):
        return
    reason = _look(endpoint)
    if not ended.is_set():
        limit = "" if math.isinf(timeout_s) else f" for {timeout_s:.3g} s"
        say(f"no store at {endpoint} yet: {reason}; trying{limit}")


def _look(endpoint: Endpoint) -> str:
    """Give the reason why a store cannot be reached, in one clause."""
    try:
        connect(endpoint, Deadline(LOOK_S)).close()
    except DistNetworkError as error:
        return str(error).removeprefix(f"no connection to {endpoint}: ")
    return "it accepts connections, but has not answered as a store does"
