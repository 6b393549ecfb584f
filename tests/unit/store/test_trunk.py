"""Many threads, signals and lost connections on one session, against a server that is played by hand."""

from __future__ import annotations

import os
import select
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest
from tests.support.session_peer import LIFE, SESSION, opened_trunk, session_peer

from rallypoint.errors import (
    ConnectionLostError,
    LocalProtocolError,
    RemoteProtocolError,
    ReplyTimeoutError,
    SessionLostError,
    UnreachableError,
)
from rallypoint.protocol.session.spec import SessionVerb, Status
from rallypoint.protocol.spec import CloseReason
from rallypoint.store.reach import Reacher
from rallypoint.store.trunk import Trunk
from rallypoint.types import Endpoint

V = SessionVerb
JOIN_S = 60
LONG_S = 300.0


peer = session_peer
line = opened_trunk


def test_a_handler_amid_a_step_of_its_own_thread_ends_nothing(line):
    trunk, _ = line
    (ticket,) = trunk.begin([(V.GET, (b"/k",))])
    with trunk._turn:
        trunk._holder = threading.get_ident()
        trunk.tell(trunk.session.cancel, ticket)
        trunk._holder = None
    assert not ticket.is_cancelled
    trunk.forget(ticket)


def get(trunk, key, timeout_s=LONG_S):
    return trunk.ask(V.GET, (key,), timeout_s, waits=True)


def add(trunk, key=b"/n", timeout_s=LONG_S):
    return trunk.ask(V.ADD, (key, 1), timeout_s).fields()[0]


def test_calls_of_many_threads_share_one_connection(line, peer, pool):
    trunk, server = line
    waiting = [pool.submit(get, trunk, b"/k%d" % number) for number in range(4)]
    asked = {}
    for _ in waiting:
        verb, key = server.next()
        assert verb == V.GET
        asked[key] = server.last_id
    adding = pool.submit(add, trunk)
    server.ok(V.ADD, server.expect(V.ADD, b"/n", 1), 7)
    assert adding.result(JOIN_S) == 7
    for number, future in reversed(list(enumerate(waiting))):
        server.ok(V.GET, asked[b"/k%d" % number], b"v%d" % number)
        assert future.result(JOIN_S).fields() == (b"v%d" % number,)
    assert not peer.has_callers()


def test_a_wait_is_cancelled_at_its_deadline_and_its_verdict_is_the_servers(line):
    trunk, server = line

    def play():
        number = server.expect(V.GET, b"/k")
        server.expect(V.CANCEL, number)
        server.expire(V.GET, number, [b"/k"])

    with ThreadPoolExecutor(1) as one:
        playing = one.submit(play)
        ticket = get(trunk, b"/k", 0.02)
        playing.result(JOIN_S)
    assert (ticket.status, ticket.fields()) == (Status.EXPIRED, ([b"/k"],))


def test_an_answer_that_crosses_the_cancellation_counts(line, pool):
    trunk, server = line
    getting = pool.submit(get, trunk, b"/k", 0.02)
    number = server.expect(V.GET, b"/k")
    server.expect(V.CANCEL, number)
    server.ok(V.GET, number, b"v")
    assert getting.result(JOIN_S).fields() == (b"v",)


def test_a_timeout_of_nothing_asks_and_cancels_in_one_segment(line, pool):
    trunk, server = line
    getting = pool.submit(get, trunk, b"/k", 0.0)
    number = server.expect(V.GET, b"/k")
    server.expect(V.CANCEL, number)
    server.expire(V.GET, number, [b"/k"])
    assert getting.result(JOIN_S).status is Status.EXPIRED


def test_a_silent_server_is_an_error_and_its_late_answer_is_dropped(line, pool, impatient):
    trunk, server = line
    with pytest.raises(ReplyTimeoutError, match="did not answer within"):
        add(trunk, timeout_s=0.0)
    late = server.expect(V.ADD, b"/n", 1)
    adding = pool.submit(add, trunk)
    server.ok(V.ADD, late, 1)
    server.ok(V.ADD, server.expect(V.ADD, b"/n", 1), 2)
    assert adding.result(JOIN_S) == 2


