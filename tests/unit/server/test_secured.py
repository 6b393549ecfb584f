from __future__ import annotations

import contextlib
import socket
import struct
import threading

import pytest
from tests.support.certificates import Authority
from tests.support.raw_server import PATIENCE_S, VALIDATE, RawClient

from rallypoint.clock import Deadline
from rallypoint.errors import AuthenticationError, DistNetworkError, ReplyTimeoutError
from rallypoint.net.address import listen, listen_unix, local_endpoint
from rallypoint.net.connect import connect
from rallypoint.net.tls import ServerTls, Tls
from rallypoint.net.tlsstream import secure
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import Verb
from rallypoint.server import secured
from rallypoint.server.access import Gate
from rallypoint.server.engine import Engine, Limits
from rallypoint.server.loop import ServerLoop
from rallypoint.server.vocabulary import Connected, Secured


def soon():
    return Deadline(PATIENCE_S)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates") / "ours")


class Watched:
    """An engine whose events about connections can be looked at."""

    def __init__(self, engine):
        self._engine = engine
        self.next_deadline = engine.next_deadline
        self.statistics = engine.statistics
        self.seen = []

    def step(self, event, now):
        if isinstance(event, (Connected, Secured)):
            self.seen.append(event)
        return self._engine.step(event, now)


class Server:
    def __init__(self, tls, listeners, limits, gate):
        self.lines = []
        self.line_came = threading.Condition()
        self.endpoint = local_endpoint(listeners[0])
        engine = Engine(limits, gate=gate)
        self.engine = Watched(engine)
        self.loop = ServerLoop(self.engine, listeners, log=self.log, tls=ServerTls(tls, self.log), unread=engine.unread)
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()
        self.closing = contextlib.ExitStack()

    def log(self, line):
        with self.line_came:
            self.lines.append(line)
            self.line_came.notify_all()

    def line(self):
        with self.line_came:
            assert self.line_came.wait_for(lambda: self.lines, PATIENCE_S)
            return self.lines[0]

    def client(self, tls):
        stream = secure(connect(self.endpoint, soon()), tls, soon())
        self.closing.callback(stream.close)
        return stream

    def raw(self):
        client = RawClient(tuple(self.endpoint), validates=False)
        self.closing.callback(client.close)
        return client


@pytest.fixture
def serve(authority):
    with contextlib.ExitStack() as stack:

        def start(tls=None, *, listeners=None, limits=None, gate=None):
            listeners = listeners or listen("127.0.0.1", 0)
            tls = tls or authority.issue("127.0.0.1")._replace(ca=None)
            server = Server(tls, listeners, limits or Limits(), gate)
            stack.callback(server.thread.join, PATIENCE_S)
            stack.callback(server.loop.stop, 0.0)
            stack.callback(server.closing.close)
            return server

        yield start


def ask(stream, verb, *fields):
    stream.send(encode_request(verb, *fields), soon())


def test_requests_are_answered_in_order(serve, authority):
    server = serve()
    client = server.client(Tls(authority.file))
    client.send(VALIDATE, soon())
    ask(client, Verb.SET, b"/k", b"value")
    ask(client, Verb.GET, b"/k")
    ask(client, Verb.ADD, b"/n", 5)
    assert client.receive_exactly(21, soon()) == struct.pack("<Q", 5) + b"value" + struct.pack("<q", 5)
    connected, encrypted = server.engine.seen
    assert connected.origin.host == "127.0.0.1"
    assert not connected.origin.is_secure
    assert encrypted == Secured(connected.peer)


def test_large_values_pass_both_ways(serve, authority):
    server = serve()
    client = server.client(Tls(authority.file))
    value = bytes(range(256)) * 30_000
    client.send(VALIDATE, soon())
    for key in (b"/a", b"/b"):
        ask(client, Verb.SET, key, value)
    ask(client, Verb.MULTI_GET, [b"/a", b"/b", b"/a"])  # more than the system takes at once
    wanted = (struct.pack("<Q", len(value)) + value) * 3
    assert client.receive_exactly(len(wanted), soon()) == wanted
    ask(client, Verb.PING, 7)
    assert client.receive_exactly(4, soon()) == struct.pack("<I", 7)


