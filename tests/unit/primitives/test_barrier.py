"""The barrier."""

from __future__ import annotations

import threading
from datetime import timedelta
from functools import partial

import pytest
from tests.support.session_store import FakeServer, PlainStore
from tests.support.stores import Recorder
from tests.support.threads import together

from rallypoint.clock import Deadline
from rallypoint.errors import BarrierTimeoutError, ConnectionLostError, DistStoreError, DuplicateMemberError
from rallypoint.primitives.arrivals import arrive, open_gate
from rallypoint.primitives.barrier import Barrier, barrier
from rallypoint.store.hash import HashStore
from rallypoint.store.prefix import PrefixStore

LONG_S = 30.0
SHORT_S = 0.1


class Foreign:
    """A store of no class of ours that works: torch's methods over a HashStore, errors as plain RuntimeError."""

    def __init__(self, store):
        self.store = store
        self.set_timeouts = []
        self.timeout = timedelta(seconds=LONG_S)
        for name in ("set", "get", "add", "check", "compare_set", "multi_get", "delete_key"):
            setattr(self, name, getattr(store, name))

    def set_timeout(self, timeout):
        self.set_timeouts.append(timeout)
        self.timeout = timeout

    def wait(self, keys):
        try:
            self.store.wait(keys, self.timeout)
        except RuntimeError:
            raise RuntimeError("Wait timeout") from None


def name(rank):
    return f"node{rank}"


def members(call, ranks):
    """Run ``call(rank)`` in a thread a rank; give results or errors by rank."""
    return dict(zip(ranks, together(*(partial(call, rank) for rank in ranks)), strict=True))


@pytest.mark.parametrize("number", [1, 2])
def test_others_than_the_last_do_what_torchs_barrier_does(number):
    store = Recorder(number)
    barrier(store, 3, "test/store", barrier_timeout=100)
    assert store.ops == [
        ("timeout",),
        ("set_timeout", timedelta(seconds=100)),
        ("add", "test/store/num_members", 1),
        ("wait", ["test/store/last_member"]),
        ("set_timeout", timedelta(seconds=1234)),
    ]


def test_the_last_does_what_torchs_barrier_does():
    store = Recorder(3)
    barrier(store, 3, "test/store", barrier_timeout=100)
    assert store.ops == [
        ("timeout",),
        ("set_timeout", timedelta(seconds=100)),
        ("add", "test/store/num_members", 1),
        ("set", "test/store/last_member", "<val_ignored>"),
        ("wait", ["test/store/last_member"]),
        ("set_timeout", timedelta(seconds=1234)),
    ]


@pytest.mark.parametrize("error", [RuntimeError("Wait timeout"), ConnectionLostError("gone"), KeyboardInterrupt()])
@pytest.mark.parametrize("number", [1, 3])
def test_the_timeout_is_put_back_whatever_happens(error, number):
    store = Recorder(number, error)
    with pytest.raises(type(error)):
        barrier(store, 3, "p", barrier_timeout=100)
    assert store.ops[-1] == ("set_timeout", timedelta(seconds=1234))


@pytest.mark.parametrize("with_ranks", [False, True])
def test_nobody_passes_before_all_have_come(with_ranks):
    store = HashStore()
    passed = []

    def go(rank):
        barrier(store, 3, "p", LONG_S, rank=rank if with_ranks else None)
        passed.append(rank)

    early = [threading.Thread(target=go, args=(rank,)) for rank in (1, 2)]
    for thread in early:
        thread.start()
    while store.num_keys() == 0 or store.add("p/num_members", 0) < 2:
        assert passed == []
    assert not store.check(["p/last_member"])
    go(0)
    for thread in early:
        thread.join(LONG_S)
    assert sorted(passed) == [0, 1, 2]


@pytest.mark.parametrize("with_ranks", [False, True])
@pytest.mark.parametrize("wrap", [lambda store: store, Foreign, lambda store: PrefixStore("deep", store)])
def test_one_name_serves_again_and_again_and_leaves_few_keys(with_ranks, wrap):
    store = HashStore()
    counts = [0, 0, 0]

    def work(rank):
        mine = wrap(store)
        for turn in range(30):
            counts[rank] += 1
            barrier(mine, 3, "p", LONG_S, rank=rank if with_ranks else None)
            assert min(counts) > turn
        return "done"

    assert members(work, range(3)) == dict.fromkeys(range(3), "done")
    assert store.num_keys() == (6 if with_ranks else 3)


def test_a_barrier_of_one_passes_at_once_every_time():
    store = HashStore()
    for _ in range(3):
        barrier(store, 1, "p", 0, rank=0)


