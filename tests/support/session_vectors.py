"""Conversations of the session dialect, byte for byte, as the Python engine has them.

python -m tests.support.session_vectors            # writes session_vectors.jsonl anew; review it as a diff

One line is one conversation. Its steps are what a peer sends, and what each peer has received when that was served:

    {"name": ..., "says": [...], "steps": [{"peer": "a", "send": hex, "recv": {"a": hex}, "closed": {}}, ...]}

The server's seed is 32 zero bytes and its clock stands still but for ``tick``, so ids, nonces and times are the same
each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.wire import VALIDATE, Connection, Wire

from rallypoint.protocol.codec import encode_request as encode_c10d
from rallypoint.protocol.session.codec import encode_request
from rallypoint.protocol.session.spec import CLOSING_ID, OPENING, SESSION_VERBS, VERSION, SessionVerb
from rallypoint.protocol.spec import Verb

__all__ = ["PATH", "Conversation", "conversations", "replay"]

PATH = Path(__file__).with_name("session_vectors.jsonl")
NEW = b""
NONCE = bytes(range(16))
OUTLIVES_MS = 10_000
V = SessionVerb

Conversation = dict[str, Any]


class Talk:
    """Writes a conversation down while it is held."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.peers: dict[str, Connection] = {}
        self.steps: list[Conversation] = []
        self.says: list[str] = []
        self.ids: dict[str, int] = {}
        self.sessions: dict[str, bytes] = {}

    def note(self, text: str, **step: Any) -> None:
        recv = {name: peer.read().hex() for name, peer in self.peers.items() if peer.unread}
        closed = {name: peer.closed.reason.value for name, peer in self.peers.items() if peer.closed is not None}
        self.says.append(text)
        self.steps.append({**step, "recv": recv, "closed": closed})

    def send(self, name: str, data: bytes, text: str) -> None:
        if name not in self.peers:
            self.peers[name] = self.wire.connect(validates=False)
        self.peers[name].send(data)
        self.note(f"{name}: {text}", peer=name, send=data.hex())

    def hello(self, name: str, *, resumes: str = "", version: int = VERSION) -> None:
        """Begin a session, or go on with the one that ``resumes`` had."""
        session = self.sessions[resumes] if resumes else NEW
        fields = (version, session, b"", name.encode(), NONCE, OUTLIVES_MS)
        self.send(name, OPENING + encode_request(V.HELLO, CLOSING_ID, 0, *fields), "HELLO")
        welcome = bytes.fromhex(self.steps[-1]["recv"].get(name, ""))
        self.sessions[name] = welcome[21:37]
        self.ids[name] = self.ids.get(resumes, 0)

    def ask(self, name: str, verb: SessionVerb, *fields: Any, request_id: int | None = None, done: int = 0) -> int:
        """Send a request; give its id."""
        if request_id is None:
            is_numbered = SESSION_VERBS[verb].is_answered
            request_id = self.ids[name] = self.ids[name] + is_numbered
            request_id = request_id if is_numbered else CLOSING_ID
        shown = ", ".join(repr(field) for field in fields)
        self.send(name, encode_request(verb, request_id, done, *fields), f"{verb.name} {request_id}: {shown}")
        return request_id

    def leave(self, name: str) -> None:
        self.peers[name].disconnect()
        self.note(f"{name}: the connection is lost", peer=name, leaves=True)

    def tick(self, seconds: float) -> None:
        self.wire.tick(seconds)
        self.note(f"{seconds:g} s pass", tick=seconds)


def _begin(talk: Talk, *names: str) -> None:
    for name in names:
        talk.hello(name)


def keys_and_values(talk: Talk) -> None:
    _begin(talk, "a")
    talk.ask("a", V.SET, b"/k", b"value")
    talk.ask("a", V.GET, b"/k")
    talk.ask("a", V.ADD, b"/n", 5)
    talk.ask("a", V.ADD, b"/n", -7)
    talk.ask("a", V.APPEND, b"/k", b"+")
    talk.ask("a", V.COMPARE_SET, b"/k", b"value+", b"other")
    talk.ask("a", V.COMPARE_SET, b"/k", b"value+", b"again")
    talk.ask("a", V.COMPARE_SET, b"/absent", b"x", b"y")
    talk.ask("a", V.CHECK, [b"/k", b"/n"])
    talk.ask("a", V.CHECK, [b"/k", b"/absent"])
    talk.ask("a", V.MULTI_SET, [(b"/m/1", b"one"), (b"/m/2", b"")])
    talk.ask("a", V.MULTI_GET, [b"/m/2", b"/m/1"])
    talk.ask("a", V.GETNUMKEYS)
    talk.ask("a", V.LIST_KEYS)
    talk.ask("a", V.DELETE_KEY, b"/k")
    talk.ask("a", V.DELETE_KEY, b"/k")
    talk.ask("a", V.PING, 77)


