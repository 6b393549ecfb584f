"""What a launcher is told: torch's ``LaunchConfig``, checked when it is made.

Source: field names, order and defaults of torch 2.13.0. The default backend is ``c10d``.
"""

from __future__ import annotations

import copy
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rallypoint.agent.agent import GRACE_S
from rallypoint.agent.calls import START_METHODS
from rallypoint.agent.logs import LogOptions
from rallypoint.agent.logspecs import LogsSpecs
from rallypoint.agent.signals import parse_signals
from rallypoint.events import emit
from rallypoint.observe.metrics import MetricsConfig, check_metrics
from rallypoint.observe.records import get_logging_handler
from rallypoint.rendezvous.handler import RendezvousParameters
from rallypoint.rendezvous.registry import COORDINATED_BACKENDS
from rallypoint.rendezvous.settings import read_labels

__all__ = ["GRACE_ENV", "ConfigError", "LaunchConfig"]

GRACE_ENV = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
"""Sets ``shutdown_timeout`` where no argument does."""

_OWN_PARAMETERS = frozenset({"backend", "endpoint", "run_id", "min_nodes", "max_nodes", "local_addr"})


class ConfigError(ValueError):
    """What the user asked for makes no sense; the message is for the user."""


@dataclass
class LaunchConfig:
    """How to run the workers of one node.

    Attributes:
        min_nodes: the fewest nodes that make a round, at least 1.
        max_nodes: the most nodes in a round.
        nproc_per_node: the workers of this node, at least 1.
        logs_specs: where the workers' output goes; ``None``: to the launcher's own streams.
        run_id: the name of the run; an empty one becomes a random one.
        role: the workers' role.
        rdzv_endpoint: where the rendezvous backend is reached.
        rdzv_backend: the rendezvous backend's name.
        rdzv_configs: the backend's own options.
        rdzv_timeout: seconds to wait for the other nodes; -1: the backend's default.
        max_restarts: how many failures of workers are answered by another round, 0 or more: of own workers, and with a
            rendezvous through a coordinator those of all nodes together.
        monitor_interval: seconds between looks at a rendezvous that cannot tell its news by itself, above 0.
        start_method: how the processes of a function are made: ``spawn``, ``forkserver`` or ``fork``.
        log_line_prefix_template: stands before each line of tee'd output; ``None``: as ``logs_specs`` says.
        metrics_cfg: where metrics go: ``handler`` is ``console`` or ``null``; nothing else in it counts.
        local_addr: the address under which other nodes reach this one; ``None``: found out.
        event_log_handler: where the records of the run go, see ``rallypoint.observe.records``.
        numa_options: must be ``None``; there is no NUMA binding.
        signals_to_handle: the signals that end the run on this node, names split by commas.
        duplicate_stdout_filters: a tee'd line of standard output that contains any of these texts is collected in a
            file for all workers of a start.
        duplicate_stderr_filters: as ``duplicate_stdout_filters``, for standard error.
        virtual_local_rank: whether each worker sees one device only, as local rank 0.
        shutdown_timeout: seconds that workers have to end before SIGKILL, wherever they are stopped, 0 or more;
            ``None``: TORCH_ELASTIC_SHUTDOWN_TIMEOUT, or 30.
        labels: words about this node, such as its rack, for a rendezvous through a coordinator.

    Raises:
        ConfigError: (a ValueError) if a value is out of range.
    """

    min_nodes: int
    max_nodes: int
    nproc_per_node: int
    logs_specs: LogOptions | LogsSpecs | None = None
    run_id: str = ""
    role: str = "default_role"
    rdzv_endpoint: str = field(default="", repr=False)  # there may be a password in it
    rdzv_backend: str = "c10d"
    rdzv_configs: dict[str, Any] = field(default_factory=dict, repr=False)  # in these, too
    rdzv_timeout: float = -1
    max_restarts: int = 3
    monitor_interval: float = 0.1
    start_method: str = "spawn"
    log_line_prefix_template: str | None = None
    metrics_cfg: dict[str, str] = field(default_factory=dict)
    local_addr: str | None = None
    event_log_handler: str = "null"
    numa_options: None = None
    signals_to_handle: str = "SIGTERM,SIGINT,SIGHUP,SIGQUIT"
    duplicate_stdout_filters: Sequence[str] | None = None
    duplicate_stderr_filters: Sequence[str] | None = None
    virtual_local_rank: bool = False
    shutdown_timeout: float | None = None
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.min_nodes <= self.max_nodes:
            raise ConfigError(
                f"{self.min_nodes} to {self.max_nodes} nodes were asked for; write at least 1, the smaller number first"
            )
        if self.nproc_per_node < 1:
            raise ConfigError(f"nproc_per_node is {self.nproc_per_node}; a node runs at least 1 worker")
        if self.max_restarts < 0:
            raise ConfigError(f"max_restarts is {self.max_restarts}; it must be 0 or more")
        if not self.monitor_interval > 0:
            raise ConfigError(f"monitor_interval is {self.monitor_interval:g} s; it must be above 0")
        if self.start_method not in START_METHODS:
            raise ConfigError(f"start_method is {self.start_method!r}; it must be one of {', '.join(START_METHODS)}")
        taken = sorted(_OWN_PARAMETERS.intersection(self.rdzv_configs))
        if taken:
            raise ConfigError(
                f"{', '.join(taken)} cannot be set by the rendezvous options; there are options of their own"
            )
        if self.labels and self.rdzv_backend not in COORDINATED_BACKENDS:
            known = ", ".join(COORDINATED_BACKENDS)
            raise ConfigError(
                f"labels are for the rendezvous backends {known}, not for {self.rdzv_backend!r}: name one of them"
            )
        self._check_observers()
        self.shutdown_timeout = self._read_grace()
        if not self.run_id:
            self.run_id = uuid.uuid4().hex
            emit("launch.run_id", f"the run got the name {self.run_id}, because it was given none", run_id=self.run_id)
        try:
            parse_signals(self.signals_to_handle)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def _check_observers(self) -> None:
        if self.numa_options is not None:
            raise ConfigError("numa_options cannot be set: rallypoint does not have it")
        try:
            get_logging_handler(self.event_log_handler)
            check_metrics(MetricsConfig(self.metrics_cfg))
        except (KeyError, ValueError) as error:
            raise ConfigError(error.args[0]) from error

    def _read_grace(self) -> float:
        source, text = "shutdown_timeout", str(self.shutdown_timeout)
        if self.shutdown_timeout is None:
            source, text = GRACE_ENV, os.environ.get(GRACE_ENV, str(GRACE_S))
        try:
            grace_s = float(text)
        except ValueError:
            grace_s = -1.0
        if not grace_s >= 0:
            raise ConfigError(f"{source} is {text}; it must be a number of seconds, 0 or more")
        return grace_s

    @property
    def grace_s(self) -> float:
        """The seconds that workers have to end."""
        assert self.shutdown_timeout is not None, "settled when the configuration was made"
        return self.shutdown_timeout

    @property
    def logs(self) -> LogOptions | LogsSpecs:
        """Where the workers' output goes, with the prefix template that was asked for."""
        logs = self.logs_specs or LogOptions()
        if self.log_line_prefix_template is None:
            return logs
        if isinstance(logs, LogOptions):
            return replace(logs, prefix=self.log_line_prefix_template)
        logs = copy.copy(logs)
        logs.prefix = self.log_line_prefix_template
        return logs

    def rendezvous_parameters(self) -> RendezvousParameters:
        """Give what the rendezvous backend is told."""
        options = dict(self.rdzv_configs)
        if self.rdzv_timeout > 0:
            options.setdefault("timeout" if self.rdzv_backend == "static" else "join_timeout", self.rdzv_timeout)
        if self.rdzv_backend in COORDINATED_BACKENDS:
            options.setdefault("max_restarts", self.max_restarts)
            if self.labels:
                options["labels"] = {**read_labels(options.get("labels")), **self.labels}
        return RendezvousParameters(
            self.rdzv_backend,
            self.rdzv_endpoint,
            self.run_id,
            self.min_nodes,
            self.max_nodes,
            self.local_addr,
            **options,
        )
