from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
from tests.support.wire import Connection, Wire

from rallypoint.errors import ConnectionLostError, LocalProtocolError, QueueEmptyError, RemoteProtocolError
from rallypoint.protocol import client
from rallypoint.protocol.client import Call, LegacyServerError, WaitExpired
from rallypoint.protocol.codec import I64, U64, encode_request
from rallypoint.protocol.spec import LISTED_COUNT_MAX, REPLY_SIZE_MAX, VALUE_SIZE_MAX, Verb


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def ours(wire: Wire) -> Connection:
    return wire.client()


@pytest.fixture
def other(wire: Wire) -> Connection:
    return wire.client()


def script(
    call: Call[object], *answers: bytes | Exception, yielded: list[object] | None = None
) -> tuple[list[object], object]:
    """Run a call against answers given in advance; give what it yielded and what it returned."""
    left = list(answers)
    yielded = [] if yielded is None else yielded
    try:
        step = next(call)
        while True:
            yielded.append(step)
            answer = b"" if isinstance(step, bytes) else left.pop(0)
            step = call.throw(answer) if isinstance(answer, Exception) else call.send(answer)
    except StopIteration as done:
        assert not left, f"answers nobody asked for: {left}"
        return yielded, done.value


# --- calls that are answered at once ---------------------------------------------------------------------


def test_a_value_set_is_the_value_got(ours: Connection, other: Connection) -> None:
    ours.call(client.set_value(b"/k", b"hello"))
    assert other.call(client.get(b"/k")) == b"hello"


def test_get_of_a_present_key_takes_one_round_trip(ours: Connection) -> None:
    ours.call(client.set_value(b"/k", b"v"))
    yielded, value = script(client.get(b"/k"), b"\x00", U64.pack(1), b"v")
    assert value == b"v"
    frames = [step for step in yielded if isinstance(step, bytes)]
    assert frames == [encode_request(Verb.CHECK, [b"/k"]) + encode_request(Verb.GET, b"/k")]


@pytest.mark.parametrize("is_careful", [False, True])
def test_an_empty_value_is_got(ours: Connection, is_careful: bool) -> None:
    ours.call(client.set_value(b"/k", b""))
    assert ours.call(client.get(b"/k", is_careful=is_careful)) == b""


def test_add_gives_the_sum(ours: Connection) -> None:
    assert ours.call(client.add(b"/n", 5)) == 5
    assert ours.call(client.add(b"/n", -7)) == -2
    assert ours.call(client.get(b"/n")) == b"-2"


def test_compare_set_gives_what_is_there_then(ours: Connection) -> None:
    assert ours.call(client.compare_set(b"/c", b"old", b"new")) == b"old"
    assert ours.call(client.compare_set(b"/c", b"", b"new")) == b"new"
    assert ours.call(client.compare_set(b"/c", b"old", b"newer")) == b"new"
    assert ours.call(client.compare_set(b"/c", b"new", b"newer")) == b"newer"


def test_check_tells_whether_all_are_there(ours: Connection) -> None:
    ours.call(client.set_value(b"/a", b""))
    assert ours.call(client.check([b"/a"]))
    assert not ours.call(client.check([b"/a", b"/b"]))


def test_delete_key_tells_whether_it_was_there(ours: Connection) -> None:
    ours.call(client.set_value(b"/a", b""))
    assert ours.call(client.delete_key(b"/a"))
    assert not ours.call(client.delete_key(b"/a"))


def test_keys_are_counted_and_listed(ours: Connection) -> None:
    ours.call(client.multi_set([(b"/a", b"1"), (b"", b"2"), (b"init/", b"3")]))
    assert ours.call(client.num_keys()) == 3
    assert sorted(ours.call(client.list_keys())) == [b"", b"/a", b"init/"]


def test_append_adds_to_the_end(ours: Connection) -> None:
    ours.call(client.append(b"/a", b"x"))
    ours.call(client.append(b"/a", b"yz"))
    assert ours.call(client.get(b"/a")) == b"xyz"


def test_multi_get_gives_values_in_the_order_of_the_keys(ours: Connection) -> None:
    ours.call(client.multi_set([(b"/a", b"1"), (b"/b", b"")]))
    assert ours.call(client.multi_get([b"/b", b"/a", b"/b"])) == [b"", b"1", b""]


def test_queue_items_come_out_in_order(ours: Connection) -> None:
    for item in (b"1", b"", b"3"):
        ours.call(client.queue_push(b"/q", item))
    assert ours.call(client.queue_len(b"/q")) == 3
    assert [ours.call(client.queue_pop(b"/q")) for _ in range(3)] == [b"1", b"", b"3"]
    assert ours.call(client.queue_len(b"/q")) == 0