def revisions_and_prefixes(talk: Talk) -> None:
    _begin(talk, "a")
    talk.ask("a", V.READ, b"/p/a")
    talk.ask("a", V.SWAP, b"/p/a", 0, b"first", 0)
    talk.ask("a", V.SWAP, b"/p/a", 0, b"late", 0)
    talk.ask("a", V.READ, b"/p/a")
    talk.ask("a", V.SWAP, b"/p/a", -1, b"whatever", 0)
    talk.ask("a", V.SET, b"/p/b", b"2")
    talk.ask("a", V.SET, b"/q", b"3")
    talk.ask("a", V.LIST_PREFIX, b"/p/")
    talk.ask("a", V.READ_PREFIX, b"/p/")
    talk.ask("a", V.DELETE_PREFIX, b"/p/")
    talk.ask("a", V.LIST_PREFIX, b"/")


def queues(talk: Talk) -> None:
    _begin(talk, "a", "b")
    talk.ask("b", V.QUEUE_POP, b"/q")
    talk.ask("a", V.QUEUE_PUSH, b"/q", b"for b")
    talk.ask("a", V.QUEUE_PUSH, b"/q", b"kept")
    talk.ask("a", V.QUEUE_LEN, b"/q")
    talk.ask("b", V.QUEUE_POP, b"/q")
    waiting = talk.ask("b", V.QUEUE_POP, b"/q")
    talk.ask("b", V.CANCEL, waiting)


def waits(talk: Talk) -> None:
    _begin(talk, "a", "b")
    talk.ask("b", V.GET, b"/late")
    talk.ask("b", V.WAIT, [b"/late", b"/later"])
    talk.ask("b", V.MULTI_GET, [b"/later", b"/late"])
    talk.ask("b", V.PING, 1)
    talk.ask("a", V.SET, b"/late", b"1")
    talk.ask("a", V.SET, b"/later", b"2")
    waiting = talk.ask("b", V.WAIT, [b"/late", b"/never"])
    talk.ask("b", V.CANCEL, waiting)
    talk.ask("b", V.CANCEL, waiting)


def one_dialect_releases_the_other(talk: Talk) -> None:
    _begin(talk, "a")
    talk.send("c", VALIDATE + encode_c10d(Verb.WAIT, [b"/from a"]), "VALIDATE, WAIT in c10d")
    talk.ask("a", V.GET, b"/from c")
    talk.ask("a", V.SET, b"/from a", b"")
    talk.send("c", encode_c10d(Verb.SET, b"/from c", b"hello"), "SET in c10d")


def counting_barrier(talk: Talk) -> None:
    _begin(talk, "a", "b")
    talk.ask("a", V.BARRIER, b"/bar", 2)
    talk.ask("b", V.BARRIER, b"/bar", 2)
    waiting = talk.ask("a", V.BARRIER, b"/bar", 9)
    talk.ask("a", V.CANCEL, waiting)


def refusals(talk: Talk) -> None:
    _begin(talk, "a")
    talk.ask("a", V.SET, b"/text", b"not a number")
    talk.ask("a", V.ADD, b"/text", 1)
    talk.ask("a", V.LEASE_RENEW, 99)
    talk.ask("a", V.SWAP, b"/k", -1, b"v", 99)
    talk.ask("a", V.MEET, b"/m", 2, 2, b"")
    talk.ask("a", V.PING, 1)


def wrong_version(talk: Talk) -> None:
    talk.hello("a", version=99)


def broken_frame(talk: Talk) -> None:
    _begin(talk, "a")
    talk.send("a", encode_request(V.PING, 1, 0, 5)[:-1].replace(b"\x15", b"\x14", 1), "PING, a byte short")


def resumed(talk: Talk) -> None:
    _begin(talk, "a")
    talk.ask("a", V.ADD, b"/n", 1)
    talk.leave("a")
    talk.hello("b", resumes="a")
    talk.ask("b", V.ADD, b"/n", 1, request_id=1)
    talk.ask("b", V.ADD, b"/n", 1, request_id=2)
    talk.ask("b", V.ADD, b"/n", 1, request_id=3, done=3)


def taken_over(talk: Talk) -> None:
    _begin(talk, "a")
    talk.ask("a", V.GET, b"/late")
    talk.hello("b", resumes="a")
    talk.ask("b", V.GET, b"/late", request_id=1)
    talk.ask("b", V.SET, b"/late", b"here")


def too_late_to_resume(talk: Talk) -> None:
    _begin(talk, "a")
    talk.leave("a")
    talk.tick(OUTLIVES_MS / 1000 + 1)
    talk.tick(OUTLIVES_MS / 1000)
    talk.hello("b", resumes="a")


def farewell(talk: Talk) -> None:
    _begin(talk, "a", "b")
    talk.ask("a", V.LEASE_GRANT, 0)
    talk.ask("a", V.SWAP, b"/leased", 0, b"v", 1)
    talk.ask("b", V.WATCH, b"/leased", 0, -1)
    talk.ask("a", V.BYE)


