from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.engine_sessions import Bench
from tests.support.twins import over_each_twin, python_twin_only

from rallypoint.protocol.session.spec import SessionVerb, Status
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.changes import AnswerKept, GroupForgotten, GroupMet, Member, State, apply
from rallypoint.server.vocabulary import Received

pytestmark = over_each_twin

MEET, EXCHANGE, CANCEL, BYE = SessionVerb.MEET, SessionVerb.EXCHANGE, SessionVerb.CANCEL, SessionVerb.BYE


@pytest.fixture
def bench() -> Bench:
    return Bench()


def meet(client, rank, size, name=b"b", **more):
    return client.send(MEET, name, rank, size, b"m%d" % rank, **more)


def reason(frame):
    status, _, fields = frame
    assert status is Status.REFUSED
    return CloseReason(fields[0].decode())


def test_all_are_answered_when_the_last_has_come(bench) -> None:
    clients = [bench.client() for _ in range(3)]
    for generation in (1, 2):
        ids = [meet(client, rank, 3) for rank, client in enumerate(clients)]
        for client, request_id in zip(clients, ids, strict=True):
            assert client.read() == [(Status.OK, request_id, (generation,))]


def test_members_of_one_connection_meet(bench) -> None:
    client = bench.client()
    ids = [meet(client, rank, 4) for rank in range(4)]
    assert [frame[1] for frame in client.read()] == ids


@pytest.mark.parametrize("size", [1, 5000])
def test_an_exchange_gives_everybody_all_values(bench, size) -> None:
    clients = [bench.client() for _ in range(3)]
    values = [b"%d" % rank * size for rank in range(3)]
    for rank, client in enumerate(clients):
        client.send(EXCHANGE, b"x", rank, 3, b"", values[rank])
    for client in clients:
        ((status, _, fields),) = client.read()
        assert (status, fields) == (Status.OK, (1, values))


@python_twin_only
def test_the_values_of_an_exchange_are_one_object() -> None:
    bench = Bench()
    clients = [bench.client() for _ in range(8)]
    for rank, client in enumerate(clients):
        client.send(EXCHANGE, b"x", rank, 8, b"", b"v" * 100_000)
    bodies = {id(answer.body) for session in bench.engine.parts.sessions for answer, _ in session.answers.values()}
    assert len(bodies) == 1
    assert 800_000 < bench.engine.parts.sessions.answers_size < 900_000


def test_cancel_tells_who_is_missing_and_who_waits(bench) -> None:
    first, second = bench.client(), bench.client()
    meet(first, 0, 3)
    bench.now += 1.5
    request_id = meet(second, 1, 3)
    bench.now += 0.5
    second.send(CANCEL, request_id)
    assert second.read() == [(Status.EXPIRED, request_id, ([(2, b"", -1)], [(0, b"m0", 2000)]))]
    second.send(CANCEL, request_id)
    assert second.read() == []
    assert first.read() == []


def test_a_cancelled_member_may_come_again(bench) -> None:
    first, second = bench.client(), bench.client()
    first.send(CANCEL, meet(first, 0, 2))
    first.read()
    meet(second, 1, 2)
    again = meet(first, 0, 2)
    assert first.read() == [(Status.OK, again, (1,))]


def test_a_session_that_says_bye_is_gone_for_those_who_wait(bench) -> None:
    first, second, third = (bench.client() for _ in range(3))
    waiting = [meet(first, 0, 3), meet(second, 1, 3)]
    third.send(BYE)
    assert first.read() == []  # it has not come, nobody knows it
    bench.now += 3
    second.send(BYE)
    assert first.read() == [(Status.LOST, waiting[0], ([(1, b"m1", 0)],))]


