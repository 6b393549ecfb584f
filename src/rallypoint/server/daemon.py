"""Servers that run beside a program: in a thread, or in a child process of their own.

The compiled server runs in a thread, which needs no interpreter lock. The Python one runs in a child process by
default, because a thread of its own shares the lock: beside busy Python code it answers late.

A server with TCP listeners offers itself to its own machine under a local name too (``net.unix``).

The child's life, seen from its owner::

    start_server: listeners are bound already, errors are the caller's at once
        --> spawn: fresh interpreter, own session (a terminal's Ctrl-C is not for it), listeners inherited
        --> what it is to want of those who connect, if anything, on the control socket: there are secrets in it
        <-- READY on the control socket; the owner's copies of the listeners are closed, so that a dead server
            refuses connections instead of letting them hang
    close, garbage collection or exit of the owner
        --> one byte on the control socket: the child drains and ends; the owner reaps it
    exit of the owner while its daemon threads may be waiting on the server, or the owner is killed
        --> the child notices by itself (see ``child``) and ends

A process forked from the owner inherits the handle but does not own the server: it never stops it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import rallypoint
from rallypoint.clock import SYSTEM_CLOCK, Deadline
from rallypoint.errors import DistStoreError
from rallypoint.net.address import BACKLOG, UNIX_PREFIX, close_listener, format_endpoint, local_endpoint
from rallypoint.net.unix import listen_locally, remove_stale_file
from rallypoint.server.child import FAILED, READY, SECURED, pack_secrets
from rallypoint.server.descriptors import above_standard, standard_error
from rallypoint.server.limits import DEFAULT_LIMITS, DRAIN_S, Limits
from rallypoint.server.native import Loop, NativeLoop, make_loop
from rallypoint.server.refusals import log_line
from rallypoint.types import Endpoint

if TYPE_CHECKING:
    import subprocess

    from rallypoint.server.security import Security

__all__ = ["CLOSE_S", "START_S", "ServerHandle", "ServerMode", "local_offers", "start_server"]

ServerMode: TypeAlias = Literal["process", "thread"]

START_S = 60.0
"""How long a server process may take to come up, in seconds; on an idle machine it takes 0.05."""

CLOSE_S = DRAIN_S + 1.0
"""How long a server may take to end before it is killed, in seconds."""

_REAP_S = 5.0  # a killed process is reaped in far less
_SLICE_S = 0.05
_SETTLE_S = 0.05  # for a server in a thread to serve what was sent to it before the exit
_BOOTSTRAP = "import sys; sys.path.append(sys.argv[1]); from rallypoint.server.child import main; main(sys.argv[3:])"
_LABEL = "rallypoint-server"  # what ``ps`` shows

_loops_of_threads: weakref.WeakSet[Loop] = weakref.WeakSet()


class ServerHandle:
    """A server beside this program; made by ``start_server``.

    Attributes:
        endpoint: where it listens, first listener first.
        pid: the process that it runs in.
        mode: ``"process"`` or ``"thread"``.

    Threads: any.
    """

    def __init__(  # noqa: PLR0917 - one server's facts, made in two places of this file
        self,
        endpoint: Endpoint,
        pid: int,
        mode: ServerMode,
        is_running: Callable[[], bool],
        end: Callable[[], None],
        leave: Callable[[], None],
    ) -> None:
        self.endpoint = endpoint
        self.pid = pid
        self.mode = mode
        self._is_running = is_running
        self._leave = leave
        self._finalizer = weakref.finalize(self, end)
        self._finalizer.atexit = False
        _handles.add(self)

    @property
    def port(self) -> int:
        """The TCP port; 0 for a socket file."""
        return self.endpoint.port

    def is_running(self) -> bool:
        """Tell whether the server is there."""
        return self._finalizer.alive and self._is_running()

    def close(self) -> None:
        """End the server and wait until it has ended, ``CLOSE_S`` at most; later calls do nothing.

        In a process forked from the owner only the inherited descriptors are closed.
        """
        detached = self._finalizer.detach()  # calling it does nothing once the interpreter has begun to end
        if detached is not None:
            detached[1]()

    def leave(self) -> None:
        """Let go of the server at the end of this process, without disturbing anybody: it ends right after it."""
        if self._finalizer.detach() is not None:
            self._leave()

    def __repr__(self) -> str:
        state = "running" if self.is_running() else "ended"
        return f"ServerHandle({self.endpoint}, {self.mode} {self.pid}, {state})"


_handles: weakref.WeakSet[ServerHandle] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """End the servers with the interpreter.

    Daemon threads still run then. One that waits on a server would lose it, and print that while all else ends: so
    where there are such threads, the servers end after the process, which takes the threads along silently.
    """
    is_anybody_there = any(
        thread is not threading.main_thread() and not thread.name.startswith(_LABEL) for thread in threading.enumerate()
    )
    for handle in list(_handles):
        (handle.leave if is_anybody_there else handle.close)()


def start_server(
    listeners: Sequence[socket.socket],
    mode: ServerMode = "process",
    limits: Limits = DEFAULT_LIMITS,
    *,
    spin_us: int = 0,
    security: Security | None = None,
) -> ServerHandle:
    """Start a server beside this program.

    Args:
        listeners: at least one, from ``rallypoint.net.address``; they belong to the server from now on, also if it does
            not start.
        mode: ``"process"`` for a child process, ``"thread"`` for a thread of this one.
        limits: what peers are granted.
        spin_us: after each request, look for the next one for so long before sleeping, in microseconds.
        security: what those who connect must prove, and may do; ``None`` for nothing and everything.

    Returns:
        The server, accepting connections. It ends by ``close``, when the handle is collected, and with this process.

    Raises:
        DistStoreError: if the child process cannot be started, or does not serve within ``START_S``.
    """
    endpoint = local_endpoint(listeners[0])
    listeners = [*listeners, *local_offers(listeners)]
    try:
        if mode == "thread":
            return _start_thread(endpoint, listeners, limits, spin_us, security)
        return _start_process(endpoint, listeners, limits, spin_us, security)
    except BaseException:
        for listener in listeners:
            close_listener(listener)
        raise


def local_offers(listeners: Sequence[socket.socket]) -> list[socket.socket]:
    """Listen on the local name of each listener's TCP port, where that can be; give the new listeners."""
    ports = dict.fromkeys(local_endpoint(listener).port for listener in listeners if listener.family != socket.AF_UNIX)
    offers = (listen_locally(port, BACKLOG) for port in ports)
    return [offer for offer in offers if offer is not None]


