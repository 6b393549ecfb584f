"""As ``twin_script``, with peers that speak the session dialect, lose their connections and come back."""

from __future__ import annotations

from struct import pack
from typing import Any, Final

from tests.support.twin_script import BOUNDS, NAMES, PEERS, Script

from rallypoint.protocol.codec import U64
from rallypoint.protocol.session.codec import encode_request
from rallypoint.protocol.session.spec import (
    CLOSING_ID,
    NONCE_SIZE,
    OPENING,
    SESSION_ID_SIZE,
    SESSION_VERBS,
    VERSION,
    Field,
    SessionVerb,
)
from rallypoint.protocol.spec import Kind
from rallypoint.server.engine import Connected, Disconnected, Event, Received, Resumed, Ticked
from rallypoint.server.ids import Ids
from rallypoint.server.limits import Limits

__all__ = ["SEED", "SessionScript", "read_session_limits"]

SEED: Final = bytes(32)
NUMBERS: Final = [0, 1, 2, 3, -1, 5, 1000, 3000, 7, 2**63 - 1, -(2**63)]
VERBS: Final = [verb for verb in SessionVerb if verb not in (SessionVerb.HELLO, SessionVerb.PROVE, SessionVerb.STATUS)]
COUNTED: Final = (
    *(SessionVerb.SWAP, SessionVerb.WATCH, SessionVerb.LEASE_RENEW, SessionVerb.LEASE_REVOKE, SessionVerb.BARRIER),
)
GROUPS: Final = (SessionVerb.MEET, SessionVerb.EXCHANGE)
SESSION_BOUNDS: Final = {
    "sessions_max": [*[200_000] * 5, 2],
    "session_timeout_s_max": [*[600.0] * 3, 1.5],
    "session_waits_max": [*[1000] * 3, 2],
    "session_answers_max": [*[1000] * 3, 3],
    "session_answers_size_max": [*[1 << 28] * 3, 900],
    "answers_size_max": [*[1 << 30] * 3, 1500],
    "groups_max": [*[1000] * 3, 2],
    "group_members_max": [*[1000] * 3, 4],
    "group_values_size_max": [*[1 << 30] * 3, 30],
    "leases_max": [*[1000] * 3, 2],
    "watches_max": [*[1000] * 3, 3],
    "session_watches_max": [*[1000] * 3, 2],
    "watch_events_max": [*[1000] * 2, 2],
    "watch_events_size_max": [*[1 << 20] * 2, 300],
    "events_size_max": [*[1 << 28] * 2, 500],
}


def read_session_limits(script: Script) -> Limits:
    """Give the limits that a script begins with: the usual ones if its first byte is even."""
    if script.byte() % 2 == 0:
        return Limits(handshake_timeout_s=5)
    bounds = {name: script.one(bounds) for name, bounds in (BOUNDS | SESSION_BOUNDS).items()}
    if script.byte() % 8:
        bounds["input_size_max"] = 1 << 28
    return Limits(handshake_timeout_s=2.5, **bounds)


def session_ids() -> list[bytes]:
    """Give the ids that an engine's first sessions may have: of any number that is not another id's."""
    ids = Ids(SEED)
    ids.make(b"life", SESSION_ID_SIZE)
    return [ids.make(b"session", SESSION_ID_SIZE) for _ in range(6)]


SESSION_IDS: Final = session_ids()


