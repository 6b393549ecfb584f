"""One member of a gloo group whose store is one of ours, given to torch by ``as_torch_store`` or found by a URL.

A script, run by tests. Usage: ``torch_group_member.py WHERE RANK WORLD_SIZE TIMEOUT_S``, where WHERE is
``session:PORT``, ``c10d:PORT``, ``file:PATH``, ``hash:``, or a URL. Prints one JSON object.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import warnings
from datetime import timedelta
from typing import Any

warnings.simplefilter("ignore")
import torch  # noqa: E402 - after the filter, its import warns
import torch.distributed as dist  # noqa: E402 - as above

import rallypoint  # noqa: E402 - as above
import rallypoint.integrations.torch as ours  # noqa: E402 - as above


def store_at(where: str) -> Any:
    kind, _, place = where.partition(":")
    if kind == "file":
        return rallypoint.FileStore(place, -1)
    if kind == "hash":
        return rallypoint.HashStore()
    return rallypoint.TCPStore("127.0.0.1", int(place), wait_for_workers=False, dialect=kind)


def begin(where: str, rank: int, world_size: int, timeout: timedelta) -> None:
    if "://" in where:
        dist.init_process_group("gloo", init_method=where, rank=rank, world_size=world_size, timeout=timeout)
        return
    # Nobody but torch's C++ refers to the adapter from here on.
    store = ours.as_torch_store(rallypoint.PrefixStore("job", store_at(where)))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timeout)


def work(rank: int, world_size: int) -> dict[str, Any]:
    total = torch.tensor([float(rank + 1)])
    dist.all_reduce(total)
    dist.monitored_barrier()
    sums = []
    for members in (list(range(world_size)), [0], list(range(0, world_size, 2))):
        group = dist.new_group(members)
        part = torch.tensor([10.0 * (rank + 1)])
        if rank in members:
            dist.all_reduce(part, group=group)
        sums.append(part.item())
    gathered: list[Any] = [None] * world_size
    dist.all_gather_object(gathered, {"rank": rank})
    objects = ["from 0" if rank == 0 else None]
    dist.broadcast_object_list(objects, 0)
    dist.barrier()
    return {"total": total.item(), "sums": sums, "gathered": gathered, "object": objects[0]}


def main() -> None:
    where, rank, world_size, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    start = time.monotonic()
    try:
        begin(where, rank, world_size, timedelta(seconds=seconds))
        gc.collect()
        report = work(rank, world_size)
        dist.destroy_process_group()
    except dist.DistError as error:
        report = {"error": type(error).__name__, "text": str(error), "cause": type(error.__cause__).__name__}
    json.dump({"rank": rank, "waited_s": time.monotonic() - start, **report}, sys.stdout)


main()
