"""Stores: a map from keys to bytes that several processes share, behind one interface.

``base`` is the interface, ``tcp`` the store that speaks TCPStore's wire, ``etcd`` the one on an etcd cluster; ``hash``,
``file`` and ``prefix`` are the others. Import the classes from :mod:`rallypoint` or from their modules.
"""

from __future__ import annotations

__all__: list[str] = []
