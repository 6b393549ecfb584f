"""The counter."""

from __future__ import annotations

import pytest
from tests.support.session_store import FakeServer, PlainStore

from rallypoint.primitives.counter import Counter, CounterStatistics


@pytest.fixture(params=[PlainStore, lambda: FakeServer().connect()], ids=["plain", "sessions"])
def store(request):
    return request.param()


def test_counting(store):
    one, two = Counter(store, "c"), Counter(store, "c")
    assert [one.value(), one.add(), two.add(5), one.add(-2), two.value()] == [0, 1, 6, 4, 4]
    assert store.get("c") == b"4"


def test_blocks_do_not_overlap(store):
    one, two = Counter(store, "c"), Counter(store, "c")
    assert [*one.take(3), *two.take(2), *one.take(1)] == list(range(6))
    with pytest.raises(ValueError, match="count must be 1 or more, got 0"):
        one.take(0)


def test_statistics(store):
    counter = Counter(store, "c")
    Counter(store, "c").add(10)
    counter.add(2)
    counter.take(3)
    assert counter.statistics() == CounterStatistics("c", calls=2, added=5, value=15)
    assert repr(counter) == "Counter('c')"