def test_a_session_that_does_not_come_back_is_gone(bench) -> None:
    clients = [bench.client(timeout_ms=5000) for _ in range(3)]
    for rank, client in enumerate(clients):
        meet(client, rank, 3)
        client.read()
    for client in clients:
        client.read()
    again = meet(clients[0], 0, 3)
    clients[1].drop()
    clients[2].drop()
    bench.wait(4.9)
    assert clients[0].read() == []
    bench.wait(0.2)
    assert clients[0].read() == [(Status.LOST, again, ([(1, b"m1", 0), (2, b"m2", 0)],))]
    once_more = meet(clients[0], 0, 3)
    assert clients[0].read() == [(Status.LOST, once_more, ([(1, b"m1", 100), (2, b"m2", 100)],))]


def test_those_who_come_in_place_of_the_gone_meet(bench) -> None:
    first, second = bench.client(), bench.client()
    meet(first, 0, 2)
    meet(second, 1, 2)
    first.read()
    second.send(BYE)
    third = bench.client()
    meet(third, 1, 2)
    meet(first, 0, 2)
    assert [frame[0] for frame in first.read()] == [Status.OK]


def test_a_wait_outlives_the_connection_and_is_answered_after_resume(bench) -> None:
    first, second = bench.client(), bench.client()
    request_id = meet(first, 0, 2)
    first.drop()
    other = meet(second, 1, 2)
    assert second.read() == [(Status.OK, other, (1,))]
    assert first.connect()
    assert first.read() == []
    meet(first, 0, 2, request_id=request_id)
    assert first.read() == [(Status.OK, request_id, (1,))]


def test_a_request_that_waits_is_sent_again_and_counts_once(bench) -> None:
    first, second = bench.client(), bench.client()
    request_id = first.send(EXCHANGE, b"x", 0, 2, b"", b"zero")
    first.drop()
    assert first.connect()
    first.send(EXCHANGE, b"x", 0, 2, b"", b"zero", request_id=request_id)
    assert first.read() == []
    second.send(EXCHANGE, b"x", 1, 2, b"", b"one")
    assert first.read() == [(Status.OK, request_id, (1, [b"zero", b"one"]))]


def test_what_is_lost_is_answered_again(bench) -> None:
    first, second = bench.client(), bench.client()
    request_id = meet(first, 0, 3)
    meet(second, 1, 3)
    first.drop()
    second.send(BYE)
    first.connect()
    meet(first, 0, 3, request_id=request_id)
    assert [frame[:2] for frame in first.read()] == [(Status.LOST, request_id)]


def test_a_place_taken_by_another_session_is_refused_to_the_former(bench) -> None:
    first, second = bench.client(), bench.client()
    meet(first, 0, 2)
    meet(second, 0, 2)
    (frame,) = first.read()
    assert reason(frame) is CloseReason.TAKEN_OVER
    assert second.read() == []


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [({"groups_max": 1}, CloseReason.TOO_MANY_GROUPS), ({"group_members_max": 1}, CloseReason.TOO_MANY_GROUPS)],
)
def test_limits_refuse_the_newcomer(bounds, expected) -> None:
    bench = Bench(**bounds)
    first, second = bench.client(), bench.client()
    meet(first, 0, 2)
    meet(second, 0, 2, name=b"other")
    (frame,) = second.read()
    assert reason(frame) is expected
    assert first.read() == []


def test_members_who_do_not_agree_are_refused(bench) -> None:
    first, second = bench.client(), bench.client()
    meet(first, 0, 2)
    meet(second, 1, 3)
    (frame,) = second.read()
    assert reason(frame) is CloseReason.GROUP_MISMATCH
    assert frame[2][1] == b"the group is to have 3 members, those that wait say 2"


@python_twin_only
def test_sessions_that_end_leave_nothing(bench) -> None:
    clients = [bench.client() for _ in range(3)]
    for rank, client in enumerate(clients):
        meet(client, rank, 3)
    for client in clients:
        client.send(BYE)
    groups = bench.engine.parts.groups.groups
    assert groups.members == 3  # their names, for those who come late
    assert not groups._seats
    assert len(bench.engine.parts.sessions) == 0