IMPOSSIBLE_COUNTS = [
    (client.num_keys, -1, "the number of keys is -1, it must be from 0 to 9223372036854775807"),
    (lambda: client.queue_len(b"/q"), -5, "the length of the queue is -5, it must be from 0 to 9223372036854775807"),
    (lambda: client.queue_pop(b"/q"), -2, "the length of the queue is -2, it must be from 0 to 9223372036854775807"),
    (lambda: client.delete_key(b"/k"), -1, "the number of keys deleted is -1, it must be from 0 to 1"),
    (lambda: client.delete_key(b"/k"), 2, "the number of keys deleted is 2, it must be from 0 to 1"),
]


@pytest.mark.parametrize(("make_call", "number", "words"), IMPOSSIBLE_COUNTS)
def test_an_impossible_count_is_not_believed(make_call: Callable[[], Call[object]], number: int, words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^the server claims that {words}$"):
        script(make_call(), I64.pack(number))


def test_a_sum_may_be_anything() -> None:
    assert script(client.add(b"/n", -1), I64.pack(-(1 << 63)))[1] == -(1 << 63)


def test_an_empty_queue_is_an_error_unless_waited_for(ours: Connection) -> None:
    with pytest.raises(QueueEmptyError, match=r"^queue is empty$"):
        ours.call(client.queue_pop(b"/q", is_blocking=False))


def test_calls_for_no_keys_send_nothing(ours: Connection) -> None:
    calls: list[Call[object]] = [client.check([]), client.wait([]), client.multi_get([]), client.multi_set([])]
    assert [script(call) for call in calls] == [([], True), ([], None), ([], []), ([], None)]


def test_ping_is_answered(ours: Connection) -> None:
    ours.call(client.ping(0xFFFFFFFF))


def test_the_handshake_is_one_segment() -> None:
    yielded, _ = script(client.handshake(0xBEEF), bytes.fromhex("efbe0000"))
    assert yielded == [bytes.fromhex("00cef7853c0defbe0000"), 4]


# --- waiting ---------------------------------------------------------------------------------------------


def test_get_waits_for_its_key(ours: Connection, other: Connection) -> None:
    flight = ours.start(client.get(b"/k"))
    assert flight.is_waiting
    other.call(client.set_value(b"/k", b"v"))
    assert flight.result() == b"v"


def test_get_goes_on_waiting_if_the_key_is_gone_again(ours: Connection, other: Connection) -> None:
    flight = ours.start(client.get(b"/k"))
    other.send(encode_request(Verb.SET, b"/k", b"v") + encode_request(Verb.DELETE_KEY, b"/k"))
    assert flight.is_waiting
    other.call(client.set_value(b"/k", b"w"))
    assert flight.result() == b"w"


def test_get_takes_a_value_that_came_between_its_check_and_its_get() -> None:
    assert script(client.get(b"/k"), b"\x01", U64.pack(1), b"v")[1] == b"v"


def test_wait_returns_once_all_keys_are_there(ours: Connection, other: Connection) -> None:
    flight = ours.start(client.wait([b"/a", b"/b"]))
    other.call(client.set_value(b"/b", b""))
    assert flight.is_waiting
    other.call(client.set_value(b"/a", b""))
    assert flight.result() is None


def test_wait_for_present_keys_takes_one_round_trip(ours: Connection) -> None:
    ours.call(client.set_value(b"/a", b""))
    flight = ours.start(client.wait([b"/a"]))
    assert flight.is_done
    assert flight.round_trips == 1


def test_multi_get_waits_for_all_keys(ours: Connection, other: Connection) -> None:
    other.call(client.set_value(b"/a", b"1"))
    flight = ours.start(client.multi_get([b"/a", b"/b"]))
    assert flight.is_waiting
    other.call(client.set_value(b"/b", b"2"))
    assert flight.result() == [b"1", b"2"]


def test_queue_pop_waits_for_an_item_and_again_if_it_is_taken(ours: Connection, other: Connection) -> None:
    flight = ours.start(client.queue_pop(b"/q"))
    other.send(encode_request(Verb.QUEUE_PUSH, b"/q", b"1") + encode_request(Verb.QUEUE_POP, b"/q"))
    assert flight.is_waiting
    other.call(client.queue_push(b"/q", b"2"))
    assert flight.result() == b"2"


def test_queue_pop_does_not_spin_on_a_name_that_is_a_key(ours: Connection) -> None:
    ours.call(client.set_value(b"/q", b""))
    with pytest.raises(QueueEmptyError, match=r"cannot be waited for: b'/q' is a key too"):
        ours.call(client.queue_pop(b"/q"))
    ours.call(client.ping(1))


def test_barrier_returns_when_the_last_has_come(ours: Connection, other: Connection) -> None:
    flight = ours.start(client.barrier(b"/b", 2))
    assert flight.is_waiting
    other.call(client.barrier(b"/b", 2))
    assert flight.result() is None


# --- deadlines -------------------------------------------------------------------------------------------

WAITS: list[tuple[Callable[[], Call[object]], tuple[bytes, ...]]] = [
    (lambda: client.get(b"/k"), (b"/k",)),
    (lambda: client.get(b"/k", is_careful=True), (b"/k",)),
    (lambda: client.wait([b"/k", b"/there", b"/l", b"/k"]), (b"/k", b"/l")),
    (lambda: client.multi_get([b"/there", b"/l"]), (b"/l",)),
    (lambda: client.queue_pop(b"/q"), (b"/q",)),
    (lambda: client.barrier(b"/b", 2), (b"/b",)),
]


@pytest.mark.parametrize(("make", "missing"), WAITS)
def test_a_deadline_names_what_is_missing_and_leaves_the_connection_in_step(
    ours: Connection, make: Callable[[], Call[object]], missing: tuple[bytes, ...]
) -> None:
    ours.call(client.set_value(b"/there", b"v"))
    flight = ours.start(make())
    with pytest.raises(WaitExpired) as caught:
        flight.expire()
    assert caught.value.missing == missing
    assert ours.read() == b""
    ours.call(client.ping(1))
    assert ours.wire.engine.statistics().waiting == 0


def test_missing_keys_take_one_round_trip_however_many() -> None:
    keys = [b"/%d" % number for number in range(500)]
    yielded: list[object] = []
    with pytest.raises(WaitExpired) as caught:
        script(client.wait(keys), b"\x01", WaitExpired(), b"\x01", b"\x00\x01" * 250, yielded=yielded)
    assert caught.value.missing == tuple(keys[1::2])
    # CHECK, WAIT, CANCEL_WAIT, and one segment with a CHECK for each key
    assert sum(isinstance(step, bytes) for step in yielded) == 4


@pytest.mark.parametrize(
    ("make", "event", "result"),
    [
        (lambda: client.get(b"/k"), client.set_value(b"/k", b"v"), b"v"),
        (lambda: client.wait([b"/k"]), client.set_value(b"/k", b"v"), None),
        (lambda: client.multi_get([b"/k"]), client.set_value(b"/k", b"v"), [b"v"]),
        (lambda: client.queue_pop(b"/q"), client.queue_push(b"/q", b"v"), b"v"),
        (lambda: client.barrier(b"/b", 2), client.barrier(b"/b", 2), None),
    ],
)
def test_an_answer_that_crosses_the_cancellation_counts(
    ours: Connection, other: Connection, make: Callable[[], Call[object]], event: Call[object], result: object
) -> None:
    flight = ours.start(make())
    other.start(event)
    flight.expire()
    assert flight.result() == result
    assert ours.read() == b""


def test_keys_that_came_before_we_asked_which_are_missing_count() -> None:
    answers = [b"\x01", WaitExpired(), b"\x01", b"\x00"]
    assert script(client.wait([b"/k"]), *answers)[1] is None


def test_get_reads_a_value_that_came_before_we_asked_what_is_missing() -> None:
    found = [b"\x00", U64.pack(1), b"v"]
    assert script(client.get(b"/k"), b"\x01", U64.pack(0), WaitExpired(), b"\x01", b"\x00", *found)[1] == b"v"


def test_get_gives_up_if_the_key_is_gone_again_after_the_deadline() -> None:
    with pytest.raises(WaitExpired) as caught:
        script(
            client.get(b"/k"),
            *(b"\x01", U64.pack(0)),
            *(WaitExpired(), b"\x01", b"\x00"),
            *(b"\x01", U64.pack(0), b"\x01"),
        )
    assert caught.value.missing == (b"/k",)


def test_an_item_pushed_before_the_cancellation_is_taken(ours: Connection) -> None:
    answers = [I64.pack(0), WaitExpired(), b"\x01", I64.pack(1), U64.pack(1), b"x", b"\x01", I64.pack(0)]
    assert script(client.queue_pop(b"/q"), *answers)[1] == b"x"


def test_a_barrier_that_expires_tells_how_many_came(ours: Connection, other: Connection) -> None:
    other.start(client.barrier(b"/b", 3))
    flight = ours.start(client.barrier(b"/b", 3))
    with pytest.raises(WaitExpired) as caught:
        flight.expire()
    assert caught.value.arrived == 2


def test_a_barrier_whose_counter_is_gone_still_expires(ours: Connection, other: Connection) -> None:
    flight = ours.start(client.barrier(b"/b", 3))
    other.call(client.delete_key(b"/b"))
    with pytest.raises(WaitExpired) as caught:
        flight.expire()
    assert caught.value.arrived is None
    ours.call(client.ping(1))


def test_a_verdict_survives_pickling() -> None:
    verdict = pickle.loads(pickle.dumps(WaitExpired((b"/k",), 3)))
    assert (verdict.missing, verdict.arrived, str(verdict)) == ((b"/k",), 3, str(WaitExpired((b"/k",))))


# --- limits and broken peers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        client.set_value(bytes(8193), b""),
        client.set_value(b"/k", bytes(VALUE_SIZE_MAX + 1)),
        client.get(bytes(8193)),
        client.get(bytes(8193), is_careful=True),
        client.multi_get([b"", bytes(8193)]),
        client.queue_push(b"/q", bytes(VALUE_SIZE_MAX + 1)),
        client.add(b"/n", 1 << 63),
        client.barrier(b"/b", 1 << 63),
    ],
)
def test_nothing_is_sent_of_what_the_wire_cannot_carry(call: Call[object]) -> None:
    with pytest.raises(LocalProtocolError):
        next(call)


