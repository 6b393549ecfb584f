"""``rallypoint serve`` and ``rallypoint relay`` in front of it, as processes: torch's clients may hold the lock."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.support.launcher import until
from tests.support.raw_server import PATIENCE_S

from rallypoint.store.tcp import TCPStore

__all__ = ["Counting", "Relayed", "counting", "outlive_kills", "plain", "relayed", "started"]

CLIENTS = 4


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


def plain(port: int, timeout_s: float = 60.0) -> TCPStore:
    """Give a client that speaks what torch's speaks."""
    return TCPStore("127.0.0.1", port, timeout=timeout_s, wait_for_workers=False, dialect="c10d")


class Counting:
    """Clients that count, each its own counter, and notice if a number is missing or comes twice.

    Attributes:
        counts: how far each has come.
    """

    def __init__(self, port: int) -> None:
        self.counts = {f"n{number}": 0 for number in range(CLIENTS)}
        self._ended: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._count, args=(name, port)) for name in self.counts]
        for thread in self._threads:
            thread.start()

    def _count(self, name: str, port: int) -> None:
        with plain(port) as store:
            while not self._stop.is_set():
                assert store.add(name, 1) == self.counts[name] + 1
                self.counts[name] += 1
        self._ended.append(name)

    def wait_for_progress(self) -> None:
        before = dict(self.counts)
        until("every client counts on", lambda: all(done > before[name] for name, done in self.counts.items()))

    def stop(self) -> None:
        """End them; none has failed."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        assert sorted(self._ended) == sorted(self.counts)


@contextlib.contextmanager
def counting(port: int) -> Iterator[Counting]:
    """Let clients count; they have ended afterwards, and the store has what they have counted."""
    running = Counting(port)
    try:
        yield running
    finally:
        running.stop()
    with plain(port) as store:
        assert {name: store.add(name, 0) for name in running.counts} == running.counts


def outlive_kills(folder: str, kills: int, front: Callable[[str], tuple[str, ...]]) -> None:
    """Kill a durable server again and again behind a relay or a gateway whose clients count, and wait for a key.

    Args:
        folder: the server's data.
        kills: how often.
        front: gives the command and its arguments, of the server's endpoint.
    """
    with contextlib.ExitStack() as opened:
        server, server_port = opened.enter_context(started("serve", "--data-dir", folder))
        process, port = opened.enter_context(started(*front(f"127.0.0.1:{server_port}")))
        store, other = (opened.enter_context(plain(port)) for _ in range(2))
        waiting = threading.Thread(target=store.wait, args=(["released"],))
        waiting.start()
        with counting(port) as clients:
            for _ in range(kills):
                clients.wait_for_progress()
                server.kill()
                server.wait()
                server, _ = opened.enter_context(started("serve", "--data-dir", folder, port=server_port))
            clients.wait_for_progress()
        other.set("released", "1")
        waiting.join(PATIENCE_S)
        assert not waiting.is_alive()
        assert process.poll() is None


@contextlib.contextmanager
def relayed(*relay_arguments: str) -> Iterator[Relayed]:
    """Run both."""
    with (
        started("serve") as (server, server_port),
        started("relay", f"127.0.0.1:{server_port}", *relay_arguments) as (relay, port),
    ):
        yield Relayed(server, relay, server_port, port)
