"""How long a node waits for what, and how many nodes a round takes: as users give it, and as the rules read it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import timedelta

from rallypoint.rendezvous.decide import Rules
from rallypoint.rendezvous.endpoint import refuse_unknown_options
from rallypoint.rendezvous.handler import RendezvousParameters
from rallypoint.types import Timeout, as_seconds

__all__ = ["KNOWN_OPTIONS", "RendezvousSettings", "RendezvousTimeout"]

OWN_OPTIONS = (
    "join_timeout",
    "last_call_timeout",
    "close_timeout",
    "heartbeat_timeout",
    "spare_timeout",
    "keep_alive_interval",
    "keep_alive_max_attempt",
    "rank",
)

KNOWN_OPTIONS = frozenset(
    # Besides our own: what launchers pass to every backend, and what ``create_backend`` reads.
    (*OWN_OPTIONS, "timeout", "store_type", "read_timeout", "is_host")
)
"""The options that a rendezvous through a backend takes."""


class RendezvousTimeout:
    """How long a node waits.

    Args:
        join: to be admitted to a round; default 600 s.
        last_call: for more nodes once there are enough; default 30 s.
        close: for a report, a departure or the closing of the run to be stored; default 30 s.
        heartbeat: for one beat to be stored, before that counts as trouble; default 5 s.

    Each takes seconds or a ``timedelta`` and must be above 0.

    Raises:
        ValueError: if one is not above 0.

    Source: names and defaults of torch 2.13.0's class.
    """

    def __init__(
        self,
        join: Timeout | None = None,
        last_call: Timeout | None = None,
        close: Timeout | None = None,
        heartbeat: Timeout | None = None,
    ) -> None:
        self._join = _positive("join", join, 600.0)
        self._last_call = _positive("last call", last_call, 30.0)
        self._close = _positive("close", close, 30.0)
        self._heartbeat = _positive("heartbeat", heartbeat, 5.0)

    @property
    def join(self) -> timedelta:
        """How long to wait to be admitted."""
        return self._join

    @property
    def last_call(self) -> timedelta:
        """How long a round that is large enough waits for more."""
        return self._last_call

    @property
    def close(self) -> timedelta:
        """How long to try to store a report, a departure or the closing."""
        return self._close

    @property
    def heartbeat(self) -> timedelta:
        """How long to try to store one beat."""
        return self._heartbeat

    def __repr__(self) -> str:
        return (
            f"RendezvousTimeout(join={self._join}, last_call={self._last_call}, close={self._close}, "
            f"heartbeat={self._heartbeat})"
        )


@dataclass(frozen=True)
class RendezvousSettings:
    """All that one node was told about its rendezvous.

    Attributes:
        run_id: the name of the run.
        min_nodes: the fewest nodes in a round, at least 1.
        max_nodes: the most, at least ``min_nodes``.
        timeout: how long to wait for what.
        keep_alive_interval: how often a node shows that it lives.
        keep_alive_max_attempt: after so many intervals without a sign of life a node is taken for gone.
        spare_timeout: how long a spare stands by; ``None`` for ever.
        rank_wish: the rank this node would like; ``None`` if it does not care.

    Raises:
        ValueError: if a value is out of range.
    """

    run_id: str
    min_nodes: int
    max_nodes: int
    timeout: RendezvousTimeout = field(default_factory=RendezvousTimeout)
    keep_alive_interval: timedelta = timedelta(seconds=5)
    keep_alive_max_attempt: int = 3
    spare_timeout: timedelta | None = None
    rank_wish: int | None = None

    def __post_init__(self) -> None:
        if not self.run_id:
            raise ValueError("The run id must be a non-empty string.")
        if self.min_nodes < 1:
            raise ValueError(f"The minimum number of nodes ({self.min_nodes}) must be greater than zero.")
        if self.max_nodes < self.min_nodes:
            raise ValueError(
                f"The maximum number of nodes ({self.max_nodes}) must be greater than or equal to the minimum number "
                f"of nodes ({self.min_nodes})."
            )
        if self.keep_alive_interval <= timedelta():
            raise ValueError(f"The keep-alive interval ({self.keep_alive_interval}) must be positive.")
        if self.keep_alive_max_attempt < 1:
            raise ValueError(f"The keep-alive attempts ({self.keep_alive_max_attempt}) must be at least 1.")

    @classmethod
    def from_parameters(cls, params: RendezvousParameters) -> RendezvousSettings:
        """Read the settings out of ``params.config``.

        Options, in seconds and with fractions where they are durations: ``join_timeout``, ``last_call_timeout``,
        ``close_timeout``, ``heartbeat_timeout``, ``spare_timeout``, ``keep_alive_interval``; as a whole number
        ``keep_alive_max_attempt``; ``rank``, this node's wish (-1: none).

        Raises:
            ValueError: for an option that does not exist, naming the nearest that does, and for bad values.
        """
        refuse_unknown_options(params, KNOWN_OPTIONS)
        spare_s = params.get_as_seconds("spare_timeout")
        interval_s = params.get_as_seconds("keep_alive_interval", 5.0)
        attempts = params.get_as_int("keep_alive_max_attempt", 3)
        rank = params.get_as_int("rank", -1)
        assert interval_s is not None
        assert attempts is not None
        return cls(
            run_id=params.run_id,
            min_nodes=params.min_nodes,
            max_nodes=params.max_nodes,
            timeout=RendezvousTimeout(
                join=params.get_as_seconds("join_timeout"),
                last_call=params.get_as_seconds("last_call_timeout"),
                close=params.get_as_seconds("close_timeout"),
                heartbeat=params.get_as_seconds("heartbeat_timeout"),
            ),
            keep_alive_interval=timedelta(seconds=interval_s),
            keep_alive_max_attempt=attempts,
            spare_timeout=None if spare_s is None else timedelta(seconds=spare_s),
            rank_wish=rank if rank is not None and rank >= 0 else None,
        )

    @property
    def rules(self) -> Rules:
        """The same as the pure rules read it."""
        return Rules(
            min_nodes=self.min_nodes,
            max_nodes=self.max_nodes,
            join_timeout_s=self.timeout.join.total_seconds(),
            last_call_s=self.timeout.last_call.total_seconds(),
            spare_timeout_s=math.inf if self.spare_timeout is None else self.spare_timeout.total_seconds(),
            keep_alive_interval_s=self.keep_alive_interval.total_seconds(),
            keep_alive_max_attempt=self.keep_alive_max_attempt,
            answer_s=self.timeout.heartbeat.total_seconds(),
        )


def _positive(name: str, timeout: Timeout | None, default_s: float) -> timedelta:
    seconds = default_s if timeout is None else as_seconds(timeout, f"the {name} timeout")
    if seconds <= 0:
        raise ValueError(f"The {name} timeout ({timeout}) must be positive.")
    return timedelta(seconds=min(seconds, timedelta.max.total_seconds() / 2))
