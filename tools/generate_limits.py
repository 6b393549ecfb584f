"""Write docs/reference/limits.md: what a server grants its peers, from the docstring and the defaults of ``Limits``.

python tools/generate_limits.py            # write it
python tools/generate_limits.py --check    # fail if it is stale
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from rallypoint.server.limits import DEFAULT_LIMITS, MOST, OUTPUT_LOOK_S, Limits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script of this folder sees only that

from tools.generated import ROOT, write_or_check

OUTPUT = ROOT / "docs" / "reference" / "limits.md"

HEAD = """\
# Limits

Written by `make limits` from [server/limits.py](../../src/rallypoint/server/limits.py). Each can be set:

```console
$ rallypoint serve --limit keys_max=100000 --limit stored_size_max=8G
```

K, M and G are powers of 1024; seconds have no unit. A limit is above 0; some have a highest value, which the wire sets.
`rallypoint status` tells how much of each limit on a sum is used, the metric `rallypoint_limit` what all of them are.
Which reason a refusal has is in [the wire's reason codes](wire.md#reason-codes).
"""


def meanings() -> dict[str, str]:
    """Give what the docstring says of each attribute."""
    section = inspect.cleandoc(Limits.__doc__ or "").split("Attributes:\n")[1].split("\n\n")[0]
    text = inspect.cleandoc(section)
    found = re.findall(r"^(\w+): (.*?)(?=^\w+: |\Z)", text, re.MULTILINE | re.DOTALL)
    return {name: " ".join(meaning.split()) for name, meaning in found}


def rules() -> str:
    """Give what holds for all of them."""
    paragraph = inspect.cleandoc(Limits.__doc__ or "").split("\n\n")[1]
    return " ".join(paragraph.split()).replace("``", "`")


def shown(value: float) -> str:
    """Give a value as a person writes it."""
    if isinstance(value, int):
        for unit, size in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
            if value % size == 0:
                return f"{value // size}{unit}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def rows() -> Iterable[str]:
    """Give the table."""
    said = meanings()
    yield "| limit | default | at most | what it bounds |"
    yield "|---|---|---|---|"
    for field in fields(Limits):
        default = shown(getattr(DEFAULT_LIMITS, field.name))
        most = shown(MOST[field.name]) if field.name in MOST else ""
        words = said[field.name].replace("``OUTPUT_LOOK_S``", f"{OUTPUT_LOOK_S:g} s").replace("``", "`")
        yield f"| `{field.name}` | {default} | {most} | {words} |"


def page() -> str:
    """Give the whole page."""
    return "\n".join([HEAD, rules(), "", *rows()]) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write or check; give 1 if a check failed."""
    return write_or_check(arguments, page, OUTPUT, about=__doc__, command="`make limits`", source="the limits say")


if __name__ == "__main__":
    sys.exit(main())
