"""The same requests to torch's server and to our engine: the same bytes back, the same connections closed."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from tests.support.torch_peers import torch_server
from tests.support.twins import over_each_twin
from tests.support.wire import VALIDATE, Wire

from rallypoint.protocol.codec import Request, encode_request
from rallypoint.protocol.spec import VERBS, Kind, Verb

pytestmark = over_each_twin

NAMES = [b"/a", b"/b", b"/c", b""]
TEXTS = [
    b"",
    b"1",
    b"-2",
    b"x",
    b" \t+7abc",
    b"0x10",
    b"9223372036854775807",
    b"99999999999999999999",
    b"\x0b5",
    b"007",
]
# LIST_KEYS aside: its order is torch's own.
ASKED = [verb for verb in Verb if verb not in {Verb.VALIDATE, Verb.LIST_KEYS}]
# torch's server looks up the name of every peer that connects, which may take a resolver's while.
PATIENCE_S = 60


@pytest.fixture
def port() -> Iterator[int]:
    store = torch_server(timeout=timedelta(seconds=PATIENCE_S))
    yield store.port
    del store


def connected(port: int) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
    peer.sendall(VALIDATE)
    return peer


def field(source: random.Random, kind: Kind) -> Any:
    one = source.choice
    if kind is Kind.KEYS:
        return source.choices(NAMES, k=source.randrange(4))
    if kind is Kind.PAIRS:
        return [(one(NAMES), one(TEXTS)) for _ in range(source.randrange(4))]
    if kind is Kind.I64:
        return one([0, 1, -1, 5, 2**63 - 1, -(2**63)])
    return one(NAMES) if kind is Kind.KEY else one(TEXTS) if kind is Kind.VALUE else source.getrandbits(32)


def answered(peer: socket.socket, frame: bytes, mark: bytes) -> tuple[bytes, bool]:
    """Give what came up to the mark, and whether the connection is open still."""
    got = b""
    try:
        peer.sendall(frame)
        while not got.endswith(mark):
            data = peer.recv(65536)
            if not data:
                return got, False
            got += data
    except ConnectionError:
        return got, False
    return got, True


@pytest.mark.parametrize("seed", range(5))
def test_a_connection_gets_the_same_bytes_from_both(port: int, seed: int) -> None:
    source = random.Random(seed)
    wire = Wire()
    ours, theirs = wire.connect(), connected(port)
    try:
        for number in range(100):
            verb = source.choice(ASKED)
            request: Request = (verb, *(field(source, kind) for kind in VERBS[verb].request))
            # A wait is cancelled at once; the pong ends the reply.
            frame = encode_request(*request) + encode_request(Verb.CANCEL_WAIT) + encode_request(Verb.PING, number)
            got, is_open = answered(theirs, frame, b"\x01" + number.to_bytes(4, "little"))
            ours.send(frame)
            assert (ours.read(), ours.closed is None) == (got, is_open), request
            if not is_open:
                theirs.close()
                ours, theirs = wire.connect(), connected(port)
    finally:
        theirs.close()
