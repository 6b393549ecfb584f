from __future__ import annotations

from dataclasses import fields
from typing import get_args

import pytest

from rallypoint.gateway.vocabulary import DEFAULT_RELAY_LIMITS, RelayEffect, RelayEvent, RelayLimits
from rallypoint.server.vocabulary import Effect, Event


def test_a_relay_has_the_words_of_a_server_and_more():
    assert set(get_args(Event)) < set(get_args(RelayEvent))
    assert set(get_args(Effect)) < set(get_args(RelayEffect))


@pytest.mark.parametrize("name", [field.name for field in fields(RelayLimits)])
def test_every_bound_is_above_0(name):
    assert getattr(DEFAULT_RELAY_LIMITS, name) > 0
    with pytest.raises(ValueError, match=f"{name} is 0"):
        RelayLimits(**{name: 0})
