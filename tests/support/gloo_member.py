"""One member of a gloo process group whose store is on a server that somebody else runs; a script, run by tests.

Usage: ``gloo_member.py {env|store} RANK WORLD_SIZE PORT``. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from datetime import timedelta

warnings.simplefilter("ignore")
import torch  # noqa: E402 - after the filter, its import warns
import torch.distributed as dist  # noqa: E402 - as above


def main() -> None:
    way, rank, world_size, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    patience = timedelta(seconds=60)
    if way == "env":
        os.environ.update(
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            RANK=str(rank),
            WORLD_SIZE=str(world_size),
            TORCHELASTIC_USE_AGENT_STORE="True",
        )
        dist.init_process_group("gloo", init_method="env://", timeout=patience)
    else:
        store = dist.TCPStore("127.0.0.1", port, world_size, is_master=False, timeout=patience)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=patience)
    total = torch.tensor([float(rank + 1)])
    dist.all_reduce(total)
    dist.barrier()
    half = dist.new_group([0, 1])
    pair = torch.tensor([10.0 * (rank + 1)])
    if rank in (0, 1):
        dist.all_reduce(pair, group=half)
    gathered: list[object] = [None] * world_size
    dist.all_gather_object(gathered, f"rank {rank}")
    dist.barrier()
    dist.destroy_process_group()
    json.dump({"rank": rank, "total": total.item(), "pair": pair.item(), "gathered": gathered}, sys.stdout)


main()
