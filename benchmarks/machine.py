"""The machine: its cores and who runs on which, memory of a process, and its description for the report."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

__all__ = [
    "CLIENT_CORE",
    "SERVER_CORE",
    "Memory",
    "cpu_ns",
    "describe",
    "hurry",
    "memory_of",
    "pin",
    "reset_peak",
    "settle",
]

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE = CORES[0]
CLIENT_CORE = CORES[min(1, len(CORES) - 1)]

SETTLE_S = 3.0
_LOOK_S = 0.01
_QUIET = 0.02  # of one core

Memory = dict[str, int]
"""Bytes: ``rss``, ``pss``, ``user`` (memory of the process alone) and ``peak`` (largest ``rss``)."""


def pin(pid: int, core: int, *, only_main: bool = False, but_main: bool = False) -> None:
    """Put the threads of a process on one core: all of them, the main one, or all others."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        is_main = int(task.name) == pid
        if (only_main and not is_main) or (but_main and is_main):
            continue
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), {core})


def hurry(pid: int) -> None:
    """Let the threads of a process run before all else on their core, where the system lets us."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.sched_setscheduler(int(task.name), os.SCHED_RR, os.sched_param(1))


def cpu_ns(pid: int) -> int:
    """Give the processor time that the threads of a process have had, in nanoseconds."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            total += int((task / "schedstat").read_text().split()[0])
    return total


def settle(pid: int) -> None:
    """Wait until a server has nothing to do any more: the last measurement's connections are closed, for instance."""
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        before, start = cpu_ns(pid), time.monotonic_ns()
        time.sleep(_LOOK_S)
        if cpu_ns(pid) - before < _QUIET * (time.monotonic_ns() - start):
            return


def memory_of(pid: int) -> Memory:
    """Read what a process takes."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    status = Path(f"/proc/{pid}/status").read_text()

    def bytes_of(name: str, text: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
        return int(found[1]) * 1024 if found else 0

    return {
        "rss": bytes_of("Rss", rollup),
        "pss": bytes_of("Pss", rollup),
        "user": bytes_of("Private_Dirty", rollup) + bytes_of("Private_Clean", rollup),
        "peak": bytes_of("VmHWM", status),
    }


def reset_peak(pid: int) -> None:
    """Begin a new peak."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _first_line(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return "not installed"
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()[0]


def describe() -> list[tuple[str, str]]:
    """Describe the machine and what is compared, without a name of host, person or folder."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    is_guest = "hypervisor" in Path("/proc/cpuinfo").read_text()
    redis = re.search(r"v=(\S+)", _first_line("redis-server", "--version"))
    return [
        ("processor", f"{cpu[1] if cpu else platform.machine()}{', a virtual machine' if is_guest else ''}"),
        ("cores", f"{len(CORES)}; servers on core {SERVER_CORE}, clients on core {CLIENT_CORE} unless said otherwise"),
        ("memory", f"{pages / 2**30:.0f} GiB"),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("compiler", _first_line("g++", "--version")),
        ("Python", sys.version.split()[0]),
        ("torch", _version("torch")),
        ("Redis", redis[1] if redis else "not installed"),
        ("rallypoint", _version("rallypoint")),
    ]
