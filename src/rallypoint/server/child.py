"""The server process behind an embedded server: what ``daemon.start_server`` runs in a fresh interpreter.

It is started with two kinds of inherited descriptors: the listening sockets, and one end of the *control* socket
pair. There it is told, if its last argument is ``SECURED``, what it is to want of those who connect (``security``):
secrets, which no list of processes may show. Then it says ``READY`` once it serves, or ``FAILED`` and a sentence.
Anything that can be read there afterwards, the end of the stream included, means: stop.

The end of the stream alone would not do: whatever the owner forks inherits its end of the pair and keeps it open.
So the death of the owner is watched directly too, by a ``pidfd`` where the system has them, else by asking each second
whether this process was handed to another parent.

This module imports as little as it can: its start is part of the start of every embedded server.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from rallypoint.server.descriptors import is_standard_stream, widen_table
from rallypoint.server.limits import DEFAULT_LIMITS, Limits
from rallypoint.server.native import Loop, make_loop
from rallypoint.twin import native

if TYPE_CHECKING:
    from rallypoint.server.security import Security

__all__ = [
    "FAILED",
    "ORPHAN_CHECK_S",
    "READY",
    "SECURED",
    "collect_seldom",
    "keep_memory",
    "log_to_stderr",
    "main",
    "pack_secrets",
    "raise_descriptor_limit",
]

FULL_COLLECTION_EVERY = 100_000
"""Collections of the middle generation before one of all, in a process that does nothing but serve."""

KEPT_SIZE = 32 << 20
"""Bytes of freed memory that such a process keeps at hand, about."""

READY = b"+"
FAILED = b"-"
SECURED = "secured"

ORPHAN_CHECK_S = 1.0
"""How often to ask for the parent where the system cannot tell of its death, in seconds."""

DESCRIPTORS_MAX = 1 << 20
"""Open files to ask for at most."""

_SIZE = struct.Struct("<Q")


def main(arguments: Sequence[str]) -> None:
    """Run the server process.

    Args:
        arguments: the control descriptor; the owner's process id; the listeners' descriptors, joined by commas; the
            limits that differ from the defaults, as a JSON object, or nothing; microseconds to spin; ``SECURED``, if
            there are secrets to come.
    """
    with socket.socket(fileno=int(arguments[0])) as control:
        try:
            limits = _read_limits(arguments[3])
            security = _read_security(control) if SECURED in arguments[5:] else None
            listeners = [socket.socket(fileno=int(fd)) for fd in arguments[2].split(",")]
            raise_descriptor_limit()
            widen_table()
            collect_seldom()
            keep_memory()
            spin_us = int(arguments[4])
            try:
                loop = make_loop(limits, listeners, spin_us=spin_us, log=log_to_stderr, security=security)
            except ValueError as error:  # of a file that was named, as the sentence says: nothing of ours to be traced
                control.sendall(FAILED + str(error).encode())
                raise SystemExit(1) from None
            _prepare(loop, control, int(arguments[1]))
        except Exception as error:
            control.sendall(FAILED + f"{type(error).__name__}: {error}".encode())
            raise
        with contextlib.suppress(ConnectionError):  # the owner has ended meanwhile; the loop hears of it at once
            control.sendall(READY)
        loop.run()


def _prepare(loop: Loop, control: socket.socket, owner_pid: int) -> None:
    """Let the loop stop when the owner says so or is gone, and on signals."""

    def on_control() -> None:
        with contextlib.suppress(ConnectionError):
            control.recv(1)  # unread, it would turn the end of this process into a reset
        loop.stop()

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the shape of signal handlers
        loop.stop()

    loop.watch(control.fileno(), on_control)
    _watch_owner(loop, owner_pid)
    # A terminal's Ctrl-C does not come here, in a session of its own; whoever sends these means this process.
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})


def pack_secrets(secrets: bytes) -> bytes:
    """Give what goes to the child's control socket. Shape: ``u64 size · secrets``."""
    return _SIZE.pack(len(secrets)) + secrets


def _read_security(control: socket.socket) -> Security:
    from rallypoint.server.security import Security

    (size,) = _SIZE.unpack(_read(control, _SIZE.size))
    return Security.unpack(_read(control, size))


def _read(control: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = control.recv(size - len(data))
        if not part:
            raise ConnectionError("its owner is gone")
        data += part
    return data


def _read_limits(text: str) -> Limits:
    if not text:
        return DEFAULT_LIMITS
    import json

    return Limits(**json.loads(text))


def _watch_owner(loop: Loop, owner_pid: int) -> None:
    """Stop the loop when the owner is gone, however it went."""

    def stop_if_orphaned() -> None:
        if os.getppid() != owner_pid:
            loop.stop()

    pidfd_open: Callable[[int], int] | None = getattr(os, "pidfd_open", None)
    pidfd = -1
    if pidfd_open is not None:
        with contextlib.suppress(OSError):  # an old kernel, or a sandbox without it
            pidfd = pidfd_open(owner_pid)
    if pidfd >= 0:
        loop.watch(pidfd, loop.stop)
    else:
        loop.every(ORPHAN_CHECK_S, stop_if_orphaned)
    stop_if_orphaned()  # it may have died before it was watched, and its number may be another's by now


def raise_descriptor_limit() -> None:
    """Let a process that does nothing but serve open as many files as it may: one a peer."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS has another, lower bound: the soft limit stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def collect_seldom() -> None:
    """Have this process, which does nothing but serve, look through all of its objects next to never for cycles.

    With thousands of connections that takes 20 ms each time, and it would come often while they come. What a server
    drops goes at once, by its count; cycles that die young are found as ever.
    """
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_COLLECTION_EVERY)


def keep_memory() -> None:
    """Have this process, which does nothing but serve, keep freed memory for the next large replies.

    What is given back to the system and asked for again it has to clear and to map anew: a fifth of a server's time
    while 512 members exchange what they have, through relays.
    """
    module = native()
    if module is not None:
        module.keep_memory(KEPT_SIZE)


def log_to_stderr(message: str) -> None:
    """Write one line, unless that would make the server wait for whoever reads its error output."""
    line = f"rallypoint server {os.getpid()}: {message}\n"
    poll = select.poll()
    try:
        if sys.__stderr__ is None and not is_standard_stream(2):
            return
        fd = sys.__stderr__.fileno() if sys.__stderr__ is not None else 2
        poll.register(fd, select.POLLOUT)
        if poll.poll(0):
            os.write(fd, line.encode(errors="replace"))
    except (OSError, ValueError):
        pass  # closed: nobody wants to know
