"""Nodes of one run that were given different backends: they never meet, so at least they are told why.

The backends ``c10d`` and ``rallypoint`` keep a run under different keys of the same server. A node looks a few times,
at growing intervals, whether the other backend's keys of its own run are those of nodes that live, and says so once.
What an earlier run of the same name left behind does not count.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from rallypoint.errors import DistError
from rallypoint.events import emit
from rallypoint.primitives.kind import has_sessions
from rallypoint.rendezvous.board import COORDINATOR
from rallypoint.rendezvous.c10d import state_key_of
from rallypoint.rendezvous.key_spaces import root_of

if TYPE_CHECKING:
    from rallypoint.store.base import Store

__all__ = ["FIRST_LOOK_S", "look_for_c10d", "look_for_coordinator", "tell_of_other_backend"]

FIRST_LOOK_S: Final = 5.0
"""When a node looks for the first time, in seconds after it has reached the store: who meets at once never does."""

PAUSE_S_MAX: Final = 60.0
"""The longest pause between looks, in seconds; each is twice the one before."""

LOOKS_MAX: Final = 10
"""So often a node looks. A node that comes later looks itself, and says the same."""


def look_for_coordinator(store: Store, run_id: str) -> Callable[[], bool]:
    """Give what tells whether nodes meet through a coordinator. Cost: one request each time."""
    key = f"{root_of(run_id)}/{COORDINATOR}"  # goes with the lease of who coordinates
    return lambda: store.check([key])


def look_for_c10d(store: Store, run_id: str) -> Callable[[], bool]:
    """Give what tells whether nodes meet by swaps of a state: it has changed since the look before.

    Cost: one request each time, the state's size.
    """
    key = state_key_of(run_id)
    before = 0

    def look() -> bool:
        nonlocal before
        entry = store.read(key)
        before, last = (0 if entry is None else entry.revision), before
        return 0 < last < before

    return look


def tell_of_other_backend(store: Store, run_id: str, backend: str, other: str, look: Callable[[], bool]) -> None:
    """Say once, if it is so, that nodes of this run meet by another backend.

    Args:
        store: this node's; its end is the end of the looks. Without sessions nothing is looked at.
        run_id: the run.
        backend: this node's.
        other: the others'.
        look: tells whether there are others.

    Threads: the looks are made in a thread of its own, which is left to end by itself.
    """
    if not has_sessions(store):
        return
    sentence = (
        f"nodes of run {run_id!r} meet here by the backend {other!r}, this one by {backend!r}: they will not find each "
        "other; give all nodes of a run the same --rdzv-backend"
    )

    def tell() -> None:
        emit("rendezvous.trouble", sentence, run_id=run_id, backend=backend)

    threading.Thread(target=_look_on, args=(look, tell), name="rallypoint-other-backend", daemon=True).start()


def _look_on(look: Callable[[], bool], tell: Callable[[], None]) -> None:
    pause_s = FIRST_LOOK_S
    for _ in range(LOOKS_MAX):
        time.sleep(pause_s)
        try:
            if look():
                tell()
                return
        except (DistError, OSError):
            return
        pause_s = min(2 * pause_s, PAUSE_S_MAX)
