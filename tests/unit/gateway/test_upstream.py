from __future__ import annotations

import socket
import threading

import pytest
from tests.support.raw_server import PATIENCE_S, running_loop

from rallypoint.clock import Deadline
from rallypoint.errors import DistNetworkError
from rallypoint.gateway.upstream import Upstream
from rallypoint.gateway.vocabulary import Answered, Failed, UpstreamGone, UpstreamThere
from rallypoint.net.address import listen
from rallypoint.net.retry import Backoff
from rallypoint.protocol.session.spec import SessionVerb, Status
from rallypoint.server.engine import Engine
from rallypoint.server.loop import ServerLoop
from rallypoint.server.vocabulary import Received
from rallypoint.store.reach import Reacher
from rallypoint.types import Endpoint

QUICK = Backoff(0.001, 1.0, 0.001, 0.0)


class Local:
    """A loop without peers of its own, whose session the test drives."""

    def __init__(self, reach, *, is_driven=False):
        self.told = []
        self.came = threading.Condition()
        self.lines = []
        self.loop = ServerLoop(Engine(), listen("127.0.0.1", 0))
        self.upstream = Upstream(self.loop, reach, self.tell, self.lines.append, QUICK, is_driven=is_driven)
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()
        self.upstream.begin()

    def tell(self, event):
        with self.came:
            self.told.append(event)
            self.came.notify_all()

    def wait_for(self, is_right):
        with self.came:
            assert self.came.wait_for(lambda: any(map(is_right, self.told)), PATIENCE_S), self.told
            return next(filter(is_right, self.told))

    def do(self, call, *arguments):
        self.loop.door.visit(lambda: call(*arguments), PATIENCE_S)

    def answer(self, call):
        return self.wait_for(lambda event: isinstance(event, Answered) and event.call == call)

    def end(self):
        self.loop.stop(0.0)
        self.thread.join(PATIENCE_S)
        self.upstream.end()


@pytest.fixture
def server():
    with running_loop() as running:
        yield running


@pytest.fixture
def local(server):
    local = Local(Reacher([Endpoint(*server.address)]))
    yield local
    local.end()


def test_calls_are_answered_by_their_numbers(local):
    local.do(local.upstream.ask, 7, SessionVerb.SET, (b"/k", b"v"))
    local.do(local.upstream.ask, 9, SessionVerb.READ, (b"/k",))
    assert local.answer(7)[1:] == (Status.OK, (1,))
    assert local.answer(9)[1:] == (Status.OK, (1, b"v"))
    assert UpstreamThere(is_same=True) in local.told


def test_a_wait_is_withdrawn(local):
    local.do(local.upstream.ask, 1, SessionVerb.WAIT, ([b"/never"],))
    local.do(local.upstream.withdraw, 1)
    assert local.answer(1)[1:] == (Status.EXPIRED, ([b"/never"],))
    local.do(local.upstream.withdraw, 1)  # what is answered is withdrawn no more


def test_a_request_that_cannot_be_made_is_refused_here(local):
    local.do(local.upstream.ask, 1, SessionVerb.SET, (b"k" * 9000, b""))
    assert local.answer(1).status is Status.REFUSED


def test_what_is_asked_before_there_is_a_server_is_sent_when_there_is(server):
    tries = []

    def reach(session_id, deadline):
        tries.append(session_id)
        if len(tries) < 4:
            raise DistNetworkError("not yet")
        return Reacher([Endpoint(*server.address)])(session_id, Deadline(PATIENCE_S))

    local = Local(reach)
    local.do(local.upstream.ask, 1, SessionVerb.ADD, (b"/n", 1))
    assert local.answer(1).fields == (1,)
    local.end()
    assert [type(event) for event in local.told] == [UpstreamGone] * 3 + [UpstreamThere, Answered]
    assert local.lines == ["the server upstream cannot be reached, trying on: not yet", "the server upstream is there"]


