from __future__ import annotations

import json

import pytest

from rallypoint.errors import RendezvousStateError
from rallypoint.rendezvous.reports import (
    ORDER_SIZE_MAX,
    REPORT_SIZE_MAX,
    Failure,
    Notice,
    Order,
    OrderKind,
    Places,
    Report,
    Workers,
    decode_order,
    decode_report,
    encode_notice,
    encode_order,
    encode_report,
    read_notice,
)
from rallypoint.rendezvous.state import Card, News
from rallypoint.types import Endpoint

A = "a" * 32


def report() -> Report:
    return Report(
        node=A,
        number=7,
        card=Card(host="h", address="h", pid=3, labels={"rack": "r1"}),
        min_nodes=1,
        max_nodes=2,
        workers=Workers(role="trainer", count=8),
        worker_store="gateway",
        joining=2,
        wants_in=True,
        entered=3,
        acknowledged=4,
        endpoint=Endpoint("h", 1),
        failure=Failure(number=1, round=3, message="it failed", exit_code=-9),
    )


def order() -> Order:
    return Order(
        term=5,
        number=6,
        kind=OrderKind.ADMITTED,
        why="in",
        round=4,
        proposal=4,
        rank=1,
        size=2,
        endpoint=Endpoint("h", 1),
        places=Places(first_rank=8, world_size=16, first_role_rank=8, role_world_size=16),
        news=(News(kind="failed", round=3, node=A, host="h", message="it failed"),),
    )


def test_reports_and_orders_come_back_as_they_were() -> None:
    assert decode_report(encode_report(report())) == report()
    assert decode_order(encode_order(order())) == order()


def test_a_small_report_takes_few_bytes() -> None:
    small = Report(node=A, number=1, card=Card(host="h", address="h"), min_nodes=1, max_nodes=1)
    assert len(encode_report(small)) < 120


@pytest.mark.parametrize("decode", [decode_report, decode_order])
def test_what_is_no_message_is_refused(decode: object) -> None:
    assert callable(decode)
    for data in (b"", b"[]", b'{"node": 1}', b"\x80\x04", b"{" * 1000):
        with pytest.raises(RendezvousStateError, match="cannot be read"):
            decode(data)


def test_what_is_too_large_is_not_read() -> None:
    with pytest.raises(RendezvousStateError, match=f"over the limit of {REPORT_SIZE_MAX}"):
        decode_report(b" " * (REPORT_SIZE_MAX + 1))
    with pytest.raises(RendezvousStateError, match=f"over the limit of {ORDER_SIZE_MAX}"):
        decode_order(b" " * (ORDER_SIZE_MAX + 1))


def test_another_schema_is_refused_by_number() -> None:
    other = json.dumps(json.loads(encode_report(report())) | {"schema": 2}).encode()
    with pytest.raises(RendezvousStateError, match="has schema 2, this version of rallypoint reads 1"):
        decode_report(other)


def test_bounds_that_deny_each_other_are_refused() -> None:
    other = json.dumps(json.loads(encode_report(report())) | {"min_nodes": 3}).encode()
    with pytest.raises(RendezvousStateError, match="wants 3 to 2 nodes"):
        decode_report(other)


@pytest.mark.parametrize("place", [["h", 0], ["h", -1], ["h", 65536], ["h", 10**30], ["h" * 256, 1]])
def test_a_place_that_no_successor_could_read_in_the_minutes_is_refused(place: list[object]) -> None:
    other = json.dumps(json.loads(encode_report(report())) | {"endpoint": place}).encode()
    with pytest.raises(RendezvousStateError, match="no host of up to 255 characters and a port from"):
        decode_report(other)


@pytest.mark.parametrize("name", ["entered", "acknowledged"])
def test_a_number_that_leaves_no_room_to_count_on_is_refused(name: str) -> None:
    other = json.dumps(json.loads(encode_report(report())) | {name: 2**53}).encode()
    with pytest.raises(RendezvousStateError, match="cannot be read"):
        decode_report(other)


def test_a_notice_is_read_back_and_what_is_none_is_nothing() -> None:
    notice = Notice(term=5, number=6, text="1 of 2 nodes")
    assert read_notice(encode_notice(notice)) == notice
    for data in (b"", b"1 of 2 nodes", b"{}", encode_notice(notice).replace(b"5", b"-5"), b" " * (ORDER_SIZE_MAX + 1)):
        assert read_notice(data) is None
