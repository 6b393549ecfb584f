"""``torch.distributed.run``: ``python -m rallypoint.run ...`` is ``rallypoint run ...``."""

from __future__ import annotations

import sys

from rallypoint.cli.main import main as _main

__all__ = ["main"]


def main(args: list[str] | None = None) -> None:
    """Run ``rallypoint run`` with these arguments; ``None``: the process's own. Ends by ``SystemExit``."""
    _main(["run", *(sys.argv[1:] if args is None else args)])


if __name__ == "__main__":
    main()
