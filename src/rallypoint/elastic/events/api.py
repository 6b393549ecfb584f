"""``torch.distributed.elastic.events.api``."""

from __future__ import annotations

from rallypoint.observe.records import (
    Event,
    EventMetadataValue,
    EventSource,
    NodeState,
    RdzvEvent,
)

__all__ = [
    "Event",
    "EventMetadataValue",
    "EventSource",
    "NodeState",
    "RdzvEvent",
]
