"""The client's calls as generators: what to send, what to read, what it means.

Rules:

- A call yields what it needs and is sent what it gets:

  ================== ==========================================================================================
  it yields          the driver
  ================== ==========================================================================================
  ``bytes``          sends them, whole and in order; resumes with anything, by habit ``b""``
  ``int`` n          reads exactly n bytes and resumes with them
  ``Wait(n)``        the same, but here the server may take its time: on the caller's deadline the driver throws
                     ``WaitExpired`` into the call, and goes on as before
  ================== ==========================================================================================

- The call's ``return`` is its result. An error it raises is its verdict.
- A call that returned, or raised ``WaitExpired``, ``QueueEmptyError`` or ``LocalProtocolError``, leaves the connection
  in step: all replies owed are read. After any other exception it is out of step and must be dropped.
- After ``WaitExpired`` a call still has a bounded number of replies to read, all of which the server owes at once: the
  driver grants them a time of their own.
- A lost connection is thrown in too (``ConnectionLostError``), so that a call can say what it means.
- Nothing is sent before all of it is known to be within the limits.
- A length that a server claims is checked before it is believed.

Theory of operation. ``get`` of a present key costs one round trip, because CHECK and GET travel together; WAIT
is sent only when CHECK said *absent*, and after it the pair is sent again, until presence is real::

    get:    --> CHECK k · GET k       <-- present · value            1 round trip
            --> CHECK k · GET k       <-- absent · (empty)
            --> WAIT k                <-- ... go on                  the driver's deadline counts here
            --> CHECK k · GET k       <-- present · value

    expired:--> CANCEL_WAIT           <-- 01           cancelled: ask which keys are missing, raise WaitExpired
                                      <-- 00 01        the wait ended first: it has succeeded

What this file does not know: sockets, deadlines, user keys (keys here are wire keys), which server this is.

Source: ``tests/support/vectors.jsonl``, and the same calls recorded from a torch 2.13.0 client.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

from rallypoint.errors import ConnectionLostError, DistError, QueueEmptyError, RemoteProtocolError
from rallypoint.protocol.codec import I64, U32, U64, encode_request
from rallypoint.protocol.spec import (
    CANCELLED,
    GO_ON,
    KEY_SIZE_MAX,
    LISTED_COUNT_MAX,
    MAGIC,
    NOT_READY,
    READY,
    REPLY_SIZE_MAX,
    Verb,
)

__all__ = [
    "Call",
    "LegacyServerError",
    "Step",
    "Wait",
    "WaitExpired",
    "add",
    "append",
    "barrier",
    "check",
    "compare_set",
    "delete_key",
    "get",
    "handshake",
    "list_keys",
    "multi_get",
    "multi_set",
    "num_keys",
    "ping",
    "queue_len",
    "queue_pop",
    "queue_push",
    "set_value",
    "wait",
]


class Wait(NamedTuple):
    """Read exactly ``size`` bytes, which may take until the caller's deadline."""

    size: int


Step: TypeAlias = "bytes | int | Wait"

_R = TypeVar("_R")

Call: TypeAlias = Generator[Step, bytes, _R]
"""A call in flight; see the rules above."""


class WaitExpired(DistError):  # noqa: N818 - thrown in, it is news; raised out, it is the verdict
    """The caller's deadline passed while the server was silent.

    The driver throws it into a call, without arguments. The call raises it, with data, if it has come to nothing.

    Attributes:
        missing: the wire keys that were not there; for a barrier its key.
        arrived: for a barrier, the count so far, if it could be read.
    """

    def __init__(self, missing: Sequence[bytes] = (), arrived: int | None = None) -> None:
        super().__init__(f"{len(missing)} keys were missing when the time was up")
        self.missing = tuple(missing)
        self.arrived = arrived


class LegacyServerError(DistError):
    """The server closed the connection on a GET of a missing key, as torch's ``use_libuv=False`` server does.

    Nothing was changed: connect again and repeat the call with ``careful=True``.
    """


# --- pieces ----------------------------------------------------------------------------------------------


def _stored() -> Call[bytes]:
    (size,) = U64.unpack((yield U64.size))
    if size > REPLY_SIZE_MAX:
        raise RemoteProtocolError(f"the server claims a value of {size} bytes, the limit is {REPLY_SIZE_MAX}")
    return (yield size) if size else b""


def _number() -> Call[int]:
    return int(I64.unpack((yield I64.size))[0])


def _is_ready() -> Call[bool]:
    answer = yield 1
    if answer == READY:
        return True
    if answer == NOT_READY:
        return False
    raise RemoteProtocolError(f"ready or not_ready response expected: CHECK was answered {answer!r}, not 00 or 01")


