"""A store on an etcd cluster: for jobs whose keys have to outlive any one machine.

All verbs of :class:`rallypoint.store.base.Store` and of ``store.session_calls`` work on etcd's own API, version 3: keys
and revisions are etcd's, leases are leases, watches are watches, and what happens to a key happens in one transaction.
``store.etcd_names`` says what lies where, ``store.etcd_writer`` why each write counts once.

Needs ``pip install rallypoint[etcd]``, and etcd 3.4 or later.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import secrets
import threading
import time
import weakref
from typing import TYPE_CHECKING, Final

from rallypoint.clock import Deadline
from rallypoint.errors import (
    ConnectionLostError,
    ConnectTimeoutError,
    DistNetworkError,
    DistStoreError,
    UnreachableError,
)
from rallypoint.server.keyspace import Keyspace
from rallypoint.store import etcd_wire as wire
from rallypoint.store.base import DEFAULT_TIMEOUT, as_timeout_s, check_lengths
from rallypoint.store.counting import add_to_counter
from rallypoint.store.etcd_cluster import Cluster
from rallypoint.store.etcd_hub import Hub
from rallypoint.store.etcd_leases import Leases
from rallypoint.store.etcd_meetings import EtcdMeetings
from rallypoint.store.etcd_names import Names, Span
from rallypoint.store.etcd_options import Place, parse_url
from rallypoint.store.etcd_queues import EtcdQueues
from rallypoint.store.etcd_sessions import EtcdSessions
from rallypoint.store.etcd_writer import OPERATIONS_MAX, Writers
from rallypoint.types import Keys, Text, Timeout, as_bytes, as_keys

if TYPE_CHECKING:
    from rallypoint.net.tls import Tls

__all__ = ["DEFAULT_SESSION_TTL_S", "EtcdStore"]

DEFAULT_SESSION_TTL_S: Final = 10
"""For how long a lease that lasts as long as its store outlives a store that was killed, in seconds."""

BATCH_SIZE_MAX: Final = 1 << 20
"""Bytes of keys and values that ``multi_set`` writes at one moment; etcd takes 1.5 MiB a request."""

NESTED_WRITES_MAX: Final = 63 * 64
"""Keys that ``multi_set`` writes at one moment: transactions in a transaction, within etcd's limit of 128."""

COUNTERS_MAX: Final = 1024
"""Counters whose last value a store remembers, so that adding to them takes one round trip."""

PAUSE_S: Final = 0.002
PAUSE_MAX_S: Final = 0.064
"""After a swap that others have crossed: the first and the longest pause, times a random number, in seconds."""


