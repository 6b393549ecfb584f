"""WATCH and UNWATCH of sessions, and the EVENT frames that they cause.

Rules:

- A change is told in its step to all who watch its key and read. Who has been sent ``output_size_max`` bytes of events
  since it was last known to read is paused like one that asked too much; from then on events are kept for it, within
  bounds, until it has read.
- A watch ends with its connection. A client that watches anew says up to which revision it knows; if the server cannot
  tell that nothing has happened since, the watch begins with MISSED.

Theory of operation::

    change --> watches.concerned(key) --reads--> Reply: head, and the fields, made once for all --too much--> pause
                                      '-paused-> watches.keep
    output is sent --> watches.take --> Reply ... --too much--> pause

What this file does not know: the rules of watches, sockets, when output is sent.
"""

from __future__ import annotations

from typing import Protocol

from rallypoint.protocol.codec import I64, U64, Request, RequestError
from rallypoint.protocol.session.codec import encode_number, encode_reply_head
from rallypoint.protocol.session.spec import NO_REVISION, EventKind, SessionVerb, Status
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.changes import Appended, Change, KeyDeleted, KeySet
from rallypoint.server.followers import Followers
from rallypoint.server.ground import COPIED_SIZE_MAX, Ground
from rallypoint.server.session_verbs import SessionVerbs, VerbHandler
from rallypoint.server.sessions import Session
from rallypoint.server.vocabulary import Reply
from rallypoint.server.watches import Event, Watch, Watches

__all__ = ["Pauses", "SessionWatches"]


class Pauses(Protocol):
    """What the watches have the engine do with connections."""

    def is_paused(self, peer: int) -> bool:
        """Tell whether a peer's output is not sent yet."""

    def pause(self, peer: int) -> None:
        """Send what a peer is owed before it may cause more."""


