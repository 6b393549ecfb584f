from __future__ import annotations

import contextlib
import socket
import struct
from functools import partial

import pytest
from tests.support.fronts import running_front
from tests.support.raw_server import LOOP_TWINS, PATIENCE_S, VALIDATE, RawClient, running_loop

from rallypoint.clock import Deadline
from rallypoint.errors import AuthenticationError, DistNetworkError
from rallypoint.gateway.front import FrontOptions
from rallypoint.gateway.native import NativeRelay
from rallypoint.gateway.relay import Relay
from rallypoint.gateway.spaces import KeySpace
from rallypoint.gateway.vocabulary import RelayLimits
from rallypoint.net.address import listen
from rallypoint.net.retry import Backoff
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import KEY_SIZE_MAX, Verb
from rallypoint.server.engine import Engine
from rallypoint.server.limits import Limits
from rallypoint.store.reach import Reacher
from rallypoint.types import Endpoint

QUICK = Backoff(0.001, 1.0, 0.001, 0.0)


class Servers:
    """Servers that come and go, as a relay reaches them."""

    def __init__(self):
        self.server = None
        self.links = []

    def __call__(self, session_id, deadline):
        if self.server is None:
            raise DistNetworkError("nobody is there")
        link = Reacher([Endpoint(*self.server.address)])(session_id, Deadline(PATIENCE_S))
        self.links.append(link)
        return link


@contextlib.contextmanager
def run(kind, server=None, **options):
    """Run a relay over servers that come and go; it is gone afterwards."""
    servers = Servers()
    servers.server = server
    with running_front(partial(kind, servers, backoff=QUICK), **options) as running:
        running.servers = servers
        yield running


@pytest.fixture(params=LOOP_TWINS)
def kind(request):
    return Relay if request.param == "python" else NativeRelay


@pytest.fixture
def running_relay(kind):
    return partial(run, kind)


@pytest.fixture
def server():
    with running_loop() as running:
        yield running


@pytest.fixture
def relay(server, running_relay):
    with running_relay(server) as running:
        yield running


def test_local_peers_use_the_servers_keys(server, relay):
    first, second = relay.client(), relay.client()
    first.ask(Verb.SET, b"/k", b"value")
    assert first.ping()
    assert second.get(b"/k") == b"value"
    assert server.client().get(b"/k") == b"value"


def test_two_key_spaces_of_one_server_do_not_see_each_other(server, running_relay):
    with (
        running_relay(server, space=KeySpace("rounds/7")) as seven,
        running_relay(server, space=KeySpace("rounds/70")) as seventy,
    ):
        first, second, direct = seven.client(), seventy.client(), server.client()
        first.ask(Verb.SET, b"/k", b"value")
        first.ask(Verb.QUEUE_PUSH, b"/q", b"item")
        first.ask(Verb.ADD, b"init/", 1)
        assert first.read(8) == struct.pack("<q", 1)
        assert first.get(b"/k") == b"value"
        assert direct.get(b"/rounds/7/k") == b"value"
        assert second.get(b"/k") == b""
        second.ask(Verb.QUEUE_LEN, b"/q")
        second.ask(Verb.GETNUMKEYS)
        assert second.read(16) == bytes(16)
        first.ask(Verb.LIST_KEYS)
        assert first.read(8) == struct.pack("<q", 2)
        assert {first.read(struct.unpack("<Q", first.read(8))[0]) for _ in range(2)} == {b"/k", b"init/"}


def test_a_key_that_is_too_long_with_its_prefix_closes_the_peer_that_asked(server, running_relay):
    with running_relay(server, space=KeySpace("rounds/7")) as relay:
        client, other = relay.client(), relay.client()
        client.ask(Verb.SET, b"/" + b"k" * (KEY_SIZE_MAX - 1), b"value")
        assert client.read_end() == b""
        assert other.ping()


def test_a_wait_through_the_relay_is_released_by_anybody(server, relay):
    waiter = relay.client()
    waiter.ask(Verb.WAIT, [b"/k"])
    assert waiter.ping()
    direct = server.client()
    direct.ask(Verb.SET, b"/k", b"")
    assert waiter.read(1) == b"\0"


def test_a_server_that_comes_late_is_found(running_relay):
    with running_relay() as relay, running_loop() as server:
        client = relay.client()
        client.ask(Verb.ADD, b"/n", 1)
        relay.wait_for_line("cannot be reached, trying on: nobody is there")
        relay.servers.server = server
        assert client.read(8) == struct.pack("<q", 1)
        relay.wait_for_line("is there")


def test_peers_do_not_notice_that_the_connection_was_made_again(server, relay):
    client, waiter = relay.client(), relay.client()
    waiter.ask(Verb.WAIT, [b"/late"])
    assert client.ping()
    assert waiter.ping()
    for number in range(1, 20):
        relay.servers.links[-1].stream._sock.shutdown(socket.SHUT_RDWR)
        client.ask(Verb.ADD, b"/n", 1)
        assert client.read(8) == struct.pack("<q", number)
    client.ask(Verb.SET, b"/late", b"")
    assert waiter.read(1) == b"\0"
    assert len(relay.servers.links) > 1
    relay.wait_for_line("is there again")


