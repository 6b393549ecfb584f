"""The compiled server behind the interface of the Python one: a thread that never needs the interpreter lock.

Theory of operation. ``_native.Reactor`` is engine and loop in one, on a thread of its own. ``NativeLoop.run`` starts
it and becomes its *ear*: it waits for what the reactor has to tell, log lines and its end, and for watched descriptors
and time, which it serves in Python as ``ServerLoop`` does. While the ear cannot run, because the program is busy, the
server serves all the same; only its log lines wait.
"""

from __future__ import annotations

import os
import select
import socket
from array import array
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, TypeAlias

from rallypoint.clock import SYSTEM_CLOCK
from rallypoint.events import follow
from rallypoint.server.descriptors import fitting
from rallypoint.server.limits import DEFAULT_LIMITS, DRAIN_S, LINGER_S, Limits
from rallypoint.server.notices import Notices
from rallypoint.server.refusals import log_line
from rallypoint.twin import native

if TYPE_CHECKING:
    from rallypoint.protocol.session.auth import Token
    from rallypoint.server.journal import Journal
    from rallypoint.server.loop import ServerLoop
    from rallypoint.server.security import Security
    from rallypoint.server.vocabulary import Statistics

__all__ = ["SOLO_AFTER", "Loop", "NativeLoop", "make_loop"]

SOLO_AFTER = 64
"""How many wake-ups in a row are one peer's alone before a thread reads nobody but it, which spares a system call."""

Loop: TypeAlias = "NativeLoop | ServerLoop"


def make_loop(
    limits: Limits,
    listeners: Sequence[socket.socket],
    *,
    spin_us: int = 0,
    log: Callable[[str], None] = log_line,
    security: Security | None = None,
    journal: Journal | None = None,
) -> Loop:
    """Give a server of the twin that runs; the Python one where it is to want more than the job's token.

    Args:
        limits: what peers are granted, as far as there are descriptors for it.
        listeners: bound and listening sockets; the server owns them.
        spin_us: after each request, look for the next one for so long before sleeping, in microseconds.
        log: takes one line, without its end, for each refusal.
        security: what those who connect must prove, and may do; ``None`` for nothing and everything.
        journal: where all that is stored is kept, opened and not written to yet; the caller's, to be closed after the
            loop has ended. ``run`` raises ``DataDirError`` when a commit fails. ``None`` keeps it in memory only.

    Raises:
        DataDirError: what the journal remembers is damaged.
        ValueError: a file that ``security`` names is missing or is not what it should be.

    Cost: all that the journal remembers is read.
    """
    limits = fitting(limits)
    token = None if security is None else security.job_token
    if native() is not None and (security is None or token is not None):
        return NativeLoop(limits, listeners, spin_us=spin_us, log=log, token=token, journal=journal)
    from rallypoint.server.engine import Engine  # beside the compiled server they would be loaded for nothing
    from rallypoint.server.loop import ServerLoop
    from rallypoint.server.turns import StepTime

    gate, tls = (None, None) if security is None else (security.gate(), security.server_tls(log))
    data_id = b"" if journal is None else journal.data_id
    engine = Engine(limits, seed=os.urandom(32), gate=gate, journal=journal is not None, data_id=data_id)
    engine.ground.is_late = StepTime(SYSTEM_CLOCK).is_late
    commit = None
    if journal is not None:
        from rallypoint.server.durable import go_on  # loads SQLite

        commit = go_on(engine, journal)
    return ServerLoop(engine, listeners, spin_us=spin_us, log=log, tls=tls, unread=engine.unread, commit=commit)


