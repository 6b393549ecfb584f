"""The session dialect: rallypoint's own wire, between its client and its server, without I/O."""

from __future__ import annotations

__all__: list[str] = []
