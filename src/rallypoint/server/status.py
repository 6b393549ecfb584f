"""What the server says of itself: the documents that STATUS is answered with.

Rules:

- A document is a JSON object; its layout is a Struct in ``observe.status``, and ``version`` says which version of that.
  Fields may be added within a version.
- Times are ages and durations in seconds on the server's clock: no clocks of two machines are compared.
- Sizes are bytes. Names of keys are as users write them; bytes that are no text are shown as escapes.
- A list has ``LISTED_MAX`` entries at most, and a wait ``NAMES_MAX`` names; what is left out is counted.
- A document may cost much more than its request: who is given one waits for its turn before the next is made.
- Values are shown only to who asks for ``values/``, ``VALUE_SIZE_MAX`` bytes of each at most.

Theory of operation. ``document`` is given the text of a STATUS request and looks at the parts of the engine, each
through what it shows of itself; nothing is kept for it but the samples that rates are counted from.

What this file does not know: how a document is sent, who may see it (``access``).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from json import dumps
from typing import Any, Final, Protocol, TypeAlias

import rallypoint
from rallypoint.protocol.codec import Request, RequestError
from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.protocol.spec import CloseReason, Verb
from rallypoint.server.addresses import Addresses
from rallypoint.server.ground import Ground
from rallypoint.server.keyspace import Keyspace, KeyspaceError
from rallypoint.server.peer import Peer, Refused
from rallypoint.server.session_parts import SessionParts
from rallypoint.server.session_verbs import VerbHandler
from rallypoint.server.sessions import Session
from rallypoint.server.timed import Handshakes
from rallypoint.server.unread import UnreadOutput
from rallypoint.server.vocabulary import Statistics

__all__ = ["LISTED_MAX", "NAMES_MAX", "SCHEMA_VERSION", "VALUE_SIZE_MAX", "Status", "Watched"]

SCHEMA_VERSION: Final = 1
"""The version of the documents' layout."""

LISTED_MAX: Final = 1000
"""Entries of one list in a document."""

NAMES_MAX: Final = 16
"""Names of one wait in a document."""

VALUE_SIZE_MAX: Final = 1024
"""Bytes of one value in a document."""

_RATE_OVER_S = 1.0  # rates are counted over at least so long

_Object: TypeAlias = dict[str, Any]


class Watched(Protocol):
    """What the documents are about: an engine."""

    ground: Ground
    parts: SessionParts
    handshakes: Handshakes
    addresses: Addresses
    unread: UnreadOutput
    peers: dict[int, Peer]

    @property
    def refused(self) -> Iterable[Refused]:
        """The connections closed last."""
        ...

    def statistics(self) -> Statistics:
        """Give the numbers."""
        ...

    def traffic(self) -> tuple[int, int]:
        """Give the bytes received and sent since the start."""

    def pause(self, peer: int) -> None:
        """Send what a peer is owed before it may ask for more."""


