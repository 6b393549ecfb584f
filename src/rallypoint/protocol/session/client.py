"""The client's end of the session dialect: which requests are on their way, and what came of them.

Rules:

- A request is *begun* once and answered at most once. Its id is above that of all begun before; frames leave in the
  order of their ids.
- What is begun and not answered is sent again, with its old id, when another connection is made (``resume``). Exactly
  once is the server's part: it keeps the answers to writes until the client's ``done`` has passed them.
- ``done`` passes a write only when its answer is in hand, or nobody wants it any more.
- A request that nobody wants any more (``forget``) is not sent again. One that waits at the server is cancelled there,
  and its answer is dropped when it comes. A member's arrival must not stay behind: its cancellation is sent again, too,
  until the server has shown that it came.
- A watch that was answered *stands*: it is begun again by ``resume``, from the revision up to which it has told.
- Fields are decoded by whoever asked (``Request.fields``), not by whoever happened to read them off the connection.

Theory of operation::

    begin GET 1, begin SET 2      --> GET 1 · SET 2 (done 2: no write below 2 is open)
                                  <-- OK 2
    begin ADD 3                   --> ADD 3 (done 3)         the connection breaks
    begin GET 4                       kept
    resume                        --> GET 1 · ADD 3 · GET 4  on another connection, past its HELLO
                                  <-- OK 3                   from the server's memory, if it was applied before

What this file does not know: sockets, time, threads, why a request is not wanted any more, users' keys.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final, NamedTuple

from rallypoint.errors import RemoteProtocolError
from rallypoint.protocol.session.auth import Welcome
from rallypoint.protocol.session.codec import REPLY_HEAD_SIZE, decode_reply, encode_request
from rallypoint.protocol.session.frames import FrameCutter
from rallypoint.protocol.session.spec import (
    CLOSING_ID,
    REPLY_FRAME_SIZE_MAX,
    SESSION_VERBS,
    EventKind,
    SessionVerb,
    Status,
)

__all__ = ["Closing", "Happening", "Request", "Session"]

_HEAD: Final = Struct("<IBQ")
_NUMBER: Final = Struct("<q")
_STORED_HEAD: Final = Struct("<Q")
_SIZE_SIZE: Final = 4
_COPIED_SIZE_MAX: Final = 16 * 1024  # below it a copy costs less than to keep what it is a part of
_STATUSES: Final = tuple(Status)
_IS_ANSWER: Final = Status.LOST  # and what is below
_IS_WRITE: Final = tuple(verb in SESSION_VERBS and SESSION_VERBS[SessionVerb(verb)].is_write for verb in range(256))


class Closing(NamedTuple):
    """The server's last word on a connection: the reason's code and a sentence."""

    reason: str
    sentence: str


class Happening(NamedTuple):
    """What an EVENT says."""

    kind: EventKind
    key: bytes
    value: bytes
    revision: int


class Request:
    """One request of a session, from its making to its answer.

    Args:
        verb: what is asked.

    Attributes:
        id: its number, 0 until it is begun.
        status: what the answer is; ``None`` until there is one.
        is_cancelled: a CANCEL was made for it.
        failure: why there will be no answer, if the session is to blame.
    """

    __slots__ = ("_at", "_data", "_end", "_frame", "failure", "id", "is_cancelled", "status", "verb")

    def __init__(self, verb: SessionVerb) -> None:
        self.verb = verb
        self.id = 0
        self.status: Status | None = None
        self.failure: str | None = None
        self.is_cancelled = False
        self._frame = b""
        self._data = b""
        self._at = 0
        self._end = 0

    def fields(self) -> tuple[Any, ...]:
        """Give the fields of the answer.

        Raises:
            RemoteProtocolError: they are not those of the layout.
        """
        assert self.status is not None
        return decode_reply(self.status, self.verb, bytes(self._data), self._at, self._end)

    def rest(self, at: int) -> bytes | memoryview:
        """Give the answer's fields as they came, from this byte of theirs on, without a look at them."""
        start = self._at + at
        if self._end - start < _COPIED_SIZE_MAX:
            return bytes(self._data[start : self._end])
        return memoryview(self._data)[start : self._end]

    def stored(self) -> bytes:
        """Give the only field of an OK, a STORED."""
        at = self._at + _STORED_HEAD.size
        if self._end < at or _STORED_HEAD.unpack_from(self._data, self._at)[0] != self._end - at:
            value: bytes = self.fields()[0]
            return value
        return bytes(self._data[at : self._end])

    def number(self) -> int:
        """Give the only field of an OK, an I64."""
        if self._end - self._at != _NUMBER.size:
            return int(self.fields()[0])
        number: int = _NUMBER.unpack_from(self._data, self._at)[0]
        return number


