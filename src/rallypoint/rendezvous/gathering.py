"""Who gets a place in the round that gathers, and when a world is proposed: the rules that know no observer.

Rules
-----
1. A node that wants in gets a place while there is room; otherwise it stands by. Places of members of the last round
   that live and have not come back are kept.
2. A world is proposed when it is as large as it may be; or when everybody who lives of the last round is back and the
   losses, at most, were made good; or when it has been large enough for the time of the last call.
3. Each decision carries one sentence with the counts in it.

They are asked by ``decide`` on behalf of one node that looks at the shared state, and by ``office`` on behalf of all.
The latter asks about many nodes in a row, so what has to be counted is counted once, in a :class:`Census`.

What this file does not know: time, but for one number of seconds; who asks; how the state is stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from rallypoint.rendezvous.change import Join, Propose, StandBy
from rallypoint.rendezvous.decision import Decision, Stop, StopKind, Wait
from rallypoint.rendezvous.ranks import choose_members, place_ranks
from rallypoint.rendezvous.state import Card, Phase, Standing, State, label_of

__all__ = [
    "ENDED",
    "Bid",
    "Census",
    "Choice",
    "choose_world",
    "find_place",
    "gather",
    "missing_acknowledgements",
    "name_awaited",
    "name_nodes",
    "name_size",
    "refuse_other_bounds",
    "refuse_other_store",
    "take_census",
    "tell_wait",
]

NAMES_SHOWN_MAX = 8
"""A sentence names so many nodes; the rest is counted."""

ENDED = {"succeeded": "has succeeded", "failed": "has failed", "closed": "was closed"}
"""What is said of a closed run, by its outcome."""


class Bid(NamedTuple):
    """A node wants in.

    Attributes:
        node_id: its id.
        card: how it introduces itself.
        min_nodes: the fewest nodes in a round, as it was told.
        max_nodes: the most.
    """

    node_id: str
    card: Card
    min_nodes: int
    max_nodes: int


@dataclass
class Census:
    """What the rules count; whoever changes a standing keeps it up.

    Attributes:
        ready: how many nodes are ready.
        spares: how many stand by.
        returning: the members of the latest complete round that live and have not come back.
    """

    ready: int
    spares: int
    returning: set[str]

    def note(self, node_id: str, before: Standing | None, after: Standing | None) -> None:
        """Note that one node stands otherwise than before; ``None``: it is not there."""
        self.ready += (after is Standing.READY) - (before is Standing.READY)
        self.spares += (after is Standing.SPARE) - (before is Standing.SPARE)
        if after is not Standing.RUNNING:
            self.returning.discard(node_id)

    def has_enough(self, state: State) -> bool:
        """Tell whether the nodes that are there could make up the round that is not complete yet."""
        is_open = state.phase is not Phase.COMPLETE and self.ready > 0
        return is_open and self.ready + self.spares >= state.min_nodes


def take_census(state: State) -> Census:
    """Count.

    Cost: O(n) for n nodes.
    """
    standings = [node.standing for node in state.nodes.values()]
    return Census(standings.count(Standing.READY), standings.count(Standing.SPARE), set(state.returning))


def refuse_other_bounds(state: State, bid: Bid) -> Decision | None:
    """Nodes that were told different sizes would never agree on a world."""
    if (state.min_nodes, state.max_nodes) == (bid.min_nodes, bid.max_nodes):
        return None
    if len(state.nodes) == (bid.node_id in state.nodes):
        return None
    return Decision(
        Stop(StopKind.REFUSED),
        f"this node was told {name_size(bid.min_nodes, bid.max_nodes)} nodes, "
        f"the run has {name_size(state.min_nodes, state.max_nodes)}, as told to {name_nodes(state, state.nodes)}",
    )


def refuse_other_store(state: State, mine: str, theirs: str) -> Decision | None:
    """Nodes whose workers get stores of different kinds would wait for each other in different places.

    Args:
        state: with the nodes of the run.
        mine: the kind that a node was told which wants in.
        theirs: the kind that they were told.
    """
    if mine == theirs:
        return None
    return Decision(
        Stop(StopKind.REFUSED),
        f"this node was told worker_store={mine}, the run has worker_store={theirs}, as told to "
        f"{name_nodes(state, state.nodes)}: every node has to be told the same",
    )


def find_place(state: State, bid: Bid, census: Census) -> Decision | None:
    """Give a node that wants in its place: in the next round, or standing by.

    Returns:
        ``None`` if it has one.

    Cost: O(1), but for the sentence of a node that has to stand by while others have yet to come back.
    """
    me, most = bid.node_id, state.max_nodes
    known = state.nodes.get(me)
    if state.phase is Phase.COMPLETE:
        return _find_next_place(state, bid)
    if me in census.returning:
        return Decision(_join(bid), f"back for round {state.round}")
    if (known is not None and known.standing is Standing.READY) or me in state.members:
        return None
    taken = max(census.ready, len(state.members)) + len(census.returning.difference(state.members))
    if taken < most:
        return Decision(_join(bid), f"round {state.round} has {taken} of {most} places taken")
    awaited = name_awaited(state) if census.returning else ""
    why = f"all {most} places of round {state.round} are taken"
    return _stand_by(state, bid, why + (f" ({awaited})" if awaited else ""))


def missing_acknowledgements(state: State) -> str:
    """Say who of an open proposal has not acknowledged it."""
    missing = state.unacknowledged
    waited_for = f"{len(missing)} of {len(state.members)} acknowledgements missing: {name_nodes(state, missing)}"
    return f"round {state.round} is proposed, {waited_for}"


def gather(state: State, enough_s: float | None, last_call_s: float) -> Decision:
    """Propose a world, or say what it waits for.

    Args:
        state: gathering, with somebody ready.
        enough_s: for how many seconds there have been enough nodes; ``None`` if there are not.
        last_call_s: how long such a world waits for more.

    Cost: O(n log n) for n nodes.
    """
    choice = choose_world(state, enough_s, last_call_s)
    if choice is not None:
        return Decision(Propose(place_ranks(state, choice.node_ids)), choice.why)
    return Decision(Wait(), tell_wait(state, take_census(state), enough_s, last_call_s))


class Choice(NamedTuple):
    """The nodes of the next world, and why it is they."""

    node_ids: list[str]
    why: str


def choose_world(
    state: State, enough_s: float | None, last_call_s: float, *, knows_everybody: bool = False
) -> Choice | None:
    """Choose the nodes of the next world, if it is time.

    Args:
        state: gathering, with somebody ready.
        enough_s: for how many seconds there have been enough nodes; ``None`` if there are not.
        last_call_s: how long such a world waits for more.
        knows_everybody: whether who asks knows of every node that lives, so that nobody is waited for once those of
            the last round are back, newcomers or not.

    Returns:
        ``None`` while somebody is waited for.

    Cost: O(n log n) for n nodes.
    """
    size = name_size(state.min_nodes, state.max_nodes)
    returning = state.returning
    chosen = choose_members(state, reserved=len(returning))
    if len(chosen) == state.max_nodes:
        return Choice(chosen, f"{len(chosen)} of {size} nodes, all places are taken")
    survivors = [node_id for node_id in chosen if node_id in state.previous]
    is_whole = bool(survivors) and not returning and (knows_everybody or len(chosen) <= len(state.previous))
    if is_whole and len(chosen) >= state.min_nodes:
        return Choice(chosen, f"{len(chosen)} of {size} nodes, everybody who lives is back")
    if enough_s is not None and enough_s >= last_call_s:
        chosen = choose_members(state, reserved=0)
        return Choice(chosen, f"{len(chosen)} of {size} nodes, the last call of {last_call_s:g} s is over")
    return None


def tell_wait(state: State, census: Census, enough_s: float | None, last_call_s: float) -> str:
    """Say what a round that gathers waits for; ``choose_world`` has the arguments.

    Cost: O(1), or O(r) while r nodes have yet to come back.
    """
    size = name_size(state.min_nodes, state.max_nodes)
    places = min(census.ready, state.max_nodes)
    spares = min(census.spares, max(0, state.max_nodes - places - len(census.returning))) if places else 0
    awaited = f" ({name_awaited(state)})" if census.returning else ""
    if enough_s is None:
        return f"{places + spares} of {size} nodes, waiting for {state.min_nodes - places - spares}{awaited}"
    return f"{places + spares} of {size} nodes, the last call of {last_call_s:g} s is running{awaited}"


# --- sentences -------------------------------------------------------------------------------------------


def name_size(min_nodes: int, max_nodes: int) -> str:
    """Say how many nodes a round takes."""
    return str(min_nodes) if min_nodes == max_nodes else f"{min_nodes} to {max_nodes}"


def name_nodes(state: State, node_ids: Iterable[str]) -> str:
    """Name nodes for people; many of them are counted."""
    labels = sorted(label_of(state, node_id) for node_id in node_ids)
    more = f" and {len(labels) - NAMES_SHOWN_MAX} more" if len(labels) > NAMES_SHOWN_MAX else ""
    return (", ".join(labels[:NAMES_SHOWN_MAX]) or "nobody") + more


def name_awaited(state: State) -> str:
    """Say which members of the last round have yet to come back; empty if none has."""
    returning = state.returning
    return f"{name_nodes(state, returning)} of the last round still to come back" if returning else ""


# --- what rules are made of ------------------------------------------------------------------------------


def _find_next_place(state: State, bid: Bid) -> Decision:
    """The round is complete: a place in it is one in the next."""
    size, most = len(state.members), state.max_nodes
    if bid.node_id in state.members and bid.node_id in state.nodes:
        return Decision(_join(bid), f"round {state.round} is behind this node, it asks for the next")
    if size < most:
        return Decision(_join(bid), f"round {state.round} has {size} of {most} nodes, there is room")
    return _stand_by(state, bid, f"round {state.round} has {size} of {most} nodes, standing by")


def _join(bid: Bid) -> Join:
    return Join(bid.card, bid.min_nodes, bid.max_nodes)


def _stand_by(state: State, bid: Bid, why: str) -> Decision:
    known = state.nodes.get(bid.node_id)
    is_spare = known is not None and known.standing is Standing.SPARE
    return Decision(Wait() if is_spare else StandBy(bid.card), why)
