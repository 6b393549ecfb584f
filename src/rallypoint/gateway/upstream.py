"""A relay's one connection to the server: its session, driven by the loop that serves the local peers.

Theory of operation. The loop's thread makes frames, sends what the system takes, and reads what has come; what the
system does not take waits in ``_outbox`` until it does. Only connecting blocks, so a thread of its own does it, again
and again, and puts the connection through the loop's door::

                 .--- lost ---> [connector thread: reach, pause, reach] --- through the door --.
                 |                                                                             v
    ask, answers of the session <------------------------------------------------ resume: send again

What is asked in one turn of the loop leaves together at its end, if the loop's owner says when that is (``flush``): one
system call, and for the server one wake-up.

A server whose machine has vanished closes nothing: so each ``PROBE_S`` a PING asks whether it is there, and if it has
said nothing at all by the next one, the connection is given up.

What the server does not know any more, because the session ended there meanwhile, is told as ``Failed``; a server with
other data as that.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rallypoint.clock import Deadline
from rallypoint.errors import AuthenticationError, DistNetworkError, DistStoreError, LocalProtocolError
from rallypoint.gateway.slots import REPLY_AT
from rallypoint.gateway.vocabulary import Answered, Failed, RelayEvent, UpstreamGone, UpstreamThere
from rallypoint.net.retry import ATTEMPT_S_MAX, DEFAULT_BACKOFF, Backoff
from rallypoint.net.stream import Stream
from rallypoint.protocol.session.client import Request, Session
from rallypoint.protocol.session.spec import SessionVerb, Status
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.loop import ServerLoop
from rallypoint.server.poller import READ, WRITE
from rallypoint.store.uplink import FATAL_REASONS, Link

__all__ = ["PROBE_S", "Reach", "Upstream"]

PROBE_S = 15.0
"""How often the server is asked whether it is there, in seconds; it has as long to say something."""

Reach = Callable[[bytes, Deadline], Link]
"""Makes a connection past its handshake, given the session's id (empty for a new one) and a deadline."""

_READS_MAX = 16  # reads at one wake-up, so that the local peers get their turn
_WHOLE_SIZE = 4096  # a read that gives less has emptied the socket
_LABEL = "rallypoint-relay"
_AWAITED_SIZE_MAX = 1 << 20  # of a large answer, what one wake-up is for
_NOBODYS = 0  # the call of a probe
_JOINED_SIZE_MAX = 256 * 1024  # larger frames are not copied to leave together


class _Request(Request):
    __slots__ = ("call",)

    def __init__(self, verb: SessionVerb, call: int) -> None:
        super().__init__(verb)
        self.call = call


