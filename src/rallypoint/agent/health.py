"""A port that says whether the agent lives, for whoever restarts what does not answer.

An agent opens it if ``TORCHELASTIC_HEALTH_CHECK_PORT`` is set. Any GET is answered: 200 if the agent's loop has turned
within the last ``timeout`` seconds, 503 if not, with the numbers as JSON.

Source: names and signatures of torch 2.13.0, whose server of this name opens nothing.
"""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus

from rallypoint.events import emit

__all__ = ["HEALTH_PORT_ENV", "HealthCheckServer", "create_healthcheck_server", "served_health"]

HEALTH_PORT_ENV = "TORCHELASTIC_HEALTH_CHECK_PORT"
"""The variable that asks an agent for a port."""

ALIVE_S = 30
"""How long an agent's loop may stand still, in seconds, before it counts as dead."""

REQUEST_S = 5.0
"""How long one request may take, in seconds: a peer that says nothing must not keep others from being answered."""


class HealthCheckServer:
    """Answers whether something lives, in a thread of its own.

    Args:
        alive_callback: gives when it last lived, in whole seconds since 1970.
        port: where to listen, on all addresses; 0 for any free port.
        timeout: how many seconds ago that may be.
    """

    def __init__(self, alive_callback: Callable[[], int], port: int, timeout: int) -> None:
        self._alive_callback = alive_callback
        self._port = port
        self._timeout = timeout
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def alive_callback(self) -> Callable[[], int]:
        """What gives the time of the last sign of life."""
        return self._alive_callback

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port if self._server is None else self._server.server_address[1]

    def start(self) -> None:
        """Begin to answer.

        Raises:
            OSError: if the port cannot be listened on.
        """
        self._server = _Server(("", self._port), self._is_alive)
        self._thread = threading.Thread(target=self._server.serve_forever, name="rallypoint-health", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port. Calling it twice, or before the start, does no harm."""
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            server.shutdown()
            self._thread.join()
            server.server_close()

    def _is_alive(self) -> tuple[bool, dict[str, int]]:
        last = self._alive_callback()
        return time.time() - last <= self._timeout, {"last_alive": last, "timeout_s": self._timeout}


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], is_alive: Callable[[], tuple[bool, dict[str, int]]]) -> None:
        self.is_alive = is_alive
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: that looks up this host's name, which may take long and is used for nothing here.
        socketserver.TCPServer.server_bind(self)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    timeout = REQUEST_S

    def do_GET(self) -> None:
        is_alive, numbers = self.server.is_alive()
        body = json.dumps({"alive": is_alive} | numbers).encode()
        self.send_response(HTTPStatus.OK if is_alive else HTTPStatus.SERVICE_UNAVAILABLE)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's signature
        """Say nothing: a probe comes every few seconds."""


def create_healthcheck_server(alive_callback: Callable[[], int], port: int, timeout: int) -> HealthCheckServer:
    """Make a server; see ``HealthCheckServer``."""
    return HealthCheckServer(alive_callback, port, timeout)


@contextmanager
def served_health(
    own: HealthCheckServer | None, environ: Mapping[str, str], alive_callback: Callable[[], int]
) -> Iterator[None]:
    """Answer as long as the context lasts. A port that cannot be had is told, and stops no run.

    Args:
        own: the caller's server; ``None`` for the one that the environment asks for, if it does.
        environ: the environment.
        alive_callback: gives when the agent last lived, in whole seconds since 1970.
    """
    text = environ.get(HEALTH_PORT_ENV, "")
    if own is None and (not text.isdecimal() or int(text) > 65535):
        emit("agent.trouble", f"{HEALTH_PORT_ENV} is {text!r}, which is no port; nobody can ask for the agent's health")
        yield
        return
    server = own if own is not None else create_healthcheck_server(alive_callback, int(text), ALIVE_S)
    try:
        server.start()
    except OSError as error:
        emit("agent.trouble", f"the port for the agent's health cannot be listened on: {error}")
    try:
        yield
    finally:
        server.stop()
