"""Build the native twin with the system's C++ compiler; nothing else is needed but Python's own headers.

    python native/build.py                # src/rallypoint/_native.abi3.so
    python native/build.py --optional     # the same, but where it cannot be built, leave the reason and go on
    python native/build.py --sanitize address,undefined --output build/asan/rallypoint/_native.abi3.so

Used by the wheel's build (``hatch_build.py``), by the Makefile, and by hand.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parent / "src" / "rallypoint" / "_native.abi3.so"

REASON_NAME = "_native.txt"
"""The file beside the package that says why there is no module; ``rallypoint.twin`` reads it."""

COMPILERS = ("c++", "g++", "clang++")
COMPILE = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics"]
WARN = ["-Wall", "-Wextra", "-Wno-missing-field-initializers", "-Wno-cast-function-type", "-Werror=return-type"]
FAST = ["-O2", "-DNDEBUG", "-fno-asynchronous-unwind-tables", "-ffunction-sections", "-fdata-sections"]
LEAN = {"bind_relay.cpp": ["-Os"]}  # what copies bytes more than it computes, and is nearly as fast at half the size
CHECKED = ["-O1", "-g", "-fno-omit-frame-pointer"]


class CannotBuildError(Exception):
    """The native twin cannot be built here; the message says why, in one line."""


def check_wanted() -> None:
    """Refuse where the environment asks for the Python twin."""
    if os.environ.get("RALLYPOINT_PURE", "") not in ("", "0"):
        raise CannotBuildError("RALLYPOINT_PURE was set at the build")


def find_compiler() -> list[str]:
    """Give the C++ compiler's command: what ``CXX`` says, options or a wrapper included, else the first found."""
    wanted = shlex.split(os.environ.get("CXX", ""))
    if wanted and not shutil.which(wanted[0]):
        raise CannotBuildError(f"no C++ compiler was found (CXX says {wanted[0]})")
    if wanted:
        return wanted
    for name in COMPILERS:
        if path := shutil.which(name):
            return [path]
    raise CannotBuildError(f"no C++ compiler was found (looked for {', '.join(COMPILERS)})")


def headers() -> Path:
    """Give the folder of Python's headers."""
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        raise CannotBuildError(f"Python's headers are not installed ({include}/Python.h is missing)")
    return include


def build(output: Path = OUTPUT, sanitize: str = "", extra: Sequence[str] = (), *, is_quiet: bool = False) -> Path:
    """Compile all sources into one module.

    Args:
        output: where it goes.
        sanitize: a list for ``-fsanitize=``, separated by commas; empty for the fast build.
        extra: more options for the compiler.
        is_quiet: keep what the compiler says to ourselves.

    Raises:
        CannotBuildError: not on this system, or the compiler said no.
    """
    if not sys.platform.startswith("linux"):
        raise CannotBuildError(f"it needs Linux's epoll, this is {sys.platform}")
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise CannotBuildError("it needs CPython's stable ABI, which this interpreter does not have")
    compiler, include = find_compiler(), headers()
    options = [*COMPILE, *WARN, *(CHECKED if sanitize else FAST), *extra, f"-I{include}"]
    if sanitize:
        options.append(f"-fsanitize={sanitize}")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        objects = {source: Path(folder) / f"{source.stem}.o" for source in sorted(HERE.glob("*.cpp"))}
        lean = {} if sanitize else LEAN
        commands = [
            [*compiler, *options, *lean.get(source.name, []), "-c", str(source), "-o", str(target)]
            for source, target in objects.items()
        ]
        while True:
            seen = look_at_sources()
            run_all(commands, is_quiet=is_quiet)
            if look_at_sources() == seen:
                break  # parts of sources that changed meanwhile would not agree on what lies where
        module = Path(folder) / output.name
        link = [*compiler, "-shared", "-pthread", "-Wl,--as-needed", "-Wl,-z,now", *options, "-o", str(module)]
        if not sanitize:
            link += ["-s", "-Wl,--gc-sections"]
        run_all([[*link, *map(str, objects.values())]], is_quiet=is_quiet)
        module.replace(output)
    return output


def look_at_sources() -> dict[str, tuple[int, int]]:
    """Give what tells that a source has changed: its time and its size."""
    sources = [path for path in sorted(HERE.iterdir()) if path.suffix in (".cpp", ".hpp", ".inc")]
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in sources}


def run_all(commands: Sequence[Sequence[str]], *, is_quiet: bool) -> None:
    """Run the compiler, all commands at once, and wait for every one, also behind one that failed."""
    jobs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") for command in commands]
    said = "".join([job.communicate()[1] for job in jobs])
    if not is_quiet:
        sys.stderr.write(said)
    if any(job.returncode for job in jobs):
        first = next((line.strip() for line in said.splitlines() if "error" in line), "it gives no reason")
        raise CannotBuildError(f"{commands[0][0]} failed: {first}")


def build_if_possible(folder: Path, *, is_quiet: bool = False) -> Path | None:
    """Build the module into a folder, or write there why not; the other of the two files is removed.

    Args:
        folder: the package's, or one that becomes part of it.
        is_quiet: as in ``build``; the one line about a failure is said in any case.

    Returns:
        The module, ``None`` if there is none.
    """
    module, reason = folder / OUTPUT.name, folder / REASON_NAME
    try:
        check_wanted()
        build(module, is_quiet=is_quiet)
    except CannotBuildError as error:
        module.unlink(missing_ok=True)
        reason.write_text(f"{error}\n", encoding="utf-8")
        print(f"rallypoint: the native twin was not built: {error}; the Python twin serves", file=sys.stderr)
        return None
    reason.unlink(missing_ok=True)
    return module


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--sanitize", default="", help="a list for -fsanitize=, as address,undefined")
    parser.add_argument("--optional", action="store_true", help="where it cannot be built, say why and succeed")
    options = parser.parse_args(arguments)
    if options.optional:
        build_if_possible(options.output.parent)
        return
    try:
        print(build(options.output, options.sanitize))
    except CannotBuildError as error:
        sys.exit(f"the native twin was not built: {error}")


if __name__ == "__main__":
    main()
