"""A simulated node's talk with the coordinator: what ``rendezvous/following.py`` does around its machine."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from tests.sim.course import Ask, Box, Course, SessionGoneError, Take, mark
from tests.sim.store import SERVER, SimClient

from rallypoint.errors import RendezvousConnectionError
from rallypoint.protocol.session.spec import EventKind, SessionVerb, Status
from rallypoint.rendezvous import follower_moves as node
from rallypoint.rendezvous.board import HERE, NODES, ORDERS
from rallypoint.rendezvous.contact import Contact
from rallypoint.rendezvous.follower import Follower
from rallypoint.rendezvous.handler import RoundNews, RoundStatus
from rallypoint.rendezvous.reports import Order, decode_order, encode_report
from rallypoint.rendezvous.state import Card
from rallypoint.rendezvous.verdict import Verdict, VerdictKind
from rallypoint.store.session_calls import ANY_REVISION
from rallypoint.testing.simulation import Timer
from rallypoint.types import Endpoint

if TYPE_CHECKING:
    from tests.sim.world import World

    from rallypoint.testing import SimHost

__all__ = ["SimFollowing"]


class _Clock:
    """A simulation's time, as drivers see it."""

    def __init__(self, world: World) -> None:
        self._simulation = world.simulation

    def now(self) -> float:
        return self._simulation.now

    def sleep(self, duration_s: float) -> None:
        raise NotImplementedError


