"""From a configuration and a command to the end of a run on this node."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

from rallypoint.agent.agent import Agent
from rallypoint.agent.calls import FunctionCall
from rallypoint.agent.failure import ChildFailedError
from rallypoint.agent.membership import explain
from rallypoint.agent.moves import describe_signal
from rallypoint.agent.signals import SIGNALS_ENV, parse_signals, taken_signals
from rallypoint.agent.spec import RunResult, WorkerSpec, WorkerState
from rallypoint.clock import Deadline
from rallypoint.errors import AgentError, DistError, SignalException
from rallypoint.events import emit
from rallypoint.launch.config import ConfigError, LaunchConfig
from rallypoint.launch.env import DeviceError, environments
from rallypoint.launch.script import run_script_path
from rallypoint.observe.metrics import MetricsConfig, initialize_metrics

if TYPE_CHECKING:
    from rallypoint.agent.health import HealthCheckServer
    from rallypoint.rendezvous.handler import RendezvousHandler

__all__ = ["Command", "elastic_launch", "entrypoint_name", "launch", "launch_agent", "name_of", "run_agent"]

Command: TypeAlias = Sequence[Any]
"""A program or a function, then its arguments."""


SHUTDOWN_S = 6.0
"""How long a handler may take to shut down; a store host lingers for a few seconds, so that all hear of the end."""


LAST_WORD_S = 0.1
"""What a handler gets to shut down if taking leave has used up the time for both: enough to end what is local."""


class _SignalTaken(BaseException):
    """Ends whatever blocks before the agent runs; no ``except Exception`` on the way may stop it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def name_of(command: Command) -> str:
    """Give what a command runs, for reports: the script, if it is run by a Python interpreter, else the program."""
    program, *rest = command
    if program is run_script_path:
        return str(rest[0])
    if not isinstance(program, str):
        return FunctionCall(program).name
    if "python" not in os.path.basename(program):  # noqa: PTH119 - a command is text, not always a path
        return program
    return next((str(part) for part in rest if not str(part).startswith("-")), program)


def entrypoint_name(entrypoint: Callable[..., Any] | str | None, args: Sequence[Any]) -> str:
    """Give what torch's launcher calls an entrypoint: a function's name, the script of this interpreter, a program.

    Returns:
        The name; empty if there is none, or the interpreter is given no script.
    """
    if entrypoint is None:
        return ""
    if not isinstance(entrypoint, str):
        return FunctionCall(entrypoint).name
    if entrypoint != sys.executable:
        return entrypoint
    return next((str(part) for part in args if not str(part).startswith("-")), "")


def create_handler(config: LaunchConfig) -> RendezvousHandler:
    """Make the handler that a configuration asks for.

    Raises:
        ConfigError: if the backend is unknown or refuses its options.
        RendezvousError: if the backend cannot be reached.
    """
    from rallypoint.rendezvous.registry import get_rendezvous_handler

    try:
        return get_rendezvous_handler(config.rendezvous_parameters())
    except ValueError as error:
        raise ConfigError(str(error)) from error


def run_agent(
    config: LaunchConfig, command: Command, health_check_server: HealthCheckServer | None = None
) -> RunResult:
    """Run the workers of this node until the run ends here.

    Args:
        config: how.
        command: the program, or the function, and its arguments, passed on as they are.
        health_check_server: started and stopped with the run; ``None``: as the environment says.

    Returns:
        How it ended; a signal is an end like any other.

    Raises:
        ConfigError: if the configuration makes no sense.
        DistError: if the rendezvous backend cannot be reached, or the agent cannot work.
    """
    signals = parse_signals(config.signals_to_handle)
    initialize_metrics(MetricsConfig(config.metrics_cfg))
    try:
        with taken_signals(signals, _raise_signal):
            handler = create_handler(config)
            agent: Agent | None = None
            try:
                agent = _agent(config, command, handler, signals, health_check_server)
                return agent.run()
            finally:
                _shut_down(handler, agent.farewell if agent is not None else None)
    except _SignalTaken as taken:
        why = f"{describe_signal(taken.number)} received before the run began"
        return RunResult(WorkerState.STOPPED, exit_code=128 + taken.number, why=why, signal_number=taken.number)


def _raise_signal(number: int, _frame: FrameType | None) -> None:
    raise _SignalTaken(number)


def _agent(
    config: LaunchConfig,
    command: Command,
    handler: RendezvousHandler,
    signals: tuple[int, ...],
    health_check_server: HealthCheckServer | None,
) -> Agent:
    program, *arguments = command
    spec = WorkerSpec(
        role=config.role,
        local_world_size=config.nproc_per_node,
        rdzv_handler=handler,
        entrypoint=program,
        args=tuple(arguments),
        max_restarts=config.max_restarts,
        monitor_interval=config.monitor_interval,
        event_log_handler=config.event_log_handler,
        duplicate_stdout_filters=config.duplicate_stdout_filters,
        duplicate_stderr_filters=config.duplicate_stderr_filters,
        virtual_local_rank=config.virtual_local_rank,
    )
    try:
        environment = environments({**os.environ, SIGNALS_ENV: config.signals_to_handle}, spec)
        return Agent(
            spec,
            environment,
            logs=config.logs,
            grace_s=config.grace_s,
            signals=signals,
            start_method=config.start_method,
            health_check_server=health_check_server,
        )
    except (NotADirectoryError, DeviceError) as error:
        raise ConfigError(str(error)) from error


