from __future__ import annotations

import pytest
from tests.support.engine_sessions import Bench
from tests.support.twins import over_each_twin, python_twin_only

from rallypoint.protocol.session.spec import EventKind, SessionVerb, Status
from rallypoint.server.vocabulary import Connected, Received

pytestmark = over_each_twin

SET, APPEND, WATCH, UNWATCH = SessionVerb.SET, SessionVerb.APPEND, SessionVerb.WATCH, SessionVerb.UNWATCH
DELETE = SessionVerb.DELETE_KEY


@pytest.fixture
def bench() -> Bench:
    return Bench()


def watch(client, key, *, is_prefix=False, known=-1):
    """Begin a watch; give its id, and the events that it begins with."""
    request_id = client.send(WATCH, key, int(is_prefix), known)
    (status, answered, _), *events = client.read()
    assert (status, answered) == (Status.OK, request_id)
    return request_id, [fields for _, _, fields in events]


def events(client):
    frames = client.read()
    assert all(status is Status.EVENT for status, _, _ in frames)
    return [(request_id, *fields) for _, request_id, fields in frames]


@pytest.mark.parametrize("size", [1, 5000])
def test_a_watch_tells_what_happens_to_a_key(bench, size) -> None:
    writer, watcher = bench.client(), bench.client()
    one, _ = watch(watcher, b"k")
    value = b"v" * size
    writer.ask(SET, b"k", value)
    writer.ask(SET, b"other", value)
    writer.ask(APPEND, b"k", b"+")
    writer.ask(DELETE, b"k")
    assert events(watcher) == [
        (one, EventKind.SET, b"k", value, 1),
        (one, EventKind.SET, b"k", value + b"+", 3),
        (one, EventKind.DELETED, b"k", b"", 4),
    ]


def test_a_watch_of_a_prefix_tells_of_all_keys_with_it(bench) -> None:
    writer, watcher = bench.client(), bench.client()
    few, _ = watch(watcher, b"job/", is_prefix=True)
    every, _ = watch(watcher, b"", is_prefix=True)
    writer.ask(SessionVerb.MULTI_SET, [(b"job/1", b"a"), (b"x", b"b")])
    assert sorted(events(watcher)) == [
        (few, EventKind.SET, b"job/1", b"a", 1),
        (every, EventKind.SET, b"job/1", b"a", 1),
        (every, EventKind.SET, b"x", b"b", 2),
    ]


def test_writes_of_the_c10d_dialect_are_told_too(bench) -> None:
    watcher = bench.client()
    one, _ = watch(watcher, b"k")
    bench.clients[99] = bench.clients[watcher.peer].__class__(bench, b"", 0)
    bench.step(Connected(99))
    validate = b"\x00" + (0x3C85F7CE).to_bytes(4, "little")
    bench.step(Received(99, validate + b"\x01" + (1).to_bytes(8, "little") + b"k" + (1).to_bytes(8, "little") + b"v"))
    assert events(watcher) == [(one, EventKind.SET, b"k", b"v", 1)]


@python_twin_only
def test_an_ended_watch_tells_nothing(bench) -> None:
    writer, watcher = bench.client(), bench.client()
    one, _ = watch(watcher, b"k")
    watcher.send(UNWATCH, one)
    watcher.send(UNWATCH, one)
    writer.ask(SET, b"k", b"")
    assert watcher.read() == []
    assert bench.engine.ground.on_change is None


@python_twin_only
@pytest.mark.parametrize("is_ended_by_bye", [True, False])
def test_watches_end_with_the_connection(bench, is_ended_by_bye) -> None:
    writer, watcher = bench.client(), bench.client()
    watch(watcher, b"k")
    if is_ended_by_bye:
        watcher.send(SessionVerb.BYE)
    else:
        watcher.drop()
    assert len(bench.engine.parts.watches.watches) == 0
    writer.ask(SET, b"k", b"")


