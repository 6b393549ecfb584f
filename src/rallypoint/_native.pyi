"""The compiled twin as Python sees it.

What must agree with Python's objects comes as plain numbers, checked by who calls: ``server.native_engine``,
``server.native``, ``gateway.native`` and ``store.native``, which are the only ones to use these types. Times are
seconds on the monotonic clock, durations seconds, sizes bytes, unless said otherwise.
"""

from typing import TypeAlias

from rallypoint.server.journal import Journal
from rallypoint.store.calls import Patience
from rallypoint.store.lane import Lender
from rallypoint.store.native import Helper
from rallypoint.store.session import SessionClient
from rallypoint.store.trunk import Trunk
from rallypoint.types import Endpoint, Keys, Text

RawEffect: TypeAlias = tuple[int] | tuple[int, bytes] | tuple[int, int, str]
"""``(peer,)`` a pause, ``(peer, bytes)`` a reply, ``(peer, position in CloseReason, detail)`` a close."""

RawLimits: TypeAlias = tuple[float, ...]
"""``Limits.compiled``: its fields, in their order; the numbers below 2^63."""

RawSecrets: TypeAlias = tuple[bytes, bytes]
"""32 bytes of the system's randomness, where ids and nonces come from; the job's token, empty for none."""

def hmac_sha256(key: bytes, text: bytes, /) -> bytes:
    """Give the HMAC-SHA256 that proofs and ids are made with; for tests."""

def keep_memory(size: int, /) -> None:
    """Have the C library keep so many bytes of freed memory for the process; nothing where it has no such setting."""

class Engine:
    """One server's state without sockets, twin of ``server.engine.Engine``; for tests that drive both.

    Args:
        limits: what peers are granted.
        secrets: what nobody else may know.

    Raises:
        OSError: if the system gives no random bytes, which the hash of keys needs.

    Threads: none but the caller's; the interpreter lock is kept.
    """

    def __new__(cls, limits: RawLimits, secrets: RawSecrets, /) -> Engine: ...
    def step(self, event: int, peer: int, data: bytes, now: float, /) -> list[RawEffect]:
        """Take an event.

        Args:
            event: 0 connected, 1 received, 2 resumed, 3 disconnected, 4 ticked.
            peer: any number that names a connection; -1 with *ticked*. Unknown ones are ignored, except by *connected*.
            data: what was received; with *connected* 1 or 0, whether it is of this machine for certain, its host and
                its address for people, a zero byte behind each; empty with other events.
            now: never less than before.

        Returns:
            One reply for each peer that is owed something, in order; then pauses and closes as they came.

        Raises:
            AssertionError: if a peer of that number is connected already.
        """

    def restore(self, changes: bytes, now: float, /) -> None:
        """Put back what an earlier life has left, before the first step, by one or more calls and ``remember``.

        Args:
            changes: as ``journal_log.encode_state`` gives them; nothing else may come here.
            now: the time from which sessions and leases have theirs.
        """

    def remember(self, data_id: bytes, revision: int, lease_last: int, /) -> None:
        """Note every change from now on.

        Args:
            data_id: of what the server holds, 16 bytes; empty for a server that begins with nothing.
            revision: the last one that was given.
            lease_last: the last lease id that was given.
        """

    def take_changes(self) -> bytes:
        """Give what has changed since the last call as ``journal_log.encode_changes`` does; empty if nothing has."""

    def take_sum(self) -> bytes:
        """Give what all that changed since the last call adds up to, as ``journal_log.encode_changes`` does."""

    def next_deadline(self) -> float | None:
        """Give the time at which *ticked* is due, ``None`` if no time matters now."""

    def statistics(self) -> list[int]:
        """Give the fields of ``Statistics`` in their order, ``closed`` last: for each ``CloseReason`` how many."""

