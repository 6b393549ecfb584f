"""A torch process group that meets at ``rallypoint://``, and how it says who did not come.

Runs its own server and starts its own members, so it needs no launcher::

    python examples/torch_group.py        three members add their ranks; then a fourth that nobody started is missed
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from datetime import timedelta

from rallypoint import TCPStore

MEMBERS = 3


def member(url: str, rank: int, world_size: int, timeout_s: float) -> None:
    """Meet the others, add, and end; or say who is missing."""
    warnings.simplefilter("ignore")  # torch's own, about numpy
    import torch
    import torch.distributed as dist

    import rallypoint.integrations.torch  # noqa: F401 - tells torch of rallypoint://

    try:
        patience = timedelta(seconds=timeout_s)
        dist.init_process_group("gloo", init_method=url, rank=rank, world_size=world_size, timeout=patience)
    except dist.DistStoreError as error:
        if rank == 0:
            print(f"nobody goes on: {error}", flush=True)
        return
    total = torch.tensor([float(rank)])
    dist.all_reduce(total)
    if rank == 0:
        print(f"the ranks of {world_size} members add up to {total.item():g}", flush=True)
    dist.destroy_process_group()


def run(url: str, world_size: int, timeout_s: float) -> int:
    """Start ``MEMBERS`` members of a group of ``world_size``; give how many of them failed."""
    context = multiprocessing.get_context("spawn")
    members = [context.Process(target=member, args=(url, rank, world_size, timeout_s)) for rank in range(MEMBERS)]
    for each in members:
        each.start()
    for each in members:
        each.join()
    return sum(each.exitcode != 0 for each in members)


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) as server:
        place = f"rallypoint://127.0.0.1:{server.port}"
        sys.exit(run(f"{place}/complete", MEMBERS, 60) + run(f"{place}/too-few", MEMBERS + 1, 5))
