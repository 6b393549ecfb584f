"""What an agent runs, and what came of it: torch's names, without torch.

Source: class and field names of torch 2.13.0's ``elastic.agent.server``; ``WorkerPlace`` and the fields of
``RunResult`` after ``failures`` are ours.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rallypoint.agent.failure import ProcessFailure
    from rallypoint.rendezvous.handler import RendezvousHandler

__all__ = ["RunResult", "Worker", "WorkerGroup", "WorkerPlace", "WorkerSpec", "WorkerState"]


class WorkerState(str, Enum):
    """What has become of a worker group."""

    UNKNOWN = "UNKNOWN"
    INIT = "INIT"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @staticmethod
    def is_running(state: WorkerState) -> bool:
        """Tell whether workers in this state still run: HEALTHY or UNHEALTHY."""
        return state in (WorkerState.HEALTHY, WorkerState.UNHEALTHY)


@dataclass(frozen=True)
class WorkerSpec:
    """What every worker of one node is.

    Attributes:
        role: the workers' role; workers of one role are numbered among themselves too.
        local_world_size: how many workers this node runs, at least 1.
        rdzv_handler: how this node meets the others.
        fn: torch's older name for a function as ``entrypoint``.
        entrypoint: the program that each worker runs, or the function that it calls.
        args: its arguments, passed on as they are.
        max_restarts: how many failures of own workers are answered by another round, 0 or more.
        monitor_interval: seconds between two looks at a rendezvous that cannot tell its news by itself, above 0.
        master_port: overrides the port that workers get as ``MASTER_PORT``.
        master_addr: overrides the address that workers get as ``MASTER_ADDR``.
        local_addr: not used, as in torch.
        event_log_handler: where the records of this node's run go, see ``rallypoint.observe.records``.
        numa_options: must be ``None``; there is no NUMA binding.
        duplicate_stdout_filters: a tee'd line of standard output that contains any of these texts is collected in a
            file for all workers of a start.
        duplicate_stderr_filters: as ``duplicate_stdout_filters``, for standard error.
        virtual_local_rank: whether each worker sees one device only, as local rank 0; up to who makes environments.

    Raises:
        ValueError: if a number is out of range, the entrypoint is missing, or something is asked for that is not there.
        TypeError: if the entrypoint is neither text nor something that can be called.
    """

    role: str
    local_world_size: int
    rdzv_handler: RendezvousHandler
    fn: Callable[..., Any] | None = None
    entrypoint: Callable[..., Any] | str | None = None
    args: tuple[Any, ...] = ()
    max_restarts: int = 3
    monitor_interval: float = 0.1
    master_port: int | None = None
    master_addr: str | None = None
    local_addr: str | None = None
    event_log_handler: str = "null"
    numa_options: None = None
    duplicate_stdout_filters: Sequence[str] | None = None
    duplicate_stderr_filters: Sequence[str] | None = None
    virtual_local_rank: bool = False

    def __post_init__(self) -> None:
        if self.local_world_size < 1:
            raise ValueError(f"local_world_size is {self.local_world_size}; a node runs at least 1 worker")
        if self.max_restarts < 0:
            raise ValueError(f"max_restarts is {self.max_restarts}; it must be 0 or more")
        if not self.monitor_interval > 0:
            raise ValueError(f"monitor_interval is {self.monitor_interval:g} s; it must be above 0")
        if self.fn is not None:
            if self.entrypoint is not None or not callable(self.fn):
                raise TypeError("fn is a function in the entrypoint's place; give one of them, a program as entrypoint")
            object.__setattr__(self, "entrypoint", self.fn)
        if not self.entrypoint:
            raise ValueError("entrypoint is empty; give the path of a program, or a function")
        if not isinstance(self.entrypoint, str) and not callable(self.entrypoint):
            raise TypeError(f"entrypoint is a {type(self.entrypoint).__name__}; give a program's path, or a function")
        if self.numa_options is not None:
            raise ValueError("numa_options cannot be set: rallypoint does not have it")

    def get_entrypoint_name(self) -> str:
        """Give what reports call the entrypoint: a program as it is, a function by its name."""
        if isinstance(self.entrypoint, str):
            return os.path.basename(self.entrypoint)  # noqa: PTH119 - a command is text, not always a path
        return getattr(self.entrypoint, "__qualname__", type(self.entrypoint).__qualname__)


@dataclass
class Worker:
    """One worker as the agent sees it; -1 stands for what no round has settled yet.

    Attributes:
        local_rank: its index on this node.
        global_rank: its rank in the round.
        role_rank: its rank among the workers of its role.
        world_size: the workers of the round.
        role_world_size: the workers of its role.
        id: its process id, once it was started.
    """

    local_rank: int
    global_rank: int = -1
    role_rank: int = -1
    world_size: int = -1
    role_world_size: int = -1
    id: int | None = None


@dataclass
class WorkerGroup:
    """The workers of this node in the present round.

    Attributes:
        spec: what each worker is.
        workers: one for each local rank, in order.
        store: the store of the round's agents.
        group_rank: this node's rank.
        group_world_size: the nodes of the round.
        master_addr: the address that workers get as ``MASTER_ADDR``.
        master_port: the port that workers get as ``MASTER_PORT``.
        is_store_plain: whether what serves them there speaks c10d only, and is the agent's own.
        state: what has become of them.
    """

    spec: WorkerSpec
    workers: list[Worker] = field(init=False)
    store: Any = None
    group_rank: int | None = None
    group_world_size: int | None = None
    master_addr: str | None = None
    master_port: int | None = None
    is_store_plain: bool = False
    state: WorkerState = WorkerState.INIT

    def __post_init__(self) -> None:
        self.workers = [Worker(local_rank) for local_rank in range(self.spec.local_world_size)]


@dataclass(frozen=True)
class WorkerPlace:
    """All that one worker is told about itself in one round.

    Attributes:
        run_id: the run.
        round: the round, the same number on all nodes.
        node_rank: this node's rank.
        node_count: the nodes of the round.
        local_rank: the worker's index on this node.
        local_world_size: the workers of this node.
        rank: the worker's rank in the round.
        world_size: the workers of the round.
        role: the worker's role.
        role_rank: its rank among the workers of its role.
        role_world_size: the workers of its role.
        master_addr: where the workers' store is.
        master_port: its port.
        use_agent_store: whether that store runs already; otherwise rank 0 serves it.
        max_restarts: the restart budget of this node.
        node_restarts: what is used of it.
        error_file: where the worker leaves its error.
        is_store_plain: whether what serves its store speaks c10d only, and is the agent's own.
    """

    run_id: str
    round: int
    node_rank: int
    node_count: int
    local_rank: int
    local_world_size: int
    rank: int
    world_size: int
    role: str
    role_rank: int
    role_world_size: int
    master_addr: str
    master_port: int
    use_agent_store: bool
    max_restarts: int
    node_restarts: int
    error_file: str
    is_store_plain: bool = False


@dataclass(frozen=True)
class RunResult:
    """How a run ended on this node.

    Attributes:
        state: SUCCEEDED, FAILED or STOPPED.
        return_values: by global rank: what each function returned; ``None`` for each command.
        failures: the workers that failed in the last round, by global rank.
        exit_code: what a launcher should exit with: the worker's own, 128 + n for signal n, 0 for success.
        why: one sentence about the end.
        signal_number: the signal that ended the run on this node, if one did.
    """

    state: WorkerState
    return_values: dict[int, Any] = field(default_factory=dict)
    failures: dict[int, ProcessFailure] = field(default_factory=dict)
    exit_code: int = 0
    why: str = ""
    signal_number: int | None = None

    def is_failed(self) -> bool:
        """Tell whether it ended in any other way than success."""
        return self.state is not WorkerState.SUCCEEDED