class Reactor:
    """One server, engine and loop, on a thread of its own that never needs the interpreter lock.

    Args:
        limits: what peers are granted.
        listeners: descriptors of bound and listening sockets, as C has numbers (``array("i")``); they
            belong to the reactor, unless there is an error.
        linger_s: how long a refused peer may take to read the end of its stream, in seconds.
        spin_s: how long to look for events before sleeping, after the last ones, in seconds.
        solo_after: after how many wake-ups for one peer alone it is read by a thread of its own; 0 for never.
        secrets: what nobody else may know.

    Raises:
        OSError: if there are no descriptors left.

    Threads: ``stop`` and what tells something may be called from any; ``start``, ``take_notices`` and ``join`` belong
    to one at a time. In a forked child there is no reactor any more: its copies of all descriptors are closed, and
    calls do nothing. Whoever drops the last reference waits for the end of the thread, without drain.
    """

    def __new__(
        cls,
        limits: RawLimits,
        listeners: bytes,
        linger_s: float,
        spin_s: float,
        solo_after: int,
        secrets: RawSecrets,
        /,
    ) -> Reactor: ...
    def start(self) -> None:
        """Start the thread; a second call does nothing.

        Raises:
            OSError: if the system gives none.
        """

    def stop(self, drain_s: float, /) -> None:
        """Have the thread end, after draining for ``drain_s`` seconds at most; does not wait for it.

        A later call may shorten the drain. Safe in a Python signal handler.
        """

    def join(self) -> None:
        """Wait for the end of the thread, without the interpreter lock, and close what is still open.

        After ``stop`` only: nothing else ends the thread, but a commit that fails, whose error this raises. A reactor
        that was never started closes its listeners.
        """

    def fileno(self) -> int:
        """Give the descriptor that can be read when there are notices, or when the answers below have changed.

        It stays the reactor's; ``take_notices`` makes it unreadable again. -1 after ``join``.
        """

    def take_notices(self) -> tuple[int, bytes]:
        """Give what was refused or has ended since the last call; the reactor keeps 128 KiB of it at most.

        Returns:
            How many were left out because nobody took them, and the others, a zero byte behind each: the position of
            the reason in ``CloseReason``, -1 for none, or for a connection that ended otherwise -2 less the position in
            ``EndReason``; a space and one line.
        """

    def has_ended(self) -> bool:
        """Tell whether the thread has served its last."""

    def is_listening(self) -> bool:
        """Tell whether the listeners are open."""

    def statistics(self) -> list[int]:
        """Give the fields of ``Statistics`` in their order, ``closed`` last: for each ``CloseReason`` how many."""

    def figures(self) -> list[int]:
        """Give groups, leases, watches, bytes received and sent; then for each ``EndReason`` how many connections."""

    def observe(self, is_observed: bool, /) -> None:
        """Say whether there is to be a notice for each connection that ends otherwise than by a refusal."""

    def restore(self, changes: bytes, now: float, /) -> None:
        """Put back what an earlier life has left, before the first step, by one or more calls and ``remember``.

        Args:
            changes: as ``journal_log.encode_state`` gives them; nothing else may come here.
            now: the time from which sessions and leases have theirs.
        """

    def remember(self, data_id: bytes, revision: int, lease_last: int, /) -> None:
        """Note every change from now on.

        Args:
            data_id: of what the server holds, 16 bytes; empty for a server that begins with nothing.
            revision: the last one that was given.
            lease_last: the last lease id that was given.
        """

    def commit_to(self, journal: Journal, /) -> None:
        """Have what changes committed by a journal before anything leaves, in the reactor's thread; before ``start``.

        What the journal raises ends the reactor, and is raised by ``join``.
        """

    def connections(self) -> list[int]:
        """Give three numbers for each connection: its descriptor, the bytes that it is owed, 1 if it is blocked."""

