from __future__ import annotations

from msgspec.structs import replace

from rallypoint.errors import RendezvousStateError
from rallypoint.rendezvous.liquidator import UNDECIDED_MAX, Faults, Liquidator
from rallypoint.rendezvous.office_moves import Gone, Reported, Ticked, TookOffice
from rallypoint.rendezvous.reports import OrderKind, Report, decode_order, encode_order
from rallypoint.rendezvous.state import MESSAGE_SIZE_MAX, Card

A, B, C = "a" * 32, "b" * 32, "c" * 32


def report(node, **more):
    return Report(node=node, number=3, card=Card(host="h", address="h"), min_nodes=1, max_nodes=2, **more)


def test_everybody_who_has_yet_to_hear_is_told_once_and_why():
    machine = Liquidator("x" * 5000)
    reports = report(A), report(B, has_heard=True), report(C, leaving="told to")
    (first,) = machine.step_all([TookOffice(7, b"", reports)], 0.0)
    assert first.node == A
    order = decode_order(encode_order(first.order))
    assert (order.term, order.number, order.kind, order.outcome, order.report) == (7, 1, OrderKind.CLOSED, "failed", 3)
    assert len(order.why) == MESSAGE_SIZE_MAX
    (second,) = machine.step_all([Reported(report(B)), Ticked(), Gone(A, "x")], 1.0)
    assert (second.node, second.order.number) == (B, 2)
    assert machine.step_all([Reported(replace(report(A), has_heard=True))], 2.0) == []
    assert machine.next_deadline() is None


def test_it_is_of_no_use_to_try_again_once_nothing_could_be_decided_often_on_the_same_minutes():
    faults = Faults()
    for _ in range(UNDECIDED_MAX - 1):
        faults.note(7, ValueError("odd"))
        assert faults.verdict(7) == ""
    faults.note(7, RendezvousStateError("the minutes are of version 9"))
    assert faults.verdict(7) == "nobody can coordinate it any more: the minutes are of version 9"
    assert faults.verdict(8) == ""
    faults.note(8, ValueError("odd"))
    assert faults.verdict(8) == ""
