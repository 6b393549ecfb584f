from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time

import pytest
from tests.support.certificates import Authority
from tests.support.tls_peer import play

from rallypoint.clock import Deadline
from rallypoint.errors import AuthenticationError, ConnectionLostError, DistNetworkError, ReplyTimeoutError
from rallypoint.net.address import listen, listen_unix, local_endpoint
from rallypoint.net.connect import connect
from rallypoint.net.tls import Tls
from rallypoint.net.tlsstream import secure

PATIENCE = 30.0


def soon():
    return Deadline(PATIENCE)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture(scope="module")
def server_tls(authority):
    return authority.issue("127.0.0.1")._replace(ca=None)


@pytest.fixture
def ends():
    """Give a plain stream and the socket at its other end."""
    (listener,) = listen("127.0.0.1", 0)
    with listener:
        stream = connect(local_endpoint(listener), soon())
        peer, _ = listener.accept()
    yield stream, peer
    stream.close()
    peer.close()


@pytest.fixture
def meet(ends, authority, server_tls):
    """Secure the stream against a peer that plays a script."""
    secured, threads = [], []

    def start(script, client=None, server=None):
        stream, peer = ends
        threads.append(play(peer, server or server_tls, script))
        secured.append(secure(stream, client or Tls(authority.file), soon()))
        return secured[-1]

    yield start
    for one in secured:
        one.close()
    for thread in threads:
        thread.join()


def test_what_is_sent_arrives_and_what_comes_back_is_cut_as_asked(meet):
    def script(peer):
        assert peer.receive(3) == b"ask"
        peer.reply(b"\x01abcde")
        peer.reply(b"fgh")
        peer.receive(1)

    stream = meet(script)
    stream.send(b"ask", soon())
    assert stream.receive_exactly(1, soon()) == b"\x01"
    assert stream.receive_exactly(0, soon()) == b""
    assert stream.receive_exactly(3, soon()) == b"abc"
    assert stream.receive_exactly(5, soon()) == b"defgh"
    stream.send(b".", soon())


@pytest.mark.parametrize("spin_us", [0, 100])
def test_large_values_pass_both_ways(meet, spin_us):
    size = 20_000_000  # more than the system takes at once
    value = os.urandom(1000) * (size // 1000)

    def script(peer):
        peer.reply(peer.receive(size))

    stream = meet(script)
    stream.spin_us = spin_us
    stream.send(value, soon())
    assert stream.receive_exactly(size, soon()) == value


def test_a_deadline_holds_and_loses_nothing(meet):
    go_on = threading.Event()

    def script(peer):
        peer.reply(b"ab")
        assert go_on.wait(PATIENCE)
        peer.reply(b"cd")
        peer.receive(1)

    stream = meet(script)
    with pytest.raises(ReplyTimeoutError, match="did not answer within"):
        stream.receive_exactly(4, Deadline(0.05))
    go_on.set()
    assert stream.receive_exactly(4, soon()) == b"abcd"
    stream.send(b".", soon())


def test_a_deadline_holds_for_what_the_peer_does_not_take(meet):
    done = threading.Event()
    stream = meet(lambda peer: done.wait(PATIENCE))
    with pytest.raises(ReplyTimeoutError, match="did not take a request within"):
        stream.send(bytes(50_000_000), Deadline(0.1))
    done.set()


def test_ctrl_c_ends_a_wait_at_once(meet):
    stream = meet(lambda peer: peer.receive(1))
    struck = []

    def strike():
        struck.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.05, strike)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        stream.receive_exactly(1, soon())
    timer.join()
    stream.send(b".", soon())


def test_the_peer_s_end_is_seen(meet):
    stream = meet(lambda peer: None)
    with pytest.raises(ConnectionLostError, match="Connection was likely closed"):
        stream.receive_exactly(1, soon())


def test_the_peer_s_word_of_its_end_is_heeded(meet):
    def script(peer):
        peer.sock.sendall(peer.channel.seal(b"ab") + peer.channel.close())
        while peer.sock.recv(100):
            pass

    stream = meet(script)
    assert stream.receive_exactly(2, soon()) == b"ab"
    with pytest.raises(ConnectionLostError):
        stream.receive_exactly(1, soon())