def leases(talk: Talk) -> None:
    _begin(talk, "a")
    talk.ask("a", V.LEASE_GRANT, 3000)
    talk.ask("a", V.SWAP, b"/leased", 0, b"v", 1)
    talk.ask("a", V.LEASE_RENEW, 1)
    talk.ask("a", V.LEASE_REVOKE, 1)
    talk.ask("a", V.CHECK, [b"/leased"])
    talk.ask("a", V.LEASE_GRANT, 2000)


def watches(talk: Talk) -> None:
    _begin(talk, "a", "b")
    watch = talk.ask("b", V.WATCH, b"/w/", 1, -1)
    talk.ask("a", V.SET, b"/w/1", b"new")
    talk.ask("a", V.SET, b"/other", b"unseen")
    talk.ask("a", V.DELETE_KEY, b"/w/1")
    talk.ask("b", V.UNWATCH, watch)
    talk.ask("a", V.SET, b"/w/1", b"unseen")
    talk.ask("b", V.WATCH, b"/w/1", 0, 1)


def meeting(talk: Talk) -> None:
    _begin(talk, "a", "b")
    for _ in range(2):
        talk.ask("a", V.MEET, b"/m", 0, 2, b"first")
        talk.ask("b", V.MEET, b"/m", 1, 2, b"second")


def meeting_that_expires(talk: Talk) -> None:
    _begin(talk, "a", "b")
    waiting = talk.ask("a", V.MEET, b"/m", 2, 3, b"third")
    talk.tick(1.5)
    talk.ask("b", V.MEET, b"/m", 0, 3, b"first")
    talk.ask("a", V.CANCEL, waiting)


def meeting_that_loses_a_member(talk: Talk) -> None:
    _begin(talk, "a", "b")
    talk.ask("a", V.MEET, b"/m", 0, 2, b"first")
    talk.ask("b", V.MEET, b"/m", 1, 2, b"second")
    talk.ask("a", V.MEET, b"/m", 0, 2, b"first")
    talk.ask("b", V.BYE)


def meeting_of_which_one_returns(talk: Talk) -> None:
    _begin(talk, "a", "b")
    talk.ask("a", V.MEET, b"/m", 0, 2, b"")
    talk.leave("a")
    talk.ask("b", V.MEET, b"/m", 1, 2, b"")
    talk.hello("c", resumes="a")
    talk.ask("c", V.MEET, b"/m", 0, 2, b"", request_id=1)


def exchange(talk: Talk) -> None:
    _begin(talk, "a", "b")
    talk.ask("a", V.EXCHANGE, b"/x", 1, 2, b"", b"one")
    talk.ask("b", V.EXCHANGE, b"/x", 0, 2, b"", b"zero")
    talk.ask("a", V.EXCHANGE, b"/x", 1, 3, b"", b"one")
    talk.ask("b", V.EXCHANGE, b"/x", 0, 2, b"", b"zero")


CONVERSATIONS: tuple[Callable[[Talk], None], ...] = (
    keys_and_values,
    revisions_and_prefixes,
    queues,
    waits,
    one_dialect_releases_the_other,
    counting_barrier,
    refusals,
    wrong_version,
    broken_frame,
    resumed,
    taken_over,
    too_late_to_resume,
    farewell,
    leases,
    watches,
    meeting,
    meeting_that_expires,
    meeting_that_loses_a_member,
    meeting_of_which_one_returns,
    exchange,
)


def conversations() -> Iterator[Conversation]:
    """Hold all conversations anew, over the twin that is running."""
    for hold in CONVERSATIONS:
        talk = Talk()
        hold(talk)
        yield {"name": hold.__name__, "says": talk.says, "steps": talk.steps}


def replay(conversation: Conversation, cut: int | None) -> list[Conversation]:
    """Send what was sent, cut into segments; give the steps as they come out now."""
    wire = Wire()
    peers: dict[str, Connection] = {}
    steps = []
    for step in conversation["steps"]:
        sent = {key: step[key] for key in step if key not in ("recv", "closed")}
        if "tick" in step:
            wire.tick(step["tick"])
        elif "leaves" in step:
            peers[step["peer"]].disconnect()
        else:
            if step["peer"] not in peers:
                peers[step["peer"]] = wire.connect(validates=False, cut=cut)
            peers[step["peer"]].send(bytes.fromhex(step["send"]))
        recv = {name: peer.read().hex() for name, peer in peers.items() if peer.unread}
        closed = {name: peer.closed.reason.value for name, peer in peers.items() if peer.closed is not None}
        steps.append({**sent, "recv": recv, "closed": closed})
    return steps


def main() -> None:
    """Write the file."""
    PATH.write_text("".join(json.dumps(conversation) + "\n" for conversation in conversations()))


if __name__ == "__main__":
    main()
