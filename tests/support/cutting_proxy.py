"""A proxy in front of a server that cuts connections after so many bytes, in either direction."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

__all__ = ["CuttingProxy"]

_CHUNK_SIZE = 65536
_RESET = struct.pack("ii", 1, 0)


class CuttingProxy:
    """A listening socket that passes bytes on to a server and back.

    Args:
        port: the server's, on this machine.
        cuts: asked with the number of each new connection, from 0 on; gives how many bytes may pass from the client and
            how many from the server before the connection is reset on both sides, ``None`` for any number.

    Attributes:
        port: where it listens.
        connections: how many have come.
    """

    def __init__(self, port: int, cuts: Callable[[int], tuple[int | None, int | None]]) -> None:
        self._server_port = port
        self._cuts = cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._open: set[socket.socket] = set()
        self._is_ending = False
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._is_ending:
                client.close()
                return
            number, self.connections = self.connections, self.connections + 1
            thread = threading.Thread(target=self._pass_on, args=(client, *self._cuts(number)))
            self._threads.append(thread)
            thread.start()

    def _pass_on(self, client: socket.socket, to_server: int | None, to_client: int | None) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._server_port))
        except OSError:
            self._cut(client)
            return
        left = {client: to_server, server: to_client}
        self._open |= {client, server}
        with contextlib.suppress(OSError):
            while True:
                for source in select.select([client, server], [], [])[0]:
                    target = server if source is client else client
                    may_pass = left[source]
                    data = source.recv(_CHUNK_SIZE if may_pass is None else min(_CHUNK_SIZE, may_pass) or 1)
                    if not data:
                        raise ConnectionResetError
                    if may_pass is not None:
                        data = data[:may_pass]
                        left[source] = may_pass - len(data)
                    target.sendall(data)
                    if left[source] == 0:
                        raise ConnectionResetError
        self._open -= {client, server}
        self._cut(client)
        self._cut(server)

    @staticmethod
    def _cut(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        sock.close()

    def cut_all(self) -> None:
        """End every connection that is open now."""
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_ending = True
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port)).close()
        self._accepting.join()
        self._listener.close()
        self.cut_all()
        for thread in self._threads:
            thread.join()
