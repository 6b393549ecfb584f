"""Who has a session, what it was answered, what of its requests waits, and when it ends.

Rules:

- A session belongs to whoever says its id, which nobody can guess, and to the identity that opened it. It has one
  connection or none; a session without one ends when its time is over.
- The answer to a write is kept from before it is sent until the client's ``done`` passes it. ``None`` is kept for a
  request that has counted already, and whose answer is still to come.
- A request waits under its id. What waits without having changed anything is dropped when the connection goes, because
  the client sends it again; what has counted stays, and its answer is kept for the resumed session.
- Everything is bounded: sessions, and for each its waits and its answers by number and by bytes. A bound is a refusal.
  Where all sessions together keep too much, those are refused that keep their equal share of it or more.

Theory of operation. ``take`` says what a request means to a session::

    id below done, a write      SETTLED   the client holds the reply: nothing is to be done
    id in answers: an answer    ANSWERED  the same reply again
    id in pending               PENDING   it still waits: nothing is to be done
    id in answers: None         COUNTED   it has counted, and waits no more: look whether it is complete, or wait again
    else                        NEW       apply it

Ends are in a heap of ``(time, serial, session)`` whose entries may be stale: one counts only while its session has no
connection and it is the session's last one. Answers are forgotten from the oldest on, up to the first that is not
settled; a settled one behind that stays a while, which nobody notices.

What this file does not know: verbs, replies, connections but by their number, how a client proves who it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from enum import Enum, auto
from heapq import heapify, heappop, heappush
from typing import Final

from rallypoint.protocol.codec import Request, RequestError
from rallypoint.protocol.session.auth import Hello
from rallypoint.protocol.session.spec import SESSION_ID_SIZE
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.changes import Answer, AnswerKept, AnswersForgotten, Change, SessionEnded, SessionMade, State
from rallypoint.server.ids import Ids
from rallypoint.server.limits import SESSION_RESTART_GRACE_S, Limits

__all__ = ["ANSWER_SIZE", "Meaning", "Pending", "Session", "Sessions"]

ANSWER_SIZE: Final = 256
"""Bytes that one kept answer is taken to need besides its own."""

_STALE_MAX = 64


class Meaning(Enum):
    """What a request is to its session; see the theory of operation."""

    NEW = auto()
    SETTLED = auto()
    ANSWERED = auto()
    PENDING = auto()
    COUNTED = auto()


class Pending:
    """A request that waits.

    Attributes:
        request: what was asked.
        since: when it came.
        waiter: its number among those who wait for keys, names, items or a barrier's count, below 0; 0 if it is not
            among them.
    """

    __slots__ = ("request", "since", "waiter")

    def __init__(self, request: Request, since: float, waiter: int = 0) -> None:
        self.request = request
        self.since = since
        self.waiter = waiter


class Session:
    """One session; changed by ``Sessions`` only, but for ``pending``.

    Attributes:
        number: rises with each session of this life; for whoever needs to tell sessions apart without their secret.
        session_id: the secret by which it is resumed.
        identity: whom its client has proven to be.
        label: what its client is called in errors.
        timeout_s: how long it outlives its connection.
        since: when it was made.
        peer: its connection, ``None`` without one.
        ends_at: when it ends without a connection.
        end_serial: which entry among the ends is its own.
        done: writes below this are settled.
        answers: request id -> answer, see the rules, and the bytes that it is taken to need.
        answers_size: bytes that they are taken to need.
        pending: request id -> what waits.
        calls: waiter -> queue, of waits for names that an item has ended, until the session pops it: see ``waiters``.
    """

    __slots__ = (
        "answers",
        "answers_size",
        "calls",
        "done",
        "end_serial",
        "ends_at",
        "identity",
        "label",
        "number",
        "peer",
        "pending",
        "session_id",
        "since",
        "timeout_s",
    )

    def __init__(
        self, number: int, session_id: bytes, *, identity: bytes, label: bytes, timeout_s: float, now: float
    ) -> None:
        self.number = number
        self.session_id = session_id
        self.identity = identity
        self.label = label
        self.timeout_s = timeout_s
        self.since = now
        self.peer: int | None = None
        self.ends_at = now + timeout_s
        self.end_serial = 0
        self.done = 0
        # A plain dict does not find its first entry in O(1) after deletions.
        self.answers: OrderedDict[int, tuple[Answer | None, int]] = OrderedDict()
        self.answers_size = 0
        self.pending: dict[int, Pending] = {}
        self.calls: dict[int, bytes] = {}


class Sessions:
    """All sessions of one server.

    Args:
        limits: what they are granted.
        ids: where their ids come from.
        note: takes each change that a durable server remembers; ``None`` without a journal.

    Attributes:
        answers_size: bytes that all kept answers are taken to need. Read only, for others.

    Threads: none but the caller's.
    """

    def __init__(self, limits: Limits, ids: Ids, note: Callable[[Change], None] | None = None) -> None:
        self._limits = limits
        self._ids = ids
        self._note = note
        self._by_id: dict[bytes, Session] = {}
        self._by_number: dict[int, Session] = {}
        self._ends: list[tuple[float, int, Session]] = []
        self._count = 0
        self._serial = 0
        self.answers_size = 0

    def __len__(self) -> int:
        """Count the sessions, with or without a connection."""
        return len(self._by_id)

    @property
    def newest(self) -> int:
        """The number of the youngest session that there has been, 0 if there has been none."""
        return self._count

    def __iter__(self) -> Iterator[Session]:
        """Give the sessions, oldest first."""
        return iter(self._by_id.values())

    # --- beginning and end -------------------------------------------------------------------------------

    def find(self, session_id: bytes, identity: bytes) -> Session | None:
        """Give the session with this id, if it belongs to this identity."""
        session = self._by_id.get(session_id)
        return session if session is not None and session.identity == identity else None

    def numbered(self, number: int) -> Session | None:
        """Give the session with this number, ``None`` if it has ended."""
        return self._by_number.get(number)

    def make(self, hello: Hello, identity: bytes, now: float) -> Session:
        """Give a new session, without a connection yet.

        Raises:
            RequestError: there are too many.
        """
        if len(self._by_id) >= self._limits.sessions_max:
            sentence = f"there are {len(self._by_id)} sessions, the limit is {self._limits.sessions_max}"
            raise RequestError(CloseReason.TOO_MANY_SESSIONS, sentence)
        timeout_s = min(hello.timeout_ms / 1000, self._limits.session_timeout_s_max)
        session_id = self._ids.make(b"session", SESSION_ID_SIZE)
        session = self._add(session_id, identity, hello.label, timeout_s, now)
        if self._note is not None:
            self._note(SessionMade(session_id, hello.label, identity, round(timeout_s * 1000)))
        return session

    def restore(self, state: State, now: float) -> None:
        """Put back sessions as they were, without a connection; nobody is told.

        Their time begins anew, and is ``SESSION_RESTART_GRACE_S`` at least.
        """
        for session_id, was in state.sessions.items():
            timeout_s = was.timeout_ms / 1000
            session = self._add(session_id, was.identity, was.label, timeout_s, now)
            session.done = was.done
            for request_id, answer in was.answers.items():
                self._put(session, request_id, answer, 1)
            session.ends_at = now + max(timeout_s, SESSION_RESTART_GRACE_S)
            self._end_later(session)

    def attach(self, session: Session, peer: int, label: bytes) -> None:
        """Let a session have a connection."""
        session.peer = peer
        session.label = label

    def detach(self, session: Session, now: float) -> None:
        """Take note that a session's connection is gone: its time runs."""
        session.peer = None
        session.ends_at = now + session.timeout_s
        self._end_later(session)

    def end(self, session: Session) -> None:
        """Forget a session, and its answers; what waits for it must be dropped before."""
        del self._by_id[session.session_id]
        del self._by_number[session.number]
        self.answers_size -= session.answers_size
        session.peer = None
        session.end_serial = 0
        if self._note is not None:
            self._note(SessionEnded(session.session_id))

    def next_end(self) -> float | None:
        """Give the time at which a session ends, ``None`` if none does."""
        ends = self._ends
        while ends and not _counts(ends[0]):
            heappop(ends)
        return ends[0][0] if ends else None

    def ended(self, now: float) -> Iterator[Session]:
        """Give the sessions whose time is over, one by one; the caller ends each."""
        while (at := self.next_end()) is not None and at <= now:
            yield heappop(self._ends)[2]

    # --- requests ----------------------------------------------------------------------------------------

    def take(self, session: Session, request_id: int, done: int, *, is_write: bool) -> Meaning:
        """Say what a request means, and forget the answers below ``done``."""
        if done > session.done:
            session.done = done
            if session.answers:
                self._forget(session, done)
        if session.pending and request_id in session.pending:
            return Meaning.PENDING
        if not is_write:
            return Meaning.NEW
        if request_id < session.done:
            return Meaning.SETTLED
        kept = session.answers.get(request_id)
        if kept is None:
            return Meaning.NEW
        return Meaning.COUNTED if kept[0] is None else Meaning.ANSWERED

    def refusal(self, session: Session, *, is_write: bool, is_deferred: bool) -> str | None:
        """Say why a new request cannot be taken: TOO_MANY_PENDING; ``None`` if it can."""
        limits = self._limits
        if is_deferred and len(session.pending) >= limits.session_waits_max:
            return f"{len(session.pending)} requests of the session wait, the limit is {limits.session_waits_max}"
        if not is_write:
            return None
        if len(session.answers) >= limits.session_answers_max:
            held, limit = f"{len(session.answers)} answers of the session are", limits.session_answers_max
        elif session.answers_size >= limits.session_answers_size_max:
            held, limit = f"{session.answers_size} bytes of the session's answers are", limits.session_answers_size_max
        elif self.answers_size >= limits.answers_size_max and session.answers_size >= self._fair_size():
            held, limit = f"{self.answers_size} bytes of all sessions' answers are", limits.answers_size_max
        else:
            return None
        return f"{held} kept because its client has not said that it holds them, the limit is {limit}"

    def _fair_size(self) -> int:
        """Give the bytes of answers up to which a session is not refused for what others leave to be kept."""
        return self._limits.answers_size_max // len(self._by_id)

    def keep(self, session: Session, request_id: int, answer: Answer | None, *, sharers: int = 1) -> None:
        """Keep an answer, ``None`` for a request that has counted; ``sharers``: how many keep its body, one object."""
        self._put(session, request_id, answer, sharers)
        if self._note is not None:
            self._note(AnswerKept(session.session_id, request_id, answer))

    def _forget(self, session: Session, done: int) -> None:
        answers = session.answers
        freed = 0
        while answers and (request_id := next(iter(answers))) < done:
            freed += answers.pop(request_id)[1]
        if not freed:
            return
        session.answers_size -= freed
        self.answers_size -= freed
        if self._note is not None:
            self._note(AnswersForgotten(session.session_id, done))

    def _put(self, session: Session, request_id: int, answer: Answer | None, sharers: int) -> None:
        size = ANSWER_SIZE
        if answer is not None:
            size += len(answer.head) + len(answer.body) // sharers
        more = size
        if (before := session.answers.get(request_id)) is not None:
            more -= before[1]
        session.answers[request_id] = (answer, size)
        session.answers_size += more
        self.answers_size += more

    def _add(self, session_id: bytes, identity: bytes, label: bytes, timeout_s: float, now: float) -> Session:
        self._count += 1
        session = Session(self._count, session_id, identity=identity, label=label, timeout_s=timeout_s, now=now)
        self._by_id[session_id] = session
        self._by_number[session.number] = session
        return session

    def _end_later(self, session: Session) -> None:
        ends = self._ends
        if len(ends) > 2 * len(self._by_id) + _STALE_MAX:
            ends[:] = filter(_counts, ends)
            heapify(ends)
        self._serial += 1
        session.end_serial = self._serial
        heappush(ends, (session.ends_at, self._serial, session))


def _counts(entry: tuple[float, int, Session]) -> bool:
    _, serial, session = entry
    return session.peer is None and session.end_serial == serial
