"""A simulated node that may coordinate: what ``rendezvous/coordinator.py`` does around its machine, the office."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import msgspec
from tests.sim.course import Ask, Box, Course, Pause, SessionGoneError, Take, mark
from tests.sim.store import SERVER, SimClient

from rallypoint.protocol.session.spec import EventKind, SessionVerb, Status
from rallypoint.rendezvous import office as machine
from rallypoint.rendezvous import office_moves as chair
from rallypoint.rendezvous.board import COORDINATOR, HERE, NODES, ORDERS, STATE, Holder, is_mark, node_of
from rallypoint.rendezvous.office import Office
from rallypoint.rendezvous.reports import decode_report, encode_order
from rallypoint.store.session_calls import ABSENT, ANY_REVISION

if TYPE_CHECKING:
    from tests.sim.world import World

    from rallypoint.testing import SimHost

__all__ = ["SimCandidate"]

MARK_S = 1.0


class _Nodes:
    """What a coordinator knows of the keys of nodes."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self.here: set[str] = set()
        self.there: set[str] = set()

    def find(self, name: str, data: bytes) -> chair.Reported:
        self.there.add(name)
        return chair.Reported(decode_report(data))

    def lose(self, name: str) -> list[chair.Gone]:
        is_news = name in self.there
        self.there.discard(name)
        return [chair.Gone(name, "it is gone")] if is_news else []


class _DeposedError(Exception):
    """Somebody else is in office."""


