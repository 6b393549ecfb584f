"""A rendezvous backend in memory, with whatever trouble a test wants to have."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rallypoint.rendezvous.backend import RendezvousBackend, Token

__all__ = ["MemoryBackend"]


class MemoryBackend(RendezvousBackend):
    """One value under a lock, which tells of changes at once.

    Attributes:
        data: the stored value; ``None`` for nothing.
        version: counts the swaps.
        fault: raised by the next calls, as long as it is set.
        before_swap: called in ``set_state`` before it looks, so that a test can get in between.
        looks: counts the calls of ``get_state``.
    """

    def __init__(self) -> None:
        self.data: bytes | None = None
        self.version = 0
        self.fault: Exception | None = None
        self.before_swap: Callable[[], None] | None = None
        self.looks = 0
        self._changed = threading.Condition(threading.RLock())

    @property
    def name(self) -> str:
        return "memory"

    def get_state(self) -> tuple[bytes, Token] | None:
        with self._changed:
            self.looks += 1
            self._check()
            return None if self.data is None else (self.data, self.version)

    def set_state(self, state: bytes, token: Token | None = None) -> tuple[bytes, Token, bool] | None:
        hook, self.before_swap = self.before_swap, None
        if hook is not None:
            hook()
        with self._changed:
            self._check()
            if token != (None if self.data is None else self.version):
                return None if self.data is None else (self.data, self.version, False)
            self.data = state
            self.version += 1
            self._changed.notify_all()
            return state, self.version, True

    def wait_for_change(self, token: Token | None, timeout_s: float) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self.fault is not None or token != (None if self.data is None else self.version), timeout_s
            )

    def erase(self) -> None:
        """Lose everything, as a store does that is started anew."""
        with self._changed:
            self.data = None
            self._changed.notify_all()

    def break_with(self, fault: Exception | None) -> None:
        with self._changed:
            self.fault = fault
            self._changed.notify_all()

    def _check(self) -> None:
        if self.fault is not None:
            raise self.fault
