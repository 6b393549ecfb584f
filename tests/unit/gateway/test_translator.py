from __future__ import annotations

import random
from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rallypoint.gateway.translator import Translator
from rallypoint.gateway.vocabulary import (
    Answered,
    Ask,
    Failed,
    RelayLimits,
    RelayStatistics,
    UpstreamGone,
    UpstreamThere,
    Withdraw,
)
from rallypoint.protocol.codec import I64, U64, encode_request
from rallypoint.protocol.session.spec import SessionVerb, Status
from rallypoint.protocol.spec import MAGIC, CloseReason, Verb
from rallypoint.server.engine import Engine
from rallypoint.server.keyspace import Keyspace, KeyspaceError
from rallypoint.server.limits import Limits
from rallypoint.server.vocabulary import (
    Close,
    Connected,
    Disconnected,
    Hold,
    Pause,
    Received,
    Release,
    Reply,
    Resumed,
    Ticked,
)

VALIDATE = encode_request(Verb.VALIDATE, MAGIC)


class DumbServer:
    """What a relay needs of a server, as plain as can be: all that waits is looked at after each step."""

    def __init__(self):
        self.keys = Keyspace()
        self.waiting = {}
        self.answers = deque()

    def ask(self, call, verb, fields, peer=0):
        try:
            answer = self.apply(verb, *fields)
        except KeyspaceError as refusal:
            self.answers.append(Answered(call, Status.REFUSED, (refusal.reason.value.encode(), str(refusal).encode())))
            return
        if answer is None:
            self.waiting[call] = (verb, fields)
        self.release()
        if answer is not None:
            self.answers.append(Answered(call, Status.OK, answer))

    def apply(self, verb, *fields):
        keys, (name, *rest) = self.keys, fields or (b"",)
        match verb:
            case SessionVerb.SET:
                keys.set(*fields)
                return (1,)
            case SessionVerb.COMPARE_SET:
                return (keys.compare_set(*fields)[0],)
            case SessionVerb.READ:
                return (0 if keys.get(name) is None else 1, keys.get(name) or b"")
            case SessionVerb.ADD:
                return (keys.add(name, rest[0])[0],)
            case SessionVerb.CHECK:
                return (int(bool(keys.missing(name))),)
            case SessionVerb.DELETE_KEY:
                return (int(keys.delete(name)),)
            case SessionVerb.APPEND:
                keys.append(*fields)
                return (1,)
            case SessionVerb.MULTI_SET:
                keys.multi_set(name)
                return (1,)
            case SessionVerb.PING:
                return (name,)
            case SessionVerb.QUEUE_PUSH:
                keys.push(*fields)
                return (1,)
            case SessionVerb.QUEUE_LEN:
                return (keys.queue_length(name),)
            case SessionVerb.LIST_KEYS | SessionVerb.GETNUMKEYS:
                return (keys.keys() if verb is SessionVerb.LIST_KEYS else len(keys),)
            case SessionVerb.BARRIER:
                count, _ = keys.add(name, 1)
                return () if count >= rest[0] else None
            case _:
                return self.waited(verb, name)

    def waited(self, verb, name):
        if verb is SessionVerb.WAIT:
            return None if self.keys.missing(name) else ()
        if verb is SessionVerb.MULTI_GET:
            values = [self.keys.get(key) for key in name]
            return None if None in values else (values,)
        assert verb is SessionVerb.QUEUE_POP
        _, item = self.keys.pop(name)
        return None if item is None else (item,)

    def release(self):
        for call, (verb, fields) in list(self.waiting.items()):
            if verb is SessionVerb.BARRIER:
                answer = () if int(self.keys.get(fields[0]) or 0) >= fields[1] else None
            else:
                answer = self.waited(verb, fields[0])
            if answer is not None:
                del self.waiting[call]
                self.answers.append(Answered(call, Status.OK, answer))

    def withdraw(self, call):
        if call in self.waiting:
            verb, fields = self.waiting.pop(call)
            names = [key for key in fields[0] if key not in self.keys] if verb is SessionVerb.MULTI_GET else []
            self.answers.append(Answered(call, Status.EXPIRED, (names,)))


