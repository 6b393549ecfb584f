"""What the coordinator tells each node: an order, made from the state and the node's report.

Rules
-----
1. An order says where a node stands. It is made anew only when that has changed, or when the node wants in anew; who
   joined a second ago is not told that somebody else came.
2. It takes a number of bytes that does not grow with the number of nodes.
3. That a node has to wait is not worth an order while the others may come at any moment: it is held back until somebody
   says that it is, and made only if it is still true.
4. What has become of a round is read by ``verdict.judge``, as the nodes that share a state do.

What this file does not know: when anything was decided, and whether it is written down.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from msgspec.structs import replace

from rallypoint.rendezvous.gathering import missing_acknowledgements
from rallypoint.rendezvous.numbering import NodeWorkers, number_workers
from rallypoint.rendezvous.reports import Notice, Order, OrderKind, Places, Report
from rallypoint.rendezvous.state import MESSAGE_SIZE_MAX, News, Phase, Standing, State
from rallypoint.rendezvous.verdict import VerdictKind, judge

__all__ = ["NEWS_TOLD_MAX", "Clerk"]

NEWS_TOLD_MAX = 2
"""An order carries so many pieces of news, the latest last."""


class _Told(NamedTuple):
    """What a node was told last, as far as it matters to it."""

    kind: OrderKind
    round: int
    proposal: int
    joining: int


class Clerk:
    """Writes the orders of one coordinator, and remembers what each node was told.

    Args:
        term: the coordinator's fencing token.

    Attributes:
        held: the nodes whose order to wait is held back.
    """

    def __init__(self, term: int) -> None:
        self.held: dict[str, None] = {}
        self._term = term
        self._number = 0
        self._told: dict[str, _Told] = {}
        self._kept_out: dict[str, tuple[OrderKind, str]] = {}
        self._twins: dict[str, tuple[int, str]] = {}
        self._spare_whys: dict[str, str] = {}
        self._places: dict[str, Places] = {}
        self._placed = -1  # the proposal that they are of

    def refuse(self, node_id: str, why: str) -> None:
        """A node cannot take part."""
        self._kept_out[node_id] = OrderKind.REFUSED, why

    def refuse_twin(self, node_id: str, why: str, number: int) -> None:
        """Another process has a node's id; it is told once, what the node itself was told stands.

        Args:
            node_id: the id.
            why: one sentence.
            number: of the report of the other process.
        """
        self._twins[node_id] = number, why

    def keep_out(self, node_id: str, why: str) -> None:
        """A node may not take part for some time."""
        self._kept_out[node_id] = OrderKind.QUARANTINED, why

    def clear(self, node_id: str) -> None:
        """A node may take part."""
        self._kept_out.pop(node_id, None)

    def stand_by(self, node_id: str, why: str) -> None:
        """Note why a node stands by."""
        self._spare_whys[node_id] = why

    def forget(self, node_id: str) -> None:
        """A node is gone."""
        for memory in (self.held, self._told, self._kept_out, self._twins, self._spare_whys):
            memory.pop(node_id, None)

    def order_for(
        self,
        state: State,
        report: Report,
        wait: str,
        reports: Mapping[str, Report] | None = None,
        *,
        holds_waits: bool = False,
        is_outsider: bool = False,
    ) -> Order | None:
        """Give a node's order, if there is one that it was not told yet.

        Args:
            state: as decided and written down.
            report: the node's last.
            wait: what a round that gathers waits for.
            reports: those of all members, for their workers' ranks.
            holds_waits: an order to wait is held back.
            is_outsider: a world is proposed without the node, on which workers of an earlier round may run.

        Cost: O(1); O(n) for the first of n nodes that is admitted to a round.
        """
        if report.node in self._twins:
            number, why = self._twins.pop(report.node)
            self._told.pop(report.node, None)
            self._number += 1
            return replace(self._draft(OrderKind.REFUSED, why), number=self._number, report=number)
        order = self._fence_outsider(state) if is_outsider else self._answer(state, report, wait)
        self.held.pop(report.node, None)
        if order is None:
            return None
        is_bound = order.kind in _BOUND
        told = _Told(order.kind, order.round if is_bound else 0, order.proposal, report.joining)
        if self._told.get(report.node) == told:
            return None
        if holds_waits and order.kind is OrderKind.WAIT:
            self.held[report.node] = None
            return None
        self._told[report.node] = told
        self._number += 1
        places = self._place(state, report.node, reports) if order.kind is OrderKind.ADMITTED else None
        return replace(order, number=self._number, why=_cut(order.why), report=report.number, places=places)

    def notice(self, state: State, wait: str) -> Notice:
        """Give what all who wait may read, after the orders that were made until now.

        Args:
            state: as decided and written down.
            wait: what a round that gathers waits for.
        """
        return Notice(term=self._term, number=self._number, text=_cut(wait or self.tell_progress(state)))

    def tell_progress(self, state: State) -> str:
        """Say how far the run is, when it does not gather."""
        if state.closure is not None:
            return f"the run is closed, {state.closure.outcome}: {state.closure.why}"
        if state.phase is Phase.PROPOSED:
            return missing_acknowledgements(state)
        spares, size = len(state.standing(Standing.SPARE)), len(state.members)
        standing_by = f", {spares} {'stands' if spares == 1 else 'stand'} by" if spares else ""
        return f"round {state.round} goes on with {size} node{'' if size == 1 else 's'}{standing_by}"

    def _answer(self, state: State, report: Report, wait: str) -> Order | None:
        if report.leaving:
            return None
        if (closure := state.closure) is not None:
            news = () if closure.outcome == "succeeded" else _latest(state)
            node = state.nodes.get(report.node)
            stood_by = node is not None and node.standing is Standing.SPARE
            order = self._draft(OrderKind.CLOSED, closure.why, outcome=closure.outcome, news=news)
            return None if report.has_heard else replace(order, stood_by=stood_by)
        if report.going:
            return None  # its workers have the time that it gives them
        if not report.wants_in:
            return self._judge(state, report) if report.entered is not None else None
        if report.node in self._kept_out:
            return self._draft(*self._kept_out[report.node])
        return self._answer_wish(state, report, wait)

    def _fence_outsider(self, state: State) -> Order:
        why = f"round {state.round} is proposed without this node, which has not come back from the one before"
        return self._draft(OrderKind.FENCED, why, round_=state.round, news=_latest(state))

    def _answer_wish(self, state: State, report: Report, wait: str) -> Order | None:
        node = state.nodes.get(report.node)
        if node is None:
            told = [news.message for news in state.news if news.node == report.node]
            why = told[-1] if told else "the state does not name it any more"
            return self._draft(OrderKind.FENCED, f"this node has to join anew: {why}", news=_latest(state))
        rank, size = state.members.get(report.node), len(state.members)
        if rank is not None and state.phase is Phase.PROPOSED:
            if node.acknowledged == state.proposal:
                return None
            why = f"proposed as rank {rank} of {size} for round {state.round}"
            return self._draft(OrderKind.PROPOSED, why, state, rank=rank)
        if rank is not None and state.phase is Phase.COMPLETE and node.acknowledged == state.proposal:
            why = f"round {state.round} is complete: rank {rank} of {size}"
            return self._draft(OrderKind.ADMITTED, why, state, rank=rank)
        if node.standing is Standing.SPARE:
            return self._draft(OrderKind.STAND_BY, self._spare_whys.get(report.node, "standing by"))
        return self._draft(OrderKind.WAIT, wait)

    def _judge(self, state: State, report: Report) -> Order | None:
        assert report.entered is not None, "only who is in a round asks what has become of it"
        verdict = judge(state, report.node, report.entered)
        if verdict.kind is VerdictKind.CURRENT:
            return None
        kind = OrderKind.FENCED if verdict.kind is VerdictKind.FENCED else OrderKind.OVER
        order = self._draft(kind, verdict.why, round_=report.entered, news=_latest(state, report.entered))
        rank = state.members.get(report.node)
        if kind is OrderKind.FENCED or rank is None or state.phase is not Phase.PROPOSED:
            return order
        return replace(order, proposal=state.proposal, rank=rank, size=len(state.members))

    def _draft(
        self,
        kind: OrderKind,
        why: str,
        state: State | None = None,
        *,
        round_: int = 0,
        rank: int = 0,
        outcome: str = "",
        news: tuple[News, ...] = (),
    ) -> Order:
        if state is None:
            return Order(term=self._term, number=0, kind=kind, why=why, round=round_, outcome=outcome, news=news)
        return Order(
            term=self._term,
            number=0,
            kind=kind,
            why=why,
            round=state.round,
            proposal=state.proposal,
            rank=rank,
            size=len(state.members),
            endpoint=state.endpoint if kind is OrderKind.ADMITTED else None,
        )

    def _place(self, state: State, node_id: str, reports: Mapping[str, Report] | None) -> Places | None:
        """Number the workers of all members once a round."""
        if self._placed != state.proposal:
            ranked = state.ranked
            runs = [reports[member].workers if reports and member in reports else None for member in ranked]
            known = [NodeWorkers(workers.role, workers.count) for workers in runs if workers is not None]
            self._places = {}
            if len(known) == len(ranked):
                numbered = number_workers(known)
                self._places = {
                    member: Places(
                        first_rank=ranks.first_rank,
                        world_size=ranks.world_size,
                        first_role_rank=ranks.first_role_rank,
                        role_world_size=ranks.role_world_size,
                    )
                    for member, ranks in zip(ranked, numbered, strict=True)
                }
            self._placed = state.proposal
        return self._places.get(node_id)


_BOUND = {OrderKind.PROPOSED, OrderKind.ADMITTED, OrderKind.OVER, OrderKind.FENCED}
"""Orders that are about one round; the others say the same in the next."""


def _cut(text: str) -> str:
    return text if len(text) <= MESSAGE_SIZE_MAX else text[: MESSAGE_SIZE_MAX - 1] + "…"


def _latest(state: State, since: int = 0) -> tuple[News, ...]:
    return tuple(news for news in state.news if news.round >= since)[-NEWS_TOLD_MAX:]
