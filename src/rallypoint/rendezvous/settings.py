"""How long a node waits for what, and how many nodes a round takes: as users give it, and as the rules read it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from rallypoint.rendezvous.decide import Rules
from rallypoint.rendezvous.endpoint import refuse_unknown_options
from rallypoint.rendezvous.handler import RendezvousParameters
from rallypoint.rendezvous.placement_plugins import load_placement
from rallypoint.rendezvous.policy import Policy
from rallypoint.types import Timeout, as_seconds

__all__ = [
    "COORDINATED_OPTIONS",
    "KNOWN_OPTIONS",
    "CoordinatedSettings",
    "RendezvousSettings",
    "RendezvousTimeout",
    "read_labels",
]

LABEL_SIZE_MAX = 255
"""Characters of a label's name, and of its value; of a placement with its keys, too."""

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

BUDGET_OPTIONS = {
    "max_restarts": "failed",
    "max_restarts_dropped": "dropped",
    "max_restarts_left": "left",
    "max_restarts_joined": "joined",
}
"""Options that limit how often a run may go on, and the cause that each is for."""

POLICY_OPTIONS = {
    "flap_limit": "flap_limit",
    "flap_window": "flap_window_s",
    "short_stay": "short_stay_s",
    "cool_down": "cool_down_s",
    "cool_down_max": "cool_down_max_s",
}

COORDINATED_OPTIONS = frozenset(
    (*KNOWN_OPTIONS - {"store_type"}, *BUDGET_OPTIONS, *POLICY_OPTIONS, "labels", "placement", "worker_store")
)
"""The options that a rendezvous through a coordinator takes."""

WORKER_STORES = ("embedded", "gateway")

COORDINATED_INTERVAL_S = 1.0
COORDINATED_ATTEMPTS = 5
"""How often a node renews its lease; after so many intervals without it is gone. A lost connection says so sooner."""


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
    def from_parameters(
        cls,
        params: RendezvousParameters,
        known: Collection[str] = KNOWN_OPTIONS,
        interval_s: float = 5.0,
        attempts: int = 3,
    ) -> RendezvousSettings:
        """Read the settings out of ``params.config``.

        Options, in seconds and with fractions where they are durations: ``join_timeout``, ``last_call_timeout``,
        ``close_timeout``, ``heartbeat_timeout``, ``spare_timeout``, ``keep_alive_interval``; as a whole number
        ``keep_alive_max_attempt``; ``rank``, this node's wish (-1: none).

        Args:
            params: where they stand.
            known: the options that there are.
            interval_s: the keep-alive interval if none is given, in seconds.
            attempts: the keep-alive attempts likewise.

        Raises:
            ValueError: for an option that does not exist, naming the nearest that does, and for bad values.
        """
        refuse_unknown_options(params, known)
        spare_s = params.get_as_seconds("spare_timeout")
        rank = params.get_as_int("rank", -1)
        asked = params.get_as_int("keep_alive_max_attempt")
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
            keep_alive_interval=timedelta(seconds=params.get_as_seconds("keep_alive_interval", interval_s) or 0.0),
            keep_alive_max_attempt=attempts if asked is None else asked,
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


@dataclass(frozen=True)
class CoordinatedSettings:
    """All that one node was told about a rendezvous through a coordinator.

    Attributes:
        node: what every rendezvous is told.
        policy: what the run may cost; the first coordinator's counts.
        labels: words about this node, such as its rack.
        worker_store: ``"embedded"``: rank 0 serves a store for each round; ``"gateway"``: each node serves the run's
            own, with a prefix for each round.

    Raises:
        ValueError: if a value is out of range.
    """

    node: RendezvousSettings
    policy: Policy = field(default_factory=Policy)
    labels: Mapping[str, str] = field(default_factory=dict)
    worker_store: str = "embedded"

    def __post_init__(self) -> None:
        if self.worker_store not in WORKER_STORES:
            raise ValueError(f"worker_store is {self.worker_store!r}; it must be one of {', '.join(WORKER_STORES)}")
        if len(self.policy.placement) > LABEL_SIZE_MAX:
            raise ValueError(
                f"the placement takes {len(self.policy.placement)} characters, over the limit of {LABEL_SIZE_MAX}"
            )
        load_placement(self.policy.placement)

    @property
    def ttl_s(self) -> float:
        """For how long a lease outlives the last sign of life of its holder, in seconds."""
        return self.node.rules.dead_after_s

    @classmethod
    def from_parameters(
        cls, params: RendezvousParameters, known: Collection[str] = COORDINATED_OPTIONS
    ) -> CoordinatedSettings:
        """Read the settings out of ``params.config``.

        Options beside those of ``RendezvousSettings``: ``max_restarts`` (of failed workers, all nodes together),
        ``max_restarts_dropped``, ``max_restarts_left``, ``max_restarts_joined``; ``flap_limit``, and in seconds
        ``flap_window``, ``short_stay``, ``cool_down``, ``cool_down_max``; ``labels``, a mapping or
        ``"rack=a;zone=b"``; ``placement``, by name and keys, as ``labels:rack+host``; ``worker_store``.

        Raises:
            ValueError: for an option that does not exist, naming the nearest that does, and for bad values.
        """
        node = RendezvousSettings.from_parameters(params, known, COORDINATED_INTERVAL_S, COORDINATED_ATTEMPTS)
        numbers = {option: _limit(params, option) for option in (*BUDGET_OPTIONS, "flap_limit")}
        restarts = {cause: limit for option, cause in BUDGET_OPTIONS.items() if (limit := numbers[option]) is not None}
        durations = {
            name: params.get_as_seconds(option) for option, name in POLICY_OPTIONS.items() if name[-2:] == "_s"
        }
        placement = params.get("placement")
        given: dict[str, Any] = {"flap_limit": numbers["flap_limit"], **durations}
        given["placement"] = None if placement is None else str(placement)
        policy = Policy(restarts=restarts, **{name: value for name, value in given.items() if value is not None})
        return cls(node, policy, read_labels(params.get("labels")), str(params.get("worker_store", "embedded")))


def read_labels(given: object) -> dict[str, str]:
    """Give labels as a mapping.

    Args:
        given: a mapping of text to text, or ``"rack=a;zone=b"``; ``None``: no labels.

    Raises:
        ValueError: if it is neither.
    """
    if given is None:
        return {}
    if isinstance(given, str):
        pairs = [part.partition("=") for part in given.split(";") if part.strip()]
        labels = {name.strip(): value.strip() for name, sign, value in pairs if sign}
        is_fine = len(labels) == len(pairs)
    else:
        is_fine = isinstance(given, Mapping)
        labels = {str(name): str(value) for name, value in given.items()} if isinstance(given, Mapping) else {}
    if not is_fine or not all(labels) or any(len(word) > LABEL_SIZE_MAX for pair in labels.items() for word in pair):
        raise ValueError(
            f"labels are {given!r}; they are written NAME=VALUE, each name once, {LABEL_SIZE_MAX} characters at most"
        )
    return labels


def _limit(params: RendezvousParameters, option: str) -> int | None:
    limit = params.get_as_int(option)
    if limit is not None and limit < 0:
        raise ValueError(f"The rendezvous configuration option '{option}' is {limit}; it must be 0 or more.")
    return limit


def _positive(name: str, timeout: Timeout | None, default_s: float) -> timedelta:
    seconds = default_s if timeout is None else as_seconds(timeout, f"the {name} timeout")
    if seconds <= 0:
        raise ValueError(f"The {name} timeout ({timeout}) must be positive.")
    return timedelta(seconds=min(seconds, timedelta.max.total_seconds() / 2))
