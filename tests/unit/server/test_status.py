from __future__ import annotations

import json

import pytest

import rallypoint
from rallypoint.protocol.codec import RequestError, encode_request
from rallypoint.protocol.session import codec as session
from rallypoint.protocol.session.spec import NONCE_SIZE, OPENING, VERSION, SessionVerb, Status
from rallypoint.protocol.spec import MAGIC, CloseReason, Verb
from rallypoint.server.engine import Connected, Engine, Limits, Received, Reply, Ticked
from rallypoint.server.status import LISTED_MAX, NAMES_MAX, SCHEMA_VERSION, VALUE_SIZE_MAX
from rallypoint.server.vocabulary import Origin, Pause


class Lab:
    """An engine, and what is asked of it."""

    def __init__(self, limits=None):
        self.engine = Engine(limits or Limits())
        self.now = 100.0
        self.engine.step(Ticked(), self.now)
        self.ids = {}

    def say(self, peer, data):
        return self.engine.step(Received(peer, data), self.now)

    def plain(self, peer, *requests):
        self.engine.step(Connected(peer, f"10.0.0.{peer}:1"), self.now)
        self.say(peer, encode_request(Verb.VALIDATE, MAGIC))
        for request in requests:
            self.say(peer, encode_request(*request))

    def session(self, peer, label=b"rank 0"):
        self.engine.step(Connected(peer, f"10.0.0.{peer}:1"), self.now)
        hello = session.encode_request(SessionVerb.HELLO, 0, 0, VERSION, b"", b"", label, bytes(NONCE_SIZE), 10_000)
        self.say(peer, OPENING + hello)
        self.ids[peer] = 0

    def ask(self, peer, verb, *fields):
        self.ids[peer] += 1
        return self.say(peer, session.encode_request(verb, self.ids[peer], 0, *fields))

    def look(self, what=""):
        document = self.engine.status.document(what, self.now)
        assert json.loads(json.dumps(document)) == document
        return document


def test_an_overview_counts_what_there_is():
    lab = Lab()
    lab.plain(1, (Verb.SET, b"/k", b"value"), (Verb.WAIT, [b"/never"]))
    lab.session(2)
    lab.now = 110.0
    seen = lab.look()
    assert (seen["version"], seen["section"], seen["twin"]) == (SCHEMA_VERSION, "overview", "python")
    assert seen["rallypoint"] == rallypoint.__version__
    assert len(bytes.fromhex(seen["life"])) == 16
    assert seen["uptime_s"] == 10.0
    assert (seen["now"]["connections"], seen["now"]["sessions"]) == (2, 1)
    assert (seen["now"]["waiting"], seen["now"]["keys"]) == (1, 1)
    assert seen["totals"]["requests"] == 4
    assert seen["limits"]["connections_max"] == {"used": 2, "limit": Limits().connections_max}


def test_an_overview_tells_how_near_each_limit_on_a_sum_is():
    lab = Lab(Limits(handshakes_max=7, connections_per_address_max=5, output_total_max=9, keys_max=3))
    for peer in (1, 2):
        lab.engine.step(Connected(peer, "", Origin("10.0.0.1")), lab.now)
        lab.say(peer, encode_request(Verb.VALIDATE, MAGIC))
    lab.engine.step(Connected(3, "", Origin("10.0.0.2")), lab.now)
    lab.say(1, encode_request(Verb.SET, b"/k", b""))
    limits = lab.look()["limits"]
    assert limits["handshakes_max"] == {"used": 1, "limit": 7}
    assert limits["connections_per_address_max"] == {"used": 2, "limit": 5}
    assert limits["output_total_max"] == {"used": 0, "limit": 9}
    assert limits["keys_max"] == {"used": 1, "limit": 3}


def test_rates_are_counted_since_a_look_that_is_old_enough():
    lab = Lab()
    lab.plain(1)
    lab.look()
    lab.now = 104.0
    for _ in range(8):
        lab.say(1, encode_request(Verb.PING, 1))
    rates = lab.look()["rates"]
    assert (rates["over_s"], rates["requests_per_s"], rates["sent_size_per_s"]) == (4.0, 2.0, 8.0)
    lab.now = 104.5  # another look, too soon for a rate of its own
    assert lab.look()["rates"]["over_s"] == 4.5


def test_peers_show_who_they_are_and_what_they_wait_for():
    lab = Lab()
    lab.plain(1, (Verb.WAIT, [b"/a", b"/b"]))
    lab.plain(2, (Verb.BARRIER, b"/all", 3))
    lab.session(3)
    lab.ask(3, SessionVerb.GET, b"/a")
    lab.engine.step(Connected(4, "10.0.0.4:1"), lab.now)
    lab.now += 5
    peers = lab.look("peers")["peers"]
    assert [peer["dialect"] for peer in peers] == ["c10d", "c10d", "session", ""]
    assert [peer["address"] for peer in peers] == [f"10.0.0.{number}:1" for number in (1, 2, 3, 4)]
    assert {peer["age_s"] for peer in peers} == {5.0}
    assert peers[0]["waits"] == [{"verb": "WAIT", "names": ["a", "b"], "names_left_out": 0, "since_s": 5.0}]
    assert peers[1]["waits"] == [{"verb": "BARRIER", "names": ["all"], "names_left_out": 0, "since_s": 5.0}]
    assert peers[2]["waits"] == [{"verb": "GET", "names": ["a"], "names_left_out": 0, "since_s": 5.0}]
    assert (peers[2]["label"], peers[2]["session"], peers[3]["waits"]) == ("rank 0", 1, [])


