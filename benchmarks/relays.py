"""Relays for a comparison: ``rallypoint relay`` processes in front of one server, and one measurement through them.

Each local rank is a connection of the generator's, which says what torch's plain clients say. The server has its core
and the generator the other, as always; the relays, which belong to the ranks' machines, share both cores with them.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.machine import CLIENT_CORE, SERVER_CORE, pin, settle
from benchmarks.peers import HOST, Server, ready, run_load, spawn

__all__ = ["Relays"]

STARTED_AT_ONCE = 8


class Relays:
    """Relays to one server, started when first asked for; they end with ``close``.

    Args:
        server: whose keys they hold.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._relays: list[Server] = []

    def first(self, count: int) -> list[Server]:
        """Give so many of them."""
        command = [sys.executable, "-m", "rallypoint", "relay", f"{HOST}:{self._server.port}"]
        command += ["--bind", HOST, "--port", "0", "--ready-json"]
        while len(self._relays) < count:
            missing = min(STARTED_AT_ONCE, count - len(self._relays))
            processes = [spawn(command, self._server.peer) for _ in range(missing)]
            self._relays += [Server(self._server.peer, one, ready(one)["port"]) for one in processes]
        return self._relays[:count]

    def measure(self, count: int, **options: object) -> dict[str, Any]:
        """Measure one workload through so many relays, each with an equal share of the connections, once."""
        relays = self.first(count)
        server = self._server
        pin(server.pid, SERVER_CORE)
        for one in (server, *relays):
            settle(one.pid)
        ports = ",".join(str(relay.port) for relay in relays)
        return run_load(ports, core=CLIENT_CORE, pid=server.pid, **options)

    def close(self) -> None:
        """End them."""
        for relay in self._relays:
            relay.close()