class EtcdStore(EtcdSessions, EtcdMeetings, EtcdQueues):
    """A store on an etcd cluster.

    Args:
        url: ``etcd://[user[:password]@]host[:port][,host[:port]...][/prefix]``, or ``host:port`` alone; see
            ``store.etcd_options``. Stores with the same prefix on the same cluster have the same keys.
        timeout: how long blocking calls wait, and how long the first connection may take; seconds or a ``timedelta``.
        user: who we are, if the URL and the environment do not say it.
        password: the user's.
        tls: our files; a :class:`rallypoint.Tls`, or true for TLS with the authorities that the system trusts.
        session_ttl: for how long leases that last as long as the store outlive one that was killed, in seconds;
            rounded up to whole ones.

    Raises:
        ValueError: the URL is none; the sentence says why.
        ModuleNotFoundError: ``hpack`` is missing: ``pip install rallypoint[etcd]``.
        ConnectTimeoutError: no member answered in time.
        AuthenticationError: etcd does not take us for who we are, or is not who it should be.

    Cost: connecting takes one round trip. A read is one more; a write is one, and a commit of etcd's. Where a method
        says nothing else, it is one request.
    Threads: any. A forked child cannot use it.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: Timeout = DEFAULT_TIMEOUT,
        user: str | None = None,
        password: str | None = None,
        tls: Tls | bool | None = None,
        session_ttl: Timeout | None = None,
    ) -> None:
        super().__init__()
        place = parse_url(url)
        if user is not None or password is not None:
            place = place._replace(user=user or place.user, password=password or place.password)
        if tls is not None:
            place = place._replace(tls=_files(tls, place))
        if session_ttl is None:
            session_ttl = float(place.query.get("session_ttl", DEFAULT_SESSION_TTL_S))
        ttl_s = as_timeout_s(session_ttl, "session_ttl")
        if not 1 <= ttl_s < math.inf:
            raise ValueError(f"session_ttl must be 1 second or more, and finite, not {ttl_s:g}")
        self._begin(place, math.ceil(ttl_s), as_timeout_s(timeout))

    def _begin(self, place: Place, session_ttl_s: int, timeout_s: float) -> None:
        _check_library()
        self._place, self._session_ttl_s = place, session_ttl_s
        self._timeout_s = timeout_s
        self._names = Names(place.prefix.encode() + b"/")
        self._cluster = Cluster(place.endpoints, place.tls, place.user, place.password)
        self._leases = Leases(self._cluster, self._names, session_ttl_s)
        self._writers = Writers(self._cluster, self._names, secrets.token_hex(8).encode(), self._leases.marks)
        self._hub = Hub(self._cluster)
        self._counters: dict[bytes, wire.KeyValue] = {}
        self._adding = [threading.RLock() for _ in range(16)]  # of one store's threads one adds to a key at a time
        self._finalizer = weakref.finalize(self, _end, self._cluster, self._leases, self._hub, os.getpid())
        deadline = Deadline(timeout_s)
        try:
            self._range(wire.range_of(self._names.counter), deadline)
        except UnreachableError as error:
            self.close()
            raise ConnectTimeoutError(
                str(error),
                endpoint=error.endpoint,
                waited_s=deadline.waited_s(),
                attempts=1,
            ) from error
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"EtcdStore('etcd{'s' * (self._place.tls is not None)}://{self._cluster}/{self._place.prefix}')"

    # --- keys --------------------------------------------------------------------------------------------

    def set(self, key: Text, value: Text, /) -> None:
        """Store ``value`` under ``key``.

        Raises:
            LocalProtocolError: the value is larger than etcd takes: 1.5 MiB, or its ``--max-request-bytes``.
        """
        self._write([wire.op_put(wire.put(self._key(key), as_bytes(value)))])

    def get(self, key: Text, /) -> bytes:
        """Give the value of ``key``, waiting for it until the store's timeout."""
        name = as_bytes(key, "key")
        return self._first(name, Span(self._names.key(name)), Deadline(self._timeout_s)).value

    def add(self, key: Text, amount: int, /) -> int:
        """Add to a counter; the sum wraps at 64 bits.

        Raises:
            LocalProtocolError: ``amount`` does not fit into 64 bits.
            NotANumberError: the value is not the decimal text of a 64-bit number.

        Cost: one request if nobody else has changed the counter since this store did, two at its first use; one more
            each time that another crosses it.
        """
        place = self._key(key)
        if not isinstance(amount, int):
            raise TypeError(f"amount must be an int, not {type(amount).__name__}")
        deadline = self._patience()
        with self._adding[hash(place) % len(self._adding)]:
            known = self._counters.pop(place, None) or self._known(place, deadline)
            turn = 0
            while True:
                total = _sum(known, amount, key)
                text = b"%d" % total
                outcome = self._swap(place, known.revision, text, deadline)
                if outcome is None:
                    break
                known = outcome
                self._pause(turn, deadline, place)
                turn += 1
            return total

    def _known(self, place: bytes, deadline: Deadline) -> wire.KeyValue:
        return self._entry(place, deadline) or wire.KeyValue(place, b"", 0)

    def _swap(
        self, place: bytes, revision: int, value: bytes, deadline: Deadline, *, keeps_lease: bool = False
    ) -> wire.KeyValue | None:
        """Write a value over the one with a revision; give what is there if that is another."""
        outcome = self._write(
            [wire.op_put(wire.put(place, value, keeps_lease=keeps_lease))],
            compare=[wire.has_revision(place, revision)],
            failure=[wire.op_range(wire.range_of(place))],
            deadline=deadline,
        )
        if outcome.is_done:
            if not keeps_lease:
                while len(self._counters) >= COUNTERS_MAX:
                    self._counters.pop(next(iter(self._counters)), None)
                self._counters[place] = wire.KeyValue(place, value, outcome.revision)
            return None
        found = wire.read_range((outcome.answers or [b""])[0]).entries
        return found[0] if found else wire.KeyValue(place, b"", 0)

    def _pause(self, turn: int, deadline: Deadline, place: bytes) -> None:
        """Step back a moment after others came first, longer each time."""
        if deadline.has_passed():
            name = self._names.name(place)
            raise DistStoreError(
                f"the key {name!r} was changed by others before each of {turn + 1} attempts in "
                f"{deadline.waited_s():.3f} s: it is written more often than etcd can swap it"
            )
        if turn:
            time.sleep(min(PAUSE_S * (1 << min(turn, 10)), PAUSE_MAX_S) * random.random())  # noqa: S311 - no secret

    def compare_set(self, key: Text, expected: Text, desired: Text, /) -> bytes:
        """Replace a value if it is the expected one; see :meth:`Store.compare_set`."""
        place, old, new = self._key(key), as_bytes(expected, "expected"), as_bytes(desired, "desired")
        deadline = self._patience()
        write = [wire.op_put(wire.put(place, new))]
        look = [wire.op_range(wire.range_of(place))]
        while True:
            if not old:  # a missing key counts as empty
                outcome = self._write(write, compare=[wire.is_absent(place)], failure=look, deadline=deadline)
                if outcome.is_done:
                    return new
            outcome = self._write(write, compare=[wire.has_value(place, old)], failure=look, deadline=deadline)
            if outcome.is_done:
                return new
            found = wire.read_range((outcome.answers or [b""])[0]).entries
            if not found and old:
                return old
            if found and found[0].value != old:
                return found[0].value

    def check(self, keys: Keys, /) -> bool:
        """Tell whether all names are present, as keys or as queues with an item."""
        names = as_keys(keys)
        return not names or not self._look(names, self._patience(), with_queues=True)[0]

    def wait(self, keys: Keys, timeout: Timeout | None = None, /) -> None:
        """Wait until all names are present; ``timeout`` ``None`` is the store's own, 0 looks once."""
        names = as_keys(keys)
        timeout_s = self._timeout_s if timeout is None else as_timeout_s(timeout)
        self._await(names, Deadline(timeout_s), with_queues=True)

    def delete_key(self, key: Text, /) -> bool:
        """Remove a key, not a queue; tell whether there was one."""
        place = self._key(key)
        deadline = self._patience()
        outcome = self._write([wire.op_delete(wire.delete(place))], deadline=deadline)
        return bool(self._deleted(outcome, Span(place), deadline))

    def num_keys(self) -> int:
        """Count the keys; queues are not keys."""
        return self._range(wire.range_of(*self._names.keys(), is_count=True)).total

    def list_keys(self) -> list[str]:
        """Give the names of all keys, sorted by their bytes. Cost: grows with them."""
        entries = self._range(wire.range_of(*self._names.keys(), is_keys=True)).entries
        return [self._names.name(entry.key).decode() for entry in entries]

    def append(self, key: Text, value: Text, /) -> None:
        """Add to the end of a value; a missing key is created. Cost: two requests, more if others cross it."""
        place, suffix = self._key(key), as_bytes(value)
        deadline = self._patience()
        turn = 0
        known = self._known(place, deadline)
        while True:
            content = known.value + suffix
            crossed = self._swap(place, known.revision, content, deadline, keeps_lease=known.revision > 0)
            if crossed is None:
                return
            known = crossed
            self._pause(turn, deadline, place)
            turn += 1

    def multi_get(self, keys: Keys, /) -> list[bytes]:
        """Give the values of several keys, up to 4096 as they are at one moment, waiting until all are there."""
        names = as_keys(keys)
        if not names:
            return []
        deadline = Deadline(self._timeout_s)
        requests = [wire.range_of(self._names.key(name)) for name in names]
        while True:
            answers, _ = self._read_all(requests, self._grace(deadline))
            values = [answer.entries[0].value for answer in answers if answer.entries]
            if len(values) == len(names):
                return values
            self._await(names, deadline, with_queues=False)

    def multi_set(self, keys: Keys, values: Keys, /) -> None:
        """Store several values.

        Up to 4032 keys, and 1 MiB of keys and values, are stored at one moment; more than that in pieces, one after the
        other, each of them whole.
        """
        names, contents = as_keys(keys), as_keys(values)
        check_lengths(names, contents)
        pairs = dict(zip(names, contents, strict=True))
        piece: list[bytes] = []
        size = 0
        for name, content in pairs.items():
            one = len(name) + len(content)
            if piece and (len(piece) == NESTED_WRITES_MAX or size + one > BATCH_SIZE_MAX):
                self._set_at_once(piece)
                piece, size = [], 0
            piece.append(wire.op_put(wire.put(self._names.key(name), content)))
            size += one
        if piece:
            self._set_at_once(piece)

    def _set_at_once(self, operations: list[bytes]) -> None:
        self._write(operations if len(operations) <= OPERATIONS_MAX else wire.nested(operations, 64))

    # --- the object --------------------------------------------------------------------------------------

    def has_extended_api(self) -> bool:
        """True."""
        return True

    def clone(self) -> EtcdStore:
        """Give another client of the same keys, with connections and leases of its own."""
        self._cluster.check_owner()
        twin = object.__new__(EtcdStore)
        twin._begin(self._place, self._session_ttl_s, self._timeout_s)
        return twin

    def close(self) -> None:
        """Give back the leases that last as long as the store, end watches and waits, close the connections."""
        self._finalizer()

    def _key(self, key: Text) -> bytes:
        return self._names.key(as_bytes(key, "key"))


def _sum(known: wire.KeyValue, amount: int, key: Text) -> int:
    """Add to the number that a value is in decimal text, by the server's rules."""
    space = Keyspace()
    if known.revision:
        space.restore(b"n", known.value, 1)
    return add_to_counter(space, b"n", amount, key)[0]


def _end(cluster: Cluster, leases: Leases, hub: Hub, owner_pid: int) -> None:
    """End what a store has; in a forked child the parent's goes on."""
    if os.getpid() != owner_pid:
        return
    why = "was closed"
    hub.close(ConnectionLostError(f"this EtcdStore {why}", endpoint=cluster.endpoint))
    with contextlib.suppress(DistNetworkError):
        leases.close()
    cluster.close(why)


def _files(tls: Tls | bool, place: Place) -> Tls | None:
    from rallypoint.net.tls import Tls

    if isinstance(tls, Tls):
        return tls
    return (place.tls or Tls()) if tls else None


def _check_library() -> None:
    try:
        import hpack  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a store on etcd needs hpack, which reads the headers of HTTP/2: pip install 'rallypoint[etcd]'",
            name=error.name,
        ) from error