def test_a_request_that_cannot_be_made_leaves_everything_as_it_was(line, pool):
    trunk, server = line
    with pytest.raises(LocalProtocolError):
        trunk.ask(V.SET, (bytes(10_000), b""), LONG_S)
    adding = pool.submit(add, trunk)
    server.ok(V.ADD, server.expect(V.ADD, b"/n", 1), 1)
    assert adding.result(JOIN_S) == 1


def test_a_lost_connection_is_made_again_and_what_was_not_answered_is_sent_again(line, peer, pool):
    trunk, server = line
    getting = pool.submit(get, trunk, b"/late")
    first = server.expect(V.GET, b"/late")
    adding = pool.submit(add, trunk)
    second = server.expect(V.ADD, b"/n", 1)
    server.close()
    again = peer.meet(is_resumed=1)
    assert again.hello[1] == SESSION
    assert again.expect(V.GET, b"/late") == first
    assert again.expect(V.ADD, b"/n", 1) == second
    again.ok(V.ADD, second, 1)
    assert adding.result(JOIN_S) == 1
    again.ok(V.GET, first, b"v")
    assert getting.result(JOIN_S).fields() == (b"v",)


def test_a_call_while_there_is_no_connection_is_sent_over_the_next(line, peer, pool):
    trunk, server = line
    getting = pool.submit(get, trunk, b"/late")
    first = server.expect(V.GET, b"/late")
    server.close()
    silent = peer.accept(shakes_hands=False)
    adding = pool.submit(add, trunk)
    while not trunk._followers:
        pass
    silent.close()
    again = peer.meet(is_resumed=1)
    assert again.expect(V.GET, b"/late") == first
    again.ok(V.ADD, again.expect(V.ADD, b"/n", 1), 1)
    again.ok(V.GET, first, b"v")
    assert adding.result(JOIN_S) == 1
    getting.result(JOIN_S)


def test_the_time_is_up_while_the_server_is_away(line, peer, impatient):
    trunk, server = line
    server.close()
    peer.listener.close()
    with pytest.raises(UnreachableError, match=r"has been unreachable for 0\.\d+ s .* connection refused") as caught:
        add(trunk, timeout_s=0.1)
    assert isinstance(caught.value, ConnectionLostError)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.unreachable_s > 0
    assert caught.value.waited_s >= 0.1


def test_a_call_shorter_than_the_pause_between_attempts_keeps_time_to_connect(line, peer, pool, monkeypatch):
    trunk, server = line
    server.close()
    trunk._uplink.lose(trunk._uplink.link, ConnectionLostError("gone", endpoint=trunk.endpoint))
    trunk._uplink.attempts, trunk._uplink.tried_at = 20, monotonic() + LONG_S  # the pause ends after the call's time
    pauses = []
    monkeypatch.setattr(trunk, "_pause", lambda until: pauses.append(until) or True)
    started = monotonic()
    adding = pool.submit(add, trunk, timeout_s=LONG_S)
    again = peer.meet(is_resumed=1)
    again.ok(V.ADD, again.expect(V.ADD, b"/n", 1), 1)
    assert adding.result(JOIN_S) == 1
    assert pauses[0] - started < 0.9 * LONG_S


def test_a_forgotten_session_leaves_writes_in_doubt_and_the_rest_goes_on(line, peer, pool):
    trunk, server = line
    getting = pool.submit(get, trunk, b"/late")
    first = server.expect(V.GET, b"/late")
    adding = pool.submit(add, trunk)
    server.expect(V.ADD, b"/n", 1)
    server.close()
    again = peer.meet(is_resumed=0, session=b"t" * 16)
    with pytest.raises(SessionLostError, match="whether this ADD was applied is not known"):
        adding.result(JOIN_S)
    assert again.expect(V.GET, b"/late") == first
    again.ok(V.GET, first, b"v")
    assert getting.result(JOIN_S).fields() == (b"v",)