class Upstream:
    """The session of one relay.

    Args:
        loop: who watches the connection.
        reach: connects.
        tell: takes what happens, in the loop's thread.
        log: takes one line when the server is lost, cannot be reached, or is there again.
        backoff: the pauses between attempts.
        give_up: takes the error, in the loop's thread, if the server refuses who we are before it was ever there.
        is_driven: frames leave with ``flush``, which somebody calls before the loop sleeps, and OKs are told as
            ``REPLY_AT`` has them; else frames leave at once, and all fields are told.

    Attributes:
        gathered: frames that wait for ``flush``; the others only look whether there are any.

    Threads: everything belongs to the loop's thread, but ``begin``, which comes before it, and ``end``, after it.
    """

    def __init__(
        self,
        loop: ServerLoop,
        reach: Reach,
        tell: Callable[[RelayEvent], None],
        log: Callable[[str], None],
        backoff: Backoff = DEFAULT_BACKOFF,
        *,
        give_up: Callable[[AuthenticationError], None] = lambda _: None,
        is_driven: bool = False,
    ) -> None:
        self._loop = loop
        self._give_up = give_up
        self._reach = reach
        self._tell = tell
        self._log = log
        self._backoff = backoff
        self._session = Session()
        self._requests: dict[int, _Request] = {}
        self._link: Link | None = None
        self._arriving: Link | None = None  # in the door, by the connector
        self._is_driven = is_driven
        self._reply_at = REPLY_AT if is_driven else {}
        self.gathered: list[bytes] = []
        self._outbox: deque[memoryview] = deque()
        self._data_id: bytes | None = None
        self._last_trouble = ""
        self._connector: threading.Thread | None = None
        self._has_ended = threading.Event()
        self._is_probed = False
        self._awaited = 1  # bytes that are to be there before the system tells us
        loop.every(PROBE_S, self.probe)

    # --- requests ----------------------------------------------------------------------------------------

    def ask(self, call: int, verb: SessionVerb, fields: tuple[Any, ...], peer: int = 0) -> None:  # noqa: ARG002 - one line
        """Send a request, or keep it until there is a connection; ``Answered`` or ``Failed`` is told later."""
        request = _Request(verb, call)
        try:
            frame = self._session.begin(request, *fields)
        except LocalProtocolError as error:  # c10d's largest request is a few bytes larger here
            refusal = (CloseReason.REQUEST_TOO_LARGE.value.encode(), str(error).encode(errors="replace"))
            self._tell(Answered(call, Status.REFUSED, refusal))
            return
        self._requests[call] = request
        self._send(frame)

    def withdraw(self, call: int) -> None:
        """Cancel a request that waits."""
        request = self._requests.get(call)
        if request is not None and (frame := self._session.cancel(request)):
            self._send(frame)

    def probe(self) -> None:
        """Give a silent server up, or ask it for a sign of life."""
        if self._link is None:
            return
        if self._awaited > 1:
            self._ready()  # less than is awaited may be there
        if self._is_probed:
            self._lose(f"it has said nothing for {PROBE_S:g} s")
            return
        self._is_probed = True
        self._send(self._session.begin(_Request(SessionVerb.PING, _NOBODYS), 0))

    # --- the connection ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin to connect."""
        self._connector = threading.Thread(target=self._connect, args=(self._session.id,), name=_LABEL, daemon=True)
        self._connector.start()

    def end(self) -> None:
        """End the session and the connection."""
        self._has_ended.set()
        if self._arriving is not None:  # the loop ended before it could take it
            self._arriving.stream.close()
        link = self._link
        if link is not None:
            self._link = None
            with contextlib.suppress(DistNetworkError):
                if not self._outbox:
                    link.stream.send_at_once(self._session.begin(Request(SessionVerb.BYE)))
            link.stream.close()

    def _connect(self, session_id: bytes) -> None:
        """Connect, however long it takes: in the connector's thread."""
        attempts = 0
        while not self._has_ended.is_set():
            try:
                link = self._reach(session_id, Deadline(ATTEMPT_S_MAX))
            except (DistNetworkError, ValueError) as error:
                attempts += 1
                with contextlib.suppress(DistStoreError):  # the loop has ended
                    if isinstance(error, AuthenticationError) and self._data_id is None:
                        self._loop.door.post(partial(self._give_up, error))
                        return
                    self._loop.door.post(partial(self._not_reached, str(error)))
                self._has_ended.wait(self._backoff.pause_s(attempts, random.random()))  # noqa: S311 - it spreads
                continue
            self._arriving = link
            try:
                self._loop.door.post(partial(self._adopt, link))
            except DistStoreError:
                link.stream.close()
            return

    def _not_reached(self, why: str) -> None:
        if why != self._last_trouble:
            self._last_trouble = why
            self._log(f"the server upstream cannot be reached, trying on: {why}")
        self._tell(UpstreamGone(why))

    def _adopt(self, link: Link) -> None:
        """Go on over a new connection."""
        self._arriving = None
        if self._has_ended.is_set():
            link.stream.close()
            return
        welcome = link.welcome
        is_known, is_same = self._data_id is not None, self._data_id in (None, welcome.data)
        self._data_id = welcome.data
        if not is_same:
            self._start_over("the server upstream has other data than before")
        elif is_known and not welcome.is_resumed:
            for request in self._session.doubtful():
                self._fail(request, "the session upstream ended: it is not known whether the request was applied")
        frames = self._session.resume(welcome)
        self._link = link
        self._is_probed = False
        self._awaited = 1
        self._loop.watch(link.stream.fileno(), self._ready)
        self._last_trouble = ""
        self._log(f"the server upstream is there{' again' if is_known else ''}{'' if is_same else ', with other data'}")
        for frame in frames:
            self._send(frame)
        if self._link is link:
            self._tell(UpstreamThere(is_same))

    def _start_over(self, why: str) -> None:
        """Begin another session; what the old one has not answered will not be."""
        for request in self._session.unanswered:
            self._fail(request, why)
        self._session = Session()

    def _fail(self, request: Request, why: str) -> None:
        self._session.fail(request, why)
        assert isinstance(request, _Request)
        if request.call != _NOBODYS:
            del self._requests[request.call]
            self._tell(Failed(request.call, why))

    def _lose(self, why: str) -> None:
        link = self._link
        if link is None:
            return
        self._link = None
        self._loop.unwatch(link.stream.fileno())
        link.stream.close()
        self._outbox.clear()
        self.gathered.clear()
        closing = self._session.closing
        self._session.lose()
        if closing is not None and closing.reason in FATAL_REASONS:
            self._start_over(f"the server upstream ended the session ({closing.reason}): {closing.sentence}")
        self._log(f"the server upstream is lost: {why}")
        self._tell(UpstreamGone(why))
        self.begin()

    # --- bytes -------------------------------------------------------------------------------------------

    def _send(self, frame: bytes) -> None:
        if self._link is None:
            return  # the session keeps it until there is a connection
        if self._is_driven:
            self.gathered.append(frame)
        else:
            self._send_now(frame)

    def flush(self) -> None:
        """Send what was asked in this turn of the loop; in the loop's thread."""
        frames = self.gathered
        if not frames:
            return
        if len(frames) == 1 or sum(map(len, frames)) <= _JOINED_SIZE_MAX:
            data = frames[0] if len(frames) == 1 else b"".join(frames)
            frames.clear()
            self._send_now(data)
            return
        self.gathered = []
        for frame in frames:
            self._send_now(frame)

    def _send_now(self, frame: bytes) -> None:
        link = self._link
        if link is None:
            return
        if self._outbox:
            self._outbox.append(memoryview(frame))
            return
        try:
            sent = link.stream.send_at_once(frame)
        except DistNetworkError as error:
            self._lose(str(error))
            return
        if sent != len(frame):
            self._outbox.append(memoryview(frame)[sent:])
            self._loop.watch(link.stream.fileno(), self._ready, READ | WRITE)

    def _ready(self) -> None:
        """Send what there is room for, and read what has come."""
        try:
            if self._outbox:
                self._flush()
            for _ in range(_READS_MAX):
                link = self._link
                if link is None:
                    return
                is_plain = type(link.stream) is Stream
                if self._is_driven and is_plain and (room := self._session.room()) is not None:
                    if not self._take_into(link, room):
                        return
                    continue
                data = link.stream.take(self._session.missing, is_patient=False)
                if not data:
                    return
                self._heard(self._session.receive(data))
                if len(data) < _WHOLE_SIZE and is_plain:
                    return  # there was no more; TLS may hold some
        except DistNetworkError as error:
            self._lose(str(error))

    def _take_into(self, link: Link, room: memoryview) -> bool:
        """Read more of a large answer to where it belongs; tell whether there may be more to read."""
        size = link.stream.take_into(room)
        left = len(room) - size
        awaited = min(left, _AWAITED_SIZE_MAX) or 1
        if awaited != self._awaited:
            self._awaited = awaited
            link.stream.await_at_least(awaited)
        if size:
            self._heard(self._session.fill(size))
        return size > 0 and left == 0

    def _flush(self) -> None:
        link = self._link
        while link is not None and self._outbox:
            sent = link.stream.send_at_once(self._outbox[0])
            if sent != len(self._outbox[0]):
                self._outbox[0] = self._outbox[0][sent:]
                return
            self._outbox.popleft()
        if link is not None:
            self._loop.watch(link.stream.fileno(), self._ready)

    def _heard(self, answered: Sequence[Request]) -> None:
        self._is_probed = False
        session = self._session
        for request in answered:
            assert isinstance(request, _Request)
            status = request.status
            assert status is not None
            if request.call == _NOBODYS:
                continue
            del self._requests[request.call]
            at = self._reply_at.get(request.verb) if status is Status.OK else None
            if at is None:
                self._tell(Answered(request.call, status, request.fields()))
            else:
                self._tell(Answered(request.call, None, (request.rest(at),)))
        if session.closing is not None and session is self._session:
            self._lose(session.closing.sentence)
