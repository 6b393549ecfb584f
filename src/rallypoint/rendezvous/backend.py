"""What holds the state that the nodes of a run agree on: one value, changed only by compare-and-swap.

A backend knows nothing of rounds or nodes. It carries opaque bytes and gives each stored version a *token*; a
change is accepted only from a caller who has seen the version that it replaces.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeAlias

from rallypoint.clock import SYSTEM_CLOCK

__all__ = ["POLL_INTERVAL_S", "RendezvousBackend", "Token"]

Token: TypeAlias = object
"""Names one stored version; only the backend that gave it out can read it."""

POLL_INTERVAL_S = 0.5
"""How long a backend that cannot be watched is left alone between two looks, in seconds."""


class RendezvousBackend(ABC):
    """One value with versions, shared by all nodes of one run.

    Threads: the handler's main thread and its keep-alive thread call a backend at the same time.

    Source: the names and signatures of torch 2.13.0's class; ``wait_for_change`` is ours.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The name under which the backend is chosen, such as ``c10d``."""

    @property
    def where(self) -> str:
        """What does not answer if the backend does not, for messages; where others reach it, if that is known."""
        return f"the {self.name} rendezvous backend"

    @abstractmethod
    def get_state(self) -> tuple[bytes, Token] | None:
        """Give the stored state and the token of its version, or ``None`` if nothing is stored. Does not wait.

        Raises:
            RendezvousConnectionError: if the backend cannot be reached.
            RendezvousStateError: if what is stored is not a state of ours.
        """

    @abstractmethod
    def set_state(self, state: bytes, token: Token | None = None) -> tuple[bytes, Token, bool] | None:
        """Store a new state in place of the version that ``token`` names.

        Args:
            state: the new state.
            token: the version to replace; ``None`` stores only if nothing is stored yet. A token that is not this
                backend's counts as outdated.

        Returns:
            The state now stored, its token, and whether it is the caller's: ``(state, token, True)`` after a swap,
            ``(present state, its token, False)`` if another version is stored. ``None`` if the swap failed and
            nothing is stored at all.

        Raises:
            RendezvousConnectionError: if the backend cannot be reached.
            RendezvousStateError: if what is stored is not a state of ours.
        """

    def wait_for_change(self, token: Token | None, timeout_s: float) -> None:  # noqa: ARG002 - for overriders
        """Pause until the stored version may differ from the one ``token`` names, or the time is up.

        It may return early and for no reason; the caller reads the state again. This default pauses for
        ``POLL_INTERVAL_S``; a backend that is told of changes overrides it.

        Args:
            token: the version that the caller has seen; ``None`` if it saw none.
            timeout_s: the longest pause, in seconds; 0 or less returns at once.

        Raises:
            RendezvousConnectionError: if the backend cannot be reached.
        """
        SYSTEM_CLOCK.sleep(min(timeout_s, POLL_INTERVAL_S))
