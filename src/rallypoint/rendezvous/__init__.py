"""Who takes part in this round of the run, and with which rank."""

from __future__ import annotations

__all__: list[str] = []
