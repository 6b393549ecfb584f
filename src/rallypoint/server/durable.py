"""A durable server: the engine of before, and a loop that sends nothing before it is on the disk.

Theory of operation::

    poll --> steps --> take_changes --> journal.write: one commit for all of them --> flush
                                            '--fails--> the loop ends, nothing more is sent

The commit is made by the loop's own thread. While it waits for the disk, requests gather in the sockets, and the next
commit is for all of them: the slower the disk, the more share one wait. A thread of its own would let requests that
write nothing pass by, but the answers to those may tell of what is not on the disk yet, so they would have to wait too.

The compiled server does the same: its engine notes changes as the very bytes of a commit, and its thread has the
journal write them, under the interpreter lock. It keeps in mind which names have changed, so that what many commits add
up to is told by what is there in the end, and the journal need not read them again. The files are the same.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rallypoint.clock import SYSTEM_CLOCK
from rallypoint.protocol.session.spec import SESSION_ID_SIZE
from rallypoint.server.descriptors import fitting
from rallypoint.server.engine import Engine
from rallypoint.server.journal import Journal
from rallypoint.server.limits import Limits
from rallypoint.server.loop import ServerLoop
from rallypoint.server.native import Loop, NativeLoop, is_native
from rallypoint.server.refusals import log_line

if TYPE_CHECKING:
    from rallypoint.server.security import Security

__all__ = ["make_durable_loop", "open_journal"]

_SEED_SIZE = 32


def open_journal(directory: str | os.PathLike[str]) -> Journal:
    """Open a data directory; a new one gets an identity of its own.

    Raises:
        DataDirError: it cannot be used.
    """
    return Journal(directory, os.urandom(SESSION_ID_SIZE))


def make_durable_loop(
    journal: Journal,
    limits: Limits,
    listeners: Sequence[socket.socket],
    *,
    spin_us: int = 0,
    log: Callable[[str], None] = log_line,
    security: Security | None = None,
) -> Loop:
    """Give a server with what the journal remembers; ``run`` raises ``DataDirError`` when a commit fails.

    Args:
        journal: opened, not written to yet; still the caller's, to be closed after the loop has ended.
        limits: what peers are granted, as far as there are descriptors for it.
        listeners: bound and listening sockets; the server owns them.
        spin_us: after each request, look for the next one for so long before sleeping, in microseconds.
        log: takes one line, without its end, for each refusal.
        security: what those who connect must prove, and may do; ``None`` for nothing and everything.

    Raises:
        DataDirError: what it remembers is damaged.
        ValueError: a file that ``security`` names is missing or is not what it should be.

    Cost: all that is stored is read.
    """
    limits = fitting(limits)
    if is_native(security):
        token = None if security is None else security.job_token
        return NativeLoop(limits, listeners, spin_us=spin_us, log=log, token=token, journal=journal)
    gate, tls = (None, None) if security is None else (security.gate(), security.server_tls(log))
    state = journal.load()
    engine = Engine(limits, seed=os.urandom(_SEED_SIZE), gate=gate, journal=True, data_id=journal.data_id)
    engine.restore(state, SYSTEM_CLOCK.now())

    def commit() -> None:
        journal.write(engine.take_changes())

    return ServerLoop(engine, listeners, spin_us=spin_us, log=log, tls=tls, unread=engine.unread, commit=commit)
