"""Peers that misbehave in the session dialect hurt themselves only: nobody gets in, and the others are served."""

from __future__ import annotations

import json
import random
import select
import socket
import struct
import time

import psutil
import pytest
from tests.support.certificates import Authority
from tests.support.raw_server import LOOP_TWINS, PATIENCE_S, RawClient, use_twin
from tests.support.raw_session import HEAD, RawSession
from tests.support.served import served

from rallypoint.errors import DistNetworkError
from rallypoint.net.tls import Tls
from rallypoint.protocol.session.codec import decode_reply, encode_request
from rallypoint.protocol.session.spec import (
    GROUP_SIZE_MAX,
    MEMBERS_NAMED_MAX,
    OPENING,
    SESSION_VERBS,
    VERSION,
    Field,
    SessionVerb,
    Status,
)
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.limits import DEFAULT_LIMITS
from rallypoint.server.watches import LENGTHS_MAX
from rallypoint.store.tcp import TCPStore

MIB = 1 << 20
BIG = bytes(8 * MIB)
TOKEN = "a-token-that-nobody-guesses"
SAMPLES = {Field.U8: 1, Field.U32: 1, Field.I64: 1, Field.KEY: b"/key", Field.VALUE: b"value"}
SAMPLES |= {Field.KEYS: [b"/a", b"/b"], Field.PAIRS: [(b"/a", b"1"), (b"/b", b"2")]}
V = SessionVerb


@pytest.fixture(params=LOOP_TWINS, autouse=True)
def twin(request, monkeypatch):
    return use_twin(request.param, monkeypatch)


@pytest.fixture
def server():
    with served("--port", "0") as (process, ready):
        yield process, (ready["host"], ready["port"])


class Peer:
    """A session that says what it likes; ``next_id`` is its own business."""

    def __init__(self, address):
        self.raw = RawSession(address)
        self.sock = self.raw.sock
        self.sock.settimeout(PATIENCE_S)
        self.last_id = 0

    def request(self, verb, *fields, done=0):
        self.last_id += 1
        return encode_request(verb, self.last_id, done, *fields)

    def read(self):
        """Give status, request id and fields of the next frame."""
        return self.raw._frame()

    def push(self, data):
        """Send as much as the server takes within a moment, and read nothing."""
        self.sock.setblocking(False)
        view, poll = memoryview(data), select.poll()
        poll.register(self.sock, select.POLLOUT)
        while view and poll.poll(50):
            view = view[self.sock.send(view[:MIB]) :]
        self.sock.settimeout(PATIENCE_S)

    def ask_all(self, verb, requests):
        """Send many requests while reading, until all are served; give the replies of those that do not wait."""
        asked = [self.request(verb, *fields) for fields in requests]
        data = memoryview(b"".join([*asked, self.request(V.PING, 7)]))
        heard, replies, poll = bytearray(), [], select.poll()
        poll.register(self.sock, select.POLLIN | select.POLLOUT)
        self.sock.setblocking(False)
        while not replies or replies[-1][1] != self.last_id:
            ((_, ready),) = poll.poll(PATIENCE_S * 1000)
            if ready & select.POLLOUT:
                data = data[self.sock.send(data[:65536]) :]
                if not data:
                    poll.modify(self.sock, select.POLLIN)
            if ready & select.POLLIN:
                heard += self.sock.recv(MIB)
                replies += cut(heard)
        self.sock.settimeout(PATIENCE_S)
        return replies[:-1]


def cut(heard):
    """Take the whole frames out of what was heard; give their status, id and fields."""
    at = 0
    while len(heard) >= at + HEAD.size and len(heard) >= at + 4 + HEAD.unpack_from(heard, at)[0]:
        size, status, number = HEAD.unpack_from(heard, at)
        yield Status(status), number, bytes(heard[at + HEAD.size : at + 4 + size])
        at += 4 + size
    del heard[:at]


def reason_of(body):
    return decode_reply(Status.REFUSED, None, body, 0, len(body))[0].decode()


def hello(session=b"", nonce=bytes(16)):
    return OPENING + encode_request(V.HELLO, 0, 0, VERSION, session, b"", b"label", nonce, 600_000)


@pytest.fixture
def peers(server):
    made = []

    def make():
        made.append(Peer(server[1]))
        return made[-1]

    yield make
    for peer in made:
        peer.raw.close()


@pytest.fixture
def honest(server):
    session = RawSession(server[1])
    yield session
    session.close()


