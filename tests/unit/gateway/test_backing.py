from __future__ import annotations

import queue
import threading

import pytest
from tests.support.losing_store import LosingStore

from rallypoint.clock import SYSTEM_CLOCK
from rallypoint.gateway.backing import Backing
from rallypoint.gateway.vocabulary import Answered, Failed, RelayLimits
from rallypoint.protocol.session.spec import SessionVerb, Status
from rallypoint.server.limits import Limits

V = SessionVerb
PATIENCE_S = 60


class Asked:
    """A backing whose loop is the test."""

    def __init__(self, *, names_max=100, **relay_limits):
        self.store = LosingStore()
        self.posted = queue.Queue()
        self.lines = []
        self.answers = {}
        self.backing = Backing(
            self.store,
            b"/",
            self.tell,
            self.posted.put,
            log=self.lines.append,
            clock=SYSTEM_CLOCK,
            limits=Limits(waited_names_max=names_max),
            relay_limits=RelayLimits(**relay_limits),
        )
        self.ask = self.backing.ask

    def tell(self, event):
        self.answers[event.call] = event

    def turn(self):
        self.posted.get(timeout=PATIENCE_S)()

    def answer(self, call):
        while call not in self.answers:
            self.turn()
        return self.answers.pop(call)

    def wait_for_line(self, part):
        while not any(part in line for line in self.lines):
            self.turn()


@pytest.fixture
def asked(request):
    asked = Asked(**getattr(request, "param", {}))
    yield asked
    asked.backing.end()


def test_requests_of_a_peer_are_done_in_their_order(asked):
    for number in range(200):
        asked.ask(number, V.APPEND, (b"/k", b"%d " % number), 1)
    asked.ask(200, V.READ, (b"/k",), 1)
    assert asked.answer(200) == Answered(200, Status.OK, (1, b"".join(b"%d " % number for number in range(200))))


def test_a_check_and_the_read_behind_it_are_one_call_of_the_store(asked):
    asked.store.set("k", "v")
    go_on, begun = threading.Event(), threading.Event()
    asked.store.append = lambda key, value: (begun.set(), go_on.wait(PATIENCE_S))
    asked.ask(1, V.APPEND, (b"/l", b"v"), 1)
    assert begun.wait(PATIENCE_S)
    for call, key in ((2, b"/k"), (4, b"/missing")):
        asked.ask(call, V.CHECK, ([key],), 1)
        asked.ask(call + 1, V.READ, (key,), 1)
    asked.ask(6, V.CHECK, ([b"/k"],), 1)
    asked.ask(7, V.READ, (b"/k",), 2)  # of another peer
    assert asked.answer(7) == Answered(7, Status.OK, (1, b"v"))
    looked, look = [], asked.backing._verbs.look
    asked.backing._verbs.look = lambda key: looked.append(key) or look(key)
    go_on.set()
    assert asked.answer(2) == Answered(2, Status.OK, (0,))
    assert asked.answer(3) == Answered(3, Status.OK, (1, b"v"))
    assert asked.answer(4) == Answered(4, Status.OK, (1,))
    assert asked.answer(5) == Answered(5, Status.OK, (0, b""))
    assert asked.answer(6) == Answered(6, Status.OK, (0,))
    assert looked == ["k", "missing"]


@pytest.mark.parametrize("asked", [{"patience_s": 0.05}], indirect=True)
def test_a_check_and_its_read_fail_together(asked):
    go_on, begun = threading.Event(), threading.Event()
    asked.store.append = lambda key, value: (begun.set(), go_on.wait(PATIENCE_S))
    asked.ask(1, V.APPEND, (b"/l", b"v"), 1)
    assert begun.wait(PATIENCE_S)
    asked.ask(2, V.CHECK, ([b"/k"],), 1)
    asked.ask(3, V.READ, (b"/k",), 1)
    asked.store.lose()
    go_on.set()
    assert asked.answer(2).detail.startswith("the store could not be reached for 0.")
    assert isinstance(asked.answer(3), Failed)


def test_a_wait_does_not_hold_up_what_follows_it(asked):
    asked.ask(1, V.WAIT, ([b"/k"],), 1)
    asked.ask(2, V.PING, (7,), 1)
    assert asked.answer(2) == Answered(2, Status.OK, (7,))
    asked.ask(3, V.SET, (b"/k", b"v"), 2)
    assert asked.answer(1) == Answered(1, Status.OK, ())
    asked.ask(4, V.WAIT, ([b"/k"],), 1)
    assert asked.answer(4) == Answered(4, Status.OK, ())


def test_a_wait_comes_after_the_requests_before_it(asked):
    asked.store.set("k", "v")
    asked.ask(1, V.DELETE_KEY, (b"/k",), 1)
    asked.ask(2, V.WAIT, ([b"/k"],), 1)
    asked.ask(3, V.PING, (7,), 1)
    asked.answer(3)
    assert 2 not in asked.answers
    asked.ask(4, V.MULTI_SET, ([(b"/k", b"v")],), 2)
    assert asked.answer(2).status is Status.OK


def test_a_wait_that_is_withdrawn_expires_and_leaves_nothing_behind(asked):
    asked.ask(1, V.WAIT, ([b"/k"],), 1)
    asked.ask(2, V.PING, (7,), 1)
    asked.answer(2)
    asked.backing.withdraw(1)
    assert asked.answer(1).status is Status.EXPIRED
    asked.backing.withdraw(1)
    asked.backing.withdraw(2)
    assert (asked.backing._waits, asked.backing._beginning, asked.backing._withdrawn) == ({}, set(), set())
    assert asked.backing._names == 0


