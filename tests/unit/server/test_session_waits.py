from __future__ import annotations

import pytest
from tests.support.engine_sessions import Bench
from tests.support.twins import make_engine, over_each_twin, python_twin_only

from rallypoint.protocol.session.spec import SessionVerb, Status
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.changes import AnswerKept, State, apply

pytestmark = over_each_twin

V = SessionVerb
OK, EXPIRED, REFUSED = Status.OK, Status.EXPIRED, Status.REFUSED


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(
    ("verb", "fields", "reply"),
    [
        (V.GET, (b"/k",), (b"v",)),
        (V.MULTI_GET, ([b"/there", b"/k", b"/k"],), ([b"t", b"v", b"v"],)),
        (V.WAIT, ([b"/k", b"/there"],), ()),
    ],
)
def test_a_wait_ends_when_all_is_there(bench, verb, fields, reply) -> None:
    waiting, writing = bench.client(), bench.client()
    writing.ask(V.SET, b"/there", b"t")
    request_id = waiting.send(verb, *fields)
    assert waiting.read() == []
    assert bench.engine.statistics().waiting == 1
    writing.ask(V.SET, b"/k", b"v")
    assert waiting.read() == [(OK, request_id, reply)]
    assert waiting.ask(verb, *fields) == (OK, *reply)
    assert bench.engine.statistics().waiting == 0


def test_nothing_to_wait_for_is_there(bench) -> None:
    client = bench.client()
    assert client.ask(V.MULTI_GET, []) == (OK, [])
    assert client.ask(V.WAIT, []) == (OK,)


def test_several_wait_at_once_on_one_connection(bench) -> None:
    client = bench.client()
    ids = [client.send(V.GET, b"/%d" % number) for number in range(3)]
    client.send(V.SET, b"/1", b"one")
    assert [answered for _, answered, _ in client.read()] == [ids[1], client.last_id]
    assert client.send(V.SET, b"/0", b"zero")
    assert client.read()[0] == (OK, ids[0], (b"zero",))


def test_a_get_waits_for_a_key_though_there_is_an_item_of_that_name(bench) -> None:
    client = bench.client()
    client.ask(V.QUEUE_PUSH, b"/n", b"item")
    request_id = client.send(V.GET, b"/n")
    assert client.read() == []
    client.send(V.SET, b"/n", b"value")
    assert client.read()[0] == (OK, request_id, (b"value",))


def test_pops_are_served_in_their_order_and_each_item_once(bench) -> None:
    one, two, pushing = bench.client(), bench.client(), bench.client()
    first, second = one.send(V.QUEUE_POP, b"/q"), two.send(V.QUEUE_POP, b"/q")
    assert [pushing.ask(V.QUEUE_PUSH, b"/q", item) for item in (b"1", b"2", b"3")] == [(OK, 1)] * 3
    assert one.read() == [(OK, first, (b"1",))]
    assert two.read() == [(OK, second, (b"2",))]
    assert two.ask(V.QUEUE_POP, b"/q") == (OK, b"3")


def test_a_pop_with_a_key_of_that_name_waits_for_an_item(bench) -> None:
    client = bench.client()
    client.ask(V.SET, b"/n", b"value")
    request_id = client.send(V.QUEUE_POP, b"/n")
    assert client.read() == []
    client.send(V.QUEUE_PUSH, b"/n", b"item")
    assert client.read()[0] == (OK, request_id, (b"item",))


def test_the_last_to_arrive_releases_all(bench) -> None:
    members = [bench.client() for _ in range(3)]
    ids = [member.send(V.BARRIER, b"/b", 3) for member in members]
    assert [member.read() for member in members] == [[(OK, request_id, ())] for request_id in ids]


