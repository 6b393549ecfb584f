"""What a call in flight is, and the pieces that all calls are made of.

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

What this file does not know: sockets, deadlines, user keys (keys here are wire keys), which server this is.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

from rallypoint.errors import DistError, RemoteProtocolError
from rallypoint.protocol.codec import I64, U64, encode_request
from rallypoint.protocol.spec import CANCELLED, GO_ON, NOT_READY, READY, REPLY_SIZE_MAX, Verb

__all__ = [
    "Call",
    "LegacyServerError",
    "Step",
    "Wait",
    "WaitExpired",
    "ask_and_wait",
    "ask_missing",
    "read_count",
    "read_is_ready",
    "read_number",
    "read_stored",
    "wait_until_present",
]


class Wait(NamedTuple):
    """Read exactly ``size`` bytes, which may take until the caller's deadline."""

    size: int


Step: TypeAlias = "bytes | int | Wait"

_INT64_MAX = (1 << 63) - 1

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

    Nothing was changed: connect again and repeat the call with ``is_careful=True``.
    """


# --- pieces ----------------------------------------------------------------------------------------------


def read_stored() -> Call[bytes]:
    """Read a value. Shape: ``u64 size · bytes``."""
    (size,) = U64.unpack((yield U64.size))
    if size > REPLY_SIZE_MAX:
        raise RemoteProtocolError(f"the server claims a value of {size} bytes, the limit is {REPLY_SIZE_MAX}")
    return (yield size) if size else b""


def read_number() -> Call[int]:
    """Read a number. Shape: ``i64``."""
    return int(I64.unpack((yield I64.size))[0])


def read_count(what: str, limit: int = _INT64_MAX) -> Call[int]:
    """Read a number that cannot be below 0 nor above ``limit``; ``what`` names it. Shape: ``i64``.

    Raises:
        RemoteProtocolError: it is not within these bounds.
    """
    count = yield from read_number()
    if not 0 <= count <= limit:
        raise RemoteProtocolError(f"the server claims that {what} is {count}, it must be from 0 to {limit}")
    return count


def read_is_ready() -> Call[bool]:
    """Read what CHECK says. Shape: ``u8``."""
    answer = yield 1
    if answer == READY:
        return True
    if answer == NOT_READY:
        return False
    raise RemoteProtocolError(f"ready or not_ready response expected: CHECK was answered {answer!r}, not 00 or 01")


def ask_and_wait(request: bytes) -> Call[bool]:
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


def ask_missing(keys: Sequence[bytes]) -> Call[tuple[bytes, ...]]:
    """Ask which keys are missing. Cost: one round trip for any number of keys."""
    names = tuple(dict.fromkeys(keys))
    if not names:
        return ()
    yield b"".join([encode_request(Verb.CHECK, (name,)) for name in names])
    answers = yield len(names)
    if answers.strip(READY + NOT_READY):
        raise RemoteProtocolError(f"ready or not_ready response expected: CHECKs were answered {answers[:64]!r}")
    return tuple(name for name, answer in zip(names, answers, strict=True) if answer)


def wait_until_present(keys: Sequence[bytes]) -> Call[bool]:
    """Wait until the server says that all keys are there.

    Returns:
        ``True``, or ``False`` if the deadline passed and the keys turned up while we asked which are missing.

    Raises:
        WaitExpired: the deadline passed and keys are missing.
    """
    if (yield from ask_and_wait(encode_request(Verb.WAIT, keys))):
        return True
    missing = yield from ask_missing(keys)
    if missing:
        raise WaitExpired(missing)
    return False
