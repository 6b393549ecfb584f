"""Write native/spec.inc: all that the native twin must take over from the Python one, as C++.

python tools/generate_spec.py            # write it
python tools/generate_spec.py --check    # fail if it is stale

A number that both twins know stands in Python, once. The native twin reads it from the file that this writes.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from types import ModuleType

from rallypoint.net import address, stream
from rallypoint.protocol import codec, spec
from rallypoint.server import acceptor, connection, keyspace, limits, loop, turns
from rallypoint.store import connections

OUTPUT = Path(__file__).resolve().parent.parent / "native" / "spec.inc"

# Which constants, from where; one that is private there has no underscore here.
CONSTANTS: tuple[tuple[ModuleType, tuple[str, ...]], ...] = (
    (
        spec,
        (
            "MAGIC",
            "KEY_SIZE_MAX",
            "VALUE_SIZE_MAX",
            "KEY_COUNT_MAX",
            "REQUEST_SIZE_MAX",
            "VALUE_STORED_SIZE_MAX",
            "REPLY_SIZE_MAX",
            "LISTED_COUNT_MAX",
            "READY",
            "NOT_READY",
            "GO_ON",
            "CANCELLED",
        ),
    ),
    (codec, ("_SHOWN_MAX",)),
    (keyspace, ("ENTRY_SIZE",)),
    (loop, ("DRAIN_S", "LINGER_S", "READ_SIZE", "EVENTS_MAX")),
    (connection, ("OUTPUT_HIGH_SIZE", "OUTPUT_LOW_SIZE")),
    (turns, ("HEAVY_S", "SLICE_S")),
    (acceptor, ("ACCEPTS_MAX", "PAUSE_S")),
    (address, ("BACKLOG",)),
    (stream, ("WAIT_SLICE_S", "FIRST_LOOK_S")),
    (connections, ("REPLY_GRACE_S", "IDLE_SIDES_MAX")),
)

HEAD = """\
// What both twins must agree on. Written by tools/generate_spec.py from the Python twin; change it there.
#pragma once

#include <cstdint>

namespace rallypoint {
"""

TAIL = "\n\n}  // namespace rallypoint\n"


def constant(name: str, value: object) -> str:
    """Give one constant's definition: KEY_SIZE_MAX is kKeySizeMax."""
    words = name.lstrip("_").split("_")
    name = "k" + "".join(word.capitalize() for word in words)
    if isinstance(value, bytes):
        (byte,) = value
        return f"constexpr char {name} = '\\x{byte:02x}';"
    if isinstance(value, float):
        return f"constexpr double {name} = {value!r};"
    return f"constexpr uint64_t {name} = {value};"


def dotted(module: ModuleType) -> str:
    """Give a module as the comments name it: protocol/spec.py."""
    return module.__name__.removeprefix("rallypoint.").replace(".", "/") + ".py"


def constants() -> Iterable[str]:
    """Give all constants, under the file that they come from."""
    for module, names in CONSTANTS:
        yield f"// {dotted(module)}"
        for name in names:
            yield constant(name, getattr(module, name))
        yield ""


def verbs() -> Iterable[str]:
    """Give the verbs, their names, and the fields of their requests."""
    yield from block("enum class Verb : uint8_t", (f"{verb.name} = {verb.value}" for verb in spec.Verb))
    yield from block("constexpr const char *kVerbNames[] =", (f'"{verb.name}"' for verb in spec.Verb))
    yield f"constexpr unsigned kVerbCount = {len(spec.Verb)};"
    yield ""
    used = [kind for kind in spec.Kind if any(kind in row.request for row in spec.VERBS.values())]
    yield "// What one field of a request is; NOTHING ends a layout."
    yield "enum class Kind : uint8_t { " + ", ".join(["NOTHING", *(kind.name for kind in used)]) + " };"
    longest = max(len(row.request) for row in spec.VERBS.values())
    yield "// By verb: the fields after the verb byte."
    yield f"constexpr Kind kRequestLayouts[kVerbCount][{longest + 1}] = {{"
    for verb in spec.Verb:
        layout = [kind.name for kind in spec.VERBS[verb].request] + ["NOTHING"]
        yield "    {" + ", ".join(f"Kind::{name}" for name in layout) + f"}},  // {verb.name}"
    yield "};"
    yield ""


def block(head: str, items: Iterable[str]) -> Iterable[str]:
    """Give a list between braces, as many items on a line as go."""
    yield f"{head} {{"
    yield textwrap.fill(
        ", ".join(item.replace(" ", "\0") for item in items) + ",", 118, initial_indent="    ", subsequent_indent="    "
    ).replace("\0", " ")
    yield "};"


def reasons() -> Iterable[str]:
    """Give the reasons for closing, numbered as they are declared."""
    yield "// Why a peer is closed: the position in spec.CloseReason."
    yield from block(
        "enum CloseReason : int", (f"{reason.name} = {number}" for number, reason in enumerate(spec.CloseReason))
    )
    yield from block("constexpr const char *kCloseReasonNames[] =", (f'"{reason.name}"' for reason in spec.CloseReason))
    yield ""


def bounds() -> Iterable[str]:
    """Give the struct Limits with its defaults."""
    yield f"// {dotted(limits)}, in its order"
    yield "struct Limits {"
    for field in fields(limits.Limits):
        default = getattr(limits.DEFAULT_LIMITS, field.name)
        kind = "double" if isinstance(default, float) else "uint64_t"
        yield f"    {kind} {field.name} = {default!r};"
    yield "};"


def text() -> str:
    """Give the whole file."""
    return "\n".join([HEAD, *constants(), *verbs(), *reasons(), *bounds()]) + TAIL


def main(arguments: list[str] | None = None) -> int:
    """Write or check; give 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is stale")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args(arguments)
    fresh = text()
    if options.check:
        if not options.output.exists() or options.output.read_text(encoding="utf-8") != fresh:
            print(f"{options.output} is stale: run python tools/generate_spec.py")
            return 1
        print("spec.inc: as the Python twin says")
        return 0
    options.output.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
