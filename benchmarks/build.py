"""Compile the bench's own programs, when a source is newer, into build/bench."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["FLOOR", "LOAD", "NAMES", "build"]

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / "build" / "bench"
LOAD = FOLDER / "load"
FLOOR = FOLDER / "floor"
NAMES = FOLDER / "names.so"

OPTIONS = ["-std=c++17", "-O2", "-Wall", "-Wextra"]
EXTRA = {"names": ["-shared", "-fPIC", "-ldl"]}


def build() -> None:
    """Make the load generator, the floor server, and the library that keeps name look-ups out of everyone's way."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise SystemExit("the benchmarks need a C++ compiler: install g++ or clang++, or name one by CXX")
    FOLDER.mkdir(parents=True, exist_ok=True)
    newest_header = max(header.stat().st_mtime for header in HERE.glob("*.hpp"))
    for program in (LOAD, FLOOR, NAMES):
        source = HERE / f"{program.stem}.cpp"
        if program.exists() and program.stat().st_mtime > max(newest_header, source.stat().st_mtime):
            continue
        draft = program.with_suffix(".new")
        command = [compiler, *OPTIONS, str(source), *EXTRA.get(program.stem, []), "-o", str(draft)]
        subprocess.run(command, check=True)
        draft.replace(program)
