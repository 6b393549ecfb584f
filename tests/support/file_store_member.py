"""One process of a group that shares one FileStore file: torch's FileStore or ours does the same work.

Usage: ``file_store_member.py <torch|rallypoint> <path> <rank> <world size>``. Prints a JSON report, and leaves when its
input ends: where two leave at the same moment, neither may see that it is the last, which is torch's way to count.
"""

from __future__ import annotations

import json
import sys
import warnings
from datetime import timedelta
from typing import Any

ROUNDS = 40
TIMEOUT_S = 60
LARGE = bytes(range(256)) * 1200


def tools(side: str) -> tuple[Any, Any, Any]:
    """Give the side's FileStore, barrier and synchronize."""
    if side == "torch":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.distributed import FileStore
            from torch.distributed.elastic.utils.store import barrier, synchronize
    else:
        from rallypoint.primitives.barrier import barrier
        from rallypoint.primitives.exchange import synchronize
        from rallypoint.store.file import FileStore
    return FileStore, barrier, synchronize


def main(side: str, path: str, rank: int, world_size: int) -> None:
    """Work with the others, and say what was seen."""
    file_store, barrier, synchronize = tools(side)
    store = file_store(path, world_size)
    store.set_timeout(timedelta(seconds=TIMEOUT_S))
    seen: dict[str, Any] = {}
    store.set(f"hello/{rank}", side)
    seen["sides"] = [store.get(f"hello/{other}").decode() for other in range(world_size)]
    seen["numbers"] = [store.add("n", 1) for _ in range(ROUNDS)]
    seen["winner"] = store.compare_set("winner", "", str(rank)).decode()
    for number in range(ROUNDS):
        store.append("log", f"<{rank}.{number}>")
        store.set(f"churn/{rank}", str(number))
        if number % 2:
            store.delete_key(f"churn/{rank}")
    store.set(f"large/{rank}", LARGE)
    seen["large"] = all(store.get(f"large/{other}") == LARGE for other in range(world_size))
    barrier(store, world_size, "meet", TIMEOUT_S)
    seen["log"] = sorted(store.get("log").decode().strip("<>").split("><"))
    seen["churn"] = store.check([f"churn/{rank}"])
    seen["everything"] = [value.decode() for value in synchronize(store, f"from {rank}", rank, world_size, "all/")]
    seen["num_keys"] = store.num_keys()
    sys.stdout.write(json.dumps(seen) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