def _go_on_or_expire(request: bytes) -> Call[bool]:
    """Send a WAIT or BARRIER; tell whether it was answered. An answer that crosses the cancellation counts."""
    yield request
    try:
        answer = yield Wait(1)
    except WaitExpired:
        yield encode_request(Verb.CANCEL_WAIT)
        answer = yield 1
        if answer == CANCELLED:
            return False
        if answer == GO_ON and (second := (yield 1)) != CANCELLED:
            raise RemoteProtocolError(
                f"wait_canceled response is expected: CANCEL_WAIT was answered {second!r}, not 01"
            ) from None
    if answer != GO_ON:
        raise RemoteProtocolError(f"Stop_waiting response is expected: the wait was answered {answer!r}, not 00")
    return True


def _missing(keys: Sequence[bytes]) -> Call[tuple[bytes, ...]]:
    """Ask which keys are missing. Cost: one round trip for any number of keys."""
    names = tuple(dict.fromkeys(keys))
    if not names:
        return ()
    yield b"".join([encode_request(Verb.CHECK, (name,)) for name in names])
    answers = yield len(names)
    if answers.strip(READY + NOT_READY):
        raise RemoteProtocolError(f"ready or not_ready response expected: CHECKs were answered {answers[:64]!r}")
    return tuple(name for name, answer in zip(names, answers, strict=True) if answer)


def _until_present(keys: Sequence[bytes]) -> Call[bool]:
    """Wait until the server says that all keys are there.

    Returns:
        ``True``, or ``False`` if the deadline passed and the keys turned up while we asked which are missing.

    Raises:
        WaitExpired: the deadline passed and keys are missing.
    """
    if (yield from _go_on_or_expire(encode_request(Verb.WAIT, keys))):
        return True
    missing = yield from _missing(keys)
    if missing:
        raise WaitExpired(missing)
    return False


def _look(verb: Verb, keys: Sequence[bytes], is_careful: bool) -> Call[list[bytes] | None]:
    """Check and read in one round trip, carefully in two; ``None`` if a key is missing."""
    read = encode_request(verb, keys[0] if verb is Verb.GET else keys)
    yield encode_request(Verb.CHECK, keys) if is_careful else encode_request(Verb.CHECK, keys) + read
    is_ready = yield from _is_ready()
    if is_careful:
        if not is_ready:
            return None
        yield read
    values = []
    try:
        for _ in keys:
            values.append((yield from _stored()))  # noqa: PERF401 - a comprehension cannot yield
    except ConnectionLostError as lost:
        if is_ready:
            raise
        raise LegacyServerError("the server closed the connection on reading a missing key") from lost
    # A key set between the check and the read shows by its value; an empty value is waited for again.
    return values if is_ready or all(values) else None


def _get_all(verb: Verb, keys: Sequence[bytes], is_careful: bool) -> Call[list[bytes]]:
    is_in_time = True
    while True:
        values = yield from _look(verb, keys, is_careful)
        if values is not None:
            return values
        if not is_in_time:
            raise WaitExpired((yield from _missing(keys)) or tuple(keys))
        is_in_time = yield from _until_present(keys)


# --- calls -----------------------------------------------------------------------------------------------


def handshake(nonce: int) -> Call[None]:
    """Open the connection: VALIDATE and PING in one segment, which torch's server needs unsplit.

    Args:
        nonce: 32 bits that the server must send back.

    Raises:
        RemoteProtocolError: it sent others: this is no store.

    Cost: one round trip. Shape: ``u8 0 · u32 MAGIC · u8 13 · u32 nonce``.
    """
    yield encode_request(Verb.VALIDATE, MAGIC) + encode_request(Verb.PING, nonce)
    yield from _pong(nonce)


def ping(nonce: int) -> Call[None]:
    """Have the server answer; behind a write, this acknowledges it. Cost: one round trip."""
    yield encode_request(Verb.PING, nonce)
    yield from _pong(nonce)


def _pong(nonce: int) -> Call[None]:
    (answer,) = U32.unpack((yield U32.size))
    if answer != nonce:
        raise RemoteProtocolError(f"Ping failed, invalid value returned from server. Expected: {nonce}, Got: {answer}")


def set_value(key: bytes, value: bytes) -> Call[None]:
    """Store a value. Cost: one message, not acknowledged."""
    yield encode_request(Verb.SET, key, value)


def append(key: bytes, value: bytes) -> Call[None]:
    """Add to the end of a value. Cost: one message, not acknowledged."""
    yield encode_request(Verb.APPEND, key, value)


def multi_set(pairs: Sequence[tuple[bytes, bytes]]) -> Call[None]:
    """Store several values at once. Cost: one message, not acknowledged; none for no pairs."""
    if pairs:
        yield encode_request(Verb.MULTI_SET, pairs)


def queue_push(name: bytes, item: bytes) -> Call[None]:
    """Put an item into a queue. Cost: one message, not acknowledged."""
    yield encode_request(Verb.QUEUE_PUSH, name, item)


def get(key: bytes, *, is_careful: bool = False) -> Call[bytes]:
    """Read a value, waiting for its key.

    Args:
        key: the wire key.
        is_careful: read only after CHECK said *present*, for servers that close on a missing key.

    Raises:
        WaitExpired: the key was missing when the deadline passed.
        LegacyServerError: the server closes on a missing key.

    Cost: one round trip if the key is there, two carefully.
    """
    return (yield from _get_all(Verb.GET, (key,), is_careful))[0]


