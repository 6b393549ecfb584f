from __future__ import annotations

from rallypoint.protocol.session.auth import Hello
from rallypoint.server.ground import Ground
from rallypoint.server.ids import Ids
from rallypoint.server.limits import GRACE_S, STALL_S, Limits
from rallypoint.server.session_verbs import SessionVerbs
from rallypoint.server.sessions import Session, Sessions
from rallypoint.server.timed import Handshakes, SessionEnds


def test_handshakes_are_due_in_their_order() -> None:
    expired: list[int] = []

    def expire(peer: int) -> None:
        expired.append(peer)
        handshakes.end(peer)

    handshakes = Handshakes(20.0, expire)
    assert (handshakes.next_deadline(), handshakes.oldest(), len(handshakes)) == (None, None, 0)
    for peer, now in ((1, 0.0), (2, 1.0), (3, 2.0)):
        handshakes.begin(peer, now)
    handshakes.end(1)
    handshakes.end(9)
    assert (handshakes.next_deadline(), handshakes.oldest(), len(handshakes)) == (21.0, 2, 2)
    handshakes.tick(20.9)
    assert expired == []
    handshakes.tick(22.0)
    assert expired == [2, 3]
    assert handshakes.next_deadline() is None


def make_ends(*timeouts_ms: int) -> tuple[SessionEnds, Sessions, list[Session]]:
    ground = Ground(Limits())
    sessions = Sessions(ground.limits, Ids(bytes(32)), ground.note)
    made = [sessions.make(Hello(b"", b"", b"", b"", timeout_ms), b"", 0.0) for timeout_ms in timeouts_ms]
    for session in made:
        sessions.attach(session, 1, b"")
    return SessionEnds(sessions, SessionVerbs(ground, sessions)), sessions, made


def test_sessions_end_when_their_time_is_over() -> None:
    ends, sessions, (short, long) = make_ends(1000, 5000)
    assert ends.next_deadline() is None
    sessions.detach(short, 0.0)
    sessions.detach(long, 0.0)
    assert ends.next_deadline() == 1.0
    ends.tick(0.5)
    assert len(sessions) == 2
    ends.tick(1.0)
    assert list(sessions) == [long]
    assert ends.next_deadline() == 5.0


def test_a_server_that_stood_still_gives_them_time_to_come_back() -> None:
    ends, sessions, (back, gone) = make_ends(1000, 1000)
    sessions.detach(back, 0.0)
    sessions.detach(gone, 0.0)
    woken = 1.0 + STALL_S + 0.1
    ends.tick(woken)
    assert len(sessions) == 2
    assert ends.next_deadline() == woken + GRACE_S
    sessions.attach(back, 2, b"")
    ends.tick(woken + GRACE_S)
    assert list(sessions) == [back]


def test_a_server_that_stands_still_again_gives_time_again() -> None:
    ends, sessions, (session,) = make_ends(1000)
    sessions.detach(session, 0.0)
    now = 1.0
    for _ in range(3):
        now += GRACE_S + STALL_S + 0.1
        ends.tick(now)
        assert len(sessions) == 1
    ends.tick(now + GRACE_S)
    assert len(sessions) == 0
