"""What each action makes of the state: ``change(state, action, me)`` gives the new one.

Rules
-----
1. Total: an action that does not apply (any more) gives back the very same state object, and the driver has nothing
   to swap. Nothing here raises.
2. Whatever a node does moves its beat, and every change moves the version by one.
3. A complete round is never edited. It ends, with a reason, and the next one gathers; its number grows by one. A
   proposal that loses a member, or gets company while there is room, goes back to gathering under the same round.
4. A round is complete when the last member's acknowledgement is in, and rank 0's carried the endpoint.
5. A member whose workers have all ended well has done its part: if it goes away afterwards, the round goes on.
6. A closure is final: after it nodes only note that they have heard, and leave.

What this file does not know: whether an action is wise. That is decided in ``decide``; here are only the edits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from rallypoint.rendezvous.actions import (
    Acknowledge,
    Action,
    Beat,
    Close,
    Drop,
    Fail,
    Hear,
    Join,
    Leave,
    Propose,
    StandBy,
    Succeed,
    Withdraw,
)
from rallypoint.rendezvous.state import (
    MESSAGE_SIZE_MAX,
    NEWS_COUNT_MAX,
    Card,
    Closure,
    News,
    Node,
    Phase,
    Standing,
    State,
    describe_failure,
    label_of,
)
from rallypoint.types import Endpoint

__all__ = [
    "Acknowledge",
    "Action",
    "Beat",
    "Close",
    "Drop",
    "Fail",
    "Hear",
    "Join",
    "Leave",
    "Propose",
    "StandBy",
    "Succeed",
    "Withdraw",
    "acknowledge",
    "change",
    "draft",
]


class _Draft(dict[str, Node]):
    """Nodes that belong to one caller alone, so that they are edited where they are."""


def draft(state: State) -> State:
    """Give an equal state for a caller that makes many changes and keeps none of the states in between.

    ``change`` edits the nodes of a draft where they are, so that a change costs O(1) where it would cost O(n); a state
    from before a change then shows the nodes after it.
    """
    return replace(state, nodes=_Draft(state.nodes))


def change(state: State, action: Action, me: str) -> State:
    """Give the state after an action.

    Args:
        state: the state before; not touched.
        action: what to do.
        me: the id of the node that does it.

    Returns:
        The new state, with the next version number; ``state`` itself if the action does not apply.

    Cost: O(n) for n nodes.
    """
    edited = _EDITS[type(action)](state, action, me)
    if edited is state:
        return state
    node = edited.nodes.get(me)
    if node is not None and me in state.nodes:
        edited = _with_node(edited, me, replace(node, beat=state.nodes[me].beat + 1))
    return replace(edited, version=state.version + 1)


# --- the edits -------------------------------------------------------------------------------------------


def _join(state: State, action: Join, me: str) -> State:
    known = state.nodes.get(me)
    if state.closure is not None:
        return state
    if state.phase is not Phase.COMPLETE and known is not None and known.standing is Standing.READY:
        return state
    if len(state.nodes) == (me in state.nodes):
        state = replace(state, min_nodes=action.min_nodes, max_nodes=action.max_nodes)
    came = _came(state, action.card, Standing.READY, me)
    if state.phase is Phase.COMPLETE:
        verb = "came back for the next round" if me in state.members else "came, and there is room for it"
        # Ended first, entered second: ending a round leaves everybody in it still to come back.
        return _with_node(_end_round(came, f"{label_of(came, me)} {verb}"), me, came.nodes[me])
    if state.phase is Phase.PROPOSED and me not in state.members:
        return _regather(came)
    return came


def _stand_by(state: State, action: StandBy, me: str) -> State:
    known = state.nodes.get(me)
    if state.closure is not None or (known is not None and known.standing is Standing.SPARE):
        return state
    if me in state.members:
        return state
    return _came(state, action.card, Standing.SPARE, me)


def _beat(state: State, _action: Beat, me: str) -> State:
    # The beat itself is moved by ``change``, as for every action.
    return replace(state) if me in state.nodes and state.closure is None else state


def _drop(state: State, action: Drop, me: str) -> State:
    for node_id, detail in action.nodes.items():
        if node_id in state.nodes and node_id != me and state.closure is None:
            state = _without(state, node_id, "dropped", f"{_named(state, node_id)} is gone: {detail}")
    return state


def _propose(state: State, action: Propose, _me: str) -> State:
    ranks = dict(action.ranks)
    fits = (
        state.phase is Phase.GATHERING
        and state.closure is None
        and state.min_nodes <= len(ranks) <= state.max_nodes
        and sorted(ranks.values()) == list(range(len(ranks)))
        and all(_may_be_proposed(state, node_id, action.is_in_place) for node_id in ranks)
    )
    return replace(state, phase=Phase.PROPOSED, proposal=state.proposal + 1, members=ranks) if fits else state


def _may_be_proposed(state: State, node_id: str, is_in_place: bool) -> bool:
    node = state.nodes.get(node_id)
    if node is None:
        return False
    return node.standing is not Standing.RUNNING or (is_in_place and node_id in state.previous)


def _withdraw(state: State, _action: Withdraw, _me: str) -> State:
    return _regather(state) if state.phase is Phase.PROPOSED and state.closure is None else state


def acknowledge(state: State, proposal: int, endpoints: Mapping[str, Endpoint | None]) -> State:
    """Give the state after several members acknowledged a proposal; the same state if that changes nothing.

    Args:
        state: the state before.
        proposal: the number of the proposal.
        endpoints: who acknowledged -> where it serves the workers' store; only rank 0's counts.

    Cost: O(n) for n nodes, however many of them acknowledge.
    """
    if state.phase is not Phase.PROPOSED or state.closure is not None or proposal != state.proposal:
        return state
    edited = state
    for node_id, endpoint in endpoints.items():
        node, rank = edited.nodes.get(node_id), state.members.get(node_id)
        if node is None or rank is None or node.acknowledged == proposal or (rank == 0 and endpoint is None):
            continue
        if rank == 0:
            edited = replace(edited, endpoint=endpoint)
        edited = _with_node(edited, node_id, replace(node, acknowledged=proposal))
    if edited is state:
        return state
    nodes = edited.nodes
    is_missing = any(other not in nodes or nodes[other].acknowledged != proposal for other in state.members)
    return edited if is_missing else _complete(edited)


def _acknowledge(state: State, action: Acknowledge, me: str) -> State:
    return acknowledge(state, action.proposal, {me: action.endpoint})


def _succeed(state: State, action: Succeed, me: str) -> State:
    if not _is_in_round(state, action.round, me) or me in state.done:
        return state
    state = replace(state, done=(*state.done, me))
    if len(state.done) != len(state.members):
        return state
    count = len(state.members)
    who = "the one node" if count == 1 else f"all {count} nodes"
    return _closed(state, "succeeded", f"{who} of round {state.round} succeeded")


def _fail(state: State, action: Fail, me: str) -> State:
    in_round = _is_in_round(state, action.round, me)
    if state.closure is not None or me not in state.nodes or not (in_round or action.final):
        return state
    node = _named(state, me) if in_round else label_of(state, me)
    first_line = action.message.strip().partition("\n")[0]
    why = f"a worker of {node} failed in round {action.round}" + describe_failure(action.exit_code, first_line)
    state = _with_news(state, me, "failed", action.message, exit_code=action.exit_code)
    if action.final:
        return _closed(state, "failed", f"{why}; no restart is left")
    return _end_round(state, why)


def _leave(state: State, action: Leave, me: str) -> State:
    if me not in state.nodes:
        return state
    verb = "is going" if action.is_stopping else "left"
    return _without(state, me, "left", f"{_named(state, me)} {verb}: {action.why}")


def _close(state: State, action: Close, _me: str) -> State:
    return state if state.closure is not None else _closed(state, action.outcome, action.why)


def _hear(state: State, _action: Hear, me: str) -> State:
    node = state.nodes.get(me)
    if state.closure is None or node is None or node.has_heard:
        return state
    return _with_node(state, me, replace(node, has_heard=True))


_EDITS: dict[type[Action], Callable[[State, Any, str], State]] = {
    Join: _join,
    StandBy: _stand_by,
    Beat: _beat,
    Drop: _drop,
    Propose: _propose,
    Acknowledge: _acknowledge,
    Succeed: _succeed,
    Fail: _fail,
    Leave: _leave,
    Close: _close,
    Hear: _hear,
    Withdraw: _withdraw,
}


# --- what edits are made of ------------------------------------------------------------------------------


def _named(state: State, node_id: str) -> str:
    """Give a node's label, with its rank if it is in a round that goes on."""
    rank = state.members.get(node_id) if state.phase is Phase.COMPLETE else None
    return label_of(state, node_id) + (f" (node {rank})" if rank is not None else "")


