from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from rallypoint.errors import RendezvousStateError
from rallypoint.rendezvous.minutes import Minutes, decode_minutes, encode_minutes
from rallypoint.rendezvous.policy import Books, HostBook, Policy
from rallypoint.rendezvous.state import STATE_SIZE_MAX, new_state

A = "a" * 32


def minutes() -> Minutes:
    books = Books(policy=Policy(restarts={"failed": 3}), restarts={"failed": 1}, hosts={"h": HostBook(ages_s=(1.0,))})
    return Minutes(term=4, state=new_state("0" * 32, 1, 2), books=books, heard={A: 3}, ranks={A: 1})


def test_minutes_come_back_as_they_were() -> None:
    assert decode_minutes(encode_minutes(minutes())) == minutes()


def test_equal_minutes_are_equal_bytes() -> None:
    one = replace(minutes(), ranks={"a" * 32: 0, "b" * 32: 1})
    other = replace(minutes(), ranks={"b" * 32: 1, "a" * 32: 0})
    assert encode_minutes(one) == encode_minutes(other)


def test_what_is_no_minutes_is_refused() -> None:
    for data in (b"", b"{}", b"\x80\x04"):
        with pytest.raises(RendezvousStateError, match="cannot be read"):
            decode_minutes(data)
    with pytest.raises(RendezvousStateError, match="not read"):
        decode_minutes(b" " * (STATE_SIZE_MAX + 1))
    other = json.dumps(json.loads(encode_minutes(minutes())) | {"schema": 2}).encode()
    with pytest.raises(RendezvousStateError, match="have schema 2"):
        decode_minutes(other)


def test_a_state_that_denies_itself_is_refused() -> None:
    state = replace(minutes().state, min_nodes=3)
    with pytest.raises(RendezvousStateError, match="not coherent"):
        decode_minutes(encode_minutes(replace(minutes(), state=state)))
