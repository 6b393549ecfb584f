"""The connection that a session has at the time, what waits to be sent on it, and what becomes of it.

Rules:

- Nothing here takes a lock or makes a connection, or waits (but for ``wait_for_room``): ``store.trunk`` does, and calls
  everything here in turn.
- What the system does not take at once waits in the ``outbox``, in order.
- A step that must not be cut in two by a signal is marked before it begins: a link that is not ``is_sound`` when
  somebody else looks is dropped, and the session goes on over the next one.
- A peer that takes nothing any more may have said why: the connection is dropped by whoever has read that, or its end.
- What ends a session for good is remembered in ``end``; nothing is sent afterwards.
"""

from __future__ import annotations

import contextlib
import math
import select
from collections import deque
from time import monotonic
from typing import Any

from rallypoint.errors import (
    ConnectionLostError,
    DistNetworkError,
    SessionLostError,
    UnreachableError,
)
from rallypoint.net.address import format_endpoint
from rallypoint.net.stream import Stream
from rallypoint.protocol.session.auth import Welcome
from rallypoint.protocol.session.client import Request, Session
from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.protocol.spec import CloseReason
from rallypoint.types import Endpoint

__all__ = ["GONE_S", "Link", "Uplink", "nobody_listens"]

GONE_S = 1.0
"""For so long nobody must listen, in seconds, where a server in memory lived, before it is taken to be gone.

What it held is gone with it, so waiting longer would only delay the news; a server that keeps its data may come back.
"""

UNSEEN_S = 10.0
"""The same where it does not even say that nobody listens; a session's own time if that is longer."""

FATAL_REASONS = frozenset(
    reason.value
    for reason in (
        CloseReason.TAKEN_OVER,
        CloseReason.AUTHENTICATION_FAILED,
        CloseReason.AUTHENTICATION_REQUIRED,
        CloseReason.BAD_FRAME,
        CloseReason.FIELD_TOO_LARGE,
        CloseReason.REQUEST_TOO_LARGE,
        CloseReason.UNKNOWN_VERB,
    )
)
"""Last words of a server after which the same session need not come again."""


def nobody_listens(error: DistNetworkError) -> bool:
    """Tell whether an attempt to connect failed because the machine is there, and nobody listens on it."""
    return isinstance(error.__cause__, (ConnectionRefusedError, FileNotFoundError))


class Link:
    """A connection past its handshake.

    Attributes:
        stream: the bytes.
        welcome: what the server said.
        is_sound: no step of ours was cut in two on it.
    """

    __slots__ = ("is_sound", "stream", "welcome")

    def __init__(self, stream: Stream, welcome: Welcome) -> None:
        self.stream = stream
        self.welcome = welcome
        self.is_sound = True


