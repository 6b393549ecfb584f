"""What a node and the coordinator of its run tell each other, as typed values.

Rules
-----
1. Both are standings, not events: each writing replaces the last, so that losing, merging or repeating one is
   harmless. Who reads only the latest has missed nothing.
2. A node's :class:`Report` says all that the node wants and has done. The coordinator's :class:`Order` says to one
   node where it stands, in a number of bytes that does not grow with the number of nodes.
3. Orders are ranked: by ``term`` (each coordinator's is above those of its predecessors), then by ``number``. One that
   is not above the last one seen is old and changes nothing.
4. Bytes that came from a store are data. They are decoded against the types below, within limits, or refused with a
   sentence that says what was wrong.
5. A :class:`Notice` is for all who wait, and says after which order it was made: to whom a later one was given, or none
   of that coordinator, it is old.

::

    node                                     coordinator
      | Report(number=1, wants_in)  ------------> |
      | <------------ Order(WAIT, "1 of 2 nodes") |
      | <--- Order(PROPOSED, proposal=1, rank=0)  |
      | Report(2, acknowledged=1, endpoint) ----> |
      | <----------- Order(ADMITTED, round=0, ..) |
      |                    ...                    |
      | Report(7, failure=...)  ----------------> |  or going=..., and leaving=... when its workers have ended
      | <---------- Order(OVER, "a worker of ..") |  to every member
      | Report(8, wants_in, entered=0) ---------> |

What this file does not know: how they travel, who decides what.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from rallypoint.errors import RendezvousStateError
from rallypoint.rendezvous.state import Card, Count, Name, News, NodeId, Sentence
from rallypoint.types import Endpoint

__all__ = [
    "ORDER_SIZE_MAX",
    "REPORT_SIZE_MAX",
    "SCHEMA",
    "Failure",
    "Notice",
    "Order",
    "OrderKind",
    "Places",
    "Report",
    "Workers",
    "decode_order",
    "decode_report",
    "encode_notice",
    "encode_order",
    "encode_report",
    "read_notice",
]

SCHEMA = 1
"""The version of the shapes below; a message with another number is refused."""

Tally: TypeAlias = Annotated[int, Meta(ge=0, le=2**52)]
"""A number of the coordinator's, as a node repeats it: who begins anew counts on from the highest that is repeated."""

PLACE_SIZE_MAX = 255
"""The most characters of the host of a workers' store, as of an address."""

REPORT_SIZE_MAX = 16 * 1024
"""The most bytes of a report."""

ORDER_SIZE_MAX = 16 * 1024
"""The most bytes of an order."""


