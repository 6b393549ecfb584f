"""A store with sessions inside one process: what the primitives need of a server, on a clock that a test may move."""

from __future__ import annotations

import threading
from collections import deque

from rallypoint.clock import SYSTEM_CLOCK, Deadline
from rallypoint.errors import (
    BarrierBrokenError,
    BarrierTimeoutError,
    LeaseLostError,
    QueueEmptyError,
    StoreTimeoutError,
)
from rallypoint.store.base import Store, as_timeout_s
from rallypoint.store.hash import HashStore
from rallypoint.store.session_calls import ABSENT, ANY_REVISION, Changed, Deleted, Entry, Watch
from rallypoint.types import Member, as_bytes

__all__ = ["FakeServer", "FakeSession", "PlainStore"]


class PlainStore(HashStore):
    """A store that has nothing but keys, values and queues."""

    def has_sessions(self):
        return False


class FakeServer:
    """Keys, leases, watches and groups; ``connect`` gives a session.

    Args:
        clock: what leases are measured on.
    """

    def __init__(self, clock=SYSTEM_CLOCK):
        self.clock = clock
        self.changed = threading.Condition()
        self.entries = {}
        self.queues = {}
        self.revision = 0
        self.leases = {}  # id -> [ends at, ttl in seconds, session]
        self.lease_count = 0
        self.watches = []
        self.groups = {}

    def connect(self, timeout=60.0):
        return FakeSession(self, timeout)

    def connect_plain(self, timeout=60.0):
        return FakePlainClient(self, timeout)

    def write(self, key, value, lease=0):
        self.revision += 1
        self.entries[key] = (value, self.revision, lease)
        self.tell(key, Changed(key, value, self.revision))
        return self.revision

    def delete(self, key):
        if self.entries.pop(key, None) is None:
            return False
        self.revision += 1
        self.tell(key, Deleted(key, self.revision))
        return True

    def tell(self, key, event):
        for watch in self.watches:
            if key == watch.key or (watch.is_prefix and key.startswith(watch.key)):
                watch.events.append(event)
        self.changed.notify_all()

    def expire(self):
        for lease, (ends_at, _, _) in list(self.leases.items()):
            if self.clock.now() >= ends_at:
                self.end_lease(lease)

    def end_lease(self, lease):
        del self.leases[lease]
        keys = [key for key, (_, _, of) in self.entries.items() if of == lease]
        for key in keys:
            self.delete(key)
        return len(keys)


class Group:
    def __init__(self, world_size):
        self.world_size = world_size
        self.generation = 0
        self.arrived = {}  # rank -> (session, label, value, since)
        self.met = {}  # of the last generation
        self.results = {}  # generation -> values


class FakeWatch(Watch):
    def __init__(self, session, key, is_prefix, since):
        self.session, self.key, self.is_prefix = session, key, is_prefix
        self.events = deque()
        server = session.server
        self.revision = server.revision
        if since is not None and key not in server.entries:
            self.events.append(Deleted(key, server.revision))
        server.watches.append(self)

    def next(self, timeout=None):
        self.session.until(lambda: self.events, timeout, ["a watched key"])
        return self.events.popleft()

    def close(self):
        if self in self.session.server.watches:
            self.session.server.watches.remove(self)


