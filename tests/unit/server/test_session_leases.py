from __future__ import annotations

import pytest
from tests.support.engine_sessions import Bench
from tests.support.twins import over_each_twin, python_twin_only

from rallypoint.protocol.session.spec import EventKind, SessionVerb, Status
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.changes import State, apply
from rallypoint.server.limits import SESSION_RESTART_GRACE_S

pytestmark = over_each_twin

SWAP, SET, GET, READ, APPEND, BYE = (
    SessionVerb.SWAP,
    SessionVerb.SET,
    SessionVerb.GET,
    SessionVerb.READ,
    SessionVerb.APPEND,
    SessionVerb.BYE,
)
GRANT, RENEW, REVOKE, WATCH = (
    SessionVerb.LEASE_GRANT,
    SessionVerb.LEASE_RENEW,
    SessionVerb.LEASE_REVOKE,
    SessionVerb.WATCH,
)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def put(client, key, lease, value=b"v"):
    status, is_swapped, revision = client.ask(SWAP, key, -1, value, lease)
    assert (status, is_swapped) == (Status.OK, 1)
    return revision


def is_there(client, key):
    return client.ask(READ, key)[1] != 0


def test_keys_end_with_the_session(bench) -> None:
    owner, other = bench.client(timeout_ms=5000), bench.client()
    _, lease = owner.ask(GRANT, 0)
    put(owner, b"k", lease)
    owner.drop()
    bench.wait(4)
    assert is_there(other, b"k")
    bench.wait(2)
    assert not is_there(other, b"k")


@python_twin_only
def test_keys_end_with_bye(bench) -> None:
    owner, other = bench.client(), bench.client()
    put(owner, b"k", owner.ask(GRANT, 0)[1])
    owner.send(BYE)
    assert not is_there(other, b"k")
    assert bench.engine.ground.on_change is None


def test_keys_of_a_resumed_session_stay(bench) -> None:
    owner = bench.client(timeout_ms=5000)
    put(owner, b"k", owner.ask(GRANT, 0)[1])
    owner.drop()
    bench.wait(4)
    assert owner.connect()
    bench.wait(60)
    assert is_there(owner, b"k")


def test_keys_end_with_their_time_unless_it_is_renewed(bench) -> None:
    client = bench.client()
    _, lease = client.ask(GRANT, 3000)
    put(client, b"k", lease)
    bench.wait(2)
    assert client.ask(RENEW, lease) == (Status.OK, 3000)
    bench.wait(2)
    assert is_there(client, b"k")
    bench.wait(1.5)
    assert not is_there(client, b"k")
    assert client.ask(RENEW, lease)[1] == CloseReason.NO_SUCH_LEASE.value.encode()


def test_a_lease_with_a_time_to_live_outlives_its_session(bench) -> None:
    owner, other = bench.client(), bench.client()
    _, lease = owner.ask(GRANT, 60_000)
    put(owner, b"k", lease)
    owner.send(BYE)
    assert is_there(other, b"k")
    assert other.ask(RENEW, lease) == (Status.OK, 60_000)
    assert other.ask(REVOKE, lease) == (Status.OK, 1)
    assert not is_there(other, b"k")


def test_revoking_deletes_and_says_how_many(bench) -> None:
    client = bench.client()
    _, lease = client.ask(GRANT, 0)
    for key in (b"a", b"b", b"c"):
        put(client, key, lease)
    client.ask(SET, b"b", b"mine now")
    client.ask(APPEND, b"c", b"more")
    assert client.ask(REVOKE, lease) == (Status.OK, 2)
    assert [is_there(client, key) for key in (b"a", b"b", b"c")] == [False, True, False]


def test_watchers_see_what_ends(bench) -> None:
    owner, watcher = bench.client(), bench.client()
    put(owner, b"k", owner.ask(GRANT, 0)[1])
    watching = watcher.send(WATCH, b"k", 0, -1)
    watcher.read()
    owner.send(BYE)
    assert watcher.read() == [(Status.EVENT, watching, (EventKind.DELETED, b"k", b"", 2))]


def test_who_waits_waits_on_for_what_ends(bench) -> None:
    owner, waiter = bench.client(), bench.client()
    put(owner, b"a", owner.ask(GRANT, 0)[1])
    waiting = waiter.send(SessionVerb.WAIT, [b"a", b"b"])
    owner.send(BYE)
    owner.connect()
    owner.ask(SET, b"b", b"")
    assert waiter.read() == []
    owner.ask(SET, b"a", b"")
    assert waiter.read() == [(Status.OK, waiting, ())]


