from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
from tests.support.twins import make_engine, over_each_twin, python_twin_only
from tests.support.wire import VALIDATE, Connection, Wire

from rallypoint.protocol.codec import I64, U64, encode_request
from rallypoint.protocol.server import RequestReader
from rallypoint.protocol.session.codec import encode_closing, encode_reply
from rallypoint.protocol.session.codec import encode_request as encode_session_request
from rallypoint.protocol.session.spec import NONCE_SIZE, OPENING, VERSION, SessionVerb, Status
from rallypoint.protocol.spec import CloseReason, Verb
from rallypoint.server.engine import (
    Close,
    Connected,
    Disconnected,
    Limits,
    Pause,
    Received,
    Reply,
    Resumed,
    Stopping,
    Ticked,
    Unread,
)
from rallypoint.server.limits import STEP_REQUESTS_MAX
from rallypoint.server.vocabulary import Origin

GO_ON = b"\x00"

pytestmark = over_each_twin


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def first(wire: Wire) -> Connection:
    return wire.connect()


@pytest.fixture
def other(wire: Wire) -> Connection:
    return wire.connect()


def ping(number: int) -> bytes:
    return encode_request(Verb.PING, number)


def pong(number: int) -> bytes:
    return number.to_bytes(4, "little")


def reason_of(connection: Connection) -> CloseReason | None:
    return None if connection.closed is None else connection.closed.reason


# --- the door --------------------------------------------------------------------------------------------


def test_a_step_returns_all_that_its_event_causes_the_released_first() -> None:
    engine = make_engine()
    for peer in (7, 9):
        assert engine.step(Connected(peer), 0.0) == []
        assert engine.step(Received(peer, VALIDATE), 0.0) == []
    assert engine.step(Received(9, encode_request(Verb.WAIT, [b"/n"])), 0.0) == []
    request = encode_request(Verb.ADD, b"/n", 5)
    assert engine.step(Received(7, request + b"\x13"), 0.0) == [
        Reply(9, GO_ON),
        Reply(7, I64.pack(5)),
        Close(7, CloseReason.UNKNOWN_VERB, "the verb byte is 19, the last known one is 18"),
    ]


def test_a_released_peer_is_answered_key_by_key_in_the_order_of_registration() -> None:
    engine = make_engine()
    for peer in (1, 2, 3, 4):
        engine.step(Connected(peer), 0.0)
        engine.step(Received(peer, VALIDATE), 0.0)
    for peer, key in ((3, b"/a"), (2, b"/b"), (1, b"/a")):
        engine.step(Received(peer, encode_request(Verb.WAIT, [key])), 0.0)
    effects = engine.step(Received(4, encode_request(Verb.MULTI_SET, [(b"/b", b""), (b"/a", b"")])), 0.0)
    assert effects == [Reply(2, GO_ON), Reply(3, GO_ON), Reply(1, GO_ON)]


def test_events_of_peers_that_are_gone_are_ignored(wire: Wire, first: Connection) -> None:
    first.send(b"\xff")
    engine = wire.engine
    for event in (Disconnected(first.peer), Received(first.peer, ping(1)), Resumed(first.peer), Disconnected(99)):
        assert engine.step(event, 0.0) == []


def test_a_peer_number_may_be_used_again_once_it_is_gone(wire: Wire) -> None:
    engine = make_engine()
    engine.step(Connected(1), 0.0)
    with pytest.raises(AssertionError, match="peer 1 connected twice"):
        engine.step(Connected(1), 0.0)
    engine.step(Received(1, VALIDATE), 0.0)
    engine.step(Disconnected(1), 0.0)
    engine.step(Connected(1), 5.0)
    effects = engine.step(Received(1, ping(1)), 5.0)
    assert [type(effect) for effect in effects] == [Close]


# --- handshake -------------------------------------------------------------------------------------------


def test_a_peer_that_does_not_validate_in_time_is_closed() -> None:
    wire = Wire(Limits(handshake_timeout_s=5))
    silent = wire.connect(validates=False)
    half = wire.connect(validates=False)
    half.send(VALIDATE[:3])
    valid = wire.connect()
    wire.tick(4.9)
    assert silent.closed is None
    wire.tick(0.1)
    assert (reason_of(silent), reason_of(half)) == (CloseReason.HANDSHAKE_TIMEOUT,) * 2
    assert silent.closed is not None
    assert silent.closed.detail == "VALIDATE did not come within 5 s"
    wire.tick(1e9)
    assert valid.closed is None


def test_the_next_deadline_is_that_of_the_oldest_handshake() -> None:
    wire = Wire(Limits(handshake_timeout_s=5))
    engine = wire.engine
    assert engine.next_deadline() is None
    one = wire.connect(validates=False)
    wire.now = 1.0
    two = wire.connect(validates=False)
    assert engine.next_deadline() == 5.0
    one.send(VALIDATE)
    assert engine.next_deadline() == 6.0
    two.disconnect()
    assert engine.next_deadline() is None


