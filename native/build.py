"""Build the native twin with the system's C++ compiler; nothing else is needed but Python's own headers.

    python native/build.py                                    # src/rallypoint/_native.abi3.so
    python native/build.py --sanitize address,undefined --output build/asan/_native.abi3.so

Used by the wheel's build (``hatch_build.py``), by the Makefile, and by hand.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parent / "src" / "rallypoint" / "_native.abi3.so"

COMPILERS = ("c++", "g++", "clang++")
COMPILE = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics"]
WARN = ["-Wall", "-Wextra", "-Wno-missing-field-initializers", "-Wno-cast-function-type", "-Werror=return-type"]
FAST = ["-O2", "-DNDEBUG"]
CHECKED = ["-O1", "-g", "-fno-omit-frame-pointer"]


class CannotBuildError(Exception):
    """The native twin cannot be built here; the message says why, in one line."""


def find_compiler() -> str:
    """Give the C++ compiler: what ``CXX`` says, else the first that is found."""
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else COMPILERS:
        if path := shutil.which(name):
            return path
    raise CannotBuildError(f"no C++ compiler was found (looked for {wanted or ', '.join(COMPILERS)})")


def headers() -> Path:
    """Give the folder of Python's headers."""
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        raise CannotBuildError(f"Python's headers are not installed ({include}/Python.h is missing)")
    return include


def build(output: Path = OUTPUT, sanitize: str = "", extra: Sequence[str] = ()) -> Path:
    """Compile all sources into one module.

    Args:
        output: where it goes.
        sanitize: a list for ``-fsanitize=``, separated by commas; empty for the fast build.
        extra: more options for the compiler.

    Raises:
        CannotBuildError: not on this system, or the compiler said no.
    """
    if not sys.platform.startswith("linux"):
        raise CannotBuildError(f"the native twin needs Linux's epoll, this is {sys.platform}")
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise CannotBuildError("the native twin needs CPython's stable ABI, which this interpreter does not have")
    compiler, include = find_compiler(), headers()
    options = [*COMPILE, *WARN, *(CHECKED if sanitize else FAST), *extra, f"-I{include}"]
    if sanitize:
        options.append(f"-fsanitize={sanitize}")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        jobs = []
        for source in sorted(HERE.glob("*.cpp")):
            target = Path(folder) / f"{source.stem}.o"
            jobs.append((target, subprocess.Popen([compiler, *options, "-c", str(source), "-o", str(target)])))
        # Every job is waited for, also behind one that failed.
        if any([job.wait() for _, job in jobs]):  # noqa: C419
            raise CannotBuildError(f"{compiler} could not compile the sources")
        module = Path(folder) / output.name
        link = [compiler, "-shared", "-pthread", "-Wl,--as-needed", *options, "-o", str(module)]
        if not sanitize:
            link.append("-s")
        if subprocess.run([*link, *(str(target) for target, _ in jobs)], check=False).returncode:
            raise CannotBuildError(f"{compiler} could not link the module")
        module.replace(output)
    return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--sanitize", default="", help="a list for -fsanitize=, as address,undefined")
    options = parser.parse_args()
    try:
        print(build(options.output, options.sanitize))
    except CannotBuildError as error:
        sys.exit(f"the native twin was not built: {error}")


if __name__ == "__main__":
    main()