class Lab:
    """A translator, its upstream, and what its local peers have got."""

    def __init__(self, limits=None, relay_limits=None, peers=1, *, shares_reads=False):
        self.machine = Translator(limits or Limits(), relay_limits or RelayLimits(), shares_reads=shares_reads)
        self.server = DumbServer()
        self.got = {}
        self.closed = {}
        self.effects = []
        for peer in range(1, peers + 1):
            self.join(peer)

    def join(self, peer, now=0.0):
        self.got[peer] = b""
        self.step(Connected(peer, ""), now)
        self.step(Received(peer, VALIDATE), now)

    def step(self, event, now=0.0):
        return self.do(self.machine.step(event, now))

    def end_turn(self):
        return self.do(self.machine.end_turn())

    def do(self, effects):
        self.effects += effects
        for effect in effects:
            match effect:
                case Ask():
                    self.server.ask(*effect)
                case Withdraw(call):
                    self.server.withdraw(call)
                case Reply(peer, data):
                    self.got[peer] += data
                case Close(peer, reason, detail):
                    self.closed[peer] = (reason, detail)
        return effects

    def say(self, peer, verb, *fields):
        return self.step(Received(peer, encode_request(verb, *fields)))

    def answer(self, chance=None):
        """Deliver answers: all, in order; or by a chance, in any order."""
        answers = self.server.answers
        while answers:
            if chance is not None:
                answers.rotate(chance.randrange(len(answers)))
            self.step(answers.popleft())

    def ask(self, peer, verb, *fields):
        """Say and answer; give what the peer got."""
        before = len(self.got[peer])
        self.say(peer, verb, *fields)
        self.answer()
        return self.got[peer][before:]


def stored(value):
    return U64.pack(len(value)) + value


# --- against the real engine -----------------------------------------------------------------------------

KEYS = st.sampled_from([b"a", b"b", b"c"])
VALUES = st.sampled_from([b"", b"1", b"22", b"x" * 2000])
REQUESTS = st.one_of(
    st.tuples(st.just(Verb.SET), KEYS, VALUES),
    st.tuples(st.just(Verb.COMPARE_SET), KEYS, VALUES, VALUES),
    st.tuples(st.just(Verb.GET), KEYS),
    st.tuples(st.just(Verb.ADD), st.sampled_from([b"m", b"n"]), st.integers(-3, 3)),
    st.tuples(st.just(Verb.CHECK), st.lists(KEYS, max_size=3)),
    st.tuples(st.just(Verb.GETNUMKEYS)),
    st.tuples(st.just(Verb.DELETE_KEY), KEYS),
    st.tuples(st.just(Verb.APPEND), KEYS, VALUES),
    st.tuples(st.just(Verb.MULTI_GET), st.lists(KEYS, max_size=3)),
    st.tuples(st.just(Verb.MULTI_SET), st.lists(st.tuples(KEYS, VALUES), max_size=3)),
    st.tuples(st.just(Verb.PING), st.integers(0, 9)),
    st.tuples(st.just(Verb.QUEUE_PUSH), KEYS, VALUES),
    st.tuples(st.just(Verb.QUEUE_POP), KEYS),
    st.tuples(st.just(Verb.QUEUE_LEN), KEYS),
    st.tuples(st.just(Verb.LIST_KEYS)),
)
WAITS = st.one_of(
    st.tuples(st.just(Verb.WAIT), st.lists(st.sampled_from([b"n", b"w", b"v"]), max_size=2)),
    st.tuples(st.just(Verb.CANCEL_WAIT)),
    st.tuples(st.just(Verb.BARRIER), st.sampled_from([b"z", b"y"]), st.integers(1, 3)),
    st.tuples(st.just(Verb.SET), st.sampled_from([b"w", b"v"]), VALUES),
)