def test_a_handshake_deadline_does_not_outlive_its_connection() -> None:
    engine = make_engine(Limits(handshake_timeout_s=5))
    engine.step(Connected(1), 0.0)
    engine.step(Disconnected(1), 1.0)
    engine.step(Connected(1), 2.0)
    assert engine.next_deadline() == 7.0
    assert engine.step(Ticked(), 5.0) == []


def test_one_connection_too_many_is_closed_and_the_others_stay() -> None:
    wire = Wire(Limits(connections_max=2))
    one, _, three = (wire.connect() for _ in range(3))
    assert reason_of(three) is CloseReason.TOO_MANY_CONNECTIONS
    one.disconnect()
    assert wire.connect().closed is None


def test_at_the_limit_a_newcomer_takes_the_place_of_the_oldest_handshake() -> None:
    wire = Wire(Limits(connections_max=3))
    wire.connect()
    oldest, older = wire.connect(validates=False), wire.connect(validates=False)
    newcomer = wire.connect()
    assert oldest.closed is not None
    assert oldest.closed.reason is CloseReason.TOO_MANY_HANDSHAKES
    assert oldest.closed.detail == "3 peers are connected, the limit is 3, and its handshake is the oldest"
    assert (older.closed, newcomer.closed) == (None, None)


def test_a_flood_of_handshakes_keeps_nobody_out() -> None:
    wire = Wire(Limits(handshakes_max=3))
    old = wire.connect()
    flood = [wire.connect(validates=False) for _ in range(5)]
    assert [reason_of(each) for each in flood] == [CloseReason.TOO_MANY_HANDSHAKES] * 2 + [None] * 3
    assert flood[0].closed is not None
    assert flood[0].closed.detail == "3 handshakes are under way, the limit is 3, and this one is the oldest"
    newcomer = wire.connect()
    assert (newcomer.closed, old.closed) == (None, None)
    assert reason_of(flood[2]) is CloseReason.TOO_MANY_HANDSHAKES
    wire.connect(validates=False)
    assert (flood[3].closed, flood[4].closed) == (None, None)  # the newcomer's is done


def connect_from(wire: Wire, host: str, *, opens_with: bytes = VALIDATE) -> Connection:
    connection = Connection(wire, len(wire.connections) + 1, None)
    wire.connections[connection.peer] = connection
    wire.step(Connected(connection.peer, f"{host}:1", Origin(host)))
    connection.send(opens_with)
    return connection


def test_too_many_peers_of_one_address_are_refused_and_other_addresses_are_not() -> None:
    wire = Wire(Limits(connections_per_address_max=2))
    silent = connect_from(wire, "10.0.0.1", opens_with=b"")
    one, _, third = (connect_from(wire, "10.0.0.1") for _ in range(3))
    assert third.closed is not None
    assert third.closed.reason is CloseReason.TOO_MANY_FROM_ADDRESS
    assert third.closed.detail == "2 peers from 10.0.0.1 are connected, the limit for one address is 2"
    assert connect_from(wire, "10.0.0.2").closed is None
    assert [connect_from(wire, "").closed for _ in range(3)] == [None] * 3  # Unix domain sockets
    silent.send(VALIDATE)
    assert reason_of(silent) is CloseReason.TOO_MANY_FROM_ADDRESS
    one.disconnect()
    assert connect_from(wire, "10.0.0.1").closed is None
    assert reason_of(connect_from(wire, "10.0.0.1")) is CloseReason.TOO_MANY_FROM_ADDRESS


def test_who_has_a_network_of_ipv6_addresses_is_one_place() -> None:
    wire = Wire(Limits(connections_per_address_max=2))
    for host in ("2001:db8:1:2::1", "2001:db8:1:2:ffff:4:5:6"):
        assert connect_from(wire, host).closed is None
    refused = connect_from(wire, "2001:db8:1:2::3")
    assert refused.closed is not None
    assert refused.closed.detail == "2 peers from 2001:db8:1:2::/64 are connected, the limit for one address is 2"
    assert connect_from(wire, "2001:db8:1:3::1").closed is None
    assert connect_from(wire, "fe80::1%eth0").closed is None


def test_a_session_of_an_address_with_too_many_is_told_why() -> None:
    wire = Wire(Limits(connections_per_address_max=1))
    connect_from(wire, "10.0.0.1")
    refused = connect_from(wire, "10.0.0.1", opens_with=OPENING)
    assert refused.closed is not None
    assert refused.read() == encode_closing(refused.closed.reason, refused.closed.detail)
    assert refused.closed.reason is CloseReason.TOO_MANY_FROM_ADDRESS


