from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rallypoint.protocol.codec import RequestError
from rallypoint.protocol.session.spec import EventKind
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.watches import EVENT_SIZE, LENGTHS_MAX, Event, Watches, WatchView


def bounded(**bounds: int) -> Watches:
    given_bounds = {
        "watches_max": 100,
        "session_watches_max": 100,
        "events_max": 100,
        "events_size_max": 1 << 20,
        "events_total_max": 1 << 20,
    }
    return Watches(**{**given_bounds, **bounds})


@pytest.fixture
def watches() -> Watches:
    return bounded()


def concerned(watches: Watches, key: bytes) -> list[tuple[int, int]]:
    return [(watch.session, watch.request) for watch in watches.concerned(key)]


def event(revision: int, value: bytes = b"v") -> Event:
    return Event(EventKind.SET, b"k", value, revision)


def test_a_change_concerns_the_watches_of_its_key_and_of_its_prefixes(watches: Watches) -> None:
    watches.watch(1, 1, b"job/1/x", is_prefix=False)
    watches.watch(1, 2, b"job/", is_prefix=True)
    watches.watch(2, 1, b"", is_prefix=True)
    watches.watch(2, 2, b"job/2", is_prefix=True)
    watches.watch(3, 3, b"job/1/x", is_prefix=False)
    watches.watch(3, 4, b"job/1/x", is_prefix=True)
    assert concerned(watches, b"job/1/x") == [(1, 1), (3, 3), (2, 1), (1, 2), (3, 4)]
    assert concerned(watches, b"job/1/xy") == [(2, 1), (1, 2), (3, 4)]
    assert concerned(watches, b"job") == [(2, 1)]


def test_nobody_watches(watches: Watches) -> None:
    assert watches.concerned(b"k") == []
    assert not watches.unwatch(1, 1)
    watches.end_session(1)
    assert watches.take(1, 10) == []


def test_an_ended_watch_leaves_nothing(watches: Watches) -> None:
    first = watches.watch(1, 1, b"a", is_prefix=True)
    watches.watch(1, 2, b"b", is_prefix=True)
    watches.watch(2, 1, b"b", is_prefix=False)
    watches.keep(first, event(1))
    assert watches.unwatch(1, 1)
    assert not watches.unwatch(1, 1)
    assert concerned(watches, b"ab") == []
    assert concerned(watches, b"bb") == [(1, 2)]
    watches.end_session(1)
    assert watches.unwatch(2, 1)
    assert concerned(watches, b"b") == []
    assert (len(watches), watches.kept_size, watches._lengths_sorted, watches._by_prefix) == (0, 0, [], {})


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        ({"watches_max": 2}, "there are 2 watches, the limit is 2"),
        ({"session_watches_max": 2}, "the session has 2 watches, the limit is 2"),
    ],
)
def test_watches_are_bounded(bounds: dict[str, int], sentence: str) -> None:
    watches = bounded(**bounds)
    watches.watch(1, 1, b"a", is_prefix=True)
    watches.watch(1, 2, b"a", is_prefix=True)
    with pytest.raises(RequestError, match=sentence) as caught:
        watches.watch(1, 3, b"a", is_prefix=True)
    assert caught.value.reason is CloseReason.TOO_MANY_WATCHES
    assert len(watches) == 2


def test_lengths_of_prefixes_are_bounded() -> None:
    watches = bounded(watches_max=1000, session_watches_max=1000)
    for length in range(LENGTHS_MAX):
        watches.watch(1, length, b"a" * length, is_prefix=True)
    with pytest.raises(RequestError, match="prefixes of 256 different lengths are watched, the limit is 256") as caught:
        watches.watch(1, 1000, b"a" * LENGTHS_MAX, is_prefix=True)
    assert caught.value.reason is CloseReason.TOO_MANY_WATCHES
    watches.watch(1, 1001, b"b" * (LENGTHS_MAX - 1), is_prefix=True)
    watches.watch(1, 1002, b"a" * LENGTHS_MAX, is_prefix=False)
    watches.unwatch(1, 0)
    watches.watch(1, 1003, b"a" * LENGTHS_MAX, is_prefix=True)


