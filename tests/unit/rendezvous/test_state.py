from __future__ import annotations

import base64
import json
import pickle

import msgspec
import pytest

from rallypoint.errors import RendezvousStateError
from rallypoint.rendezvous.state import (
    NODE_COUNT_MAX,
    SCHEMA,
    STATE_SIZE_MAX,
    Card,
    Closure,
    News,
    Node,
    Phase,
    Standing,
    State,
    decode_state,
    describe_failure,
    encode_state,
    label_of,
    new_state,
)
from rallypoint.types import Endpoint

A, B, C = "a" * 32, "b" * 32, "c" * 32


def node(host: str = "node1", standing: Standing = Standing.RUNNING, arrival: int = 1, acknowledged: int = 3) -> Node:
    card = Card(host=host, address="10.0.0.1", pid=7, rank_wish=2, labels={"rack": "r1"})
    return Node(card=card, standing=standing, arrival=arrival, beat=9, acknowledged=acknowledged)


def full_state() -> State:
    return msgspec.structs.replace(
        new_state("0" * 32, 1, 3),
        version=12,
        round=2,
        phase=Phase.COMPLETE,
        proposal=3,
        members={A: 1, B: 0},
        previous={A: 0},
        endpoint=Endpoint("10.0.0.1", 29500),
        done=(A,),
        nodes={A: node(), B: node("node2", arrival=2), C: node("node3", Standing.SPARE, 3, acknowledged=0)},
        arrivals=3,
        reason="node9#999999 left",
        news=(News(kind="failed", round=1, node=A, host="node1", message="boom", rank=0, exit_code=-9),),
        closure=Closure(outcome="failed", why="no restart is left"),
    )


def changed(**fields: object) -> bytes:
    """The bytes of a sound state with some fields of the JSON text replaced; ``None`` removes one."""
    text = json.loads(encode_state(full_state()))
    text.update(fields)
    return json.dumps({key: value for key, value in text.items() if value is not None}).encode()


def test_a_state_survives_the_journey() -> None:
    assert decode_state(encode_state(full_state())) == full_state()


def test_equal_states_are_equal_bytes() -> None:
    state = full_state()
    other = msgspec.structs.replace(state, nodes=dict(reversed(state.nodes.items())))
    assert encode_state(other) == encode_state(state)


def test_a_new_state_is_small_and_says_its_schema() -> None:
    data = encode_state(new_state("0" * 32, 2, 4))
    assert json.loads(data) == {"schema": SCHEMA, "born": "0" * 32, "min_nodes": 2, "max_nodes": 4}


def test_a_thousand_nodes_take_less_than_300_kilobytes() -> None:
    nodes = {f"{n:032x}": node(f"node{n:04}.cluster.example", arrival=n) for n in range(1000)}
    members = {node_id: rank for rank, node_id in enumerate(nodes)}
    state = msgspec.structs.replace(full_state(), max_nodes=1000, nodes=nodes, members=members, done=())
    assert len(encode_state(state)) < 300_000


def test_a_pickle_of_torch_is_refused_and_not_loaded() -> None:
    data = pickle.dumps({"round": 0})
    for stored in (data, base64.b64encode(data)):
        with pytest.raises(RendezvousStateError, match=r"Python pickle.*refused"):
            decode_state(stored)


def test_another_schema_is_refused_with_both_numbers() -> None:
    with pytest.raises(RendezvousStateError, match=f"schema 99.*reads {SCHEMA}"):
        decode_state(b'{"schema": 99, "unknown": true}')


def test_too_many_bytes_are_not_read() -> None:
    with pytest.raises(RendezvousStateError, match=f"{STATE_SIZE_MAX + 1} bytes, over the limit of {STATE_SIZE_MAX}"):
        decode_state(b" " * (STATE_SIZE_MAX + 1))


