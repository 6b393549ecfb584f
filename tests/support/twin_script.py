"""Any bytes as a script of steps that two engines must take alike: what the model and the fuzzer compare twins with.

A script is read byte by byte: first the limits, then steps until it ends. Every script means something, and a script
that was changed a little mostly means something similar, so a corpus of them can be mutated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import pack
from typing import Any, Final, NamedTuple

from tests.support.twins import AnyEngine, take_commit

from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import MAGIC, VERBS, Kind, Verb
from rallypoint.server.engine import (
    Close,
    Connected,
    Disconnected,
    Effect,
    Event,
    Pause,
    Received,
    Reply,
    Resumed,
    Statistics,
    Ticked,
)
from rallypoint.server.limits import Limits

__all__ = ["Observed", "Script", "TwinsDifferError", "play", "read_limits"]

PEERS: Final = 6
NAMES: Final = [b"/a", b"/b", b"/c", b"", b"/\x00\n'\"\\\xff", b"/'", b"/q" * 25, b"/" + bytes(8191)]
TEXTS: Final = [
    *(b"", b"1", b"-2", b"x", b" \t+7abc", b"0x10", b"9223372036854775807", b"-9223372036854775808", b"'" * 120),
    *(b"99999999999999999999", b"00000000000000000000012", b"+", b"- 1", b"\x0b5", bytes(1024), b"y" * 5000),
]
NUMBERS: Final = [0, 1, 2, 3, -1, 4, 2**63 - 1, -(2**63)]
LENGTHS: Final = [0, 8192, 8193, 2**16, 131_072, 131_073, 2**23, 2**23 + 1, 2**32, 2**63, 2**64 - 1]
BOUNDS: Final = {
    # The usual bounds mostly: with all of them low no peer would come far.
    "connections_max": [100, 100, 100, 4],
    "input_size_max": [*[1 << 28] * 9, 3, 9, 17, 60, 300],
    "input_total_max": [*[1 << 30] * 5, 5, 50, 400],
    "output_size_max": [*[1 << 20] * 3, 1, 40, 3000],
    "waited_names_max": [*[1 << 22] * 2, 1, 4],
    "value_stored_size_max": [*[1 << 28] * 2, 3, 30, 6000],
    "stored_size_max": [*[1 << 36] * 5, 300, 1000, 9000],
}


VALIDATE: Final = encode_request(Verb.VALIDATE, MAGIC)


class TwinsDifferError(AssertionError):
    """One twin did what the other did not."""


class Observed(NamedTuple):
    """All that may be seen after a step. How replies are cut is nobody's business."""

    replies: dict[int, bytes]
    others: list[Pause | Close]
    next_deadline: float | None
    statistics: Statistics
    commit: bytes  # what a journal would write


