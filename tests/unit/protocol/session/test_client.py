from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallypoint.errors import LocalProtocolError, RemoteProtocolError
from rallypoint.protocol.session.auth import Welcome
from rallypoint.protocol.session.client import Closing, Happening, Request, Session
from rallypoint.protocol.session.codec import (
    REQUEST_HEAD_SIZE,
    decode_head,
    decode_request,
    encode_closing,
    encode_event,
    encode_refusal,
    encode_reply,
)
from rallypoint.protocol.session.spec import EventKind, SessionVerb, Status
from rallypoint.protocol.spec import CloseReason

V = SessionVerb


def begin(session, verb, *fields):
    request = Request(verb)
    return request, session.begin(request, *fields)


def heard(frame):
    """Give what a server reads: verb, id, done, fields."""
    verb, number, done = decode_head(frame, 0)
    return V(verb), number, done, decode_request(verb, frame, REQUEST_HEAD_SIZE, len(frame))[1:]


def answer(request, *fields, status=Status.OK):
    return encode_reply(status, request.verb, request.id, *fields)


def welcome(*, is_resumed):
    return Welcome(b"s" * 16, is_resumed, b"d" * 16, b"l" * 16, 10_000, 5)


def test_ids_rise_and_done_passes_writes_that_were_answered():
    session = Session()
    get, frame = begin(session, V.GET, b"/a")
    assert heard(frame) == (V.GET, 1, 1, (b"/a",))
    write, frame = begin(session, V.SET, b"/b", b"v")
    assert heard(frame) == (V.SET, 2, 2, (b"/b", b"v"))
    _, frame = begin(session, V.ADD, b"/n", 1)
    assert heard(frame)[1:3] == (3, 2)
    assert session.receive(answer(write, 9)) == [write]
    assert (write.status, write.fields()) == (Status.OK, (9,))
    _, frame = begin(session, V.CHECK, [b"/a"])
    assert heard(frame)[1:3] == (4, 3)
    assert get.status is None


def test_a_request_that_cannot_be_made_changes_nothing():
    session = Session()
    request = Request(V.SET)
    with pytest.raises(LocalProtocolError):
        session.begin(request, bytes(10_000), b"")
    assert request.id == 0
    assert session.unanswered == []
    _, frame = begin(session, V.PING, 1)
    assert heard(frame)[1] == 1


@given(st.lists(st.integers(1, 40), min_size=1))
def test_answers_come_in_any_order_and_cut_anywhere(cuts):
    session = Session()
    requests = [begin(session, V.READ, b"/k%d" % number)[0] for number in range(6)]
    order = [requests[number] for number in (3, 0, 5, 1, 4, 2)]
    stream = b"".join(answer(request, 1, b"v" * request.id) for request in order)
    came = []
    while stream:
        size = cuts[len(came) % len(cuts)]
        came += session.receive(stream[:size])
        stream = stream[size:]
    assert came == order
    assert [request.fields() for request in requests] == [(1, b"v" * request.id) for request in requests]


def test_a_wait_is_cancelled_once_and_only_while_it_waits():
    session = Session()
    wait, _ = begin(session, V.WAIT, [b"/a"])
    assert heard(session.cancel(wait)) == (V.CANCEL, 0, 2, (1,))
    session.receive(answer(wait, [b"/a"], status=Status.EXPIRED))
    assert wait.fields() == ([b"/a"],)
    assert session.cancel(wait) == b""
    check, _ = begin(session, V.CHECK, [b"/a"])
    assert session.cancel(check) == b""


def test_what_is_forgotten_is_dropped_when_it_comes_and_not_sent_again():
    session = Session()
    add, _ = begin(session, V.ADD, b"/n", 1)
    wait, _ = begin(session, V.GET, b"/k")
    assert session.forget(add) == b""
    assert heard(session.forget(wait)) == (V.CANCEL, 0, 3, (2,))
    assert session.forget(wait) == b""
    assert session.receive(answer(add, 1) + answer(wait, b"v")) == []
    assert session.resume(welcome(is_resumed=1)) == []


def test_an_answer_to_what_was_never_asked_breaks_the_protocol():
    session = Session()
    begin(session, V.PING, 1)
    with pytest.raises(RemoteProtocolError, match="answers request 2, the last one was 1"):
        session.receive(encode_reply(Status.OK, V.PING, 2, 1))


def test_what_was_not_answered_is_sent_again_in_order():
    session = Session()
    frames = [begin(session, V.ADD, b"/n", number)[1] for number in range(3)]
    wait, frame = begin(session, V.WAIT, [b"/late"])
    frames.append(frame)
    session.cancel(wait)
    first = session.unanswered[1]
    session.receive(answer(first, 5)[:7])  # and then the connection breaks
    session.lose()
    *again, cancel = session.resume(welcome(is_resumed=1))
    assert again == frames
    assert heard(cancel)[::3] == (V.CANCEL, (4,))
    assert session.id == b"s" * 16
    assert session.receive(answer(first, 5)) == [first]