class FakeSession(Store):
    """One client's session with a :class:`FakeServer`; ``die`` ends it as if its process were killed."""

    def __init__(self, server, timeout):
        self.server = server
        self.is_dead = False
        self.calls = []
        self.set_timeout(timeout)

    def has_sessions(self):
        return True

    def die(self):
        with self.server.changed:
            self.is_dead = True
            for lease, (_, _, session) in list(self.server.leases.items()):
                if session is self:
                    self.server.end_lease(lease)
            self.server.changed.notify_all()

    def begin(self, name):
        self.calls.append(name)
        self.server.expire()

    def until(self, is_there, timeout, names):
        seconds = self._timeout_s if timeout is None else as_timeout_s(timeout)
        deadline = Deadline(seconds)
        with self.server.changed:
            self.server.expire()
            while not is_there():
                if deadline.has_passed():
                    raise StoreTimeoutError(f"wait timeout for {names}", keys=names, missing=names)
                self.server.changed.wait(min(deadline.remaining_s(), 60))
                self.server.expire()

    # --- keys and queues ---

    def set(self, key, value, /):
        with self.server.changed:
            self.begin("set")
            self.server.write(key, as_bytes(value))

    def get(self, key, /):
        self.wait([key])
        with self.server.changed:
            self.begin("get")
            return self.server.entries[key][0]

    def add(self, key, amount, /):
        with self.server.changed:
            self.begin("add")
            total = int(self.server.entries.get(key, (b"0",))[0]) + amount
            self.server.write(key, str(total).encode())
            return total

    def compare_set(self, key, expected, desired, /):
        with self.server.changed:
            self.begin("compare_set")
            expected, desired = as_bytes(expected), as_bytes(desired)
            found = self.server.entries.get(key)
            if found is None and expected != b"":
                return expected
            if found is not None and found[0] != expected:
                return found[0]
            self.server.write(key, desired)
            return desired

    def check(self, keys, /):
        with self.server.changed:
            self.begin("check")
            return all(key in self.server.entries for key in keys)

    def wait(self, keys, timeout=None, /):
        self.begin("wait")
        self.until(lambda: all(key in self.server.entries for key in keys), timeout, list(keys))

    def delete_key(self, key, /):
        with self.server.changed:
            self.begin("delete_key")
            return self.server.delete(key)

    def queue_push(self, key, value, /):
        with self.server.changed:
            self.begin("queue_push")
            self.server.queues.setdefault(key, deque()).append(as_bytes(value))
            self.server.changed.notify_all()

    def queue_pop(self, key, block=True):
        with self.server.changed:
            self.begin("queue_pop")
            if block:
                self.until(lambda: self.server.queues.get(key), None, [key])
            if not self.server.queues.get(key):
                raise QueueEmptyError(f"queue is empty: {key!r}")
            return self.server.queues[key].popleft()

    def queue_len(self, key, /):
        return len(self.server.queues.get(key, ()))

    # --- sessions ---

    def read(self, key, /):
        with self.server.changed:
            self.begin("read")
            found = self.server.entries.get(key)
            return None if found is None else Entry(key, found[0], found[1])

    def swap(self, key, revision, value, *, lease=0):
        with self.server.changed:
            self.begin("swap")
            if lease and lease not in self.server.leases:
                raise LeaseLostError(f"there is no lease {lease}", lease=lease)
            found = self.server.entries.get(key, (b"", ABSENT))[1]
            if revision not in (ANY_REVISION, found):
                return False, found
            return True, self.server.write(key, as_bytes(value), lease)

    def read_prefix(self, prefix, /):
        with self.server.changed:
            self.begin("read_prefix")
            entries = self.server.entries.items()
            return [Entry(key, each[0], each[1]) for key, each in entries if key.startswith(prefix)]

    def multi_get(self, keys, /):
        return [self.get(key) for key in keys]

    def list_prefix(self, prefix, /):
        return [entry.key for entry in self.read_prefix(prefix)]

    def watch(self, key, *, is_prefix=False, since=None):
        with self.server.changed:
            self.begin("watch")
            return FakeWatch(self, key, is_prefix, since)

    def lease_grant(self, ttl, /):
        with self.server.changed:
            self.begin("lease_grant")
            self.server.lease_count += 1
            self.server.leases[self.server.lease_count] = [self.server.clock.now() + ttl, ttl, self]
            return self.server.lease_count

    def lease_renew(self, lease, /):
        with self.server.changed:
            self.begin("lease_renew")
            if lease not in self.server.leases:
                raise LeaseLostError(f"there is no lease {lease}", lease=lease)
            entry = self.server.leases[lease]
            entry[0] = self.server.clock.now() + entry[1]
            return entry[1]

    def lease_revoke(self, lease, /):
        with self.server.changed:
            self.begin("lease_revoke")
            if lease not in self.server.leases:
                raise LeaseLostError(f"there is no lease {lease}", lease=lease)
            return self.server.end_lease(lease)

    def meet(self, name, rank, world_size, *, label="", timeout=None):
        return self.gather("meet", name, rank, world_size, b"", label, timeout)[0]

    def exchange(self, name, rank, world_size, value, *, label="", timeout=None):
        return self.gather("exchange", name, rank, world_size, as_bytes(value), label, timeout)[1]

    def gather(self, verb, name, rank, world_size, value, label, timeout):
        server = self.server
        deadline = Deadline(self._timeout_s if timeout is None else as_timeout_s(timeout))
        with server.changed:
            self.begin(verb)
            group = server.groups.setdefault((verb, name), Group(world_size))
            group.met.pop(rank, None)
            group.arrived[rank] = (self, label, value, server.clock.now())
            mine = group.generation + 1
            if len(group.arrived) == world_size:
                group.generation += 1
                group.results[mine] = [group.arrived[each][2] for each in range(world_size)]
                group.met, group.arrived = group.arrived, {}
                server.changed.notify_all()
            while group.generation < mine:
                gone = {each: entry for each, entry in {**group.met, **group.arrived}.items() if entry[0].is_dead}
                waited_s = deadline.waited_s()
                if gone:
                    del group.arrived[rank]
                    names = [entry[1] or str(each) for each, entry in sorted(gone.items())]
                    raise BarrierBrokenError(f"{names} are gone", gone=names, expected=world_size, waited_s=waited_s)
                if deadline.has_passed():
                    missing = [Member(each, "") for each in range(world_size) if each not in group.arrived]
                    arrived = len(group.arrived)
                    del group.arrived[rank]
                    raise BarrierTimeoutError(
                        f"barrier timeout: {missing} are missing",
                        missing=[str(each) for each in missing],
                        missing_members=missing,
                        arrived=arrived,
                        expected=world_size,
                        waited_s=waited_s,
                    )
                server.changed.wait(min(deadline.remaining_s(), 60))
            return mine, group.results[mine]


class FakePlainClient(FakeSession):
    """A client of the same server that speaks c10d."""

    def has_sessions(self):
        return False