def test_a_wait_that_is_withdrawn_before_its_turn_expires(asked):
    go_on, begun = threading.Event(), threading.Event()
    asked.store.append = lambda key, value: (begun.set(), go_on.wait(PATIENCE_S))
    asked.ask(1, V.APPEND, (b"/k", b"v"), 1)
    asked.ask(2, V.WAIT, ([b"/k"],), 1)
    asked.ask(3, V.BARRIER, (b"/b", 2), 1)
    assert begun.wait(PATIENCE_S)
    asked.backing.withdraw(2)
    asked.backing.withdraw(3)
    go_on.set()
    assert asked.answer(2).status is Status.EXPIRED
    assert asked.answer(3).status is Status.EXPIRED
    assert asked.store.get("b") == b"1"  # the arrival counts, as on a server
    assert (asked.backing._waits, asked.backing._beginning, asked.backing._withdrawn) == ({}, set(), set())


def test_a_barrier_releases_all_with_the_last(asked):
    for call in range(1, 5):
        asked.ask(call, V.BARRIER, (b"/b", 4), call)
    assert {asked.answer(call).status for call in range(1, 5)} == {Status.OK}


def test_what_the_store_refuses_is_refused(asked):
    asked.store.set("k", "no number")
    asked.ask(1, V.ADD, (b"/k", 1), 1)
    answer = asked.answer(1)
    assert (answer.status, answer.fields[0]) == (Status.REFUSED, b"not_a_number")
    assert b"no number" in answer.fields[1]


@pytest.mark.parametrize("asked", [{"names_max": 3}], indirect=True)
def test_the_names_that_are_waited_for_are_bounded(asked):
    asked.ask(1, V.WAIT, ([b"/a", b"/b"],), 1)
    asked.ask(2, V.WAIT, ([b"/c", b"/d"],), 2)
    answer = asked.answer(2)
    assert (answer.status, answer.fields[0]) == (Status.REFUSED, b"too_many_waited")
    assert answer.fields[1] == b"all peers would wait for 4 names, the limit is 3"
    asked.ask(3, V.BARRIER, (b"/b", 1), 3)
    assert asked.answer(3).status is Status.OK


def test_what_may_be_done_again_is_done_again_until_the_store_is_back(asked):
    asked.store.lose()
    asked.ask(1, V.SET, (b"/k", b"v"), 1)
    asked.ask(2, V.READ, (b"/k",), 1)
    asked.ask(3, V.WAIT, ([b"/k"],), 2)
    asked.wait_for_line("the store cannot be reached, trying on: it is lost")
    asked.store.find()
    assert asked.answer(2) == Answered(2, Status.OK, (1, b"v"))
    assert asked.answer(3).status is Status.OK
    asked.wait_for_line("the store is there again")
    assert len(asked.lines) == 2


def test_what_may_have_been_done_and_must_not_be_done_twice_fails(asked):
    asked.store.lose()
    asked.ask(1, V.ADD, (b"/n", 1), 1)
    answer = asked.answer(1)
    assert isinstance(answer, Failed)
    assert answer.detail == "the store was lost, it is not known whether the request was applied: it is lost"


def test_what_was_certainly_not_done_is_tried_again(asked):
    asked.store.lose(is_doubtful=False)
    asked.ask(1, V.ADD, (b"/n", 1), 1)
    asked.wait_for_line("nobody answers")
    asked.store.find()
    assert asked.answer(1) == Answered(1, Status.OK, (1,))


@pytest.mark.parametrize("asked", [{"patience_s": 0.05}], indirect=True)
def test_patience_ends_for_requests_and_not_for_waits(asked):
    asked.store.lose()
    asked.ask(1, V.WAIT, ([b"/k"],), 1)
    asked.ask(2, V.READ, (b"/k",), 2)
    answer = asked.answer(2)
    assert isinstance(answer, Failed)
    assert answer.detail.startswith("the store could not be reached for 0.")
    assert 1 not in asked.answers
    asked.store.find()
    asked.ask(3, V.SET, (b"/k", b"v"), 3)
    assert asked.answer(1).status is Status.OK


def test_an_error_that_is_neither_fails_the_request(asked):
    asked.store.lose()
    asked.store.loss = ZeroDivisionError("a bug of the store")
    asked.ask(1, V.READ, (b"/k",), 1)
    assert asked.answer(1) == Failed(1, "the store failed: ZeroDivisionError: a bug of the store")


def test_the_end_ends_those_who_try_on():
    asked = Asked()
    asked.store.lose()
    asked.ask(1, V.READ, (b"/k",), 1)
    asked.ask(2, V.WAIT, ([b"/k"],), 2)
    asked.wait_for_line("cannot be reached")
    asked.backing.end()
    threads = [*asked.backing._lanes._threads, *asked.backing._lookout._threads]
    assert threads
    assert not any(thread.is_alive() for thread in threads)


def test_a_store_of_the_gateways_own_is_closed_with_it():
    asked, closed = Asked(), []
    asked.store.close = lambda: closed.append(1)
    asked.backing.end()
    assert closed == []
    asked.backing._closes_store = True
    asked.backing.end()
    assert closed == [1]
