"""``torch.distributed.elastic.multiprocessing.redirects``."""

from __future__ import annotations

from rallypoint.agent.redirect import (
    redirect,
    redirect_stderr,
    redirect_stdout,
)

__all__ = [
    "redirect",
    "redirect_stderr",
    "redirect_stdout",
]
