from __future__ import annotations

import pytest
from tests.support.stores import making_stores

from rallypoint.rendezvous.key_spaces import KeySpaces, root_of
from rallypoint.store.prefix import PrefixStore

RUN = "run 7"


@pytest.fixture
def store():
    with making_stores() as make:
        yield make(dialect="session")


@pytest.fixture
def spaces(store):
    return KeySpaces(store, RUN)


def test_what_rounds_shared_is_dropped_once(store, spaces):
    for number in (0, 1, 2):
        spaces.of_agents(number).set("k", str(number))
        store.set(f"{spaces.of_workers(number)}/k", "v")
    spaces.drop_below(2)
    assert store.list_prefix("rallypoint.rendezvous.run 7/rounds/0") == []
    assert store.list_prefix("rallypoint.rendezvous.run 7/rounds/1") == []
    assert spaces.of_agents(2).get("k") == b"2"
    assert store.check([f"{spaces.of_workers(2)}/k"])
    spaces.of_agents(0).set("late", "v")
    spaces.drop_below(2)
    assert spaces.of_agents(0).check(["late"])


def test_no_lie_about_rounds_keeps_a_coordinator_busy(store, spaces):
    for number in (2**52 - 1, 2**52):
        spaces.of_agents(number).set("k", "v")
    PrefixStore(root_of(RUN), store).set("dropped", "9" * 5000)
    spaces.drop_below(2**52)
    assert not spaces.of_agents(2**52 - 1).check(["k"])
    assert spaces.of_agents(2**52).check(["k"])


def test_workers_keys_go_and_agents_keys_stay(store, spaces):
    spaces.of_agents(3).set("k", "v")
    store.set(f"{spaces.of_workers(3)}/k", "v")
    spaces.drop_workers(3)
    assert spaces.of_agents(3).check(["k"])
    assert not store.check([f"{spaces.of_workers(3)}/k"])


def test_a_run_begins_with_nothing_of_an_earlier_one_of_its_name(store, spaces):
    for number in (0, 5):
        spaces.of_agents(number).set("k", "v")
    spaces.drop_below(1)
    other = KeySpaces(store, "run 8")
    other.of_agents(0).set("k", "v")
    spaces.drop_all()
    assert store.list_prefix(root_of(RUN)) == []
    assert other.of_agents(0).check(["k"])
    spaces.of_agents(0).set("k", "v")
    spaces.drop_below(1)
    assert not spaces.of_agents(0).check(["k"])
