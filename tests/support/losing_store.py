"""A store that is lost when a test says so."""

from __future__ import annotations

from typing import Any

from rallypoint.errors import ConnectionLostError, ConnectTimeoutError
from rallypoint.store.hash import HashStore

__all__ = ["LosingStore"]


class LosingStore(HashStore):
    """A HashStore whose calls fail while it is lost.

    Attributes:
        loss: what they raise then, ``None`` while the store is there.
        calls: how many were made, lost ones included.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loss: Exception | None = None
        self.calls = 0

    def lose(self, *, is_doubtful: bool = True) -> None:
        """Lose it; ``is_doubtful``: the caller cannot know whether its request arrived."""
        self.loss = ConnectionLostError("it is lost") if is_doubtful else ConnectTimeoutError("nobody answers")

    def find(self) -> None:
        """Have it back."""
        self.loss = None

    def _locked(self) -> Any:
        self.calls += 1
        if self.loss is not None:
            raise self.loss
        return super()._locked()
