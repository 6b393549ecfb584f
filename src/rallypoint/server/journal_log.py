"""The changes of one commit as bytes, and back.

Shape: MessagePack, ``[bodies, changes]``. A change is ``[number of its kind, fields]``; an answer's body, which many
answers may share, stands in ``bodies`` once, and its place there in the change.

What this file does not know: where the bytes are kept, what the changes add up to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from rallypoint.server.changes import (
    Answer,
    AnswerKept,
    AnswersForgotten,
    Appended,
    Change,
    GroupForgotten,
    GroupMet,
    KeyDeleted,
    KeySet,
    LeaseEnded,
    LeaseGranted,
    Member,
    Popped,
    Pushed,
    SessionEnded,
    SessionMade,
    State,
    changes_of,
)
from rallypoint.server.journal_tables import DamagedError

__all__ = ["decode_changes", "encode_changes", "encode_state"]

# The number of a kind is its place here: part of the format.
_KINDS: tuple[type[Change], ...] = (
    KeySet,
    AnswerKept,
    AnswersForgotten,
    KeyDeleted,
    Appended,
    Pushed,
    Popped,
    LeaseGranted,
    LeaseEnded,
    SessionMade,
    SessionEnded,
    GroupMet,
    GroupForgotten,
)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_ANSWER_KEPT = _NUMBERS[AnswerKept]
_NO_BODY = -1
_COMMIT_SIZE = 1 << 20  # of those that make a state, about
_CHANGE_SIZE = 64  # a change is taken to need so much besides its value

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[list[bytes], list[tuple[int, list[Any]]]]).decode


def encode_changes(changes: Sequence[Change]) -> bytes:
    """Give changes as bytes."""
    places: dict[bytes, int] = {}  # of bodies
    entries: list[tuple[int, tuple[object, ...]]] = []
    for change in changes:
        if type(change) is AnswerKept:
            session, request, answer = change
            if answer is None:
                entries.append((_ANSWER_KEPT, (session, request)))
                continue
            head, body = answer
            place = _NO_BODY
            if body:
                place = places.setdefault(body, len(places))
            entries.append((_ANSWER_KEPT, (session, request, head, place)))
        else:
            entries.append((_NUMBERS[type(change)], change))
    return _encode((list(places), entries))


def encode_state(state: State) -> Iterator[bytes]:
    """Give a state as commits that make it out of nothing, each of moderate size, but all answers in one."""
    changes: list[Change] = []
    size = 0
    for change in changes_of(state):
        if size > _COMMIT_SIZE and type(change) is not AnswerKept:
            yield encode_changes(changes)
            changes, size = [], 0
        changes.append(change)
        if type(change) is KeySet:
            size += len(change.value)
        elif type(change) is Pushed:
            size += len(change.item)
        size += _CHANGE_SIZE
    yield encode_changes(changes)


def decode_changes(data: bytes) -> list[Change]:
    """Give the changes that were encoded.

    Raises:
        DamagedError: these bytes were never encoded.
    """
    try:
        bodies, entries = _decode(data)
        return [_change(bodies, number, fields) for number, fields in entries]
    except (msgspec.DecodeError, LookupError, TypeError, ValueError) as error:
        raise DamagedError(f"a commit is not what was written ({error})") from error


def _change(bodies: list[bytes], number: int, fields: list[Any]) -> Change:
    kind = _KINDS[number]
    if kind is AnswerKept:
        if len(fields) == 2:
            session, request = fields
            return AnswerKept(session, request, None)
        session, request, head, place = fields
        return AnswerKept(session, request, Answer(head, b"" if place == _NO_BODY else bodies[place]))
    if kind is GroupMet:
        group_kind, name, generation, members = fields
        return GroupMet(group_kind, name, generation, tuple(Member(*member) for member in members))
    return kind(*fields)