def test_too_many_bytes_are_not_written() -> None:
    labels = {f"{n}" + "k" * 240: "v" * 255 for n in range(10_000)}
    card = Card(host="h", address="h", labels=labels)
    state = msgspec.structs.replace(
        new_state("0" * 32, 1, 1), nodes={A: Node(card=card, standing=Standing.READY, arrival=1)}
    )
    with pytest.raises(RendezvousStateError, match=f"over the limit of {STATE_SIZE_MAX}"):
        encode_state(state)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"[]", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (changed(round="two"), r"\$\.round"),
        (changed(round=-1), r"\$\.round"),
        (changed(born="short"), r"\$\.born"),
        (changed(surprise=1), "surprise"),
        (changed(min_nodes=0), r"\$\.min_nodes"),
        (changed(min_nodes=None), "min_nodes"),
        (changed(reason="x" * 5000), r"\$\.reason"),
        (changed(nodes={"../etc": {}}), r"\$\.nodes"),
        (changed(phase="sleeping"), r"\$\.phase"),
        (changed(members={A: 0, B: 0}), r"ranks of its members are \[0, 0\]"),
        (changed(members={A: 0, B: 2}), r"not 0 to 1"),
        (changed(previous={A: 5}), "ranks of its previous"),
        (changed(members=None, done=None), "0 members while complete"),
        (changed(phase="gathering"), "2 members while gathering"),
        (changed(phase="gathering", members=None, done=None), "workers' store of another round"),
        (changed(max_nodes=1), "2 members, which is not 1 to 1"),
        (changed(min_nodes=4), "below its smallest"),
        (changed(endpoint=None), "nobody knows where"),
        (changed(endpoint=["h", 70000]), "70000, not 1 to 65535"),
        (
            changed(phase="proposed", members={A: 0, "d" * 32: 1}, done=None, closure=None),
            "nodes that it does not name",
        ),
        (changed(done=[C]), "done that are not members"),
    ],
)
def test_what_is_wrong_with_a_state_is_named(data: bytes, fault: str) -> None:
    with pytest.raises(RendezvousStateError, match=fault):
        decode_state(data)


def test_the_number_of_nodes_is_bounded() -> None:
    nodes = {f"{n:032x}": {"card": {"host": "h", "address": "h"}, "standing": "ready", "arrival": n} for n in range(1)}
    many = nodes | {f"{n:032x}": nodes["0" * 32] for n in range(NODE_COUNT_MAX + 1)}
    with pytest.raises(RendezvousStateError, match=str(NODE_COUNT_MAX)):
        decode_state(json.dumps({**json.loads(changed(members=None, done=None)), "nodes": many}).encode())


def test_standings_come_in_order_of_arrival() -> None:
    nodes = {
        A: node("x", Standing.READY, 3),
        B: node("y", Standing.READY, 1),
        C: node("z", Standing.SPARE, 2),
    }
    state = msgspec.structs.replace(new_state("0" * 32, 1, 3), nodes=nodes)
    assert state.standing(Standing.READY) == [B, A]
    assert state.standing(Standing.SPARE) == [C]
    assert state.standing(Standing.RUNNING) == []


def test_members_of_the_last_round_that_live_are_expected_back() -> None:
    gathering = msgspec.structs.replace(
        full_state(), phase=Phase.GATHERING, members={}, previous={A: 0, B: 1}, endpoint=None, done=()
    )
    assert gathering.returning == [A, B]
    assert full_state().returning == []


def test_members_come_by_rank_and_the_silent_ones_are_named() -> None:
    state = full_state()
    assert state.ranked == [B, A]
    assert state.unacknowledged == []
    assert msgspec.structs.replace(state, proposal=4).unacknowledged == [B, A]


def test_who_has_yet_to_hear_of_the_closing_is_known() -> None:
    state = full_state()
    assert state.unaware == [A, B, C]
    heard = msgspec.structs.replace(
        state, nodes={**state.nodes, A: msgspec.structs.replace(state.nodes[A], has_heard=True)}
    )
    assert heard.unaware == [B, C]
    assert msgspec.structs.replace(heard, closure=None).unaware == []


def test_a_label_names_the_host_also_of_a_node_that_is_gone() -> None:
    state = full_state()
    assert label_of(state, B) == "node2#bbbbbb"
    gone = msgspec.structs.replace(state, nodes={})
    assert label_of(gone, A) == "node1#aaaaaa"
    assert label_of(gone, B) == "a node#bbbbbb"


@pytest.mark.parametrize(
    ("exit_code", "message", "told"),
    [
        (3, "boom", " with exit code 3: boom"),
        (3, "worker 0 (pid 7) ended with exit code 3", ": worker 0 (pid 7) ended with exit code 3"),
        (-9, "boom", " by signal 9: boom"),
        (-9, "worker 0 (pid 7) was killed by SIGKILL", ": worker 0 (pid 7) was killed by SIGKILL"),
        (1, "no child was killed by it", " with exit code 1: no child was killed by it"),
        (None, "boom", ": boom"),
    ],
)
def test_how_a_worker_failed_is_said_once(exit_code: int | None, message: str, told: str) -> None:
    assert describe_failure(exit_code, message) == told