def test_a_peer_that_does_not_read_holds_up_nobody(serve, authority):
    server = serve()
    lazy, other = server.client(Tls(authority.file)), server.client(Tls(authority.file))
    for client in (lazy, other):
        client.send(VALIDATE, soon())
    ask(lazy, Verb.SET, b"/k", bytes(8_000_000))
    for _ in range(20):
        ask(lazy, Verb.GET, b"/k")
    ask(other, Verb.PING, 7)
    assert other.receive_exactly(4, soon()) == struct.pack("<I", 7)
    for _ in range(20):
        assert len(lazy.receive_exactly(8_000_008, soon())) == 8_000_008


def test_bytes_may_come_one_by_one(serve, authority):
    server = serve()
    raw = server.raw()

    class Drip:
        """A socket that the network cuts as finely as it can."""

        def __init__(self, sock):
            self.sock = sock

        def send(self, data, flags=0):
            return self.sock.send(memoryview(data)[:1], flags)

    stream = connect(server.endpoint, soon())
    dripping = secure(stream, Tls(authority.file), soon())
    server.closing.callback(dripping.close)
    dripping._network_send = Drip(dripping._sock).send
    dripping.send(VALIDATE + encode_request(Verb.PING, 7), soon())
    assert dripping.receive_exactly(4, soon()) == struct.pack("<I", 7)
    raw.send(b"\x16")


def test_the_engine_hears_whose_certificate_it_is(serve, authority):
    server = serve(authority.issue("127.0.0.1"))
    client = server.client(authority.issue("node-1", common_name="trainer"))
    client.send(VALIDATE + encode_request(Verb.PING, 7), soon())
    assert client.receive_exactly(4, soon()) == struct.pack("<I", 7)
    connected, encrypted = server.engine.seen
    assert encrypted == Secured(connected.peer, b"trainer")


def test_a_client_without_a_certificate_gets_nothing_in(serve, authority):
    server = serve(authority.issue("127.0.0.1"))
    client = server.client(Tls(authority.file))
    with contextlib.suppress(DistNetworkError):  # the server may be faster
        client.send(VALIDATE + encode_request(Verb.SET, b"/k", b"v"), soon())
    with pytest.raises(DistNetworkError):
        client.receive_exactly(1, soon())
    assert server.line().endswith(": TLS: it brought no certificate")
    assert server.engine.statistics().keys == 0
    assert len(server.engine.seen) == 1


@pytest.mark.parametrize("kind", ["foreign", "expired"])
def test_foreign_and_expired_certificates_are_refused_by_name(serve, authority, tmp_path, kind):
    server = serve(authority.issue("127.0.0.1"))
    if kind == "foreign":
        own = Authority(tmp_path / "theirs").issue("node-1")._replace(ca=authority.file)
        why, told = "its certificate does not come from a trusted authority (", "unknown ca"
    else:
        own = authority.issue("node-1", is_expired=True)
        why, told = "its certificate has expired", "certificate expired"
    client = server.client(own)
    with pytest.raises(AuthenticationError, match=f"it refuses our certificate: {told}"):
        client.receive_exactly(1, soon())
    assert f": TLS: {why}" in server.line()
    assert server.engine.statistics().connections == 0


def test_a_plain_peer_is_served_if_the_gate_lets_it(serve):
    server = serve()
    client = server.raw()
    client.send(VALIDATE)
    assert client.ping()


def test_a_plain_peer_is_refused_where_tls_is_wanted(serve):
    server = serve(gate=Gate(wants_tls=True))
    client = server.raw()
    client.send(VALIDATE)
    assert client.read_end() == b""
    assert "it came without TLS, which this server wants: give the client tls=" in server.line()


def test_a_secured_peer_passes_the_same_gate(serve, authority):
    server = serve(gate=Gate(wants_tls=True))
    client = server.client(Tls(authority.file))
    client.send(VALIDATE + encode_request(Verb.PING, 7), soon())
    assert client.receive_exactly(4, soon()) == struct.pack("<I", 7)


