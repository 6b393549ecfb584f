from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rallypoint.protocol.codec import RequestError
from rallypoint.protocol.session.spec import LEASE_TTL_MS_MAX
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.leases import Ended, Leases, LeaseView

ME = b"me"


@pytest.fixture
def leases() -> Leases:
    return Leases(leases_max=100, stall_s=1.0, grace_s=2.0)


def refused(call: object, *arguments: object) -> tuple[CloseReason, str]:
    with pytest.raises(RequestError) as caught:
        call(*arguments)
    return caught.value.reason, str(caught.value)


def test_ids_rise_for_ever(leases: Leases) -> None:
    assert [leases.grant(1, ME, ttl, 0) for ttl in (0, 1000)] == [1, 2]
    leases.revoke(2, ME)
    assert leases.grant(1, ME, 0, 0) == 3
    leases.restore_last(70)
    assert leases.grant(1, ME, 0, 0) == 71


def test_a_time_to_live_ends_and_gives_its_keys_back(leases: Leases) -> None:
    leases.grant(1, ME, 5000, 10)
    leases.follow(b"b", 1)
    leases.follow(b"a", 1)
    assert leases.next_deadline() == 15
    assert leases.due(14.9) == []
    assert leases.due(15) == [Ended(1, [b"b", b"a"])]
    assert leases.next_deadline() is None
    assert leases.lease_of(b"a") == 0
    assert len(leases) == 0


def test_a_renewed_lease_lives_longer(leases: Leases) -> None:
    leases.grant(1, ME, 5000, 0)
    assert leases.renew(1, ME, 3) == 5000
    assert leases.next_deadline() == 8
    assert leases.due(5) == []
    assert leases.due(8) == [Ended(1, [])]


def test_leases_end_in_the_order_of_their_ends(leases: Leases) -> None:
    for ttl in (3000, 1000, 2000, 1000):
        leases.grant(1, ME, ttl, 0)
    leases.renew(2, ME, 2.5)
    assert [ended.lease for ended in leases.due(1.5)] == [4]
    assert [ended.lease for ended in leases.due(2.9)] == [3]
    assert [ended.lease for ended in leases.due(3.5)] == [1, 2]


def test_a_lease_may_end_with_its_session(leases: Leases) -> None:
    leases.grant(1, ME, 0, 0)
    leases.grant(2, ME, 0, 0)
    leases.grant(1, ME, 1000, 0)
    leases.grant(1, ME, 0, 0)
    leases.follow(b"k", 4)
    assert leases.renew(1, ME, 5) == 0
    assert leases.end_session(1) == [Ended(1, []), Ended(4, [b"k"])]
    assert leases.end_session(1) == []
    assert len(leases) == 2
    assert leases.revoke(2, ME) == Ended(2, [])


def test_a_key_belongs_to_the_lease_it_was_last_written_with(leases: Leases) -> None:
    leases.grant(1, ME, 0, 0)
    leases.grant(1, ME, 0, 0)
    leases.follow(b"k", 0)
    leases.follow(b"k", 1)
    leases.follow(b"k", 1)
    leases.follow(b"k", 2)
    leases.follow(b"j", 2)
    assert (leases.lease_of(b"k"), leases.lease_of(b"j")) == (2, 2)
    leases.follow(b"j", 0)
    assert leases.revoke(1, ME) == Ended(1, [])
    assert leases.revoke(2, ME) == Ended(2, [b"k"])


def test_what_is_not_there_or_anothers_is_refused_alike(leases: Leases) -> None:
    leases.grant(1, ME, 1000, 0)
    told = (CloseReason.NO_SUCH_LEASE, "there is no lease 1")
    assert refused(leases.renew, 1, b"other", 0) == told
    assert refused(leases.revoke, 1, b"other") == told
    assert refused(leases.check, 1, b"other") == told
    leases.check(1, ME)
    assert refused(leases.check, -9, ME) == (CloseReason.NO_SUCH_LEASE, "there is no lease -9")


@pytest.mark.parametrize("ttl", [-1, LEASE_TTL_MS_MAX + 1])
def test_times_that_mean_nothing_are_refused(leases: Leases, ttl: int) -> None:
    assert refused(leases.grant, 1, ME, ttl, 0) == (
        CloseReason.BAD_ARGUMENT,
        f"a lease was asked for with {ttl} ms to live, it may have 0 to 31536000000",
    )


