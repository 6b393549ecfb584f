from __future__ import annotations

from collections.abc import Iterator

import pytest

from rallypoint import events


@pytest.fixture
def seen() -> Iterator[list[events.Event]]:
    heard: list[events.Event] = []
    events.subscribe(heard.append)
    yield heard
    events.unsubscribe(heard.append)


def test_a_subscriber_hears_what_happened(seen: list[events.Event]) -> None:
    events.emit("worker.exited", "worker 1 exited with 3", rank=1, exit_code=3)
    assert seen == [events.Event("worker.exited", "worker 1 exited with 3", {"rank": 1, "exit_code": 3})]


def test_subscribing_twice_is_hearing_once(seen: list[events.Event]) -> None:
    events.subscribe(seen.append)
    events.emit("a", "one")
    assert len(seen) == 1


def test_after_unsubscribing_nothing_is_heard(seen: list[events.Event]) -> None:
    events.unsubscribe(seen.append)
    events.emit("a", "one")
    assert seen == []


def test_whether_anybody_listens_is_known(seen: list[events.Event]) -> None:
    assert events.is_observed()
    events.unsubscribe(seen.append)
    assert not events.is_observed()


def test_what_cannot_ask_is_told_whether_anybody_listens_for_as_long_as_it_is_there() -> None:
    class Follower:
        def __init__(self) -> None:
            self.told: list[bool] = []

        def tell(self, is_observed: bool) -> None:
            self.told.append(is_observed)

    follower, other = Follower(), Follower()
    told = other.told
    events.follow(follower.tell)
    events.follow(other.tell)
    del other
    heard: list[events.Event] = []
    events.subscribe(heard.append)
    events.unsubscribe(heard.append)
    assert follower.told == [False, True, False]
    assert told == [False]
