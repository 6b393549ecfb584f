from __future__ import annotations

import json

from tests.support.engine_sessions import Bench
from tests.support.twins import make_engine, over_each_twin

from rallypoint.protocol.session.spec import SESSION_VERBS, SessionVerb, Status
from rallypoint.server.changes import State, apply
from rallypoint.server.engine import Engine
from rallypoint.server.limits import SESSION_RESTART_GRACE_S

V = SessionVerb
OF_CONNECTIONS = {V.HELLO, V.PROVE, V.BYE, V.CANCEL, V.UNWATCH}


def test_every_verb_is_served_by_a_part() -> None:
    served = set(Engine().parts.verbs.handlers)
    assert served | OF_CONNECTIONS == set(SESSION_VERBS)


def test_verbs_that_wait_can_be_cancelled() -> None:
    handlers = Engine().parts.verbs.handlers
    for verb, spec in SESSION_VERBS.items():
        assert not spec.is_deferred or handlers[verb].cancel is not None, verb


def restarted(bench: Bench) -> Bench:
    """A server that has what the changes of another give."""
    state = State()
    apply(state, bench.engine.take_changes())
    later = Bench()
    later.engine = make_engine(seed=b"another life".ljust(32), journal=True)
    later.engine.restore(state, later.now)
    assert later.engine.take_changes() == []
    return later


def moved(client, bench):
    client.bench = bench
    assert client.connect()
    return client


@over_each_twin
def test_another_life_goes_on_where_the_one_before_ended() -> None:
    bench = Bench(journal=True)
    client = bench.client(label=b"me")
    client.ask(V.SET, b"/k", b"v")
    client.ask(V.APPEND, b"/k", b"w")
    client.ask(V.QUEUE_PUSH, b"/q", b"1")
    client.ask(V.QUEUE_PUSH, b"/q", b"2")
    _, lease = client.ask(V.LEASE_GRANT, 0)
    client.ask(V.SWAP, b"/leased", 0, b"l", lease)
    added = client.send(V.ADD, b"/n", 1)
    popped = client.send(V.QUEUE_POP, b"/q")
    met = client.send(V.MEET, b"/m", 0, 1, b"me")
    sent = {request_id: (status, fields) for status, request_id, fields in client.read()}

    client = moved(client, restarted(bench))
    for request_id, verb, fields in ((added, V.ADD, (b"/n", 1)), (popped, V.QUEUE_POP, (b"/q",))):
        client.send(verb, *fields, request_id=request_id)
    client.send(V.MEET, b"/m", 0, 1, b"me", request_id=met)
    assert {request_id: (status, fields) for status, request_id, fields in client.read()} == {
        request_id: sent[request_id] for request_id in (added, popped, met)
    }
    assert client.ask(V.READ, b"/k", request_id=20) == (Status.OK, 2, b"vw")
    assert client.ask(V.QUEUE_POP, b"/q") == (Status.OK, b"2")
    assert client.ask(V.LEASE_GRANT, 0) == (Status.OK, lease + 1)
    assert client.ask(V.MEET, b"/m", 0, 1, b"me") == (Status.OK, 2)
    client.send(V.BYE)
    other = client.bench.client()
    assert other.ask(V.READ, b"/leased") == (Status.OK, 0, b"")


@over_each_twin
def test_a_session_that_does_not_come_back_to_another_life_ends() -> None:
    bench = Bench(journal=True)
    bench.client(timeout_ms=3000)
    later = restarted(bench)
    later.wait(SESSION_RESTART_GRACE_S - 0.1)
    assert later.engine.statistics().sessions == 1
    later.wait(0.2)
    assert later.engine.statistics().sessions == 0


@over_each_twin
def test_two_lives_have_two_ids_and_one_of_what_they_hold() -> None:
    ids = []
    for seed in (b"1" * 32, b"2" * 32):
        bench = Bench()
        bench.engine = make_engine(seed=seed, data_id=b"d" * 16, journal=True)
        client = bench.client()
        server = json.loads(client.ask(V.STATUS, b"")[1])
        ids.append((client.session, server["data"], server["life"]))
    assert ids[0][1] == (b"d" * 16).hex()
    (session, data, life), (other_session, other_data, other_life) = ids
    assert (session != other_session, data == other_data, life != other_life) == (True, True, True)
