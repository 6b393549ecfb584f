"""What a durable server remembers: each change of the engine's state as a record, and the state that they add up to.

Rules:

- A change says what is so from now on, not what was asked for: applied in their order, changes give the state, and
  nothing of it depends on a clock, on connections or on chance.
- What ends with the process is no change: connections, waits, watches, deadlines. A time to live is remembered, when it
  runs out is not: it starts anew with the server.
- An answer is remembered before it is sent, and forgotten when its client's ``done`` has passed it. ``None`` stands for
  a request that has counted already and is not answered yet.

Theory of operation::

    Engine(journal=True) --take_changes()--> [KeySet, AnswerKept, ...] --journal--> disk
                                                                                      |
    Engine.restore(state, now) <------------------------ State <----------load--------'

``apply`` is the definition of what each change means; the journal has to give back the state that it gives.

What this file does not know: disks, the wire, what time it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

__all__ = [
    "Answer",
    "AnswerKept",
    "AnswersForgotten",
    "Appended",
    "Change",
    "GroupForgotten",
    "GroupMet",
    "GroupState",
    "KeyDeleted",
    "KeySet",
    "KeyState",
    "LeaseEnded",
    "LeaseGranted",
    "LeaseState",
    "Member",
    "Popped",
    "Pushed",
    "SessionEnded",
    "SessionMade",
    "SessionState",
    "State",
    "apply",
    "changes_of",
]


class KeySet(NamedTuple):
    """A key has this value; ``lease`` 0: it belongs to none."""

    key: bytes
    value: bytes
    revision: int
    lease: int = 0


class Appended(NamedTuple):
    """A key that exists has this behind its value; its lease stays."""

    key: bytes
    tail: bytes
    revision: int


class KeyDeleted(NamedTuple):
    """A key is gone."""

    key: bytes
    revision: int


class Pushed(NamedTuple):
    """A queue has one more item at its end."""

    name: bytes
    item: bytes


class Popped(NamedTuple):
    """A queue has lost its oldest item."""

    name: bytes


class LeaseGranted(NamedTuple):
    """A lease is there, for ``identity``; ``ttl_ms`` 0: it lives as long as ``session``. Ids rise for ever."""

    lease: int
    ttl_ms: int
    session: bytes
    identity: bytes = b""


class LeaseEnded(NamedTuple):
    """A lease is gone; its keys are deleted by changes of their own."""

    lease: int


class SessionMade(NamedTuple):
    """A session is there."""

    session: bytes
    label: bytes
    identity: bytes
    timeout_ms: int


class SessionEnded(NamedTuple):
    """A session is gone, and its answers; its leases end by changes of their own."""

    session: bytes


class Answer(NamedTuple):
    """A reply as it is sent: ``head`` and, behind it, ``body``, which other answers may share as one object."""

    head: bytes
    body: bytes = b""


class AnswerKept(NamedTuple):
    """A request has been applied, with this answer; ``None``: it has counted, and its answer is still to come."""

    session: bytes
    request: int
    answer: Answer | None


class AnswersForgotten(NamedTuple):
    """A session's requests below ``done`` are settled: their answers are not asked for any more."""

    session: bytes
    done: int


class Member(NamedTuple):
    """Who took part in a group's generation."""

    rank: int
    session: bytes
    label: bytes


class GroupMet(NamedTuple):
    """A barrier or an exchange (``kind``: its verb) has completed a generation with these members."""

    kind: int
    name: bytes
    generation: int
    members: tuple[Member, ...]


class GroupForgotten(NamedTuple):
    """Nothing is known of a group any more."""

    kind: int
    name: bytes


Change: TypeAlias = (
    KeySet
    | Appended
    | KeyDeleted
    | Pushed
    | Popped
    | LeaseGranted
    | LeaseEnded
    | SessionMade
    | SessionEnded
    | AnswerKept
    | AnswersForgotten
    | GroupMet
    | GroupForgotten
)


class KeyState(NamedTuple):
    """One key."""

    value: bytes
    revision: int
    lease: int = 0


class LeaseState(NamedTuple):
    """One lease."""

    ttl_ms: int
    session: bytes
    identity: bytes = b""


