"""The lock, on both kinds of store."""

from __future__ import annotations

import threading

import pytest
from tests.support.session_store import FakeServer, PlainStore

from rallypoint.errors import ConnectionLostError, DistStoreError, LeaseLostError, LockTimeoutError
from rallypoint.primitives import line
from rallypoint.primitives.lock import Lock, LockStatistics
from rallypoint.store.hash import HashStore
from rallypoint.store.prefix import PrefixStore
from rallypoint.testing import ManualClock

LONG_S = 30.0


@pytest.fixture(params=["plain", "sessions", "prefixed"])
def connect(request):
    store = PlainStore()
    kinds = {
        "plain": lambda: store,
        "sessions": FakeServer().connect,
        "prefixed": lambda: PrefixStore("deep", store),
    }
    return kinds[request.param]


def test_one_at_a_time_in_order_with_rising_tokens(connect):
    inside, tokens = [], []

    def work(label):
        lock = Lock(connect(), "L", label=label)
        for _ in range(10):
            with lock:
                inside.append(label)
                assert inside == [label]
                tokens.append(lock.token)
                inside.remove(label)

    threads = [threading.Thread(target=work, args=(label,)) for label in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
        assert not thread.is_alive()
    assert len(tokens) == 40
    assert tokens == sorted(set(tokens))


def test_a_timeout_names_the_holder(connect):
    holder, other = Lock(connect(), "L", label="host 1"), Lock(connect(), "L", label="host 2")
    token = holder.acquire()
    for timeout in (0, 0.05):
        with pytest.raises(LockTimeoutError, match=r"'L' as 'host 2'.* held by 'host 1' \(token \d+\)") as caught:
            other.acquire(timeout)
        assert (caught.value.name, caught.value.holder) == ("L", "host 1")
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, DistStoreError)
    assert other.holder() == "host 1"
    assert repr(holder) == f"Lock('L', held with token {token})"
    holder.release()
    assert other.holder() is None
    assert other.acquire(LONG_S) > token
    other.release()
    assert other.statistics().timeouts == 2


def test_it_serves_again_after_a_timeout_and_after_a_release(connect):
    one, two = Lock(connect(), "L"), Lock(connect(), "L")
    for _ in range(3):
        one.acquire(LONG_S)
        with pytest.raises(LockTimeoutError):
            two.acquire(0)
        one.release()
        two.acquire(LONG_S)
        two.release()


def test_an_object_holds_it_once(connect):
    lock = Lock(connect(), "L")
    with lock, pytest.raises(RuntimeError, match="already held or waited for by this object"):
        lock.acquire()
    with pytest.raises(RuntimeError, match="is not held by this object"):
        lock.release()


def test_a_lock_that_was_lost_says_so(connect):
    clock = ManualClock(jumps=False)
    told = []
    lock = Lock(connect(), "L", on_lost=lambda: told.append("lost"), clock=clock)
    lock.acquire()
    clock.advance(10)
    assert (lock.is_held, lock.token) == (False, 0)
    lock._tenure._place.lease.keep()
    assert told == ["lost"]
    with pytest.raises(LeaseLostError, match="was lost while it was held with token"):
        lock.release()
    assert lock.statistics().lost == 1
    lock.acquire(LONG_S)  # what it left behind does not stand in its own way
    lock.release()


def test_a_block_that_lost_the_lock_fails_but_does_not_hide_its_own_error(connect):
    clock = ManualClock(jumps=False)
    lock = Lock(connect(), "L", clock=clock)
    with pytest.raises(LeaseLostError), lock:
        clock.advance(10)
    with pytest.raises(TypeError), lock:
        clock.advance(10) or clock.advance("the block's own error")


def test_a_session_that_ends_frees_its_lock():
    server = FakeServer()
    dead, alive = server.connect(), server.connect()
    Lock(dead, "L", label="dead").acquire()
    waiter = Lock(alive, "L")
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(waiter.acquire(LONG_S)))
    thread.start()
    dead.die()
    thread.join(LONG_S)
    assert len(outcome) == 1
    waiter.release()


def test_who_was_stopped_while_it_stood_in_line_comes_anew(connect, monkeypatch):
    lock = Lock(connect(), "L")
    losses = [LeaseLostError("stopped", lease=1)]
    for kind in (line.PlainPlace, line.ServedPlace):
        wait_front = kind.wait_front

        def once(self, deadline, wait_front=wait_front):
            if losses:
                raise losses.pop()
            return wait_front(self, deadline)

        monkeypatch.setattr(kind, "wait_front", once)
    lock.acquire(LONG_S)
    assert losses == []
    lock.release()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ConnectionLostError("gone")])
def test_who_is_interrupted_leaves_the_line(connect, monkeypatch, error):
    lock = Lock(connect(), "L")

    def fail(self, deadline):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(line.PlainPlace, "wait_front", fail)
        patch.setattr(line.ServedPlace, "wait_front", fail)
        with pytest.raises(type(error)):
            lock.acquire(LONG_S)
    other = Lock(connect(), "L")
    other.acquire(0)
    other.release()
    lock.acquire(0)
    lock.release()


def test_statistics(connect):
    lock = Lock(connect(), "L")
    assert lock.statistics() == LockStatistics("L", False, 0, acquired=0, timeouts=0, lost=0, waited_s=0)
    with lock:
        held = lock.statistics()
        assert (held.is_held, held.token, held.acquired) == (True, lock.token, 1)
        assert held.waited_s > 0
    assert repr(lock) == "Lock('L', not held)"


def test_no_waiter_polls_a_store_with_sessions():
    server = FakeServer()
    holder, other = server.connect(), server.connect()
    first, second = Lock(holder, "L"), Lock(other, "L")
    first.acquire()
    thread = threading.Thread(target=lambda: second.acquire(LONG_S))
    thread.start()
    while "watch" not in other.calls:
        pass
    first.release()
    thread.join(LONG_S)
    asked = [call for call in other.calls if call != "lease_renew"]
    assert asked == ["compare_set", "lease_grant", "swap", "read_prefix", "watch", "read_prefix"]
    second.release()


@pytest.mark.parametrize("ttl", [0, 0.001, float("inf")])
def test_a_time_to_live_that_is_none_is_refused_before_anybody_waits(ttl) -> None:
    with pytest.raises(ValueError, match=r"ttl must be 0\.05 seconds or more and finite"):
        Lock(HashStore(), "L", ttl=ttl)