class Watched:
    """The server's memory beside what it was, and an honest client that must be served on its one connection."""

    def __init__(self, server, honest):
        self.process, _ = server
        self.honest = honest
        self.count = 0
        self.memory = psutil.Process(self.process.pid).memory_info
        self.before = self.memory().rss

    def check(self, mib):
        for _ in range(20):
            self.count += 1
            assert self.honest.call(V.ADD, b"/honest", 1) == (self.count,)
        assert self.honest.losses == 0
        grown = (self.memory().rss - self.before) / MIB
        assert grown < mib, f"the server has grown by {grown:.0f} MiB"
        assert self.process.poll() is None


@pytest.fixture
def watched(server, honest):
    return Watched(server, honest)


def test_no_prefix_of_a_frame_does_anything(server, peers, watched):
    held = []
    whole = hello()
    for size in range(len(whole)):
        client = RawClient(server[1], validates=False)
        held.append(client)
        client.send(whole[:size])
    for verb, row in SESSION_VERBS.items():
        if verb in (V.HELLO, V.PROVE):
            continue
        frame = encode_request(verb, 1, 0, *[SAMPLES[field] for field in row.request])
        for size in range(1, len(frame), 3):
            peers().sock.sendall(frame[:size])
    watched.check(60)
    for client in held:
        client.close()
    assert watched.honest.call(V.GETNUMKEYS) == (1,)
    watched.check(60)


