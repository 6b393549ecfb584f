"""Write native/spec.inc: all that the native twin must take over from the Python one, as C++.

python tools/generate_spec.py            # write it
python tools/generate_spec.py --check    # fail if it is stale

A number that both twins know stands in Python, once. The native twin reads it from the file that this writes.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import rallypoint
from rallypoint.gateway import lists, slots, upstream
from rallypoint.net import address, stream
from rallypoint.protocol import codec, spec
from rallypoint.protocol.session import frames
from rallypoint.protocol.session import spec as session_spec
from rallypoint.server import (
    acceptor,
    connection,
    groups,
    keyspace,
    limits,
    loop,
    peer,
    sessions,
    status,
    turns,
    waiters,
    watches,
)
from rallypoint.store import connections

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script of this folder sees only that

from tools.generated import ROOT, write_or_check

OUTPUT = ROOT / "native" / "spec.inc"

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
    (
        session_spec,
        (
            "OPENING",
            "VERSION",
            "SESSION_ID_SIZE",
            "NONCE_SIZE",
            "PROOF_SIZE",
            "LABEL_SIZE_MAX",
            "HELLO_SIZE_MAX",
            "REPLY_FRAME_SIZE_MAX",
            "DELETED_KEYS_MAX",
            "GROUP_SIZE_MAX",
            "SESSION_TIMEOUT_MS_MAX",
            "LEASE_TTL_MS_MAX",
            "NO_REVISION",
            "CLOSING_ID",
            "MEMBERS_NAMED_MAX",
        ),
    ),
    (codec, ("_SHOWN_MAX",)),
    (keyspace, ("ENTRY_SIZE", "NUMBER_SIZE_MAX")),
    (sessions, ("ANSWER_SIZE",)),
    (waiters, ("AT_ONCE_MAX", "TIDY_MAX")),
    (watches, ("EVENT_SIZE", "LENGTHS_MAX")),
    (status, ("SCHEMA_VERSION", "LISTED_MAX", "NAMES_MAX", "_RATE_OVER_S")),
    (peer, ("REFUSALS_KEPT",)),
    (groups, ("_HEADS_SIZE", "_LOST_GROUPS_MAX")),
    (limits, ("GRACE_S", "SESSION_RESTART_GRACE_S", "STALL_S", "OUTPUT_LOOK_S", "STEP_REQUESTS_MAX")),
    (loop, ("DRAIN_S", "LINGER_S", "READ_SIZE", "EVENTS_MAX")),
    (connection, ("OUTPUT_HIGH_SIZE", "OUTPUT_LOW_SIZE", "FLUSH_SIZE_MAX")),
    (turns, ("HEAVY_S", "HEAVY_TIMES", "SLICE_S", "HEAVY_SLICE_S", "STEP_S")),
    (acceptor, ("ACCEPTS_MAX", "PAUSE_S")),
    (address, ("BACKLOG",)),
    (stream, ("WAIT_SLICE_S", "FIRST_LOOK_S")),
    (connections, ("REPLY_GRACE_S", "IDLE_SIDES_MAX")),
    (frames, ("ROOM_SIZE_MIN", "ROOM_SIZE_MAX")),
    (lists, ("LONG_SIZE", "LONG_SIZE_MAX")),
    (slots, ("_OVERHEAD_SIZE",)),
    (upstream, ("PROBE_S", "_AWAITED_SIZE_MAX")),
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
    if isinstance(value, bytes) and len(value) > 1:
        return f'constexpr char {name}[] = "{value.decode()}";'
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
    yield constant("STATUS_VALUE_MAX", status.VALUE_SIZE_MAX)
    yield f'constexpr char kPackageVersion[] = "{rallypoint.__version__}";'
    yield ""


def verbs() -> Iterable[str]:
    """Give the verbs, their names, and the fields of their requests."""
    yield from block("enum class Verb : uint8_t", (f"{verb.name} = {verb.value}" for verb in spec.Verb))
    yield from block("constexpr const char *kVerbNames[] =", (f'"{verb.name}"' for verb in spec.Verb))
    yield f"constexpr unsigned kVerbCount = {len(spec.Verb)};"
    yield ""
    layouts = [*spec.VERBS.values(), *session_spec.SESSION_VERBS.values()]
    names = {kind.name for row in layouts for kind in row.request}
    used = [kind for kind in spec.Kind if kind.name in names]
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


def session_verbs() -> Iterable[str]:
    """Give the verbs of the session dialect, what its frames are, and the fields of its requests; gaps are UNKNOWN."""
    verbs = session_spec.SessionVerb
    for enum in (verbs, session_spec.Status, session_spec.EventKind):
        yield from block(f"enum class {enum.__name__} : uint8_t", (f"{each.name} = {each.value}" for each in enum))
    count = max(verbs) + 1
    rows = dict.fromkeys(range(count)) | {int(verb): row for verb, row in session_spec.SESSION_VERBS.items()}
    names = [f'"{verbs(byte).name}"' if row else "nullptr" for byte, row in rows.items()]
    yield from block("constexpr const char *kSessionVerbNames[] =", names)
    yield f"constexpr unsigned kSessionVerbCount = {count};"
    yield ""
    longest = max(len(row.request) for row in rows.values() if row)
    yield "// By verb: whether its answer is kept, whether that may be long in coming, the fields of its request."
    yield "struct SessionRow {"
    yield "    bool is_write, is_deferred;"
    yield f"    Kind request[{longest + 1}];"
    yield "};"
    yield "constexpr SessionRow kSessionRows[kSessionVerbCount] = {"
    for byte, row in rows.items():
        layout = ", ".join(f"Kind::{field.name}" for field in row.request) if row else ""
        flags = f"{str(bool(row and row.is_write)).lower()}, {str(bool(row and row.is_deferred)).lower()}"
        yield f"    {{{flags}, {{{layout}}}}},{f'  // {verbs(byte).name}' if row else ''}"
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
    each = fields(limits.Limits)
    for field in each:
        default = getattr(limits.DEFAULT_LIMITS, field.name)
        kind = "double" if isinstance(default, float) else "uint64_t"
        yield f"    {kind} {field.name} = {default!r};"
    yield "};"
    kinds = "".join("d" if isinstance(getattr(limits.DEFAULT_LIMITS, field.name), float) else "K" for field in each)
    yield f'constexpr char kLimitKinds[] = "{kinds}";  // of its fields: d a double, K a whole number'


def text() -> str:
    """Give the whole file."""
    return "\n".join([HEAD, *constants(), *verbs(), *session_verbs(), *reasons(), *bounds()]) + TAIL


def main(arguments: list[str] | None = None) -> int:
    """Write or check; give 1 if a check failed."""
    return write_or_check(
        arguments, text, OUTPUT, about=__doc__, command="python tools/generate_spec.py", source="the Python twin says"
    )


if __name__ == "__main__":
    sys.exit(main())
