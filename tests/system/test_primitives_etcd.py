"""Locks, elections, leases, counters and queues on etcd: what is built on a store's sessions works there, too."""

from __future__ import annotations

import subprocess
import sys

from rallypoint.primitives.counter import Counter
from rallypoint.primitives.election import Election
from rallypoint.primitives.lock import Lock
from rallypoint.primitives.queue import Queue

LONG_S = 60.0

HOLDER = """
import sys, threading
from rallypoint.primitives.lock import Lock
from rallypoint.store.etcd import EtcdStore
store = EtcdStore(sys.argv[1], timeout=60, session_ttl=2)
lock = Lock(store, "L", label="the first")
print(lock.acquire(), flush=True)
threading.Event().wait()
"""


def test_one_holds_a_lock_at_a_time_and_tokens_rise(etcd_stores, pool):
    inside, tokens = [], []

    def work(label):
        lock = Lock(etcd_stores(), "L", label=label)
        for _ in range(5):
            with lock:
                inside.append(label)
                assert inside == [label]
                tokens.append(lock.token)
                inside.remove(label)

    for one in [pool.submit(work, label) for label in "abcd"]:
        one.result(LONG_S)
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 20


def test_the_lock_of_a_killed_process_goes_to_the_next(etcd_stores, etcd_url):
    child = subprocess.Popen([sys.executable, "-c", HOLDER, etcd_url], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        token = int(child.stdout.readline())
    finally:
        child.kill()
        child.communicate(timeout=LONG_S)
    lock = Lock(etcd_stores(), "L", label="the second")
    assert lock.acquire(LONG_S) > token
    lock.release()


def test_one_is_elected_and_when_it_resigns_another(etcd_stores):
    first, second = Election(etcd_stores(), "E", label="a"), Election(etcd_stores(), "E", label="b")
    term = first.campaign(LONG_S)
    first.resign()
    assert second.campaign(LONG_S) > term
    second.resign()


def test_counters_and_queues(etcd_stores, pool):
    counting = [pool.submit(lambda: [Counter(etcd_stores(), "C").add(1) for _ in range(5)]) for _ in range(4)]
    assert sorted(number for one in counting for number in one.result(LONG_S)) == list(range(1, 21))
    queue, other = Queue(etcd_stores(), "Q"), Queue(etcd_stores(), "Q")
    popping = pool.submit(other.get)
    queue.put("item")
    assert popping.result(LONG_S) == b"item"
