"""The environment of a worker: the names that torch's workers, and everybody else's, read.

Source: names and values as observed in torch 2.13.0, except these. ``TORCHELASTIC_RESTART_COUNT`` is the number of
rounds before this one, which is the same on all nodes; what this node's own workers have used of the restart
budget is ``RALLYPOINT_NODE_RESTARTS``. ``RALLYPOINT_ROUND`` names the round.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from rallypoint.agent.spec import WorkerPlace, WorkerSpec
from rallypoint.events import emit
from rallypoint.store.plain import PLAIN_STORE_ENV, plain_store_environment

__all__ = [
    "DeviceError",
    "base_environment",
    "environments",
    "get_env_variable_or_raise",
    "is_torchelastic_launched",
    "worker_environment",
]

RUN_ID_ENV = "TORCHELASTIC_RUN_ID"
DEVICES_ENV = "CUDA_VISIBLE_DEVICES"


def is_torchelastic_launched() -> bool:
    """Tell whether this process is a worker that ``rallypoint run``, or torchrun, started."""
    return RUN_ID_ENV in os.environ


def get_env_variable_or_raise(name: str) -> str:
    """Give an environment variable's value.

    Raises:
        ValueError: if it is not set.
    """
    value = os.environ.get(name)
    if value is None:
        raise ValueError(f"Environment variable {name} expected, but not set")
    return value


def base_environment(environ: Mapping[str, str], local_world_size: int) -> dict[str, str]:
    """Give what all workers of this node share: the agent's own environment, with two defaults.

    Args:
        environ: the agent's environment.
        local_world_size: the workers of this node. Several workers of a node get one OpenMP thread each unless
            the user says otherwise, because each would take all cores.
    """
    base = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "1", **environ}
    base.pop(PLAIN_STORE_ENV, None)  # of another agent, whose worker this one is
    if local_world_size > 1 and "OMP_NUM_THREADS" not in environ:
        base["OMP_NUM_THREADS"] = "1"
        emit(
            "launch.omp_threads",
            f"OMP_NUM_THREADS is set to 1 for each of {local_world_size} workers; set it yourself to tune it",
            local_world_size=local_world_size,
        )
    return base


class DeviceError(ValueError):
    """There are fewer devices than workers."""


def environments(environ: Mapping[str, str], spec: WorkerSpec) -> Callable[[WorkerPlace], Mapping[str, str]]:
    """Give what makes the environment of each worker of a node.

    Args:
        environ: the agent's environment.
        spec: what the workers are.

    Raises:
        DeviceError: if each worker is to see a device of its own, and there are not enough.
    """
    base = base_environment(environ, spec.local_world_size)
    if not spec.virtual_local_rank:
        return lambda place: worker_environment(base, place)
    visible = environ.get(DEVICES_ENV)
    devices = [str(number) for number in range(spec.local_world_size)] if visible is None else visible.split(",")
    if len(devices) < spec.local_world_size:
        raise DeviceError(
            f"each of {spec.local_world_size} workers is to see a device of its own, but {DEVICES_ENV} is {visible!r}"
        )
    return lambda place: (
        worker_environment(base, place)
        | {
            "LOCAL_RANK": "0",
            DEVICES_ENV: devices[place.local_rank].strip(),
        }
    )


def worker_environment(base: Mapping[str, str], place: WorkerPlace) -> dict[str, str]:
    """Give the complete environment of one worker.

    Args:
        base: what all workers of this node share, see ``base_environment``.
        place: what the worker is in this round.
    """
    return {
        **base,
        **(plain_store_environment(place.master_addr, place.master_port) if place.is_store_plain else {}),
        "LOCAL_RANK": str(place.local_rank),
        "RANK": str(place.rank),
        "GROUP_RANK": str(place.node_rank),
        "ROLE_RANK": str(place.role_rank),
        "ROLE_NAME": place.role,
        "LOCAL_WORLD_SIZE": str(place.local_world_size),
        "WORLD_SIZE": str(place.world_size),
        "GROUP_WORLD_SIZE": str(place.node_count),
        "ROLE_WORLD_SIZE": str(place.role_world_size),
        "MASTER_ADDR": place.master_addr,
        "MASTER_PORT": str(place.master_port),
        "TORCHELASTIC_RESTART_COUNT": str(place.round),
        "TORCHELASTIC_MAX_RESTARTS": str(place.max_restarts),
        RUN_ID_ENV: place.run_id,
        "TORCHELASTIC_USE_AGENT_STORE": str(place.use_agent_store),
        "TORCHELASTIC_ERROR_FILE": place.error_file,
        "RALLYPOINT_ROUND": str(place.round),
        "RALLYPOINT_NODE_RESTARTS": str(place.node_restarts),
    }