class Failure(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A worker of the node failed.

    Attributes:
        number: how many failures this node has reported, this one included; tells a new one from one told before.
        round: the round in which the worker ran.
        message: one sentence, or the first lines of the error.
        exit_code: of the worker; negative: the number of the signal that ended it.
        final: whether the node itself says that no restart is left, so that the run closes.
    """

    number: Count
    round: Count
    message: Sentence
    exit_code: int
    final: bool = False


class Workers(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a node runs, so that the coordinator can number all workers of a round.

    Attributes:
        role: the role's name.
        count: how many workers, at least 1.
    """

    role: Name = "default_role"
    count: Annotated[int, Meta(ge=1, le=65536)] = 1


class Report(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """All that one node wants and has done.

    Attributes:
        schema: ``SCHEMA``.
        node: who reports.
        number: grows by one with each report of this node.
        card: how it introduces itself.
        min_nodes: the fewest nodes in a round, as it was told.
        max_nodes: the most.
        workers: what it runs; ``None`` if the coordinator need not number the workers.
        worker_store: what kind of store its workers get, as it was told.
        joining: how often it has wanted in, the present wish included; 0 before the first.
        wants_in: whether it wants in now and is not in yet.
        entered: the round that it was admitted to last; ``None`` if none.
        acknowledged: the number of the latest proposal that it agrees to; 0 for none.
        endpoint: where it serves the workers' store of that proposal; only if it has rank 0 there.
        done: the round in which its workers have all ended well; ``None`` if they have not.
        failure: the last failure of a worker of its own.
        going: why it goes away as soon as its workers have ended; empty while it stays, and once it leaves.
        leaving: why it goes away for good; empty while it stays.
        closing: why it wants the run to end for everybody; empty if it does not.
        has_heard: whether it knows that the run is closed.
    """

    schema: int = SCHEMA
    node: NodeId
    number: Count
    card: Card
    min_nodes: Annotated[int, Meta(ge=1)]
    max_nodes: Annotated[int, Meta(ge=1)]
    workers: Workers | None = None
    worker_store: Name = "embedded"
    joining: Count = 0
    wants_in: bool = False
    entered: Tally | None = None
    acknowledged: Tally = 0
    endpoint: Endpoint | None = None
    done: Count | None = None
    failure: Failure | None = None
    going: Sentence = ""
    leaving: Sentence = ""
    closing: Sentence = ""
    has_heard: bool = False


class OrderKind(Enum):
    """Where a node stands."""

    WAIT = "wait"  # known, and waiting for more nodes, or for the last call
    STAND_BY = "stand by"  # a spare
    PROPOSED = "proposed"  # acknowledge, or be left out
    ADMITTED = "admitted"  # the round is complete, and goes on
    OVER = "over"  # the round that it is in has ended: stop the workers, come back
    FENCED = "fenced"  # taken for gone: stop the workers at once
    CLOSED = "closed"  # the run has ended
    REFUSED = "refused"  # it cannot take part: ``why`` says what would be right
    QUARANTINED = "quarantined"  # it came and went too often: wait


class Places(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Where a node's workers stand among all workers of the round.

    Attributes:
        first_rank: the global rank of its local rank 0.
        world_size: the number of workers in the round.
        first_role_rank: the rank of its local rank 0 among the workers of its role.
        role_world_size: the number of workers of its role.
    """

    first_rank: Count
    world_size: Count
    first_role_rank: Count
    role_world_size: Count


class Order(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the coordinator tells one node.

    Attributes:
        schema: ``SCHEMA``.
        term: the coordinator's fencing token.
        number: grows within a term with each order to this node.
        kind: where the node stands.
        why: one sentence, with the counts in it.
        report: the number of the node's report that this answers, at least.
        round: the round that this is about.
        proposal: the number of the proposal; for PROPOSED and ADMITTED; for OVER, if the next round is proposed already
            and the node may acknowledge that as soon as it is back.
        rank: the node's rank in the round of that proposal.
        size: the number of nodes in it.
        endpoint: where the workers of the round find their store; for ADMITTED.
        places: the workers' places; for ADMITTED, if all members said what they run.
        outcome: for CLOSED: ``"succeeded"``, ``"failed"`` or ``"closed"``.
        stood_by: for CLOSED: the node stood by at the end, whether or not it has read that.
        news: for OVER, FENCED and CLOSED: what went wrong last, the latest last.
    """

    schema: int = SCHEMA
    term: Count
    number: Count
    kind: OrderKind
    why: Sentence
    report: Count = 0
    round: Count = 0
    proposal: Count = 0
    rank: Count = 0
    size: Count = 0
    endpoint: Endpoint | None = None
    places: Places | None = None
    outcome: Name = ""
    stood_by: bool = False
    news: Annotated[tuple[News, ...], Meta(max_length=2)] = ()


class Notice(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What all who wait may read of how far the round is.

    Attributes:
        term: the coordinator's fencing token.
        number: of the last order that it had made by then, to whomever.
        text: one sentence, with the counts in it.
    """

    term: Count
    number: Count
    text: Sentence


_Message = TypeVar("_Message", Report, Order)

_ENCODER = msgspec.json.Encoder()
_REPORTS = msgspec.json.Decoder(Report)
_ORDERS = msgspec.json.Decoder(Order)
_NOTICES = msgspec.json.Decoder(Notice)


def encode_report(report: Report) -> bytes:
    """Give the bytes that travel: one JSON object, fields that have their default left out."""
    return _ENCODER.encode(report)


def decode_report(data: bytes) -> Report:
    """Read a report.

    Raises:
        RendezvousStateError: if it is too large, of another schema, or no report; the sentence says which.
    """
    report = _decoded("report of a node", data, REPORT_SIZE_MAX, _REPORTS)
    if report.max_nodes < report.min_nodes:
        raise RendezvousStateError(
            f"the report of node {report.node[:6]} wants {report.min_nodes} to {report.max_nodes} nodes"
        )
    place = report.endpoint
    if place is not None and not (0 < place.port < 65536 and len(place.host) <= PLACE_SIZE_MAX):
        # It would be written down, and no successor reads minutes with such a place in them.
        raise RendezvousStateError(
            f"the report of node {report.node[:6]} has the workers' store at {str(place)[:PLACE_SIZE_MAX]}, which is "
            f"no host of up to {PLACE_SIZE_MAX} characters and a port from 1 to 65535"
        )
    return report


def encode_order(order: Order) -> bytes:
    """Give the bytes that travel: one JSON object, fields that have their default left out."""
    return _ENCODER.encode(order)


def decode_order(data: bytes) -> Order:
    """Read an order.

    Raises:
        RendezvousStateError: if it is too large, of another schema, or no order; the sentence says which.
    """
    return _decoded("order of the coordinator", data, ORDER_SIZE_MAX, _ORDERS)


def encode_notice(notice: Notice) -> bytes:
    """Give the bytes that travel: one JSON object."""
    return _ENCODER.encode(notice)


def read_notice(data: bytes) -> Notice | None:
    """Read a notice; ``None`` for what is none, or too large: nothing depends on it."""
    if len(data) > ORDER_SIZE_MAX:
        return None
    try:
        return _NOTICES.decode(data)
    except msgspec.DecodeError:
        return None


def _decoded(what: str, data: bytes, size_max: int, decoder: msgspec.json.Decoder[_Message]) -> _Message:
    if len(data) > size_max:
        raise RendezvousStateError(f"a {what} takes {len(data)} bytes, over the limit of {size_max}; it is not read")
    try:
        message = decoder.decode(data)
    except msgspec.DecodeError as error:
        raise RendezvousStateError(f"a {what} ({len(data)} bytes) cannot be read: {error}") from error
    if message.schema != SCHEMA:
        raise RendezvousStateError(
            f"a {what} has schema {message.schema}, this version of rallypoint reads {SCHEMA}: run the same version on "
            "all nodes"
        )
    return message