def test_what_is_kept_comes_in_its_order(watches: Watches) -> None:
    first = watches.watch(1, 1, b"a", is_prefix=False)
    second = watches.watch(1, 2, b"b", is_prefix=False)
    watches.keep(first, event(1))
    watches.keep(second, event(2))
    watches.keep(first, event(3))
    assert watches.take(1, 1 << 20) == [(first, event(1)), (first, event(3)), (second, event(2))]
    assert watches.take(1, 1 << 20) == []
    assert watches.kept_size == 0


@pytest.mark.parametrize(
    "bounds",
    [{"events_max": 2}, {"events_size_max": 2 * EVENT_SIZE + 4}, {"events_total_max": 2 * EVENT_SIZE + 4}],
)
def test_at_a_bound_all_that_is_kept_becomes_one_missed(bounds: dict[str, int]) -> None:
    watches = bounded(**bounds)
    watch = watches.watch(1, 1, b"k", is_prefix=False)
    for revision in (1, 2, 3, 4):
        watches.keep(watch, event(revision))
    assert watches.kept_size == 0
    assert watches.take(1, 1 << 20) == [(watch, Event(EventKind.MISSED, b"", b"", 4))]
    watches.keep(watch, event(5))
    assert watches.take(1, 1 << 20) == [(watch, event(5))]


def test_a_session_that_reads_slowly_gets_a_part(watches: Watches) -> None:
    watch = watches.watch(1, 1, b"k", is_prefix=False)
    for revision in (1, 2, 3):
        watches.keep(watch, event(revision))
    assert watches.take(1, EVENT_SIZE) == [(watch, event(1))]
    assert watches.take(1, EVENT_SIZE * 2) == [(watch, event(2)), (watch, event(3))]


def test_watches_can_be_looked_into(watches: Watches) -> None:
    watch = watches.watch(1, 1, b"k", is_prefix=True)
    watches.keep(watch, event(1))
    assert list(watches.views()) == [WatchView(1, b"k", True, 1, False)]


def test_a_change_does_not_look_at_all_prefixes(watches: Watches) -> None:
    many = bounded(watches_max=10_000, session_watches_max=10_000)
    for number in range(10_000):
        many.watch(1, number, b"%05d/" % number, is_prefix=True)
    assert many._lengths_sorted == [6]
    assert concerned(many, b"00007/x") == [(1, 7)]


KEYS = st.text("ab", max_size=4).map(str.encode)
STEP = st.one_of(
    st.tuples(st.just("watch"), st.integers(0, 2), KEYS, st.booleans()),
    st.tuples(st.just("unwatch"), st.integers(0, 40), st.none(), st.none()),
    st.tuples(st.just("end"), st.integers(0, 2), st.none(), st.none()),
    st.tuples(st.just("change"), st.none(), KEYS, st.none()),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, max_size=40))
def test_watches_do_as_a_list_of_them(steps: list[tuple]) -> None:
    watches = bounded()
    model: dict[int, tuple[int, bytes, bool]] = {}
    for request, (verb, number, key, is_prefix) in enumerate(steps):
        if verb == "watch":
            watches.watch(number, request, key, is_prefix=is_prefix)
            model[request] = (number, key, is_prefix)
        elif verb == "unwatch":
            session = model[number][0] if number in model else 0
            assert watches.unwatch(session, number) == (model.pop(number, None) is not None)
        elif verb == "end":
            watches.end_session(number)
            model = {request: entry for request, entry in model.items() if entry[0] != number}
        else:
            expected = {
                (session, request)
                for request, (session, watched, is_of_all) in model.items()
                if (key.startswith(watched) if is_of_all else key == watched)
            }
            found = concerned(watches, key)
            assert len(found) == len(expected)
            assert set(found) == expected
        assert len(watches) == len(model)
