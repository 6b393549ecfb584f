"""The compiled twin as Python sees it."""

class Reactor:
    """One server, engine and loop, on a thread of its own that never needs the interpreter lock.

    Args:
        limits: the fields of ``Limits``, in their order.
        listeners: descriptors of bound and listening sockets; they belong to the reactor, unless there is an error.
        linger_s: how long a refused peer may take to read the end of its stream, in seconds.
        spin_s: how long to look for events before sleeping, after the last ones, in seconds.

    Raises:
        OSError: if there are no descriptors left.

    In a forked child there is no reactor any more: its copies of all descriptors are closed, and calls do nothing.
    """

    def __new__(
        cls,
        limits: tuple[float, int, int, int, int, int, int, int],
        listeners: tuple[int, ...],
        linger_s: float,
        spin_s: float,
        /,
    ) -> Reactor: ...
    def start(self) -> None:
        """Start the thread; once.

        Raises:
            OSError: if the system gives none.
        """

    def stop(self, drain_s: float, /) -> None:
        """End the thread, after draining for ``drain_s`` seconds at most. Safe in a Python signal handler."""

    def join(self) -> None:
        """Wait for the end of the thread, without the interpreter lock, and give back all descriptors."""

    def fileno(self) -> int:
        """Give the descriptor that can be read when there are notices, or when the answers below have changed."""

    def take_notices(self) -> tuple[int, list[tuple[int, str]]]:
        """Give what was refused since the last call.

        Returns:
            How many were left out because nobody took them, and the others: the position of the reason in
            ``CloseReason``, or -1, and one line.
        """

    def has_ended(self) -> bool:
        """Tell whether the thread has served its last."""

    def is_listening(self) -> bool:
        """Tell whether the listeners are open."""

    def connections(self) -> list[tuple[int, int, bool, bool, bool]]:
        """Give each connection: descriptor, bytes that it is owed, is it blocked, not read because of that, closing."""
