"""Attacks of those who say that they are somebody: by a wrong token, by somebody else's words, by a bad certificate."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Generator
from pathlib import Path
from typing import Any

from benchmarks.peers import HOST
from benchmarks.strangers import VALIDATE, Attack, hello, hello_frame, read_exactly
from rallypoint.net.tls import Tls, client_context
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.session.auth import Token
from rallypoint.protocol.session.handshake import handshake
from rallypoint.protocol.session.spec import Status
from rallypoint.protocol.spec import Verb

__all__ = ["EXPIRED", "FOREIGN", "TOKEN_FILE", "ExpiredCertificate", "ForeignCertificate", "Replay", "WrongToken"]

TOKEN_FILE = "token"
EXPIRED, FOREIGN = "expired", "foreign"
"""Files of certificates and keys; that of the authority is ``ca.pem``."""


def is_welcome(data: bytes) -> bool:
    """Tell whether an OK is among a server's frames."""
    at = 0
    while at + 5 <= len(data):
        (size,) = struct.unpack_from("<I", data, at)
        if data[at + 4] == Status.OK:
            return True
        at += 4 + size
    return False


def read_to_end(sock: socket.socket) -> bytes:
    """Give all that a server says until it closes, or has welcomed us."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while part := sock.recv(4096):
            data += part
            if is_welcome(data):
                break
    return data


def play(sock: socket.socket, talk: Generator[Any, bytes, Any]) -> bytes:
    """Go through a handshake; give all that was sent."""
    sent, step = b"", next(talk)
    with contextlib.suppress(StopIteration):
        while True:
            if isinstance(step, bytes):
                sock.sendall(step)
                sent += step
                step = next(talk)
                continue
            answer = read_exactly(sock, step)
            if len(answer) < step:
                raise ConnectionResetError("the server has closed")
            step = talk.send(answer)
    return sent


class Impostor(Attack):
    """Each fourth time tries torch's dialect, which proves nothing; else ``pretend`` counts who got ``inside``."""

    def strike(self, number: int) -> None:
        with self.connect() as sock:
            if number % 4 == 3:
                sock.sendall(VALIDATE + encode_request(Verb.GET, b"/honest"))
                self.inside += bool(read_to_end(sock))
            else:
                self.pretend(sock)

    def pretend(self, sock: socket.socket) -> None:
        """Try to be let in over this connection."""
        raise NotImplementedError


class WrongToken(Impostor):
    """Proves itself by another token."""

    def pretend(self, sock: socket.socket) -> None:
        talk = handshake(hello(), Token(os.urandom(16).hex()))
        with contextlib.suppress(ConnectionError, RuntimeError):
            play(sock, talk)
            self.inside += 1


class Replay(Attack):
    """Says again what a client with the right token has said."""

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(port, folder)
        token = Token((folder / TOKEN_FILE).read_bytes())
        with self.connect() as sock:
            self._recorded = play(sock, handshake(hello(), token))

    def strike(self, number: int) -> None:  # noqa: ARG002 - all the same
        with self.connect() as sock:
            sock.sendall(self._recorded)
            self.inside += is_welcome(read_to_end(sock))


class ExpiredCertificate(Impostor):
    """Brings a certificate of the right authority that has expired; each fourth time comes without TLS."""

    rate = 50.0
    name = EXPIRED

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(port, folder)
        own = folder / self.name
        self._context = client_context(Tls(str(folder / "ca.pem"), f"{own}.pem", f"{own}.key"))

    def pretend(self, sock: socket.socket) -> None:
        refusals = contextlib.suppress(OSError)  # as an SSLError is
        with refusals, self._context.wrap_socket(sock, server_hostname=HOST) as secured:
            secured.sendall(hello_frame(hello()))
            self.inside += is_welcome(secured.recv(4096))


class ForeignCertificate(ExpiredCertificate):
    """Brings a certificate of another authority."""

    name = FOREIGN
