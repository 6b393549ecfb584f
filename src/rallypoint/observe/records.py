"""The records of a run in torch's form: JSON lines, handed to a logger for each destination.

Agents record what becomes of their workers (``rallypoint.agent.reporter``), rendezvous what becomes of a node. Nobody
hears of it until a destination has a handler: a run's is chosen by ``LaunchConfig.event_log_handler``, that of a
rendezvous is ``dynamic_rendezvous``. :func:`register_handler` adds a destination or replaces one. For events as
rallypoint itself tells them, with a reason in each, see ``rallypoint.events``.

Source: names, fields, JSON form, destinations and loggers' names as observed in torch 2.13.0. Unlike there, a
destination can be added, an unknown one is refused before a run begins, and ``timestamp`` is set.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import traceback
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import TypeAlias

from rallypoint import events

__all__ = [
    "Event",
    "EventMetadataValue",
    "EventSource",
    "NodeState",
    "RdzvEvent",
    "construct_and_record_rdzv_event",
    "get_logger_of",
    "get_logging_handler",
    "host_name",
    "is_heard",
    "record",
    "record_rdzv_event",
    "register_handler",
]

RENDEZVOUS = "dynamic_rendezvous"
"""The destination of what becomes of a node in its rendezvous."""

EventMetadataValue: TypeAlias = str | int | float | bool | None


class EventSource(str, Enum):
    """Whom a record is about."""

    AGENT = "AGENT"
    WORKER = "WORKER"


class NodeState(str, Enum):
    """What has become of a node in its rendezvous."""

    INIT = "INIT"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


@dataclass
class Event:
    """A record of a run.

    Attributes:
        name: what happened.
        source: to whom.
        timestamp: when, in whole seconds since 1970; 0 if nobody said.
        metadata: the rest.
    """

    name: str
    source: EventSource
    timestamp: int = 0
    metadata: dict[str, EventMetadataValue] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.serialize()

    @staticmethod
    def deserialize(data: str | Event) -> Event:
        """Read the JSON form; a record passes."""
        if isinstance(data, Event):
            return data
        fields = json.loads(data)
        fields["source"] = EventSource(fields["source"])
        return Event(**fields)

    def serialize(self) -> str:
        """Give the JSON form."""
        return json.dumps(asdict(self))


@dataclass
class RdzvEvent:
    """A record of a rendezvous.

    Attributes:
        name: what happened.
        run_id: the run.
        message: one sentence.
        hostname: the node's host.
        pid: the process that tells.
        node_state: what has become of the node.
        master_endpoint: where the store is.
        rank: the node's rank.
        local_id: the node's number on its host.
        error_trace: the traceback of a failure.
    """

    name: str
    run_id: str
    message: str
    hostname: str
    pid: int
    node_state: NodeState
    master_endpoint: str = ""
    rank: int | None = None
    local_id: int | None = None
    error_trace: str = ""

    def __str__(self) -> str:
        return self.serialize()

    @staticmethod
    def deserialize(data: str | RdzvEvent) -> RdzvEvent:
        """Read the JSON form; a record passes."""
        if isinstance(data, RdzvEvent):
            return data
        fields = json.loads(data)
        fields["node_state"] = NodeState(fields["node_state"])
        return RdzvEvent(**fields)

    def serialize(self) -> str:
        """Give the JSON form."""
        return json.dumps(asdict(self))


# --- destinations --------------------------------------------------------------------------------------------

_lock = threading.Lock()
_handlers: dict[str, logging.Handler] = {
    "console": logging.StreamHandler(),
    RENDEZVOUS: logging.NullHandler(),
    "null": logging.NullHandler(),
}
_loggers: dict[str, logging.Logger] = {}


def register_handler(destination: str, handler: logging.Handler) -> None:
    """Add a destination, or give one another handler.

    Args:
        destination: its name.
        handler: takes each record as a line of JSON.
    """
    with _lock:
        before = _handlers.get(destination)
        _handlers[destination] = handler
        logger = _loggers.get(destination)
        if logger is not None and before is not None:
            logger.removeHandler(before)
            logger.addHandler(handler)
    if destination == RENDEZVOUS:
        events.subscribe(_record_rendezvous)


def get_logging_handler(destination: str = "null") -> logging.Handler:
    """Give a destination's handler.

    Raises:
        KeyError: if there is no such destination.
    """
    if destination not in _handlers:
        raise KeyError(f"{destination!r} is no destination of records; there are {', '.join(sorted(_handlers))}")
    return _handlers[destination]


def get_logger_of(destination: str = "null") -> logging.Logger:
    """Give the logger of a destination, ``torchelastic-events-<destination>``.

    Raises:
        KeyError: if there is no such destination.
    """
    handler = get_logging_handler(destination)
    with _lock:
        if destination not in _loggers:
            logger = logging.getLogger(f"torchelastic-events-{destination}")
            logger.setLevel(logging.INFO)
            logger.propagate = False
            logger.addHandler(handler)
            _loggers[destination] = logger
        return _loggers[destination]


def is_heard(destination: str = "null") -> bool:
    """Tell whether anybody takes the records of a destination, so that they need not be made for nobody.

    Raises:
        KeyError: if there is no such destination.
    """
    return any(not isinstance(handler, logging.NullHandler) for handler in get_logger_of(destination).handlers)


# --- recording -----------------------------------------------------------------------------------------------


def record(event: Event, destination: str = "null") -> None:
    """Hand a record to a destination.

    Raises:
        KeyError: if there is no such destination.
    """
    get_logger_of(destination).info("%s", event.serialize())


def record_rdzv_event(event: RdzvEvent) -> None:
    """Hand a record of a rendezvous to its destination."""
    get_logger_of(RENDEZVOUS).info("%s", event.serialize())


def construct_and_record_rdzv_event(  # noqa: PLR0917 - torch's signature
    run_id: str,
    message: str,
    node_state: NodeState,
    name: str = "",
    hostname: str = "",
    pid: int | None = None,
    master_endpoint: str = "",
    local_id: int | None = None,
    rank: int | None = None,
) -> None:
    """Record what has become of a node, unless nobody listens.

    Args:
        run_id: the run.
        message: one sentence.
        node_state: what has become of the node. With FAILED the present exception's traceback is added.
        name: what happened; empty for the state's name.
        hostname: the node's host; empty for this one.
        pid: the process; ``None`` for this one.
        master_endpoint: where the store is.
        local_id: the node's number on its host.
        rank: the node's rank.
    """
    if isinstance(get_logging_handler(RENDEZVOUS), logging.NullHandler):
        return
    record_rdzv_event(
        RdzvEvent(
            name=name or f"rendezvous.{node_state.value.lower()}",
            run_id=run_id,
            message=message,
            hostname=hostname or host_name(),
            pid=os.getpid() if pid is None else pid,
            node_state=node_state,
            master_endpoint=master_endpoint,
            rank=rank,
            local_id=local_id,
            error_trace=traceback.format_exc() if node_state is NodeState.FAILED else "",
        )
    )


_NODE_STATES = {
    "rendezvous.joined": NodeState.SUCCEEDED,
    "rendezvous.failed": NodeState.FAILED,
    "rendezvous.fenced": NodeState.FAILED,
    "rendezvous.trouble": NodeState.RUNNING,
}
"""What an event of a rendezvous says of its node; all others: INIT, it is on its way."""


def _record_rendezvous(event: events.Event) -> None:
    """Record an event, if a rendezvous has told it."""
    if event.name.startswith("rendezvous."):
        rank = event.fields.get("rank")
        construct_and_record_rdzv_event(
            run_id=str(event.fields.get("run_id", "")),
            message=event.message,
            node_state=_NODE_STATES.get(event.name, NodeState.INIT),
            name=event.name,
            rank=rank if isinstance(rank, int) else None,
        )


_own_name: list[str] = []


def host_name() -> str:
    """Give this host's full name, looked up once in the life of the process."""
    if not _own_name:
        _own_name.append(socket.getfqdn())
    return _own_name[0]
