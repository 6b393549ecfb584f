"""The calls of a TCP store in the session dialect: one request each, over one shared connection.

The same methods as ``store.calls.PythonClient`` has, each with its *patience* last, and those of
``store.session_calls``. Keys are the user's; on the wire a ``/`` stands in front of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

from rallypoint.errors import (
    AccessDeniedError,
    BarrierBrokenError,
    BarrierTimeoutError,
    DistError,
    DistNetworkError,
    DistStoreError,
    LeaseLostError,
    NotANumberError,
    QueueEmptyError,
    RefusedError,
    RemoteProtocolError,
)
from rallypoint.protocol.session.spec import DELETED_KEYS_MAX, MEMBERS_NAMED_MAX, SESSION_VERBS, SessionVerb, Status
from rallypoint.protocol.spec import CloseReason
from rallypoint.store.base import check_lengths, decode_key, wait_timed_out
from rallypoint.store.calls import Inherited, Patience
from rallypoint.store.pipeline import Pipeline, Promise
from rallypoint.store.plans import WORKER_COUNT
from rallypoint.store.session_calls import Entry
from rallypoint.store.ticket import Begun, Ticket
from rallypoint.store.trunk import Trunk
from rallypoint.store.watch import SessionWatch
from rallypoint.store.wires import as_integer, as_wire, as_wires, lease_ms, seconds_of
from rallypoint.types import Endpoint, Keys, Member, Text, as_bytes, as_keys

__all__ = ["SessionClient"]

_V: Final = SessionVerb
_OK: Final = Status.OK


class SessionClient(Inherited):
    """The calls, on a session that one process owns.

    Args:
        trunk: as made; the client owns it from now on.
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    def _ask(self, verb: SessionVerb, fields: tuple[Any, ...], patience: Patience) -> Ticket:
        """Ask what the server answers at once; give the OK."""
        self.check_owner()
        timeout_s = seconds_of(patience)
        try:
            ticket = self.trunk.ask(verb, fields, timeout_s)
        except DistNetworkError:
            self.check_owner()
            raise
        if ticket.status is _OK:
            return ticket
        raise self._refused(ticket, fields)

    def _await(
        self, verb: SessionVerb, fields: tuple[Any, ...], timeout_s: float, wires: Sequence[bytes]
    ) -> tuple[Any, ...]:
        """Ask what the server answers when it can."""
        ticket = self._wait_for(verb, fields, timeout_s)
        if ticket.status is _OK:
            return ticket.fields()
        if ticket.status is Status.EXPIRED:
            raise self._timed_out(ticket, timeout_s, wires)
        raise self._refused(ticket, fields)

    def _wait_for(self, verb: SessionVerb, fields: tuple[Any, ...], timeout_s: float) -> Ticket:
        self.check_owner()
        try:
            return self.trunk.ask(verb, fields, timeout_s, waits=True)
        except DistNetworkError:
            self.check_owner()
            raise

    # --- errors ------------------------------------------------------------------------------------------

    def _timed_out(self, ticket: Ticket, timeout_s: float, wires: Sequence[bytes]) -> DistStoreError:
        (missing,) = ticket.fields()
        return wait_timed_out(
            [wire[1:] for wire in wires],
            [wire[1:] for wire in missing],
            timeout_s=timeout_s,
            waited_s=monotonic() - ticket.started,
            endpoint=self.endpoint,
        )

    def _refused(self, ticket: Ticket, fields: tuple[Any, ...]) -> DistError:
        """Make the error that a refusal stands for."""
        if ticket.status is not Status.REFUSED:
            return RemoteProtocolError(
                f"a {ticket.verb.name} was answered by {ticket.status!r}", endpoint=self.endpoint
            )
        reason, sentence = (text.decode(errors="replace") for text in ticket.fields())
        if reason == CloseReason.NOT_A_NUMBER.value:
            return NotANumberError(sentence, key=decode_key(fields[0][1:]))
        if reason == CloseReason.FORBIDDEN.value:
            return AccessDeniedError(sentence, endpoint=self.endpoint)
        if reason == CloseReason.NO_SUCH_LEASE.value:
            return LeaseLostError(sentence, lease=fields[3] if ticket.verb is _V.SWAP else fields[0])
        return RefusedError(f"{sentence} ({reason})", reason=reason, endpoint=self.endpoint)

    # --- keys and values ---------------------------------------------------------------------------------

    def set(self, key: Text, value: Text, patience: Patience) -> None:  # noqa: D102 - as the store's, so are all of these
        self._ask(_V.SET, (as_wire(key), as_bytes(value)), patience)

    def get(self, key: Text, patience: Patience) -> bytes:  # noqa: D102
        wire = as_wire(key)
        timeout_s = seconds_of(patience)
        ticket = self._wait_for(_V.GET, (wire,), timeout_s)
        if ticket.status is _OK:
            return ticket.stored()
        if ticket.status is Status.EXPIRED:
            raise self._timed_out(ticket, timeout_s, (wire,))
        raise self._refused(ticket, (wire,))

    def add(self, key: Text, amount: int, patience: Patience) -> int:  # noqa: D102
        return self._ask(_V.ADD, (as_wire(key), as_integer(amount, "amount")), patience).number()

    def count_workers(self, amount: int, patience: Patience) -> int:  # noqa: D102
        return self._ask(_V.ADD, (WORKER_COUNT, amount), patience).number()

    def compare_set(self, key: Text, expected: Text, desired: Text, patience: Patience) -> bytes:  # noqa: D102
        old, new = as_bytes(expected, "expected"), as_bytes(desired, "desired")
        found: bytes = self._ask(_V.COMPARE_SET, (as_wire(key), old, new), patience).fields()[0]
        return found

    def check(self, keys: Keys, patience: Patience) -> bool:  # noqa: D102
        wires = as_wires(keys)
        if not wires:
            return True
        (answer,) = self._ask(_V.CHECK, (wires,), patience).fields()
        if answer not in (0, 1):
            raise RemoteProtocolError(f"CHECK was answered {answer}, not 0 or 1", endpoint=self.endpoint)
        return bool(answer == 0)

    def wait(self, keys: Keys, patience: Patience) -> None:  # noqa: D102
        wires = as_wires(keys)
        if wires:
            self._await(_V.WAIT, (wires,), seconds_of(patience), wires)

    def delete_key(self, key: Text, patience: Patience) -> bool:  # noqa: D102
        return bool(self._ask(_V.DELETE_KEY, (as_wire(key),), patience).number())

    def num_keys(self, patience: Patience) -> int:  # noqa: D102
        return self._ask(_V.GETNUMKEYS, (), patience).number()

    def list_keys(self, patience: Patience) -> list[bytes]:  # noqa: D102
        keys: list[bytes] = self._ask(_V.LIST_KEYS, (), patience).fields()[0]
        return keys

    def append(self, key: Text, value: Text, patience: Patience) -> None:  # noqa: D102
        self._ask(_V.APPEND, (as_wire(key), as_bytes(value)), patience)

    def multi_get(self, keys: Keys, patience: Patience) -> list[bytes]:  # noqa: D102
        wires = as_wires(keys)
        if not wires:
            return []
        values: list[bytes] = self._await(_V.MULTI_GET, (wires,), seconds_of(patience), wires)[0]
        if len(values) != len(wires):
            message = f"MULTI_GET of {len(wires)} keys was answered {len(values)} values"
            raise RemoteProtocolError(message, endpoint=self.endpoint)
        return values

    def multi_set(self, keys: Keys, values: Keys, patience: Patience) -> None:  # noqa: D102
        wires, contents = as_wires(keys), as_keys(values)
        check_lengths(wires, contents)
        if wires:
            self._ask(_V.MULTI_SET, (list(zip(wires, contents, strict=True)),), patience)

    # --- queues and barriers -----------------------------------------------------------------------------

    def queue_push(self, key: Text, value: Text, patience: Patience) -> None:  # noqa: D102
        self._ask(_V.QUEUE_PUSH, (as_wire(key), as_bytes(value)), patience)

    def queue_pop(self, key: Text, block: bool, patience: Patience) -> bytes:  # noqa: D102
        wire = as_wire(key)
        timeout_s = seconds_of(patience) if block or isinstance(patience, Begun) else 0.0
        ticket = self._wait_for(_V.QUEUE_POP, (wire,), timeout_s)
        if ticket.status is _OK:
            item: bytes = ticket.fields()[0]
            return item
        if ticket.status is not Status.EXPIRED:
            raise self._refused(ticket, (wire,))
        if not block:
            raise QueueEmptyError("queue is empty")
        raise self._timed_out(ticket, timeout_s, (wire,))

    def queue_len(self, key: Text, patience: Patience) -> int:  # noqa: D102
        return self._ask(_V.QUEUE_LEN, (as_wire(key),), patience).number()

    def barrier(self, key: Text, world_size: int, patience: Patience) -> None:  # noqa: D102
        fields = (as_wire(key), as_integer(world_size, "world_size"))
        timeout_s = seconds_of(patience)
        ticket = self._wait_for(_V.BARRIER, fields, timeout_s)
        if ticket.status is _OK:
            return
        if ticket.status is not Status.EXPIRED:
            raise self._refused(ticket, fields)
        waited_s = monotonic() - ticket.started
        _, count = self._ask(_V.READ, (fields[0],), 0.0).fields()
        arrived = int(count) if count.isdigit() and len(count) < 20 else None
        raise BarrierTimeoutError(
            f"barrier timeout after {int(timeout_s * 1000)}ms, key: {decode_key(fields[0][1:])} "
            f"({'?' if arrived is None else arrived} of {world_size} came; waited {waited_s:.3f} s on {self.endpoint})",
            arrived=arrived or 0,
            expected=world_size,
            waited_s=waited_s,
            endpoint=self.endpoint,
        )

    # --- many at a time, or unanswered -------------------------------------------------------------------

    def pipeline(self, patience: Patience) -> Pipeline:  # noqa: D102
        self.check_owner()
        return Pipeline(self, patience)

    def settle(self, promise: Promise[Any], ticket: Ticket) -> None:
        """Give a pipeline's request its answer."""
        if ticket.status is _OK:
            promise.keep(ticket.fields())
        else:
            promise.break_with(self._refused(ticket, promise.request[1]))

    def post_set(self, key: Text, value: Text, patience: Patience) -> None:  # noqa: D102
        self.check_owner()
        self.trunk.post(_V.SET, (as_wire(key), as_bytes(value)), seconds_of(patience))

    # --- revisions, prefixes, leases ---------------------------------------------------------------------

    def read(self, key: Text, patience: Patience) -> Entry | None:  # noqa: D102
        wire = as_wire(key)
        revision, value = self._ask(_V.READ, (wire,), patience).fields()
        return Entry(wire[1:].decode(), value, revision) if revision else None

    def swap(  # noqa: D102
        self, key: Text, revision: int, value: Text, lease: int, patience: Patience
    ) -> tuple[bool, int]:
        fields = (as_wire(key), as_integer(revision, "revision"), as_bytes(value), as_integer(lease, "lease"))
        is_swapped, now = self._ask(_V.SWAP, fields, patience).fields()
        return bool(is_swapped), now

    def read_prefix(self, prefix: Text, patience: Patience) -> list[Entry]:  # noqa: D102
        (entries,) = self._ask(_V.READ_PREFIX, (as_wire(prefix),), patience).fields()
        return [Entry(wire[1:].decode(), value, revision) for wire, revision, value in entries]

    def list_prefix(self, prefix: Text, patience: Patience) -> list[str]:  # noqa: D102
        (wires,) = self._ask(_V.LIST_PREFIX, (as_wire(prefix),), patience).fields()
        return [wire[1:].decode() for wire in wires]

    def delete_prefix(self, prefix: Text, patience: Patience) -> int:  # noqa: D102
        wire, total, count = as_wire(prefix), 0, DELETED_KEYS_MAX
        while count == DELETED_KEYS_MAX:
            count = self._ask(_V.DELETE_PREFIX, (wire,), patience).number()
            total += count
        return total

    def watch(self, key: Text, is_prefix: bool, since: int | None, patience: Patience) -> SessionWatch:  # noqa: D102
        wire = as_wire(key)
        watch = SessionWatch(self.trunk, wire, patience)
        fields = (wire, int(is_prefix), -1 if since is None else as_integer(since, "since"))
        self.check_owner()
        ticket = self.trunk.ask(_V.WATCH, fields, seconds_of(patience), hear=watch.hear)
        if ticket.status is not _OK:
            raise self._refused(ticket, fields)
        watch.begin(ticket, *ticket.fields())
        return watch

    def lease_grant(self, ttl_s: float | None, patience: Patience) -> int:  # noqa: D102
        return self._ask(_V.LEASE_GRANT, (lease_ms(ttl_s),), patience).number()

    def lease_renew(self, lease: int, patience: Patience) -> float:  # noqa: D102
        return self._ask(_V.LEASE_RENEW, (as_integer(lease, "lease"),), patience).number() / 1000

    def lease_revoke(self, lease: int, patience: Patience) -> int:  # noqa: D102
        return self._ask(_V.LEASE_REVOKE, (as_integer(lease, "lease"),), patience).number()

    def status(self, what: str, patience: Patience) -> dict[str, Any]:  # noqa: D102
        (document,) = self._ask(_V.STATUS, (what.encode(),), patience).fields()
        try:
            told = json.loads(document)
        except ValueError as error:
            raise RemoteProtocolError(f"STATUS was answered by no JSON: {error}", endpoint=self.endpoint) from error
        if not isinstance(told, dict):
            raise RemoteProtocolError(f"STATUS was answered by a {type(told).__name__}", endpoint=self.endpoint)
        return told

    # --- meetings ----------------------------------------------------------------------------------------

    def meet(  # noqa: D102
        self, name: Text, rank: int, world_size: int, label: str, patience: Patience
    ) -> int:
        return int(self._meet(_V.MEET, (*_place(name, rank, world_size), label.encode()), patience)[0])

    def exchange(  # noqa: D102, PLR0917
        self, name: Text, rank: int, world_size: int, value: Text, label: str, patience: Patience
    ) -> list[bytes]:
        fields = (*_place(name, rank, world_size), label.encode(), as_bytes(value))
        _, values = self._meet(_V.EXCHANGE, fields, patience)
        return list(values)

    def _meet(self, verb: SessionVerb, fields: tuple[Any, ...], patience: Patience) -> tuple[Any, ...]:
        timeout_s = seconds_of(patience)
        ticket = self._wait_for(verb, fields, timeout_s)
        if ticket.status is _OK:
            return ticket.fields()
        waited_s = monotonic() - ticket.started
        what, name, expected = verb.name.lower(), decode_key(fields[0][1:]), fields[2]
        if ticket.status is Status.LOST:
            (gone,) = ticket.fields()
            members = [_member(*one) for one in gone]
            names = [str(member) for member in members]
            raise BarrierBrokenError(
                f"{what} {name!r} cannot become complete: {', '.join(names)} of {expected} members "
                f"{'is' if len(names) == 1 else 'are'} gone (waited {waited_s:.3f} s on {self.endpoint})",
                gone=names,
                gone_members=members,
                expected=expected,
                waited_s=waited_s,
                endpoint=self.endpoint,
            )
        if ticket.status is not Status.EXPIRED:
            raise self._refused(ticket, fields)
        missing, waiting = ticket.fields()
        members = [_member(*one) for one in missing]
        names = [str(member) for member in members]
        arrived = expected - len(missing)
        at_most = "at most " if len(missing) == MEMBERS_NAMED_MAX else ""
        longest_s = max((since / 1000 for _, _, since in waiting), default=waited_s)
        raise BarrierTimeoutError(
            f"{what} timeout after {int(timeout_s * 1000)}ms, name: {name} ({at_most}{arrived} of {expected} came, "
            f"missing: {', '.join(names)}; the first has been waiting for {longest_s:.3f} s; waited {waited_s:.3f} s "
            f"on {self.endpoint})",
            missing=names,
            missing_members=members,
            waiting=[_member(*one) for one in waiting],
            arrived=arrived,
            expected=expected,
            waited_s=waited_s,
            endpoint=self.endpoint,
        )

    # --- the connection ----------------------------------------------------------------------------------

    @property
    def endpoint(self) -> Endpoint:
        """The server, as errors name it."""
        return self.trunk.endpoint

    @property
    def is_waiting(self) -> bool:
        """Tell whether a call waits, as long as the server likes."""
        return any(SESSION_VERBS[request.verb].is_deferred for request in self.trunk.session.unanswered)

    def ends(self) -> tuple[int, Endpoint, Endpoint] | None:
        """Give the connection's descriptor and the addresses of both ends; ``None`` if there is none."""
        link = self.trunk.link
        if link is None or link.stream.fileno() == -1:
            return None
        return link.stream.fileno(), link.stream.local, link.stream.peer

    def close(self, reason: str) -> None:
        """End the session; later calls, and those that other threads have under way, are told why."""
        self.trunk.close(reason, is_owner=os.getpid() == self.owner_pid)


def _place(name: Text, rank: int, world_size: int) -> tuple[bytes, int, int]:
    place, count = as_integer(rank, "rank"), as_integer(world_size, "world_size")
    if place < 0 or count < 1:
        raise ValueError(f"rank must be 0 or more and world_size 1 or more, not {place} and {count}")
    return as_wire(name), place, count


def _member(rank: int, label: bytes, since_ms: int) -> Member:
    return Member(rank, label.decode(errors="replace"), None if since_ms < 0 else since_ms / 1000)
