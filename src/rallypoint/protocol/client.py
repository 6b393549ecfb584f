"""The client's calls as generators: what to send, what to read, what it means.

The rules between a call and its driver are those of ``protocol.call``.

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

from collections.abc import Sequence

from rallypoint.errors import ConnectionLostError, QueueEmptyError, RemoteProtocolError
from rallypoint.protocol.call import (
    Call,
    LegacyServerError,
    Step,
    Wait,
    WaitExpired,
    ask_and_wait,
    ask_missing,
    read_count,
    read_is_ready,
    read_number,
    read_stored,
    wait_until_present,
)
from rallypoint.protocol.codec import U32, U64, encode_request
from rallypoint.protocol.spec import KEY_SIZE_MAX, LISTED_COUNT_MAX, MAGIC, Verb

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


def _look(verb: Verb, keys: Sequence[bytes], is_careful: bool) -> Call[list[bytes] | None]:
    """Check and read in one round trip, carefully in two; ``None`` if a key is missing."""
    read = encode_request(verb, keys[0] if verb is Verb.GET else keys)
    yield encode_request(Verb.CHECK, keys) if is_careful else encode_request(Verb.CHECK, keys) + read
    is_ready = yield from read_is_ready()
    if is_careful:
        if not is_ready:
            return None
        yield read
    values = []
    try:
        for _ in keys:
            values.append((yield from read_stored()))  # noqa: PERF401 - a comprehension cannot yield
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
            raise WaitExpired((yield from ask_missing(keys)) or tuple(keys))
        is_in_time = yield from wait_until_present(keys)


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
        yield from wait_until_present(keys)


def check(keys: Sequence[bytes]) -> Call[bool]:
    """Tell whether all keys are there. Cost: one round trip; none for no keys."""
    if not keys:
        return True
    yield encode_request(Verb.CHECK, keys)
    return (yield from read_is_ready())


def add(key: bytes, delta: int) -> Call[int]:
    """Add to a counter, which starts at 0; give the sum. Cost: one round trip."""
    yield encode_request(Verb.ADD, key, delta)
    return (yield from read_number())


def compare_set(key: bytes, expected: bytes, desired: bytes) -> Call[bytes]:
    """Store ``desired`` if the value is ``expected``, or if both the key and ``expected`` are nothing.

    Returns:
        ``desired`` if it was stored, else the value that is there; for a missing key ``expected``, sent back.

    Cost: one round trip.
    """
    yield encode_request(Verb.COMPARE_SET, key, expected, desired)
    return (yield from read_stored())


def delete_key(key: bytes) -> Call[bool]:
    """Remove a key; tell whether it was there. Cost: one round trip."""
    yield encode_request(Verb.DELETE_KEY, key)
    return (yield from read_count("the number of keys deleted", 1)) == 1


def num_keys() -> Call[int]:
    """Count the server's keys, internal ones included. Cost: one round trip."""
    yield encode_request(Verb.GETNUMKEYS)
    return (yield from read_count("the number of keys"))


def list_keys() -> Call[list[bytes]]:
    """Give all wire keys, in no order that means anything. Cost: one round trip; grows with the store."""
    yield encode_request(Verb.LIST_KEYS)
    count = yield from read_number()
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
    return (yield from read_count("the length of the queue"))


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
        is_in_time = yield from ask_and_wait(encode_request(Verb.WAIT, (name,)))
        yield (
            encode_request(Verb.QUEUE_POP, name)
            + encode_request(Verb.CHECK, (name,))
            + encode_request(Verb.QUEUE_LEN, name)
        )
        item = yield from _popped()
        is_present = yield from read_is_ready()
        length = yield from read_count("the length of the queue")
        if item is None and is_present and length == 0:
            raise QueueEmptyError(f"queue is empty, and cannot be waited for: {name!r} is a key too")
    return item


def _popped() -> Call[bytes | None]:
    length = yield from read_count("the length of the queue")
    return (yield from read_stored()) if length > 0 else None


def barrier(key: bytes, world_size: int) -> Call[None]:
    """Arrive at a barrier and wait until ``world_size`` callers have.

    Raises:
        WaitExpired: too few had when the deadline passed; ``.arrived`` counts them, this caller included, whose arrival
            stays counted.

    Cost: one round trip, and the time of the last.
    """
    if (yield from ask_and_wait(encode_request(Verb.BARRIER, key, world_size))):
        return
    values = yield from _look(Verb.GET, (key,), is_careful=True)
    raise WaitExpired((key,), int(values[0]) if values and values[0].isdigit() and len(values[0]) < 20 else None)
