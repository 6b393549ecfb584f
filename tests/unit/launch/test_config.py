from __future__ import annotations

from typing import Any

import pytest

from rallypoint.agent.logs import DEFAULT_PREFIX, LogOptions, Std
from rallypoint.launch.config import GRACE_ENV, ConfigError, LaunchConfig


def config(**changes: Any) -> LaunchConfig:
    return LaunchConfig(**{"min_nodes": 1, "max_nodes": 2, "nproc_per_node": 4, "run_id": "run-7"} | changes)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"min_nodes": 0}, "0 to 2 nodes were asked for"),
        ({"min_nodes": 3}, "3 to 2 nodes were asked for"),
        ({"nproc_per_node": 0}, "nproc_per_node is 0"),
        ({"max_restarts": -1}, "max_restarts is -1"),
        ({"monitor_interval": 0}, "monitor_interval is 0 s"),
        ({"shutdown_timeout": -1}, "shutdown_timeout is -1"),
        ({"shutdown_timeout": float("nan")}, "shutdown_timeout is nan"),
        ({"event_log_handler": "bogus"}, "'bogus' is no destination of records"),
        ({"metrics_cfg": {"handler": "bogus"}}, "the metrics handler 'bogus' is unknown"),
        ({"numa_options": object()}, "numa_options cannot be set"),
        ({"start_method": "thread"}, "start_method is 'thread'"),
        ({"signals_to_handle": "SIGBOGUS"}, "'SIGBOGUS'"),
        ({"labels": {"rack": "a"}}, "labels are for the rendezvous backends rallypoint, etcd.*: name one of them"),
        ({"rdzv_configs": {"endpoint": "x", "run_id": "y"}}, "endpoint, run_id cannot be set"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        config(**changes)


def test_workers_have_thirty_seconds_to_end_unless_somebody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(GRACE_ENV, raising=False)
    assert config().grace_s == 30

    monkeypatch.setenv(GRACE_ENV, "12.5")
    assert config().grace_s == 12.5
    assert config(shutdown_timeout=0).grace_s == 0


@pytest.mark.parametrize("text", ["soon", "-3", ""])
def test_a_bad_grace_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(GRACE_ENV, text)

    with pytest.raises(ConfigError, match=GRACE_ENV):
        config()


def test_a_run_without_a_name_gets_a_random_one() -> None:
    first, second = config(run_id=""), config(run_id="")

    assert first.run_id
    assert first.run_id != second.run_id


def test_the_prefix_template_is_part_of_the_log_options() -> None:
    assert config().logs == LogOptions()
    assert config(logs_specs=LogOptions(tee=Std.OUT), log_line_prefix_template="${rank}> ").logs == LogOptions(
        tee=Std.OUT, prefix="${rank}> "
    )
    assert config().logs.prefix == DEFAULT_PREFIX


def test_the_backend_is_told_all_it_needs() -> None:
    made = config(
        rdzv_backend="c10d", rdzv_endpoint="host-a:1", local_addr="10.0.0.7", rdzv_configs={"is_host": "0"}
    ).rendezvous_parameters()

    assert (made.backend, made.endpoint, made.run_id, made.min_nodes, made.max_nodes, made.local_addr) == (
        ("c10d", "host-a:1", "run-7", 1, 2, "10.0.0.7")
    )
    assert made.config == {"is_host": "0"}


@pytest.mark.parametrize(("backend", "option"), [("static", "timeout"), ("c10d", "join_timeout")])
def test_the_rendezvous_timeout_goes_to_the_backends_own_option(backend: str, option: str) -> None:
    assert config(rdzv_backend=backend, rdzv_timeout=7).rendezvous_parameters().config == {option: 7}
    assert config(rdzv_backend=backend, rdzv_timeout=7, rdzv_configs={option: 3}).rendezvous_parameters().config == {
        option: 3
    }
    assert config(rdzv_backend=backend).rendezvous_parameters().config == {}


def test_a_coordinator_is_told_the_budget_and_the_labels() -> None:
    asked = {"rdzv_configs": {"labels": "rack=b;zone=1"}, "labels": {"rack": "a"}, "max_restarts": 5}
    params = config(rdzv_backend="rallypoint", **asked).rendezvous_parameters()
    assert params.config == {"max_restarts": 5, "labels": {"rack": "a", "zone": "1"}}

    params = config(rdzv_backend="etcd", rdzv_configs={"max_restarts": "7"}).rendezvous_parameters()
    assert params.config == {"max_restarts": "7"}

    assert "max_restarts" not in config().rendezvous_parameters().config