def test_one_key_too_many_is_refused_and_known_ones_still_change() -> None:
    wire = Wire(Limits(keys_max=2))
    first = wire.connect()
    first.ask(Verb.MULTI_SET, [(b"/a", b"1"), (b"/b", b"2"), (b"/a", b"3")])
    for verb, fields in (
        (Verb.SET, (b"/c", b"")),
        (Verb.ADD, (b"/c", 1)),
        (Verb.APPEND, (b"/c", b"")),
        (Verb.COMPARE_SET, (b"/c", b"", b"x")),
        (Verb.MULTI_SET, ([(b"/a", b""), (b"/c", b"")],)),
        (Verb.BARRIER, (b"/c", 2)),
    ):
        other = wire.connect()
        other.ask(verb, *fields)
        assert other.closed is not None
        assert other.closed.reason is CloseReason.STORE_FULL
        assert other.closed.detail == "the store would hold 3 keys, the limit is 2"
    first.ask(Verb.SET, b"/a", b"4")
    first.ask(Verb.QUEUE_PUSH, b"/q", b"item")
    first.ask(Verb.DELETE_KEY, b"/b")
    first.ask(Verb.SET, b"/c", b"")
    first.read()
    first.ask(Verb.GETNUMKEYS)
    assert first.read() == U64.pack(2)


@python_twin_only
def test_who_leaves_the_most_unread_is_closed_with_the_numbers() -> None:
    wire = Wire(Limits(output_total_max=5))
    first = wire.connect()
    wire.step(Unread(first.peer, 3, 6))
    assert first.closed is not None
    assert first.closed.reason is CloseReason.OUTPUT_TOTAL
    assert first.closed.detail == "all peers leave 6 bytes unread, this one 3, the limit is 5"
    assert wire.step(Unread(first.peer, 3, 6)) == []


@python_twin_only
@pytest.mark.parametrize("has_idle_peer_in_front", [False, True])
@pytest.mark.parametrize("gone_by", ["disconnecting", "a refusal", "the total"])
def test_half_requests_do_not_outlive_their_connections(
    monkeypatch: pytest.MonkeyPatch, has_idle_peer_in_front: bool, gone_by: str
) -> None:
    readers: weakref.WeakSet[RequestReader] = weakref.WeakSet()

    class WatchedReader(RequestReader):
        __slots__ = ("__weakref__",)

        def __init__(self, request_size_max: int) -> None:
            super().__init__(request_size_max)
            readers.add(self)

    monkeypatch.setattr("rallypoint.server.engine.RequestReader", WatchedReader)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        engine = make_engine(Limits(input_total_max=20 if gone_by == "the total" else 1000))
        if has_idle_peer_in_front:
            engine.step(Connected(1), 0.0)
            engine.step(Received(1, VALIDATE), 0.0)
        for half in (
            encode_request(Verb.SET, b"/key", bytes(9))[:-17],
            encode_request(Verb.MULTI_SET, [(b"/key", bytes(9))] * 3)[:-17],
        ):
            for _ in range(5):
                engine.step(Connected(2), 0.0)
                engine.step(Received(2, VALIDATE + half[:12]), 0.0)
                effects = engine.step(Received(2, half[12:]), 0.0)
                if gone_by == "a refusal":
                    effects += engine.step(Received(2, b"\xff" * 8), 0.0)
                elif gone_by == "disconnecting" or not effects:
                    engine.step(Disconnected(2), 0.0)
                assert [type(effect) for effect in effects] in ([], [Close])
                assert bool(effects) or gone_by != "a refusal"
                assert len(readers) == has_idle_peer_in_front
    finally:
        if was_enabled:
            gc.enable()


# --- whole or nothing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        encode_request(Verb.SET, b"/k", b"new"),
        encode_request(Verb.APPEND, b"/k", b"new"),
        encode_request(Verb.ADD, b"/n", 1),
        encode_request(Verb.MULTI_SET, [(b"/k", b"new"), (b"/l", b"new")]),
        encode_request(Verb.QUEUE_PUSH, b"/q", b"new"),
        encode_request(Verb.BARRIER, b"/n", 2),
        encode_request(Verb.DELETE_KEY, b"/k"),
    ],
    ids=lambda frame: Verb(frame[0]).name,
)
def test_half_a_request_leaves_no_trace(wire: Wire, other: Connection, frame: bytes) -> None:
    other.ask(Verb.SET, b"/k", b"old")
    before = wire.engine.statistics()
    for size in range(1, len(frame)):
        half = wire.connect()
        half.send(frame[:size])
        assert wire.engine.statistics().input_held == size
        half.disconnect()
    after = wire.engine.statistics()
    assert replace(after, requests=before.requests) == before  # the VALIDATEs
    other.ask(Verb.GET, b"/k")
    assert other.read() == U64.pack(3) + b"old"


def test_a_request_that_is_refused_changes_nothing(wire: Wire, first: Connection, other: Connection) -> None:
    first.ask(Verb.SET, b"/n", b"abc")
    first.ask(Verb.BARRIER, b"/n", 2)
    assert reason_of(first) is CloseReason.NOT_A_NUMBER
    other.ask(Verb.GET, b"/n")
    assert other.read() == U64.pack(3) + b"abc"
    assert wire.engine.statistics().closed == {CloseReason.NOT_A_NUMBER: 1}


