"""Sockets, once: addresses and listeners, one blocking stream, connecting again and again.

The wire's meaning is not known here: bytes go in and out.
"""

from __future__ import annotations

__all__: list[str] = []