def test_leases_are_bounded() -> None:
    leases = Leases(leases_max=1, stall_s=1, grace_s=2)
    leases.grant(1, ME, 0, 0)
    assert refused(leases.grant, 1, ME, 0, 0) == (CloseReason.TOO_MANY_LEASES, "there are 1 leases, the limit is 1")
    assert leases.last == 1


def test_after_a_stall_there_is_grace_for_renewals(leases: Leases) -> None:
    leases.grant(1, ME, 5000, 0)
    leases.grant(1, ME, 5000, 0)
    assert leases.due(30) == []
    assert leases.next_deadline() == 32
    leases.renew(2, ME, 31)
    assert leases.due(32.5) == [Ended(1, [])]
    assert leases.next_deadline() == 36


def test_a_stall_within_the_grace_gives_grace_again(leases: Leases) -> None:
    leases.grant(1, ME, 5000, 0)
    assert leases.due(30) == []
    assert leases.due(60) == []
    assert leases.due(62) == [Ended(1, [])]


def test_an_earlier_life_is_put_back(leases: Leases) -> None:
    leases.restore(7, 1, ME, 5000, 100)
    leases.restore(9, 1, ME, 0, 100)
    leases.follow(b"k", 9)
    assert leases.grant(1, ME, 0, 100) == 10
    assert leases.next_deadline() == 105
    assert leases.end_session(1) == [Ended(9, [b"k"]), Ended(10, [])]


def test_leases_can_be_looked_into(leases: Leases) -> None:
    leases.grant(3, ME, 5000, 0)
    leases.grant(4, b"", 0, 0)
    leases.follow(b"k", 1)
    assert list(leases.views(1.5)) == [LeaseView(1, 3, ME, 5000, 3500, 1), LeaseView(2, 4, b"", 0, 0, 0)]


def test_revoked_leases_leave_no_trace_of_their_ends(leases: Leases) -> None:
    for _ in range(1000):
        leases.revoke(leases.grant(1, ME, LEASE_TTL_MS_MAX, 0), ME)
    assert len(leases._ends) < 100


STEP = st.one_of(
    st.tuples(st.just("grant"), st.integers(0, 3), st.sampled_from([0, 300, 700])),
    st.tuples(st.just("renew"), st.integers(1, 8), st.none()),
    st.tuples(st.just("revoke"), st.integers(1, 8), st.none()),
    st.tuples(st.just("follow"), st.integers(0, 8), st.sampled_from([b"a", b"b", b"c"])),
    st.tuples(st.just("end"), st.integers(0, 3), st.none()),
    st.tuples(st.just("wait"), st.integers(1, 9), st.none()),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, max_size=50))
def test_leases_do_as_a_list_of_them(steps: list[tuple[str, int, object]]) -> None:
    leases = Leases(leases_max=100, stall_s=1, grace_s=2)
    model: dict[int, list[object]] = {}  # session, ttl, end, keys
    now_ms = 0

    def end(lease: int) -> Ended:
        return Ended(lease, list(model.pop(lease)[3]))

    for verb, number, more in steps:
        now = now_ms / 1000
        if verb == "grant":
            model[leases.grant(number, ME, more, now)] = [number, more, now_ms + more, []]
        elif verb == "renew" and number in model:
            assert leases.renew(number, ME, now) == model[number][1]
            model[number][2] = now_ms + model[number][1]
        elif verb == "revoke" and number in model:
            assert leases.revoke(number, ME) == end(number)
        elif verb == "follow" and (number in model or not number):
            leases.follow(more, number)
            for lease, entry in model.items():
                if lease != number and more in entry[3]:
                    entry[3].remove(more)
            if number and more not in model[number][3]:
                model[number][3].append(more)
        elif verb == "end":
            mine = [lease for lease, entry in model.items() if entry[:2] == [number, 0]]
            assert leases.end_session(number) == [end(lease) for lease in mine]
        elif verb == "wait":
            now_ms += number * 100
            over = sorted((entry[2], lease) for lease, entry in model.items() if entry[1] and entry[2] <= now_ms)
            assert [ended.lease for ended in leases.due(now_ms / 1000 + 1e-6)] == [lease for _, lease in over]
            for _, lease in over:
                model.pop(lease)
        for key in (b"a", b"b", b"c"):
            assert leases.lease_of(key) == next((each for each, entry in model.items() if key in entry[3]), 0)
    ends = [entry[2] for entry in model.values() if entry[1]]
    deadline = leases.next_deadline()
    assert (deadline is None) == (not ends)
    assert deadline is None or abs(deadline * 1000 - min(ends)) < 1e-3