# --- in a thread -----------------------------------------------------------------------------------------


def _start_thread(
    endpoint: Endpoint, listeners: Sequence[socket.socket], limits: Limits, spin_us: int, security: Security | None
) -> ServerHandle:
    name = f"rallypoint server on {format_endpoint(endpoint)}"  # for a log that is the program's

    def log(line: str) -> None:
        log_line(f"{name}: {line}")

    try:
        loop = make_loop(limits, listeners, spin_us=spin_us, log=log, security=security)
        if isinstance(loop, NativeLoop):
            loop.start()  # now, not when its ear gets its turn to run Python code
    except (OSError, ValueError) as error:
        raise DistStoreError(f"the server could not be started: {error}") from error
    thread = threading.Thread(target=loop.run, name=f"{_LABEL}-{endpoint.port}", daemon=True)
    thread.start()
    _loops_of_threads.add(loop)
    owner_pid = os.getpid()

    def end() -> None:
        if os.getpid() == owner_pid:
            loop.stop()
            thread.join(CLOSE_S)

    def leave() -> None:
        if os.getpid() == owner_pid:
            SYSTEM_CLOCK.sleep(_SETTLE_S)
            path = _socket_file(endpoint)
            if path is not None:
                with contextlib.suppress(OSError):  # its folder may be gone
                    Path(path).unlink()

    return ServerHandle(endpoint, owner_pid, "thread", thread.is_alive, end, leave)


def _socket_file(endpoint: Endpoint) -> str | None:
    return endpoint.host[len(UNIX_PREFIX) :] if endpoint.host.startswith(UNIX_PREFIX) else None


def _abandon_loops() -> None:
    """In a forked child: let go of the parent's sockets, which would otherwise outlive the parent here."""
    for loop in list(_loops_of_threads):
        loop.abandon()
    _loops_of_threads.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_loops)


# --- in a process ----------------------------------------------------------------------------------------


