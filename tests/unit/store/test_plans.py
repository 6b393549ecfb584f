from __future__ import annotations

import pytest

from rallypoint.errors import BarrierTimeoutError, DistStoreError, StoreTimeoutError
from rallypoint.protocol.client import WaitExpired
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import Verb
from rallypoint.store import plans
from rallypoint.types import Endpoint

SERVER = Endpoint("node0", 29500)


def first_message(plan, *, is_careful=False):
    return next(plan.begin(is_careful))


def test_users_keys_travel_with_a_slash_in_front():
    assert first_message(plans.set_value("k", "v")) == encode_request(Verb.SET, b"/k", b"v")
    assert first_message(plans.check(iter(["a", b"b"]))) == encode_request(Verb.CHECK, [b"/a", b"/b"])
    assert first_message(plans.queue_pop(bytearray(b"q"), True)) == encode_request(Verb.QUEUE_POP, b"/q")


def test_the_count_of_workers_is_out_of_users_reach():
    assert first_message(plans.count_workers(1)) == encode_request(Verb.ADD, b"init/", 1)


def test_a_careful_get_looks_before_it_reads():
    assert first_message(plans.get("k"), is_careful=True) == encode_request(Verb.CHECK, [b"/k"])


def test_a_barrier_settles_and_a_wait_does_not():
    assert plans.barrier("b", 2).settles
    assert not plans.wait(["k"]).settles


def test_a_wait_that_expired_is_explained_in_the_users_words():
    error = plans.wait(["a", "b"]).explain(WaitExpired([b"/b"]), 0.5, 0.6, SERVER)
    assert isinstance(error, StoreTimeoutError)
    assert (error.keys, error.missing, error.waited_s, error.endpoint) == (("a", "b"), ("b",), 0.6, SERVER)


@pytest.mark.parametrize(("arrived", "shown"), [(2, "2 of 3 came"), (None, r"\? of 3 came")])
def test_a_barrier_that_expired_says_how_many_came(arrived, shown):
    error = plans.barrier("b", 3).explain(WaitExpired([b"/b"], arrived), 0.5, 0.6, SERVER)
    assert isinstance(error, BarrierTimeoutError)
    with pytest.raises(BarrierTimeoutError, match=rf"^barrier timeout after 500ms, key: b \({shown}; waited 0\.600 s"):
        raise error
    assert (error.arrived, error.expected) == (arrived or 0, 3)


def test_arguments_of_other_types_are_refused():
    with pytest.raises(TypeError, match="key must be str, bytes or bytearray, not int"):
        plans.get(1)
    with pytest.raises(TypeError, match="amount must be an int, not float"):
        plans.add("n", 1.0)
    with pytest.raises(TypeError, match="world_size must be an int, not str"):
        plans.barrier("b", "2")
    with pytest.raises(DistStoreError, match="same size"):
        plans.multi_set(["a"], [])
