"""How a client reaches its server: over TCP, or by the short cut of a Unix domain socket if both are on one machine.

A server offers itself to its own machine under a local name (``net.unix``). Whoever listens there need not be the
server that was meant: another one may have the same port on another address, or the name was taken by a stranger. So a
client connects to the server over TCP first, and takes the short cut only if

- the other end of the TCP connection has our own address, and something listens under the local name of its port,
- as a process of our own user or of root,
- and it is the same store: an item that we put into a queue of a random name over TCP comes out at the other end.

Otherwise it stays with TCP. ``RALLYPOINT_UNIX=0`` turns all this off.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from rallypoint.clock import Deadline
from rallypoint.errors import DistError, QueueEmptyError
from rallypoint.net.stream import Stream
from rallypoint.net.unix import ROOT, has_local_names, local_name, peer_user
from rallypoint.protocol import client
from rallypoint.server.limits import SPIN_US_MAX
from rallypoint.store.connection import Connection, ping, shake_hands
from rallypoint.store.connection import connect as connect_directly
from rallypoint.store.hosting import server_spin_us
from rallypoint.types import Endpoint

if TYPE_CHECKING:
    from rallypoint.net.tls import Tls

__all__ = ["PROOF_S_MAX", "call_locally", "connect", "spin_time_us"]

PROOF_S_MAX = 1.0
"""How long the server may take to prove that it is the same at both ends, in seconds; else TCP it is."""


def spin_time_us(asked: int | None) -> int:
    """Give how long a client looks for its reply before it sleeps: as asked, else as ``RALLYPOINT_SPIN_US`` says.

    Raises:
        TypeError: if ``asked`` is no ``int``.
        ValueError: for a time below 0 or above ``SPIN_US_MAX``.
    """
    if asked is None:
        return server_spin_us()
    if isinstance(asked, bool) or not isinstance(asked, int):
        raise TypeError(f"spin_us must be an int, not {type(asked).__name__}")
    if not 0 <= asked <= SPIN_US_MAX:
        raise ValueError(f"spin_us must be from 0 to {SPIN_US_MAX} microseconds, not {asked}")
    return asked


def connect(
    endpoint: Endpoint,
    timeout_s: float,
    *,
    via: Endpoint | None = None,
    spin_us: int = 0,
    is_direct: bool = False,
    tls: Tls | None = None,
) -> Connection:
    """Connect to a server by the shortest way.

    Args:
        endpoint: the server, as everybody calls it.
        timeout_s: seconds for everything together; 0 looks once.
        via: where this process reaches it.
        spin_us: how long to look for a reply before sleeping, in microseconds.
        is_direct: over TCP only, and ask the server nothing but the handshake.
        tls: the files to secure the connection with; then it stays with TCP.

    Raises:
        ConnectTimeoutError: if nobody answered as a store does.
    """
    connection = connect_directly(endpoint, timeout_s, via=via, tls=tls)
    if not is_direct and tls is None and has_local_names():
        try:
            shorter = _short_cut(connection)
        except DistError:  # TCP failed, not the short cut
            connection.close()
            return connect(endpoint, timeout_s, via=via, spin_us=spin_us, is_direct=True)
        except BaseException:
            connection.close()
            raise
        if shorter is not None:
            connection.close()
            connection = shorter
    connection.stream.spin_us = spin_us
    return connection


def _short_cut(direct: Connection) -> Connection | None:
    stream = direct.stream
    local, peer = stream.local, stream.peer
    if local.host != peer.host or peer.port == 0:
        return None
    sock = call_locally(peer.port)
    if sock is None:
        return None
    shorter = Connection(Stream(sock, stream.endpoint, ends=(local, peer)))
    try:
        is_same = _is_same(direct, shorter)
    except BaseException:
        shorter.close()
        raise
    if is_same:
        return shorter
    shorter.close()
    return None


def call_locally(port: int) -> socket.socket | None:
    """Connect to a port's local name, if somebody trustworthy listens there."""
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError:  # no descriptor is left
        return None
    try:
        sock.setblocking(False)  # a full backlog is no reason to wait
        sock.connect(local_name(port))
        if peer_user(sock) in (os.geteuid(), ROOT):
            return sock
    except OSError:
        pass
    sock.close()
    return None


def _is_same(direct: Connection, other: Connection) -> bool:
    """Tell whether two connections lead to one store; errors are those of ``direct``."""
    deadline = Deadline(PROOF_S_MAX)
    try:
        shake_hands(other.stream, deadline)
    except DistError:
        return False
    name, item = b"rallypoint/route/" + os.urandom(16).hex().encode(), os.urandom(16)
    direct.begin(client.queue_push(name, item), deadline, [])
    direct.begin(ping(), deadline, [])
    found: list[bytes] = []
    with contextlib.suppress(DistError):
        other.begin(client.queue_pop(name, is_blocking=False), deadline, found)
    if found == [item]:
        return True
    with contextlib.suppress(QueueEmptyError):
        direct.begin(client.queue_pop(name, is_blocking=False), deadline, [])
    return False