class SimFollowing:
    """A follower, its orders, its reports, its lease.

    Attributes:
        verdict: what it was told last of its round.
        told_at: when that was.
        last_order: the last order that it has read.
        outcomes: how each wait for a round ended: the order that let it in, or why it stopped.
        changed: called when there may be news of the round.
        contact: what is known of the way to the store.
    """

    def __init__(self, world: World, host: SimHost, node_id: str) -> None:
        self.world = world
        self.name = host.name
        self.node_id = node_id
        self.verdict: Verdict | None = None
        self.told_at = 0.0
        self.last_order: Order | None = None
        self.outcomes = Box()
        self.changed: Callable[[], None] = lambda: None
        rules = world.rules
        self.contact = Contact(SERVER, min(rules.answer_s, rules.dead_after_s), _Clock(world))
        self._rules = rules
        self._host = host
        self._ttl_ms = int(rules.dead_after_s * 1000)
        self._follower = Follower(node_id, Card(host=host.name, address=host.name, pid=host.life), rules)
        self._client = SimClient(world.network, host, SERVER, host.name, world.session_s)
        self._client.lost = self._lose_session
        self._client.doubted = lambda: self.tell(node.Doubted(self._client.ends_at))
        self._to_write = Box()
        self._written = Box()
        self._is_writing = False
        self._timer: Timer | None = None
        self._due = float("inf")
        self._lease = 0
        self._course = Course(host, self._follow())

    @property
    def is_over(self) -> bool:
        """Whether it has heard that the run is closed."""
        return self._follower.report.has_heard

    # --- what the handler asks ---------------------------------------------------------------------------

    def tell(self, event: Any) -> None:
        """Let the machine know what happened, and carry out what follows."""
        for effect in self._follower.step(event, self.world.simulation.now):
            self._carry_out(effect)
        self._set_timer()

    def want(self) -> None:
        """Ask for a place in the next round; ``outcomes`` gets the answer."""
        self.outcomes.items.clear()
        self.verdict = None
        self.tell(node.Wanted())

    def check_round(self) -> RoundNews:
        """Say what has become of the round, as ``CoordinatedRendezvousHandler.check_round`` does.

        Raises:
            RendezvousConnectionError: if the store does not answer, and this node is not cut off yet.
        """
        due = self._follower.next_deadline()
        if due is not None and self.world.simulation.now >= due:
            self.tell(node.Ticked())
        verdict, trouble = self.verdict, self.contact.trouble()
        if verdict is not None and verdict.kind is not VerdictKind.CURRENT:
            return RoundNews(RoundStatus(verdict.kind.value), verdict.why, verdict.outcome)
        if trouble is not None:
            raise RendezvousConnectionError(f"{SERVER} failed: {trouble}")
        return RoundNews(RoundStatus.CURRENT, "" if verdict is None else verdict.why)

    def await_published(self, timeout_s: float) -> Generator[Any, Any, bool]:
        """Wait until all that this node has to say is up; give whether it is."""
        deadline = self.world.simulation.now + timeout_s
        while self._to_write.items or self._is_writing:
            left_s = deadline - self.world.simulation.now
            if left_s <= 0:
                return False
            self._written.items.clear()
            yield Take(self._written, left_s)
        return True

    def stop(self) -> None:
        """End it, with its session."""
        self._course.stop()
        self._client.close()
        if self._timer is not None:
            self._timer.cancel()

    # --- the machine -------------------------------------------------------------------------------------

    def _carry_out(self, effect: Any) -> None:
        dice = self.world.simulation.dice
        if isinstance(effect, node.Publish):
            self._to_write.put(effect)
        elif isinstance(effect, node.Serve):
            served = node.Served(effect.proposal, Endpoint(self.name, 1024 + effect.proposal % 60000))
            self._host.after(dice.uniform(0.001, dice.choice((0.05, 1.0))), lambda: self.tell(served))
        elif isinstance(effect, node.Enter):
            self.world.referee.note_entry(self.name, self.node_id, effect.order)
            self.outcomes.put(effect.order)
        elif isinstance(effect, node.Stop):
            self.outcomes.put(effect)
        elif isinstance(effect, node.Tell):
            self.verdict, self.told_at = effect.verdict, self.world.simulation.now
            self.world.tell(f"{self.name} is told {effect.verdict.kind.value}: {effect.verdict.why}")
            self.changed()

    def _set_timer(self) -> None:
        """See that the machine is told when it waits for time to pass; what is put off is asked about again."""
        due = self._follower.next_deadline()
        if due is None or due == float("inf") or due >= self._due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self._host.after(self.world.until(due), self._tick)

    def _tick(self) -> None:
        self._due, self._timer = float("inf"), None
        due = self._follower.next_deadline()
        if due is not None and self.world.simulation.now >= due:
            self.tell(node.Ticked())
        else:
            self._set_timer()

    # --- orders and reports --------------------------------------------------------------------------------

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
            except SessionGoneError as error:
                self._note_loss(error)

    def _lose_session(self) -> None:
        """Begin anew, as whoever waits for a watch's events does when the server does not go on with it."""
        self._course.stop()
        if self._lease:
            self._note_loss(SessionGoneError())
        self._course = Course(self._host, self._follow())

    def _note_loss(self, error: Exception) -> None:
        self._lease = 0
        self.contact.fail(error)
        self.tell(node.LeaseLost("the session has ended"))
        self.changed()

    def _read_order(self) -> Generator[Any, Any, None]:
        _, fields = yield Ask(self._client, SessionVerb.READ, ((ORDERS + self.node_id).encode(),))
        if fields[0]:
            self._obey(fields[1])

    def _take_event(self, happening: Any) -> None:
        if happening.kind is EventKind.SET:
            self._obey(happening.value)
        elif happening.kind is EventKind.MISSED:
            Course(self._host, self._read_order_again())

    def _read_order_again(self) -> Generator[Any, Any, None]:
        try:
            yield from self._read_order()
        except SessionGoneError:
            return  # the other course begins anew

    def _obey(self, data: bytes) -> None:
        order = decode_order(data)
        self.last_order = order
        self.world.tell(f"{self.name} reads {order.kind.value} ({order.term}.{order.number}): {order.why}")
        self.tell(node.Ordered(order))

    def _write(self) -> Generator[Any, Any, None]:
        renew_at = 0.0
        while True:
            now = self.world.simulation.now
            if not self._lease:
                status, fields = yield from self._ask(SessionVerb.LEASE_GRANT, self._ttl_ms)
                assert status is Status.OK
                self._lease = fields[0]
                yield from mark(self._client, NODES + self.node_id + HERE, "")
                renew_at = now + self._rules.keep_alive_interval_s
                self.tell(node.Granted())
                self.tell(node.Renewed(now))
            elif now >= renew_at:
                status, _ = yield from self._ask(SessionVerb.LEASE_RENEW, self._lease)
                renew_at = now + self._rules.keep_alive_interval_s
                _, (revision, _) = yield Ask(self._client, SessionVerb.READ, (f"{NODES}{self.node_id}{HERE}".encode(),))
                self._note(status if revision else Status.REFUSED, node.Renewed(now))
            elif self._to_write.items:
                yield from self._publish()
            else:
                yield Take(self._to_write, self.world.until(renew_at))
                continue
            self.contact.fail(None)
            self.changed()

    def _publish(self) -> Generator[Any, Any, None]:
        report = self._to_write.items[-1].report
        self._to_write.items.clear()
        self._is_writing = True
        try:
            fields = ((NODES + self.node_id).encode(), ANY_REVISION, encode_report(report), self._lease)
            status, _ = yield from self._ask(SessionVerb.SWAP, *fields)
        finally:
            self._is_writing = False
        self._note(status, None)
        self._written.put(None)

    def _ask(self, verb: SessionVerb, *fields: Any) -> Generator[Any, Any, Any]:
        self.contact.ask()
        try:
            answer = yield Ask(self._client, verb, fields)
        finally:
            self.contact.end()
        self.contact.answer()
        return answer

    def _note(self, status: Status, event: Any) -> None:
        if status is not Status.OK:
            self._lease = 0
            self.world.tell(f"{self.name} has lost its lease")
            self.tell(node.LeaseLost("the store has ended it"))
        elif event is not None:
            self.tell(event)
