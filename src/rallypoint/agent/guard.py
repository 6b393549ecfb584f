"""The guard: a small process beside the agent that ends the workers when the agent is gone, however it went."""

from __future__ import annotations

from types import TracebackType

__all__ = ["Guard"]


class Guard:
    """A process of its own that watches the agent and the groups of its workers.

    When the agent vanishes, by SIGKILL too, the guard kills every watched group and every process of this user
    whose environment carries :attr:`marker`, then ends. When the agent closes it, it ends and touches nobody.

    Make it with :meth:`start`, once an agent; it is a context manager.

    Attributes:
        marker: the value of ``RALLYPOINT_WORKER_OF`` in the workers' environment. Within a worker of an outer agent
            it holds the outer ids too, so that either guard finds the inner workers.
    """

    def __init__(self) -> None:
        self.marker = ""

    @classmethod
    def start(cls) -> Guard:
        """Start the guard of this process.

        Raises:
            AgentError: if its process cannot be started.
        """
        raise NotImplementedError

    @property
    def pid(self) -> int:
        """Give the guard's process id."""
        raise NotImplementedError

    def watch(self, pid: int) -> None:
        """Take the group led by ``pid`` into the guard's care; a guard that died is replaced first."""
        raise NotImplementedError

    def forget(self, pid: int) -> None:
        """Release the group led by ``pid``, because nobody is left in it and its number may be used again."""
        raise NotImplementedError

    def close(self) -> None:
        """End the guard without touching anybody. Calling it twice, or in a forked child, does no harm."""
        raise NotImplementedError

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
