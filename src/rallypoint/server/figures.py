"""A server's figures under the names of its metrics, of either twin, for threads other than the server's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import rallypoint
from rallypoint.server.limits import Limits
from rallypoint.server.native import Loop, NativeLoop
from rallypoint.server.vocabulary import EndReason

if TYPE_CHECKING:
    from rallypoint.server.loop import ServerLoop
    from rallypoint.server.vocabulary import Statistics

__all__ = ["LOOK_S_MAX", "FiguresSource"]

LOOK_S_MAX: Final = 2.0
"""How long a server may take to tell its figures, in seconds."""

_COUNTED: Final = (
    "rallypoint_groups",
    "rallypoint_leases",
    "rallypoint_watches",
    "rallypoint_received_bytes_total",
    "rallypoint_sent_bytes_total",
)

_Figures = dict[str, "float | Mapping[str, float]"]


class FiguresSource:
    """What tells a server's figures: call it.

    Args:
        loop: the server, which serves from now on.
        limits: what it grants.

    Threads: any but the server's own.
    """

    def __init__(self, loop: Loop, limits: Limits) -> None:
        self._loop = loop
        self._limits = {name: float(bound) for name, bound in asdict(limits).items()}
        self._began = monotonic()

    def __call__(self) -> _Figures:
        """Give the figures.

        Raises:
            DistStoreError: the server has ended, or did not look in time.

        Cost: the number of connections, in the server's thread.
        """
        figures: _Figures = {
            "rallypoint_info": {rallypoint.__version__: 1},
            "rallypoint_uptime_seconds": monotonic() - self._began,
            "rallypoint_limit": self._limits,
        }
        loop = self._loop
        if isinstance(loop, NativeLoop):
            return figures | _of_statistics(loop.statistics()) | _of_native(loop.figures())
        return figures | loop.door.visit(lambda: _of_loop(loop), LOOK_S_MAX)


def _of_loop(loop: ServerLoop) -> _Figures:
    """Look at the Python twin, in its thread."""
    engine: Any = loop.machine  # an Engine: a server's loop drives no other machine
    parts = engine.parts
    counts = (len(parts.groups.groups), len(parts.leases.leases), len(parts.watches.watches))
    ends = (loop.ends[reason] for reason in EndReason)
    return _of_statistics(engine.statistics()) | _of_native([*counts, *engine.traffic(), *ends])


def _of_native(numbers: list[int]) -> _Figures:
    """As ``NativeLoop.figures`` gives them."""
    return {
        **dict(zip(_COUNTED, numbers[: len(_COUNTED)], strict=True)),
        "rallypoint_ended_connections_total": {
            reason.value: count for reason, count in zip(EndReason, numbers[len(_COUNTED) :], strict=True)
        },
    }


def _of_statistics(numbers: Statistics) -> _Figures:
    return {
        "rallypoint_connections": numbers.connections,
        "rallypoint_connections_validated": numbers.validated,
        "rallypoint_connections_paused": numbers.paused,
        "rallypoint_sessions": numbers.sessions,
        "rallypoint_waiting": numbers.waiting,
        "rallypoint_keys": numbers.keys,
        "rallypoint_queues": numbers.queues,
        "rallypoint_stored_bytes": numbers.stored_size,
        "rallypoint_input_bytes": numbers.input_held,
        "rallypoint_answers_bytes": numbers.answers_size,
        "rallypoint_requests_total": numbers.requests,
        "rallypoint_refused_connections_total": {reason.value: count for reason, count in numbers.closed.items()},
    }