def test_other_data_end_everything(line, peer, pool):
    trunk, server = line
    getting = pool.submit(get, trunk, b"/late")
    server.expect(V.GET, b"/late")
    server.close()
    peer.meet(data=b"o" * 16)
    with pytest.raises(SessionLostError, match="has other data now"):
        getting.result(JOIN_S)
    with pytest.raises(SessionLostError, match="has other data now"):
        add(trunk)


def test_a_server_that_holds_nothing_for_long_ends_everything_when_it_ends(peer, pool):
    endpoint = Endpoint("127.0.0.1", peer.port)
    reacher = Reacher([endpoint])
    opening = pool.submit(reacher.open, LONG_S, may_be_plain=False)
    server = peer.meet(data=LIFE)
    trunk = Trunk(endpoint, opening.result(JOIN_S), reacher)
    getting = pool.submit(get, trunk, b"/late")
    server.expect(V.GET, b"/late")
    server.say_last(CloseReason.ENDED, "the server stops")
    with pytest.raises(SessionLostError, match="has ended, and what it held with it: the server stops"):
        getting.result(JOIN_S)
    assert not peer.has_callers()


def test_nobody_listens_any_more_where_what_was_held_has_ended(peer, pool, impatient):
    endpoint = Endpoint("127.0.0.1", peer.port)
    reacher = Reacher([endpoint])
    opening = pool.submit(reacher.open, LONG_S, may_be_plain=False)
    server = peer.meet(data=LIFE, timeout_ms=20)
    trunk = Trunk(endpoint, opening.result(JOIN_S), reacher)
    server.close()
    peer.listener.close()
    with pytest.raises(SessionLostError, match="is gone, and what it held with it"):
        add(trunk)


@pytest.mark.parametrize("reason", [CloseReason.TAKEN_OVER, CloseReason.BAD_FRAME])
def test_some_last_words_are_final(line, pool, reason):
    trunk, server = line
    getting = pool.submit(get, trunk, b"/late")
    server.expect(V.GET, b"/late")
    server.say_last(reason, "that is it")
    with pytest.raises(ConnectionLostError, match=rf"closed the connection for good \({reason.value}\): that is it"):
        getting.result(JOIN_S)


def test_an_answer_without_meaning_costs_the_connection_not_the_session(line, peer, pool):
    trunk, server = line
    adding = pool.submit(add, trunk)
    server.expect(V.ADD, b"/n", 1)
    server.reply(bytes(13))
    with pytest.raises(RemoteProtocolError):
        adding.result(JOIN_S)
    adding = pool.submit(add, trunk)
    again = peer.meet(is_resumed=1)
    again.ok(V.ADD, again.expect(V.ADD, b"/n", 1), 1)
    assert adding.result(JOIN_S) == 1


def test_closing_ends_the_waits_of_other_threads_and_the_session(line, pool):
    trunk, server = line
    waiting = [pool.submit(get, trunk, b"/late") for _ in range(3)]
    for _ in waiting:
        server.expect(V.GET, b"/late")
    trunk.close("it is late")
    for future in waiting:
        with pytest.raises(ConnectionLostError, match=r"^it is late$"):
            future.result(JOIN_S)
    with pytest.raises(ConnectionLostError, match=r"^it is late$"):
        add(trunk)
    server.expect_end()


def test_an_owner_says_goodbye_and_an_heir_does_not(line):
    trunk, server = line
    trunk.close("it is late")
    assert server.next() == (V.BYE,)


def test_an_heir_says_nothing(line):
    trunk, server = line
    trunk.close("it belongs to another process", is_owner=False)
    assert server.sock.recv(100) == b""


def test_a_large_request_is_handed_on_while_answers_are_read(line, pool):
    trunk, server = line
    value = bytes(8 << 20)
    setting = pool.submit(trunk.ask, V.SET, (b"/k", value), LONG_S)
    adding = pool.submit(add, trunk)
    numbers = {}
    for _ in range(2):
        verb, *_ = server.next()
        numbers[verb] = server.last_id
    server.ok(V.ADD, numbers[V.ADD], 1)
    server.ok(V.SET, numbers[V.SET], 5)
    assert adding.result(JOIN_S) == 1
    assert setting.result(JOIN_S).fields() == (5,)


