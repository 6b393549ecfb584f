"""What the parts of an etcd store share: reads of one moment, waits for several names, grace for one look."""

from __future__ import annotations

import pytest

from rallypoint.clock import Deadline
from rallypoint.errors import LeaseLostError, StoreTimeoutError
from rallypoint.store import etcd_wire as wire
from rallypoint.store.etcd_ground import CALL_MIN_S, READS_MAX

LONG_S = 60.0


@pytest.mark.parametrize("count", [1, 127, 128, 500, READS_MAX + 1])
def test_any_number_of_keys_is_read(etcd_stores, count):
    store = etcd_stores()
    store.set("last", "v")
    requests = [wire.range_of(store._names.key(b"k%d" % number)) for number in range(count - 1)]
    answers, revision = store._read_all([*requests, wire.range_of(store._names.key(b"last"))], Deadline(LONG_S))
    assert [len(answer.entries) for answer in answers] == [0] * (count - 1) + [1]
    assert revision >= answers[-1].entries[0].revision


def test_a_look_has_time_for_a_round_trip_whatever_the_timeout(etcd_stores):
    store = etcd_stores()
    store.set_timeout(0)
    assert store._patience().timeout_s == CALL_MIN_S
    assert store._grace(Deadline(0)).timeout_s == CALL_MIN_S
    store.set("k", "v")
    assert store.get("k") == b"v"
    with pytest.raises(StoreTimeoutError):
        store.get("missing")


def test_a_wait_for_many_names_ends_with_the_last(etcd_stores, pool):
    store, other = etcd_stores(), etcd_stores()
    names = [f"k{number}" for number in range(150)]
    waiting = pool.submit(store.wait, names)
    other.multi_set(names[:100], ["v"] * 100)
    for name in names[100:]:
        other.set(name, "v")
    waiting.result(LONG_S)


def test_a_name_that_is_a_queue_ends_a_wait_too(etcd_stores, pool):
    store, other = etcd_stores(), etcd_stores()
    waiting = pool.submit(store.wait, ["q"])
    other.queue_push("q", "item")
    waiting.result(LONG_S)


def test_a_write_under_a_lease_that_has_ended_says_which(etcd_stores):
    store = etcd_stores()
    with pytest.raises(LeaseLostError) as caught:
        store._write([wire.op_put(wire.put(store._names.key(b"k"), b"", lease=4711))], lease=4711)
    assert caught.value.lease == 4711
