"""What the verbs of both dialects stand on: the keyspace, who waits for what in it, and the effects of this step.

Rules:

- Whoever makes or removes a key, or puts in or takes out an item, does it here, so that whoever waits is released in
  the same step, whichever dialect it speaks.
- Waiters at or above 0 are c10d peers: they are released by one byte, and ask again. Those below 0 are requests of
  sessions: ``on_release`` answers them.
- There are three ways to wait. For a name that is present, as WAIT does, and for a barrier's count: ``waiters``. For
  keys, as a GET that waits: ``readers``; a queue's item is nothing to them. For an item, as a QUEUE_POP that waits.
- An item goes first to the longest waiting pop; only if there is none, it makes its name present.

Theory of operation::

    SET k   --> keyspace.set --is new--> created(k) --> waiters --> Reply(7, GO_ON), on_release(-3)
                     |                        '-------> readers --> on_release(-5)
                     '--> keyspace.on_change(KeySet) --> changed --> journal, watches, leases

What this file does not know: requests, replies of the session dialect, what a session is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from rallypoint.protocol.codec import I64, U64
from rallypoint.protocol.spec import GO_ON
from rallypoint.server.changes import Change, State
from rallypoint.server.keyspace import Keyspace
from rallypoint.server.limits import Limits
from rallypoint.server.vocabulary import Effect, Reply
from rallypoint.server.waiters import Waiters

__all__ = ["COPIED_SIZE_MAX", "Ground"]

COPIED_SIZE_MAX = 1024
"""A value up to this size is copied behind its length; a larger one is a Reply of its own, the stored object itself."""


class Ground:
    """What one server's verbs work on.

    Args:
        limits: what peers are granted.
        journal: note every change for ``changes``.

    Attributes:
        changes: those since they were last taken; ``None`` without a journal.
        effects: what this step causes, in order; the engine gives a new list for each step.
        keyspace: keys and queues. Those who write go by the methods here where there are any.
        is_late: called with the number of requests that a step has served, while its peer has sent more: tells whether
            they have to wait for their turn. The driver's to set.
        limits: as given.
        now: the time of this step.
        on_change: called with each change of a key or a queue; ``None`` if nobody but the journal wants to know. What
            it does to keys in turn is told after that.
        on_release: called with the number of a waiter below 0 whose wait is over; it is registered no more.
        readers: who waits for keys alone.
        waiters: who waits for names or a barrier.

    Threads: none but the caller's.
    """

    __slots__ = (
        "_listing",
        "_on_change",
        "_poppers",
        "_popping",
        "changes",
        "effects",
        "is_late",
        "keyspace",
        "limits",
        "now",
        "on_release",
        "readers",
        "waiters",
    )

    def __init__(self, limits: Limits, *, journal: bool = False) -> None:
        self.limits = limits
        self.keyspace = Keyspace(limits)
        self.waiters = Waiters()
        self.readers = Waiters()
        self.effects: list[Effect] = []
        self.changes: list[Change] | None = [] if journal else None
        self.now = 0.0
        self.is_late: Callable[[int], bool] = _never
        self.on_release: Callable[[int], None] = _nobody
        self._on_change: Callable[[Change], None] | None = None
        self._poppers: dict[bytes, OrderedDict[int, None]] = {}
        self._popping = 0  # how many they are
        self._listing: bytes | None = None  # keys as LISTED, kept until one comes or goes
        self.on_change = None

    @property
    def on_change(self) -> Callable[[Change], None] | None:
        """Who is called with each change of a key or a queue."""
        return self._on_change

    @on_change.setter
    def on_change(self, call: Callable[[Change], None] | None) -> None:
        self._on_change = call
        if self.changes is None:
            self.keyspace.on_change = call
        else:
            self.keyspace.on_change = self._note_and_tell if call is not None else self.changes.append

    @property
    def waiting(self) -> int:
        """How many peers and requests wait."""
        return len(self.waiters) + len(self.readers) + self._popping

    @property
    def names_held(self) -> int:
        """Names that are waited for, each counted once for each waiter."""
        return self.waiters.names_held + self.readers.names_held

    @property
    def is_tidy(self) -> bool:
        """Tell whether nothing is left of waits that are over."""
        return not self.waiters.left and not self.readers.left

    def tidy(self) -> None:
        """Take away a portion of what is left of waits that are over."""
        self.waiters.tidy()
        self.readers.tidy()

    def note(self, change: Change) -> None:
        """Note a change of something other than keys and queues, if there is a journal."""
        if self.changes is not None:
            self.changes.append(change)

    def take_changes(self) -> list[Change]:
        """Give what has changed since the last call."""
        changes = self.changes
        if not changes:
            return []
        taken = changes.copy()
        changes.clear()  # the keyspace holds its ``append``
        return taken

    def restore(self, state: State) -> None:
        """Put back keys and queues as they were; nobody is told."""
        keyspace = self.keyspace
        for key, was in state.keys.items():
            keyspace.restore(key, was.value, was.revision)
        keyspace.revision = state.revision
        call, keyspace.on_change = keyspace.on_change, None
        for name, items in state.queues.items():
            for item in items:
                keyspace.push(name, item)
        keyspace.on_change = call

    # --- keys --------------------------------------------------------------------------------------------

    def created(self, key: bytes) -> None:
        """Release those whom a new key completes."""
        self._listing = None
        for waiter in self.waiters.appeared(key, key not in self.keyspace.queues):
            self._release(waiter)
        for waiter in self.readers.appeared(key, is_newly_present=True):
            self.on_release(waiter)

    def delete(self, key: bytes) -> bool:
        """Remove a key; say whether there was one."""
        if not self.keyspace.delete(key):
            return False
        self._listing = None
        self.readers.vanished(key)
        if key not in self.keyspace:
            self.waiters.vanished(key)
        return True

    def listing(self) -> bytes:
        """Give all keys. Shape: ``LISTED``, the same object until a key comes or goes."""
        if self._listing is None:
            keys = self.keyspace.keys()
            parts = [I64.pack(len(keys))]
            for key in keys:
                parts += (U64.pack(len(key)), key)
            self._listing = b"".join(parts)
        return self._listing

    # --- queues ------------------------------------------------------------------------------------------

    def push(self, name: bytes, item: bytes) -> int:
        """Put an item into a queue; give the length after that, before anybody takes it."""
        was_present = name in self.keyspace
        self.keyspace.push(name, item)
        length = self.keyspace.queue_length(name)
        poppers = self._poppers.get(name)
        if poppers is None:
            self.call(name, is_newly_present=not was_present)
        else:
            waiter = next(iter(poppers))
            self.leave_queue(waiter, name)
            self.on_release(waiter)  # it takes the item: nobody else has seen the name become present
        return length

    def pop(self, name: bytes) -> tuple[int, bytes | None]:
        """Take an item out of a queue; give the length before, and the item or ``None``."""
        length, item = self.keyspace.pop(name)
        if length == 1 and not self.keyspace.has_key(name):
            self.waiters.vanished(name)
        return length, item

    def wait_for_item(self, waiter: int, name: bytes) -> None:
        """Register a waiter for an item of a queue that is empty; ``keyspace.pop`` takes it in ``on_release``."""
        self._poppers.setdefault(name, OrderedDict())[waiter] = None
        self._popping += 1

    def leave_queue(self, waiter: int, name: bytes) -> None:
        """Drop a waiter for an item."""
        poppers = self._poppers[name]
        del poppers[waiter]
        self._popping -= 1
        if not poppers:
            del self._poppers[name]

    def call(self, name: bytes, *, is_newly_present: bool) -> None:
        """Release the first who waits for a queue's name."""
        waiter = self.waiters.pushed(name, is_newly_present)
        if waiter is not None:
            self._release(waiter)

    # --- barriers and ends -------------------------------------------------------------------------------

    def arrive(self, key: bytes) -> int:
        """Count one more at c10d's barrier, release whom that completes, give the count."""
        count, is_new = self.keyspace.add(key, 1)
        if is_new:
            self.created(key)
        for waiter in self.waiters.arrived(key, count):
            self._release(waiter)
        return count

    def abandon(self, waiter: int) -> None:
        """Drop what somebody waits for in ``waiters``; pass on its call to a queue that it did not pop."""
        name = self.waiters.forget(waiter)
        if name is not None and name in self.keyspace.queues:
            self.call(name, is_newly_present=False)

    def _release(self, waiter: int) -> None:
        if waiter >= 0:
            self.effects.append(Reply(waiter, GO_ON))
        else:
            self.on_release(waiter)

    def _note_and_tell(self, change: Change) -> None:
        assert self.changes is not None
        assert self._on_change is not None
        self.changes.append(change)
        self._on_change(change)


def _never(requests: int) -> bool:  # noqa: ARG001 - without a driver there is no time
    return False


def _nobody(waiter: int) -> None:
    raise AssertionError(f"waiter {waiter} is released, and there are no sessions")