def _start_process(
    endpoint: Endpoint, listeners: Sequence[socket.socket], limits: Limits, spin_us: int, security: Security | None
) -> ServerHandle:
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = _spawn(theirs.fileno(), listeners, limits, spin_us, is_secured=security is not None)
    except BaseException:
        ours.close()
        raise
    path = _socket_file(endpoint)
    owner_pid = os.getpid()

    def end() -> None:
        with ours:
            if os.getpid() != owner_pid:
                process.returncode = 0  # not our child: nothing to reap, nothing to warn of
                return
            _end_process(process, ours)
            if path is not None:
                remove_stale_file(path)  # if it was killed and could not

    def leave() -> None:
        ours.detach()  # open until the process is gone, which the child sees
        process.returncode = 0  # nobody will reap it, nothing to warn of

    handle = ServerHandle(endpoint, process.pid, "process", lambda: process.poll() is None, end, leave)
    try:
        if security is not None:
            with contextlib.suppress(ConnectionError):  # it has ended already; why, is asked next
                ours.sendall(pack_secrets(security.pack()))
        _await_ready(process, ours)
    except BaseException:
        handle.close()
        raise
    for listener in listeners:
        listener.close()
    return handle


def _spawn(
    control_fd: int, listeners: Sequence[socket.socket], limits: Limits, spin_us: int, *, is_secured: bool
) -> subprocess.Popen[bytes]:
    import json  # with the next one: a server in a thread starts without them
    import subprocess

    if not sys.executable or getattr(sys, "frozen", False):
        raise DistStoreError("no Python interpreter to run a server process with is known: run the server in a thread")
    defaults = asdict(DEFAULT_LIMITS)
    changed = {name: value for name, value in asdict(limits).items() if value != defaults[name]}
    # -I and -S: nothing of the program's environment, folder or site is imported; the package is found by its path.
    command = [sys.executable, "-I", "-S", *(["-B"] if sys.dont_write_bytecode else []), "-c", _BOOTSTRAP]
    command += [str(Path(rallypoint.__path__[0]).resolve().parent), _LABEL]
    try:
        with contextlib.ExitStack() as copies:
            control, *fds = (
                copies.enter_context(above_standard(fd))
                for fd in (control_fd, *(listener.fileno() for listener in listeners))
            )
            command += [str(control), str(os.getpid()), ",".join(map(str, fds)), json.dumps(changed) if changed else ""]
            command += [str(spin_us), *([SECURED] if is_secured else [])]
            return subprocess.Popen(  # noqa: S603 - our own interpreter and code
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=standard_error(),
                pass_fds=(control, *fds),
                start_new_session=True,
            )
    except OSError as error:
        raise DistStoreError(f"the server process could not be started: {error}") from error


def _await_ready(process: subprocess.Popen[bytes], control: socket.socket) -> None:
    deadline = Deadline(START_S)
    control.settimeout(_SLICE_S)
    said = b""
    while True:
        try:
            heard = control.recv(4096)
        except TimeoutError:
            # A process forked just now may hold the other end too: its silence is no sign of life.
            if process.poll() is None and not deadline.has_passed():
                continue
            heard = b""
        said += heard
        if said == READY:
            return
        if not heard:
            raise DistStoreError(_why_not_started(process, said))


def _why_not_started(process: subprocess.Popen[bytes], said: bytes) -> str:
    from subprocess import TimeoutExpired

    if said.startswith(FAILED):
        return f"the server process {process.pid} did not start: {said[1:].decode(errors='replace')}"
    try:
        code = process.wait(_SLICE_S)
    except TimeoutExpired:
        return f"the server process {process.pid} did not serve within {START_S:g} s"
    return f"the server process {process.pid} ended with exit code {code} before it served"


def _end_process(process: subprocess.Popen[bytes], control: socket.socket) -> None:
    """Ask the child to end, make it end, and reap it."""
    from subprocess import TimeoutExpired

    deadline = Deadline(CLOSE_S)
    control.settimeout(_SLICE_S)
    with contextlib.suppress(ConnectionError):  # it ends already
        control.send(b"\0")
    while process.poll() is None and not deadline.has_passed():
        try:
            if not control.recv(4096):  # the end of the child closes its side: quicker than asking for it
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    try:
        process.wait(max(_SLICE_S, deadline.remaining_s()))
    except TimeoutExpired:
        process.kill()
    try:
        process.wait(_REAP_S)
    except TimeoutExpired as error:
        raise DistStoreError(
            f"the server process {process.pid} was killed, and has not ended {_REAP_S:g} s later"
        ) from error