class NativeLoop:
    """One compiled server; see ``ServerLoop``, which does the same.

    Args:
        limits: what peers are granted.
        listeners: bound and listening sockets; the server owns them from now on.
        spin_us: after each request, look for the next one for so long before sleeping, in microseconds.
        log: takes one line, without its end, for each refusal (within the bounds of ``refusals``).
        token: what sessions must prove to hold; ``None`` lets in everybody.
        journal: where all that is stored is kept, opened and not written to yet; the caller's, to be closed after the
            loop has ended. ``run`` raises ``DataDirError`` when a commit fails.

    Raises:
        DataDirError: what the journal remembers is damaged; the listeners are still the caller's.
        OSError: if there are no descriptors left; the listeners are still the caller's.

    Threads: ``stop`` may be called from any thread and from a signal handler; everything else belongs to the thread
    in ``run``.
    """

    def __init__(
        self,
        limits: Limits = DEFAULT_LIMITS,
        listeners: Sequence[socket.socket] = (),
        *,
        spin_us: int = 0,
        log: Callable[[str], None] = log_line,
        token: Token | None = None,
        journal: Journal | None = None,
    ) -> None:
        module = native()
        if module is None:
            raise AssertionError("the compiled twin is not there")
        state = None if journal is None else journal.load()
        fds = array("i", [listener.fileno() for listener in listeners]).tobytes()
        secrets = (os.urandom(32), b"" if token is None else token.reveal())
        self._reactor = module.Reactor(limits.compiled(), fds, LINGER_S, spin_us / 1e6, SOLO_AFTER, secrets)
        self._notices = Notices(listeners, log)
        if journal is not None and state is not None:
            from rallypoint.server.native_engine import restore

            restore(self._reactor, state, journal.data_id, monotonic())
            self._reactor.commit_to(journal)
        self._poll = select.poll()
        self._watched: dict[int, Callable[[], None]] = {self._reactor.fileno(): self._heed}
        self._poll.register(self._reactor.fileno(), select.POLLIN)
        self._periodic: tuple[float, Callable[[], None]] | None = None
        self._periodic_at = 0.0
        self._is_stopping = False
        self._is_following = False

    # --- for the owner -----------------------------------------------------------------------------------

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back, in the thread in ``run``, whenever a foreign descriptor can be read; before ``run``."""
        self._watched[fd] = callback
        self._poll.register(fd, select.POLLIN)

    def every(self, period_s: float, callback: Callable[[], None]) -> None:
        """Call back, in the thread in ``run``, about every ``period_s`` seconds; one callback, before ``run``."""
        self._periodic = (period_s, callback)
        self._periodic_at = monotonic() + period_s

    def start(self) -> None:
        """Serve from now on, though nobody hears the server before ``run``; a second call does nothing.

        Raises:
            OSError: if the system gives no thread.
        """
        self._reactor.start()
        if not self._is_following:
            self._is_following = True
            follow(self._observe)

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """End the server, after draining for ``drain_s`` seconds at most; a second call may shorten that, 0 ends it.

        Threads: any; also from a signal handler.
        """
        self._is_stopping = True
        self._reactor.stop(drain_s)

    def run(self) -> None:
        """Serve until ``stop``; all sockets are closed at the end, however it comes."""
        try:
            self.start()
            while not self._reactor.has_ended():
                self._listen()
        finally:
            self._reactor.stop(0.0)
            try:
                self._reactor.join()
            finally:
                self._heed()

    def abandon(self) -> None:
        """Do nothing: in a forked child the reactor has closed this process's copies of all descriptors by itself.

        Of a server that was never started, and of this process, close the listeners.
        """
        self._reactor.stop(0.0)
        self._reactor.join()

    def statistics(self) -> Statistics:
        """Give the engine's numbers. Threads: any. Cost: the number of peers."""
        from rallypoint.server.native_engine import statistics_of  # for those who look only

        return statistics_of(self._reactor.statistics())

    def figures(self) -> list[int]:
        """Give groups, leases, watches, bytes received and sent, then how many connections ended, by ``EndReason``.

        Threads: any. Cost: the number of peers.
        """
        numbers: list[int] = self._reactor.figures()
        return numbers

    # --- the ear -----------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Serve what the reactor says, what is watched and what time made due, waiting for it."""
        timeout_ms: float | None = None
        if self._periodic is not None:
            timeout_ms = max(0.0, self._periodic_at - monotonic()) * 1000
        for fd, _ in self._poll.poll(timeout_ms):
            callback = self._watched.get(fd)
            if callback is not None and (fd == self._reactor.fileno() or not self._is_stopping):
                callback()
        if self._is_stopping:
            for fd in set(self._watched) - {self._reactor.fileno()}:
                self._poll.unregister(fd)  # what asked for the end may go on asking
                del self._watched[fd]
        if self._periodic is not None and self._periodic_at <= monotonic():
            period_s, callback = self._periodic
            self._periodic_at = monotonic() + period_s
            callback()

    def _observe(self, is_observed: bool) -> None:
        self._reactor.observe(is_observed)

    def _heed(self) -> None:
        """Tell what the reactor has left to be told."""
        self._notices.tell(*self._reactor.take_notices(), is_listening=self._reactor.is_listening())