@dataclass
class SessionState:
    """One session.

    Attributes:
        label: what its client is called in errors.
        identity: whom it has proven to be, empty if the job has one token or none.
        timeout_ms: how long it outlives its connection.
        done: requests below it are settled.
        answers: request id -> answer, from ``done`` on.
    """

    label: bytes
    identity: bytes
    timeout_ms: int
    done: int = 0
    answers: dict[int, Answer | None] = field(default_factory=dict)


class GroupState(NamedTuple):
    """One barrier or exchange."""

    generation: int
    members: tuple[Member, ...]


@dataclass
class State:
    """All that a server remembers over a restart.

    Attributes:
        revision: the last one given.
        lease_last: the last lease id given.
        keys: by name, oldest first.
        queues: name -> items, oldest first; never an empty one.
        leases: by id.
        sessions: by id.
        groups: by kind and name.
    """

    revision: int = 0
    lease_last: int = 0
    keys: dict[bytes, KeyState] = field(default_factory=dict)
    queues: dict[bytes, list[bytes]] = field(default_factory=dict)
    leases: dict[int, LeaseState] = field(default_factory=dict)
    sessions: dict[bytes, SessionState] = field(default_factory=dict)
    groups: dict[tuple[int, bytes], GroupState] = field(default_factory=dict)


def apply(state: State, changes: Iterable[Change]) -> None:
    """Let a state change.

    Args:
        state: changed in place.
        changes: in the order in which they came about.

    Cost: O(1) a change, but a pop and an append, which are linear in the queue and in the value.
    """
    for change in changes:
        if isinstance(change, (KeySet, Appended, KeyDeleted)):
            _apply_to_keys(state, change)
        elif isinstance(change, (SessionMade, SessionEnded, AnswerKept, AnswersForgotten)):
            _apply_to_sessions(state.sessions, change)
        elif isinstance(change, Pushed):
            state.queues.setdefault(change.name, []).append(change.item)
        elif isinstance(change, Popped):
            del state.queues[change.name][0]
            if not state.queues[change.name]:
                del state.queues[change.name]
        elif isinstance(change, LeaseGranted):
            state.lease_last = change.lease
            state.leases[change.lease] = LeaseState(change.ttl_ms, change.session, change.identity)
        elif isinstance(change, LeaseEnded):
            del state.leases[change.lease]
        elif isinstance(change, GroupMet):
            state.groups[change.kind, change.name] = GroupState(change.generation, change.members)
        else:
            del state.groups[change.kind, change.name]


def changes_of(state: State) -> Iterator[Change]:
    """Give changes that make a state out of nothing, but for the last revision and lease id.

    None takes anything away, and nothing comes before what it belongs to.
    """
    for session_id, session in state.sessions.items():
        yield SessionMade(session_id, session.label, session.identity, session.timeout_ms)
        if session.done:
            yield AnswersForgotten(session_id, session.done)
    for lease, was in state.leases.items():
        yield LeaseGranted(lease, *was)
    for key, entry in state.keys.items():
        yield KeySet(key, *entry)
    for name, items in state.queues.items():
        for item in items:
            yield Pushed(name, item)
    for session_id, session in state.sessions.items():
        for request, answer in session.answers.items():
            yield AnswerKept(session_id, request, answer)
    for (kind, name), group in state.groups.items():
        yield GroupMet(kind, name, *group)


def _apply_to_keys(state: State, change: KeySet | Appended | KeyDeleted) -> None:
    state.revision = change.revision
    if isinstance(change, KeySet):
        state.keys[change.key] = KeyState(change.value, change.revision, change.lease)
    elif isinstance(change, Appended):
        old = state.keys[change.key]
        state.keys[change.key] = KeyState(old.value + change.tail, change.revision, old.lease)
    else:
        del state.keys[change.key]


def _apply_to_sessions(
    sessions: dict[bytes, SessionState], change: SessionMade | SessionEnded | AnswerKept | AnswersForgotten
) -> None:
    if isinstance(change, SessionMade):
        sessions[change.session] = SessionState(change.label, change.identity, change.timeout_ms)
    elif isinstance(change, SessionEnded):
        del sessions[change.session]
    elif isinstance(change, AnswerKept):
        sessions[change.session].answers[change.request] = change.answer
    else:
        session = sessions[change.session]
        session.done = max(session.done, change.done)
        session.answers = {request: answer for request, answer in session.answers.items() if request >= session.done}