def test_every_rank_is_told_who_is_missing_even_if_rank_0_is():
    store = HashStore()
    deadline = Deadline(SHORT_S)
    outcomes = members(lambda rank: barrier(store, 5, "p", SHORT_S, rank, name), [1, 3, 4])
    for rank, error in outcomes.items():
        assert isinstance(error, BarrierTimeoutError)
        assert isinstance(error, DistStoreError)
        assert f"on rank {rank}, for key prefix: p (world_size=5, missing_ranks=[node0, node2], timeout=0.1)" in str(
            error
        )
        assert error.missing == ("node0", "node2")
        assert (error.expected, error.waited_s >= SHORT_S) == (5, True)
    assert max(error.arrived for error in outcomes.values()) == 3
    assert deadline.has_passed()


def test_a_foreign_stores_timeout_is_one_and_its_ranks_are_named_too():
    store = HashStore()
    outcomes = members(lambda rank: barrier(Foreign(store), 3, "p", SHORT_S, rank, name), [1, 2])
    assert [error.missing for error in outcomes.values()] == [("node0",)] * 2


def test_ranks_are_their_own_names_without_a_decoder():
    with pytest.raises(BarrierTimeoutError, match=r"missing_ranks=\[0, 2\]"):
        barrier(HashStore(), 3, "p", 0, rank=1)


def test_without_ranks_the_numbers_are_told():
    store = HashStore()
    store.add("p/num_members", 1)
    with pytest.raises(BarrierTimeoutError, match=r"\(world_size=3, timeout=0\.05\): 2 of 3 were there") as caught:
        barrier(store, 3, "p", 0.05)
    assert (caught.value.missing, caught.value.arrived) == ((), 2)


@pytest.mark.parametrize("with_ranks", [False, True])
def test_who_timed_out_does_not_count_and_may_try_again(with_ranks):
    store = HashStore()

    def come(rank, timeout):
        barrier(store, 3, "p", timeout, rank=rank if with_ranks else None)
        return "through"

    for _ in range(2):
        failed = members(lambda rank: come(rank, SHORT_S), [1, 2])
        assert all(isinstance(error, BarrierTimeoutError) for error in failed.values())
    assert store.add("p/num_members", 0) == 0
    assert members(lambda rank: come(rank, LONG_S), range(3)) == dict.fromkeys(range(3), "through")
    assert members(lambda rank: come(rank, LONG_S), range(3)) == dict.fromkeys(range(3), "through")


def test_who_came_and_gave_up_is_told_from_who_never_came():
    store = HashStore()
    with pytest.raises(BarrierTimeoutError, match=r"missing_ranks=\[node1, node2\]"):
        barrier(store, 3, "p", 0, 0, name)
    with pytest.raises(BarrierTimeoutError, match=r"missing_ranks=\[node2\].* others had given up: \[node0\]"):
        barrier(store, 3, "p", 0, 1, name)
    with pytest.raises(BarrierTimeoutError, match=r"missing_ranks=\[node0, node1\]"):
        barrier(store, 3, "p", 0, 2, name)


def test_the_last_to_come_in_the_moment_of_the_timeout_makes_it_a_success():
    class Late(HashStore):
        def wait(self, keys, timeout=None, /):
            try:
                super().wait(keys, timeout)
            except RuntimeError:
                self.add("p/num_members", 1)  # the last came, and died before it could open the gate
                raise

    store = Late()
    barrier(store, 2, "p", 0)
    assert store.check(["p/last_member"])
    assert store.add("p/num_members", 0) == 2


def test_a_rank_that_is_there_already_is_refused_by_name():
    store = HashStore()
    is_waiting = threading.Event()

    class Told(HashStore):
        def wait(self, keys, timeout=None, /):
            is_waiting.set()
            super().wait(keys, timeout)

    store = Told()
    thread = threading.Thread(target=barrier, args=(store, 2, "p", LONG_S, 0, name))
    thread.start()
    is_waiting.wait(LONG_S)
    with pytest.raises(DuplicateMemberError, match=r"rank 0 \(node0\) came to barrier 'p' twice"):
        barrier(store, 2, "p", LONG_S, 0, name)
    barrier(store, 2, "p", LONG_S, 1, name)  # the intruder has spoilt nothing
    thread.join(LONG_S)
    assert not thread.is_alive()


def test_one_too_many_does_not_slip_through():
    store = HashStore()
    members(lambda _: barrier(store, 2, "p", LONG_S), range(2))
    with pytest.raises(BarrierTimeoutError, match=r"it was arrival 3, in generation 1: .* more than 2 members use it"):
        barrier(store, 2, "p", 0)


def test_ranks_may_join_a_barrier_that_was_used_without_them():
    store = HashStore()
    for _ in range(2):
        members(lambda _: barrier(store, 2, "p", LONG_S), range(2))
    with pytest.raises(BarrierTimeoutError, match=r"missing_ranks=\[0\]"):
        barrier(store, 2, "p", 0, rank=1)
    assert members(lambda rank: barrier(store, 2, "p", LONG_S, rank), range(2)) == {0: None, 1: None}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ConnectionLostError("gone"), SystemExit(1)])