class _Watching:
    """A watch that stands.

    Attributes:
        revision: up to which it has told.
    """

    __slots__ = ("fields", "request", "revision")

    def __init__(self, request: Request, fields: tuple[Any, ...]) -> None:
        self.request = request
        self.fields = fields
        self.revision = int(fields[2])


class Session:
    """The requests of one session.

    Attributes:
        id: the session's id, empty before the first HELLO was answered.
        events: what watches have told and ``receive`` has put here: ``(request, happening)``, without happening if
            there will be no more; the caller takes it out.
        closing: the server's last word, if ``receive`` has read one since ``resume``.

    Threads: one at a time.
    """

    __slots__ = (
        "_cancelled",
        "_cutter",
        "_done",
        "_last_id",
        "_open_writes",
        "_unanswered",
        "_watches",
        "closing",
        "events",
        "id",
    )

    def __init__(self) -> None:
        self.id = b""
        self.events: list[tuple[Request, Happening | None]] = []
        self.closing: Closing | None = None
        self._last_id = 0
        self._done = 1
        self._open_writes: set[int] = set()
        self._unanswered: dict[int, Request] = {}
        self._watches: dict[int, _Watching] = {}
        self._cancelled: dict[int, int] = {}  # arrivals nobody wants: the last id when their CANCEL was made
        self._cutter = FrameCutter(REPLY_HEAD_SIZE - _SIZE_SIZE, REPLY_FRAME_SIZE_MAX)

    # --- asking ------------------------------------------------------------------------------------------

    def begin(self, request: Request, *fields: Any) -> bytes:
        """Give a request its id, and its frame to be sent.

        Raises:
            LocalProtocolError: the frame cannot be made; nothing has changed.
        """
        number = self._last_id + 1
        verb = request.verb
        frame = encode_request(verb, number, self._passed(number), *fields)
        request.id = self._last_id = number
        request._frame = frame  # noqa: SLF001 - our own class
        if _IS_WRITE[verb]:
            self._open_writes.add(number)
        elif verb is SessionVerb.WATCH:
            self._watches[number] = _Watching(request, fields)
        self._unanswered[number] = request
        return frame

    def cancel(self, request: Request) -> bytes:
        """Give the frame that ends a request's wait; its answer says what came of it. Nothing if there is no wait."""
        if request.status is not None or not SESSION_VERBS[request.verb].is_deferred:
            return b""
        request.is_cancelled = True
        return self._notice(SessionVerb.CANCEL, request.id)

    def forget(self, request: Request) -> bytes:
        """Want no answer any more; give the frame that tells the server, or nothing."""
        if self._unanswered.pop(request.id, None) is None:
            return b""
        self._open_writes.discard(request.id)
        self._watches.pop(request.id, None)
        if not SESSION_VERBS[request.verb].is_deferred:
            return b""
        if request.verb in (SessionVerb.MEET, SessionVerb.EXCHANGE):
            self._cancelled[request.id] = self._last_id
        return b"" if request.is_cancelled else self._notice(SessionVerb.CANCEL, request.id)

    def unwatch(self, request: Request) -> bytes:
        """End a watch; give the frame that tells the server, or nothing."""
        self._unanswered.pop(request.id, None)
        if self._watches.pop(request.id, None) is None:
            return b""
        return self._notice(SessionVerb.UNWATCH, request.id)

    def _notice(self, verb: SessionVerb, number: int) -> bytes:
        return encode_request(verb, CLOSING_ID, self._passed(self._last_id + 1), number)

    def _passed(self, upto: int) -> int:
        """Give ``done``: below it no write is open. Cost: one step for each id, once."""
        done, is_open = self._done, self._open_writes
        while done < upto and done not in is_open:
            done += 1
        self._done = done
        return done

    # --- hearing -----------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Request]:
        """Take the next bytes of the connection.

        Returns:
            The requests that they answer. ``events`` and ``closing`` have what else they say.

        Raises:
            RemoteProtocolError: they are no frames, or answer what was never asked. The connection cannot be used
                any more.
        """
        cutter = self._cutter
        if len(data) >= REPLY_HEAD_SIZE and not cutter.held:
            size, status, number = _HEAD.unpack_from(data)
            if size + _SIZE_SIZE == len(data) and status <= _IS_ANSWER and number not in self._watches:
                # One whole answer, as it mostly is.
                request = self._unanswered.get(number)
                if request is not None:
                    self._answer(request, status, data, REPLY_HEAD_SIZE, len(data))
                    if self._cancelled:
                        self._settle([request])
                    return [request]
        cutter.feed(data)
        return self._cut()

    def room(self) -> memoryview | None:
        """Give where the rest of a large frame that has begun may be received; ``None`` if there is none such."""
        return self._cutter.room()

    def fill(self, size: int) -> list[Request]:
        """Take note that so many bytes have come into ``room``, as ``receive`` does of others."""
        return self._cut() if self._cutter.fill(size) else []

    def _cut(self) -> list[Request]:
        """Take the frames that are whole."""
        cutter = self._cutter
        answered = []
        while (place := cutter.next()) is not None:
            at, end = place
            _, status, number = _HEAD.unpack_from(cutter.data, at)
            if status <= _IS_ANSWER:
                request = self._unanswered.get(number)
                if request is None:
                    self._drop(number)
                    continue
                self._answer(request, status, cutter.data, at + REPLY_HEAD_SIZE, end)
                answered.append(request)
                if self._watches and number in self._watches:
                    self._stand(request)
            else:
                self._hear(status, number, bytes(cutter.data), at + REPLY_HEAD_SIZE, end)
        if self._cancelled and answered:
            self._settle(answered)
        return answered

    def _answer(self, request: Request, status: int, data: bytes, at: int, end: int) -> None:
        # Whoever is interrupted amid this leaves a request that is either answered or will be sent again.
        request._data = data  # noqa: SLF001 - our own class, as below
        request._at = at  # noqa: SLF001
        request._end = end  # noqa: SLF001
        request.status = _STATUSES[status]
        request._frame = b""  # noqa: SLF001
        self._take_out(request)

    def _take_out(self, request: Request) -> None:
        self._open_writes.discard(request.id)
        self._unanswered.pop(request.id, None)

    @property
    def missing(self) -> int:
        """How many bytes of a begun frame are still to come, as far as that is known; 0 between frames."""
        return self._cutter.missing

    def _drop(self, number: int) -> None:
        if not 0 < number <= self._last_id:
            raise RemoteProtocolError(f"the server answers request {number}, the last one was {self._last_id}")
        self._cancelled.pop(number, None)

    def _settle(self, answered: list[Request]) -> None:
        """Forget cancellations that the server has read: it has answered what was begun after them."""
        last = max(request.id for request in answered)
        for number, before in list(self._cancelled.items()):
            if before < last:
                del self._cancelled[number]

    def _stand(self, request: Request) -> None:
        if request.status is not Status.OK:
            del self._watches[request.id]
            self.events.append((request, None))
            return
        (revision,) = request.fields()
        watching = self._watches[request.id]
        if watching.revision < 0:
            watching.revision = revision

    def _hear(self, status: int, number: int, data: bytes, at: int, end: int) -> None:
        if status == Status.EVENT:
            watching = self._watches.get(number)
            kind, key, value, revision = decode_reply(Status.EVENT, None, data, at, end)
            if watching is not None:
                watching.revision = max(revision, watching.revision)
                self.events.append((watching.request, Happening(_kind(kind), key, value, revision)))
        elif status == Status.CLOSING:
            reason, sentence = decode_reply(Status.CLOSING, None, data, at, end)
            self.closing = Closing(reason.decode(errors="replace"), sentence.decode(errors="replace"))
        else:
            raise RemoteProtocolError(f"the server sends a frame of status {status}, which means nothing here")

    # --- beginning again ---------------------------------------------------------------------------------

    def lose(self) -> None:
        """Forget what was half read: the connection is gone."""
        self._cutter.close()
        self.closing = None

    def resume(self, welcome: Welcome) -> list[bytes]:
        """Go on, on a new connection.

        Args:
            welcome: what its HELLO was answered. A session that the server did not know is a new one: its writes are
                :meth:`doubtful`, and must be failed before.

        Returns:
            The frames to be sent, in order.
        """
        self.id = welcome.session
        if not welcome.is_resumed:
            self._cancelled.clear()
        for request in self.unanswered:
            if request.status is not None:
                self._take_out(request)
        frames = []
        for number in sorted({*self._unanswered, *self._watches}):
            watching = self._watches.get(number)
            if watching is None:
                frames.append(self._unanswered[number]._frame)  # noqa: SLF001 - our own class
                continue
            key, is_prefix, _ = watching.fields
            done = self._passed(self._last_id + 1)
            frames.append(encode_request(SessionVerb.WATCH, number, done, key, is_prefix, watching.revision))
            # Its answer is nobody's news.
            self._unanswered.setdefault(number, watching.request)
        frames += [self._notice(SessionVerb.CANCEL, one.id) for one in self._unanswered.values() if one.is_cancelled]
        frames += [self._notice(SessionVerb.CANCEL, number) for number in self._cancelled]
        return frames

    def doubtful(self) -> list[Request]:
        """Give the writes that were begun and not answered."""
        return [self._unanswered[number] for number in sorted(self._open_writes)]

    def fail(self, request: Request, why: str) -> None:
        """Say that a request will not be answered."""
        self.forget(request)
        request.failure = why

    @property
    def unanswered(self) -> list[Request]:
        """What was begun and not answered, in order."""
        return list(self._unanswered.values())


def _kind(number: int) -> EventKind:
    try:
        return EventKind(number)
    except ValueError:
        raise RemoteProtocolError(f"the server tells an event of kind {number}, which means nothing") from None
