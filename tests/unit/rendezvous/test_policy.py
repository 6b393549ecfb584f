from __future__ import annotations

from rallypoint.rendezvous.policy import HOST_COUNT_MAX, Books, Ledger, Policy, host_of
from rallypoint.rendezvous.state import Card

A, B, C, D = (letter * 32 for letter in "abcd")


def ledger(**limits: int) -> Ledger:
    return Ledger(Books(policy=Policy(restarts=limits)), 0.0)


def flap(books: Ledger, times: int, now: float, host: str = "h") -> list[bool]:
    return [books.note_gone(A, host, True, now) for _ in range(times)]


def test_a_cause_without_a_limit_never_ends() -> None:
    books = ledger(failed=1)
    for _ in range(100):
        books.count("left")
    assert books.has_left("left")


def test_a_limit_is_used_up_and_says_what_everything_has_cost() -> None:
    books = ledger(failed=1)
    assert books.has_left("failed")
    books.count("failed")
    books.count("dropped")
    assert not books.has_left("failed")
    assert books.tell_limit("failed") == (
        "the one restart after the failure of a worker is used up "
        "(restarts so far: 1 failed, 1 dropped, 0 left, 0 joined)"
    )
    assert ledger(dropped=0).tell_limit("dropped").startswith("no restart is allowed after the loss of a node")


def test_a_host_cools_down_after_so_many_short_stays() -> None:
    books = ledger()
    assert flap(books, 3, 10.0) == [False, False, True]
    assert books.cooling_s("h", 10.0) == 60.0
    assert books.cooling_s("other", 10.0) == 0.0
    assert "came and went 3 times within 300 s: none is taken in for another 50 s" in books.tell_cooling("h", 20.0)
    assert books.cooling_s("h", 70.0) == 0.0


def test_a_host_is_what_the_label_says_or_the_name_by_which_it_is_reached() -> None:
    assert host_of(Card(host="machine", address="10.0.0.1")) == "machine"
    assert host_of(Card(host="machine", address="10.0.0.1", labels={"host": "first", "rack": "r"})) == "first"


def test_each_cool_down_is_twice_as_long_up_to_a_limit() -> None:
    books, now, seen = ledger(), 0.0, []
    for _ in range(6):
        flap(books, 3, now)
        seen.append(books.cooling_s("h", now))
        now += seen[-1]
    assert seen == [60.0, 120.0, 240.0, 480.0, 600.0, 600.0]


def test_stays_that_lie_far_apart_are_not_counted_together() -> None:
    books = ledger()
    for now in (0.0, 200.0, 400.0, 600.0):
        assert not books.note_gone(A, "h", True, now)


def test_a_long_stay_is_no_flapping_and_neither_is_a_wait_that_cost_nothing() -> None:
    books = ledger()
    for _ in range(5):
        books.note_admitted([A], 0.0)
        assert not books.note_gone(A, "h", True, 61.0)
        assert not books.note_gone(B, "h", False, 61.0)
    assert books.cooling_s("h", 61.0) == 0.0


def test_a_failure_counts_once_for_a_node_that_has_just_come() -> None:
    books = ledger()
    for node in (A, B, C):
        books.note_admitted([node], 0.0)
    assert not books.note_failed(A, "h", 1.0)
    assert not books.note_failed(A, "h", 2.0)
    assert not books.note_failed(B, "h", 3.0)
    assert books.note_failed(C, "h", 4.0)
    assert not books.note_failed(D, "h", 4.0)  # never admitted as far as anybody knows


def test_flapping_can_be_allowed() -> None:
    books = Ledger(Books(policy=Policy(flap_limit=0)), 0.0)
    assert not any(flap(books, 20, 1.0))


def test_a_successor_counts_on_from_seconds_by_its_own_clock() -> None:
    books = ledger(failed=2)
    books.count("failed")
    flap(books, 3, 100.0)
    successor = Ledger(books.write(110.0), 5000.0)
    assert successor.cooling_s("h", 5000.0) == 50.0
    assert successor.restarts["failed"] == 1
    assert successor.policy.restarts == {"failed": 2}
    assert successor.note_gone(A, "h", True, 5060.0)
    assert successor.cooling_s("h", 5060.0) == 120.0


def test_hosts_that_behave_are_forgotten_and_never_more_than_so_many_kept() -> None:
    books = ledger()
    flap(books, 1, 0.0)
    assert books.write(1.0).hosts
    assert not books.write(1000.0).hosts
    for number in range(HOST_COUNT_MAX + 5):
        books.note_gone(A, f"h{number}", True, 2000.0)
    kept = books.write(2000.0).hosts
    assert len(kept) == HOST_COUNT_MAX
    assert f"h{HOST_COUNT_MAX + 4}" in kept
