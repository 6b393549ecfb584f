"""Play many worlds, or one of them again: ``python -m tests.sim --seeds 20000``, ``python -m tests.sim 4711``."""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor

from tests.sim.referee import Broken
from tests.sim.world import GRACES_S, play

AT_ONCE = 50


def main() -> int:
    """Play; give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int, help="play this one, and tell its story")
    parser.add_argument("--seeds", type=int, default=2000, help="how many, from --first on (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--grace", type=float, nargs="+", default=GRACES_S, help="what workers may have, in seconds")
    options = parser.parse_args()
    graces_s = tuple(options.grace)
    if options.seed is not None:
        return _play_one(options.seed, graces_s)
    firsts = range(options.first, options.first + options.seeds, AT_ONCE)
    last = options.first + options.seeds
    broken = 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        lasts = [min(first + AT_ONCE, last) for first in firsts]
        for told in pool.map(_play_some, firsts, lasts, [graces_s] * len(lasts)):
            broken += len(told)
            for text in told:
                print(text, end="\n\n", flush=True)
    print(f"{options.seeds} worlds, {broken} of them broken")
    return int(broken > 0)


def _play_one(seed: int, graces_s: tuple[float, ...]) -> int:
    try:
        print("\n".join(play(seed, graces_s).story))
    except Broken as broken:
        print(broken)
        return 1
    return 0


def _play_some(first: int, last: int, graces_s: tuple[float, ...]) -> list[str]:
    told = []
    for seed in range(first, last):
        told += _fault_of(seed, graces_s)
    return told


def _fault_of(seed: int, graces_s: tuple[float, ...]) -> list[str]:
    try:
        play(seed, graces_s)
    except Exception as error:  # noqa: BLE001 - any error is told with the seed that shows it
        return [str(error) if isinstance(error, Broken) else f"seed {seed}: {error!r}"]
    return []


if __name__ == "__main__":
    sys.exit(main())
