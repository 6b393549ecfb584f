"""Hosts on one clock: what happens when, frozen, crashed, and the same again for the same seed."""

from __future__ import annotations

import pytest

from rallypoint.testing import simulation as module
from rallypoint.testing.simulation import Simulation


def test_things_happen_in_the_order_of_their_times():
    simulation, seen = Simulation(), []
    host = simulation.host("a")
    host.after(2.0, lambda: seen.append(("b", simulation.now)))
    host.after(1.0, lambda: seen.append(("a", simulation.now)))
    host.after(9.0, lambda: seen.append(("too late", simulation.now)))
    simulation.run(until=3.0)
    assert seen == [("a", 1.0), ("b", 2.0)]
    assert simulation.now == 3.0


def test_what_is_cancelled_does_not_happen():
    simulation, seen = Simulation(), []
    simulation.host("a").after(1.0, lambda: seen.append(1)).cancel()
    simulation.run(until=3.0)
    assert seen == []


def test_a_host_that_thaws_sees_to_its_own_timers_first():
    simulation, seen = Simulation(), []
    host = simulation.host("a")
    host.after(1.0, lambda: seen.append("message"), is_timer=False)
    host.after(2.0, lambda: seen.append("timer"))
    host.freeze()
    simulation.after(5.0, host.thaw)
    simulation.run(until=4.0)
    assert seen == []
    simulation.run(until=6.0)
    assert seen == ["timer", "message"]


def test_what_was_due_on_a_host_that_crashed_never_happens():
    simulation, seen = Simulation(), []
    host = simulation.host("a")
    host.after(1.0, lambda: seen.append("old"))
    host.crash()
    host.start()
    host.after(1.0, lambda: seen.append("new"))
    simulation.run(until=2.0)
    assert seen == ["new"]


def test_the_same_seed_throws_the_same_dice():
    first, again, other = (Simulation(seed).dice.random() for seed in (1, 1, 2))
    assert first == again != other


def test_a_simulation_that_does_not_end_is_told(monkeypatch):
    monkeypatch.setattr(module, "EVENTS_MAX", 10)
    simulation = Simulation()

    def again():
        simulation.after(0.0, again)

    again()
    with pytest.raises(RuntimeError, match="goes round in circles"):
        simulation.run(until=1.0)
