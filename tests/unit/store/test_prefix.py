"""PrefixStore over our stores, over users' few-method stores, over strangers."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.support.stores import Recorder, making_stores

from rallypoint.errors import StoreTimeoutError
from rallypoint.server import native as server_native
from rallypoint.store.base import Store
from rallypoint.store.file import FileStore
from rallypoint.store.hash import HashStore
from rallypoint.store.prefix import PrefixStore, as_foreign_timeout
from rallypoint.testing import store_checks


class FewMethods(Store):
    """What a user may bring: four methods and str keys."""

    def __init__(self):
        super().__init__()
        self.data = {}

    def set(self, key, value):
        assert type(key) is str
        assert type(value) is bytes
        self.data[key] = value

    def get(self, key):
        return self.data[key]

    def add(self, key, amount):
        self.data[key] = b"%d" % (int(self.data.get(key, b"0")) + amount)
        return int(self.data[key])

    def compare_set(self, key, expected, desired):
        assert type(expected) is type(desired) is bytes
        if self.data.get(key, b"") != expected:
            return self.data.get(key, expected)
        self.data[key] = desired
        return desired


class Stranger:
    """A store of another family: torch's manners, no class of ours, durations as timedelta only."""

    def __init__(self, **methods):
        self.calls = []
        self.timeout = timedelta(seconds=1)
        for name, result in methods.items():
            setattr(self, name, self.recorder(name, result))

    def recorder(self, name, result):
        return lambda *arguments: (self.calls.append((name, *arguments)), result)[1]


@pytest.mark.parametrize("check", store_checks(), ids=str)
def test_it_behaves_as_a_store_over_a_hash_store(check):
    check.run(lambda: PrefixStore("p", HashStore()))


@pytest.mark.parametrize("check", store_checks(), ids=str)
def test_two_behave_as_a_store_over_a_file_store(check, tmp_path):
    file_store = FileStore(str(tmp_path / "store"), 1)
    check.run(lambda: PrefixStore("outer", PrefixStore("inner/", file_store)))
    file_store.close()


def test_keys_are_prefixed_once_a_level():
    below = HashStore()
    store = PrefixStore("inner", PrefixStore(b"outer", below))
    store.set("k", "v")
    PrefixStore("", below).set("k", "w")
    assert below.list_keys() == ["outer/inner/k", "/k"]
    assert repr(store) == "PrefixStore('inner', PrefixStore('outer', HashStore(2 keys)))"


def test_the_stores_below_are_shown():
    below = HashStore()
    inner = PrefixStore("inner", below)
    store = PrefixStore("outer", inner)
    assert store.underlying_store is inner
    assert store._underlying_non_prefix_store is below
    assert inner._underlying_non_prefix_store is below


def test_no_store_is_refused():
    with pytest.raises(ValueError, match="store argument cannot be None"):
        PrefixStore("p", None)


def test_only_keys_under_the_prefix_are_listed():
    below = HashStore()
    for key in ("p", "p/a", "p/b/c", "pp/d", "prefixed", "q/p/e"):
        below.set(key, "")
    assert sorted(PrefixStore("p", below).list_keys()) == ["a", "b/c"]


def test_keys_that_are_no_text_travel_as_bytes():
    below = HashStore()
    PrefixStore("p", below).set(b"\xff", "v")
    assert below.get(b"p/\xff") == b"v"


def test_counts_and_timeouts_are_those_of_the_store_below():
    below = HashStore()
    store = PrefixStore("p", below)
    below.set("outside", "")
    store.set("inside", "")
    assert store.num_keys() == 2
    store.set_timeout(3)
    assert below.timeout == store.timeout == timedelta(seconds=3)
    store.set_timeout(0)
    with pytest.raises(StoreTimeoutError, match="p/missing"):
        store.get("missing")


def test_a_clone_prefixes_a_clone(tmp_path):
    with FileStore(str(tmp_path / "store"), 1) as below:
        clone = PrefixStore("p", below).clone()
        clone.set("k", "v")
        assert below.get("p/k") == b"v"
        assert clone.underlying_store is not below
        clone.underlying_store.close()


def test_closing_leaves_the_store_below_open(tmp_path):
    with FileStore(str(tmp_path / "store"), 1) as below:
        PrefixStore("p", below).close()
        below.set("k", "v")