def test_random_bytes_get_nobody_in(server, peers, watched):
    chance = random.Random(1)
    for number in range(300):
        noise = chance.randbytes(chance.randrange(1, 3000))
        if number % 2:
            peer = peers()
            peer.push(noise)
            continue
        client = RawClient(server[1], validates=False)
        client.send([b"", OPENING, b"\x16\x03\x01", hello()[:20]][number // 2 % 4] + noise)
        client.close()
    watched.check(60)
    assert watched.honest.call(V.LIST_KEYS) == ([b"/honest"],)


def test_claims_cost_nothing_until_they_come_true(peers, watched):
    claim = struct.pack("<IBQQ", 200 * MIB, V.MULTI_SET, 1, 0) + struct.pack("<QQ", 100_000, 8)
    slow = [peers() for _ in range(100)]
    for at in range(len(claim)):
        for peer in slow:
            peer.sock.sendall(claim[at : at + 1])
    watched.check(30)


def test_replies_events_and_exchanges_that_nobody_reads(peers, watched):
    writer = peers()
    writer.sock.sendall(writer.request(V.SET, b"/big", BIG))
    assert writer.read()[0] is Status.OK
    for _ in range(20):
        peer = peers()
        peer.push(b"".join(peer.request(V.GET, b"/big") for _ in range(50)))
    for _ in range(10):
        peer = peers()
        peer.push(b"".join(peer.request(V.WATCH, b"/w", 1, -1) for _ in range(500)))
    for number in range(100):
        writer.sock.sendall(writer.request(V.SET, b"/w%d" % (number % 3), bytes(50_000)))
        assert writer.read()[0] is Status.OK
    members = [peers() for _ in range(6)]
    for rank, member in enumerate(members):
        member.push(member.request(V.EXCHANGE, b"/x", rank, len(members), b"", BIG))
    watched.check(400)


def test_ids_and_dones_that_make_no_sense(server, peers, watched):
    for first, second in ((5, 5), (5, 4), (2**63, 2**63 + 1), (2**64 - 1, 2**64 - 1), (0, 1)):
        peer = peers()
        peer.sock.sendall(encode_request(V.PING, first, 0, 7) + encode_request(V.PING, second, 0, 7))
        status = Status.OK
        while status is Status.OK:
            status, _, body = peer.read()
        assert status is Status.CLOSING
        assert reason_of(body) == CloseReason.BAD_FRAME.value
    peer = peers()
    peer.sock.sendall(peer.request(V.ADD, b"/sum", 1, done=2**64 - 1) + peer.request(V.PING, 7))
    assert peer.read()[1] == 2  # who holds all answers already gets none
    again = RawSession(server[1])
    assert again.session != peer.raw.session
    assert again.call(V.READ, b"/sum")[0] == 0
    again.close()
    watched.check(30)


def test_a_session_cannot_be_guessed(server, watched):
    chance = random.Random(2)
    mine = watched.honest.session
    ids = [bytes([mine[0] ^ 1]) + mine[1:], mine[::-1], bytes(16), *(chance.randbytes(16) for _ in range(50))]
    for guess in ids:
        client = RawClient(server[1], validates=False)
        client.send(hello(guess))
        size, status, _ = HEAD.unpack(client.read(HEAD.size))
        fields = decode_reply(Status(status), V.HELLO, body := client.read(size - HEAD.size + 4), 0, len(body))
        assert fields[1] == 0
        assert fields[0] not in (guess, mine)
        client.close()
    watched.check(30)


def test_a_session_belongs_to_who_has_opened_it(tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text(f"one {TOKEN}1\ntwo {TOKEN}2\n")
    tokens.chmod(0o600)
    from rallypoint.protocol.session.auth import Hello, Token
    from rallypoint.protocol.session.handshake import handshake

    def enter(address, identity, session):
        """Shake hands; give the server's welcome and all that was said."""
        client, said = RawClient(address, validates=False), []
        course = handshake(Hello(session, identity, b"", bytes(16), 60_000), Token(TOKEN + "12"[identity == b"two"]))
        step = next(course)
        try:
            while True:
                if isinstance(step, bytes):
                    said.append(step)
                    client.send(step)
                step = course.send(b"" if isinstance(step, bytes) else client.read(step))
        except StopIteration as end:
            client.close()
            return end.value, said

    with served("--port", "0", "--token-file", str(tokens)) as (_, ready):
        address = ready["host"], ready["port"]
        welcome, said = enter(address, b"one", b"")
        assert enter(address, b"one", welcome.session)[0].is_resumed
        assert not enter(address, b"two", welcome.session)[0].is_resumed
        replay = RawClient(address, validates=False)
        replay.send(b"".join(said))
        assert CloseReason.AUTHENTICATION_FAILED.value.encode() in replay.read_end()
        replay.close()


def test_floods_of_what_is_not_answered(peers, watched):
    flooder = peers()
    flooder.ask_all(V.WATCH, [(b"/w", 0, -1)] * 16384)
    unanswered = b"".join(encode_request(verb, 0, 0, 1 << 40) for verb in (V.CANCEL, V.UNWATCH)) * 100_000
    flooder.push(unanswered)
    watched.check(120)


def test_waits_of_one_session_are_bounded_and_go_with_its_connection(peers, watched):
    waiter = peers()
    limit = DEFAULT_LIMITS.session_waits_max
    refused = waiter.ask_all(V.GET, [(b"/none/%d" % number,) for number in range(limit + 100)])
    assert [status for status, _, _ in refused] == [Status.REFUSED] * 100
    assert {reason_of(body) for _, _, body in refused} == {CloseReason.TOO_MANY_PENDING.value}
    watched.check(200)
    waiter.raw.close()
    watched.check(200)


def test_answers_that_are_never_acknowledged_are_bounded(peers, watched):
    hoarder = peers()
    limit = DEFAULT_LIMITS.session_answers_max
    answered = hoarder.ask_all(V.ADD, [(b"/sum", 1)] * (limit + 100))
    assert [status for status, _, _ in answered[limit:]] == [Status.REFUSED] * 100
    assert watched.honest.call(V.GET, b"/sum") == (b"%d" % limit,)
    watched.check(120)


def test_who_hoards_answers_hurts_nobody_else(peers, watched):
    writer = peers()
    writer.sock.sendall(writer.request(V.SET, b"/big", BIG))
    assert writer.read()[0] is Status.OK
    hoarded = 0
    while hoarded <= DEFAULT_LIMITS.answers_size_max:
        hoarder = peers()
        while True:
            hoarder.sock.sendall(hoarder.request(V.COMPARE_SET, b"/big", b"x", b"y"))
            status, _, body = hoarder.read()
            if status is not Status.OK:
                break
            hoarded += len(body)
        assert reason_of(body) == CloseReason.TOO_MANY_PENDING.value
    watched.check(120)


def test_sessions_made_and_dropped_without_end(server, watched):
    for number in range(1500):
        session = RawSession(server[1], timeout_ms=600_000)
        if number % 2:
            session.call(V.BYE)
        session.close()
    watched.check(30)


def test_watches_are_bounded_and_so_is_what_a_change_looks_up(peers, watched):
    watcher = peers()
    limit = DEFAULT_LIMITS.session_watches_max
    by_length = watcher.ask_all(V.WATCH, [(b"/" + b"p" * size, 1, -1) for size in range(1000)])
    assert [status for status, _, _ in by_length].count(Status.OK) == LENGTHS_MAX
    rest = watcher.ask_all(V.WATCH, [(b"/w", 0, -1)] * (limit - LENGTHS_MAX + 10))
    assert [status for status, _, _ in rest].count(Status.REFUSED) == 10
    writer = peers()
    changes = writer.ask_all(V.SET, [(b"/" + b"p" * 8000, b"v")] * 200 + [(b"/w", b"v")] * 20)
    assert len(changes) == 220
    watched.check(150)


def test_leases_that_end_all_at_once(peers, watched):
    holder = peers()
    granted = holder.ask_all(V.LEASE_GRANT, [(1500,)] * 20_000)
    leases = [decode_reply(Status.OK, V.LEASE_GRANT, body, 0, len(body))[0] for _, _, body in granted]
    holder.ask_all(V.SWAP, [(b"/leased/%d" % lease, -1, b"v", lease) for lease in leases])
    until = time.monotonic() + PATIENCE_S
    prefixes = [b"/leased/%d" % digit for digit in range(1, 10)]  # all at once would be more than one reply gives
    while any(watched.honest.call(V.LIST_PREFIX, prefix) != ([],) for prefix in prefixes):
        assert time.monotonic() < until
        time.sleep(0.05)
    watched.check(60)


def test_absurd_groups_hold_what_has_come_and_no_more(peers, watched):
    member = peers()
    for rank, size in ((0, 0), (0, GROUP_SIZE_MAX + 1), (5, 5), (2**32 - 1, GROUP_SIZE_MAX)):
        member.sock.sendall(member.request(V.MEET, b"/g", rank, size, b""))
        status, _, body = member.read()
        assert status is Status.REFUSED
        assert reason_of(body) == CloseReason.GROUP_MISMATCH.value
    count = DEFAULT_LIMITS.session_waits_max
    for number in range(30_000 // count + 1):
        member = peers()
        groups = [(b"/g/%d/%d" % (number, name), 7, GROUP_SIZE_MAX, b"l" * 200) for name in range(count)]
        assert member.ask_all(V.MEET, groups) == []
    watched.check(150)
    member.sock.sendall(encode_request(V.CANCEL, 0, 0, member.last_id - 1))
    status, _, body = member.read()
    assert status is Status.EXPIRED
    missing, others = decode_reply(status, V.MEET, body, 0, len(body))
    assert (len(missing), others) == (MEMBERS_NAMED_MAX, [])


def test_a_flood_of_questions_and_no_secret_in_any_answer(server, peers, watched):
    process, _ = server
    asker, others = peers(), [peers() for _ in range(200)]
    sections = [b"", b"peers", b"sessions", b"barriers", b"leases", b"watches", b"refusals", b"keys/", b"values/"]
    others[0].sock.sendall(encode_request(V.PING, 0, 0, 7))  # refused with a reason that is listed
    answers = asker.ask_all(V.STATUS, [(section,) for section in sections * 40])
    assert [status for status, _, _ in answers] == [Status.OK] * len(answers)
    watched.check(60)
    process.terminate()
    _, log = process.communicate(timeout=PATIENCE_S)
    told = b"".join(body for _, _, body in answers) + log.encode()
    json.loads(answers[0][2][8:])
    for session in (watched.honest.session, *(peer.raw.session for peer in (asker, *others))):
        for secret in (session, session.hex().encode(), repr(session)[2:-1].encode()):
            assert secret not in told


def test_certificates_that_do_not_count_and_peers_that_stall_in_tls(tmp_path):
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    files = ours.issue("127.0.0.1")
    arguments = ["--tls-cert", files.cert, "--tls-key", files.key, "--tls-ca", ours.file]
    with served("--port", "0", *arguments) as (process, ready):
        address = ready["host"], ready["port"]

        def enter(tls):
            return TCPStore(*address, timeout=PATIENCE_S, wait_for_workers=False, dialect="session", tls=tls)

        memory = psutil.Process(process.pid).memory_info
        honest = enter(ours.issue("honest"))
        honest.set("big", BIG)
        before = memory().rss
        stalled = [socket.create_connection(address, PATIENCE_S) for _ in range(300)]
        for number, sock in enumerate(stalled):
            sock.sendall((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200))[: number % 200 + 1])
        foreign = theirs.issue("foreign")
        for bad in (ours.issue("old", is_expired=True), Tls(ours.file, foreign.cert, foreign.key), Tls(ours.file)):
            with pytest.raises(DistNetworkError):
                enter(bad).num_keys()
            assert honest.num_keys() == 1
        for number in range(200):
            assert honest.add("count", 1) == number + 1
        assert memory().rss - before < 60 * MIB
        honest.close()
        for sock in stalled:
            sock.close()
        assert process.poll() is None