class Uplink:
    """A session and its connection.

    Args:
        endpoint: the server, for errors.
        link: the first connection.

    Attributes:
        endpoint: the server, for errors.
        session: the machine.
        link: the connection; ``None`` while there is none.
        outbox: what the system did not take.
        end: why no call is possible any more: the error's class and its text.
        attempts: how often it was tried to connect since the connection was lost.
        tried_at: when that was last, on the monotonic clock.
        lost_by: why there is no connection.

    Threads: one at a time, but for ``link`` and ``end``, which anybody may look at.
    """

    def __init__(self, endpoint: Endpoint, link: Link) -> None:
        self.endpoint = endpoint
        self.session = Session()
        self.session.id = link.welcome.session
        self.link: Link | None = link
        self.outbox: deque[memoryview] = deque()
        self.end: tuple[type[DistNetworkError], str] | None = None
        self.attempts = 0
        self.tried_at = 0.0
        self.lost_by: DistNetworkError | None = None
        self._welcome = link.welcome
        self._lost_at = 0.0
        self._refused_since = math.inf
        self._asked_at = math.inf  # since the connection was lost, to have another
        self._was_refused = False

    @property
    def granted_s(self) -> float:
        """How long the session outlives its connection, in seconds."""
        return self._welcome.timeout_ms / 1000

    @property
    def ends_at(self) -> float:
        """When the server may end the session, as far as is known here; infinity while there is a connection.

        Also where nobody listened since that was lost: a server that is not there ends nothing, and gives the sessions
        that it had time to come back when it is there again. It begins with the first attempt to connect again.
        """
        return math.inf if self.link is not None or self._was_refused else self._asked_at + self.granted_s

    # --- sending -----------------------------------------------------------------------------------------

    def check(self) -> None:
        """See that calls are possible; drop a connection on which a step was cut in two.

        Raises:
            ConnectionLostError: there is an end to it, see ``ended``.
        """
        if self.end is not None:
            raise self.ended()
        link = self.link
        if link is not None and not link.is_sound:
            self.lose(link, ConnectionLostError("a call was interrupted amid a message", endpoint=self.endpoint))

    def send(self, frame: bytes) -> None:
        """Hand a frame to the system; keep what it does not take. Without a connection, ``adopt`` sends it."""
        link = self.link
        if link is None:
            return
        if self.outbox:
            self.outbox.append(memoryview(frame))
            return
        link.is_sound = False
        try:
            sent = link.stream.send_at_once(frame)
        except ConnectionLostError:
            sent = 0
        except DistNetworkError as error:
            self.lose(link, error)
            return
        if sent != len(frame):
            self.outbox.append(memoryview(frame)[sent:])
        link.is_sound = True

    def flush(self) -> None:
        """Hand on as much of the outbox as the system takes."""
        link, outbox = self.link, self.outbox
        if link is None:
            return
        try:
            while outbox:
                link.is_sound = False
                sent = link.stream.send_at_once(outbox[0])
                is_all = sent == len(outbox[0])
                if is_all:
                    outbox.popleft()
                else:
                    outbox[0] = outbox[0][sent:]
                link.is_sound = True
                if not is_all:
                    return
        except ConnectionLostError:
            link.is_sound = True
        except DistNetworkError as error:
            self.lose(link, error)

    def wait_for_room(self, timeout_s: float) -> None:
        """Wait until the system takes more; the only thing here that waits, and not to be called in turn."""
        link = self.link
        if link is not None and (fd := link.stream.fileno()) != -1:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll(timeout_s * 1000)

    # --- from one connection to the next -----------------------------------------------------------------

    def lose(self, link: Link, error: DistNetworkError) -> None:
        """Drop a connection; what the server said last may be the end of the session."""
        if self.link is not link:
            return
        self.link = None
        self.outbox.clear()
        self._lost_at, self.lost_by, self.attempts = monotonic(), error, 0
        self._refused_since = self._asked_at = math.inf
        self._was_refused = False
        closing = self.session.closing
        self.session.lose()
        link.stream.close()
        if closing is None or self.end is not None:
            return
        if closing.reason == CloseReason.ENDED.value and link.welcome.data == link.welcome.life:
            self.fail(SessionLostError, f"has ended, and what it held with it: {closing.sentence}")
        elif closing.reason in FATAL_REASONS:
            self.fail(ConnectionLostError, f"closed the connection for good ({closing.reason}): {closing.sentence}")

    def attempt(self) -> None:
        """Note that an attempt to connect begins."""
        self._asked_at = min(self._asked_at, monotonic())

    def miss(self, error: DistNetworkError) -> None:
        """Count an attempt to connect that came to nothing."""
        self.lost_by = error
        self._was_refused = self._was_refused or nobody_listens(error)
        self.attempts += 1
        self.tried_at = monotonic()
        if not isinstance(error.__cause__, OSError):  # somebody is there, or does not answer
            self._refused_since = math.inf
        elif math.isinf(self._refused_since):
            self._refused_since = self.tried_at
        welcome = self._welcome
        # What the server held ended with its life, and for so long nobody has been listening where it lived.
        gone_s = GONE_S if nobody_listens(error) else max(UNSEEN_S, self.granted_s)
        if welcome.data == welcome.life and self.tried_at - self._refused_since > gone_s:
            self.fail(SessionLostError, f"is gone, and what it held with it: {error}")

    def adopt(self, link: Link) -> list[Request]:
        """Go on over another connection; give the requests that have failed by it."""
        session, welcome = self.session, link.welcome
        if self.end is not None:
            link.stream.close()
            return []
        if welcome.data != self._welcome.data:
            link.stream.close()
            self.fail(SessionLostError, "has other data now: what this store knew is gone")
            return []
        failed: list[Request] = []
        if not welcome.is_resumed:
            failed = session.doubtful()
            for request in failed:
                session.fail(
                    request,
                    f"the server at {format_endpoint(self.endpoint)} has forgotten this session, which was cut off for "
                    f"{monotonic() - self._lost_at:.3f} s: whether this {request.verb.name} was applied is not known",
                )
        self.outbox.extend(memoryview(frame) for frame in session.resume(welcome))
        self.link, self._welcome = link, welcome
        self.lost_by, self.attempts = None, 0
        if self.has_ended():  # by another thread, which may have looked for a connection before this one was there
            link.stream.close()
        self.flush()
        return failed

    # --- errors and the end ------------------------------------------------------------------------------

    def fail(self, kind: type[DistNetworkError], what: str) -> None:
        """Let this and all later calls fail; ``what`` says what the server has done."""
        self.end = (kind, f"the server at {format_endpoint(self.endpoint)} {what}")

    def has_ended(self) -> bool:
        """Tell whether no call is possible any more; see ``end``, which another thread may set at any time."""
        return self.end is not None

    def ended(self) -> DistNetworkError:
        """Make the error of a call that comes after the end."""
        assert self.end is not None
        kind, why = self.end
        return kind(why, endpoint=self.endpoint)

    def unreachable(self, waited_s: float) -> UnreachableError:
        """Make the error of a call whose time was up while there was no connection."""
        unreachable_s = monotonic() - self._lost_at
        attempts = f"{self.attempts} {'attempt' if self.attempts == 1 else 'attempts'} to connect again"
        return UnreachableError(
            f"the server at {format_endpoint(self.endpoint)} has been unreachable for {unreachable_s:.3f} s "
            f"({attempts}; the last trouble: {self.lost_by}); this call waited {waited_s:.3f} s",
            endpoint=self.endpoint,
            waited_s=waited_s,
            unreachable_s=unreachable_s,
        )

    def say_goodbye(self) -> None:
        """Let the server forget the session at once; if that cannot be said now, it does so by itself."""
        link = self.link
        if link is not None and link.is_sound and not self.outbox:
            with contextlib.suppress(DistNetworkError):
                link.stream.send_at_once(self.session.begin(Request(SessionVerb.BYE)))

    def begin(self, request: Request, fields: tuple[Any, ...], *, cancels: bool = False) -> None:
        """Begin a request and send it; ``cancels`` ends its wait at once, so that it only looks."""
        frame = self.session.begin(request, *fields)
        if cancels:
            frame += self.session.cancel(request)
        self.send(frame)
