"""Write docs/reference/wire.md: both dialects of the wire, from their tables.

python tools/generate_wire.py            # write it
python tools/generate_wire.py --check    # fail if it is stale
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from types import ModuleType

from rallypoint.protocol import spec
from rallypoint.protocol.session import auth
from rallypoint.protocol.session import spec as session

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script of this folder sees only that

from tools.generated import ROOT, write_or_check

OUTPUT = ROOT / "docs" / "reference" / "wire.md"

HEAD = """\
# The wire

Written by `make wire` from the tables that the code walks ([c10d](../../src/rallypoint/protocol/spec.py),
[session](../../src/rallypoint/protocol/session/spec.py)). Two dialects share one port; the first byte of a connection
tells them apart: `0x00` is c10d, `0x52` a session, `0x16` TLS with either of them inside. Recorded conversations, byte
for byte, are in [vectors.jsonl](../../tests/support/vectors.jsonl) (c10d, of a torch server) and
[session_vectors.jsonl](../../tests/support/session_vectors.jsonl).

In layouts, `·` joins what follows each other without padding, and `n *` repeats.
"""

REASONS = """\
Why a server closes a connection or refuses a request. In c10d they show in the server's log only; in a session they are
the first field of `REFUSED` and `CLOSING`.
"""

C10D_CONSTANTS = (
    "MAGIC", "KEY_SIZE_MAX", "VALUE_SIZE_MAX", "KEY_COUNT_MAX", "REQUEST_SIZE_MAX", "VALUE_STORED_SIZE_MAX",
    "REPLY_SIZE_MAX", "LISTED_COUNT_MAX", "READY", "NOT_READY", "GO_ON", "CANCELLED",
)  # fmt: skip

SESSION_CONSTANTS = (
    "OPENING", "VERSION", "SESSION_ID_SIZE", "NONCE_SIZE", "PROOF_SIZE", "LABEL_SIZE_MAX", "HELLO_SIZE_MAX",
    "REPLY_FRAME_SIZE_MAX", "GROUP_SIZE_MAX", "MEMBERS_NAMED_MAX",
    "SESSION_TIMEOUT_MS_MAX", "LEASE_TTL_MS_MAX", "NO_REVISION", "CLOSING_ID",
)  # fmt: skip


def prose(module: ModuleType) -> str:
    """Give a table's own words about the wire: its docstring without what it is and its source."""
    paragraphs = inspect.cleandoc(module.__doc__ or "").split("\n\n")
    return "\n\n".join(p for p in paragraphs[2:] if not p.startswith("Source:")).replace("``", "`")


def proofs() -> str:
    """Give the handshake with a token, in the words of the module that makes the proofs."""
    text = inspect.cleandoc(auth.__doc__ or "").split("Theory of operation::\n\n", 1)[1].split("\n\nWhat this file")[0]
    drawing, _, rest = text.partition("\n\n")
    prefixes = f"The client's prefix is `{auth.CLIENT_PREFIX!r}`, the server's `{auth.SERVER_PREFIX!r}`."
    return f"```text\n{textwrap.dedent(drawing)}\n```\n\n{rest}\n\n{prefixes}"


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Give a table in Markdown."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def documented(source: ModuleType | type[Enum], names: Iterable[str]) -> dict[str, str]:
    """Find the text that stands below each of these assignments."""
    lines = [line.strip() for line in inspect.getsource(source).splitlines()]
    texts = dict.fromkeys(names, "")
    for number, line in enumerate(lines[:-1]):
        name = line.partition(" =")[0].partition(":")[0]
        if name in texts and lines[number + 1].startswith('"""'):
            text = " ".join(lines[number + 1 :])
            texts[name] = text[3 : text.index('"""', 3)].replace("``", "`")
    return texts


def constants(module: ModuleType, names: tuple[str, ...]) -> str:
    """Give a table of constants."""
    texts = documented(module, names)
    return table(
        ("constant", "value", "what it is"),
        ((f"`{name}`", shown(getattr(module, name)), texts[name]) for name in names),
    )


