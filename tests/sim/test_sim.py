"""Many nodes in one thread, whatever goes wrong: ``make sim SEEDS=...`` plays more, ``tests.sim SEED`` one again.

The machines are the real ones, and what their drivers do around them is done here on a clock that jumps:

==================  =============================================  ==============================
here                the machine                                    stands for the driver
==================  =============================================  ==============================
``store``           ``server/engine``, ``protocol/session``        ``server/loop``, ``store/trunk``
``candidate``       ``rendezvous/office``                          ``rendezvous/coordinator``
``following``       ``rendezvous/follower``                        ``rendezvous/following``
``membership``      ``agent/round_looks``                          ``agent/membership``
``agent``           ``agent/group``                                ``agent/agent``
``workers``         none: workers act, fail, stop in their time    ``agent/process``
==================  =============================================  ==============================

``world`` is the machines and what goes wrong, ``referee`` what must hold, ``broken_rules`` what it is there to find.
"""

from __future__ import annotations

import pytest
from tests.sim.broken_rules import BROKEN_RULES
from tests.sim.referee import Broken, Referee
from tests.sim.world import play

SEEDS = 2000
AT_ONCE = 100
CAUGHT_WITHIN = 1000
"""So many worlds at most until a broken rule shows."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_everybody_finds_together_whatever_goes_wrong(first):
    worlds = [play(seed) for seed in range(first, first + AT_ONCE)]
    assert all(world.rounds for world in worlds if len(world.live()) >= world.min_nodes)
    assert sum(len(world.rounds) for world in worlds) > AT_ONCE


def test_a_seed_repeats_itself():
    first, again = play(7), play(7)
    assert first.story == again.story
    assert first.simulation.events == again.simulation.events


@pytest.mark.timeout(600)
@pytest.mark.parametrize("break_rule", BROKEN_RULES, ids=lambda rule: rule.__name__)
def test_a_broken_rule_shows(break_rule, monkeypatch):
    break_rule(monkeypatch)
    assert any(_is_caught(seed) for seed in range(CAUGHT_WITHIN))


def _is_caught(seed):
    try:
        play(seed)
    except Exception:  # noqa: BLE001 - a machine that falls over is found, too
        return True
    return False


def test_a_world_that_breaks_says_how_to_play_it_again(monkeypatch):
    def break_something(referee: Referee, *, is_ending: bool):
        raise Broken("something")

    monkeypatch.setattr(Referee, "check_end", break_something)
    with pytest.raises(Broken, match=r"seed 3, at \d+\.\d+ s: something\n.*n1 starts"):
        play(3)
