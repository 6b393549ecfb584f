"""``rallypoint serve`` as a process, and owners of embedded servers as processes, for tests that kill them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

from tests.support.raw_server import PATIENCE_S

__all__ = ["free_port", "running_owner", "served", "wait_until_gone"]


def free_port() -> int:
    """Give a port that the system gives to nobody by itself: clients of a dead server could connect to themselves."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@contextlib.contextmanager
def served(
    *arguments: str, before: Callable[[], None] | None = None
) -> Iterator[tuple[subprocess.Popen[str], dict[str, str | int]]]:
    """Run ``rallypoint serve --ready-json``; give the process and its ready line. It is gone afterwards."""
    command = [sys.executable, "-m", "rallypoint", "serve", "--ready-json", *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,  # noqa: PLW1509 - a test
    )
    with process:
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield process, json.loads(line)
        finally:
            process.kill()


@contextlib.contextmanager
def running_owner(script: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Run a script that owns a server and prints numbers in one line; give the process and the numbers."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", script]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield process, [int(word) for word in line.split()]
        finally:
            process.kill()


def wait_until_gone(pid: int) -> None:
    """Wait for the end of a process that need not be our child."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], PATIENCE_S)[0], f"process {pid} is still there"
    finally:
        os.close(pidfd)