class SimCandidate:
    """A candidate for the office, and the coordinator while it has it.

    Args:
        world: where it is.
        host: on which machine.
        node_id: of which node.
        is_over: tells whether that node has heard of the end of the run: then it need not stand.

    Attributes:
        office: the machine, while it coordinates.
        is_ended: it does not stand any more.
    """

    def __init__(self, world: World, host: SimHost, node_id: str, is_over: Callable[[], bool]) -> None:
        self.world = world
        self.name = host.name
        self.node_id = node_id
        self.office: Office | None = None
        self.is_ended = False
        self._host = host
        self._is_over = is_over
        self._is_retiring = False
        self._ttl_ms = int(world.rules.dead_after_s * 1000)
        self._course = Course(host, self._stand())

    def restart(self) -> None:
        """End it where it is, with its connection, and begin anew."""
        self._course.stop()
        self.office = None
        if not self.is_ended:
            self._course = Course(self._host, self._stand())

    def retire(self) -> None:
        """End it once it has heard the farewell of its own node, or at once if it is not in office."""
        self._is_retiring = True
        if self.office is None:
            self.stop()

    def stop(self) -> None:
        """End it."""
        self.is_ended = True
        self._course.stop()
        self.office = None

    # --- the candidate -----------------------------------------------------------------------------------

    def _stand(self) -> Generator[Any, Any, None]:
        while not self.is_ended:
            client = SimClient(self.world.network, self._host, SERVER, f"{self.name} office", self.world.session_s)
            client.lost = self.restart
            try:
                while not self.is_ended:
                    yield from self._wait_for_office(client)
                    self.is_ended = self.is_ended or self._is_over()
                    if not self.is_ended:
                        yield from self._try_to_take(client)
            except SessionGoneError:
                pass
            finally:
                self.office = None
                client.close()
            yield Pause(0.01)

    def _wait_for_office(self, client: SimClient) -> Generator[Any, Any, None]:
        changes = Box()
        client.watch(COORDINATOR.encode(), True, changes.put, lambda *_: None)
        lease, absent_at = 0, 0.0
        while True:
            holder, is_here = yield from self._read_office(client)
            if holder is None:
                return
            now = self.world.simulation.now
            if is_here:
                lease, absent_at = holder.lease, now
            elif lease != holder.lease:
                lease, absent_at = holder.lease, now + MARK_S
            elif now >= absent_at:
                yield Ask(client, SessionVerb.LEASE_REVOKE, (lease,))
                continue
            changes.items.clear()
            yield Take(changes, 10.0 if is_here else self.world.until(absent_at))

    def _read_office(self, client: SimClient) -> Generator[Any, Any, tuple[Holder | None, bool]]:
        _, (entries,) = yield Ask(client, SessionVerb.READ_PREFIX, (COORDINATOR.encode(),))
        found = {key.decode(): value for key, _, value in entries}
        if COORDINATOR not in found:
            return None, False
        holder = msgspec.json.decode(found[COORDINATOR], type=Holder)
        return holder, found.get(COORDINATOR + HERE) == str(holder.lease).encode()

    def _try_to_take(self, client: SimClient) -> Generator[Any, Any, None]:
        asked_at = self.world.simulation.now
        _, (lease,) = yield Ask(client, SessionVerb.LEASE_GRANT, (self._ttl_ms,))
        holder = msgspec.json.encode(Holder(self.node_id, self.name, lease))
        fields = (COORDINATOR.encode(), ABSENT, holder, lease)
        status, (is_taken, term) = yield Ask(client, SessionVerb.SWAP, fields)
        if status is Status.OK and is_taken:
            try:
                yield from mark(client, COORDINATOR + HERE, str(lease))
                yield from self._hold(client, lease, term, asked_at)
            except _DeposedError:
                pass
            finally:
                self.office = None
        yield Ask(client, SessionVerb.LEASE_REVOKE, (lease,))

    def _hold(self, client: SimClient, lease: int, term: int, renewed_at: float) -> Generator[Any, Any, None]:
        events, nodes = Box(), _Nodes()
        client.watch(NODES.encode(), True, events.put, lambda *_: None)
        _, (revision, minutes) = yield Ask(client, SessionVerb.READ, (STATE.encode(),))
        reports = yield from self._read_all(client, nodes)
        office = self.office = Office(self.world.rules, self.world.policy, machine.HOLD_S)
        self.world.tell(f"{self.name} coordinates in term {term}")
        self._minutes_at = revision
        first = tuple(event.report for event in reports if isinstance(event, chair.Reported))
        yield from self._decide(client, lease, (chair.TookOffice(term, minutes if revision else None, first),))
        third_s = self._ttl_ms / 3000
        while not self.is_ended:
            due = office.next_deadline()
            until = min(renewed_at + third_s, float("inf") if due is None else due)
            yield Take(events, self.world.until(until))
            batch: list[Any] = []
            while events.items:
                batch += yield from self._events_of(client, events.items.popleft(), nodes)
            if due is not None and self.world.simulation.now >= due:
                batch.append(chair.Ticked())
            yield from self._decide(client, lease, tuple(batch))
            if self.world.simulation.now >= renewed_at + third_s:
                renewed_at = self.world.simulation.now
                status, _ = yield Ask(client, SessionVerb.LEASE_RENEW, (lease,))
                if status is not Status.OK:
                    raise _DeposedError
            self.is_ended = self.is_ended or (self._is_retiring and self._has_farewell(batch))

    def _has_farewell(self, batch: list[Any]) -> bool:
        """Tell whether this coordinator's own node has said goodbye."""
        reports = (event.report for event in batch if isinstance(event, chair.Reported))
        return any(report.node == self.node_id and report.leaving for report in reports)

    def _read_all(self, client: SimClient, nodes: _Nodes) -> Generator[Any, Any, list[Any]]:
        _, (entries,) = yield Ask(client, SessionVerb.READ_PREFIX, (NODES.encode(),))
        found = {key.decode(): (revision, value) for key, revision, value in entries}
        marked = [node_of(key) for key in found if is_mark(key)]
        events: list[Any] = []
        for name in sorted(nodes.there - {name for name in marked if NODES + name in found}):
            events += nodes.lose(name)
        last = {name: max(found[NODES + name + HERE][0], found.get(NODES + name, (0,))[0]) for name in marked}
        for name in marked:
            if NODES + name in found and last[name] > nodes.known.get(name, 0):
                events.append(nodes.find(name, found[NODES + name][1]))
        nodes.known, nodes.here = last, set(last)
        return events

    def _events_of(self, client: SimClient, happening: Any, nodes: _Nodes) -> Generator[Any, Any, list[Any]]:
        if happening.kind is EventKind.MISSED:
            return (yield from self._read_all(client, nodes))
        key, name = happening.key.decode(), node_of(happening.key.decode())
        if happening.revision <= nodes.known.get(name, 0):
            return []
        nodes.known[name] = happening.revision
        if happening.kind is not EventKind.SET:
            if is_mark(key):
                nodes.here.discard(name)
            return nodes.lose(name)
        if is_mark(key):
            nodes.here.add(name)
            return []
        return [nodes.find(name, happening.value)] if name in nodes.here else []

    def _decide(self, client: SimClient, lease: int, events: tuple[Any, ...]) -> Generator[Any, Any, None]:
        assert self.office is not None
        while events:
            recorded: list[Any] = []
            for effect in self.office.step_all(events, self.world.simulation.now):
                if isinstance(effect, chair.Record):
                    fields = (STATE.encode(), self._minutes_at, effect.minutes, 0)
                    _, (is_stored, self._minutes_at) = yield Ask(client, SessionVerb.SWAP, fields)
                    if not is_stored:
                        raise _DeposedError
                    recorded.append(chair.Recorded(effect.number))
                elif isinstance(effect, chair.Send):
                    key = (ORDERS + effect.node).encode()
                    fields = (key, ANY_REVISION, encode_order(effect.order), lease)
                    status, _ = yield Ask(client, SessionVerb.SWAP, fields)
                    if status is not Status.OK:
                        raise _DeposedError
            events = tuple(recorded)
