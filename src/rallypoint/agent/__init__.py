"""The workers of one node: what to run, what to do when something happens, and the processes themselves."""

from __future__ import annotations

__all__: list[str] = []
