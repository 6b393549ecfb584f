"""One coordinator and many nodes on their pure machines, stepped by hand: a store of dicts, one clock, no threads."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec.structs import replace

from rallypoint.rendezvous.decision import Rules
from rallypoint.rendezvous.follower import Follower
from rallypoint.rendezvous.follower_moves import (
    Enter,
    Granted,
    LeaseLost,
    Ordered,
    Publish,
    Renewed,
    Say,
    Serve,
    Served,
    Stop,
    Tell,
    Wanted,
)
from rallypoint.rendezvous.follower_moves import Event as NodeEvent
from rallypoint.rendezvous.follower_moves import Ticked as NodeTicked
from rallypoint.rendezvous.lifeline import CUT_OFF_SHARE
from rallypoint.rendezvous.office import Office
from rallypoint.rendezvous.office_moves import Effect, Event, Gone, Record, Recorded, Reported, Send, Ticked, TookOffice
from rallypoint.rendezvous.policy import Policy
from rallypoint.rendezvous.reports import (
    Order,
    Report,
    Workers,
    decode_order,
    decode_report,
    encode_order,
    encode_report,
)
from rallypoint.rendezvous.state import Card, State
from rallypoint.types import Endpoint

__all__ = ["OfficeCluster", "OfficeNode"]


@dataclass
class OfficeNode:
    """One node: its machine, and what its driver would hold."""

    name: str
    follower: Follower
    card: Card
    skew_s: float = 0.0
    is_alive: bool = True
    is_frozen: bool = False
    is_hanging: bool = False
    has_lease: bool = False
    renewed_at: float = float("-inf")
    unpublished: Report | None = None
    serving: Serve | None = None
    read: Order | None = None
    entered: list[Order] = field(default_factory=list)
    stopped: Stop | None = None
    told: list[Tell] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def node_id(self) -> str:
        return self.follower.node_id

    @property
    def is_acting(self) -> bool:
        return self.is_alive and not self.is_frozen


class OfficeCluster:
    """The keys of the run, who coordinates, and the nodes."""

    def __init__(self, rules: Rules, policy: Policy = Policy()) -> None:  # noqa: B008 - frozen
        self.rules = rules
        self.policy = policy
        self.worker_store = "embedded"  # that the nodes made from now on were told
        self.nodes: dict[str, OfficeNode] = {}
        self.now = 0.0
        self.term = 0
        self.minutes: bytes | None = None
        self.reports: dict[str, bytes] = {}
        self.orders: dict[str, bytes] = {}
        self.effects: list[Effect] = []
        self.is_recording = True  # whether records reach the store
        self.unrecorded: list[Record] = []
        self.office: Office | None = None
        self.take_over()

    @property
    def state(self) -> State:
        assert self.office is not None, "nobody is in office"
        return self.office.state

    def add(
        self,
        name: str,
        host: str | None = None,
        skew_s: float = 0.0,
        wish: int | None = None,
        labels: dict[str, str] | None = None,
        workers: Workers | None = None,
        life: int = 0,
    ) -> OfficeNode:
        host = host or f"host-{name}"
        card = Card(host=host, address=host, rank_wish=wish, labels=labels or {}, pid=life)
        node_id = (name.encode().hex() + f"{life:08x}" + "0" * 32)[:32]
        follower = Follower(node_id, card, self.rules, workers, self.worker_store)
        self.nodes[name] = OfficeNode(name, follower, card, skew_s)
        return self.nodes[name]

    # --- the coordinator ---

    def take_over(self) -> None:
        """Let another office begin, from what is stored."""
        self.term += 1
        self.orders.clear()
        self.unrecorded.clear()
        self.is_recording = True
        self.office = Office(self.rules, self.policy)
        self.tell_office(TookOffice(self.term, self.minutes, tuple(map(decode_report, self.reports.values()))))

    def stop_office(self) -> None:
        """Let nobody be in office."""
        self.office = None
        self.orders.clear()

    def tell_office(self, *events: Event) -> None:
        if self.office is None:
            return
        for effect in self.office.step_all(events, self.now):
            self.effects.append(effect)
            if isinstance(effect, Send):
                assert not self.unrecorded, "nobody is told before the minutes are stored"
                self.orders[effect.node] = encode_order(effect.order)
            elif isinstance(effect, Record):
                self.unrecorded.append(effect)
                if self.is_recording:
                    self.record()

    def record(self) -> None:
        """Let the records reach the store."""
        while self.unrecorded and self.office is not None:
            effect = self.unrecorded.pop(0)
            self.minutes = effect.minutes
            self.tell_office(Recorded(effect.number))

    # --- the nodes ---

    def tell(self, name: str, event: NodeEvent) -> None:
        """Let a node's machine know, and carry out what needs no store."""
        node = self.nodes[name]
        for effect in node.follower.step(event, self.now + node.skew_s):
            if isinstance(effect, Publish):
                node.unpublished = effect.report
            elif isinstance(effect, Serve):
                node.serving = effect
            elif isinstance(effect, Enter):
                node.entered.append(effect.order)
            elif isinstance(effect, Stop):
                node.stopped = effect
            elif isinstance(effect, Tell):
                node.told.append(effect)
            elif isinstance(effect, Say):
                node.said.append(effect.why)

    def join(self, name: str) -> None:
        node = self.nodes[name]
        node.stopped = None
        self.renew(name)
        self.tell(name, Wanted())

    def renew(self, name: str) -> None:
        """Let a node renew its lease, or get one."""
        node = self.nodes[name]
        if not node.has_lease:
            node.has_lease = True
            self.tell(name, Granted())
        node.renewed_at = self.now
        self.tell(name, Renewed(self.now + node.skew_s))

    def step(self, name: str) -> bool:
        """Let a node write what it has to say, and read its order; gives whether there was anything."""
        node = self.nodes[name]
        if not node.is_acting or node.is_hanging:
            return False
        before = (node.follower.report.number, len(node.entered), node.stopped)
        order = self.orders.get(node.node_id)
        if order is not None:
            node.read = decode_order(order)
            self.tell(name, Ordered(node.read))
        if node.serving is not None:
            serve, node.serving = node.serving, None
            self.tell(name, Served(serve.proposal, Endpoint(node.card.address, 10_000 + serve.proposal)))
        self.publish(name)
        return before != (node.follower.report.number, len(node.entered), node.stopped)

    def publish(self, name: str) -> None:
        node = self.nodes[name]
        report, node.unpublished = node.unpublished, None
        if report is not None and node.has_lease:
            data = encode_report(report)
            self.reports[node.node_id] = data
            self.tell_office(Reported(decode_report(data)))

    def twin(self, name: str) -> None:
        """Let another process with a node's id want in."""
        report = self.nodes[name].follower.report
        card = replace(report.card, pid=report.card.pid + 1)
        self.tell_office(Reported(replace(report, number=report.number + 100, card=card, wants_in=True)))

    def do(self, name: str, event: NodeEvent) -> None:
        """Let something happen to a node, and be published at once."""
        self.tell(name, event)
        self.publish(name)

    def lose(self, name: str, why: str) -> None:
        """Let the store end a node's lease."""
        node = self.nodes[name]
        if node.has_lease:
            node.has_lease = False
            self.reports.pop(node.node_id, None)
            self.orders.pop(node.node_id, None)
            self.tell_office(Gone(node.node_id, why))

    def pass_time(self, seconds: float) -> None:
        """Let time pass: leases are renewed or end, deadlines come."""
        self.now += seconds
        for name, node in self.nodes.items():
            if not node.has_lease:
                if node.is_acting and node.follower.report.number and not node.follower.report.leaving:
                    self.tell(name, LeaseLost("the store does not know it any more"))
                    self.renew(name)
            elif node.is_acting and self.now - node.renewed_at < self.rules.dead_after_s:
                if self.now - node.renewed_at >= self.rules.keep_alive_interval_s:
                    self.renew(name)
            elif self.now - node.renewed_at >= self.rules.dead_after_s:
                self.lose(name, f"its lease of {self.rules.dead_after_s:g} s has ended")
            deadline = node.follower.next_deadline()
            if node.is_acting and deadline is not None and self.now + node.skew_s >= deadline:
                self.tell(name, NodeTicked())
        if self.office is not None:
            deadline = self.office.next_deadline()
            if deadline is not None and self.now >= deadline:
                self.tell_office(Ticked())

    @property
    def cut_off_s(self) -> float:
        return CUT_OFF_SHARE * self.rules.dead_after_s
