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
from collections.abc import Callable
from typing import TYPE_CHECKING

from rallypoint.clock import SYSTEM_CLOCK
from rallypoint.protocol.session.spec import SESSION_ID_SIZE
from rallypoint.server.journal import Journal

if TYPE_CHECKING:
    from rallypoint.server.engine import Engine

__all__ = ["go_on", "open_journal"]


def open_journal(directory: str | os.PathLike[str]) -> Journal:
    """Open a data directory; a new one gets an identity of its own.

    Raises:
        DataDirError: it cannot be used.
    """
    return Journal(directory, os.urandom(SESSION_ID_SIZE))


def go_on(engine: Engine, journal: Journal) -> Callable[[], None]:
    """Restore what a journal remembers; give what commits the engine's changes to it, or raises ``DataDirError``.

    Args:
        engine: new, with ``journal`` and the journal's ``data_id``.
        journal: opened, not written to yet.

    Raises:
        DataDirError: what it remembers is damaged.

    Cost: all that is stored is read.
    """
    engine.restore(journal.load(), SYSTEM_CLOCK.now())

    def commit() -> None:
        journal.write(engine.take_changes())

    return commit