class SessionWatches:
    """The watches of one server's sessions.

    Args:
        ground: where the keys are.
        verbs: where the verbs are registered.
        followers: how to learn which keys change.
        pauses: the engine.

    Attributes:
        watches: the watches. Read only, for others.

    Threads: none but the caller's.
    """

    def __init__(self, ground: Ground, verbs: SessionVerbs, followers: Followers, pauses: Pauses) -> None:
        limits = ground.limits
        self._ground = ground
        self._verbs = verbs
        self._followers = followers
        self._pauses = pauses
        self._watchers: dict[int, Session] = {}  # by number
        self._sent: dict[int, int] = {}  # bytes of events for each since it was last known to read
        self.watches = Watches(
            watches_max=limits.watches_max,
            session_watches_max=limits.session_watches_max,
            events_max=limits.watch_events_max,
            events_size_max=limits.watch_events_size_max,
            events_total_max=limits.events_size_max,
        )
        verbs.register(SessionVerb.WATCH, VerbHandler(self._watch))
        verbs.register(SessionVerb.UNWATCH, VerbHandler(self._unwatch))
        verbs.on_resume.append(self._resume)
        verbs.on_detach.append(self._leave)
        verbs.on_end.append(self._leave)

    # --- verbs -------------------------------------------------------------------------------------------

    def _watch(self, session: Session, request_id: int, request: Request) -> None:
        verb, key, kind, known = request
        if kind > 1 or known < -1:
            sentence = f"WATCH has {kind} for a prefix and knows revision {known}: it is 0 or 1, and -1 or above"
            raise RequestError(CloseReason.BAD_ARGUMENT, sentence)
        watch = self.watches.watch(session.number, request_id, key, is_prefix=kind == 1)
        self._watchers[session.number] = session
        self._followers.join(self._changed)
        revision = self._ground.keyspace.revision
        self._verbs.answer(session, request_id, verb, encode_number(request_id, revision))
        if known >= 0 and self._has_changed(watch, known):
            self._tell((watch,), Event(EventKind.MISSED, b"", b"", revision))

    def _unwatch(self, session: Session, request_id: int, request: Request) -> None:  # noqa: ARG002 - all take these
        if self.watches.unwatch(session.number, request[1]):
            self._rest()

    def _has_changed(self, watch: Watch, known: int) -> bool:
        """Tell whether something may have happened to what is watched after the revision ``known``."""
        keyspace = self._ground.keyspace
        if known > keyspace.revision:  # of another server's data
            return True
        last = NO_REVISION if watch.is_prefix else keyspace.revision_of(watch.key)
        return (last or keyspace.revision) > known

    # --- what happens ------------------------------------------------------------------------------------

    def _changed(self, change: Change) -> None:
        if isinstance(change, KeySet):
            concerned = self.watches.concerned(change.key)
            if concerned:
                self._tell(concerned, Event(EventKind.SET, change.key, change.value, change.revision))
        elif isinstance(change, KeyDeleted):
            concerned = self.watches.concerned(change.key)
            if concerned:
                self._tell(concerned, Event(EventKind.DELETED, change.key, b"", change.revision))
        elif isinstance(change, Appended):
            concerned = self.watches.concerned(change.key)
            if concerned:
                self._tell_appended(concerned, change)

    def _tell_appended(self, watches: list[Watch], change: Appended) -> None:
        """Tell the whole value, which is put together for that only if somebody can have it."""
        keyspace = self._ground.keyspace
        is_large = keyspace.size_of(change.key) > self._ground.limits.watch_events_size_max
        if is_large and all(self._is_paused(watch) for watch in watches):
            for watch in watches:
                self.watches.miss(watch, change.revision)
        else:
            value = keyspace.get(change.key) or b""
            self._tell(watches, Event(EventKind.SET, change.key, value, change.revision))

    def _is_paused(self, watch: Watch) -> bool:
        peer = self._watchers[watch.session].peer
        assert peer is not None  # its watches would have ended
        return self._pauses.is_paused(peer)

    def _tell(self, watches: tuple[Watch, ...] | list[Watch], event: Event) -> None:
        fields = _fields(event)
        for watch in watches:
            if self._is_paused(watch):
                self.watches.keep(watch, event)
            else:
                self._send(self._watchers[watch.session], watch, fields)

    def _send(self, session: Session, watch: Watch, fields: tuple[bytes, ...]) -> None:
        peer = session.peer
        assert peer is not None
        size = sum(map(len, fields))
        head = encode_reply_head(Status.EVENT, watch.request, size)
        effects = self._ground.effects
        if len(fields) == 1:
            effects.append(Reply(peer, head + fields[0]))
        else:
            before, value, after = fields
            effects += (Reply(peer, head + before), Reply(peer, value), Reply(peer, after))
        sent = self._sent.get(session.number, 0) + size
        self._sent[session.number] = sent
        if sent > self._ground.limits.output_size_max and not self._pauses.is_paused(peer):
            self._pauses.pause(peer)

    def _resume(self, session: Session) -> None:
        """Send what was kept for a session that reads again."""
        if session.number not in self._watchers:
            return
        self._sent.pop(session.number, None)
        peer = session.peer
        assert peer is not None
        while not self._pauses.is_paused(peer):
            taken = self.watches.take(session.number, self._ground.limits.output_size_max)
            if not taken:
                return
            for watch, event in taken:
                self._send(session, watch, _fields(event))

    def _leave(self, session: Session) -> None:
        if self._watchers.pop(session.number, None) is not None:
            self._sent.pop(session.number, None)
            self.watches.end_session(session.number)
            self._rest()

    def _rest(self) -> None:
        """Follow changes no more if nobody watches."""
        if not len(self.watches):
            self._followers.leave(self._changed)


def _fields(event: Event) -> tuple[bytes, ...]:
    """Give an event's fields; a large value is a piece of its own, the stored object itself."""
    kind, key, value, revision = event
    before = bytes((kind,)) + U64.pack(len(key)) + key + U64.pack(len(value))
    after = I64.pack(revision)
    return (before + value + after,) if len(value) <= COPIED_SIZE_MAX else (before, value, after)