def test_replies_before_a_refusal_are_delivered(first: Connection) -> None:
    first.send(ping(1) + ping(2) + b"\xc8" + ping(3))
    assert first.read() == pong(1) + pong(2)
    assert reason_of(first) is CloseReason.UNKNOWN_VERB


def test_a_write_past_the_stores_size_closes_the_writer_only() -> None:
    wire = Wire(Limits(stored_size_max=1000))
    first, other = wire.connect(), wire.connect()
    first.ask(Verb.SET, b"/k", bytes(1000))
    assert reason_of(first) is CloseReason.STORE_FULL
    other.ask(Verb.SET, b"/k", bytes(100))
    assert other.closed is None


def test_append_past_the_stored_limit_closes_with_a_reason() -> None:
    wire = Wire(Limits(value_stored_size_max=10))
    first = wire.connect()
    for _ in range(3):
        first.ask(Verb.APPEND, b"/k", b"1234")
    assert reason_of(first) is CloseReason.STORED_VALUE_TOO_LARGE


# --- bounded input ---------------------------------------------------------------------------------------


def test_over_the_total_the_peer_that_holds_most_is_closed_whoever_sent_last() -> None:
    wire = Wire(Limits(input_total_max=100))
    most, some, last = (wire.connect() for _ in range(3))
    most.send(encode_request(Verb.SET, b"/k", bytes(200))[:60])
    some.send(encode_request(Verb.SET, b"/k", bytes(200))[:30])
    last.send(encode_request(Verb.SET, b"/k", bytes(200))[:10])
    assert wire.engine.statistics().input_held == 100
    last.send(b"\x00")
    assert [reason_of(peer) for peer in (most, some, last)] == [CloseReason.INPUT_TOTAL, None, None]
    assert most.closed is not None
    assert most.closed.detail == "begun requests of all peers hold 101 bytes, this one's 60, the limit is 100"
    assert wire.engine.statistics().input_held == 41


def test_one_request_may_not_be_larger_than_its_limit() -> None:
    wire = Wire(Limits(input_size_max=50))
    first = wire.connect(cut=7)
    first.send(encode_request(Verb.SET, b"/k", bytes(31)))
    assert first.closed is None
    first.send(encode_request(Verb.SET, b"/k", bytes(32)))
    assert reason_of(first) is CloseReason.REQUEST_TOO_LARGE


def test_a_finished_request_holds_nothing(wire: Wire) -> None:
    first = wire.connect(cut=3)
    first.ask(Verb.MULTI_SET, [(b"/a", b"1"), (b"/b", b"2")])
    assert wire.engine.statistics().input_held == 0


def test_over_the_total_of_names_waited_for_the_newcomer_is_closed() -> None:
    wire = Wire(Limits(waited_names_max=5))
    first, second, third, setter = (wire.connect() for _ in range(4))
    first.ask(Verb.WAIT, [b"/a", b"/b", b"/a"])
    second.ask(Verb.WAIT, [b"/a", b"/b", b"/c"])
    second.ask(Verb.WAIT, [b"/d", b"/e", b"/f"])  # instead of the wait before
    third.ask(Verb.WAIT, [b"/a"])
    assert [reason_of(peer) for peer in (first, second, third)] == [None, None, CloseReason.TOO_MANY_WAITED]
    assert third.closed is not None
    assert third.closed.detail == "all peers would wait for 6 names, the limit is 5"
    setter.ask(Verb.MULTI_SET, [(b"/a", b""), (b"/b", b"")])
    assert first.read() == GO_ON
    first.ask(Verb.WAIT, [b"/g", b"/h"])
    second.disconnect()
    setter.ask(Verb.WAIT, [b"/x", b"/y", b"/z"])
    assert (reason_of(first), reason_of(setter)) == (None, None)


# --- bounded output --------------------------------------------------------------------------------------


def test_a_peer_that_causes_too_much_output_is_paused_until_it_is_sent() -> None:
    wire = Wire(Limits(output_size_max=10), resumes=False)
    first = wire.connect()
    first.send(ping(1) + ping(2) + ping(3) + ping(4) + encode_request(Verb.SET, b"/late", b""))
    assert first.read() == pong(1) + pong(2) + pong(3)
    assert first.is_paused
    statistics = wire.engine.statistics()
    assert (statistics.paused, statistics.input_held, statistics.keys) == (1, len(ping(4)) + 22, 0)
    wire.resume(first)
    assert first.read() == pong(4)
    statistics = wire.engine.statistics()
    assert (statistics.paused, statistics.input_held, statistics.keys) == (0, 0, 1)


def test_a_paused_peer_may_be_paused_again() -> None:
    wire = Wire(Limits(output_size_max=1), resumes=False)
    first = wire.connect()
    first.send(ping(1) + ping(2))
    for number in (1, 2):
        assert first.is_paused
        assert first.read() == pong(number)
        wire.resume(first)
    assert not first.is_paused


