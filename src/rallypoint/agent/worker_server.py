"""A window into a worker: what it is doing just now, over a Unix socket that only its user can open.

It is there if ``TORCH_WORKER_SERVER_SOCKET`` names a path::

    @worker_main()
    def main(): ...

    curl --unix-socket $TORCH_WORKER_SERVER_SOCKET -X POST http://worker/handler/dump_traceback

GET ``/handler/`` lists the handlers: ``ping`` and ``dump_traceback``. They only read.

Source: the variable, paths and answers as observed in torch 2.13.0; its other handlers tell of torch. Unlike there, an
exception that ends the function is recorded for the agent, and a socket that was left behind is replaced.
"""

from __future__ import annotations

import contextlib
import faulthandler
import http.server
import json
import os
import socket
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus

from rallypoint.agent.failure import ChildFailedError, get_error_handler

__all__ = ["SOCKET_ENV", "worker_main"]

SOCKET_ENV = "TORCH_WORKER_SERVER_SOCKET"

REQUEST_S = 5.0
"""How long one request may take, in seconds."""


def _dump_traceback() -> str:
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode("utf-8", "replace")


_HANDLERS: Mapping[str, Callable[[], str]] = {"dump_traceback": _dump_traceback, "ping": lambda: "pong"}


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = REQUEST_S

    def do_GET(self) -> None:
        if self.path == "/handler/":
            self._answer(HTTPStatus.OK, json.dumps(list(_HANDLERS)), "application/json")
        elif self.path == "/":
            self._answer(HTTPStatus.OK, '<a href="/handler/">Handler names</a>\n', "text/html")
        else:
            self._answer(HTTPStatus.NOT_FOUND, "")

    def do_POST(self) -> None:
        name = self.path.removeprefix("/handler/")
        if name not in _HANDLERS or name == self.path:
            self._answer(HTTPStatus.NOT_FOUND, f"Handler {name} not found")
        else:
            self._answer(HTTPStatus.OK, _HANDLERS[name]())

    def _answer(self, status: HTTPStatus, text: str, kind: str = "text/plain") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "local"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's signature
        """Say nothing: the console is the worker's."""


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        _remove_left_over(str(self.server_address))
        before = os.umask(0o177)
        try:
            super().server_bind()
        finally:
            os.umask(before)


def _remove_left_over(path: str) -> None:
    """Remove a socket on which nobody listens any more."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)  # noqa: PTH108 - the variable's text
        except OSError:
            return  # not there, or no socket: then binding says so


@contextmanager
def worker_main() -> Iterator[None]:
    """Decorate a worker's main function, or hold around it: opens the window, and records the exception that ends it.

    Raises:
        OSError: if the socket cannot be made.
    """
    path = os.environ.get(SOCKET_ENV)
    with contextlib.ExitStack() as stack:
        if path:
            server = stack.enter_context(_Server(path, _Handler))
            stack.callback(os.unlink, path)
            thread = threading.Thread(target=server.serve_forever, name="rallypoint-window", daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
        handler = get_error_handler()
        handler.initialize()
        try:
            yield
        except ChildFailedError as error:
            failure = error.get_first_failure()[1]
            if os.path.exists(failure.error_file):  # noqa: PTH110 - text, or a word that says there is none
                handler.dump_error_file(failure.error_file, failure.exitcode)
            raise
        except Exception as error:
            handler.record_exception(error)
            raise