def test_who_watches_anew_learns_that_it_missed_something(bench) -> None:
    writer, watcher = bench.client(), bench.client()
    writer.ask(SET, b"k", b"")  # revision 1
    watch(watcher, b"k")
    watcher.drop()
    watcher.connect()
    assert watch(watcher, b"k", known=1)[1] == []
    assert watch(watcher, b"", is_prefix=True, known=1)[1] == []
    watcher.drop()
    writer.ask(SET, b"other", b"")  # revision 2
    watcher.connect()
    assert watch(watcher, b"k", known=1)[1] == []
    assert watch(watcher, b"", is_prefix=True, known=1)[1] == [(EventKind.MISSED, b"", b"", 2)]
    watcher.drop()
    writer.ask(SET, b"k", b"")
    watcher.connect()
    assert watch(watcher, b"k", known=1)[1] == [(EventKind.MISSED, b"", b"", 3)]
    watcher.drop()
    writer.ask(DELETE, b"k")
    watcher.connect()
    assert watch(watcher, b"k", known=3)[1] == [(EventKind.MISSED, b"", b"", 4)]
    assert watch(watcher, b"k", known=4)[1] == []
    assert watch(watcher, b"k", known=9)[1] == [(EventKind.MISSED, b"", b"", 4)]


@pytest.mark.parametrize(("kind", "known"), [(2, -1), (0, -2)])
def test_what_means_nothing_is_refused(bench, kind, known) -> None:
    assert bench.client().ask(WATCH, b"k", kind, known)[:2] == (Status.REFUSED, b"bad_argument")


def test_watches_are_bounded() -> None:
    client = Bench(session_watches_max=1).client()
    watch(client, b"k")
    assert client.ask(WATCH, b"k", 0, -1)[:2] == (Status.REFUSED, b"too_many_watches")


def test_events_are_kept_for_whom_that_does_not_read() -> None:
    bench = Bench(output_size_max=1000)
    writer, watcher = bench.client(), bench.client()
    watch(watcher, b"k")
    for number in range(20):
        writer.ask(SET, b"k", b"%02d" % number * 50)
    assert watcher.is_paused
    told = len(watcher.read())
    assert told < 12
    seen = []
    while watcher.is_paused:
        watcher.resumed()
        seen += [revision for *_, revision in events(watcher)]
    assert seen == [*range(told + 1, 21)]
    writer.ask(SET, b"k", b"last")
    assert [value for _, _, _, value, _ in events(watcher)] == [b"last"]


@python_twin_only
def test_a_growing_value_is_not_put_together_for_who_does_not_read() -> None:
    bench = Bench(output_size_max=1000, watch_events_size_max=1500)
    writer, watcher = bench.client(), bench.client()
    one, _ = watch(watcher, b"k")
    for _ in range(30):
        writer.ask(SessionVerb.APPEND, b"k", b"v" * 100)
    assert watcher.is_paused
    assert isinstance(bench.engine.ground.keyspace._values[b"k"], bytearray)
    watcher.read()
    watcher.resumed()
    assert events(watcher) == [(one, EventKind.MISSED, b"", b"", 30)]


@python_twin_only
def test_too_many_kept_events_become_one_missed() -> None:
    bench = Bench(output_size_max=1000, watch_events_max=3)
    writer, watcher = bench.client(), bench.client()
    one, _ = watch(watcher, b"k")
    for _ in range(30):
        writer.ask(SET, b"k", b"v" * 100)
    watcher.read()
    watcher.resumed()
    assert events(watcher) == [(one, EventKind.MISSED, b"", b"", 30)]
    assert not watcher.is_paused
    assert bench.engine.parts.watches.watches.kept_size == 0


@python_twin_only
def test_what_is_kept_goes_with_the_connection() -> None:
    bench = Bench(output_size_max=100)
    writer, watcher = bench.client(), bench.client()
    watch(watcher, b"k")
    for _ in range(5):
        writer.ask(SET, b"k", b"v" * 100)
    assert bench.engine.parts.watches.watches.kept_size > 0
    watcher.drop()
    assert bench.engine.parts.watches.watches.kept_size == 0