def test_a_paused_peers_input_that_comes_nevertheless_is_kept_and_counted() -> None:
    wire = Wire(Limits(output_size_max=1, input_total_max=20), resumes=False)
    first = wire.connect()
    first.send(ping(1))
    first.send(ping(2))
    assert first.read() == pong(1)
    wire.resume(first)
    assert first.read() == pong(2)
    for number in range(4, 9):
        first.send(ping(number))
    assert reason_of(first) is CloseReason.INPUT_TOTAL


def test_a_pause_of_one_peer_hinders_no_other() -> None:
    wire = Wire(Limits(output_size_max=1), resumes=False)
    first, other = wire.connect(), wire.connect()
    first.send(ping(1) + ping(2))
    other.ask(Verb.SET, b"/k", b"v")
    other.ask(Verb.GETNUMKEYS)
    assert other.read() == I64.pack(1)


def test_a_paused_peer_is_released_from_its_wait() -> None:
    wire = Wire(Limits(output_size_max=1), resumes=False)
    first, other = wire.connect(), wire.connect()
    first.send(encode_request(Verb.WAIT, [b"/k"]) + ping(1) + ping(2))
    first.read()
    other.ask(Verb.SET, b"/k", b"")
    assert first.read() == GO_ON


def test_the_pause_comes_after_the_replies_and_ends_the_step() -> None:
    engine = make_engine(Limits(output_size_max=1))
    engine.step(Connected(1), 0.0)
    effects = engine.step(Received(1, VALIDATE + ping(1) + ping(2)), 0.0)
    assert effects == [Reply(1, pong(1)), Pause(1)]
    assert engine.step(Resumed(1), 0.0) == [Reply(1, pong(2)), Pause(1)]
    assert engine.step(Resumed(1), 0.0) == []


@python_twin_only
def test_a_large_value_is_sent_as_the_stored_object() -> None:
    engine = make_engine()
    engine.step(Connected(1), 0.0)
    engine.step(Received(1, VALIDATE + encode_request(Verb.SET, b"/k", bytes(100_000))), 0.0)
    requests = encode_request(Verb.GET, b"/k") + encode_request(Verb.MULTI_GET, [b"/k", b"/k"])
    replies = [effect.data for effect in engine.step(Received(1, requests), 0.0) if isinstance(effect, Reply)]
    assert [len(data) for data in replies] == [8, 100_000] * 3
    assert replies[1] is replies[3] is replies[5]


@python_twin_only
def test_small_values_of_one_request_are_one_reply() -> None:
    engine = make_engine()
    engine.step(Connected(1), 0.0)
    values = {b"/a": bytes(1024), b"/b": bytes(1025), b"/c": b"", b"/d": b"x"}
    engine.step(Received(1, VALIDATE + encode_request(Verb.MULTI_SET, list(values.items()))), 0.0)
    replies = engine.step(Received(1, encode_request(Verb.MULTI_GET, [*values, b"/none"])), 0.0)
    assert replies == [
        Reply(1, U64.pack(1024) + bytes(1024) + U64.pack(1025)),
        Reply(1, bytes(1025)),
        Reply(1, U64.pack(0) + U64.pack(1) + b"x" + U64.pack(0)),
    ]


def test_all_peers_get_the_same_listing_until_a_key_comes_or_goes(each_twin: str) -> None:
    engine = make_engine()
    for peer in (1, 2):
        engine.step(Connected(peer), 0.0)
        engine.step(Received(peer, VALIDATE), 0.0)

    def listed(peer: int, *before: bytes) -> bytes:
        for frame in before:
            engine.step(Received(1, frame), 0.0)
        (reply,) = engine.step(Received(peer, encode_request(Verb.LIST_KEYS)), 0.0)
        assert isinstance(reply, Reply)
        return reply.data

    one = listed(1, encode_request(Verb.SET, b"/a", b""))
    assert one == I64.pack(1) + U64.pack(2) + b"/a"
    unchanging = (
        encode_request(Verb.SET, b"/a", b"other"),
        encode_request(Verb.QUEUE_PUSH, b"/q", b""),
        encode_request(Verb.DELETE_KEY, b"/none"),
    )
    again = listed(2, *unchanging)
    assert again == one
    assert each_twin == "native" or again is one
    for frame in CREATIONS[:-1]:
        assert b"/k" in listed(1, frame)
        assert b"/k" not in listed(2, encode_request(Verb.DELETE_KEY, b"/k"))


# --- waiting ---------------------------------------------------------------------------------------------

CREATIONS = [
    encode_request(Verb.SET, b"/k", b""),
    encode_request(Verb.APPEND, b"/k", b""),
    encode_request(Verb.ADD, b"/k", 0),
    encode_request(Verb.COMPARE_SET, b"/k", b"", b""),
    encode_request(Verb.MULTI_SET, [(b"/x", b""), (b"/k", b"")]),
    encode_request(Verb.BARRIER, b"/k", 5),
    encode_request(Verb.QUEUE_PUSH, b"/k", b""),
]


@pytest.mark.parametrize("frame", CREATIONS, ids=lambda frame: Verb(frame[0]).name)
def test_every_creation_of_a_key_wakes_its_waiter(first: Connection, other: Connection, frame: bytes) -> None:
    first.ask(Verb.WAIT, [b"/k"])
    other.send(frame)
    assert first.read() == GO_ON