def played_on_engine(script, peers):
    engine = Engine()
    got = {}
    for peer in range(1, peers + 1):
        got[peer] = b""
        engine.step(Connected(peer, ""), 0.0)
        engine.step(Received(peer, VALIDATE), 0.0)
    for peer, request in script:
        for effect in engine.step(Received(peer, encode_request(*request)), 0.0):
            if isinstance(effect, Reply):
                got[effect.peer] += effect.data
    return got


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.one_of(REQUESTS, WAITS)), max_size=40))
def test_each_peer_gets_the_bytes_that_a_server_would_have_sent(script):
    lab = Lab(peers=3)
    for peer, request in script:
        lab.say(peer, *request)
        lab.answer()
    assert lab.got == played_on_engine(script, 3)
    assert not lab.closed


@settings(deadline=None)
@given(st.lists(REQUESTS, max_size=40), st.randoms(use_true_random=False))
def test_replies_keep_the_order_of_the_requests_however_answers_come(script, chance):
    lab = Lab(relay_limits=RelayLimits(unanswered_max=5))
    lab.step(Received(1, b"".join(encode_request(*request) for request in script)))
    while lab.server.answers:
        lab.answer(chance)
    assert lab.got == played_on_engine([(1, request) for request in script], 1)
    statistics = lab.machine.statistics()
    assert (statistics.unanswered, statistics.unanswered_size, statistics.held) == (0, 0, 0)


# --- waits -----------------------------------------------------------------------------------------------


def test_a_wait_does_not_keep_the_requests_behind_it():
    lab = Lab()
    lab.say(1, Verb.WAIT, [b"k"])
    assert lab.ask(1, Verb.ADD, b"n", 5) == I64.pack(5)
    lab.join(2)
    assert lab.ask(2, Verb.SET, b"k", b"") == b""
    assert lab.got[1] == I64.pack(5) + b"\0"


def test_a_cancelled_wait_is_answered_once_and_leaves_nothing():
    lab = Lab()
    lab.say(1, Verb.WAIT, [b"k"])
    assert lab.machine.statistics().waiting == 1
    assert lab.ask(1, Verb.CANCEL_WAIT) == b"\1"
    assert lab.ask(1, Verb.SET, b"k", b"") == b""
    assert lab.machine.statistics().waiting == 0


def test_a_release_that_crosses_the_cancellation_comes_first():
    lab = Lab(peers=2)
    lab.say(1, Verb.WAIT, [b"k"])
    lab.say(2, Verb.SET, b"k", b"")
    assert lab.ask(1, Verb.CANCEL_WAIT) == b"\0\1"


def test_a_peer_that_goes_takes_its_wait_along():
    lab = Lab()
    lab.say(1, Verb.WAIT, [b"k"])
    assert [type(effect) for effect in lab.step(Disconnected(1))] == [Withdraw]
    lab.answer()
    assert lab.machine.statistics() == RelayStatistics(0, 0, 0, 0, 0, requests=2, closed={})


def test_equal_waits_are_asked_singly_because_an_item_of_a_queue_releases_one():
    lab = Lab(peers=2)
    lab.say(1, Verb.WAIT, [b"q"])
    assert [type(effect) for effect in lab.say(2, Verb.WAIT, [b"q"])] == [Ask]


# --- reads of several ----------------------------------------------------------------------------------------


def asked(effects):
    return [effect[1:3] for effect in effects if isinstance(effect, Ask)]


def test_equal_reads_of_one_turn_are_one_behind_all_that_was_asked_before():
    lab = Lab(peers=3, shares_reads=True)
    for peer in (1, 2):
        assert lab.say(peer, Verb.MULTI_GET, [b"k", b"k2"]) == []
    lab.say(3, Verb.SET, b"k", b"v")
    lab.step(Received(3, encode_request(Verb.SET, b"k2", b"v2") + encode_request(Verb.MULTI_GET, [b"k", b"k2"])))
    lab.say(3, Verb.PING, 3)
    assert asked(lab.end_turn()) == [(SessionVerb.MULTI_GET, ([b"k", b"k2"],))]
    lab.answer()
    reply = stored(b"v") + stored(b"v2")
    assert lab.got == {1: reply, 2: reply, 3: reply + b"\3\0\0\0"}


