from __future__ import annotations

import contextlib
import threading

import pytest
from tests.support.raw_server import PATIENCE_S, RawClient

from rallypoint.errors import DistStoreError
from rallypoint.gateway.front import Front, FrontOptions
from rallypoint.gateway.spaces import KeySpace
from rallypoint.gateway.vocabulary import Answered
from rallypoint.net.address import listen
from rallypoint.protocol.session.spec import SessionVerb, Status
from rallypoint.protocol.spec import Verb


class Written:
    """Another side that writes down what it is asked, and answers as it is told to."""

    def __init__(self, front):
        self.front = front
        self.asked = []
        self.withdrawn = []
        self.course = []

    def begin(self):
        self.course.append("begun")

    def end(self):
        self.course.append("ended")

    def ask(self, call, verb, fields, peer):
        self.asked.append((verb, fields))
        if verb is not SessionVerb.WAIT:
            self.front.loop.door.post(lambda: self.front.tell(Answered(call, Status.OK, (7,))))

    def withdraw(self, call):
        self.withdrawn.append(call)


@contextlib.contextmanager
def running_front(**options):
    listeners = listen("127.0.0.1", 0)
    address = listeners[0].getsockname()[:2]
    front = Front(listeners, FrontOptions(**options))
    front._side = Written(front)
    thread = threading.Thread(target=front.run)
    thread.start()
    client = RawClient(address)
    try:
        yield front, client
    finally:
        client.close()
        front.stop(0.0)
        thread.join(PATIENCE_S)
    assert front._side.course == ["begun", "ended"]


def test_requests_go_to_the_other_side_and_its_answers_come_back():
    with running_front() as (front, client):
        client.ask(Verb.PING, 7)
        assert client.read(4) == b"\7\0\0\0"
        assert front._side.asked == [(SessionVerb.PING, (7,))]


def test_requests_are_of_the_key_space():
    with running_front(space=KeySpace("s")) as (front, client):
        client.ask(Verb.ADD, b"/n", 1)
        assert client.read(8) == b"\7" + bytes(7)
        assert front._side.asked == [(SessionVerb.ADD, (b"/s/n", 1))]


def test_what_a_lost_peer_waits_for_is_withdrawn():
    with running_front() as (front, client):
        client.ask(Verb.WAIT, [b"/k"])
        client.close()
        while not front._side.withdrawn:
            front.statistics(PATIENCE_S)


def test_a_front_that_has_ended_has_no_numbers():
    with running_front() as (front, _):
        assert front.statistics(PATIENCE_S).connections <= 1
    with pytest.raises(DistStoreError, match="has ended"):
        front.statistics()
