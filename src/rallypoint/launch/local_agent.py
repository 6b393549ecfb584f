"""An agent as torch's library users make it: a spec, a ``run``, a result.

Source: names, signature and defaults of torch 2.13.0. There is no exit barrier to wait for: the run closes when all
nodes have succeeded.
"""

from __future__ import annotations

import abc
import copy
import os
from typing import TYPE_CHECKING

from rallypoint.agent.agent import GRACE_S, Agent
from rallypoint.agent.logs import LogOptions
from rallypoint.agent.logspecs import LogsSpecs
from rallypoint.agent.signals import DEFAULT_SIGNALS, SIGNALS_ENV, parse_signals
from rallypoint.agent.spec import RunResult, WorkerGroup, WorkerSpec
from rallypoint.errors import SignalException
from rallypoint.launch.env import environments

if TYPE_CHECKING:
    from rallypoint.agent.health import HealthCheckServer

__all__ = ["ElasticAgent", "LocalElasticAgent"]


class ElasticAgent(abc.ABC):
    """Runs the workers of one node."""

    @abc.abstractmethod
    def run(self, role: str = "default") -> RunResult:
        """Run until the run ends on this node.

        Raises:
            SignalException: if a signal ended it.
        """

    @abc.abstractmethod
    def get_worker_group(self, role: str = "default") -> WorkerGroup:
        """Give the workers as they stand; belongs to the agent, do not change it."""


class LocalElasticAgent(ElasticAgent):
    """Runs a program or a function as processes of this host.

    Args:
        spec: what to run, and how to meet the other nodes.
        logs_specs: where the workers' output goes.
        start_method: how the process of a function is made: ``spawn``, ``forkserver`` or ``fork``.
        exit_barrier_timeout: not used.
        log_line_prefix_template: stands before each line of tee'd output; ``None``: as ``logs_specs`` says.
        shutdown_timeout: seconds that workers have to end before SIGKILL.
        health_check_server: started and stopped with the run; ``None``: as the environment says.
        uninterruptible_state_timeout: must be ``None`` or 0; a stuck worker is told of, but not counted as failed.

    Raises:
        ValueError: if a value is out of range, or something is asked for that is not there.
        NotADirectoryError: if the log folder is something else than a folder.
    """

    def __init__(  # noqa: PLR0917 - torch's signature
        self,
        spec: WorkerSpec,
        logs_specs: LogsSpecs | LogOptions,
        start_method: str = "spawn",
        exit_barrier_timeout: float = 300,  # noqa: ARG002 - torch's signature
        log_line_prefix_template: str | None = None,
        shutdown_timeout: float = GRACE_S,
        health_check_server: HealthCheckServer | None = None,
        uninterruptible_state_timeout: float | None = None,
    ) -> None:
        if uninterruptible_state_timeout:
            raise ValueError("uninterruptible_state_timeout cannot be set: rallypoint does not have it")
        if log_line_prefix_template is not None and isinstance(logs_specs, LogsSpecs):
            logs_specs = copy.copy(logs_specs)
            logs_specs.prefix = log_line_prefix_template
        signals = os.environ.get(SIGNALS_ENV)
        self._agent = Agent(
            spec,
            environments(os.environ, spec),
            logs=logs_specs,
            grace_s=shutdown_timeout,
            signals=DEFAULT_SIGNALS if signals is None else parse_signals(signals),
            start_method=start_method,
            health_check_server=health_check_server,
        )

    def run(self, role: str = "default") -> RunResult:  # noqa: ARG002 - torch's signature
        """Run until the run ends on this node; call it once.

        Raises:
            SignalException: if a signal ended it.
            AgentError: if the agent cannot work.
        """
        result = self._agent.run()
        if result.signal_number is not None:
            raise SignalException(result.why, result.signal_number)
        return result

    def get_worker_group(self, role: str = "default") -> WorkerGroup:  # noqa: ARG002 - torch's signature
        """Give the workers as they stand; belongs to the agent, do not change it."""
        return self._agent.get_worker_group()