@pytest.mark.parametrize(
    "frame",
    [
        encode_request(Verb.COMPARE_SET, b"/k", b"expected", b""),
        encode_request(Verb.GET, b"/k"),
        encode_request(Verb.CHECK, [b"/k"]),
        encode_request(Verb.WAIT, [b"/k"]),
        encode_request(Verb.DELETE_KEY, b"/k"),
        encode_request(Verb.QUEUE_POP, b"/k"),
        encode_request(Verb.QUEUE_LEN, b"/k"),
        encode_request(Verb.CANCEL_WAIT),
        encode_request(Verb.SET, b"/other", b""),
        encode_request(Verb.MULTI_SET, [(b"/x", b"")]),
        *(frame + encode_request(Verb.DELETE_KEY, b"/l") for frame in [encode_request(Verb.SET, b"/l", b"")]),
    ],
)
def test_nothing_else_wakes_a_waiter(first: Connection, other: Connection, frame: bytes) -> None:
    first.ask(Verb.WAIT, [b"/k", b"/l"])
    other.send(frame)
    assert first.read() == b""


def test_an_overwrite_wakes_nobody(first: Connection, other: Connection) -> None:
    other.ask(Verb.SET, b"/there", b"")
    first.ask(Verb.WAIT, [b"/there", b"/k"])
    other.ask(Verb.SET, b"/there", b"again")
    assert first.read() == b""


def test_a_key_that_was_deleted_again_does_not_count_as_arrived(first: Connection, other: Connection) -> None:
    first.ask(Verb.WAIT, [b"/a", b"/b"])
    other.ask(Verb.SET, b"/a", b"")
    other.ask(Verb.DELETE_KEY, b"/a")
    other.ask(Verb.SET, b"/b", b"")
    assert first.read() == b""
    other.ask(Verb.SET, b"/a", b"")
    assert first.read() == GO_ON


def test_a_key_named_twice_is_waited_for_once(first: Connection, other: Connection) -> None:
    first.ask(Verb.WAIT, [b"/a", b"/a"])
    other.ask(Verb.SET, b"/a", b"")
    assert first.read() == GO_ON


def test_a_waiting_connection_is_served(first: Connection, other: Connection) -> None:
    first.send(encode_request(Verb.WAIT, [b"/a"]) + ping(5))
    assert first.read() == pong(5)
    first.ask(Verb.SET, b"/a", b"")
    assert first.read() == GO_ON


@pytest.mark.parametrize(
    "wait", [encode_request(Verb.WAIT, [b"/b"]), encode_request(Verb.BARRIER, b"/n", 2)], ids=["WAIT", "BARRIER"]
)
def test_a_second_wait_replaces_the_first(first: Connection, other: Connection, wait: bytes) -> None:
    first.ask(Verb.WAIT, [b"/a"])
    first.send(wait)
    other.ask(Verb.SET, b"/a", b"")
    assert first.read() == b""
    other.ask(Verb.SET, b"/b", b"")
    other.ask(Verb.BARRIER, b"/n", 2)
    assert first.read() == GO_ON


def test_a_wait_that_is_answered_at_once_still_replaces_the_first(first: Connection, other: Connection) -> None:
    other.ask(Verb.SET, b"/there", b"")
    first.ask(Verb.WAIT, [b"/a"])
    first.ask(Verb.WAIT, [b"/there"])
    other.ask(Verb.SET, b"/a", b"")
    assert first.read() == GO_ON


def test_a_cancelled_wait_is_forgotten(wire: Wire, first: Connection, other: Connection) -> None:
    first.ask(Verb.WAIT, [b"/a"])
    first.ask(Verb.CANCEL_WAIT)
    other.ask(Verb.SET, b"/a", b"")
    assert first.read() == b"\x01"
    assert wire.engine.statistics().waiting == 0


def test_a_peer_that_left_is_not_answered(wire: Wire, first: Connection, other: Connection) -> None:
    first.ask(Verb.WAIT, [b"/a"])
    first.disconnect()
    other.ask(Verb.SET, b"/a", b"")
    assert first.read() == b""
    assert wire.engine.statistics().waiting == 0


def test_a_peer_that_is_closed_for_a_fault_leaves_its_wait(wire: Wire, first: Connection) -> None:
    first.send(encode_request(Verb.WAIT, [b"/a"]) + b"\xff")
    assert wire.engine.statistics().waiting == 0


# --- queues ----------------------------------------------------------------------------------------------


def test_an_item_wakes_one_waiter_the_first(wire: Wire) -> None:
    one, two, three, pusher = (wire.connect() for _ in range(4))
    for connection in (two, one, three):
        connection.ask(Verb.WAIT, [b"/q"])
    pusher.ask(Verb.QUEUE_PUSH, b"/q", b"1")
    assert [connection.read() for connection in (one, two, three)] == [b"", GO_ON, b""]
    pusher.ask(Verb.QUEUE_PUSH, b"/q", b"2")
    assert [connection.read() for connection in (one, two, three)] == [GO_ON, b"", b""]