def _shut_down(handler: RendezvousHandler, farewell: Deadline | None) -> None:
    """Give up this node's place; the run has ended here, so trouble with that changes nothing about its result.

    A handler that is stuck, because it waits for a host that is gone, is left behind after ``SHUTDOWN_S``, or when the
    time for ``farewell`` is up, if this node was asked to go.
    """
    limit_s = SHUTDOWN_S if farewell is None else max(LAST_WORD_S, farewell.remaining_s())
    thread = threading.Thread(target=_try_to_shut_down, args=(handler,), name="rallypoint-shutdown", daemon=True)
    thread.start()
    try:
        thread.join(limit_s)
    except _SignalTaken as taken:
        emit("launch.trouble", f"{describe_signal(taken.number)} cut the farewell to the other nodes short")
    else:
        if thread.is_alive():
            emit("launch.trouble", f"the rendezvous did not shut down within {limit_s:.1f} s and is left behind")


def _try_to_shut_down(handler: RendezvousHandler) -> None:
    try:
        handler.shutdown()
    except Exception as error:  # noqa: BLE001 - a foreign handler may raise anything
        emit("launch.trouble", f"the rendezvous could not be shut down: {type(error).__name__}: {error}")


def launch(config: LaunchConfig, command: Command, say: Callable[[str], None] | None = None) -> int:
    """Run the workers of this node and give the launcher's exit code.

    Args:
        config: how.
        command: the program and its arguments.
        say: takes the report of a failure, once; ``None``: standard error.

    Returns:
        0 for success, also if nobody can tell any more how the others fare when all workers of this node have ended
        well; the failed worker's own code; 128 + n for signal n; 1 for any other failure.

    Raises:
        ConfigError: if the configuration makes no sense.
    """
    tell = _say if say is None else say
    try:
        result = run_agent(config, command)
    except DistError as error:
        tell(f"rallypoint: {explain(error)}")
        return 1
    if result.failures:
        tell(ChildFailedError(name_of(command), result.failures).format_msg())
    elif result.is_failed() and result.signal_number is None:
        tell(f"rallypoint: {result.why}")
    return result.exit_code


def _say(text: str) -> None:
    if sys.stderr is not None:  # started without; print would write to the standard output instead
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - a launcher's report is its output


class elastic_launch:  # noqa: N801 - torch's name
    """Runs a command or a function as the workers of this node: ``elastic_launch(config, train)("data", 3)``.

    Args:
        config: how.
        entrypoint: the program, or the function.
        health_check_server: started and stopped with the run; ``None``: as the environment says.

    Raises:
        ConfigError: (a ValueError) if there is no entrypoint.
    """

    def __init__(
        self,
        config: LaunchConfig,
        entrypoint: Callable[..., Any] | str | None,
        health_check_server: HealthCheckServer | None = None,
    ) -> None:
        if not entrypoint:
            raise ConfigError("elastic_launch needs the path of a program to run, or a function")
        self._config = config
        self._entrypoint = entrypoint
        self._health_check_server = health_check_server

    def __call__(self, *args: Any) -> dict[int, Any]:
        """Run the workers with these arguments until the run ends; see ``launch_agent``."""
        return launch_agent(self._config, self._entrypoint, list(args), self._health_check_server)


def launch_agent(
    config: LaunchConfig,
    entrypoint: Callable[..., Any] | str | None,
    args: Sequence[Any],
    health_check_server: HealthCheckServer | None = None,
) -> dict[int, Any]:
    """Run the workers of this node until the run ends.

    Args:
        config: how.
        entrypoint: the program, or the function.
        args: its arguments. A program's are turned into text.
        health_check_server: started and stopped with the run; ``None``: as the environment says.

    Returns:
        What the function returned, for each global rank of this node; ``None`` for each if it is a program.

    Raises:
        ChildFailedError: if workers of this node failed.
        SignalException: if a signal ended the run here.
        AgentError: if the run failed elsewhere, or never began.
        Exception: what ``pickle`` raises for a function that cannot travel to a process of its own.
    """
    if not entrypoint:
        raise ConfigError("launch_agent needs the path of a program to run, or a function")
    arguments = [str(argument) for argument in args] if isinstance(entrypoint, str) else args
    command = [entrypoint, *arguments]
    result = run_agent(config, command, health_check_server)
    if result.failures:
        raise ChildFailedError(name_of(command), result.failures)
    if result.signal_number is not None:
        raise SignalException(result.why, result.signal_number)
    if result.is_failed():
        raise AgentError(result.why)
    return result.return_values
