from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from rallypoint.rendezvous.handler import RendezvousParameters
from rallypoint.rendezvous.policy import Policy
from rallypoint.rendezvous.settings import (
    KNOWN_OPTIONS,
    CoordinatedSettings,
    RendezvousSettings,
    RendezvousTimeout,
    read_labels,
)


def parameters(**config: Any) -> RendezvousParameters:
    return RendezvousParameters("c10d", "localhost", "run", 2, 4, **config)


def test_timeouts_have_torchs_defaults() -> None:
    timeout = RendezvousTimeout()
    assert (timeout.join, timeout.last_call) == (timedelta(seconds=600), timedelta(seconds=30))
    assert (timeout.close, timeout.heartbeat) == (timedelta(seconds=30), timedelta(seconds=5))


def test_timeouts_take_seconds_and_timedeltas() -> None:
    timeout = RendezvousTimeout(1.5, timedelta(minutes=1), close=2)
    assert (timeout.join, timeout.last_call, timeout.close) == (
        timedelta(seconds=1.5), timedelta(minutes=1), timedelta(seconds=2),
    )  # fmt: skip
    assert "0:00:01.5" in repr(timeout)


def test_a_timeout_without_end_is_a_very_long_one() -> None:
    assert RendezvousTimeout(join=math.inf).join > timedelta(days=365 * 1000)


@pytest.mark.parametrize("name", ["join", "last_call", "close", "heartbeat"])
@pytest.mark.parametrize("value", [0, -1, timedelta(seconds=-1)])
def test_a_timeout_that_is_not_above_zero_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"The {name.replace('_', ' ')} timeout .* must be positive"):
        RendezvousTimeout(**{name: value})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"run_id": ""}, "run id"),
        ({"min_nodes": 0}, r"minimum number of nodes \(0\)"),
        ({"max_nodes": 1}, r"maximum number of nodes \(1\)"),
        ({"keep_alive_interval": timedelta()}, "keep-alive interval"),
        ({"keep_alive_max_attempt": 0}, r"keep-alive attempts \(0\)"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, Any], words: str) -> None:
    sound: dict[str, Any] = {"run_id": "run", "min_nodes": 2, "max_nodes": 4}
    with pytest.raises(ValueError, match=words):
        RendezvousSettings(**{**sound, **fields})


def test_parameters_without_options_give_the_defaults() -> None:
    settings = RendezvousSettings.from_parameters(parameters())
    assert settings.timeout.join == timedelta(seconds=600)
    assert settings.keep_alive_interval == timedelta(seconds=5)
    assert (settings.spare_timeout, settings.rank_wish) == (None, None)
    assert settings.rules.dead_after_s == 15.0
    assert settings.rules.spare_timeout_s == math.inf


def test_options_are_read_fractions_included() -> None:
    settings = RendezvousSettings.from_parameters(
        parameters(
            join_timeout="12.5", last_call_timeout=0.5, close_timeout=3, heartbeat_timeout="4",
            keep_alive_interval="0.2", keep_alive_max_attempt="5", spare_timeout=60, rank="1",
        )
    )  # fmt: skip
    rules = settings.rules
    assert (rules.min_nodes, rules.max_nodes) == (2, 4)
    assert (rules.join_timeout_s, rules.last_call_s, rules.spare_timeout_s) == (12.5, 0.5, 60.0)
    assert (rules.keep_alive_interval_s, rules.keep_alive_max_attempt) == (0.2, 5)
    assert (settings.timeout.close, settings.timeout.heartbeat) == (timedelta(seconds=3), timedelta(seconds=4))
    assert settings.rank_wish == 1


def test_a_rank_of_minus_one_is_no_wish() -> None:
    assert RendezvousSettings.from_parameters(parameters(rank=-1)).rank_wish is None


def test_options_of_the_launcher_and_of_backends_are_let_pass() -> None:
    settings = RendezvousSettings.from_parameters(parameters(timeout=900, store_type="tcp", read_timeout=60, is_host=0))
    assert settings.timeout.join == timedelta(seconds=600)


def test_a_misspelt_option_is_refused_with_the_nearest_and_the_list() -> None:
    with pytest.raises(ValueError, match=r"'join_timout' is unknown.*did you mean 'join_timeout'") as caught:
        RendezvousSettings.from_parameters(parameters(join_timout=3))
    assert all(option in str(caught.value) for option in KNOWN_OPTIONS)


def test_an_option_that_is_no_number_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="keep_alive_interval"):
        RendezvousSettings.from_parameters(parameters(keep_alive_interval="soon"))


def coordinated(**options: Any) -> CoordinatedSettings:
    return CoordinatedSettings.from_parameters(RendezvousParameters("rallypoint", "", "run", 1, 2, **options))


def test_who_is_coordinated_renews_each_second_and_has_five() -> None:
    settings = coordinated()
    assert settings.node.rules.keep_alive_interval_s == 1.0
    assert settings.ttl_s == 5.0
    assert (settings.policy, settings.labels, settings.worker_store) == (Policy(), {}, "embedded")
    assert coordinated(keep_alive_interval="0.5", keep_alive_max_attempt="4").ttl_s == 2.0


def test_budgets_and_patience_with_hosts_are_read() -> None:
    options = {"max_restarts": "3", "max_restarts_dropped": 0, "flap_limit": 2, "flap_window": "60", "cool_down": 9.5}
    policy = coordinated(**options, worker_store="gateway").policy
    assert policy.restarts == {"failed": 3, "dropped": 0}
    assert (policy.flap_limit, policy.flap_window_s, policy.cool_down_s) == (2, 60.0, 9.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_restarts_left": -1}, "'max_restarts_left' is -1"),
        ({"worker_store": "none"}, "worker_store is 'none'"),
        ({"store_type": "tcp"}, "'store_type' is unknown"),
        ({"keep_alive_interval": 0}, "must be positive"),
        ({"flap_limi": 1}, "did you mean 'flap_limit'"),
        ({"placement": "near:rack"}, r"no placement 'near'; known are .*labels, sticky"),
        ({"placement": "labels:" + 300 * "x"}, "307 characters, over the limit of 255"),
    ],
)
def test_bad_options_of_a_coordinated_rendezvous_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        coordinated(**options)


def test_the_placement_is_read_with_its_keys() -> None:
    assert coordinated().policy.placement == "sticky"
    assert coordinated(placement="labels:rack+host").policy.placement == "labels:rack+host"


def test_labels_are_read_from_text_and_mappings() -> None:
    assert read_labels(None) == {}
    assert read_labels("rack = a; zone=b=c;") == {"rack": "a", "zone": "b=c"}
    assert read_labels({"rack": 7}) == {"rack": "7"}


@pytest.mark.parametrize("given", ["rack", "=a", "rack=a;rack=b", 7, {"": "x"}, {"rack": "x" * 256}])
def test_labels_that_are_none_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match="NAME=VALUE"):
        read_labels(given)
