"""Unix domain sockets: files, and the local name under which a TCP server offers itself to its own machine.

Files are made for their owner, replaced when their server is dead, and removed at the end.

A file is *stale* when connecting to it is refused: nobody listens behind it. Judging and replacing happen under a
lock on the folder, so that two servers that start at once do not remove each other's file; the lock is the folder's
own (``flock``), so nothing is left behind.

A *local name* is an abstract one (Linux), a zero byte and ``rallypoint/PORT``; no file. As the port it is a network
namespace's own, whoever reaches that port reaches it, and it is gone with its server. It does not prove who listens
there: a client makes sure. ``RALLYPOINT_UNIX=0`` turns it off, for servers and for clients.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator

__all__ = [
    "ROOT",
    "UNIX_PREFIX",
    "bind_socket_file",
    "has_local_names",
    "is_guarded",
    "listen_locally",
    "local_name",
    "peer_user",
    "remove_stale_file",
]

UNIX_PREFIX = "unix:"
"""How a host string says that it is the path of a Unix domain socket."""


ROOT = 0
"""The user whose processes everybody trusts."""

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def peer_user(sock: socket.socket) -> int:
    """Give the user of the process at the other end of a connection, by its number; Linux only.

    Raises:
        OSError: if the system does not say.
    """
    uid: int
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return uid


def is_guarded(sock: socket.socket) -> bool:
    """Tell whether only this user, root, and whomever the file system lets can have made a connection to us.

    A file has permissions, a local name has none: there the system is asked who it is.

    Args:
        sock: accepted, of a Unix domain socket.
    """
    try:
        name = sock.getsockname()
        return isinstance(name, str) or peer_user(sock) in (os.geteuid(), ROOT)
    except OSError:
        return False


def local_name(port: int) -> bytes:
    """Give the abstract name under which the server of a TCP port offers itself to its own machine."""
    return b"\0rallypoint/%d" % port


def has_local_names() -> bool:
    """Tell whether local names are to be used: the system has them, and ``RALLYPOINT_UNIX`` does not say ``0``."""
    return sys.platform == "linux" and os.environ.get("RALLYPOINT_UNIX", "") != "0"


def listen_locally(port: int, backlog: int) -> socket.socket | None:
    """Listen on a port's local name; ``None`` if that cannot be, which is no error: the port itself serves.

    Args:
        port: a TCP port that the caller listens on.
        backlog: connections that may wait to be accepted.
    """
    if not has_local_names():
        return None
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError:
        return None
    try:
        sock.bind(local_name(port))
        sock.listen(backlog)
    except OSError:  # another server has it, on another address with this port
        sock.close()
        return None
    return sock


def bind_socket_file(path: str, backlog: int) -> socket.socket:
    """Listen on a socket file that only its owner may use; a stale one is replaced.

    Args:
        path: where the file goes; its folder must exist.
        backlog: connections that may wait to be accepted.

    Raises:
        OSError: ``EADDRINUSE`` if a living server or a file of another kind is there; whatever else ``bind`` says.
    """
    from pathlib import Path  # in each function: loading it takes longer than all the rest that a server process needs

    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(OSError):  # Linux takes the file's mode from here; elsewhere the umask decides
            os.fchmod(sock.fileno(), 0o600)
        with _locked_folder(path):
            if _is_stale(path):
                Path(path).unlink()
            sock.bind(path)
            sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def remove_stale_file(path: str) -> None:
    """Remove a socket file if nobody listens on it; call it after the listener was closed."""
    from pathlib import Path

    # A folder that is gone or may not be written is no harm: the next server meets a stale file, and replaces it.
    with contextlib.suppress(OSError), _locked_folder(path):
        if _is_stale(path):
            Path(path).unlink()


def _is_stale(path: str) -> bool:
    """Tell whether a path is a socket file that nobody listens on."""
    from pathlib import Path

    try:
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False  # alive with a full backlog, or not ours to judge
    return False


@contextlib.contextmanager
def _locked_folder(path: str) -> Iterator[None]:
    """Let one process at a time judge and replace the socket files of a folder."""
    import fcntl
    from pathlib import Path

    fd = os.open(Path(path).parent, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
