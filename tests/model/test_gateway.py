"""A gateway over a store, beside a server: each local peer gets, byte for byte, what the server would send it.

And its rules of waiting beside a twin that looks at everything all the time.
"""

from __future__ import annotations

import queue

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.test_relay import PEERS, REQUESTS, VALIDATE, played_directly

from rallypoint.clock import SYSTEM_CLOCK
from rallypoint.gateway.backing import Backing
from rallypoint.gateway.spaces import KeySpace
from rallypoint.gateway.translator import Translator
from rallypoint.gateway.vocabulary import DEFAULT_RELAY_LIMITS, Ask, Withdraw
from rallypoint.gateway.waits import Spot, Waits
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import Verb
from rallypoint.server.engine import Connected, Received, Reply
from rallypoint.server.limits import DEFAULT_LIMITS
from rallypoint.store.hash import HashStore

PATIENCE_S = 60


class Gateway:
    """A translator and a backing, with the test as their loop."""

    def __init__(self):
        space = KeySpace("a/space")
        self.translator = Translator(space=space)
        self.posted = queue.Queue()
        self.got = dict.fromkeys(PEERS, b"")
        self.backing = Backing(
            HashStore(),
            space.prefix,
            self.take,
            self.posted.put,
            log=print,
            clock=SYSTEM_CLOCK,
            limits=DEFAULT_LIMITS,
            relay_limits=DEFAULT_RELAY_LIMITS,
        )
        for peer in PEERS:
            self.take(Connected(peer))
            self.take(Received(peer, VALIDATE))

    def take(self, event):
        for effect in self.translator.step(event, 0.0):
            match effect:
                case Ask():
                    self.backing.ask(*effect)
                case Withdraw(call):
                    self.backing.withdraw(call)
                case Reply(peer, data):
                    self.got[peer] += data

    def run_until(self, expected):
        while self.got != expected or any(lane for lane in self.backing._lanes._calls.values()):
            self.posted.get(timeout=PATIENCE_S)()


SCRIPTS = st.lists(st.tuples(st.sampled_from(PEERS), REQUESTS, st.none()), max_size=20)


@settings(deadline=None, max_examples=100)
@given(SCRIPTS)
def test_local_peers_get_a_servers_own_bytes(script):
    gateway = Gateway()
    try:
        for number, (peer, request, _) in enumerate(script, 1):
            gateway.take(Received(peer, encode_request(*request)))
            gateway.take(Received(peer, encode_request(Verb.PING, 0)))
            played = [entry for step in script[:number] for entry in (step, (step[0], (Verb.PING, 0), None))]
            gateway.run_until(played_directly(played))
    finally:
        gateway.backing.end()
    assert gateway.posted.empty()


NAMES = (b"/a", b"/b", b"/c")
STEPS = st.one_of(
    st.tuples(st.just("wait"), st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)),
    st.tuples(st.just("set"), st.sampled_from(NAMES)),
    st.tuples(st.just("delete"), st.sampled_from(NAMES)),
    st.tuples(st.just("meet"), st.integers(1, 3)),
    st.tuples(st.just("arrive"), st.none()),
    st.tuples(st.just("withdraw"), st.integers(0, 20)),
)


class DumbWaits:
    """Everybody is looked at, always."""

    def __init__(self):
        self.waiting = {}

    def look(self, keys, arrived):
        released = {
            call for call, want in self.waiting.items() if (arrived >= want if isinstance(want, int) else want <= keys)
        }
        for call in released:
            del self.waiting[call]
        return released


def looked(waits, keys, arrived, now):
    """Look as a store with these keys is looked at, until nothing is due; give who is released."""
    released = set()
    while spots := waits.due(now):
        for spot in spots:
            if spot.is_count:
                released |= set(waits.counted(spot.name, arrived, now))
            elif spot.name not in keys:
                waits.missing(spot, now)
            else:
                _, lists = waits.at(spot)
                witnesses = {names: next((each for each in names if each not in keys), None) for names in lists}
                released |= set(waits.found(spot.name, 0, witnesses, now))
    return released


@settings(deadline=None)
@given(st.lists(STEPS, max_size=20))
def test_those_are_released_whom_a_look_at_everything_would_release(steps):
    waits, dumb, keys, arrived = Waits(1.0), DumbWaits(), set(), 0
    for call, (what, which) in enumerate(steps):
        now = float(call)
        if what == "wait":
            missing = [name for name in which if name not in keys]
            if missing:
                waits.wait(call, tuple(which), missing[0], now)
                dumb.waiting[call] = set(which)
        elif what == "meet":
            waits.meet(call, b"/barrier", which, now)
            dumb.waiting[call] = which
        elif what == "withdraw":
            assert waits.withdraw(which) == (dumb.waiting.pop(which, None) is not None)
        else:
            arrived += what == "arrive"
            if what != "arrive":
                (keys.add if what == "set" else keys.discard)(which)
            waits.touch(b"/barrier" if what == "arrive" else which, now)
        assert looked(waits, keys, arrived, now) == dumb.look(keys, arrived)
        assert len(waits) == len(dumb.waiting)
        assert (waits.next_deadline() is None) == (not dumb.waiting)
    assert set(waits._spots) <= {Spot(name) for name in NAMES} | {Spot(b"/barrier", is_count=True)}