def test_a_thread_that_followed_leads_when_the_leader_is_done(line, pool):
    trunk, server = line
    first = pool.submit(get, trunk, b"/a")
    a = server.expect(V.GET, b"/a")
    second = pool.submit(get, trunk, b"/b")
    b = server.expect(V.GET, b"/b")
    server.ok(V.GET, a, b"1")
    first.result(JOIN_S)
    server.ok(V.GET, b, b"2")
    assert second.result(JOIN_S).fields() == (b"2",)


# --- signals ---------------------------------------------------------------------------------------------


def test_ctrl_c_ends_a_wait_and_the_session_goes_on_in_step(line, peer, pool):
    trunk, server = line
    assert threading.current_thread() is threading.main_thread()
    numbers = []

    def interrupt():
        numbers.append(server.expect(V.GET, b"/late"))
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = pool.submit(interrupt)
    with pytest.raises(KeyboardInterrupt):
        get(trunk, b"/late")
    interrupting.result(JOIN_S)
    adding = pool.submit(add, trunk)
    if peer_came_again(server, numbers[0]):
        again = peer.meet(is_resumed=1)
    else:
        server.ok(V.GET, numbers[0], b"too late")
        again = server
    again.ok(V.ADD, again.expect(V.ADD, b"/n", 1), 1)
    assert adding.result(JOIN_S) == 1


def peer_came_again(server, number):
    """Tell whether the interrupt struck amid a read, which costs the connection; else the wait is cancelled."""
    try:
        server.expect(V.CANCEL, number)
    except (AssertionError, ConnectionResetError):
        return True
    return False


def test_ctrl_c_ends_the_wait_of_a_thread_that_follows(line, pool):
    trunk, server = line
    leading = pool.submit(get, trunk, b"/a")
    a = server.expect(V.GET, b"/a")

    def interrupt():
        number = server.expect(V.GET, b"/b")
        os.kill(os.getpid(), signal.SIGINT)
        server.expect(V.CANCEL, number)

    interrupting = pool.submit(interrupt)
    with pytest.raises(KeyboardInterrupt):
        get(trunk, b"/b")
    interrupting.result(JOIN_S)
    server.ok(V.GET, a, b"1")
    leading.result(JOIN_S)


@pytest.mark.parametrize("is_following", [False, True])
def test_a_signal_handler_may_use_the_session_that_its_thread_waits_on(line, peer, pool, is_following):
    trunk, server = line
    answers = []
    others = [pool.submit(get, trunk, b"/other")] if is_following else []
    held = [server.expect(V.GET, b"/other") for _ in others]

    def play():
        number = server.expect(V.GET, b"/late")
        os.kill(os.getpid(), signal.SIGUSR1)
        conversation = server
        server.sock.settimeout(5)
        if peer_called(peer):
            conversation = peer.meet()
        conversation.ok(V.ADD, conversation.expect(V.ADD, b"/n", 1), 7)
        server.ok(V.GET, number, b"v")

    before = signal.signal(signal.SIGUSR1, lambda *_: answers.append(add(trunk)))
    try:
        playing = pool.submit(play)
        assert get(trunk, b"/late").fields() == (b"v",)
        playing.result(JOIN_S)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert answers == [7]
    for number, other in zip(held, others, strict=True):
        server.ok(V.GET, number, b"v")
        other.result(JOIN_S)


def peer_called(peer):
    """Tell whether the handler struck amid a step of its own thread and has a session of its own."""
    return bool(select.select([peer.listener], [], [], 0.3)[0])


def test_posts_are_not_waited_for_but_now_and_then(line, pool, monkeypatch):
    monkeypatch.setattr("rallypoint.store.trunk.POSTS_MAX", 3)
    trunk, server = line
    for _ in range(2):
        trunk.post(V.SET, (b"/k", b"v"), LONG_S)
    third = pool.submit(trunk.post, V.SET, (b"/k", b"v"), LONG_S)
    numbers = [server.expect(V.SET, b"/k", b"v") for _ in range(3)]
    for number in numbers:
        server.ok(V.SET, number, number)
    third.result(JOIN_S)
