"""The process that holds the keys: keyspace, waiters and engine are pure machines, loop and daemon drive them."""

from __future__ import annotations

__all__: list[str] = []