def test_another_server_with_other_data_closes_the_peers_and_serves_new_ones(server, relay):
    client = relay.client()
    assert client.ping()
    with running_loop() as other:
        engine = Engine(seed=b"another life of another server..")
        other.loop._engine, other.loop._step = engine, engine.step
        relay.servers.server = other
        server.stop(0.0)
        assert client.read_end() == b""
        relay.wait_for_line("other data than before")
        assert relay.client().ping()
        relay.stop()


def test_peers_are_closed_when_the_server_is_gone_for_too_long(running_relay):
    with running_relay(relay_limits=RelayLimits(patience_s=0.05)) as relay:
        client = relay.client()
        assert client.read_end() == b""
        relay.wait_for_line("the server upstream has been unreachable for")


def test_more_than_the_sockets_hold_goes_through(server, relay):
    client = relay.client()
    value = b"x" * 4_000_000
    for number in range(10):
        client.ask(Verb.SET, b"/%d" % number, value)
    client.ask(Verb.GETNUMKEYS)
    assert client.read(8) == struct.pack("<q", 10)
    client.ask(Verb.MULTI_GET, [b"/%d" % number for number in range(10)])
    assert len(client.read(10 * (8 + len(value)))) == 10 * (8 + len(value))


def test_a_refusal_of_the_server_closes_the_peer_that_asked(relay):
    client, other = relay.client(), relay.client()
    client.ask(Verb.SET, b"/k", b"no number")
    client.ask(Verb.ADD, b"/k", 1)
    assert client.read_end() == b""
    relay.wait_for_line("not a decimal number")
    assert other.ping()


def test_the_relay_counts(relay):
    client = relay.client()
    client.ask(Verb.WAIT, [b"/never"])
    assert client.ping()
    numbers = relay.front.statistics(PATIENCE_S)
    assert (numbers.connections, numbers.waiting, numbers.unanswered) == (1, 1, 1)


def test_the_session_ends_with_the_relay(server, running_relay):
    with running_relay() as relay:
        relay.servers.server = server
        assert relay.client().ping()
        assert server.loop.door.visit(server.statistics, PATIENCE_S).sessions == 1
    while server.loop.door.visit(server.statistics, PATIENCE_S).sessions:
        pass


def test_local_peers_are_bounded(server, running_relay):
    with running_relay(server, limits=Limits(connections_max=1)) as relay:
        first, second = relay.client(), relay.client()
        assert first.ping()
        assert second.read_end() == b""


def test_a_relay_that_the_server_never_lets_in_ends_and_says_why(kind):
    def refuse(session_id, deadline):
        raise AuthenticationError("the server wants to see a token")

    relay = kind(refuse, listen("127.0.0.1", 0), FrontOptions(log=lambda _: None), backoff=QUICK)
    with pytest.raises(AuthenticationError, match=r"^the server wants to see a token$"):
        relay.run()


def test_large_values_of_many_keys_come_whole_to_several_at_once(server, relay):
    keys = [b"/large/%04d" % number for number in range(300)]
    clients = [relay.client() for _ in range(4)]
    for number, key in enumerate(keys):
        clients[0].ask(Verb.SET, key, b"%04d" % number * 2_000)
    assert clients[0].ping()
    expected = b"".join(struct.pack("<Q", 8_000) + b"%04d" % number * 2_000 for number in range(300))
    for _ in range(2):
        for client in clients:
            client.ask(Verb.MULTI_GET, keys)
        for client in clients:
            assert client.read(len(expected)) == expected


def test_members_that_have_waited_for_the_same_keys_read_them_whoever_else_does(relay):
    keys = [b"/member/%04d" % number for number in range(100)]
    members = [relay.client() for _ in range(5)]
    expected = b"".join(struct.pack("<Q", 12) + key for key in keys)
    for absent in range(len(members)):
        for member in members:
            member.ask(Verb.WAIT, keys)
            assert member.ping()
        members[0].ask(Verb.MULTI_SET, [(key, key) for key in keys])
        for member in members:
            assert member.read(1) == b"\0"
        if absent == 4:  # of all rounds but this one, one goes on with something else; here it goes away
            members[4].close()
        else:
            assert members[absent].ping()
        readers = [member for number, member in enumerate(members) if number != absent]
        for member in readers:
            member.ask(Verb.MULTI_GET, keys)
        for member in readers:
            assert member.read(len(expected)) == expected
        for key in keys:
            readers[0].ask(Verb.DELETE_KEY, key)
            assert readers[0].read(8) == struct.pack("<q", 1)


def test_more_requests_than_may_be_on_their_way_are_answered_in_order(server, running_relay):
    with running_relay(server, relay_limits=RelayLimits(unanswered_max=2)) as relay:
        client = relay.client()
        client.send(encode_request(Verb.ADD, b"/n", 1) * 100)
        assert client.read(800) == b"".join(struct.pack("<q", number) for number in range(1, 101))