def test_a_read_that_comes_while_an_equal_one_is_on_its_way_is_asked_for_after_that():
    lab = Lab(peers=3, shares_reads=True)
    lab.say(1, Verb.GET, b"k")
    assert len(asked(lab.end_turn())) == 1
    for peer in (2, 3):
        lab.say(peer, Verb.SET, b"k", b"%d" % peer)
        lab.say(peer, Verb.GET, b"k")
    assert lab.end_turn() == []
    lab.answer()
    assert asked(lab.end_turn()) == [(SessionVerb.READ, (b"k",))]
    lab.answer()
    assert lab.got == {1: stored(b""), 2: stored(b"3"), 3: stored(b"3")}
    assert lab.machine.statistics().unanswered == 0


def test_values_that_are_missing_are_read_for_each_reader():
    lab = Lab(peers=2, shares_reads=True)
    lab.ask(1, Verb.SET, b"k", b"v")
    for peer in (1, 2):
        lab.say(peer, Verb.MULTI_GET, [b"gone", b"k"])
    lab.end_turn()
    lab.answer()
    assert lab.got[1] == lab.got[2] == stored(b"") + stored(b"v")


def test_the_end_of_a_shared_read_closes_all_its_readers_and_a_new_one_is_asked():
    lab = Lab(peers=3, shares_reads=True)
    for peer in (1, 2):
        lab.say(peer, Verb.GET, b"k")
    (ask,) = lab.machine.end_turn()
    lab.say(3, Verb.GET, b"k")
    lab.step(Failed(ask.call, "other data"))
    assert lab.closed == dict.fromkeys((1, 2), (CloseReason.ENDED, "other data"))
    assert len(asked(lab.end_turn())) == 1


def test_requests_behind_a_read_are_served_although_their_peer_is_gone():
    lab = Lab(peers=2, shares_reads=True)
    lab.step(Received(1, encode_request(Verb.GET, b"k") + encode_request(Verb.SET, b"k2", b"v")))
    lab.step(Disconnected(1))
    lab.end_turn()
    lab.answer()
    assert lab.ask(2, Verb.CHECK, [b"k2"]) == b"\0"


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["set", "get", "multi", "turn", "answer"])), max_size=60))
def test_a_shared_read_is_never_older_than_its_request(script):
    lab = Lab(peers=3, shares_reads=True)
    latest, expected = 0, {1: [], 2: [], 3: []}
    for peer, what in script:
        if what == "turn":
            lab.end_turn()
        elif what == "answer" and lab.server.answers:
            lab.step(lab.server.answers.popleft())
        elif what == "set":
            latest += 1
            lab.server.keys.set(b"k", b"%04d" % latest)  # by somebody elsewhere
        elif what in ("get", "multi"):
            expected[peer].append(latest)
            lab.say(peer, *((Verb.GET, b"k") if what == "get" else (Verb.MULTI_GET, [b"k"])))
    lab.server.keys.set(b"k", b"%04d" % (latest + 1))
    while asked(lab.end_turn()) or lab.server.answers:
        lab.answer()
    for peer, oldest in expected.items():
        got = lab.got[peer].replace(stored(b""), stored(b"0000"))
        assert len(got) == 12 * len(oldest)
        for number, least in enumerate(oldest):
            assert int(got[12 * number + 8 : 12 * number + 12]) >= least


# --- refusals --------------------------------------------------------------------------------------------


