"""What the nodes of one run agree on, as one typed value.

Rules
-----
1. This file knows the shape of the state and what makes it coherent. Who may change it, and when, is known to
   ``decide`` and ``change``; how it travels, to the backends.
2. There is no time in the state. Each node counts its own beats; whoever wants to know whether a node lives watches
   that counter on a clock of its own (``view``).
3. A node is a random id. Host, address, process id and labels are for people and for workers; nothing is decided by
   them but the order of ranks.
4. Bytes that came from a store are data. They are decoded against the types below, within limits, or refused with a
   sentence that says what was wrong; nothing in them is ever run.

Theory of operation
-------------------
A run is a row of rounds. A round gathers nodes, proposes a world, and is complete once every member of the proposal has
acknowledged it; the acknowledgement of rank 0 carries the address of the store that it serves for the workers. So a
complete round is a whole descriptor (members, ranks, address), committed in one place, and no node recomputes any part
of it::

                 enough nodes                 all members acknowledged
    GATHERING ------------------> PROPOSED --------------------------> COMPLETE
     ^     ^                         |                                    |
     |     +-------------------------+                                    |
     |       a member is gone, or a node comes while there is room        |
     |                                                                    |
     +--------------------------------------------------------------------+
       round + 1: a member failed, left, is gone, or came back; or a node came while there was room

A closure is set once and ends the run in any phase.

Inside a round, each node stands in one of three ways: READY (it wants in, and has stopped its workers), RUNNING (it was
admitted to the latest complete round; when that is over, it has yet to come back), SPARE (it stands by: there was no
room).

What this file does not know: time, the network, which node is reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from rallypoint.errors import RendezvousStateError
from rallypoint.types import Endpoint

__all__ = [
    "MESSAGE_SIZE_MAX",
    "NEWS_COUNT_MAX",
    "NODE_COUNT_MAX",
    "SCHEMA",
    "STATE_SIZE_MAX",
    "Card",
    "Closure",
    "News",
    "Node",
    "NodeId",
    "Phase",
    "Standing",
    "State",
    "check_state",
    "decode_state",
    "describe_failure",
    "encode_state",
    "label_of",
    "new_state",
]

SCHEMA = 1
"""The version of the shape below; a state with another number is refused."""

STATE_SIZE_MAX = 4 * 1024 * 1024
"""The most bytes that a state may take; a node takes about 270."""

NODE_COUNT_MAX = 16_384
"""The most nodes, spares included, that a state may name."""

NEWS_COUNT_MAX = 8
"""So many pieces of news are kept, the latest last."""

MESSAGE_SIZE_MAX = 1024
"""The most characters of a sentence in the state; longer ones are cut."""

KILLED = "killed by "
"""What an agent says of a worker that a signal ended, before the signal's name."""

NodeId: TypeAlias = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
"""128 random bits in hexadecimal, drawn by the node's driver."""

Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
Name: TypeAlias = Annotated[str, Meta(max_length=255)]
Sentence: TypeAlias = Annotated[str, Meta(max_length=MESSAGE_SIZE_MAX)]


class Phase(Enum):
    """How far the present round has come."""

    GATHERING = "gathering"
    PROPOSED = "proposed"
    COMPLETE = "complete"


class Standing(Enum):
    """What one node is doing about the present round."""

    READY = "ready"
    RUNNING = "running"
    SPARE = "spare"


