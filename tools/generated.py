"""The command line of each ``generate_*``: write a file that is made from the code, or fail if it is stale."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def write_or_check(
    arguments: list[str] | None, text: Callable[[], str], output: Path, *, about: str | None, command: str, source: str
) -> int:
    """Write or check; give 1 if a check failed.

    Args:
        arguments: those of the command line; ``None`` is the process's.
        text: gives what the file should be.
        output: where it is, unless the arguments say otherwise.
        about: what the tool does, for its help.
        command: what writes the file anew.
        source: what it is made from, with the verb: *the tables say*.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is stale")
    parser.add_argument("--output", type=Path, default=output)
    options = parser.parse_args(arguments)
    fresh = text()
    if not options.check:
        options.output.write_text(fresh, encoding="utf-8")
    elif not options.output.exists() or options.output.read_text(encoding="utf-8") != fresh:
        print(f"{options.output} is stale: run {command}")
        return 1
    else:
        print(f"{output.name}: as {source}")
    return 0
