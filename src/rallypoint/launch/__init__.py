"""From a command line to a running agent."""

from __future__ import annotations

__all__: list[str] = []