def test_a_session_that_the_server_has_forgotten_fails_the_writes_it_has_not_answered(server):
    links = []

    def reach(session_id, deadline):
        links.append(Reacher([Endpoint(*server.address)])(b"", Deadline(PATIENCE_S)))  # as if it knew none
        return links[-1]

    local = Local(reach)
    local.do(local.upstream.ask, 1, SessionVerb.BARRIER, (b"/b", 2))
    local.do(local.upstream.ask, 2, SessionVerb.WAIT, ([b"/k"],))
    local.do(local.upstream.ask, 3, SessionVerb.PING, (5,))
    local.answer(3)
    links[0].stream._sock.shutdown(socket.SHUT_RDWR)
    failed = local.wait_for(lambda event: isinstance(event, Failed))
    assert (failed.call, "it is not known whether" in failed.detail) == (1, True)
    local.do(local.upstream.ask, 4, SessionVerb.SET, (b"/k", b""))  # what only waits goes on waiting
    assert local.answer(2).status is Status.OK
    local.end()


def test_a_server_that_says_nothing_is_given_up_and_asked_again(server, local):
    local.do(local.upstream.ask, 1, SessionVerb.PING, (5,))
    local.answer(1)
    for _ in range(3):  # one that answers is not
        local.do(local.upstream.probe)
        local.do(local.upstream.ask, 2, SessionVerb.PING, (5,))
        local.answer(2)
        local.told.clear()
    loop, step, engine = server.loop, server.loop._step, server.loop.machine
    unheard = []

    def ignore(event, now):
        is_unheard = type(event) is Received and engine.peers.get(event.peer) in unheard
        return [] if is_unheard else step(event, now)

    def grow_deaf():
        unheard[:] = engine.peers.values()
        loop._step = ignore

    loop.door.visit(grow_deaf, PATIENCE_S)
    local.do(local.upstream.ask, 3, SessionVerb.ADD, (b"/n", 1))
    local.do(local.upstream.probe)
    local.do(local.upstream.probe)
    assert "it has said nothing for 15 s" in local.wait_for(lambda event: isinstance(event, UpstreamGone)).detail
    assert local.answer(3).fields == (1,)


def test_a_connection_that_the_loop_does_not_take_any_more_is_closed(server):
    links = []

    def reach(session_id, deadline):
        links.append(Reacher([Endpoint(*server.address)])(session_id, deadline))
        return links[-1]

    told = []
    loop = ServerLoop(Engine(), listen("127.0.0.1", 0))
    upstream = Upstream(loop, reach, told.append, told.append, QUICK)
    loop.stop(0.0)  # it looks at the door no more
    upstream.begin()
    upstream._connector.join(PATIENCE_S)
    loop.run()
    upstream.end()
    assert [link.stream.fileno() for link in links] == [-1]
    assert told == []


def test_what_is_asked_in_one_turn_leaves_at_its_end_and_oks_come_as_they_are(server):
    local = Local(Reacher([Endpoint(*server.address)]), is_driven=True)
    received = []
    receive = server.loop._step
    server.loop._step = lambda event, now: received.append(event) or receive(event, now)

    def turn():
        received.clear()
        local.upstream.ask(1, SessionVerb.SET, (b"/k", b"v" * 20))
        local.upstream.ask(2, SessionVerb.READ, (b"/k",))
        local.upstream.ask(3, SessionVerb.ADD, (b"/n", 2))
        local.upstream.flush()
        local.upstream.flush()

    local.wait_for(lambda event: isinstance(event, UpstreamThere))
    local.do(turn)
    assert local.answer(1)[1:] == (Status.OK, (1,))
    status, (reply,) = local.answer(2)[1:]
    assert (status, bytes(reply)) == (None, (20).to_bytes(8, "little") + b"v" * 20)
    assert local.answer(3)[1:] == (None, (b"\2" + bytes(7),))
    assert sum(isinstance(event, Received) for event in received) == 1
    local.end()


def test_what_is_too_large_to_be_copied_leaves_frame_by_frame(server):
    local = Local(Reacher([Endpoint(*server.address)]), is_driven=True)
    local.wait_for(lambda event: isinstance(event, UpstreamThere))

    def turn():
        for call in range(1, 9):
            local.upstream.ask(call, SessionVerb.APPEND, (b"/k", b"v" * 1_000_000))
        local.upstream.ask(9, SessionVerb.READ, (b"/k",))
        local.upstream.flush()

    local.do(turn)
    assert len(local.answer(9).fields[0]) == 8 + 8_000_000
    local.end()