def test_a_refused_request_closes_its_peer_behind_earlier_replies():
    lab = Lab()
    lab.say(1, Verb.SET, b"k", b"no number")
    lab.step(
        Received(
            1,
            encode_request(Verb.PING, 3) + encode_request(Verb.ADD, b"k", 1) + encode_request(Verb.PING, 4),
        )
    )
    lab.answer()
    assert lab.got[1] == b"\3\0\0\0"
    reason, detail = lab.closed[1]
    assert reason is CloseReason.NOT_A_NUMBER
    assert "not a decimal number" in detail
    assert lab.machine.statistics().unanswered_size == 0


def test_bytes_that_are_no_request_close_their_peer_behind_earlier_replies():
    lab = Lab()
    lab.step(Received(1, encode_request(Verb.PING, 3) + b"\xff"))
    assert not lab.closed
    lab.answer()
    assert lab.got[1] == b"\3\0\0\0"
    assert lab.closed[1][0] is CloseReason.UNKNOWN_VERB
    assert lab.step(Received(1, b"more")) == []


def test_a_code_from_a_newer_server_is_an_end():
    lab = Lab()
    lab.machine.step(Received(1, encode_request(Verb.PING, 1)), 0.0)
    lab.step(Answered(1, Status.REFUSED, (b"brand_new", b"because")))
    assert lab.closed[1] == (CloseReason.ENDED, "because")


def test_a_request_whose_fate_is_unknown_closes_its_peer_and_no_other():
    lab = Lab(peers=2)
    lab.machine.step(Received(1, encode_request(Verb.ADD, b"n", 1)), 0.0)
    lab.step(Failed(1, "it is not known whether ADD was applied"))
    assert lab.closed == {1: (CloseReason.ENDED, "it is not known whether ADD was applied")}


def test_a_peer_of_another_dialect_is_closed_without_a_word():
    lab = Lab(peers=0)
    lab.got[7] = b""
    lab.step(Connected(7, ""))
    lab.step(Received(7, b"RPS1"))
    assert lab.closed[7] == (
        CloseReason.BAD_HANDSHAKE,
        "it speaks the session dialect; here c10d is spoken, in which it may come again",
    )
    assert lab.got[7] == b""


def test_peers_are_bounded_and_must_validate_in_time():
    lab = Lab(Limits(connections_max=1, handshake_timeout_s=5.0), peers=0)
    lab.step(Connected(1, ""), 10.0)
    lab.step(Connected(2, ""), 10.0)
    assert lab.closed[2][0] is CloseReason.TOO_MANY_CONNECTIONS
    assert lab.machine.next_deadline() == 15.0
    lab.step(Ticked(), 15.0)
    assert lab.closed[1][0] is CloseReason.HANDSHAKE_TIMEOUT
    assert lab.machine.next_deadline() is None


def test_begun_requests_are_bounded_in_total():
    lab = Lab(Limits(input_total_max=3000), peers=2)
    half = encode_request(Verb.SET, b"k", b"x" * 2000)[:-1]
    lab.step(Received(1, half))
    lab.step(Received(2, half))
    assert [reason for reason, _ in lab.closed.values()] == [CloseReason.INPUT_TOTAL]


# --- bounds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bounds", [{"unanswered_max": 4}, {"unanswered_size_max": 400}, {"unanswered_total_max": 400}], ids=str
)
def test_a_peer_with_too_much_on_its_way_is_held_until_it_is_answered(bounds):
    lab = Lab(relay_limits=RelayLimits(**bounds))
    effects = lab.step(Received(1, b"".join(encode_request(Verb.ADD, b"n", 1) for _ in range(20))))
    assert Hold in map(type, effects)
    assert sum(isinstance(effect, Ask) for effect in effects) < 10
    assert lab.machine.statistics().held == 1
    lab.answer()
    assert lab.got[1] == b"".join(I64.pack(number) for number in range(1, 21))
    kinds = Counter(map(type, lab.effects))
    assert kinds[Hold] == kinds[Release] == 1


