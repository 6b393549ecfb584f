"""Revisions, prefixes and status on etcd."""

from __future__ import annotations

import pytest

from rallypoint.store.prefix import PrefixStore
from rallypoint.store.session_calls import ABSENT, ANY_REVISION, Changed, Entry


def test_it_has_them(etcd_stores):
    assert etcd_stores().has_sessions()


def test_a_swap_is_done_at_the_expected_revision_only(etcd_stores):
    store = etcd_stores()
    is_done, first = store.swap("k", ABSENT, "1")
    assert is_done
    assert store.read("k") == Entry("k", b"1", first)
    assert store.swap("k", ABSENT, "2") == (False, first)
    is_done, second = store.swap("k", first, "2")
    assert is_done
    assert second > first
    assert store.swap("k", first, "3") == (False, second)
    assert store.swap("k", ANY_REVISION, "4")[0]
    assert store.swap("missing", first, "5") == (False, ABSENT)
    assert store.swap("missing", -7, "5") == (False, ABSENT)
    assert store.get("k") == b"4"


def test_one_of_several_swaps_wins(etcd_stores, pool):
    stores = [etcd_stores() for _ in range(4)]
    swaps = [pool.submit(store.swap, "k", ABSENT, str(number)) for number, store in enumerate(stores)]
    assert sorted(swap.result()[0] for swap in swaps) == [False, False, False, True]


def test_a_key_that_is_absent_is_read_as_none(etcd_stores):
    assert etcd_stores().read("k") is None


def test_prefixes_are_read_listed_and_removed(etcd_stores):
    store = etcd_stores()
    store.multi_set(["a/1", "a/2", "b", b"\xc3\xa4"], ["1", "2", "3", "4"])
    assert [(entry.key, entry.value) for entry in store.read_prefix("a/")] == [("a/1", b"1"), ("a/2", b"2")]
    assert store.list_prefix("") == ["a/1", "a/2", "b", "ä"]
    assert store.delete_prefix("a/") == 2
    assert store.delete_prefix("a/") == 0
    assert store.list_prefix("") == ["b", "ä"]


def test_a_prefix_store_has_them_too(etcd_stores):
    store = etcd_stores()
    inner = PrefixStore("p", store)
    assert inner.has_sessions()
    with inner.watch("k") as watch:
        is_done, revision = inner.swap("k", ABSENT, "v")
        assert is_done
        assert watch.next() == Changed("k", b"v", revision)
    assert store.list_keys() == ["p/k"]


def test_the_status_says_who_the_members_are(etcd_stores, etcd):
    store = etcd_stores()
    store.set("k", "v")
    told = store.status()
    (member,) = told["members"].values()
    assert list(told["members"]) == [str(etcd.members[0].endpoint)]
    assert (told["kind"], told["keys"], member["is_leader"]) == ("etcd", 1, True)
    assert store.status("keys/k") == {"keys": ["k"]}
    assert store.status("values/") == {"values": {"k": "v"}}
    with pytest.raises(ValueError, match="has no 'peers'"):
        store.status("peers")


@pytest.mark.parametrize("call", [lambda s: s.swap("k", "1", "v"), lambda s: s.watch("k", since="1")])
def test_revisions_are_numbers(etcd_stores, call):
    with pytest.raises(TypeError, match="must be an int"):
        call(etcd_stores())