def _cut(text: str) -> str:
    return text if len(text) <= MESSAGE_SIZE_MAX else text[: MESSAGE_SIZE_MAX - 1] + "…"


def _is_in_round(state: State, round_: int, me: str) -> bool:
    is_running = state.phase is Phase.COMPLETE and state.closure is None and state.round == round_
    return is_running and me in state.members and me in state.nodes


def _with_node(state: State, node_id: str, node: Node) -> State:
    if isinstance(state.nodes, _Draft):
        state.nodes[node_id] = node
        return replace(state)
    return replace(state, nodes=state.nodes | {node_id: node})


def _with_news(state: State, node_id: str, kind: str, message: str, exit_code: int | None = None) -> State:
    piece = News(
        kind=kind,
        round=state.round,
        node=node_id,
        host=state.nodes[node_id].card.host,
        message=_cut(message),
        rank=state.members.get(node_id),
        exit_code=exit_code,
    )
    return replace(state, news=(*state.news, piece)[-NEWS_COUNT_MAX:])


def _came(state: State, card: Card, standing: Standing, me: str) -> State:
    known = state.nodes.get(me)
    if known is not None:
        return _with_node(state, me, replace(known, card=card, standing=standing))
    arrival = state.arrivals + 1
    return _with_node(replace(state, arrivals=arrival), me, Node(card=card, standing=standing, arrival=arrival))