def test_sessions_are_shown_without_their_secret():
    lab = Lab()
    lab.session(1)
    lab.ask(1, SessionVerb.SET, b"/k", b"v")
    seen = lab.look("sessions")
    (one,) = seen["sessions"]
    assert (one["label"], one["peer"], one["answers"], one["ends_in_s"]) == ("rank 0", 1, 1, None)
    (secret,) = (each.session_id for each in lab.engine.parts.sessions)
    assert secret.hex() not in json.dumps(seen)


def test_barriers_name_who_is_missing_and_who_waits():
    lab = Lab()
    lab.session(1)
    lab.ask(1, SessionVerb.MEET, b"/ready", 0, 2, b"node a")
    lab.plain(2, (Verb.BARRIER, b"/old", 3))
    lab.now += 7
    meeting, plain = lab.look("barriers")["barriers"]
    assert (meeting["kind"], meeting["name"], meeting["members"], meeting["arrived"]) == ("barrier", "ready", 2, 1)
    assert meeting["missing"] == [{"rank": 1, "label": "", "since_s": None}]
    assert meeting["waiting"] == [{"rank": 0, "label": "node a", "since_s": 7.0}]
    assert (plain["kind"], plain["name"], plain["members"], plain["arrived"]) == ("c10d", "old", 3, 1)


def test_leases_and_watches_are_shown():
    lab = Lab()
    lab.session(1)
    lab.ask(1, SessionVerb.LEASE_GRANT, 0)
    lab.ask(1, SessionVerb.LEASE_GRANT, 4000)
    lab.ask(1, SessionVerb.WATCH, b"/nodes/", 1, -1)
    lab.now += 1
    leases = lab.look("leases")["leases"]
    assert [(lease["lease"], lease["ttl_s"], lease["left_s"]) for lease in leases] == [(1, None, None), (2, 4.0, 3.0)]
    assert lab.look("watches")["watches"] == [
        {"session": 1, "key": "nodes/", "is_prefix": True, "kept": 0, "has_missed": False}
    ]


def test_keys_are_found_by_prefix_and_their_values_shown_only_on_demand():
    lab = Lab()
    lab.plain(1, (Verb.SET, b"/a/1", b"x" * 5000), (Verb.SET, b"/b", b"v"), (Verb.SET, b"init/", b"1"))
    lab.plain(2, (Verb.QUEUE_PUSH, b"/a/q", b"item"))
    (key, queue) = lab.look("keys/a/")["keys"]
    assert key == {"key": "a/1", "size": 5000, "revision": 1}
    assert queue == {"key": "a/q", "size": 4, "items": 1}
    assert {entry["key"] for entry in lab.look("keys/")["keys"]} == {"a/1", "b", "init/", "a/q"}
    value = lab.look("values/a/1")["keys"][0]["value"]
    assert len(value) == (VALUE_SIZE_MAX + 2) // 3 * 4


def test_refusals_are_told_with_their_reason_the_last_one_first():
    lab = Lab(Limits(connections_max=1))
    lab.plain(1)
    lab.engine.step(Connected(2, "10.0.0.2:1"), lab.now)
    lab.say(1, b"\xff")
    lab.now += 2
    refusals = lab.look("refusals")["refusals"]
    assert [refusal["reason"] for refusal in refusals] == ["unknown_verb", "too_many_connections"]
    assert (refusals[0]["address"], refusals[0]["age_s"]) == ("10.0.0.1:1", 2.0)
    assert lab.look()["closed"] == {"unknown_verb": 1, "too_many_connections": 1}


def test_long_lists_are_cut_and_say_how_much_is_left_out():
    lab = Lab()
    lab.plain(1, (Verb.MULTI_SET, [(b"/%d" % number, b"") for number in range(LISTED_MAX + 7)]))
    lab.plain(2, (Verb.WAIT, [b"/w%d" % number for number in range(NAMES_MAX + 5)]))
    seen = lab.look("keys/")
    assert (len(seen["keys"]), seen["total"], seen["left_out"]) == (LISTED_MAX, LISTED_MAX + 7, 7)
    (wait,) = lab.look("peers")["peers"][1]["waits"]
    assert (len(wait["names"]), wait["names_left_out"]) == (NAMES_MAX, 5)


def test_names_that_are_no_text_are_shown_as_escapes():
    lab = Lab()
    lab.plain(1, (Verb.SET, b"/\xff\n", b""))
    assert lab.look("keys/")["keys"][0]["key"] == "\\xff\n"


def test_an_unknown_section_is_refused_with_those_that_there_are():
    with pytest.raises(RequestError, match=r"no status of 'everything', there is: peers, .*keys/PREFIX") as refused:
        Lab().look("everything")
    assert refused.value.reason is CloseReason.BAD_ARGUMENT


def test_who_is_given_a_document_waits_for_its_turn_before_the_next_is_made():
    lab = Lab()
    lab.session(1)
    assert lab.ask(1, SessionVerb.STATUS, b"peers")[-1] == Pause(1)


def test_the_document_is_what_status_is_answered_with():
    lab = Lab()
    lab.session(1)
    (head, *body) = [effect for effect in lab.ask(1, SessionVerb.STATUS, b"peers") if isinstance(effect, Reply)]
    data = head.data + b"".join(reply.data for reply in body)
    status, number = session.decode_reply_head(data, 0)
    assert (status, number) == (Status.OK, 1)
    (document,) = session.decode_reply(Status.OK, SessionVerb.STATUS, data, session.REPLY_HEAD_SIZE, len(data))
    assert json.loads(document)["peers"][0]["peer"] == 1