def test_a_unix_domain_socket_stays_plain(serve, tmp_path):
    path = str(tmp_path / "socket")
    server = serve(listeners=[listen_unix(path)], gate=Gate(wants_tls=True))
    client = RawClient(path)
    server.closing.callback(client.close)
    assert client.ping()
    (connected,) = server.engine.seen
    assert connected.origin.is_local


def test_a_handshake_that_does_not_come_to_its_end_is_cut(serve):
    server = serve(limits=Limits(handshake_timeout_s=0.05))
    silent, half = server.raw(), server.raw()
    half.send(b"\x16\x03\x01\x02\x00")
    for client in (silent, half):
        assert client.read_end() == b""
    assert "did not come within 0.05 s" in server.line()
    assert server.engine.statistics().connections == 0


def test_too_much_unread_is_dropped_in_the_middle_of_a_record(serve, authority):
    server = serve(limits=Limits(output_total_max=1 << 20))
    client, other = server.client(Tls(authority.file)), server.client(Tls(authority.file))
    size = 8 << 20
    client.send(VALIDATE + encode_request(Verb.SET, b"/k", bytes(size)), soon())
    ask(client, Verb.MULTI_GET, [b"/k"] * 4)
    assert "unread" in server.line()
    with pytest.raises(ConnectionError):
        client.receive_exactly(4 * size, soon())
    other.send(VALIDATE + encode_request(Verb.PING, 7), soon())
    assert other.receive_exactly(4, soon()) == struct.pack("<I", 7)


def test_handshakes_beyond_the_limit_are_refused_and_those_under_way_are_not(serve, authority, monkeypatch):
    monkeypatch.setattr(secured, "TLS_HANDSHAKES_MAX", 2)
    server = serve()
    done = server.client(Tls(authority.file))
    done.send(VALIDATE + encode_request(Verb.PING, 7), soon())
    assert done.receive_exactly(4, soon()) == struct.pack("<I", 7)
    begun = [server.raw() for _ in range(2)]
    for client in begun:
        client.send(b"\x16\x03\x01\x02\x00")
        done.send(encode_request(Verb.PING, 7), soon())  # so that the server has seen it
        assert done.receive_exactly(4, soon()) == struct.pack("<I", 7)
    with pytest.raises(DistNetworkError):
        server.client(Tls(authority.file))
    assert server.line().endswith(": TLS: 2 handshakes are under way, the limit is 2")
    begun[0].close()
    done.send(encode_request(Verb.PING, 7), soon())
    assert done.receive_exactly(4, soon()) == struct.pack("<I", 7)
    server.client(Tls(authority.file))


def test_a_connection_without_tls_behind_its_first_byte_is_refused(serve):
    server = serve()
    client = server.raw()
    client.send(b"\x16GET / HTTP/1.1\r\n\r\n")
    client.read_end()
    assert server.line().endswith(": TLS: it does not speak TLS")


def test_a_refused_peer_hears_the_end(serve, authority):
    server = serve()
    client = server.client(Tls(authority.file))
    client.send(b"\xff" * 5, soon())
    with pytest.raises(DistNetworkError, match="Connection was likely closed"):
        client.receive_exactly(1, soon())


def test_a_peer_that_leaves_amid_its_handshake_is_forgotten(serve):
    server = serve()
    client = server.raw()
    client.send(b"\x16\x03")
    client.sock.shutdown(socket.SHUT_WR)
    assert client.read_end() == b""
    assert server.engine.statistics().connections == 0


def test_output_that_drains_is_sent_before_the_end(serve, authority):
    server = serve()
    client = server.client(Tls(authority.file))
    client.send(VALIDATE + encode_request(Verb.SET, b"/k", bytes(4_000_000)) + encode_request(Verb.GET, b"/k"), soon())
    client.receive_exactly(8, soon())
    server.loop.stop(PATIENCE_S)
    assert len(client.receive_exactly(4_000_000, soon())) == 4_000_000
    with pytest.raises((DistNetworkError, ReplyTimeoutError)):
        client.receive_exactly(1, soon())
