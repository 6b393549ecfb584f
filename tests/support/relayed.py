"""``rallypoint serve`` and ``rallypoint relay`` in front of it, as processes: torch's clients may hold the lock."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Relayed", "relayed", "started"]


class Relayed(NamedTuple):
    """A server and a relay to it.

    Attributes:
        server: its process.
        relay: its process.
        server_port: where the server listens.
        port: where the relay listens.
    """

    server: subprocess.Popen[str]
    relay: subprocess.Popen[str]
    server_port: int
    port: int


@contextlib.contextmanager
def started(command: str, *arguments: str, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a command that says when it is ready; give its process and port. It is gone afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rallypoint", command, *arguments, "--port", str(port), "--ready-json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        try:
            line = process.stdout.readline()
            assert line, f"rallypoint {command} has ended with {process.wait()}"
            yield process, json.loads(line)["port"]
        finally:
            process.kill()


@contextlib.contextmanager
def relayed(*relay_arguments: str) -> Iterator[Relayed]:
    """Run both."""
    with (
        started("serve") as (server, server_port),
        started("relay", f"127.0.0.1:{server_port}", *relay_arguments) as (relay, port),
    ):
        yield Relayed(server, relay, server_port, port)