# --- cancelling ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "fields", "missing"),
    [
        (V.GET, (b"/k",), [b"/k"]),
        (V.MULTI_GET, ([b"/there", b"/k", b"/k", b"/l"],), [b"/k", b"/l"]),
        (V.WAIT, ([b"/k", b"/there", b"/k"],), [b"/k"]),
        (V.QUEUE_POP, (b"/q",), [b"/q"]),
        (V.BARRIER, (b"/b", 2), [b"/b"]),
    ],
)
def test_a_cancelled_wait_says_what_is_missing(bench, verb, fields, missing) -> None:
    client = bench.client()
    client.ask(V.SET, b"/there", b"")
    request_id = client.send(verb, *fields)
    client.send(V.CANCEL, request_id)
    assert client.read() == [(EXPIRED, request_id, (missing,))]
    client.send(V.CANCEL, request_id)
    for name in (b"/k", b"/l"):
        client.ask(V.SET, name, b"")
    client.ask(V.QUEUE_PUSH, b"/q", b"item")
    assert client.ask(V.BARRIER, b"/b", 1) == (OK,)
    assert bench.engine.statistics().waiting == 0


def test_a_wait_that_was_answered_is_not_cancelled(bench) -> None:
    client = bench.client()
    client.ask(V.SET, b"/k", b"v")
    request_id = client.send(V.GET, b"/k")
    client.send(V.CANCEL, request_id)
    assert client.read() == [(OK, request_id, (b"v",))]


def test_an_expired_pop_that_is_sent_again_takes_nothing(bench) -> None:
    client = bench.client()
    request_id = client.send(V.QUEUE_POP, b"/q")
    client.send(V.CANCEL, request_id)
    client.read()
    client.drop()
    client.connect()
    client.ask(V.QUEUE_PUSH, b"/q", b"item", request_id=5)
    client.drop()
    client.connect()
    assert client.ask(V.QUEUE_POP, b"/q", request_id=request_id) == (EXPIRED, [b"/q"])
    assert client.ask(V.QUEUE_LEN, b"/q", request_id=6) == (OK, 1)


# --- connections that break ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "fields"), [(V.GET, (b"/k",)), (V.MULTI_GET, ([b"/k"],)), (V.WAIT, ([b"/k"],)), (V.QUEUE_POP, (b"/k",))]
)
def test_what_has_changed_nothing_is_asked_for_again(bench, verb, fields) -> None:
    client, other = bench.client(), bench.client()
    request_id = client.send(verb, *fields)
    client.drop()
    assert bench.engine.statistics().waiting == 0
    assert client.connect()
    client.send(verb, *fields, request_id=request_id)
    other.ask(V.SET, b"/k", b"v")
    other.ask(V.QUEUE_PUSH, b"/k", b"v")
    assert [(status, answered) for status, answered, _ in client.read()] == [(OK, request_id)]


def test_a_barrier_counts_once_however_often_it_is_sent(bench) -> None:
    client, other = bench.client(), bench.client()
    request_id = client.send(V.BARRIER, b"/b", 2)
    for _ in range(3):
        client.drop()
        client.connect()
        client.send(V.BARRIER, b"/b", 2, request_id=request_id)
    assert client.read() == []
    assert other.ask(V.BARRIER, b"/b", 2) == (OK,)
    assert client.read() == [(OK, request_id, ())]
    assert other.ask(V.GET, b"/b") == (OK, b"2")


def test_a_barrier_that_was_completed_meanwhile_is_answered(bench) -> None:
    client, other = bench.client(), bench.client()
    request_id = client.send(V.BARRIER, b"/b", 2)
    client.drop()
    other.ask(V.BARRIER, b"/b", 2)
    client.connect()
    assert client.ask(V.BARRIER, b"/b", 2, request_id=request_id) == (OK,)


@pytest.mark.parametrize("is_complete", [False, True])
def test_a_barrier_that_has_counted_waits_again_after_a_restart(is_complete) -> None:
    bench = Bench(journal=True)
    client, other = bench.client(), bench.client()
    request_id = client.send(V.BARRIER, b"/b", 2)
    state = State()
    apply(state, bench.engine.take_changes())
    assert AnswerKept(client.session, request_id, None).answer is state.sessions[client.session].answers[request_id]
    if is_complete:
        other.ask(V.BARRIER, b"/b", 2)
        changes = bench.engine.take_changes()
        # The disk has the arrival, and not the answer that it causes.
        apply(state, [change for change in changes if not isinstance(change, AnswerKept)])
    bench.engine = make_engine(seed=b"another life".ljust(32), journal=True)
    bench.engine.restore(state, bench.now)
    bench.clients.clear()
    assert client.connect()
    client.send(V.BARRIER, b"/b", 2, request_id=request_id)
    if not is_complete:
        assert client.read() == []
        third = bench.client()
        assert third.ask(V.BARRIER, b"/b", 2) == (OK,)
    assert client.read() == [(OK, request_id, ())]