def test_append_and_multi_calls_are_made_for_a_store_with_four_methods():
    below = FewMethods()
    store = PrefixStore("p", below)
    assert store.has_extended_api() is False
    store.append("k", "a")
    store.append("k", "b")
    store.multi_set(["x", "y"], ["1", "2"])
    assert store.multi_get(["y", "k", "x"]) == [b"2", b"ab", b"1"]
    assert below.data == {"p/k": b"ab", "p/x": b"1", "p/y": b"2"}
    with pytest.raises(NotImplementedError, match="Not implemented"):
        store.check(["k"])


def test_a_stranger_without_the_extended_api_is_asked_in_its_plain_methods():
    below = Stranger(set=None, get=b"v", has_extended_api=False)
    store = PrefixStore("p", below)
    store.multi_set(["a", "b"], ["1", "2"])
    assert store.multi_get(["a"]) == [b"v"]
    with pytest.raises(NotImplementedError, match="Not implemented"):
        store.check(["a"])
    assert below.calls == [
        ("has_extended_api",),
        ("set", "p/a", b"1"),
        ("set", "p/b", b"2"),
        ("has_extended_api",),
        ("get", "p/a"),
    ]


def test_a_stranger_with_the_extended_api_is_asked_in_it():
    below = Stranger(append=None, multi_get=[b"v"], multi_set=None, has_extended_api=True)
    store = PrefixStore("p", below)
    store.append("a", "1")
    store.multi_set(["a"], ["1"])
    assert store.multi_get(["a"]) == [b"v"]
    assert [call for call in below.calls if len(call) > 1] == [
        ("append", "p/a", b"1"),
        ("multi_set", ["p/a"], [b"1"]),
        ("multi_get", ["p/a"]),
    ]
    with pytest.raises(RuntimeError, match="same size"):
        store.multi_set(["a", "b"], ["1"])


def test_a_stranger_gets_durations_as_timedelta():
    below = Stranger(wait=None, barrier=None, set_timeout=None)
    store = PrefixStore("p", below)
    store.wait(["a"], 1.5)
    store.wait(["a"])
    store.barrier("b", 2, 3)
    store.barrier("b", 2)
    store.set_timeout(float("inf"))
    assert below.calls == [
        ("wait", ["p/a"], timedelta(seconds=1.5)),
        ("wait", ["p/a"]),
        ("barrier", "p/b", 2, timedelta(seconds=3)),
        ("barrier", "p/b", 2, None),
        ("set_timeout", timedelta(days=24)),
    ]


def test_a_stranger_without_barriers_gets_one_made_of_its_methods():
    below = Stranger(add=1, set=None, wait=None)
    PrefixStore("p", below).barrier("b", 1, 5)
    assert [call[0] for call in below.calls] == ["add", "set", "wait"]
    assert below.calls[0] == ("add", "p/b/num_members", 1)


def test_negative_timeouts_are_refused():
    with pytest.raises(ValueError, match="0 or more"):
        as_foreign_timeout(-1)


# --- sessions --------------------------------------------------------------------------------------------


@pytest.fixture
def below(monkeypatch):
    monkeypatch.setattr(server_native, "native", lambda: None)
    with making_stores() as build:
        yield build(dialect="session")


def test_all_that_a_session_can_do_has_prefixed_names(below):
    store = PrefixStore("job", below)
    below.set("other", "1")
    assert store.has_sessions()
    assert store.session_ends_at() == float("inf")
    is_swapped, revision = store.swap("k", 0, "v")
    assert is_swapped
    assert store.read("k") == ("k", b"v", revision)
    assert store.read("absent") is None
    assert below.read("job/k").value == b"v"
    assert store.read_prefix("") == [("k", b"v", revision)]
    assert store.list_prefix("k") == ["k"]
    with store.watch("", is_prefix=True) as watch:
        assert watch.revision >= revision
        store.set("w", "1")
        assert watch.next()[:2] == ("w", b"1")
    with PrefixStore("in", store).pipeline() as batch:
        batch.set("p", "1")
    store.post_set("q", "2")
    assert below.multi_get(["job/in/p", "job/q"]) == [b"1", b"2"]
    lease = store.lease_grant(30)
    store.swap("leased", 0, "v", lease=lease)
    assert store.lease_renew(lease) > 0
    assert store.lease_revoke(lease) == 1
    assert store.delete_prefix("") == 4
    assert below.list_keys() == ["other"]
    assert store.meet("b", 0, 1) == 1
    assert below.meet("b", 0, 1) == 1
    assert store.exchange("x", 0, 1, "v") == [b"v"]


def test_a_strangers_store_has_no_sessions():
    store = PrefixStore("job", Recorder(1))
    assert not store.has_sessions()
    assert store.session_ends_at() == float("inf")
    with pytest.raises(NotImplementedError):
        store.read("k")
    store.post_set("k", "v")