def test_another_thread_s_close_ends_a_wait(meet):
    stream = meet(lambda peer: peer.sock.recv(1))
    timer = threading.Timer(0.05, stream.close)
    timer.start()
    with pytest.raises(ConnectionLostError):
        stream.receive_exactly(1, soon())
    timer.join()


def test_bytes_that_somebody_has_changed_are_refused(meet):
    def script(peer):
        sealed = bytearray(peer.channel.seal(b"hello"))
        sealed[-1] ^= 1
        peer.sock.sendall(sealed)
        peer.sock.recv(100)

    stream = meet(script)
    with pytest.raises(DistNetworkError, match="TLS has failed: decryption failed or bad record mac"):
        stream.receive_exactly(5, soon())


def test_a_foreign_server_is_refused_by_name(meet, tmp_path):
    stranger = Authority(tmp_path / "theirs").issue("127.0.0.1")._replace(ca=None)
    with pytest.raises(AuthenticationError) as caught:
        meet(lambda peer: None, server=stranger)
    endpoint = caught.value.endpoint
    assert re.fullmatch(
        rf"no TLS connection to {endpoint}: its certificate does not come from a trusted authority \(.*\)",
        str(caught.value),
    )


def test_an_expired_server_is_refused(meet, authority):
    expired = authority.issue("127.0.0.1", is_expired=True)._replace(ca=None)
    with pytest.raises(AuthenticationError, match=r"its certificate has expired$"):
        meet(lambda peer: None, server=expired)


def test_a_server_of_another_name_is_refused_unless_that_name_is_meant(meet, authority):
    other = authority.issue("the-store")._replace(ca=None)
    with pytest.raises(AuthenticationError, match="its certificate is for another name: IP address mismatch"):
        meet(lambda peer: None, server=other)


def test_a_server_may_have_the_name_that_was_said_to_be_meant(meet, authority):
    other = authority.issue("the-store")._replace(ca=None)
    stream = meet(lambda peer: peer.reply(b"x"), server=other, client=Tls(authority.file, name="the-store"))
    assert stream.receive_exactly(1, soon()) == b"x"


def test_a_server_that_refuses_us_is_quoted(meet, authority):
    def script(peer):
        raise AssertionError("it was let in")

    stream = meet(script, server=authority.issue("127.0.0.1"))  # it wants our certificate; TLS 1.3 says so later
    with pytest.raises(AuthenticationError, match="it refuses our certificate: certificate required"):
        stream.receive_exactly(1, soon())


def test_a_server_without_tls_is_told_from_one_with(ends, authority):
    stream, peer = ends
    thread = threading.Thread(target=lambda: (peer.recv(1000), peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")))
    thread.start()
    with pytest.raises(DistNetworkError, match=r"no TLS connection to .*: it does not speak TLS") as caught:
        secure(stream, Tls(authority.file), soon())
    assert not isinstance(caught.value, AuthenticationError)  # it may yet become one
    thread.join()


def test_a_server_that_hangs_up_may_not_speak_tls(ends, authority):
    stream, peer = ends
    peer.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionLostError, match="closed the connection amid the TLS handshake: it may not speak TLS"):
        secure(stream, Tls(authority.file), soon())


def test_a_silent_server_is_given_up_in_time(ends, authority):
    stream, _ = ends
    with pytest.raises(ReplyTimeoutError, match=r"the TLS handshake with .* was not done within 0\.05. s"):
        secure(stream, Tls(authority.file), Deadline(0.05))
    assert stream.fileno() == -1


def test_our_own_files_are_looked_at_first(ends, tmp_path):
    stream, _ = ends
    with pytest.raises(ValueError, match="cannot be used"):
        secure(stream, Tls(str(tmp_path / "no")), soon())
    assert stream.fileno() == -1


def test_a_unix_domain_socket_stays_as_it_is(tmp_path, authority):
    with listen_unix(str(tmp_path / "socket")) as listener:
        stream = connect(local_endpoint(listener), soon())
        assert secure(stream, Tls(authority.file), soon()) is stream
        stream.close()