class Relay:
    """One relay, twin of ``gateway.relay.Relay`` but for connecting, on a thread of its own as ``Reactor``.

    Args:
        limits: what local peers are granted.
        relay_limits: ``patience_s``, ``unanswered_max``, ``unanswered_size_max``, ``unanswered_total_max``.
        prefix: the key space's, empty for keys as they are.
        listeners: as of ``Reactor``.
        linger_s: as of ``Reactor``.
        spin_s: as of ``Reactor``.
        secrets: 32 bytes of the system's randomness, and nothing.

    Raises:
        OSError: if there are no descriptors left.

    Threads: as of ``Reactor``; ``adopt`` and ``miss`` belong to one at a time, and come before ``join``.
    """

    def __new__(
        cls,
        limits: RawLimits,
        relay_limits: tuple[float, int, int, int],
        prefix: bytes,
        listeners: bytes,
        linger_s: float,
        spin_s: float,
        secrets: RawSecrets,
        /,
    ) -> Relay: ...
    def start(self) -> None:
        """As of ``Reactor``."""

    def stop(self, drain_s: float, /) -> None:
        """As of ``Reactor``."""

    def join(self) -> None:
        """As of ``Reactor``."""

    def fileno(self) -> int:
        """As of ``Reactor``."""

    def take_notices(self) -> tuple[int, bytes, bytes | None]:
        """As of ``Reactor``; a line that is not about a peer has -100 in front.

        Returns:
            As of ``Reactor``, and behind that, once for each connection that is lost, the id of the session for which
            another is wanted, empty for a new session; else ``None``.
        """

    def has_ended(self) -> bool:
        """As of ``Reactor``."""

    def is_listening(self) -> bool:
        """As of ``Reactor``."""

    def observe(self, is_observed: bool, /) -> None:
        """As of ``Reactor``."""

    def adopt(self, fd: int, ahead: bytes, endpoint: bytes, session: bytes, data: bytes, is_resumed: bool, /) -> None:
        """Go on over a connection past its handshake.

        Args:
            fd: its descriptor, which belongs to the relay from now on.
            ahead: what was read from it already.
            endpoint: the server, for log lines.
            session: the session's id.
            data: the id of the server's data.
            is_resumed: whether the server knew the session.

        Raises:
            OSError: it cannot be watched; it is closed then.
        """

    def miss(self, why: bytes, /) -> None:
        """Take note that an attempt to connect came to nothing."""

    def statistics(self) -> list[int]:
        """Give the fields of ``RelayStatistics`` in their order, ``closed`` last: for each ``CloseReason`` how many."""