@pytest.mark.parametrize(
    ("call", "answers", "message"),
    [
        (client.get(b"/k"), [b"\x00", U64.pack(REPLY_SIZE_MAX + 1)], "claims a value of 1073741825 bytes"),
        (client.get(b"/k"), [b"\x02"], r"CHECK was answered b'\\x02', not 00 or 01"),
        (client.wait([b"/k"]), [b"\x01", b"\x07"], r"the wait was answered b'\\x07', not 00"),
        (
            client.wait([b"/k"]),
            [b"\x01", WaitExpired(), b"\x00", b"\x00"],
            r"CANCEL_WAIT was answered b'\\x00', not 01",
        ),
        (client.wait([b"/k"]), [b"\x01", WaitExpired(), b"\x05"], r"the wait was answered b'\\x05', not 00"),
        (client.wait([b"/a", b"/b"]), [b"\x01", WaitExpired(), b"\x01", b"\x00\x02"], "CHECKs were answered"),
        (client.compare_set(b"/k", b"", b""), [U64.pack(1 << 63)], "claims a value"),
        (client.list_keys(), [I64.pack(-1)], "claims to list -1 keys"),
        (client.list_keys(), [I64.pack(LISTED_COUNT_MAX + 1)], "claims to list 268435457 keys"),
        (client.list_keys(), [I64.pack(1), U64.pack(8193)], "claims a key of 8193 bytes, the limit is 8192"),
        (client.handshake(1), [b"\x02\x00\x00\x00"], "^Ping failed, invalid value .* Expected: 1, Got: 2$"),
    ],
)
def test_an_answer_that_cannot_be_is_the_peers_fault(
    call: Call[object], answers: list[bytes | Exception], message: str
) -> None:
    with pytest.raises(RemoteProtocolError, match=message):
        script(call, *answers)