def test_a_swap_with_a_lease_that_is_not_there_changes_nothing(bench) -> None:
    client = bench.client()
    status, reason, sentence = client.ask(SWAP, b"k", -1, b"v", 7)
    assert (status, reason, sentence) == (Status.REFUSED, b"no_such_lease", b"there is no lease 7")
    assert not is_there(client, b"k")


def test_a_swap_that_fails_takes_no_lease(bench) -> None:
    client = bench.client()
    _, lease = client.ask(GRANT, 0)
    client.ask(SET, b"k", b"v")
    assert client.ask(SWAP, b"k", 0, b"w", lease) == (Status.OK, 0, 1)
    assert client.ask(REVOKE, lease) == (Status.OK, 0)
    assert is_there(client, b"k")


def test_a_grant_that_is_sent_again_gives_the_same_lease(bench) -> None:
    client = bench.client()
    request_id = client.send(GRANT, 0)
    client.drop()
    client.connect()
    assert client.ask(GRANT, 0, request_id=request_id) == (Status.OK, 1)
    assert client.ask(GRANT, 0) == (Status.OK, 2)


def test_leases_are_bounded() -> None:
    client = Bench(leases_max=1).client()
    client.ask(GRANT, 0)
    assert client.ask(GRANT, 0)[:2] == (Status.REFUSED, b"too_many_leases")


def test_after_a_stall_a_lease_waits_for_its_renewal(bench) -> None:
    client = bench.client()
    _, lease = client.ask(GRANT, 3000)
    put(client, b"k", lease)
    bench.now += 30
    bench.wait(1)
    assert client.ask(RENEW, lease) == (Status.OK, 3000)
    bench.wait(2.5)
    assert is_there(client, b"k")
    bench.wait(1)
    assert not is_there(client, b"k")


def test_leases_are_remembered_over_a_restart() -> None:
    bench = Bench(journal=True)
    client = bench.client()
    leases = [client.ask(GRANT, ttl)[1] for ttl in (0, 5000, 0)]
    put(client, b"a", leases[0])
    put(client, b"b", leases[1])
    client.ask(REVOKE, leases[2])
    state = State()
    apply(state, bench.engine.take_changes())
    later = Bench(journal=True)
    later.engine.restore(state, later.now)
    client.bench = later
    assert client.connect()
    assert client.ask(GRANT, 0) == (Status.OK, 4)
    later.wait(4)
    assert is_there(client, b"b")
    later.wait(2)
    assert [is_there(client, key) for key in (b"a", b"b")] == [True, False]
    client.send(BYE)
    apply(state, later.engine.take_changes())
    assert (state.keys, state.leases, state.lease_last) == ({}, {}, 4)


def restarted(bench, *clients):
    """Begin the next life on what was committed; these clients come to it when they connect again."""
    state = State()
    apply(state, bench.engine.take_changes())
    later = Bench(journal=True)
    later.engine.restore(state, later.now)
    for client in clients:
        client.bench = later
    return later


def test_a_restart_gives_a_session_the_time_to_come_back_however_short_a_time_it_asked_for() -> None:
    bench = Bench(journal=True)
    observer, hasty, patient = (bench.client(timeout_ms=timeout_ms) for timeout_ms in (10_000, 100, 60_000))
    for client, key in ((hasty, b"hasty"), (patient, b"patient")):
        put(client, key, client.ask(GRANT, 0)[1])
    later = restarted(bench, observer, hasty)
    assert observer.connect()
    later.wait(SESSION_RESTART_GRACE_S - 1)
    assert hasty.connect()
    hasty.drop()  # from now on its time is what it asked for
    later.wait(0.09)
    assert is_there(observer, b"hasty")
    later.wait(0.02)
    assert [is_there(observer, key) for key in (b"hasty", b"patient")] == [False, True]
    later.wait(60 - SESSION_RESTART_GRACE_S)
    assert is_there(observer, b"patient")
    later.wait(1)
    assert not is_there(observer, b"patient")


def test_who_never_comes_back_after_a_restart_ends_when_that_time_is_over() -> None:
    bench = Bench(journal=True)
    observer, gone = bench.client(), bench.client(timeout_ms=0)
    put(gone, b"k", gone.ask(GRANT, 0)[1])
    later = restarted(bench, observer)
    assert observer.connect()
    later.wait(SESSION_RESTART_GRACE_S - 0.01)
    assert is_there(observer, b"k")
    later.wait(0.02)
    assert not is_there(observer, b"k")
