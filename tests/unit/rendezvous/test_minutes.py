from __future__ import annotations

import hashlib
import json
import zlib

import pytest
from msgspec.structs import replace

from rallypoint.errors import RendezvousStateError
from rallypoint.rendezvous.minutes import MINUTES_SIZE_MAX, PLAIN_SIZE_MAX, Minutes, decode_minutes, encode_minutes
from rallypoint.rendezvous.policy import Books, HostBook, Policy
from rallypoint.rendezvous.state import NODE_COUNT_MAX, Card, Node, Phase, Standing, new_state
from rallypoint.types import Endpoint

A = "a" * 32


def minutes() -> Minutes:
    books = Books(policy=Policy(restarts={"failed": 3}), restarts={"failed": 1}, hosts={"h": HostBook(ages_s=(1.0,))})
    return Minutes(term=4, state=new_state("0" * 32, 1, 2), books=books, heard={A: 3}, ranks={A: 1})


def test_minutes_come_back_as_they_were() -> None:
    assert decode_minutes(encode_minutes(minutes())) == minutes()


def test_the_minutes_of_as_many_nodes_as_there_may_be_come_back_and_fit_into_etcd() -> None:
    ids = [hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest() for number in range(NODE_COUNT_MAX)]
    ranks = {node_id: rank for rank, node_id in enumerate(ids)}
    nodes = {
        node_id: Node(
            card=Card(host=f"node-{rank:05}.example.org", address=f"node-{rank:05}.example.org", pid=1000 + rank),
            standing=Standing.RUNNING,
            arrival=rank,
            acknowledged=3,
        )
        for node_id, rank in ranks.items()
    }
    state = replace(new_state("0" * 32, 1, NODE_COUNT_MAX), nodes=nodes, members=ranks, previous=ranks)
    many = replace(minutes(), state=replace(state, phase=Phase.COMPLETE, endpoint=Endpoint("h", 1)))
    data = encode_minutes(many)
    assert PLAIN_SIZE_MAX < len(data) < 1_500_000
    assert decode_minutes(data) == many


def test_equal_minutes_are_equal_bytes() -> None:
    one = replace(minutes(), ranks={"a" * 32: 0, "b" * 32: 1})
    other = replace(minutes(), ranks={"b" * 32: 1, "a" * 32: 0})
    assert encode_minutes(one) == encode_minutes(other)


def test_what_is_no_minutes_is_refused() -> None:
    for data in (b"", b"{}", b"\x80\x04"):
        with pytest.raises(RendezvousStateError, match="cannot be read"):
            decode_minutes(data)
    with pytest.raises(RendezvousStateError, match="not read"):
        decode_minutes(b" " * (MINUTES_SIZE_MAX + 1))
    with pytest.raises(RendezvousStateError, match="not read"):
        decode_minutes(zlib.compress(b" " * (MINUTES_SIZE_MAX + 1)))
    with pytest.raises(RendezvousStateError, match=r"cut short; give this run another id, or remove its key 'state'"):
        decode_minutes(zlib.compress(encode_minutes(minutes()))[:-3])
    other = json.dumps(json.loads(encode_minutes(minutes())) | {"schema": 2}).encode()
    with pytest.raises(RendezvousStateError, match="have schema 2"):
        decode_minutes(other)


def test_a_state_that_denies_itself_is_refused() -> None:
    state = replace(minutes().state, min_nodes=3)
    with pytest.raises(RendezvousStateError, match="not coherent"):
        decode_minutes(encode_minutes(replace(minutes(), state=state)))