def test_generations_are_remembered_over_a_restart() -> None:
    bench = Bench(journal=True)
    first, second = bench.client(), bench.client()
    meet(first, 0, 2)
    meet(second, 1, 2)
    changes = bench.engine.take_changes()
    met = [change for change in changes if isinstance(change, GroupMet)]
    assert met == [GroupMet(MEET, b"b", 1, (Member(0, first.session, b"m0"), Member(1, second.session, b"m1")))]
    assert changes.index(met[0]) < min(at for at, change in enumerate(changes) if isinstance(change, AnswerKept))
    state = State()
    apply(state, changes)
    later = Bench(journal=True)
    later.engine.restore(state, later.now)
    for client in (first, second):
        client.bench = later
        assert client.connect()
    waiting = meet(first, 0, 2)
    second.send(BYE)
    assert first.read() == [(Status.LOST, waiting, ([(1, b"m1", 0)],))]
    first.send(BYE)
    changes = later.engine.take_changes()
    assert GroupForgotten(MEET, b"b") in changes
    apply(state, changes)
    assert state.groups == {}


STEP = st.one_of(
    st.tuples(st.just("meet"), st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.just("cancel"), st.integers(0, 2), st.none()),
    st.tuples(st.just("drop"), st.integers(0, 2), st.none()),
    st.tuples(st.just("connect"), st.integers(0, 2), st.none()),
    st.tuples(st.just("bye"), st.integers(0, 2), st.none()),
    st.tuples(st.just("wait"), st.integers(1, 12), st.none()),
)


class Caller:
    """A client that asks again for what was not answered, and looks at its answers."""

    def __init__(self, bench) -> None:
        self.client = bench.client(timeout_ms=10_000)
        self.is_connected = True
        self.asked: dict[int, int] = {}  # request -> rank, unanswered
        self.met: list[tuple[int, int]] = []  # generation, rank

    def read(self) -> None:
        for status, request_id, fields in self.client.read():
            rank = self.asked.pop(request_id)  # answered once
            if status is Status.OK:
                self.met.append((fields[0], rank))

    def connect(self) -> None:
        if not self.client.connect():  # a new session: nothing of the old one is known
            self.asked.clear()
            self.client.last_id = 0
        for request_id, rank in sorted(self.asked.items()):
            meet(self.client, rank, 3, request_id=request_id)
        self.is_connected = True


@python_twin_only
@settings(max_examples=200, deadline=None)
@given(st.lists(STEP, max_size=40))
def test_every_request_is_answered_once_and_generations_are_whole(steps) -> None:
    bench = Bench()
    callers = [Caller(bench) for _ in range(3)]
    for verb, number, rank in steps:
        caller = callers[number % 3]
        if verb == "wait":
            bench.wait(number)
        elif verb == "connect" and not caller.is_connected:
            caller.connect()
        elif not caller.is_connected:
            continue
        elif verb == "meet":
            caller.asked[caller.client.last_id + 1] = rank
            meet(caller.client, rank, 3)
        elif verb == "cancel" and caller.asked:
            caller.client.send(CANCEL, min(caller.asked))
        elif verb == "drop":
            caller.client.drop()
            caller.is_connected = False
        elif verb == "bye":
            request_id, frame = caller.client.frame(BYE)
            caller.asked[request_id] = -1
            bench.step(Received(caller.client.peer, frame))
            caller.client.drop()
            caller.is_connected = False
            caller.asked.clear()
            caller.client.session = b""
            caller.client.read()
        for each in callers:
            if each.is_connected:
                each.read()
    for caller in callers:
        if not caller.is_connected:
            caller.connect()
        caller.read()
    waiting = sum(len(caller.asked) for caller in callers)
    assert waiting == sum(view.arrived for view in bench.engine.parts.groups.groups.views(0))
    assert waiting < 3
