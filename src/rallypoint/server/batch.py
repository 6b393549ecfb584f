"""The changes of many commits, reduced to what has to be written for them.

Rules:

- What is written for a batch, onto what the batches before it left, gives the state that its changes give.
- A thing that changed several times is written once; one that came and went is not written.
- Removals are written before what is there in the end.

Theory of operation. A batch has, for each kind of thing, what is gone and what is there. A change moves its thing from
one to the other::

    KeySet a 1, KeySet a 2      kept {a: 2}
    KeyDeleted a, KeySet a 3    gone {a}   kept {a: 3}     (the key is younger now than all that were not deleted)
    Pushed q x, Popped q        pushed [x]  popped {q: 1}  (items are pushed first: then the oldest goes, whichever)

What this file does not know: SQL, disks, what was written before.
"""

from __future__ import annotations

from collections.abc import Sequence

from rallypoint.server.changes import (
    Answer,
    AnswerKept,
    AnswersForgotten,
    Appended,
    Change,
    GroupMet,
    GroupState,
    KeyDeleted,
    KeySet,
    KeyState,
    LeaseEnded,
    LeaseGranted,
    LeaseState,
    Popped,
    Pushed,
    SessionEnded,
    SessionMade,
)

__all__ = ["Batch"]


class Batch:
    """One batch, empty at first.

    Attributes:
        count: changes that were added.
        revision: the highest one given; 0 if no key changed.
        lease_last: the last lease id given; 0 if none was granted.
        keys_gone: keys that are deleted before anything else is written.
        keys: what is stored under them instead of what was there, in the order of creation for those that are new.
        tails: key -> what comes behind its value, be that in ``keys`` or older than this batch, and its revision.
        pushed: name and item of each push.
        popped: name -> how many items it has lost.
        leases_gone: ids.
        leases: id -> lease.
        sessions_gone: ids; their answers are gone too.
        sessions: id -> its making.
        answers: session and request -> answer.
        done: session -> below which id its requests are settled.
        groups_gone: kind and name.
        groups: kind and name -> what is known.

    Cost: O(1) for each change, but AnswersForgotten: the answers of its session in this batch.
    """

    def __init__(self) -> None:
        self.count = 0
        self.revision = 0
        self.lease_last = 0
        self.keys_gone: set[bytes] = set()
        self.keys: dict[bytes, KeyState] = {}
        self.tails: dict[bytes, tuple[list[bytes], int]] = {}
        self.pushed: list[tuple[bytes, bytes]] = []
        self.popped: dict[bytes, int] = {}
        self.leases_gone: set[int] = set()
        self.leases: dict[int, LeaseState] = {}
        self.sessions_gone: set[bytes] = set()
        self.sessions: dict[bytes, SessionMade] = {}
        self.done: dict[bytes, int] = {}
        self.groups_gone: set[tuple[int, bytes]] = set()
        self.groups: dict[tuple[int, bytes], GroupState] = {}
        self._answers: dict[bytes, dict[int, Answer | None]] = {}

    def add(self, changes: Sequence[Change]) -> None:
        """Add the changes of one more commit, in the order in which they came about."""
        self.count += len(changes)
        for change in changes:
            if isinstance(change, AnswerKept):
                self._answers.setdefault(change.session, {})[change.request] = change.answer
            elif isinstance(change, KeySet):
                self.revision = max(self.revision, change.revision)
                self.tails.pop(change.key, None)
                self.keys[change.key] = KeyState(change.value, change.revision, change.lease)
            elif isinstance(change, AnswersForgotten):
                self._forget(change.session, change.done)
            else:
                self._take(change)

    @property
    def answers(self) -> list[tuple[bytes, int, Answer | None]]:
        """Session, request and answer of each request that was answered and is not settled."""
        return [
            (session, request, answer)
            for session, answers in self._answers.items()
            for request, answer in answers.items()
        ]

    def _take(self, change: Change) -> None:
        if isinstance(change, Appended):
            self._append(change)
        elif isinstance(change, KeyDeleted):
            self.revision = max(self.revision, change.revision)
            self.tails.pop(change.key, None)
            self.keys.pop(change.key, None)
            self.keys_gone.add(change.key)
        elif isinstance(change, Pushed):
            self.pushed.append((change.name, change.item))
        elif isinstance(change, Popped):
            self.popped[change.name] = self.popped.get(change.name, 0) + 1
        elif isinstance(change, LeaseGranted):
            self.lease_last = change.lease
            self.leases[change.lease] = LeaseState(change.ttl_ms, change.session, change.identity)
        elif isinstance(change, LeaseEnded):
            if self.leases.pop(change.lease, None) is None:
                self.leases_gone.add(change.lease)
        elif isinstance(change, SessionMade):
            self.sessions[change.session] = change
        elif isinstance(change, SessionEnded):
            self._end(change.session)
        elif isinstance(change, GroupMet):
            self.groups[change.kind, change.name] = GroupState(change.generation, change.members)
        elif not isinstance(change, (KeySet, AnswerKept, AnswersForgotten)):  # a group is forgotten
            self.groups.pop((change.kind, change.name), None)
            self.groups_gone.add((change.kind, change.name))

    def _append(self, change: Appended) -> None:
        self.revision = max(self.revision, change.revision)
        tails = self.tails.get(change.key, ([], 0))[0]
        tails.append(change.tail)
        self.tails[change.key] = tails, change.revision

    def _end(self, session: bytes) -> None:
        self._answers.pop(session, None)
        self.done.pop(session, None)
        if self.sessions.pop(session, None) is None:
            self.sessions_gone.add(session)

    def _forget(self, session: bytes, done: int) -> None:
        self.done[session] = max(done, self.done.get(session, 0))
        answers = self._answers.get(session)
        if answers is not None:
            for request in [request for request in answers if request < done]:
                del answers[request]