def shown(value: object) -> str:
    """Give a constant's value as people write it."""
    if isinstance(value, bytes):
        return f"`{value.hex(' ')}`"
    if value == spec.MAGIC:
        return f"`{value:#010x}`"
    return f"{value:,}"


def kinds(members: type[Enum]) -> str:
    """Give a table of layouts."""
    return table(("field", "shape"), ((f"`{member.name}`", str(member.value)) for member in members))


def codes(members: type[Enum]) -> str:
    """Give a table of numbered words."""
    texts = documented(members, [member.name for member in members])
    return table(("name", "on the wire", "meaning"), ((f"`{m.name}`", str(m.value), texts[m.name]) for m in members))


def fields(layout: Iterable[Enum], names: Iterable[str] = ()) -> str:
    """Give a layout in one cell."""
    named = list(names)
    kinds_ = [f"`{kind.name}`" for kind in layout]
    if named:
        kinds_ = [f"{kind} {name}" for kind, name in zip(kinds_, named, strict=True)]
    return " · ".join(kinds_) or "-"


def c10d_verbs(verbs: Mapping[spec.Verb, spec.VerbSpec]) -> str:
    """Give the verbs of c10d."""
    return table(
        ("verb", "byte", "request", "reply"),
        (
            (
                f"`{verb.name}`",
                str(verb.value),
                fields(row.request),
                fields(row.reply) + (", when it comes" if row.is_deferred else ""),
            )
            for verb, row in verbs.items()
        ),
    )


def session_verbs(verbs: Mapping[session.SessionVerb, session.SessionVerbSpec]) -> str:
    """Give the verbs of a session."""
    rows = []
    for verb, row in verbs.items():
        marks = [word for word, is_so in (("write", row.is_write), ("waits", row.is_deferred)) if is_so]
        reply = fields(row.reply, row.names[1]) if row.is_answered else "none"
        purpose = row.purpose.replace("``", "`") + (f" ({', '.join(marks)})" if marks else "")
        rows.append((f"`{verb.name}`", str(verb.value), fields(row.request, row.names[0]), reply, purpose))
    return table(("verb", "byte", "request", "OK", "what it does"), rows)


def other_statuses() -> str:
    """Give what the statuses besides OK carry."""
    rows = [(f"`{status.name}`", fields(layout)) for status, layout in session.STATUS_FIELDS.items()]
    for layout in dict.fromkeys(session.EXPIRED_FIELDS.values()):
        verbs = ", ".join(f"`{verb.name}`" for verb, its in session.EXPIRED_FIELDS.items() if its == layout)
        rows.append((f"`EXPIRED` of {verbs}", fields(layout)))
    return table(("status", "fields"), rows)


def page() -> str:
    """Give the whole page."""
    parts = [
        HEAD,
        "## The c10d dialect",
        prose(spec),
        "### Verbs",
        c10d_verbs(spec.VERBS),
        "### Fields",
        kinds(spec.Kind),
        "### Constants and limits",
        constants(spec, C10D_CONSTANTS),
        "## The session dialect",
        prose(session),
        "### Verbs of a session",
        session_verbs(session.SESSION_VERBS),
        "### Statuses",
        codes(session.Status),
        "What they carry besides OK:",
        other_statuses(),
        "### Events",
        codes(session.EventKind),
        "### Fields of a session",
        kinds(session.Field),
        "### Constants and limits of a session",
        constants(session, SESSION_CONSTANTS),
        "### Proofs",
        proofs(),
        "## Reason codes",
        REASONS,
        codes(spec.CloseReason),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write or check; give 1 if a check failed."""
    return write_or_check(arguments, page, OUTPUT, about=__doc__, command="`make wire`", source="the tables say")


if __name__ == "__main__":
    sys.exit(main())
