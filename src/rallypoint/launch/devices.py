"""How many workers ``--nproc-per-node=cpu|gpu|auto`` means on this host.

Counted without any framework: a launcher that loads one to count devices costs seconds and holds device memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["count_cpus", "count_gpus"]

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")


def count_cpus(root: Path = CGROUP_ROOT, own: Path = OWN_CGROUPS) -> int:
    """Give the processors that this process may use: its affinity mask, cut by the quotas of its control groups.

    Args:
        root: where the control groups are mounted.
        own: the file that names this process' control groups.

    Returns:
        At least 1; a quota of 2.5 processors gives 2.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity masks
        allowed = os.cpu_count() or 1
    return max(1, math.floor(min(allowed, _quota(root, own))))


def _quota(root: Path, own: Path) -> float:
    """Give the smallest processor quota on the way up from this process' group, infinity without one."""
    quotas = [math.inf]
    for line in _read(own).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            base, read = root, _quota_of_unified
        elif "cpu" in controllers.split(","):
            base, read = root / "cpu", _quota_of_legacy
        else:
            continue
        folder = base / path.lstrip("/")
        for group in (folder, *folder.parents):
            quotas.append(read(group))
            if group == base:
                break
    return min(quotas)


def _quota_of_unified(group: Path) -> float:
    """Read ``cpu.max``: ``<microseconds of each period, or max> <period>``."""
    return _ratio(*(_read(group / "cpu.max").split() or ["max"]))


def _quota_of_legacy(group: Path) -> float:
    return _ratio(_read(group / "cpu.cfs_quota_us").strip(), _read(group / "cpu.cfs_period_us").strip())


def _ratio(quota: str, period: str = "100000") -> float:
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
        return math.inf  # "max", -1, or a kernel without quotas
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def count_gpus(environ: Mapping[str, str], driver: Path = NVIDIA_GPUS) -> int | None:
    """Give the NVIDIA devices that a worker would see.

    Args:
        environ: ``CUDA_VISIBLE_DEVICES`` in it decides if it is there: as CUDA does, what follows a ``-1`` is not
            seen.
        driver: the folder in which the driver lists its devices.

    Returns:
        The number, 0 included; ``None`` if there is neither the variable nor the driver, so that nothing is known.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        hidden = [index for index, name in enumerate(names) if name in ("", "-1")]
        return hidden[0] if hidden else len(names)
    try:
        return sum(1 for _ in driver.iterdir())
    except OSError:
        return None