class SessionScript(Script):
    """Bytes that are read to their end; peers of even numbers begin with c10d now and then, all others in sessions."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._sent: dict[int, list[bytes]] = {peer: [] for peer in range(PEERS)}  # since its session began
        self._asked: dict[int, int] = dict.fromkeys(range(PEERS), 0)  # how many of them before its latest input
        self._last: dict[int, int] = dict.fromkeys(range(PEERS), 0)

    def session_field(self, peer: int, verb: SessionVerb, field: Field) -> Any:
        if verb in (SessionVerb.CANCEL, SessionVerb.UNWATCH):
            return max(self._last[peer] - self.byte() % 8, 0)
        if field is Field.U32 and verb in GROUPS:
            return self.byte() % 3 + (self.byte() % 64 == 0)
        if field is Field.U8:
            return self.byte() % 2 + (self.byte() % 64 == 0)
        if field is Field.I64:
            return self.byte() % 16 - 1 if verb in COUNTED and self.byte() % 32 else self.one(NUMBERS)
        if field is Field.KEY and self.byte() % 16:
            return self.one(NAMES[:3])
        if field is Field.KEYS and self.byte() % 16:
            return [self.one(NAMES[:3]) for _ in range(self.byte() % 4)]
        return self.field(Kind[field.name])

    def session_frame(self, peer: int) -> bytes:
        """Give a request of a peer's session, with an id that rises, mostly."""
        verb = self.one(VERBS)
        again = self.byte() % 32
        if again == 0 and self._sent[peer] and self.byte() % 8 == 0:
            return bytes(self.one(self._sent[peer]))
        size = 2 if verb in GROUPS else None
        self._last[peer] += 1
        fields = [self.session_field(peer, verb, field) for field in SESSION_VERBS[verb].request]
        if size is not None and again > 4:
            fields[2] = 1 + fields[2] % 3
            fields[1] %= fields[2]
        done = max(self._last[peer] - self.byte() % 8, 0) if again > 16 else 0
        frame = encode_request(verb, self._last[peer], done, *fields)
        self._sent[peer].append(frame)
        return frame

    def hello(self) -> bytes:
        """Give the beginning of a connection."""
        wrong = self.byte()
        session = b"short" if wrong == 1 else self.one([b"", b"", *SESSION_IDS])
        version = VERSION + (wrong == 2)
        label = b"l" * 257 if wrong == 3 else self.one([b"", b"one", b"two'\"\n\xff", b"l" * 256])
        nonce = bytes(NONCE_SIZE + (wrong == 4))
        timeout_ms = -1 if wrong == 5 else self.one([0, 1000, 5000, 5000, 10_000, 1 << 40])
        frame = encode_request(SessionVerb.HELLO, CLOSING_ID, 0, version, session, b"", label, nonce, timeout_ms)
        return frame if wrong != 6 else encode_request(SessionVerb.PROVE, CLOSING_ID, 0, bytes(32))

    def coming_back(self, peer: int) -> list[Event]:
        """Have a peer connect and say HELLO, then send again what it has sent last."""
        sent = self._sent[peer][: self._asked[peer]]
        resent = b"".join(sent[max(len(sent) - self.byte() % 6, 0) :])
        data = OPENING + self.hello() + resent
        cut = 1 + self.byte() if self.byte() % 8 == 0 else len(data)
        return [Connected(peer), *(Received(peer, data[at : at + cut]) for at in range(0, len(data), cut))]

    def opening(self, peer: int) -> list[Event]:
        return self.coming_back(peer) if self.byte() % 8 else super().opening(peer)

    def session_input(self, peer: int) -> bytes:
        self._asked[peer] = len(self._sent[peer])
        frames = b"".join(self.session_frame(peer) for _ in range(1 + self.byte() % 4))
        match self.byte() % 160:
            case 0:
                at = self.byte() % (len(frames) + 1)
                return frames[:at] + self.raw(4) + frames[at + 4 :]
            case 1:
                at = self.byte() % (len(frames) + 1)
                return frames[:at] + U64.pack(self.one([0, 9, 8193, 1 << 23, 1 << 40])) + frames[at + 8 :]
            case 2:
                return frames[: self.byte() % (len(frames) + 1)]
            case 3:
                return frames + self.hello()
            case 4:
                return pack("<I", self.one([0, 16, 17, 4096, 4097, 1 << 31])) + frames[4:]
            case _:
                return frames

    def events(self, now: float) -> tuple[list[Event], float]:
        """Give what happens next, all of it at one time, and that time."""
        peer = self.byte() % PEERS
        match self.byte() % 24:
            case 0:
                return [Disconnected(peer), *self.coming_back(peer)], now
            case 1 | 2:
                return self.coming_back((peer + 1) % PEERS), now
            case 3:
                return [Disconnected(peer)], now
            case 4 | 5:
                return [Ticked()], now + self.byte() % 8 / 4
            case 6:
                return [Ticked()], now + self.byte() % 12
            case 7 | 8:
                return [Resumed(peer)], now
            case 9:
                return super().events(now)
            case cut:
                data = self.session_input(peer)
                size = len(data) or 1 if cut > 11 else 1 if len(data) < 500 and cut == 11 else 1 + self.byte()
                return [Received(peer, data[at : at + size]) for at in range(0, len(data), size)], now