def test_requests_of_a_peer_that_was_held_and_goes_are_served_all_the_same():
    lab = Lab(relay_limits=RelayLimits(unanswered_max=4))
    lab.step(Received(1, b"".join(encode_request(Verb.SET, b"%d" % number, b"") for number in range(20))))
    lab.step(Disconnected(1))
    lab.answer()
    assert len(lab.server.keys) == 20
    assert lab.machine.statistics().unanswered_size == 0


def test_a_peer_that_causes_much_is_paused():
    lab = Lab(Limits(output_size_max=100))
    lab.say(1, Verb.SET, b"k", b"x" * 200)
    lab.say(1, Verb.GET, b"k")
    lab.answer()
    assert type(lab.effects[-1]) is Pause
    lab.say(1, Verb.PING, 3)
    assert not lab.server.answers
    lab.step(Resumed(1))
    lab.answer()
    assert lab.got[1][-4:] == b"\3\0\0\0"


def test_a_peer_that_does_not_read_is_owed_no_more_than_its_limit_and_one_reply():
    lab = Lab(Limits(output_size_max=1000))
    lab.say(1, Verb.SET, b"k", b"x" * 300)
    asked = Received(1, encode_request(Verb.GET, b"k") * 20)
    assert sum(isinstance(effect, Ask) for effect in lab.step(asked)) == 1
    for times in range(1, 6):
        lab.answer()
        assert type(lab.effects[-1]) is Pause
        assert lab.got[1] == (U64.pack(300) + b"x" * 300) * 4 * times
        lab.step(Resumed(1))
    assert lab.machine.statistics().unanswered == 0


# --- the server upstream ---------------------------------------------------------------------------------


def test_peers_wait_while_there_is_no_server_and_are_closed_when_it_takes_too_long():
    lab = Lab(relay_limits=RelayLimits(patience_s=30.0), peers=2)
    lab.step(UpstreamGone("connection refused"), 100.0)
    lab.step(UpstreamGone("connection refused again"), 110.0)
    assert lab.machine.next_deadline() == 130.0
    lab.step(Ticked(), 120.0)
    assert not lab.closed
    lab.step(Ticked(), 130.0)
    detail = "the server upstream has been unreachable for 30.0 s: connection refused again"
    assert lab.closed == {1: (CloseReason.ENDED, detail), 2: (CloseReason.ENDED, detail)}
    assert lab.machine.next_deadline() is None


def test_newcomers_are_refused_only_while_the_server_is_given_up():
    lab = Lab(relay_limits=RelayLimits(patience_s=30.0), peers=0)
    lab.step(UpstreamGone("no route"), 0.0)
    lab.step(Ticked(), 31.0)
    lab.step(Connected(1, ""), 32.0)
    assert "unreachable for 32.0 s: no route" in lab.closed[1][1]
    lab.step(UpstreamThere(is_same=True), 33.0)
    lab.join(2, 34.0)
    assert 2 not in lab.closed


def test_a_server_with_other_data_closes_everybody():
    lab = Lab(peers=2)
    lab.step(UpstreamGone("gone"), 1.0)
    lab.step(UpstreamThere(is_same=False), 2.0)
    assert set(lab.closed) == {1, 2}
    assert "other data" in lab.closed[1][1]


def test_a_server_that_comes_back_in_time_is_not_noticed():
    lab = Lab()
    lab.step(UpstreamGone("gone"), 1.0)
    lab.say(1, Verb.PING, 5)
    lab.step(UpstreamThere(is_same=True), 2.0)
    lab.answer()
    assert lab.got[1] == b"\5\0\0\0"
    assert lab.machine.next_deadline() is None


def test_numbers_of_calls_are_never_used_again():
    chance = random.Random(1)
    lab = Lab()
    for _ in range(50):
        lab.ask(1, *chance.choice([(Verb.PING, 1), (Verb.MULTI_GET, [b"a", b"b"]), (Verb.QUEUE_POP, b"q")]))
    calls = [effect.call for effect in lab.effects if isinstance(effect, Ask)]
    assert len(calls) == len(set(calls))
