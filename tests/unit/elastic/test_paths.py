from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path
from typing import Any

import pytest

import rallypoint.elastic
import rallypoint.launcher

MODULES = sorted(
    module.name
    for package in (rallypoint.elastic, rallypoint.launcher)
    for module in pkgutil.walk_packages(package.__path__, prefix=f"{package.__name__}.")
)

# What code written for torch imports, by the path that is left when torch.distributed becomes rallypoint.
IMPORTED_BY_USERS = {
    "elastic.utils.distributed": ["create_c10d_store", "get_free_port", "get_socket_with_port"],
    "elastic.utils.store": ["barrier", "get_all", "store_timeout", "synchronize"],
    "elastic.utils": ["get_env_variable_or_raise", "macros"],
    "elastic.utils.api": ["get_env_variable_or_raise", "get_socket_with_port", "macros"],
    "elastic.utils.data": ["CyclingIterator", "ElasticDistributedSampler"],
    "elastic.utils.data.cycling_iterator": ["CyclingIterator"],
    "elastic.utils.data.elastic_distributed_sampler": ["ElasticDistributedSampler"],
    "elastic.utils.log_level": ["get_log_level"],
    "elastic.utils.logging": ["_derive_module_name", "get_logger"],
    "elastic.rendezvous": [
        "RendezvousClosedError",
        "RendezvousConnectionError",
        "RendezvousError",
        "RendezvousGracefulExitError",
        "RendezvousHandler",
        "RendezvousHandlerCreator",
        "RendezvousHandlerRegistry",
        "RendezvousInfo",
        "RendezvousParameters",
        "RendezvousStateError",
        "RendezvousStoreInfo",
        "RendezvousTimeoutError",
        "_register_default_handlers",
        "_register_out_of_tree_handlers",
        "rendezvous_handler_registry",
    ],
    "elastic.rendezvous.api": ["RendezvousHandlerRegistry", "RendezvousParameters", "RendezvousStoreInfo"],
    "elastic.rendezvous.registry": [
        "_register_default_handlers",
        "_register_out_of_tree_handlers",
        "get_rendezvous_handler",
    ],
    "elastic.rendezvous.utils": [
        "_PeriodicTimer",
        "_delay",
        "_matches_machine_hostname",
        "_parse_rendezvous_config",
        "_try_parse_port",
        "parse_rendezvous_endpoint",
    ],
    "elastic.rendezvous.c10d_rendezvous_backend": ["C10dRendezvousBackend", "DEFAULT_PORT", "create_backend"],
    "elastic.rendezvous.dynamic_rendezvous": [
        "DynamicRendezvousHandler",
        "RendezvousBackend",
        "RendezvousSettings",
        "RendezvousTimeout",
        "Token",
        "create_handler",
    ],
    "elastic.rendezvous.static_tcp_rendezvous": ["StaticTCPRendezvous", "create_rdzv_handler"],
    "elastic.control_plane": ["TORCH_WORKER_SERVER_SOCKET", "worker_main"],
    "elastic.events": [
        "Event",
        "EventSource",
        "NodeState",
        "RdzvEvent",
        "construct_and_record_rdzv_event",
        "get_logging_handler",
        "record",
        "record_rdzv_event",
    ],
    "elastic.events.api": ["Event", "EventMetadataValue", "EventSource", "NodeState", "RdzvEvent"],
    "elastic.events.handlers": ["get_logging_handler"],
    "elastic.metrics": [
        "ConsoleMetricHandler",
        "MetricData",
        "MetricHandler",
        "MetricsConfig",
        "NullMetricHandler",
        "configure",
        "getStream",
        "get_elapsed_time_ms",
        "initialize_metrics",
        "prof",
        "profile",
        "publish_metric",
        "put_metric",
    ],
    "elastic.metrics.api": ["ConsoleMetricHandler", "MetricStream", "getStream", "put_metric"],
    "elastic.multiprocessing": [
        "DefaultLogsSpecs",
        "LogsDest",
        "LogsSpecs",
        "MultiprocessContext",
        "PContext",
        "ProcessFailure",
        "RunProcsResult",
        "SignalException",
        "Std",
        "SubprocessContext",
        "start_processes",
        "to_map",
    ],
    "elastic.multiprocessing.api": [
        "DefaultLogsSpecs",
        "LogsDest",
        "LogsSpecs",
        "MultiprocessContext",
        "PContext",
        "RunProcsResult",
        "SignalException",
        "Std",
        "SubprocessContext",
        "_validate_full_rank",
        "to_map",
    ],
    "elastic.multiprocessing.redirects": ["redirect", "redirect_stderr", "redirect_stdout"],
    "elastic.multiprocessing.tail_log": ["TailLog"],
    "elastic.multiprocessing.errors": [
        "ChildFailedError",
        "ErrorHandler",
        "ProcessFailure",
        "get_error_handler",
        "record",
    ],
    "elastic.multiprocessing.errors.handlers": ["get_error_handler"],
    "elastic.agent.server.local_elastic_agent": [
        "LocalElasticAgent",
        "TORCHELASTIC_ENABLE_FILE_TIMER",
        "TORCHELASTIC_HEALTH_CHECK_PORT",
        "TORCHELASTIC_TIMER_FILE",
    ],
    "elastic.agent.server": ["ElasticAgent", "RunResult", "Worker", "WorkerGroup", "WorkerSpec", "WorkerState"],
    "elastic.agent.server.api": ["ElasticAgent", "RunResult", "Worker", "WorkerGroup", "WorkerSpec", "WorkerState"],
    "elastic.agent.server.health_check_server": ["HealthCheckServer", "create_healthcheck_server"],
    "elastic.timer": [
        "FileTimerClient",
        "FileTimerRequest",
        "FileTimerServer",
        "LocalTimerClient",
        "LocalTimerServer",
        "TimerClient",
        "TimerRequest",
        "TimerServer",
        "configure",
        "expires",
    ],
    "elastic.timer.api": ["RequestQueue", "TimerClient", "TimerRequest", "TimerServer", "configure", "expires"],
    "elastic.timer.local_timer": ["LocalTimerClient", "LocalTimerServer", "MultiprocessingRequestQueue"],
    "elastic.timer.file_based_local_timer": ["FileTimerClient", "FileTimerRequest", "FileTimerServer"],
    "elastic.timer.debug_info_logging": ["log_debug_info_for_expired_timers"],
    "launcher": ["LaunchConfig", "elastic_launch", "launch_agent"],
    "launcher.api": ["LaunchConfig", "_get_entrypoint_name", "elastic_launch", "launch_agent"],
    "run": ["main"],
    "rendezvous": ["register_rendezvous_handler", "rendezvous"],
}


