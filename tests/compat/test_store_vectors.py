"""The bytes captured from a torch 2.13.0 server, replayed over sockets against our server process."""

from __future__ import annotations

import socket

import pytest
from tests.model.test_vectors import OURS, VECTORS
from tests.support.wire import VALIDATE

from rallypoint.net.address import listen
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import Verb
from rallypoint.server.daemon import start_server

HOST = "127.0.0.1"
NONCE = 0x5EA1


class Caller:
    """A connection that speaks in raw bytes."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection((HOST, port), timeout=60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes, segment: int) -> None:
        try:
            for start in range(0, len(data), segment):
                self.sock.send(data[start : start + segment])
        except ConnectionError:
            return  # refused before the end; the replies tell

    def read_all(self) -> bytes:
        """Read to the end of the connection."""
        heard = b""
        try:
            while part := self.sock.recv(65536):
                heard += part
        except ConnectionResetError:
            pass
        return heard

    def read_up_to_now(self) -> bytes:
        """Read all replies that the server has caused so far: those in front of the answer to a PING."""
        self.send(encode_request(Verb.PING, NONCE), 5)
        pong = NONCE.to_bytes(4, "little")
        heard = b""
        while not heard.endswith(pong):
            part = self.sock.recv(65536)
            assert part, f"closed after {heard!r}"
            heard += part
        return heard[: -len(pong)]


@pytest.fixture
def call():
    server = start_server(listen(HOST, 0))
    callers = []

    def connect():
        callers.append(Caller(server.port))
        return callers[-1]

    yield connect
    for caller in callers:
        caller.sock.close()
    server.close()


@pytest.mark.parametrize("segment", [1 << 20, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("name", VECTORS)
def test_our_server_process_answers_as_torchs_did(call, name, segment):
    vector = {**VECTORS[name], **OURS.get(name, {})}
    other, tested = call(), call()
    other.send(VALIDATE, 5)
    for frame in vector["setup"]:
        other.send(bytes.fromhex(frame), 1 << 20)
    other.read_up_to_now()
    if vector["validate"]:
        tested.send(VALIDATE, 5)
    tested.send(bytes.fromhex(vector["send"]), segment)
    if vector["state"] != "open":
        assert tested.read_all().hex() == vector["recv"]
        return
    assert tested.read_up_to_now().hex() == vector["recv"]
    for frame, reply in zip(vector["other_after"], vector.get("other_recv", []), strict=True):
        other.send(bytes.fromhex(frame), 1 << 20)
        assert other.read_up_to_now().hex() == reply
    if vector["other_after"]:
        assert tested.read_up_to_now().hex() == vector["recv_after"]
