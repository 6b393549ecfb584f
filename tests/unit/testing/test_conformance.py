"""The conformance kit: it passes stores that are right, and finds out those that are not."""

from __future__ import annotations

import threading

import pytest

from rallypoint.store.base import Store
from rallypoint.store.etcd import EtcdStore
from rallypoint.store.hash import HashStore
from rallypoint.store.prefix import PrefixStore
from rallypoint.store.tcp import TCPStore
from rallypoint.testing import check_store, conformance, store_checks
from rallypoint.testing.conformance import Lab

LONG_S = 30.0


def tcp_store():
    return TCPStore("localhost", 0, is_master=True, timeout=LONG_S, server="thread")


@pytest.mark.parametrize("check", store_checks(), ids=str)
def test_a_tcp_store_behaves_as_a_store(check):
    check.run(tcp_store)


@pytest.mark.parametrize("check", store_checks(), ids=str)
def test_a_prefix_of_a_tcp_store_behaves_as_a_store(check):
    with tcp_store() as store:
        check.run(lambda: PrefixStore("p", store))


@pytest.mark.parametrize("check", store_checks(), ids=str)
def test_a_store_on_etcd_behaves_as_a_store(check, etcd):
    check.run(lambda: EtcdStore(etcd.url(), timeout=LONG_S))


def test_every_behaviour_is_a_sentence_of_its_own():
    sentences = [str(check) for check in store_checks()]
    assert len(set(sentences)) == len(sentences) >= 35
    assert all(sentence[0].isupper() and not sentence.endswith(".") for sentence in sentences)


def test_a_store_without_queues_and_lists_may_say_so():
    class Plain(HashStore):
        list_keys = Store.list_keys
        queue_len = Store.queue_len
        queue_push = Store.queue_push
        queue_pop = Store.queue_pop

    check_store(Plain)


def test_a_right_store_passes_and_each_check_gets_a_store_of_its_own_that_is_closed():
    opened, closed = [], []

    class Counted(HashStore):
        def __init__(self):
            super().__init__()
            opened.append(self)

        def close(self):
            closed.append(self)

    check_store(Counted)
    assert opened == closed
    assert len(opened) == len(store_checks())


def test_all_faults_are_reported_together():
    class Faulty(HashStore):
        def check(self, keys, /):
            return True

    with pytest.raises(AssertionError) as caught:
        check_store(Faulty)
    head, *lines = str(caught.value).splitlines()
    assert head == f"{len(lines) // 2} of {len(store_checks())} checks failed:"
    assert "- Check is true exactly if all keys are there" in lines
    assert "      check of a present and a missing key gave True, expected False" in lines


def test_an_error_of_the_store_is_reported_with_its_place():
    class Broken(HashStore):
        def num_keys(self):
            raise OSError("the disk is gone")

    with pytest.raises(
        AssertionError, match=r"Num_keys grows.*\n.*OSError\('the disk is gone'\) \(.*test_conformance\.py:"
    ):
        check_store(Broken)


def test_a_thread_that_never_ends_is_an_error_by_name(monkeypatch):
    monkeypatch.setattr(conformance, "JOIN_TIMEOUT_S", 0.05)
    end = threading.Event()
    lab = Lab(HashStore)
    with pytest.raises(AssertionError, match=r"the long wait still waits after 0\.05 s"):
        lab.spawn(end.wait, "the long wait")()
    end.set()
    lab.close()


def test_errors_of_threads_come_out_where_their_result_is_asked_for():
    lab = Lab(HashStore)
    with pytest.raises(ZeroDivisionError):
        lab.together([lambda: 1, lambda: 1 // 0], "division")
    lab.close()


def test_results_are_compared_with_their_types():
    lab = Lab(HashStore)
    lab.equal(1, 1, "one")
    with pytest.raises(AssertionError, match="one gave True, expected 1"):
        lab.equal(True, 1, "one")
    with pytest.raises(AssertionError, match=r"long gave 'x{99}\.\.\. \(1002 characters\), expected ''"):
        lab.equal("x" * 1000, "", "long")
    lab.close()


def test_a_lab_gives_its_store_back_the_long_timeout():
    lab = Lab(HashStore)
    before = lab.store.timeout
    with lab.short_timeout():
        assert lab.store.timeout < before
    assert lab.store.timeout == before
    lab.close()
