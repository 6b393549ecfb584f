"""The c10d dialect in front of a store that is reached in another way."""

from __future__ import annotations

__all__: list[str] = []