class Card(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How a node introduces itself.

    Attributes:
        host: the machine's name; orders ranks (naturally: ``node2`` before ``node10``), otherwise for people.
        address: where the other nodes reach it; handed to workers as ``MASTER_ADDR`` if it gets rank 0.
        pid: the agent's process, for people.
        rank_wish: the rank it would like; ``None`` if it does not care.
        labels: free words about it, such as its rack, for people and placement.
    """

    host: Name
    address: Name
    pid: Count = 0
    rank_wish: Count | None = None
    labels: dict[Name, Name] = {}


class Node(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the state holds of one node.

    Attributes:
        card: who it says it is.
        standing: what it is doing.
        arrival: its place in the order in which nodes came, counted over the whole run.
        beat: grows with everything that the node does; a node whose beat stands still is taken for gone.
        acknowledged: the number of the latest proposal that it has agreed to; 0 for none.
        has_heard: whether it knows that the run is closed.
    """

    card: Card
    standing: Standing
    arrival: Count
    beat: Count = 1
    acknowledged: Count = 0
    has_heard: bool = False


class News(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One thing that went wrong, kept for those who hear of it later.

    Attributes:
        kind: ``"failed"``, ``"dropped"`` or ``"left"``.
        round: the round in which it happened.
        node: whom it happened to.
        host: that node's host.
        message: one sentence, or the first lines of an error.
        rank: the node's rank in that round, if it was a member.
        exit_code: of the worker that failed; negative: the number of the signal that ended it.
    """

    kind: Name
    round: Count
    node: NodeId
    host: Name
    message: Sentence
    rank: Count | None = None
    exit_code: int | None = None


class Closure(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a run ended.

    Attributes:
        outcome: ``"succeeded"``, ``"failed"`` or ``"closed"`` (told to).
        why: one sentence.
    """

    outcome: Name
    why: Sentence


class State(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """All that the nodes of a run share.

    Attributes:
        schema: ``SCHEMA``.
        born: random, drawn when the state was made; another value means another life of the run.
        version: grows by one with every change.
        min_nodes: the fewest nodes in a round.
        max_nodes: the most.
        round: the number of the present round.
        phase: how far that has come.
        proposal: the number of the latest proposal; counted over the whole run, so that an acknowledgement cannot be
            taken for that of another.
        members: node id -> rank, of the round proposed or complete; empty while gathering.
        previous: the same of the latest complete round before this one; ranks are kept from there where possible.
        endpoint: where the workers of the round find their store; known once rank 0 has acknowledged.
        done: the members whose workers have all ended well.
        nodes: every node that takes part or wants to.
        arrivals: how many arrivals there were in the whole run.
        reason: why the round before this one ended.
        news: what went wrong lately, the latest last.
        closure: how the run ended; ``None`` while it goes on.
    """

    schema: int
    born: NodeId
    version: Count = 0
    min_nodes: Annotated[int, Meta(ge=1)]
    max_nodes: Annotated[int, Meta(ge=1)]
    round: Count = 0
    phase: Phase = Phase.GATHERING
    proposal: Count = 0
    members: dict[NodeId, Count] = {}
    previous: dict[NodeId, Count] = {}
    endpoint: Endpoint | None = None
    done: tuple[NodeId, ...] = ()
    nodes: Annotated[dict[NodeId, Node], Meta(max_length=NODE_COUNT_MAX)] = {}
    arrivals: Count = 0
    reason: Sentence = ""
    news: Annotated[tuple[News, ...], Meta(max_length=NEWS_COUNT_MAX)] = ()
    closure: Closure | None = None

    def standing(self, standing: Standing) -> list[str]:
        """Give the ids of the nodes that stand so, in order of arrival."""
        ids = [node_id for node_id, node in self.nodes.items() if node.standing is standing]
        return sorted(ids, key=lambda node_id: self.nodes[node_id].arrival)

    @property
    def returning(self) -> list[str]:
        """The members of the latest complete round that live and have not come back for this one."""
        if self.phase is Phase.COMPLETE:
            return []
        return [node_id for node_id in self.standing(Standing.RUNNING) if node_id in self.previous]

    @property
    def ranked(self) -> list[str]:
        """The members by rank."""
        return sorted(self.members, key=self.members.__getitem__)

    @property
    def unacknowledged(self) -> list[str]:
        """The members, by rank, that have not agreed to the latest proposal."""
        return [
            node_id
            for node_id in self.ranked
            if node_id not in self.nodes or self.nodes[node_id].acknowledged != self.proposal
        ]

    @property
    def unaware(self) -> list[str]:
        """The nodes that have yet to hear that the run is closed; nobody while it goes on."""
        return [node_id for node_id, node in self.nodes.items() if not node.has_heard] if self.closure else []


class _Schema(Struct):
    """The part of a state that every version of its shape has."""

    schema: int


_ENCODER = msgspec.json.Encoder(order="sorted")
_SCHEMA_DECODER = msgspec.json.Decoder(_Schema)
_DECODER = msgspec.json.Decoder(State)


def new_state(born: str, min_nodes: int, max_nodes: int) -> State:
    """Make the state of a run that nobody has joined yet.

    Args:
        born: 128 random bits in hexadecimal.
        min_nodes: the fewest nodes in a round, at least 1.
        max_nodes: the most, at least ``min_nodes``.
    """
    return State(schema=SCHEMA, born=born, min_nodes=min_nodes, max_nodes=max_nodes)


def describe_failure(exit_code: int | None, message: str) -> str:
    """Say how a worker failed, as the end of a sentence, once: its message may say with which code or signal already.

    Args:
        exit_code: minus the number of the signal that ended it; ``None`` if that is not known.
        message: one line, or more.
    """
    first_line = message.strip().partition("\n")[0]
    is_told = f"exit code {exit_code}" in first_line or (
        exit_code is not None and exit_code < 0 and KILLED in first_line
    )
    if exit_code is None or is_told:
        return f": {message}"
    return (f" by signal {-exit_code}" if exit_code < 0 else f" with exit code {exit_code}") + f": {message}"


def label_of(state: State, node_id: str) -> str:
    """Name a node for people: its host, and enough of its id to tell it from another on the same host."""
    node = state.nodes.get(node_id)
    host = node.card.host if node else next((news.host for news in state.news if news.node == node_id), "a node")
    return f"{host}#{node_id[:6]}"


def encode_state(state: State) -> bytes:
    """Give the bytes that travel.

    Raises:
        RendezvousStateError: if they are more than ``STATE_SIZE_MAX``.

    Shape: one JSON object; fields that have their default are left out; keys in sorted order, so that equal states
    are equal bytes.
    """
    data = _ENCODER.encode(state)
    if len(data) > STATE_SIZE_MAX:
        raise RendezvousStateError(
            f"the rendezvous state of {len(state.nodes)} nodes takes {len(data)} bytes, "
            f"over the limit of {STATE_SIZE_MAX}"
        )
    return data


def decode_state(data: bytes) -> State:
    """Read a state that came from a backend.

    Raises:
        RendezvousStateError: if it is too large, of another kind (a pickled state of torch among them), of another
            schema, or not coherent; the sentence says which.
    """
    if len(data) > STATE_SIZE_MAX:
        raise RendezvousStateError(
            f"the rendezvous state takes {len(data)} bytes, over the limit of {STATE_SIZE_MAX}; it is not read"
        )
    if data[:1] == b"\x80" or data[:2] == b"gA":
        raise RendezvousStateError(
            "the rendezvous state is a Python pickle, as torch's own agents write it; loading one can run any code, so "
            "it is refused: give this run another id, or start all its nodes with rallypoint"
        )
    try:
        schema = _SCHEMA_DECODER.decode(data).schema
        if schema != SCHEMA:
            raise RendezvousStateError(
                f"the rendezvous state has schema {schema}, this version of rallypoint reads {SCHEMA}: run the same "
                "version on all nodes"
            )
        state = _DECODER.decode(data)
    except msgspec.DecodeError as error:
        raise RendezvousStateError(f"the rendezvous state ({len(data)} bytes) cannot be read: {error}") from error
    check_state(state)
    return state


def check_state(state: State) -> None:
    """Refuse a state of which one part denies another.

    Raises:
        RendezvousStateError: if there is such a part; the sentence says which.
    """
    fault = next(_faults_in(state), None)
    if fault:
        raise RendezvousStateError(f"the rendezvous state (version {state.version}) is not coherent: {fault}")


def _faults_in(state: State) -> Iterator[str]:
    """Say what the types alone cannot forbid."""
    if state.max_nodes < state.min_nodes:
        yield f"its largest world ({state.max_nodes} nodes) is below its smallest ({state.min_nodes})"
    if bool(state.members) is (state.phase is Phase.GATHERING):
        yield f"it has {len(state.members)} members while {state.phase.value}"
    for name, ranks in (("members", state.members), ("previous", state.previous)):
        if sorted(ranks.values()) != list(range(len(ranks))):
            yield f"the ranks of its {name} are {sorted(ranks.values())[:16]}, not 0 to {len(ranks) - 1}"
    if state.members and not state.min_nodes <= len(state.members) <= state.max_nodes:
        yield f"it has {len(state.members)} members, which is not {state.min_nodes} to {state.max_nodes}"
    is_proposing = state.phase is Phase.PROPOSED and state.closure is None
    if is_proposing and not state.members.keys() <= state.nodes.keys():
        yield "it proposes a world with nodes that it does not name"
    if state.phase is Phase.COMPLETE and state.endpoint is None:
        yield "its round is complete, but nobody knows where the workers' store is"
    if state.phase is Phase.GATHERING and state.endpoint is not None:
        yield f"it is gathering, but has the workers' store of another round at {state.endpoint}"
    if state.endpoint is not None and not 0 < state.endpoint.port < 65536:
        yield f"the port of the workers' store is {state.endpoint.port}, not 1 to 65535"
    if not set(state.done) <= set(state.members):
        yield "nodes are done that are not members"