def test_who_is_interrupted_does_not_count(error):
    class Interrupted(HashStore):
        def wait(self, keys, timeout=None, /):
            raise error

    store = Interrupted()
    with pytest.raises(type(error)):
        barrier(store, 2, "p", LONG_S, rank=0)
    assert store.add("p/num_members", 0) == 0


def test_a_store_that_fails_after_the_timeout_still_gives_a_timeout_that_says_so():
    class Dying(HashStore):
        def wait(self, keys, timeout=None, /):
            self.compare_set = self.fail
            raise RuntimeError("wait timeout")

        def fail(self, *_):
            raise ConnectionLostError("the server is gone")

    with pytest.raises(BarrierTimeoutError, match=r"did not answer who is missing.*the server is gone"):
        barrier(Dying(), 2, "p", LONG_S)


def test_a_torch_member_that_marks_itself_late_is_not_called_missing():
    class Late(HashStore):
        looks = 0

        def check(self, keys, /):
            self.looks += 1
            if self.looks == 6:
                self.set("p1/TRACE", "<val_ignored>")
            return super().check(keys)

    late = Late()
    late.add("p/num_members", 1)  # the member of torch: no mark until its time is up
    with pytest.raises(BarrierTimeoutError, match=r"missing_ranks=\[node2\]"):
        barrier(late, 3, "p", 0, 0, name, trace_timeout=LONG_S)
    assert late.check(["p/TRACING_GATE"])  # for which torch's members wait


def test_only_rank_0_opens_torchs_tracing_gate_and_only_for_torchs_members():
    store = HashStore()
    for rank in range(2):
        with pytest.raises(BarrierTimeoutError):
            barrier(store, 3, "p", 0, rank, name)
    assert not store.check(["p/TRACING_GATE"])


def test_many_missing_names_are_cut_in_the_sentence_and_whole_in_the_attribute():
    with pytest.raises(BarrierTimeoutError, match=r"64, and 35 more\]") as caught:
        barrier(HashStore(), 100, "p", 0, rank=0)
    assert caught.value.missing == tuple(str(rank) for rank in range(1, 100))


def test_what_cannot_be_is_refused_before_anybody_is_counted():
    store = HashStore()
    with pytest.raises(ValueError, match="world_size must be 1 or more"):
        barrier(store, 0, "p")
    with pytest.raises(ValueError, match="rank must be 0 to 2"):
        barrier(store, 3, "p", rank=3)
    assert store.num_keys() == 0


def test_timeouts_may_be_timedeltas():
    with pytest.raises(BarrierTimeoutError, match=r"timeout=0\.05"):
        barrier(HashStore(), 2, "p", timedelta(milliseconds=50), 0, name, timedelta(seconds=1))


def test_a_gate_opened_by_a_torch_member_is_passed():
    store = HashStore()

    def torch_member():
        arrival = arrive(store, "p", 2)
        if arrival.is_last:
            open_gate(store, arrival)
        store.wait([arrival.gate])

    outcomes = members(lambda rank: torch_member() if rank else barrier(store, 2, "p", LONG_S, 0), range(2))
    assert outcomes == {0: None, 1: None}


class BareStore:
    """What torch's own barrier needs of a store, and nothing more."""

    def __init__(self):
        self.timeout = timedelta(seconds=60)
        self.calls = []

    def set_timeout(self, timeout):
        self.calls.append("set_timeout")
        self.timeout = timeout

    def add(self, key, amount):
        self.calls.append("add")
        return 1

    def set(self, key, value):
        self.calls.append("set")

    def wait(self, keys):
        self.calls.append("wait")


def test_a_store_without_compare_set_gets_torchs_operations_with_a_rank_too():
    store = BareStore()
    barrier(store, 1, "p", 5, rank=0, rank_tracing_decoder=name)
    assert store.calls == ["set_timeout", "add", "set", "wait", "set_timeout"]
    assert store.timeout == timedelta(seconds=60)


@pytest.mark.parametrize("kind", ["plain", "sessions"])
def test_the_members_of_a_barrier_object_meet_generation_after_generation(kind):
    store, server = PlainStore(), FakeServer()

    def connect():
        return store if kind == "plain" else server.connect()

    def work(rank):
        with Barrier(connect(), "B", rank, 4, label=name(rank)) as barrier:
            return [barrier.wait(LONG_S) for _ in range(10)]

    assert members(work, range(4)) == {rank: list(range(1, 11)) for rank in range(4)}
    with pytest.raises(BarrierTimeoutError, match="missing"):
        Barrier(connect(), "C", 1, 3, ttl=None).wait(0.01)