def test_a_barrier_whose_count_is_lost_is_refused_after_a_restart() -> None:
    bench = Bench(journal=True)
    client = bench.client()
    request_id = client.send(V.BARRIER, b"/b", 2)
    bench.client().ask(V.SET, b"/b", b"no number")
    state = State()
    apply(state, bench.engine.take_changes())
    bench.engine = make_engine(seed=b"another life".ljust(32), journal=True)
    bench.engine.restore(state, bench.now)
    bench.clients.clear()
    assert client.connect()
    client.send(V.BARRIER, b"/b", 2, request_id=request_id)
    ((status, _, fields),) = client.read()
    assert (status, fields[0]) == (REFUSED, CloseReason.NOT_A_NUMBER.value.encode())


def test_a_call_to_a_queue_is_passed_on_when_the_connection_goes(bench) -> None:
    called, next_one, pushing = bench.client(), bench.client(), bench.client()
    called.send(V.WAIT, [b"/q"])
    request_id = next_one.send(V.WAIT, [b"/q"])
    pushing.ask(V.QUEUE_PUSH, b"/q", b"item")
    assert len(called.read()) == 1
    assert next_one.read() == []
    called.drop()
    assert next_one.read() == [(OK, request_id, ())]


@python_twin_only
def test_a_call_to_a_queue_is_over_with_the_pop(bench) -> None:
    called, next_one, pushing = bench.client(), bench.client(), bench.client()
    called.send(V.WAIT, [b"/q"])
    next_one.send(V.WAIT, [b"/q"])
    pushing.ask(V.QUEUE_PUSH, b"/q", b"1")
    pushing.ask(V.QUEUE_PUSH, b"/other", b"")
    called.read()
    assert called.ask(V.QUEUE_POP, b"/q") == (OK, b"1")
    called.drop()
    assert next_one.read() == []
    assert bench.engine.ground.waiters._calls == {}


# --- bounds ----------------------------------------------------------------------------------------------


def test_names_that_are_waited_for_are_bounded() -> None:
    client = Bench(waited_names_max=2).client()
    for verb in (V.WAIT, V.MULTI_GET):
        status, code, sentence = client.ask(verb, [b"/a", b"/b", b"/c"])
        assert (status, code) == (REFUSED, CloseReason.TOO_MANY_WAITED.value.encode())
        assert b"3 names, the limit is 2" in sentence
    request_id = client.send(V.WAIT, [b"/a", b"/b"])
    assert client.ask(V.GET, b"/c")[0] is REFUSED
    client.send(V.CANCEL, request_id)
    client.read()
    client.send(V.GET, b"/c")
    assert client.read() == []


def test_waits_for_items_are_bounded() -> None:
    client = Bench(waited_names_max=2).client()
    first = client.send(V.QUEUE_POP, b"a")
    client.send(V.QUEUE_POP, b"b")
    status, code, sentence = client.ask(V.QUEUE_POP, b"c")
    assert (status, code) == (REFUSED, CloseReason.TOO_MANY_WAITED.value.encode())
    assert sentence == b"2 requests wait, the limit is 2"
    client.send(V.CANCEL, first)
    client.read()
    client.send(V.QUEUE_POP, b"c")
    assert client.read() == []


def test_waits_of_a_session_are_bounded() -> None:
    bench = Bench(session_waits_max=1)
    client, other = bench.client(), bench.client()
    client.send(V.GET, b"/a")
    status, code, _ = client.ask(V.GET, b"/b")
    assert (status, code) == (REFUSED, CloseReason.TOO_MANY_PENDING.value.encode())
    other.send(V.GET, b"/b")
    assert other.read() == []
