from __future__ import annotations

import importlib.metadata

import pytest

from rallypoint.rendezvous import placement_plugins
from rallypoint.rendezvous.placement import knows
from rallypoint.rendezvous.placement_plugins import load_placement
from rallypoint.rendezvous.ranks import place_ranks

made = []


def make_found(keys):
    made.append(keys)
    return place_ranks


@pytest.fixture
def announced(monkeypatch):
    """Let a package announce placements; what is given is name -> value."""

    def announce(**points):
        def entry_points(*, group, name):
            assert group == placement_plugins.ENTRY_POINT_GROUP
            return [importlib.metadata.EntryPoint(name, points[name], group)] if name in points else []

        monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)

    return announce


def test_an_installed_placement_is_found_by_name_once(announced):
    announced(found=f"{__name__}:make_found")
    assert load_placement("found:rack+host") is place_ranks
    assert made == [("rack", "host")]
    assert knows("found")
    assert load_placement("found") is place_ranks


def test_one_that_cannot_be_loaded_is_named(announced):
    announced(absent="no.such.module:make")
    with pytest.raises(ValueError, match=r"'no.such.module:make' cannot be used"):
        load_placement("absent")


def test_what_nobody_announces_is_refused_with_what_there_is(announced):
    announced()
    with pytest.raises(ValueError, match=r"no placement 'near'; known are .*sticky"):
        load_placement("near:rack")