@pytest.mark.parametrize("path", sorted(IMPORTED_BY_USERS))
def test_names_are_found_where_torch_keeps_them(path: str) -> None:
    module = importlib.import_module(f"rallypoint.{path}")
    assert [name for name in IMPORTED_BY_USERS[path] if not hasattr(module, name)] == []


@pytest.mark.parametrize("name", MODULES)
def test_a_module_of_a_torch_path_only_re_exports(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text())
    assert ast.get_docstring(tree)
    for statement in tree.body[1:]:
        if isinstance(statement, ast.ImportFrom):
            continue
        assert isinstance(statement, ast.Assign)
        assert ast.unparse(statement.targets[0]) == "__all__"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_of_a_torch_path_lists_all_that_it_imports(name: str) -> None:
    module = importlib.import_module(name)
    imported = {
        public for public, value in vars(module).items() if not public.startswith("__") and public != "annotations"
    }
    packages = {child.name for child in pkgutil.iter_modules(getattr(module, "__path__", []))}
    assert set(getattr(module, "__all__", ())) == imported - packages


def test_both_ways_lead_to_the_same_thing() -> None:
    there = importlib.import_module("rallypoint.elastic.rendezvous.c10d_rendezvous_backend")
    here = importlib.import_module("rallypoint.rendezvous.c10d")
    assert there.C10dRendezvousBackend is here.C10dRendezvousBackend


def test_what_rallypoint_has_not_fails_at_import() -> None:
    with pytest.raises(ImportError, match="subprocess_handler"):
        importlib.import_module("rallypoint.elastic.multiprocessing.subprocess_handler")


def test_the_rendezvous_package_is_called_as_torchs_function_is(tmp_path: Path) -> None:
    import rallypoint.rendezvous

    meeting: Any = rallypoint.rendezvous
    store, rank, world_size = next(meeting(f"file://{tmp_path}/meeting?rank=0&world_size=1"))
    with store:
        assert (rank, world_size) == (0, 1)
    store, rank, world_size = next(meeting(f"file://{tmp_path}/meeting", 0, 1, timeout=5))
    with store:
        assert (rank, world_size) == (0, 1)
    assert meeting.rendezvous.__module__ == "rallypoint.store.url"


def test_a_name_that_the_rendezvous_package_has_not_is_an_attribute_error() -> None:
    import rallypoint.rendezvous

    assert set(rallypoint.rendezvous.__all__) <= set(dir(rallypoint.rendezvous))
    assert [name for name in rallypoint.rendezvous.__all__ if not hasattr(rallypoint.rendezvous, name)] == []
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = rallypoint.rendezvous.nothing