def test_others_keep_waiting_if_the_item_is_popped_meanwhile(wire: Wire) -> None:
    one, two, pusher = (wire.connect() for _ in range(3))
    one.ask(Verb.WAIT, [b"/q"])
    two.ask(Verb.WAIT, [b"/q", b"/k"])
    pusher.ask(Verb.QUEUE_PUSH, b"/q", b"1")
    one.ask(Verb.QUEUE_POP, b"/q")
    pusher.ask(Verb.SET, b"/k", b"")
    assert two.read() == b""
    pusher.ask(Verb.QUEUE_PUSH, b"/q", b"2")
    assert two.read() == GO_ON


def test_a_waiter_for_a_queue_and_a_key_is_released_by_the_key(first: Connection, other: Connection) -> None:
    other.ask(Verb.QUEUE_PUSH, b"/q", b"1")
    first.ask(Verb.WAIT, [b"/q", b"/k"])
    other.ask(Verb.SET, b"/k", b"")
    assert first.read() == GO_ON


def test_a_connection_woken_once_by_a_queue_is_not_listed_for_it_any_more(wire: Wire) -> None:
    one, two, pusher = (wire.connect() for _ in range(3))
    one.ask(Verb.WAIT, [b"/q"])
    pusher.ask(Verb.QUEUE_PUSH, b"/q", b"1")
    one.ask(Verb.QUEUE_POP, b"/q")
    one.read()
    two.ask(Verb.WAIT, [b"/q"])
    one.ask(Verb.WAIT, [b"/else"])
    pusher.ask(Verb.QUEUE_PUSH, b"/q", b"2")
    assert (one.read(), two.read()) == (b"", GO_ON)


@pytest.mark.parametrize("gives_back", ["disconnects", "is closed", "cancels", "waits anew", "meets"])
def test_a_call_that_is_not_followed_goes_to_the_next(wire: Wire, gives_back: str) -> None:
    one, two, pusher = (wire.connect() for _ in range(3))
    one.ask(Verb.WAIT, [b"/q"])
    two.ask(Verb.WAIT, [b"/q"])
    pusher.ask(Verb.QUEUE_PUSH, b"/q", b"1")
    assert (one.read(), two.read()) == (GO_ON, b"")
    match gives_back:
        case "disconnects":
            one.disconnect()
        case "is closed":
            one.send(b"\xff")
        case "cancels":
            one.ask(Verb.CANCEL_WAIT)
        case "waits anew":
            one.ask(Verb.WAIT, [b"/else"])
        case _:
            one.ask(Verb.BARRIER, b"/b", 2)
    assert two.read() == GO_ON


def test_a_call_that_was_followed_is_over(wire: Wire) -> None:
    one, two, pusher = (wire.connect() for _ in range(3))
    one.ask(Verb.WAIT, [b"/q"])
    pusher.ask(Verb.QUEUE_PUSH, b"/q", b"1")
    one.ask(Verb.QUEUE_POP, b"/q")
    two.ask(Verb.WAIT, [b"/q"])
    third = wire.connect()
    third.ask(Verb.WAIT, [b"/q"])
    pusher.ask(Verb.QUEUE_PUSH, b"/q", b"2")
    one.disconnect()
    assert (two.read(), third.read()) == (GO_ON, b"")


def test_asking_an_unknown_queue_leaves_nothing_behind(wire: Wire, first: Connection) -> None:
    first.ask(Verb.QUEUE_POP, b"/q")
    first.ask(Verb.QUEUE_LEN, b"/q")
    assert first.read() == I64.pack(0) * 2
    statistics = wire.engine.statistics()
    assert (statistics.queues, statistics.stored_size) == (0, 0)


# --- barriers --------------------------------------------------------------------------------------------


def test_the_last_to_arrive_releases_all(wire: Wire) -> None:
    members = [wire.connect() for _ in range(4)]
    for member in members:
        assert all(each.read() == b"" for each in members)
        member.ask(Verb.BARRIER, b"/b", 4)
    assert [member.read() for member in members] == [GO_ON] * 4


@pytest.mark.parametrize("world_size", [1, 0, -5])
def test_a_world_of_one_is_complete_at_once(first: Connection, world_size: int) -> None:
    first.ask(Verb.BARRIER, b"/b", world_size)
    assert first.read() == GO_ON


@pytest.mark.parametrize(
    "frame",
    [
        encode_request(Verb.SET, b"/b", b"9"),
        encode_request(Verb.ADD, b"/b", 0),
        encode_request(Verb.COMPARE_SET, b"/b", b"x", b""),
        encode_request(Verb.QUEUE_PUSH, b"/b", b""),
        encode_request(Verb.APPEND, b"/b", b"9"),
        encode_request(Verb.DELETE_KEY, b"/b") + encode_request(Verb.SET, b"/b", b"1"),
    ],
    ids=lambda frame: Verb(frame[0]).name,
)
def test_nothing_but_an_arrival_releases_a_barrier(first: Connection, other: Connection, frame: bytes) -> None:
    first.ask(Verb.BARRIER, b"/b", 2)
    other.send(frame)
    assert first.read() == b""
    other.ask(Verb.BARRIER, b"/b", 2)
    assert first.read() == GO_ON


