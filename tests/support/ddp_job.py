"""A small model trained by torch's DistributedDataParallel, the same whatever store its processes meet on.

A script, run by torchrun: ``ddp_job.py FOLDER [STEPS]``. Nothing in it knows rallypoint. Data and weights come of fixed
seeds, and gloo adds in a fixed order, so the same world size gives the same losses to the last bit. Every tenth step a
new group meets, which asks the store. Rank 0 writes each step's number to ``FOLDER/step``, and in the end the losses as
one line of JSON; while ``FOLDER/hold`` exists nobody goes on from the step that it names.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
import torch  # noqa: E402 - after the filter, its import warns
import torch.distributed as dist  # noqa: E402 - as above
from torch.nn.parallel import DistributedDataParallel  # noqa: E402 - as above

BATCH_SIZE, FEATURES, REGROUP_STEPS, HOLD_S = 16, 8, 10, 100.0


def hold(folder: Path, step: int) -> None:
    """Wait as long as the test holds this step."""
    deadline = time.monotonic() + HOLD_S
    held = folder / "hold"
    while held.exists() and int(held.read_text()) <= step and time.monotonic() < deadline:
        time.sleep(0.02)


def main() -> None:
    folder, steps = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 40
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(FEATURES, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    model = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    data = torch.Generator().manual_seed(rank)
    losses = []
    group = dist.new_group()
    for step in range(steps):
        if rank == 0:
            (folder / "step").write_text(str(step))
        hold(folder, step)
        if step % REGROUP_STEPS == REGROUP_STEPS - 1:
            group = dist.new_group()
        inputs = torch.randn(BATCH_SIZE, FEATURES, generator=data)
        targets = inputs.pow(2).sum(dim=1, keepdim=True).sin()
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        shared = loss.detach().clone()
        dist.all_reduce(shared, group=group)
        losses.append(shared.item() / world_size)
    dist.barrier()
    if rank == 0:
        os.write(1, (json.dumps({"world_size": world_size, "losses": losses}) + "\n").encode())
    dist.destroy_process_group()


main()
