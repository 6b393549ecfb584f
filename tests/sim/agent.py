"""One agent on a simulated host: it follows, stands for the office, and has workers that only start and stop."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import msgspec
from tests.sim.course import Ask, Box, Course, Pause, SessionGoneError, Take
from tests.sim.store import SimClient

from rallypoint.protocol.session.spec import EventKind, SessionVerb, Status
from rallypoint.rendezvous import follower as node
from rallypoint.rendezvous import office as chair
from rallypoint.rendezvous.board import COORDINATOR, HERE, NODES, ORDERS, STATE, Holder, is_mark, node_of
from rallypoint.rendezvous.decision import Rules, StopKind
from rallypoint.rendezvous.follower import Follower
from rallypoint.rendezvous.office import Office
from rallypoint.rendezvous.policy import Policy
from rallypoint.rendezvous.reports import Order, decode_order, decode_report, encode_order, encode_report
from rallypoint.rendezvous.state import Card
from rallypoint.rendezvous.verdict import Verdict, VerdictKind
from rallypoint.store.session_calls import ABSENT, ANY_REVISION
from rallypoint.testing.simulation import Timer
from rallypoint.types import Endpoint

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["SERVER", "SimAgent"]

SERVER = "store"


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


class SimAgent:
    """The agent's life on one host, from its start to its end.

    Attributes:
        name: of its host.
        running: the order by which its workers run; ``None`` while none do.
        stopped: why it does not take part any more.
        verdict: what it was told last of its round.
        last_order: the last order that it has read.
        office: the machine, while it coordinates.
    """

    def __init__(self, world: World, name: str, rules: Rules, policy: Policy) -> None:
        self.world = world
        self.name = name
        self.host = world.simulation.host(name)
        self.life = self.host.life
        self.running: Order | None = None
        self.stopped: node.Stop | None = None
        self.verdict: Verdict | None = None
        self.last_order: Order | None = None
        self.office: Office | None = None
        self.wanted_at = 0.0
        self._rules = rules
        self._policy = policy
        self._ttl_ms = int(rules.dead_after_s * 1000)
        self.node_id = f"{world.simulation.dice.getrandbits(128):032x}"
        self.follower = Follower(self.node_id, Card(host=name, address=name, pid=self.life), rules)
        self._client = SimClient(world.network, self.host, SERVER, name, world.session_s)
        self._to_write = Box()
        self._timer: Timer | None = None
        self._lease = 0
        self._client.lost = self._lose_session
        self._client.doubted = lambda: self._do(node.Doubted(self._client.ends_at))
        self._stop_timer: Timer | None = None
        self._courses = [Course(self.host, self._follow()), Course(self.host, self._stand())]
        self._do(node.Wanted())

    @property
    def is_live(self) -> bool:
        """Whether the process runs, and takes part."""
        return self.host.is_up and self.host.life == self.life and self.stopped is None

    # --- what a test has it do ---------------------------------------------------------------------------

    def fail_worker(self) -> None:
        """Let a worker of it fail."""
        if self.running is not None:
            self._do(node.WorkerFailed("the worker fell over", 1, False))

    def succeed(self) -> None:
        """Let all its workers end well."""
        if self.running is not None:
            self._do(node.AllSucceeded())

    def leave(self) -> None:
        """Let it go on purpose."""
        self.running = None
        self._do(node.Leaving("told to go"))
        self.stopped = node.Stop(StopKind.CLOSED, "told to go")
        self.host.after(1.0, self._end)

    def restart_coordinator(self) -> None:
        """End its candidate, with its connection, and begin another."""
        self._courses.pop().stop()
        self.office = None
        self._courses.append(Course(self.host, self._stand()))

    def _end(self) -> None:
        for course in self._courses:
            course.stop()

    # --- the follower ------------------------------------------------------------------------------------

    def _do(self, event: Any) -> None:
        for effect in self.follower.step(event, self.world.simulation.now):
            self._carry_out(effect)
        self._set_timer()

    def _carry_out(self, effect: Any) -> None:
        if isinstance(effect, node.Publish):
            self._to_write.put(effect)
        elif isinstance(effect, node.Serve):
            port = 1024 + effect.proposal % 60000
            served = node.Served(effect.proposal, Endpoint(self.name, port))
            slow_s = self.world.simulation.dice.choice((0.05, 1.0))
            self.host.after(self.world.simulation.dice.uniform(0.001, slow_s), lambda: self._do(served))
        elif isinstance(effect, node.Enter):
            self.running = effect.order
            self.world.note_entry(self, effect.order)
        elif isinstance(effect, node.Stop):
            self.stopped = effect
        elif isinstance(effect, node.Tell):
            self._hear(effect.verdict)

    def _hear(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self.world.note_verdict()
        self.world.tell(f"{self.name} is told {verdict.kind.value}: {verdict.why}")
        if verdict.kind is VerdictKind.CURRENT:
            return
        if self._stop_timer is not None:
            self._stop_timer.cancel()
        is_at_once = verdict.kind in (VerdictKind.FENCED, VerdictKind.CUT_OFF)
        if is_at_once:
            self.running = None
        grace_s = 0.0 if is_at_once else self.world.simulation.dice.uniform(0.0, 0.5)
        self._stop_timer = self.host.after(grace_s, self._come_back)

    def _come_back(self) -> None:
        """The workers are gone: join again, unless the run has ended."""
        self.running = None
        assert self.verdict is not None
        if self.verdict.kind is VerdictKind.CLOSED:
            self.stopped = node.Stop(StopKind.CLOSED, self.verdict.why, self.verdict.outcome)
        elif self.stopped is None:
            self.wanted_at = self.world.simulation.now
            self._do(node.Wanted())

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due = self.follower.next_deadline()
        if due is not None and due < float("inf"):
            self._timer = self.host.after(self._until(due), lambda: self._do(node.Ticked()))

    def _until(self, due: float) -> float:
        """Give the time until then, and a little, so that it has come in spite of rounding."""
        return max(0.0, due - self.world.simulation.now) + 1e-6

    def _follow(self) -> Generator[Any, Any, None]:
        while True:
            ready = Box()
            self._client.watch(
                (ORDERS + self.node_id).encode(),
                False,
                self._take_event,
                lambda status, _, ready=ready: ready.put(status),
            )
            try:
                yield Take(ready, float(10**6))
                yield from self._read_order()
                yield from self._write()
            except SessionGoneError:
                self._lease = 0
                self._do(node.LeaseLost("the session has ended"))

    def _lose_session(self) -> None:
        """Begin anew, as whoever waits for a watch's events does when the server does not go on with it."""
        self._courses[0].stop()
        if self._lease:
            self._lease = 0
            self._do(node.LeaseLost("the session has ended"))
        self._courses[0] = Course(self.host, self._follow())

    def _read_order(self) -> Generator[Any, Any, None]:
        _, fields = yield Ask(self._client, SessionVerb.READ, ((ORDERS + self.node_id).encode(),))
        if fields[0]:
            self._obey(fields[1])

    def _take_event(self, happening: Any) -> None:
        if happening.kind is EventKind.SET:
            self._obey(happening.value)
        elif happening.kind is EventKind.MISSED:
            Course(self.host, self._read_order_again())

    def _read_order_again(self) -> Generator[Any, Any, None]:
        try:
            yield from self._read_order()
        except SessionGoneError:
            return  # the other course begins anew

    def _obey(self, data: bytes) -> None:
        order = decode_order(data)
        self.last_order = order
        self.world.tell(f"{self.name} reads {order.kind.value} ({order.term}.{order.number}): {order.why}")
        self._do(node.Ordered(order))

    def _write(self) -> Generator[Any, Any, None]:
        renew_at = 0.0
        while True:
            now = self.world.simulation.now
            if not self._lease:
                status, fields = yield Ask(self._client, SessionVerb.LEASE_GRANT, (self._ttl_ms,))
                assert status is Status.OK
                self._lease = fields[0]
                yield from self._mark(self._client, NODES + self.node_id + HERE, "")
                renew_at = now + self._rules.keep_alive_interval_s
                self._do(node.Granted())
                self._do(node.Renewed(now))
            elif now >= renew_at:
                status, _ = yield Ask(self._client, SessionVerb.LEASE_RENEW, (self._lease,))
                renew_at = now + self._rules.keep_alive_interval_s
                _, (revision, _) = yield Ask(self._client, SessionVerb.READ, (f"{NODES}{self.node_id}{HERE}".encode(),))
                self._note(status if revision else Status.REFUSED, node.Renewed(now))
            elif self._to_write.items:
                report = self._to_write.items[-1].report
                self._to_write.items.clear()
                fields = ((NODES + self.node_id).encode(), ANY_REVISION, encode_report(report), self._lease)
                status, _ = yield Ask(self._client, SessionVerb.SWAP, fields)
                self._note(status, None)
            else:
                yield Take(self._to_write, self._until(renew_at))

    @staticmethod
    def _mark(client: SimClient, key: str, value: str) -> Generator[Any, Any, None]:
        """Write a key that goes with the session."""
        _, (lease,) = yield Ask(client, SessionVerb.LEASE_GRANT, (0,))
        yield Ask(client, SessionVerb.SWAP, (key.encode(), ANY_REVISION, value.encode(), lease))

    def _note(self, status: Status, event: Any) -> None:
        if status is not Status.OK:
            self._lease = 0
            self.world.tell(f"{self.name} has lost its lease")
            self._do(node.LeaseLost("the store has ended it"))
        elif event is not None:
            self._do(event)

    # --- the candidate -----------------------------------------------------------------------------------

    def _stand(self) -> Generator[Any, Any, None]:
        while True:
            client = SimClient(self.world.network, self.host, SERVER, f"{self.name} office", self.world.session_s)
            client.lost = self.restart_coordinator
            try:
                while True:
                    yield from self._wait_for_office(client)
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
            yield Take(changes, 10.0 if is_here else self._until(absent_at))

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
                yield from self._mark(client, COORDINATOR + HERE, str(lease))
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
        office = self.office = Office(self._rules, self._policy, chair.HOLD_S)
        self.world.tell(f"{self.name} coordinates in term {term}")
        self._minutes_at = revision
        first = tuple(event.report for event in reports if isinstance(event, chair.Reported))
        yield from self._decide(client, lease, (chair.TookOffice(term, minutes if revision else None, first),))
        third_s = self._ttl_ms / 3000
        while True:
            due = office.next_deadline()
            until = min(renewed_at + third_s, float("inf") if due is None else due)
            yield Take(events, self._until(until))
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