def test_a_participant_that_gave_up_stays_counted(first: Connection, other: Connection) -> None:
    first.ask(Verb.BARRIER, b"/b", 2)
    first.ask(Verb.CANCEL_WAIT)
    first.read()
    other.ask(Verb.BARRIER, b"/b", 2)
    assert (first.read(), other.read()) == (b"", GO_ON)


def test_members_that_disagree_on_the_world_are_released_each_at_its_own_count(wire: Wire) -> None:
    two, three, last = (wire.connect() for _ in range(3))
    two.ask(Verb.BARRIER, b"/b", 2)
    three.ask(Verb.BARRIER, b"/b", 3)
    assert (two.read(), three.read()) == (GO_ON, b"")
    last.ask(Verb.BARRIER, b"/b", 3)
    assert (three.read(), last.read()) == (GO_ON, GO_ON)


@pytest.mark.parametrize("data", [b"RPS2 and more", b"RQ", b"RP\x00S1"])
def test_what_is_said_of_an_opening_does_not_depend_on_its_cuts(data: bytes) -> None:
    right = next(at for at, byte in enumerate(OPENING) if data[at] != byte)
    detail = f"the connection opened with {data[: right + 1]!r} where {OPENING!r} was to come"
    for cut in range(len(data)):
        connection = Wire().connect(validates=False)
        for part in filter(None, (data[:cut], data[cut:])):
            connection.send(part)
        assert connection.closed == Close(connection.peer, CloseReason.BAD_HANDSHAKE, detail)


# --- the end ---------------------------------------------------------------------------------------------


def test_who_speaks_of_sessions_is_told_of_the_end_and_nobody_else(wire: Wire, first: Connection) -> None:
    wire.connect(validates=False)
    session = wire.connect(validates=False)
    session.send(OPENING)
    first.ask(Verb.WAIT, [b"/k"])
    last_word = encode_closing(CloseReason.ENDED, "the server stops")
    assert wire.engine.step(Stopping(), 0.0) == [Reply(session.peer, last_word)]


# --- numbers ---------------------------------------------------------------------------------------------


def test_the_statistics_tell_what_is_going_on(wire: Wire, first: Connection, other: Connection) -> None:
    wire.connect(validates=False)
    first.send(encode_request(Verb.WAIT, [b"/a"]) + ping(1)[:3])
    other.send(encode_request(Verb.SET, b"/k", b"v") + encode_request(Verb.QUEUE_PUSH, b"/q", b"") + b"\xff")
    statistics = wire.engine.statistics()
    assert (statistics.connections, statistics.validated) == (2, 1)
    assert (statistics.keys, statistics.queues, statistics.waiting) == (1, 1, 1)
    assert statistics.input_held == 3
    assert statistics.requests == 5
    assert statistics.closed == {CloseReason.UNKNOWN_VERB: 1}


def test_many_requests_of_one_session_leave_others_their_turn():
    engine = make_engine(Limits())
    engine.step(Connected(1), 0.0)
    hello = encode_session_request(SessionVerb.HELLO, 0, 0, VERSION, b"", b"", b"", bytes(NONCE_SIZE), 1000)
    engine.step(Received(1, OPENING + hello), 0.0)
    count = 2 * STEP_REQUESTS_MAX
    asked = b"".join(encode_session_request(SessionVerb.PING, number, 0, 7) for number in range(1, count + 1))
    size = len(encode_reply(Status.OK, SessionVerb.PING, 1, 7))
    first, rest = engine.step(Received(1, asked), 0.0), engine.step(Resumed(1), 0.0)
    assert [effect for effect in first + rest if not isinstance(effect, Reply)] == [Pause(1)]
    for effects in (first, rest):
        assert sum(len(effect.data) for effect in effects if isinstance(effect, Reply)) == STEP_REQUESTS_MAX * size


@python_twin_only
def test_a_step_that_is_late_leaves_a_sessions_rest_for_the_next() -> None:
    engine = make_engine(Limits())
    engine.ground.is_late = lambda requests: requests == 2
    engine.step(Connected(1), 0.0)
    hello = encode_session_request(SessionVerb.HELLO, 0, 0, VERSION, b"", b"", b"", bytes(NONCE_SIZE), 1000)
    engine.step(Received(1, OPENING + hello), 0.0)
    asked = b"".join(encode_session_request(SessionVerb.PING, number, 0, 7) for number in range(1, 4))
    first, rest = engine.step(Received(1, asked), 0.0), engine.step(Resumed(1), 0.0)
    assert [type(effect) for effect in first] == [Reply, Reply, Pause]
    assert [type(effect) for effect in rest] == [Reply]
