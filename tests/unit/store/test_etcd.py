"""The store on etcd beyond what all stores must do: see also the conformance kit in tests/unit/testing."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from rallypoint.errors import (
    ConnectionLostError,
    ConnectTimeoutError,
    ForkedStoreError,
    LocalProtocolError,
    NotANumberError,
)
from rallypoint.store.etcd import EtcdStore

LONG_S = 60.0


def test_keys_are_any_bytes_and_prefixes_keep_stores_apart(etcd_stores, etcd):
    store, other = etcd_stores(), etcd_stores(url=etcd.url())
    for key in (b"", b"\0", b"\xff\xff", b"a\0b", "/"):
        store.set(key, key)
        assert store.get(key) == (key.encode() if isinstance(key, str) else key)
        assert not other.check([key])
    assert store.num_keys() == 5
    assert other.list_keys() == []


def test_sums_wrap_at_64_bits_and_what_is_no_number_is_said(etcd_stores):
    store = etcd_stores()
    store.set("n", str((1 << 63) - 1))
    assert store.add("n", 1) == -(1 << 63)
    store.set("text", "x")
    with pytest.raises(NotANumberError):
        store.add("text", 1)
    with pytest.raises(LocalProtocolError, match="64"):
        store.add("n", 1 << 63)


def test_adds_of_many_stores_all_count(etcd_stores, pool):
    stores = [etcd_stores() for _ in range(6)]
    adding = [pool.submit(lambda s=store: [s.add("n", 1) for _ in range(20)]) for store in stores]
    numbers = sorted(number for one in adding for number in one.result(LONG_S))
    assert numbers == list(range(1, 121))


def test_a_counter_that_others_have_changed_is_read_anew(etcd_stores):
    store, other = etcd_stores(), etcd_stores()
    assert [store.add("n", 1), other.add("n", 1), store.add("n", 1)] == [1, 2, 3]
    other.delete_key("n")
    assert store.add("n", 1) == 1
    other.set("n", "40")
    assert store.add("n", 2) == 42


def test_a_value_above_etcds_limit_is_refused_by_name(etcd_stores):
    store = etcd_stores()
    with pytest.raises(LocalProtocolError, match="--max-request-bytes"):
        store.set("k", b"v" * 2_000_000)
    assert not store.check(["k"])


@pytest.mark.parametrize("count", [127, 128, 4032])
def test_many_keys_are_set_at_one_moment(etcd_stores, count):
    store = etcd_stores()
    store.multi_set([f"k{number}" for number in range(count)] + ["k0"], ["v"] * count + ["last"])
    entries = store.read_prefix("k")
    assert len(entries) == count
    assert len({entry.revision for entry in entries}) == 1
    assert store.get("k0") == b"last"


def test_more_than_one_request_holds_is_set_in_pieces(etcd_stores):
    store = etcd_stores()
    keys = [f"k{number}" for number in range(40)]
    store.multi_set(keys, [b"v" * 100_000] * 40)
    assert [len(value) for value in store.multi_get(keys)] == [100_000] * 40


def test_nobody_there_is_said_in_time():
    with pytest.raises(
        ConnectTimeoutError,
        match=r"^etcd at 127.0.0.1:1 did not do what was .*: connection refused$",
    ):
        EtcdStore("127.0.0.1:1", timeout=0.2)


def test_a_password_is_not_shown(etcd):
    url = etcd.url().replace("//", "//me:secret@")
    with EtcdStore(url, timeout=LONG_S) as store:
        assert "secret" not in repr(store)


def test_closing_twice_is_fine_and_later_calls_say_so(etcd_stores):
    store = etcd_stores()
    store.close()
    store.close()
    with pytest.raises(ConnectionLostError, match="was closed"):
        store.set("k", "v")
    with pytest.raises(ConnectionLostError, match="was closed"):
        store.clone()


def test_a_store_that_is_dropped_gives_its_connections_back(etcd_url):
    store = EtcdStore(etcd_url, timeout=LONG_S)
    store.set("k", "v")
    with store.watch("k"):
        pass
    cluster, threads = store._cluster, [store._leases._thread, store._hub._thread]
    del store
    gc.collect()
    with pytest.raises(ConnectionLostError):
        cluster.check_owner()
    for thread in threads:
        thread.join(LONG_S)
        assert not thread.is_alive()


def test_any_number_of_threads_may_call_while_others_wait(etcd_stores, pool):
    store = etcd_stores()
    waiting = [pool.submit(store.get, f"late{number}") for number in range(4)]
    assert sorted(one.result(LONG_S) for one in [pool.submit(store.add, "n", 1) for _ in range(40)]) == list(
        range(1, 41)
    )
    for number in range(4):
        store.set(f"late{number}", "v")
    assert [one.result(LONG_S) for one in waiting] == [b"v"] * 4


def test_a_signal_ends_a_wait_at_once(etcd_stores):
    store = etcd_stores()

    class StopError(Exception):
        pass

    def stop(*_):
        raise StopError

    before = signal.signal(signal.SIGUSR1, stop)
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1))
    timer.start()
    started = time.monotonic()
    try:
        with pytest.raises(StopError):
            store.wait(["never"])
    finally:
        signal.signal(signal.SIGUSR1, before)
        timer.join()
    assert time.monotonic() - started < LONG_S / 2
    store.set("k", "v")
    assert store.get("k") == b"v"


def test_a_signals_handler_may_call_amid_calls_of_its_thread(etcd_stores):
    store = etcd_stores()
    handled = []

    def call(*_):
        handled.append(store.add("n", 1))
        store.set("k", "v")
        with store.watch("k"):
            pass
        signal.setitimer(signal.ITIMER_REAL, 0.005)  # not before: it could come again amid itself for ever

    before = signal.signal(signal.SIGALRM, call)
    signal.setitimer(signal.ITIMER_REAL, 0.005)
    numbers = []
    try:
        while len(handled) < 30:
            numbers.append(store.add("n", 1))
            store.get("n")
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert sorted(numbers + handled) == list(range(1, len(numbers) + len(handled) + 1))


def test_a_forked_child_is_refused_and_ends_well_and_the_parent_goes_on(etcd_stores):
    store = etcd_stores()
    lease = store.lease_grant(None)
    store.set("k", "v")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store.get("k")
        except ForkedStoreError:
            store.close()
            code = 7
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert store.get("k") == b"v"
    assert store.lease_renew(lease) > 0


def test_nothing_of_it_is_imported_with_the_package():
    names = "'hpack' in sys.modules, 'rallypoint.store.etcd' in sys.modules"
    code = f"import sys, rallypoint, rallypoint.store.url; print({names})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["False", "False"]
