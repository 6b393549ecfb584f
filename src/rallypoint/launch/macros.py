"""Placeholders in the arguments of workers, for code that was written for torch's.

``rallypoint run`` leaves arguments as they are; whoever wants this asks for it.

Source: names and results as observed in torch 2.13.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import Template
from typing import Any

__all__ = ["macros"]


class macros:  # noqa: N801 - torch's name
    """The placeholders, and what puts values in their place."""

    local_rank = "${local_rank}"

    @staticmethod
    def substitute(args: Sequence[Any], local_rank: str) -> list[Any]:
        """Give arguments with the local rank in its placeholder's place; what is no text passes."""
        return [Template(arg).safe_substitute(local_rank=local_rank) if isinstance(arg, str) else arg for arg in args]
