"""What the agents, and the workers, of one round share: keys that no other round sees, and that go with it.

Below ``rallypoint.rendezvous.<run id>/`` stand::

    rounds/<n>/agents/...     what the agents of round n share
    rounds/<n>/workers/...    what its workers do, where they have no store of their own
    dropped                   the rounds below this number have nothing left there
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rallypoint.store.base import Store
from rallypoint.store.bootstrap import store_timeout
from rallypoint.store.prefix import PrefixStore

__all__ = ["CALL_S", "DROPPED_MAX", "KeySpaces", "root_of"]

CALL_S: Final = 5.0
"""How long one call may take, in seconds, unless told otherwise."""

ROUNDS: Final = "rounds/"
DROPPED: Final = "dropped"

DROPPED_MAX: Final = 256
"""So many rounds are removed at once, the latest: who speaks of a round far ahead keeps no coordinator busy."""


class KeySpaces:
    """The key spaces of one run.

    Args:
        store: any.
        run_id: the name of the run.
        call_s: how long one call may take, in seconds.

    Raises of every method: what the store raises.
    """

    def __init__(self, store: Store, run_id: str, *, call_s: float = CALL_S) -> None:
        self._below = store
        self._root = root_of(run_id)
        self._store = PrefixStore(self._root, store)
        self._call_s = call_s

    @contextmanager
    def _bounded(self) -> Iterator[Store]:
        with store_timeout(self._below, self._call_s):
            yield self._store

    def of_agents(self, number: int) -> Store:
        """Give the store that the agents of a round share; nothing of another round is in it."""
        return PrefixStore(f"{ROUNDS}{number}/agents", self._store)

    def of_workers(self, number: int) -> str:
        """Give what stands before every key of a round's workers, where they have no store of their own."""
        return f"{self._root}/{ROUNDS}{number}/workers"

    def drop_workers(self, number: int) -> None:
        """Remove what the workers of a round had. Cost: 1 call."""
        with self._bounded() as store:
            store.delete_prefix(f"{ROUNDS}{number}/workers")

    def drop_below(self, below: int) -> None:
        """Remove what the agents and workers of all rounds below a number had. Cost: 2 calls, and 1 for each round.

        Of more than ``DROPPED_MAX`` rounds, the latest are removed.
        """
        with self._bounded() as store:
            entry = store.read(DROPPED)
            begun = int(entry.value) if entry is not None and _is_number(entry.value) else 0
            if begun >= below:
                return
            begun = max(begun, below - DROPPED_MAX)
            for number in range(begun, below):
                store.delete_prefix(f"{ROUNDS}{number}/")
            store.set(DROPPED, str(below))

    def drop_all(self) -> None:
        """Remove whatever an earlier run of the same name has left. Cost: 2 calls."""
        with self._bounded() as store:
            store.delete_prefix(ROUNDS)
            store.delete_key(DROPPED)


def root_of(run_id: str) -> str:
    """Give what stands before all keys of a run."""
    return f"rallypoint.rendezvous.{run_id}"


def _is_number(value: bytes) -> bool:
    return value.isdigit() and len(value) < 20
