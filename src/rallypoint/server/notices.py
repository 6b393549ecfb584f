"""What a compiled reactor leaves to be told: lines for the log, ends of connections, and that it listens no more.

The Python loop tells such things by itself. ``native/notices.hpp`` has the other end.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from rallypoint.events import emit
from rallypoint.net.unix import remove_stale_file
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.refusals import RefusalLog
from rallypoint.server.vocabulary import EndReason

__all__ = ["Notices"]

_OWN_NOTE: Final = -100  # a line that is not about a peer
_REASON_NAMES: Final = tuple(reason.name for reason in CloseReason)
_END_NAMES: Final = tuple(reason.name for reason in EndReason)


class Notices:
    """The notices of one reactor.

    Args:
        listeners: whose descriptors the reactor has taken over; these objects let go of them here.
        log: takes one line, without its end.
    """

    def __init__(self, listeners: Sequence[socket.socket], log: Callable[[str], None]) -> None:
        names = [listener.getsockname() for listener in listeners if listener.family == socket.AF_UNIX]
        self._paths = [name for name in names if isinstance(name, str)]
        for listener in listeners:
            listener.detach()
        self._log = log
        self._refusals = RefusalLog(log, monotonic())

    def tell(self, left_out: int, lines: bytes, *, is_listening: bool) -> None:
        """Log what was refused, emit who is gone, remove the files of listeners that are closed.

        Args:
            left_out: refusals without a line of their own.
            lines: each a number, a space and a sentence, ended by NUL.
            is_listening: whether the reactor still does.
        """
        self._refusals.leave_out(left_out)
        for line in lines.decode(errors="replace").split("\0")[:-1]:
            number, _, message = line.partition(" ")
            self._tell(int(number), message)
        if self._paths and not is_listening:
            for path in self._paths:
                remove_stale_file(path)
            self._paths = []

    def _tell(self, number: int, message: str) -> None:
        if number == _OWN_NOTE:
            self._log(message)
        elif number < -1:
            emit("server.disconnected", message, reason=_END_NAMES[-2 - number])
        else:
            self._refusals.note(message, monotonic())
            if number >= 0:
                emit("server.refused", message, reason=_REASON_NAMES[number])
