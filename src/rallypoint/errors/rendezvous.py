"""Why it could not be agreed who takes part."""

from __future__ import annotations

from rallypoint.errors.root import DistError

__all__ = [
    "RendezvousClosedError",
    "RendezvousConnectionError",
    "RendezvousError",
    "RendezvousGracefulExitError",
    "RendezvousStateError",
    "RendezvousTimeoutError",
]


class RendezvousError(DistError):
    """Who takes part in a run could not be agreed."""


class RendezvousClosedError(RendezvousError):
    """The run has ended and takes nobody in any more.

    Attributes:
        outcome: ``"succeeded"``, ``"failed"`` or ``"closed"`` (told to), where it is known.
    """

    def __init__(self, message: str = "the rendezvous is closed", *, outcome: str | None = None) -> None:
        super().__init__(message)
        self.outcome = outcome


class RendezvousTimeoutError(RendezvousError, TimeoutError):
    """Too few nodes came, or the store did not answer, before the caller's deadline.

    Attributes:
        waited_s: how long, in seconds.
        arrived: the nodes that were there.
        expected: the fewest nodes that would have done.
    """

    def __init__(
        self,
        message: str = "the rendezvous timed out",
        *,
        waited_s: float = 0.0,
        arrived: int | None = None,
        expected: int | None = None,
    ) -> None:
        super().__init__(message)
        self.waited_s = waited_s
        self.arrived = arrived
        self.expected = expected


class RendezvousConnectionError(RendezvousError, ConnectionError):
    """The rendezvous backend cannot be reached."""


class RendezvousStateError(RendezvousError):
    """The state that the rendezvous backend holds is corrupt, or of another kind than ours."""


class RendezvousGracefulExitError(RendezvousError):
    """Not a failure: the run ended while this node stood by, and it is no longer needed."""