class Status:
    """The documents of one server, and the verb that asks for them.

    Args:
        engine: what they are about.

    Threads: none but the caller's.
    """

    def __init__(self, engine: Watched) -> None:
        self._engine = engine
        self._began: float | None = None
        self._samples: list[tuple[float, int, int, int]] = []
        self._sections: dict[str, Callable[[float], _Object]] = {
            "": self._overview,
            "peers": self._peers,
            "sessions": self._sessions,
            "barriers": self._barriers,
            "leases": self._leases,
            "watches": self._watches,
            "refusals": self._refusals,
        }
        engine.parts.verbs.register(SessionVerb.STATUS, VerbHandler(self._answer))

    def begin(self, now: float) -> None:
        """Take note that the server begins, unless it has begun."""
        if self._began is None:
            self._began = now

    def document(self, what: str, now: float) -> _Object:
        """Give one document.

        Args:
            what: empty for an overview, a section's name, or ``keys/`` or ``values/`` and a prefix.
            now: the time.

        Raises:
            RequestError: there is no such document.

        Cost: grows with what is looked at: all peers, or all keys with the prefix.
        """
        look = self._sections.get(what)
        if look is not None:
            return {"version": SCHEMA_VERSION, "section": what or "overview", **look(now)}
        section, slash, prefix = what.partition("/")
        if slash and section in {"keys", "values"}:
            return {
                "version": SCHEMA_VERSION,
                "section": section,
                **self._keys(prefix, with_values=section == "values"),
            }
        known = ", ".join([*filter(None, self._sections), "keys/PREFIX", "values/PREFIX"])
        raise RequestError(CloseReason.BAD_ARGUMENT, f"there is no status of {what[:99]!r}, there is: {known}")

    def _answer(self, session: Session, request_id: int, request: Request) -> None:
        ground = self._engine.ground
        document = self.document(request[1].decode(errors="replace"), ground.now)
        self._engine.parts.verbs.answer_stored(session, request_id, request, dumps(document).encode())
        assert session.peer is not None  # it has asked just now
        self._engine.pause(session.peer)

    # --- the overview ------------------------------------------------------------------------------------

    def _overview(self, now: float) -> _Object:
        numbers, traffic = self._engine.statistics(), self._engine.traffic()
        parts = self._engine.parts
        began = now if self._began is None else self._began
        return {
            "rallypoint": rallypoint.__version__,
            "twin": "python",
            "dialects": ["c10d", "session"],
            "life": parts.life_id.hex(),
            "data": parts.data_id.hex(),
            "uptime_s": now - began,
            "now": {
                "connections": numbers.connections,
                "validated": numbers.validated,
                "paused": numbers.paused,
                "sessions": numbers.sessions,
                "waiting": numbers.waiting,
                "keys": numbers.keys,
                "queues": numbers.queues,
                "groups": len(parts.groups.groups),
                "leases": len(parts.leases.leases),
                "watches": len(parts.watches.watches),
                "stored_size": numbers.stored_size,
                "input_size": numbers.input_held,
                "answers_size": numbers.answers_size,
            },
            "totals": {"requests": numbers.requests, "received_size": traffic[0], "sent_size": traffic[1]},
            "rates": self._rates(numbers.requests, traffic, now, began),
            "closed": {reason.value: count for reason, count in numbers.closed.items()},
            "limits": self._limits(numbers),
        }

    def _rates(self, requests: int, traffic: tuple[int, int], now: float, began: float) -> _Object:
        """Count since the last look that is old enough, or since the beginning."""
        samples = self._samples
        while len(samples) > 1 and now - samples[1][0] >= _RATE_OVER_S:
            samples.pop(0)
        then = (began, 0, 0, 0)
        if samples and now - samples[0][0] >= _RATE_OVER_S:
            then = samples[0]
        counts = (requests, *traffic)
        if not samples or now - samples[-1][0] >= _RATE_OVER_S:
            samples.append((now, *counts))
        over_s = now - then[0]
        names = ("requests_per_s", "received_size_per_s", "sent_size_per_s")
        rates = zip(names, counts, then[1:], strict=True)
        return {"over_s": over_s, **{name: (count - old) / over_s if over_s else 0.0 for name, count, old in rates}}

    def _limits(self, numbers: Statistics) -> _Object:
        """Give the bounds on what adds up, and how much of each is used."""
        engine = self._engine
        limits, parts, ground = engine.ground.limits, engine.parts, engine.ground
        used = {
            "connections_max": numbers.connections,
            "connections_per_address_max": engine.addresses.most(),
            "handshakes_max": len(engine.handshakes),
            "input_total_max": numbers.input_held,
            "output_total_max": engine.unread.size(),
            "waited_names_max": ground.names_held,
            "stored_size_max": numbers.stored_size,
            "keys_max": numbers.keys,
            "sessions_max": numbers.sessions,
            "answers_size_max": numbers.answers_size,
            "groups_max": len(parts.groups.groups),
            "group_members_max": parts.groups.groups.members,
            "group_values_size_max": parts.groups.groups.values_size,
            "leases_max": len(parts.leases.leases),
            "watches_max": len(parts.watches.watches),
            "events_size_max": parts.watches.watches.kept_size,
        }
        return {name: {"used": number, "limit": getattr(limits, name)} for name, number in used.items()}

    # --- who is there ------------------------------------------------------------------------------------

    def _peers(self, now: float) -> _Object:
        peers = self._engine.peers
        return {**_listed("peers", (self._peer(*entry, now) for entry in peers.items()), len(peers))}

    def _peer(self, number: int, peer: Peer, now: float) -> _Object:
        session = None if peer.talk is None else peer.talk.session
        dialect = "session" if peer.talk is not None else "c10d" if peer.reader is not None else ""
        return {
            "peer": number,
            "dialect": dialect,
            "is_validated": peer.is_validated(),
            "address": peer.address,
            "identity": _text(session.identity if session is not None else peer.origin.identity),
            "label": _text(session.label) if session is not None else "",
            "session": session.number if session is not None else None,
            "age_s": now - peer.since,
            "received_size": peer.received,
            "sent_size": peer.sent,
            "input_size": peer.held,
            "is_paused": peer.is_paused,
            "waits": self._waits_of_peer(number, now) if session is None else self._waits_of_session(session, now),
        }

    def _waits_of_peer(self, number: int, now: float) -> list[_Object]:
        wait = self._engine.ground.waiters.wait_of(number)
        if wait is None:
            return []
        return [_wait(Verb.BARRIER.name if wait.is_barrier else Verb.WAIT.name, wait.names, now - wait.since)]

    def _waits_of_session(self, session: Session, now: float) -> list[_Object]:
        waits = []
        for pending in islice(session.pending.values(), NAMES_MAX):
            verb, names = pending.request[0], pending.request[1]
            names = (names,) if isinstance(names, bytes) else names
            waits.append(_wait(SessionVerb(verb).name, names, now - pending.since))
        return waits

    def _sessions(self, now: float) -> _Object:
        sessions = self._engine.parts.sessions
        return {**_listed("sessions", (self._session(each, now) for each in sessions), len(sessions))}

    def _session(self, session: Session, now: float) -> _Object:
        return {
            "session": session.number,
            "identity": _text(session.identity),
            "label": _text(session.label),
            "peer": session.peer,
            "age_s": now - session.since,
            "timeout_s": session.timeout_s,
            "ends_in_s": None if session.peer is not None else max(0.0, session.ends_at - now),
            "answers": len(session.answers),
            "answers_size": session.answers_size,
            "pending": len(session.pending),
            "waits": self._waits_of_session(session, now),
        }

    # --- what they meet at -------------------------------------------------------------------------------

    def _barriers(self, now: float) -> _Object:
        ground, groups = self._engine.ground, self._engine.parts.groups.groups
        plain = dict(ground.waiters.barriers())

        def entries() -> Iterator[_Object]:
            for view in groups.views(now):
                yield {
                    "kind": "exchange" if view.kind == SessionVerb.EXCHANGE else "barrier",
                    "name": _name(view.name),
                    "generation": view.generation,
                    "members": view.size,
                    "arrived": view.arrived,
                    "missing": [_member(*member) for member in view.members.missing],
                    "waiting": [_member(*member) for member in view.members.waiting],
                    "gone": [_member(*member) for member in view.gone],
                }
            for name, sizes in plain.items():
                yield {
                    "kind": "c10d",
                    "name": _name(name),
                    "generation": 0,
                    "members": max(sizes.values()),
                    "arrived": _count(ground.keyspace, name),
                    "missing": [],
                    "waiting": [],
                    "gone": [],
                }

        return {**_listed("barriers", entries(), len(groups) + len(plain))}

    def _leases(self, now: float) -> _Object:
        leases = self._engine.parts.leases.leases
        entries = (
            {
                "lease": view.lease,
                "session": view.session,
                "identity": _text(view.identity),
                "ttl_s": view.ttl_ms / 1000 if view.ttl_ms else None,
                "left_s": view.left_ms / 1000 if view.ttl_ms else None,
                "keys": view.keys,
            }
            for view in leases.views(now)
        )
        return {**_listed("leases", entries, len(leases))}

    def _watches(self, now: float) -> _Object:  # noqa: ARG002 - as the others'
        watches = self._engine.parts.watches.watches
        entries = (
            {
                "session": view.session,
                "key": _name(view.key),
                "is_prefix": view.is_prefix,
                "kept": view.kept,
                "has_missed": view.missed,
            }
            for view in watches.views()
        )
        return {**_listed("watches", entries, len(watches))}

    def _refusals(self, now: float) -> _Object:
        refused = list(self._engine.refused)
        entries = (
            {"age_s": now - at, "address": address, "reason": reason.value, "detail": detail}
            for at, address, reason, detail in reversed(refused)
        )
        return {**_listed("refusals", entries, len(refused))}

    # --- keys --------------------------------------------------------------------------------------------

    def _keys(self, prefix: str, *, with_values: bool) -> _Object:
        keyspace = self._engine.ground.keyspace
        wire = b"/" + prefix.encode()
        keys = keyspace.keys_with(wire) if prefix else keyspace.keys()
        queues = [name for name in keyspace.queues if not prefix or name.startswith(wire)]

        def entries() -> Iterator[_Object]:
            for key in keys:
                value = keyspace.get(key) or b""
                entry: _Object = {"key": _name(key), "size": len(value), "revision": keyspace.revision_of(key)}
                if with_values:
                    entry["value"] = b64encode(value[:VALUE_SIZE_MAX]).decode()
                yield entry
            for name in queues:
                items = keyspace.queues[name]
                yield {"key": _name(name), "size": sum(map(len, items)), "items": len(items)}

        return {"prefix": prefix, **_listed("keys", entries(), len(keys) + len(queues))}


def _listed(name: str, entries: Iterable[_Object], total: int) -> _Object:
    shown = list(islice(entries, LISTED_MAX))
    return {"total": total, "left_out": max(0, total - len(shown)), name: shown}


def _wait(verb: str, names: Iterable[bytes], since_s: float) -> _Object:
    every = list(names)
    shown = [_name(name) for name in every[:NAMES_MAX]]
    return {"verb": verb, "names": shown, "names_left_out": len(every) - len(shown), "since_s": since_s}


def _count(keyspace: Keyspace, name: bytes) -> int:
    """Give how many have arrived at c10d's barrier; 0 if somebody has stored something else there."""
    try:
        return keyspace.count(name)
    except KeyspaceError:
        return 0


def _member(rank: int, label: bytes, since_ms: int) -> _Object:
    return {"rank": rank, "label": _text(label), "since_s": None if since_ms < 0 else since_ms / 1000}


def _name(key: bytes) -> str:
    """Give a key as its user writes it; a wire key without the ``/`` is a client's own and stays as it is."""
    return _text(key.removeprefix(b"/"))


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")