class Client:
    """The twin of ``store.calls.PythonClient``: the same calls, on connections of its own.

    Args:
        helper: what is left to Python: more connections, unusual calls, errors.
        fd: the first connection, past its handshake, as a ``Stream`` has it; it belongs to the client from now on.
        is_careful: the server is torch's legacy one, which must not be asked for keys that may be missing.
        spin_us: how long to look for a reply before sleeping, 0 to 1000 microseconds.

    The calls are those of ``TCPStore``, where they are described. Each has its *patience* last: the seconds that the
    caller waits, ``math.inf`` for ever, or the store whose own timeout counts. Keys are given as the user writes them,
    without the wire's ``/``; only ``list_keys`` gives wire keys. What is not waited for, is sent when the call
    returns: ``set``, ``append``, ``multi_set``, ``queue_push``.

    Raises (every call; the texts are the Python twin's):
        TypeError: a key, value, number or list of another type.
        ValueError: a text that is not UTF-8; ``LocalProtocolError``: more than the wire carries.
        StoreTimeoutError, BarrierTimeoutError: what was waited for did not come in time.
        ReplyTimeoutError: the server owes an answer, and is silent for ``REPLY_GRACE_S`` beyond the patience.
        ConnectionLostError: the server, or ``close``, ended it; so do all later calls.
        ForkedStoreError: in a process forked from the owner.

    Threads: any; one that waits holds up nobody, and gives the interpreter lock away. Signal handlers run during a
    wait, may raise, and may use the client.
    """

    def __new__(cls, helper: Helper, fd: int, is_careful: bool, spin_us: int, /) -> Client: ...
    def set(self, key: Text, value: Text, patience: Patience, /) -> None: ...
    def get(self, key: Text, patience: Patience, /) -> bytes: ...
    def add(self, key: Text, amount: int, patience: Patience, /) -> int: ...
    def count_workers(self, amount: int, patience: Patience, /) -> int:
        """Add to the count of joined workers, which no user's key reaches; give the sum."""

    def compare_set(self, key: Text, expected: Text, desired: Text, patience: Patience, /) -> bytes: ...
    def check(self, keys: Keys, patience: Patience, /) -> bool: ...
    def wait(self, keys: Keys, patience: Patience, /) -> None: ...
    def delete_key(self, key: Text, patience: Patience, /) -> bool: ...
    def num_keys(self, patience: Patience, /) -> int: ...
    def list_keys(self, patience: Patience, /) -> list[bytes]:
        """Give the server's keys as they are on the wire, users' with ``/`` in front."""

    def append(self, key: Text, value: Text, patience: Patience, /) -> None: ...
    def multi_get(self, keys: Keys, patience: Patience, /) -> list[bytes]: ...
    def multi_set(self, keys: Keys, values: Keys, patience: Patience, /) -> None: ...
    def queue_push(self, key: Text, value: Text, patience: Patience, /) -> None: ...
    def queue_pop(self, key: Text, block: bool, patience: Patience, /) -> bytes: ...
    def queue_len(self, key: Text, patience: Patience, /) -> int: ...
    def barrier(self, key: Text, world_size: int, patience: Patience, /) -> None: ...
    @property
    def is_waiting(self) -> bool:
        """Tell whether a call waits on the main connection."""

    def ends(self) -> tuple[int, Endpoint, Endpoint] | None:
        """Give the main connection's descriptor and the addresses of both ends; ``None`` if it is closed."""

    def close(self, reason: str, /) -> None:
        """Close every connection; later calls, and those that other threads have under way, are told the reason."""

class Lane:
    """The fast lane of a session's client: the calls of ``store.session.SessionClient`` that go their usual course.

    Args:
        client: whose calls they are; its methods are called for what is unusual.
        trunk: the client's, which has the connection otherwise.
        lender: what is left to Python: whether the trunk is at rest, tickets.

    Each call is one small request and its answer, if that comes at the first look. A call that cannot begin here, or
    turns out to be another, is run or finished by the client's method of the same name, with its errors.

    Threads: any; the interpreter lock is given away during the look. No Python code runs between a call's begin and
    the end of its first look.
    """

    def __new__(cls, client: SessionClient, trunk: Trunk, lender: type[Lender], /) -> Lane: ...
    def set(self, key: Text, value: Text, patience: Patience, /) -> None: ...
    def get(self, key: Text, patience: Patience, /) -> bytes: ...
    def add(self, key: Text, amount: int, patience: Patience, /) -> int: ...
    def compare_set(self, key: Text, expected: Text, desired: Text, patience: Patience, /) -> bytes: ...
    def check(self, keys: Keys, patience: Patience, /) -> bool: ...
    def wait(self, keys: Keys, patience: Patience, /) -> None: ...
    def append(self, key: Text, value: Text, patience: Patience, /) -> None: ...
    def multi_get(self, keys: Keys, patience: Patience, /) -> list[bytes]: ...
    def multi_set(self, keys: Keys, values: Keys, patience: Patience, /) -> None: ...
    def queue_push(self, key: Text, value: Text, patience: Patience, /) -> None: ...
    def queue_pop(self, key: Text, block: bool, patience: Patience, /) -> bytes: ...
    def queue_len(self, key: Text, patience: Patience, /) -> int: ...
    def delete_key(self, key: Text, patience: Patience, /) -> bool: ...
    def num_keys(self, patience: Patience, /) -> int: ...
    def barrier(self, key: Text, world_size: int, patience: Patience, /) -> None: ...
    def swap(self, key: Text, revision: int, value: Text, lease: int, patience: Patience, /) -> tuple[bool, int]: ...
    def land(self) -> None:
        """Give the connection back to the trunk, and a request that is on its way as a ticket of it."""
