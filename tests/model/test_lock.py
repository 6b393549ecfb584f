"""Any interleaving of members that come to a lock, hold it, free it, give up, freeze and crash before any call.

After each step: no two members hold it, and whoever comes to hold it has a token above all tokens before. In the end,
when the dead have been quiet for long enough, whoever still lives gets it.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.support.session_store import FakeServer, PlainStore
from tests.support.stepped import Member, Stepped

from rallypoint.errors import LeaseLostError
from rallypoint.primitives import line
from rallypoint.primitives.election import Election
from rallypoint.primitives.lease import Lease
from rallypoint.primitives.lock import Lock
from rallypoint.testing import ManualClock

NAMES = "abcd"
TTL_S = 10.0
HOLD_STEPS = 10
SETTLE_STEPS = 300


class Skewed:
    """One member's clock: it runs as the others', but shows another time."""

    def __init__(self, clock, offset_s):
        self._clock = clock
        self._offset_s = offset_s

    def now(self):
        return self._clock.now() + self._offset_s

    def sleep(self, duration_s):
        raise AssertionError("nobody sleeps here")


class LockMachine(RuleBasedStateMachine):
    make_store = staticmethod(lambda clock: None)
    contender = Lock

    @initialize(offsets=st.lists(st.floats(-1e5, 1e5), min_size=len(NAMES), max_size=len(NAMES)))
    def begin(self, offsets):
        self.clock = ManualClock()
        self.connect = self.make_store(self.clock)
        self.tokens = []
        self.members, self.locks, self.leases, self.wants_out = {}, {}, {}, {}
        self.clocks = {name: Skewed(self.clock, offset) for name, offset in zip(NAMES, offsets, strict=True)}
        for name in NAMES:
            self.start(name)

    def start(self, name):
        self.leases[name] = []
        self.members[name] = Member(lambda member: self.live(name, member))

    def live(self, name, member):
        """Take the lock and give it back, again and again."""
        store = Stepped(self.connect(), member)
        while True:
            lock = self.locks[name] = self.contender(store, "L", label=name, ttl=TTL_S, clock=self.clocks[name])
            try:
                token = lock.acquire(math.inf) if isinstance(lock, Lock) else lock.campaign(math.inf)
            except LeaseLostError:
                continue
            if lock.token == token:
                assert not self.tokens or token > self.tokens[-1], f"{name} holds {token} after {self.tokens}"
                self.tokens.append(token)
            for _ in range(HOLD_STEPS):
                member.pause()
            try:
                if isinstance(lock, Lock):
                    lock.release()
                else:
                    lock.resign()
            except LeaseLostError:
                pass

    def note(self, lease):
        """Remember a lease, so that it can be kept alive from outside, as a keeper's thread would."""
        for name, clock in self.clocks.items():
            if clock is lease._clock:
                self.leases[name].append(lease)

    # --- what may happen ---

    @rule(name=st.sampled_from(NAMES), steps=st.sampled_from([1, 2, 3, 5, 9, 14, 20]))
    def step(self, name, steps):
        for _ in range(steps):
            self.members[name].step()
            self.one_holder()

    @rule(order=st.permutations(NAMES), steps=st.integers(1, 12))
    def in_turn(self, order, steps):
        """Two go on side by side."""
        for _ in range(steps):
            self.step(order[0], 1)
            self.step(order[1], 1)

    @rule(name=st.sampled_from(NAMES))
    def come_to_hold(self, name):
        for _ in range(SETTLE_STEPS // 10):
            if not self.locks[name].token:
                self.step(name, 1)

    @rule(order=st.permutations(NAMES), steps=st.integers(8, 14))
    def one_after_the_other(self, order, steps):
        for name in order[:3]:
            self.step(name, steps)

    @rule(name=st.sampled_from(NAMES))
    def renew(self, name):
        for lease in self.leases[name]:
            if not self.members[name].is_over and lease.is_alive and not lease._renewing.locked():
                lease.keep()

    @rule(seconds=st.sampled_from([1.0, 4.0, 6.0, 11.0, 16.0]))
    def time_passes(self, seconds):
        self.clock.advance(seconds)

    @rule(seconds=st.sampled_from([1.0, 3.0]))
    def time_passes_for_the_living(self, seconds):
        self.clock.advance(seconds)
        for name in NAMES:
            self.renew(name)

    @rule(name=st.sampled_from(NAMES))
    def crash(self, name):
        self.members[name].crash()
        self.leases[name] = []

    @rule(name=st.sampled_from(NAMES))
    def come_back(self, name):
        if self.members[name].is_over:
            self.start(name)

    # --- what must hold ---

    @invariant()
    def one_holder(self):
        holders = [
            name for name, lock in getattr(self, "locks", {}).items() if lock.token and not self.members[name].is_over
        ]
        assert len(holders) <= 1, f"{holders} hold it at once"

    def teardown(self):
        if not hasattr(self, "members"):
            return
        try:
            self.settle()
        finally:
            for member in self.members.values():
                member.crash()

    def settle(self):
        """Everybody but one is dead: that one must come to hold the lock."""
        for name in NAMES[1:]:
            self.crash(name)
        self.come_back(NAMES[0])
        before = len(self.tokens)
        for _ in range(SETTLE_STEPS):
            self.step(NAMES[0], 1)
            if len(self.tokens) > before:
                return
            self.clock.advance(1.0)
            self.renew(NAMES[0])
        raise AssertionError(f"nobody holds the lock after {SETTLE_STEPS} steps")


def plain(_):
    store = PlainStore()
    return lambda: store


def served(clock):
    return FakeServer(clock).connect


@pytest.mark.parametrize("contender", [Lock, Election])
@pytest.mark.parametrize("make", [plain, served])
def test_one_holder_at_a_time_and_tokens_rise(monkeypatch, make, contender):
    class Machine(LockMachine):
        make_store = staticmethod(make)

        @initialize()
        def register(self):
            machines.append(self)

    machines = []

    class Noted(Lease):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            machines[-1].note(self)

    monkeypatch.setattr(line, "Lease", Noted)
    Machine.contender = contender
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
