"""A worker of a torchrun: meets the others by ``env://``, reports, and goes on until it is told to end.

A script, run by tests. Usage: ``torchrun_worker.py FOLDER``. All go on as long as ``FOLDER/go-on`` exists. The rank
that ``FOLDER/fail`` names, in the attempt that it names, exits with code 7 once all have met. Writes one line of JSON a
round.
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


def main() -> None:
    folder = Path(sys.argv[1])
    dist.init_process_group("gloo")
    total = torch.tensor([float(dist.get_rank() + 1)])
    dist.all_reduce(total)
    report = {
        "rank": dist.get_rank(),
        "world_size": dist.get_world_size(),
        "node": int(os.environ["GROUP_RANK"]),
        "local_rank": int(os.environ["LOCAL_RANK"]),
        "attempt": int(os.environ["TORCHELASTIC_RESTART_COUNT"]),
        "total": total.item(),
    }
    os.write(1, (json.dumps(report) + "\n").encode())
    dist.barrier()
    failing = folder / "fail"
    if failing.exists() and failing.read_text().split() == [str(report["rank"]), str(report["attempt"])]:
        os._exit(7)
    is_going_on = torch.ones(1)
    while is_going_on.item():
        is_going_on.fill_(float((folder / "go-on").exists()))
        dist.all_reduce(is_going_on, dist.ReduceOp.MIN)
        time.sleep(0.02)
    dist.destroy_process_group()


main()