def test_the_writes_of_a_forgotten_session_are_doubtful():
    session = Session()
    begin(session, V.GET, b"/k")
    add, _ = begin(session, V.ADD, b"/n", 1)
    assert session.doubtful() == [add]
    session.fail(add, "who knows")
    assert add.failure == "who knows"
    (frame,) = session.resume(welcome(is_resumed=0))
    assert heard(frame)[0] is V.GET


def test_an_arrival_that_nobody_wants_is_taken_back_until_the_server_has_shown_that_it_knows():
    session = Session()
    meet, _ = begin(session, V.MEET, b"/b", 0, 2, b"me")
    session.forget(meet)
    session.lose()
    assert [heard(frame)[::3] for frame in session.resume(welcome(is_resumed=1))] == [(V.CANCEL, (1,))]
    ping, _ = begin(session, V.PING, 1)
    session.receive(answer(ping, 1))
    assert session.resume(welcome(is_resumed=1)) == []


def test_a_watch_stands_and_is_begun_again_from_where_it_was():
    session = Session()
    watch, _ = begin(session, V.WATCH, b"/job/", 1, -1)
    assert session.receive(answer(watch, 5) + encode_event(1, EventKind.SET, b"/job/a", b"v", 8)) == [watch]
    assert session.events == [(watch, Happening(EventKind.SET, b"/job/a", b"v", 8))]
    assert [heard(frame)[::3] for frame in session.resume(welcome(is_resumed=1))] == [(V.WATCH, (b"/job/", 1, 8))]
    assert session.receive(answer(watch, 9)) == [watch]
    assert heard(session.unwatch(watch))[::3] == (V.UNWATCH, (1,))
    assert session.unwatch(watch) == b""
    session.events.clear()
    session.receive(encode_event(1, EventKind.DELETED, b"/job/a", b"", 9))
    assert session.events == []
    assert session.resume(welcome(is_resumed=1)) == []


def test_a_watch_that_the_server_does_not_go_on_with_says_so():
    session = Session()
    watch, _ = begin(session, V.WATCH, b"/k", 0, -1)
    session.receive(answer(watch, 5))
    session.resume(welcome(is_resumed=1))
    session.receive(encode_refusal(1, CloseReason.TOO_MANY_WATCHES, "no"))
    assert session.events == [(watch, None)]


def test_the_servers_last_word_is_kept_until_the_next_connection():
    session = Session()
    session.receive(encode_closing(CloseReason.ENDED, "good night"))
    assert session.closing == Closing("ended", "good night")
    session.lose()
    assert session.closing is None


@pytest.mark.parametrize(
    "frame",
    [encode_reply(Status.CHALLENGE, None, 0, b"n" * 16), b"\x09\0\0\0\x30" + bytes(8), bytes(4), b"\xff" * 8],
)
def test_frames_without_meaning_break_the_protocol(frame):
    session = Session()
    with pytest.raises(RemoteProtocolError):
        session.receive(frame)


def test_an_event_of_an_unknown_kind_breaks_the_protocol():
    session = Session()
    watch, _ = begin(session, V.WATCH, b"/k", 0, -1)
    frame = bytearray(encode_event(watch.id, EventKind.SET, b"/k", b"", 1))
    frame[13] = 9
    with pytest.raises(RemoteProtocolError, match="an event of kind 9"):
        session.receive(bytes(frame))


@pytest.mark.parametrize("size", [3, 100_000])
def test_an_answers_fields_may_be_had_as_they_came(size):
    session = Session()
    request, _ = begin(session, V.READ, b"/k")
    session.receive(answer(request, 5, b"v" * size))
    assert bytes(request.rest(0)) == (5).to_bytes(8, "little") + bytes(request.rest(8))
    assert bytes(request.rest(8)) == size.to_bytes(8, "little") + b"v" * size


def test_the_rest_of_a_large_answer_may_be_written_where_it_belongs():
    session = Session()
    request, _ = begin(session, V.MULTI_GET, [b"/k", b"/l"])
    values = [b"v" * 100_000, b"w" * 100_000]
    frame = answer(request, values)
    assert session.room() is None
    assert session.receive(frame[:100]) == []
    room = session.room()
    room[:5] = frame[100:105]
    assert session.fill(5) == []
    room = session.room()
    room[:] = frame[105:]
    assert session.fill(len(room)) == [request]
    assert request.fields() == (values,)
    assert {type(value) for value in request.fields()[0]} == {bytes}
    assert bytes(request.rest(0)) == frame[13:]