def test_less_than_one_request_of_all_peers_may_be_on_its_way(server, running_relay):
    with running_relay(server, relay_limits=RelayLimits(unanswered_total_max=1)) as relay:
        clients = [relay.client() for _ in range(4)]
        for client in clients:
            client.send(encode_request(Verb.ADD, b"/n", 1) * 20)
        sums = [number for client in clients for number in struct.unpack("<20q", client.read(160))]
        assert sorted(sums) == list(range(1, 81))


def test_replies_over_the_bound_come_all_the_same(server, running_relay):
    with running_relay(server, limits=Limits(output_size_max=1000)) as relay:
        client = relay.client()
        client.ask(Verb.SET, b"/k", b"x" * 600)
        client.send(encode_request(Verb.GET, b"/k") * 20 + encode_request(Verb.PING, 7))
        assert client.read(20 * 608 + 4) == (struct.pack("<Q", 600) + b"x" * 600) * 20 + struct.pack("<I", 7)


def test_all_that_a_peer_has_sent_is_served_though_it_is_gone(server, running_relay):
    with running_relay(server, relay_limits=RelayLimits(unanswered_max=2)) as relay:
        client, other = relay.client(), relay.client()
        client.send(encode_request(Verb.ADD, b"/n", 1) * 100)
        client.close()
        while other.get(b"/n") != b"100":
            pass


def test_a_wait_ends_with_the_next_one_or_when_it_is_cancelled(server, relay):
    client = relay.client()
    client.ask(Verb.WAIT, [b"/never"])
    client.ask(Verb.WAIT, [b"/k"])
    client.ask(Verb.SET, b"/k", b"")
    assert client.read(1) == b"\0"
    client.ask(Verb.WAIT, [b"/never"])
    client.ask(Verb.CANCEL_WAIT)
    assert client.read(1) == b"\1"
    assert client.ping()
    assert server.statistics().waiting == 0


@pytest.mark.parametrize(
    ("opening", "sentence"),
    [
        (VALIDATE + encode_request(Verb.ADD, b"/n", 1) + b"\x63", "the verb byte is 99, the last known one is 18"),
        (VALIDATE + encode_request(Verb.ADD, b"/n", 1) + VALIDATE, "VALIDATE came again"),
        (VALIDATE + encode_request(Verb.ADD, b"/n", 1) + b"\3" + b"\xff" * 8, "GET claims a key of"),
        (b"RPS1", "it speaks the session dialect; here c10d is spoken, in which it may come again"),
        (b"GET / HTTP/1.1", "the connection opened with the byte 0x47 instead of VALIDATE (0x00)"),
    ],
)
def test_what_is_no_request_closes_its_peer_behind_what_it_is_owed(relay, opening, sentence):
    client = RawClient(relay.address, validates=False)
    client.send(opening)
    expected = struct.pack("<q", 1) if opening.startswith(VALIDATE) else b""
    assert client.read_end() == expected
    client.close()
    relay.wait_for_line(sentence)
    assert sum(relay.front.statistics(PATIENCE_S).closed.values()) == 1


def test_a_peer_that_does_not_shake_hands_is_closed(server, running_relay):
    with running_relay(server, limits=Limits(handshake_timeout_s=0.05)) as relay:
        client = RawClient(relay.address, validates=False)
        assert client.read_end() == b""
        client.close()
        relay.wait_for_line("VALIDATE did not come within 0.05 s")


def test_begun_requests_of_all_peers_are_bounded(server, running_relay):
    with running_relay(server, limits=Limits(input_total_max=1000)) as relay:
        small, large = relay.client(), relay.client()
        small.send(encode_request(Verb.SET, b"/k", b"x" * 2000)[:500])
        large.send(encode_request(Verb.SET, b"/k", b"x" * 2000)[:900])
        assert large.read_end() == b""
        relay.wait_for_line("begun requests of all peers hold 1400 bytes, this one's 900, the limit is 1000")


def test_an_item_is_popped_once_and_a_missing_one_is_told(relay):
    client = relay.client()
    for item in (b"1", b"2" * 5000):
        client.ask(Verb.QUEUE_PUSH, b"/q", item)
    for _ in range(3):
        client.ask(Verb.QUEUE_POP, b"/q")
    got = struct.pack("<qQ", 2, 1) + b"1" + struct.pack("<qQ", 1, 5000) + b"2" * 5000 + struct.pack("<q", 0)
    assert client.read(len(got)) == got


def test_keys_that_are_missing_are_empty_among_others(relay):
    client = relay.client()
    client.ask(Verb.SET, b"/there", b"x" * 5000)
    client.ask(Verb.MULTI_GET, [b"/missing", b"/there", b"/missing", b"/there"])
    there = struct.pack("<Q", 5000) + b"x" * 5000
    assert client.read(2 * (8 + len(there))) == (bytes(8) + there) * 2
