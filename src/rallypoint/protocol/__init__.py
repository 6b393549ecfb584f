"""The wire, without I/O: the table of verbs, the codecs that walk it, the server's reader and the client's calls."""

from __future__ import annotations

__all__: list[str] = []