class Script:
    """Bytes that are read to their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def has_ended(self) -> bool:
        return self._at >= len(self._data)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def one(self, things: Sequence[Any]) -> Any:
        return things[self.byte() % len(things)]

    def raw(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def field(self, kind: Kind) -> Any:
        match kind:
            case Kind.KEY:
                return self.one(NAMES)
            case Kind.VALUE:
                return self.one(TEXTS)
            case Kind.U32:
                return self.byte()
            case Kind.I64:
                return self.one(NUMBERS)
            case Kind.KEYS:
                size = self.byte()
                # Some long ones: for those the native twin keeps notes.
                names = [self.one(NAMES) for _ in range(size % 5)]
                return names * 20 if size > 200 else names
            case _:
                return [(self.one(NAMES), self.one(TEXTS)) for _ in range(self.byte() % 5)]

    def frame(self) -> bytes:
        verb = Verb(self.byte() % len(Verb))
        if verb is Verb.VALIDATE:
            return encode_request(verb, self.one([MAGIC, 0]))
        return encode_request(verb, *(self.field(kind) for kind in VERBS[verb].request))

    def frames(self) -> bytes:
        return b"".join(self.frame() for _ in range(1 + self.byte() % 4))

    def input(self) -> bytes:
        """Give what one peer sends: requests mostly."""
        match self.byte() % 32:
            case 0:
                return self.raw(1 + self.byte() % 20)
            case 1:
                frame = self.frame()
                return frame[: self.byte() % (len(frame) + 1)]
            case 2:
                return self.frame()[:1] + pack("<Q", self.one(LENGTHS)) + self.raw(self.byte() % 30)
            case 3:
                # A length somewhere inside a request.
                frame = self.frames()
                at = self.byte() % (len(frame) + 1)
                return frame[:at] + pack("<Q", self.one(LENGTHS)) + frame[at + 8 :]
            case _:
                return self.frames()

    def opening(self, peer: int) -> list[Event]:
        """Have a peer connect, so that what it sends next is listened to."""
        return [Connected(peer), Received(peer, VALIDATE)]

    def events(self, now: float) -> tuple[list[Event], float]:
        """Give what happens next, all of it at one time, and that time."""
        peer = self.byte() % PEERS
        match self.byte() % 16:
            case 0:
                return [Disconnected(peer), Connected(peer)], now
            case 2 if self.byte() % 4 == 0:
                return [Disconnected(peer), Connected(peer), Received(peer, self.raw(7) or b"\1")], now
            case 3:
                return [Disconnected(peer)], now
            case 4:
                return [Ticked()], now + self.byte() % 8
            case 5 | 6:
                return [Resumed(peer)], now
            case cut:
                data = self.input()
                size = len(data) or 1 if cut > 9 else 1 if len(data) < 500 and cut == 9 else 1 + self.byte()
                return [Received(peer, data[at : at + size]) for at in range(0, len(data), size)], now


def read_limits(script: Script) -> Limits:
    """Give the limits that a script begins with: the usual ones if its first byte is even."""
    if script.byte() % 2 == 0:
        return Limits(handshake_timeout_s=5)
    return Limits(handshake_timeout_s=2.5, **{name: script.one(bounds) for name, bounds in BOUNDS.items()})


def play(script: Script, engines: Sequence[AnyEngine], look: Callable[[Observed], object] | None = None) -> int:
    """Let engines take the same steps; give how many there were.

    Args:
        script: read up to behind its limits.
        engines: what takes the steps, made with these limits.
        look: is given what was seen after each step.

    Raises:
        TwinsDifferError: they do not do the same.
    """
    now, steps, events = 0.0, 0, list[Event]()
    opened: set[int] = set()
    while True:
        for event in events:
            steps += 1
            effects = [engine.step(event, now) for engine in engines]
            found = [observe(engine, each) for engine, each in zip(engines, effects, strict=True)]
            for other in found[1:]:
                if other != found[0]:
                    raise TwinsDifferError(f"step {steps}, {event!r:.300}:\n{found[0]!r:.2000}\n{other!r:.2000}")
            if look is not None:
                look(found[0])
            if isinstance(event, Connected):
                opened.add(event.peer)
            elif isinstance(event, Disconnected):
                opened.discard(event.peer)
            opened -= {effect.peer for effect in effects[0] if isinstance(effect, Close)}
        if script.has_ended:
            return steps
        events, now = script.events(now)
        # A peer that sends is connected before, mostly: else soon none is left.
        first = events[0] if events else None
        if isinstance(first, Received) and first.peer not in opened and script.byte() % 16:
            events = [*script.opening(first.peer), *events]
        elif isinstance(first, Connected) and first.peer in opened:
            events = [Disconnected(first.peer), *events]


def observe(engine: AnyEngine, effects: list[Effect]) -> Observed:
    """Look at all that may be seen after a step."""
    replies: dict[int, bytes] = {}
    for effect in effects:
        if isinstance(effect, Reply):
            replies[effect.peer] = replies.get(effect.peer, b"") + effect.data
    others: list[Pause | Close] = [effect for effect in effects if isinstance(effect, Pause | Close)]
    return Observed(replies, others, engine.next_deadline(), engine.statistics(), take_commit(engine))
