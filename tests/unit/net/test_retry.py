from __future__ import annotations

import math
import socket

import pytest

from rallypoint.errors import (
    AuthenticationError,
    ConnectTimeoutError,
    DistNetworkError,
    RemoteProtocolError,
    ReplyTimeoutError,
)
from rallypoint.net.address import listen, local_endpoint
from rallypoint.net.retry import ATTEMPT_S_MAX, LOOK_ONCE_S, MOMENT_S, Backoff, connect_with_retries
from rallypoint.types import Endpoint

SOMEWHERE = Endpoint("node0", 29500)


class FakeClock:
    def __init__(self):
        self.time = 100.0
        self.sleeps = []

    def now(self):
        return self.time

    def sleep(self, duration_s):
        self.sleeps.append(duration_s)
        self.time += duration_s


class FakeStream:
    def __init__(self):
        self.is_closed = False

    def close(self):
        self.is_closed = True


class FakeNetwork:
    """Refuses the first attempts; each attempt takes its time."""

    def __init__(self, clock, refusals=math.inf, takes_s=0.0):
        self.clock = clock
        self.refusals = refusals
        self.takes_s = takes_s
        self.timeouts = []
        self.streams = []

    def attempt(self, endpoint, deadline):
        assert endpoint == SOMEWHERE
        self.timeouts.append(deadline.remaining_s())
        self.clock.time += min(self.takes_s, deadline.remaining_s())
        if len(self.timeouts) <= self.refusals:
            raise DistNetworkError("connection refused")
        self.streams.append(FakeStream())
        return self.streams[-1]


def run(network, timeout, handshake=lambda stream, deadline: None):
    return connect_with_retries(
        SOMEWHERE, timeout, handshake, clock=network.clock, attempt=network.attempt, chance=lambda: 0.5
    )


def test_the_first_stream_with_a_done_handshake_is_given():
    network = FakeNetwork(FakeClock(), refusals=3)
    stream = run(network, 60)
    assert stream is network.streams[0]
    assert not stream.is_closed
    assert len(network.clock.sleeps) == 3


def test_the_timeout_is_the_total():
    clock = FakeClock()
    with pytest.raises(ConnectTimeoutError) as caught:
        run(FakeNetwork(clock, takes_s=0.4), 5)
    assert clock.time == pytest.approx(105.0)
    assert caught.value.waited_s == pytest.approx(5.0)


def test_the_error_has_torchs_words_the_last_reason_and_its_cause():
    network = FakeNetwork(FakeClock())
    with pytest.raises(ConnectTimeoutError) as caught:
        run(network, 2)
    error = caught.value
    assert str(error) == (
        "The client socket has timed out after 2000ms while trying to connect to (node0, 29500). "
        f"{len(network.timeouts)} attempts; the last one: connection refused"
    )
    assert isinstance(error.__cause__, DistNetworkError)
    assert error.attempts == len(network.timeouts)
    assert error.endpoint == SOMEWHERE


def test_a_peer_that_is_silent_in_the_handshake_is_tried_again_within_the_same_deadline():
    clock = FakeClock()
    network = FakeNetwork(clock, refusals=0)

    def silence(stream, deadline):
        clock.time += deadline.remaining_s()
        raise ReplyTimeoutError("silent")

    with pytest.raises(ConnectTimeoutError, match="silent"):
        run(network, 100, silence)
    assert clock.time == pytest.approx(200.0)
    assert len(network.streams) == math.ceil(100 / ATTEMPT_S_MAX)
    assert all(stream.is_closed for stream in network.streams)


def test_what_answers_but_is_no_store_counts_as_not_there():
    network = FakeNetwork(FakeClock(), refusals=0)

    def refuse_once(stream, deadline):
        if len(network.streams) == 1:
            raise RemoteProtocolError("not a store")

    assert run(network, 10, refuse_once) is network.streams[1]
    assert network.streams[0].is_closed


def test_a_handshake_that_is_interrupted_closes_its_stream():
    network = FakeNetwork(FakeClock(), refusals=0)

    def interrupted(stream, deadline):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(network, 10, interrupted)
    assert network.streams[0].is_closed


@pytest.mark.parametrize("timeout", [0, -1, -math.inf])
def test_no_time_means_one_look(timeout):
    network = FakeNetwork(FakeClock())
    with pytest.raises(ConnectTimeoutError, match=r"after 0ms .* 1 attempt;"):
        run(network, timeout)
    assert network.timeouts == [LOOK_ONCE_S]
    assert network.clock.sleeps == []
    assert run(FakeNetwork(FakeClock(), refusals=0), timeout)


def test_an_infinite_timeout_goes_on():
    network = FakeNetwork(FakeClock(), refusals=500)
    assert run(network, math.inf) is network.streams[0]


def test_no_pause_takes_more_than_half_of_what_is_left():
    clock = FakeClock()
    with pytest.raises(ConnectTimeoutError):
        run(FakeNetwork(clock), 4)
    left_s = 4.0
    for pause_s in clock.sleeps:
        assert pause_s <= max(left_s / 2, Backoff().first_s) + 1e-9
        left_s -= pause_s


def test_no_attempt_is_made_for_which_there_is_no_time():
    network = FakeNetwork(FakeClock())
    with pytest.raises(ConnectTimeoutError, match=r"1 attempt; the last one: connection refused"):
        run(network, Backoff().first_s + MOMENT_S / 2)


def test_pauses_grow_to_a_bound_and_are_spread():
    backoff = Backoff(first_s=1.0, factor=2.0, max_s=5.0, spread=0.5)
    assert [backoff.pause_s(attempts, 0.5) for attempts in range(1, 6)] == [1, 2, 4, 5, 5]
    assert backoff.pause_s(1, 0.0) == 0.5
    assert backoff.pause_s(1, 1.0) == 1.5
    assert backoff.pause_s(10**9, 0.5) == 5


def test_a_real_silent_socket_does_not_exceed_the_timeout():
    def expect_a_byte(stream, deadline):
        stream.send(b"hello", deadline)
        stream.receive_exactly(1, deadline)

    (listener,) = listen("127.0.0.1", 0)
    with listener, pytest.raises(ConnectTimeoutError, match="did not answer") as caught:
        connect_with_retries(local_endpoint(listener), 0.3, expect_a_byte)
    assert caught.value.waited_s >= 0.3


def test_a_socket_file_is_named_in_the_error(tmp_path):
    where = Endpoint(f"unix:{tmp_path}/none.sock", 0)
    with pytest.raises(ConnectTimeoutError, match=rf"to \(unix:{tmp_path}/none.sock\)"):
        connect_with_retries(where, 0, lambda stream, deadline: None)


def test_a_closed_port_is_looked_at_once_without_time():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        where = Endpoint(*unused.getsockname())
        with pytest.raises(ConnectTimeoutError, match="connection refused"):
            connect_with_retries(where, 0, lambda stream, deadline: None)


def test_who_cannot_be_proven_now_cannot_be_proven_later():
    clock = FakeClock()
    network = FakeNetwork(clock, refusals=0)

    def refuse(stream, deadline):
        raise AuthenticationError("its certificate has expired")

    with pytest.raises(AuthenticationError, match="its certificate has expired"):
        run(network, 60, refuse)
    assert len(network.streams) == 1
    assert network.streams[0].is_closed
    assert clock.sleeps == []
