"""``torch.distributed.run``: ``python -m rallypoint.run ...`` is ``rallypoint run ...``."""

from __future__ import annotations

from rallypoint.cli.run import run as main

__all__ = ["main"]

if __name__ == "__main__":
    main()
