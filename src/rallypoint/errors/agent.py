"""What went wrong around the workers of a node."""

from __future__ import annotations

from collections.abc import Sequence

from rallypoint.errors.root import DistError

__all__ = [
    "AgentError",
    "SignalException",
    "WorkerStartError",
]


class AgentError(DistError):
    """Something went wrong around the workers of this node."""


class WorkerStartError(AgentError):
    """A worker could not be started; those that already ran have been ended.

    Attributes:
        local_rank: which worker.
        argv: its command.
        errno: the system's error number, ``errno.ENOENT`` for a missing program.
    """

    def __init__(self, message: str, *, local_rank: int, argv: Sequence[str], errno: int | None = None) -> None:
        super().__init__(message)
        self.local_rank = local_rank
        self.argv = tuple(argv)
        self.errno = errno


class SignalException(AgentError):  # noqa: N818 - torch's name
    """A signal asked the launcher to stop.

    Attributes:
        sigval: the signal's number.
    """

    def __init__(self, message: str, sigval: int) -> None:
        super().__init__(message)
        self.sigval = sigval
