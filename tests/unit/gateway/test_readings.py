from __future__ import annotations

from rallypoint.gateway.readings import Reading, Readings


def test_those_of_one_turn_are_asked_together():
    readings = Readings()
    readings.add("k", 1)
    readings.add("other", 2)
    readings.add("k", 3)
    assert readings.due() == [Reading("k", [1, 3]), Reading("other", [2])]
    assert readings.due() == ()


def test_those_that_come_while_one_is_on_its_way_are_the_next_one():
    readings = Readings()
    readings.add("k", 1)
    readings.due()
    readings.add("k", 2)
    assert readings.due() == ()
    readings.add("k", 3)
    assert (readings.due(), len(readings)) == ((), 1)
    readings.ended("k")
    assert (readings.due(), len(readings)) == ([Reading("k", [2, 3])], 0)
    readings.ended("k")
    assert readings.due() == ()


def test_one_that_comes_in_the_turn_of_the_answer_is_asked_once():
    readings = Readings()
    readings.add("k", 1)
    readings.due()
    readings.add("k", 2)
    readings.ended("k")
    readings.add("k", 3)
    assert readings.due() == [Reading("k", [2, 3])]