def _without(state: State, node_id: str, kind: str, why: str) -> State:
    """Take a node out, with all that follows for the round."""
    state = _with_news(state, node_id, kind, why)
    if isinstance(state.nodes, _Draft):
        del state.nodes[node_id]
    else:
        state = replace(state, nodes={other: node for other, node in state.nodes.items() if other != node_id})
    if node_id not in state.members or state.closure is not None:
        return state
    if state.phase is Phase.PROPOSED:
        return _regather(state)
    return state if node_id in state.done else _end_round(state, why)


def _regather(state: State) -> State:
    return replace(state, phase=Phase.GATHERING, members={}, endpoint=None)


def _end_round(state: State, reason: str) -> State:
    """Open the next round. The members stay RUNNING until each of them has come back."""
    return replace(
        state,
        round=state.round + 1,
        phase=Phase.GATHERING,
        members={},
        previous=state.members,
        endpoint=None,
        done=(),
        reason=_cut(reason),
    )


def _complete(state: State) -> State:
    nodes = {
        node_id: replace(node, standing=Standing.RUNNING) if node_id in state.members else node
        for node_id, node in state.nodes.items()
    }
    return replace(state, phase=Phase.COMPLETE, nodes=type(state.nodes)(nodes))


def _closed(state: State, outcome: str, why: str) -> State:
    return replace(state, closure=Closure(outcome=outcome, why=_cut(why)))