LOST = ConnectionLostError("the peer closed the connection")


@pytest.mark.parametrize("call", [client.get(b"/k"), client.multi_get([b"/k", b"/l"])])
def test_a_server_that_closes_on_a_missing_key_is_told_apart(call: Call[object]) -> None:
    with pytest.raises(LegacyServerError):
        script(call, b"\x01", LOST)


def test_a_server_that_closes_after_some_of_the_values_is_told_apart() -> None:
    with pytest.raises(LegacyServerError):
        script(client.multi_get([b"/a", b"/b"]), b"\x01", U64.pack(1), b"1", LOST)


def test_a_careful_get_asks_for_a_value_only_once_it_is_there() -> None:
    check = encode_request(Verb.CHECK, [b"/k"])
    yielded, value = script(client.get(b"/k", is_careful=True), b"\x01", b"\x00", b"\x00", U64.pack(1), b"v")
    assert value == b"v"
    assert [step for step in yielded if isinstance(step, bytes)] == [
        check,
        encode_request(Verb.WAIT, [b"/k"]),
        check,
        encode_request(Verb.GET, b"/k"),
    ]


@pytest.mark.parametrize("answers", [[LOST], [b"\x00", LOST], [b"\x00", U64.pack(5), LOST]])
def test_a_connection_lost_at_any_other_time_is_lost(answers: list[bytes | Exception]) -> None:
    with pytest.raises(ConnectionLostError):
        script(client.get(b"/k"), *answers)


@pytest.mark.parametrize("cut", [1, 3])
def test_calls_work_over_any_segmentation(wire: Wire, cut: int) -> None:
    ours = wire.client(cut)
    ours.call(client.multi_set([(b"/a", b"1"), (b"/b", b"22")]))
    assert ours.call(client.multi_get([b"/a", b"/b"])) == [b"1", b"22"]
    flight = ours.start(client.get(b"/c"))
    wire.client().call(client.set_value(b"/c", b"3"))
    assert flight.result() == b"3"
