"""Run Python with a native twin that is watched by sanitizers.

    python tools/sanitized.py address,undefined -m pytest tests/unit tests/compat
    python tools/sanitized.py thread -m pytest tests/unit/server tests/unit/store

The watched module lies in a folder of its own, build/sanitized-.../rallypoint, beside links to all the rest of the
package, and precedes the installed package. Reports go into files there, from child processes too; any report fails
the run, whatever the command itself says. Leaks are not looked for: the interpreter keeps much at its end.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "rallypoint"
ON_PURPOSE = "in signal_raise_signal"
"""What the stack says where a Python program called ``signal.raise_signal``: no access to memory was wrong there."""

SUPPRESSIONS = ROOT / "tools" / "thread-suppressions.txt"

# What must be loaded before the interpreter; libstdc++ because the first looks for that one's functions at the start.
RUNTIMES = {"address": ("libasan.so", "libstdc++.so"), "thread": ("libtsan.so", "libstdc++.so")}


def main(arguments: list[str]) -> int:
    """Build, run, and look for reports; give the exit code."""
    if len(arguments) < 2:
        print(__doc__)
        return 2
    kinds, command = arguments[0], arguments[1:]
    folder = ROOT / "build" / f"sanitized-{kinds.replace(',', '-')}"
    if not lay_out(folder, kinds):
        return 1
    reports = folder / "reports"
    reports.mkdir()
    start = [*unshuffled(kinds), "env", f"LD_PRELOAD={runtimes(kinds)}", sys.executable]
    env = environment(folder, reports)
    check = f"import rallypoint._native as n, sys; sys.exit(not n.__file__.startswith({str(folder)!r}))"
    if subprocess.run([*start, "-c", check], env=env, check=False).returncode:
        print(f"the interpreter does not load the module in {folder}")
        show(reports)
        return 1
    code = subprocess.run([*start, *command], env=env, cwd=ROOT, check=False).returncode
    found = show(reports)
    print(f"sanitized ({kinds}): exit code {code}, {found} reports")
    return code or int(found > 0)


def lay_out(folder: Path, kinds: str) -> bool:
    """Make the package anew, links to its files and the watched module; tell whether that could be built."""
    shutil.rmtree(folder, ignore_errors=True)
    package = folder / "rallypoint"
    package.mkdir(parents=True)
    for entry in SOURCE.iterdir():
        if entry.name not in ("__pycache__", "_native.abi3.so", "_native.txt"):
            (package / entry.name).symlink_to(entry)
    module = package / "_native.abi3.so"
    builder = [sys.executable, str(ROOT / "native" / "build.py"), "--sanitize", kinds, "--output", str(module)]
    env = {**os.environ, "CXX": compiler()}
    return subprocess.run(builder, env=env, check=False, stdout=subprocess.DEVNULL).returncode == 0


def compiler() -> str:
    """Give the compiler whose libraries are preloaded: GCC's lie where it says."""
    return os.environ.get("CXX", "g++")


def runtimes(kinds: str) -> str:
    """Give the libraries to preload: where the compiler says that they are."""
    names = RUNTIMES[kinds.split(",", maxsplit=1)[0]]
    asked = [[compiler(), f"-print-file-name={name}"] for name in names]
    return " ".join(subprocess.run(ask, stdout=subprocess.PIPE, text=True, check=True).stdout.strip() for ask in asked)


def environment(folder: Path, reports: Path) -> dict[str, str]:
    """Give what the interpreter needs to run the watched module."""
    log = f"log_path={reports}/report"
    return {
        **os.environ,
        "PYTHONPATH": str(folder),
        "TESTED_TWIN": "native",
        "PYTHONMALLOC": "malloc",  # every object of Python's is memory of its own, and watched
        "ASAN_OPTIONS": f"detect_leaks=0:detect_stack_use_after_return=1:{log}",
        "UBSAN_OPTIONS": f"halt_on_error=1:print_stacktrace=1:{log}",
        "TSAN_OPTIONS": f"ignore_noninstrumented_modules=1:suppressions={SUPPRESSIONS}:{log}",
    }


def unshuffled(kinds: str) -> list[str]:
    """Give what must stand before the interpreter: the watcher of threads needs addresses where it expects them."""
    setarch = shutil.which("setarch")
    return [setarch, platform.machine(), "-R"] if "thread" in kinds and setarch else []


def show(reports: Path) -> int:
    """Print all reports but those of programs that signal themselves, as some tests want; give their number."""
    found = 0
    for file in sorted(reports.iterdir()):
        report = file.read_text(encoding="utf-8", errors="replace")
        if ON_PURPOSE not in report:
            print(f"--- {file.name}\n{report}")
            found += 1
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