def multi_get(keys: Sequence[bytes], *, is_careful: bool = False) -> Call[list[bytes]]:
    """Read several values, waiting for all keys; otherwise as ``get``. No keys ask nobody."""
    return (yield from _get_all(Verb.MULTI_GET, keys, is_careful)) if keys else []


def wait(keys: Sequence[bytes]) -> Call[None]:
    """Wait until all keys are there.

    CHECK comes first: when its answer is read, all that this connection sent before is applied, so a wait never
    blocks on our own unsent or unread writes. No keys ask nobody.

    Raises:
        WaitExpired: keys were missing when the deadline passed.

    Cost: one round trip if the keys are there.
    """
    if keys and not (yield from check(keys)):
        yield from _until_present(keys)


def check(keys: Sequence[bytes]) -> Call[bool]:
    """Tell whether all keys are there. Cost: one round trip; none for no keys."""
    if not keys:
        return True
    yield encode_request(Verb.CHECK, keys)
    return (yield from _is_ready())


def add(key: bytes, delta: int) -> Call[int]:
    """Add to a counter, which starts at 0; give the sum. Cost: one round trip."""
    yield encode_request(Verb.ADD, key, delta)
    return (yield from _number())


def compare_set(key: bytes, expected: bytes, desired: bytes) -> Call[bytes]:
    """Store ``desired`` if the value is ``expected``, or if both the key and ``expected`` are nothing.

    Returns:
        ``desired`` if it was stored, else the value that is there; for a missing key ``expected``, sent back.

    Cost: one round trip.
    """
    yield encode_request(Verb.COMPARE_SET, key, expected, desired)
    return (yield from _stored())


def delete_key(key: bytes) -> Call[bool]:
    """Remove a key; tell whether it was there. Cost: one round trip."""
    yield encode_request(Verb.DELETE_KEY, key)
    return (yield from _number()) == 1


def num_keys() -> Call[int]:
    """Count the server's keys, internal ones included. Cost: one round trip."""
    yield encode_request(Verb.GETNUMKEYS)
    return (yield from _number())


def list_keys() -> Call[list[bytes]]:
    """Give all wire keys, in no order that means anything. Cost: one round trip; grows with the store."""
    yield encode_request(Verb.LIST_KEYS)
    count = yield from _number()
    if not 0 <= count <= LISTED_COUNT_MAX:
        raise RemoteProtocolError(f"the server claims to list {count} keys, the limit is {LISTED_COUNT_MAX}")
    keys = []
    for _ in range(count):
        (size,) = U64.unpack((yield U64.size))
        if size > KEY_SIZE_MAX:
            raise RemoteProtocolError(f"the server claims a key of {size} bytes, the limit is {KEY_SIZE_MAX}")
        keys.append((yield size) if size else b"")
    return keys


def queue_len(name: bytes) -> Call[int]:
    """Count a queue's items. Cost: one round trip."""
    yield encode_request(Verb.QUEUE_LEN, name)
    return (yield from _number())


def queue_pop(name: bytes, *, is_blocking: bool = True) -> Call[bytes]:
    """Take the oldest item of a queue.

    Args:
        name: the queue's wire name.
        is_blocking: wait for an item; if others take it first, wait again.

    Raises:
        QueueEmptyError: there is no item and we do not wait, or waiting is no use, because a *key* of that name
            exists and ends each wait at once.
        WaitExpired: there was no item when the deadline passed.

    Cost: one round trip if there is an item.
    """
    yield encode_request(Verb.QUEUE_POP, name)
    item = yield from _popped()
    is_in_time = True
    while item is None:
        if not is_blocking:
            raise QueueEmptyError("queue is empty")
        if not is_in_time:
            raise WaitExpired((name,))
        is_in_time = yield from _go_on_or_expire(encode_request(Verb.WAIT, (name,)))
        yield (
            encode_request(Verb.QUEUE_POP, name)
            + encode_request(Verb.CHECK, (name,))
            + encode_request(Verb.QUEUE_LEN, name)
        )
        item = yield from _popped()
        is_present = yield from _is_ready()
        length = yield from _number()
        if item is None and is_present and length == 0:
            raise QueueEmptyError(f"queue is empty, and cannot be waited for: {name!r} is a key too")
    return item


def _popped() -> Call[bytes | None]:
    length = yield from _number()
    return (yield from _stored()) if length > 0 else None


def barrier(key: bytes, world_size: int) -> Call[None]:
    """Arrive at a barrier and wait until ``world_size`` callers have.

    Raises:
        WaitExpired: too few had when the deadline passed; ``.arrived`` counts them, this caller included, whose arrival
            stays counted.

    Cost: one round trip, and the time of the last.
    """
    if (yield from _go_on_or_expire(encode_request(Verb.BARRIER, key, world_size))):
        return
    values = yield from _look(Verb.GET, (key,), is_careful=True)
    raise WaitExpired((key,), int(values[0]) if values and values[0].isdigit() and len(values[0]) < 20 else None)
