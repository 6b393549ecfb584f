"""What people build on a store: barriers and exchanges.

Everything here works on any store: ours, torch's own, a user's. It asks for torch's methods only, and takes any
``RuntimeError`` that speaks of a timeout for a timeout, because foreign stores have no classes of ours.
"""

from __future__ import annotations

__all__: list[str] = []
