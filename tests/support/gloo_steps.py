"""One member of a gloo group that trains in steps, as DDP does, over a store that others disturb; a script of tests.

Usage: ``gloo_steps.py RANK WORLD_SIZE PORT STEPS``. After each tenth step it waits for the store's key ``go on/STEP``.
Prints one JSON object.
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
    rank, world_size, port, steps = (int(argument) for argument in sys.argv[1:])
    patience = timedelta(seconds=90)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")
    dist.init_process_group("gloo", init_method="env://", rank=rank, world_size=world_size, timeout=patience)
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=patience, wait_for_workers=False)
    weight = torch.zeros(1000)
    for step in range(1, steps + 1):
        gradient = torch.full((1000,), float(rank + step))
        dist.all_reduce(gradient)
        weight += gradient / world_size
        arrived = store.add(f"done/{step}", 1)
        store.set(f"step {step} of {rank}", str(arrived))
        if step % 10 == 0:
            store.wait([f"go on/{step}"])
            dist.barrier(group=dist.new_group())  # has a store of its own, below the group's
    seen = [store.add(f"done/{step}", 0) for step in range(1, steps + 1)]
    dist.barrier()
    dist.destroy_process_group()
    json.dump({"weight": weight.sum().item(), "seen": seen}, sys.stdout)


main()
