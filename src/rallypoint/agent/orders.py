"""What each worker of a round is told about itself, and what it is started as."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rallypoint.agent.calls import FunctionCall
from rallypoint.agent.spec import WorkerGroup, WorkerPlace, WorkerSpec

if TYPE_CHECKING:
    from rallypoint.agent.membership import Joined
    from rallypoint.agent.moves import StartWorkers

__all__ = ["place_of", "program_of", "take_places"]


def take_places(group: WorkerGroup, joined: Joined) -> None:
    """Write into a group what the rendezvous settled."""
    spec, bootstrap = group.spec, joined.info.bootstrap_store_info
    group.store, group.group_rank, group.group_world_size = joined.info.store, joined.info.rank, joined.info.world_size
    group.master_addr = spec.master_addr or bootstrap.master_addr
    group.master_port = spec.master_port or bootstrap.master_port
    is_ours = spec.master_addr is None and spec.master_port is None
    group.is_store_plain = is_ours and bool(getattr(joined.info, "is_store_plain", False))  # torch's has no such word
    for worker in group.workers:
        worker.global_rank = joined.ranks.first_rank + worker.local_rank
        worker.role_rank = joined.ranks.first_role_rank + worker.local_rank
        worker.world_size, worker.role_world_size = joined.ranks.world_size, joined.ranks.role_world_size


def place_of(group: WorkerGroup, local_rank: int, start: StartWorkers, error_file: str) -> WorkerPlace:
    """Give all that one worker is told about itself as it is started; its group has taken its places."""
    spec, worker = group.spec, group.workers[local_rank]
    assert group.group_rank is not None
    assert group.group_world_size is not None
    assert group.master_addr is not None
    assert group.master_port is not None
    return WorkerPlace(
        run_id=spec.rdzv_handler.get_run_id(),
        round=start.round,
        node_rank=group.group_rank,
        node_count=group.group_world_size,
        local_rank=local_rank,
        local_world_size=spec.local_world_size,
        rank=worker.global_rank,
        world_size=worker.world_size,
        role=spec.role,
        role_rank=worker.role_rank,
        role_world_size=worker.role_world_size,
        master_addr=group.master_addr,
        master_port=group.master_port,
        use_agent_store=spec.rdzv_handler.use_agent_store,
        max_restarts=spec.max_restarts,
        node_restarts=start.restarts_used,
        error_file=error_file,
        is_store_plain=group.is_store_plain,
    )


def program_of(spec: WorkerSpec, start_method: str) -> tuple[tuple[str, ...], FunctionCall | None]:
    """Give what a worker runs: a command, or the name of a function and its call."""
    if isinstance(spec.entrypoint, str):
        return (spec.entrypoint, *(str(argument) for argument in spec.args)), None
    assert spec.entrypoint is not None, "a spec has an entrypoint"
    call = FunctionCall(spec.entrypoint, tuple(spec.args), start_method)
    return (call.name,), call
