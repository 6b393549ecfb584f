"""What a run may cost: how many restarts for which cause, and what becomes of hosts whose nodes come and go.

Rules
-----
1. Each round that ends early costs one restart, counted under its cause: ``failed`` (a worker), ``dropped`` (a node was
   lost), ``left`` (a node went on purpose), ``joined`` (a node came). Each cause has a limit of its own, or none.
2. Once a limit is used up, the next loss closes the run as failed. A newcomer never closes a run: it stands by instead.
3. A node that goes shortly after it came has *flapped*, if its coming or its going cost the others something. So many
   times within a while, and its host cools down: nobody from there is taken in for some time, which doubles with each
   cool-down up to a limit. It ends by itself, and a host that behaves is forgotten.
4. A host is what the nodes say it is: their label ``host``, or else the name or address under which they are reached.
   So several agents on one machine may count as one host, or each by itself.
5. No time is written down: what a successor reads are ages and seconds left, counted from then on by its own clock.

What this file does not know: what a round is, who decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta, Struct

from rallypoint.rendezvous.state import Card, Count, Name

__all__ = ["CAUSES", "HOST_COUNT_MAX", "Books", "HostBook", "Ledger", "Policy", "host_of"]

CAUSES = ("failed", "dropped", "left", "joined")
"""Why a round may end early."""

_SPENT_ON = {
    "failed": "after the failure of a worker",
    "dropped": "after the loss of a node",
    "left": "after the departure of a node",
    "joined": "for a node that comes",
}

HOST_COUNT_MAX = 4096
"""So many hosts are remembered, those that flapped last."""

Seconds = Annotated[float, Meta(ge=0.0, le=1e9)]


class Policy(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The limits; the first coordinator's are the run's.

    Attributes:
        restarts: cause -> how many restarts there may be for it; a cause that is not here has no limit.
        flap_limit: so often may nodes of one host come and go within ``flap_window_s``; 0: as often as they like.
        flap_window_s: see there, in seconds.
        short_stay_s: a node that goes within so many seconds of its first admission has flapped.
        cool_down_s: for how many seconds a host is kept out the first time; then twice as long, and so on.
        cool_down_max_s: the longest that it is kept out.
        placement: how nodes are ranked; ``placement`` has the names.
    """

    restarts: dict[Name, Count] = {}
    flap_limit: Count = 3
    flap_window_s: Seconds = 300.0
    short_stay_s: Seconds = 60.0
    cool_down_s: Seconds = 60.0
    cool_down_max_s: Seconds = 600.0
    placement: Name = "sticky"


def host_of(card: Card) -> str:
    """Give the host that has to answer for a node."""
    return card.labels.get("host", card.host)


class HostBook(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is written down of one host.

    Attributes:
        ages_s: how many seconds ago its nodes came and went.
        cool_downs: how often it was kept out.
        left_s: for how many seconds it is still kept out.
    """

    ages_s: tuple[Seconds, ...] = ()
    cool_downs: Count = 0
    left_s: Seconds = 0.0


class Books(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a coordinator leaves to its successor.

    Attributes:
        policy: the limits.
        restarts: cause -> how many restarts there were.
        hosts: the hosts whose nodes came and went.
    """

    policy: Policy = Policy()
    restarts: dict[Name, Count] = {}
    hosts: Annotated[dict[Name, HostBook], Meta(max_length=HOST_COUNT_MAX)] = {}


@dataclass
class _Host:
    flaps: list[float] = field(default_factory=list)
    cool_downs: int = 0
    until: float = float("-inf")


class Ledger:
    """Keeps count for one coordinator.

    Args:
        books: what was written down so far.
        now: seconds on the coordinator's clock, as in all methods.

    Attributes:
        policy: the limits.
        restarts: cause -> how many restarts there were.
    """

    def __init__(self, books: Books, now: float) -> None:
        self.policy = books.policy
        self.restarts = dict.fromkeys(CAUSES, 0) | books.restarts
        self._admitted: dict[str, float] = {}
        self._hosts = {
            name: _Host([now - age for age in book.ages_s], book.cool_downs, now + book.left_s)
            for name, book in books.hosts.items()
        }

    def write(self, now: float) -> Books:
        """Give what a successor has to know; hosts that have behaved for long enough are forgotten."""
        memory_s = self.policy.flap_window_s + self.policy.cool_down_max_s
        kept = [(name, host) for name, host in self._hosts.items() if now - max([host.until, *host.flaps]) <= memory_s]
        self._hosts = dict(kept[-HOST_COUNT_MAX:])
        hosts = {
            name: HostBook(
                ages_s=tuple(max(0.0, now - at) for at in host.flaps),
                cool_downs=host.cool_downs,
                left_s=max(0.0, host.until - now),
            )
            for name, host in self._hosts.items()
        }
        return Books(policy=self.policy, restarts=self.restarts, hosts=hosts)

    # --- restarts ---

    def has_left(self, cause: str) -> bool:
        """Tell whether one more restart for this cause is within its limit."""
        limit = self.policy.restarts.get(cause)
        return limit is None or self.restarts[cause] < limit

    def count(self, cause: str) -> None:
        """Count one restart."""
        self.restarts[cause] += 1

    def tell_limit(self, cause: str) -> str:
        """Say that a limit is used up, and what each cause has cost."""
        limit = self.policy.restarts.get(cause, 0)
        spent = ", ".join(f"{count} {name}" for name, count in self.restarts.items())
        what = _SPENT_ON[cause]
        if limit == 0:
            return f"no restart is allowed {what} (restarts so far: {spent})"
        which = "the one restart" if limit == 1 else f"each of the {limit} restarts"
        return f"{which} {what} is used up (restarts so far: {spent})"

    # --- hosts ---

    def note_admitted(self, node_ids: Iterable[str], now: float) -> None:
        """Note that these nodes are in a round."""
        for node_id in node_ids:
            self._admitted.setdefault(node_id, now)

    def note_gone(self, node_id: str, host: str, has_cost: bool, now: float) -> bool:
        """Note that a node went.

        Args:
            node_id: which.
            host: where it ran.
            has_cost: whether it ended a round or was in an open proposal, although it was never admitted.
            now: see the class.

        Returns:
            Whether its host is kept out from now on.
        """
        admitted = self._admitted.pop(node_id, None)
        is_short = has_cost if admitted is None else now - admitted <= self.policy.short_stay_s
        return is_short and self._flap(host, now)

    def note_failed(self, node_id: str, host: str, now: float) -> bool:
        """Note that a worker failed; that counts once for a node, if it has just come.

        Returns:
            As ``note_gone``.
        """
        is_short = now - self._admitted.get(node_id, float("-inf")) <= self.policy.short_stay_s
        self._admitted[node_id] = float("-inf")
        return is_short and self._flap(host, now)

    def _flap(self, host: str, now: float) -> bool:
        policy = self.policy
        if not policy.flap_limit:
            return False
        known = self._hosts.pop(host, None) or _Host()
        self._hosts[host] = known  # the latest last
        known.flaps = [at for at in known.flaps if now - at <= policy.flap_window_s] + [now]
        if len(known.flaps) < policy.flap_limit or known.until > now:
            return False
        cool_down_s = min(policy.cool_down_s * 2.0 ** min(known.cool_downs, 32), policy.cool_down_max_s)
        known.cool_downs, known.until = known.cool_downs + 1, now + cool_down_s
        return True

    def cooling_s(self, host: str, now: float) -> float:
        """Give for how many seconds a host is still kept out; 0 if it is not."""
        known = self._hosts.get(host)
        return max(0.0, known.until - now) if known is not None else 0.0

    def tell_cooling(self, host: str, now: float) -> str:
        """Say why a host is kept out, and for how long."""
        known = self._hosts[host]
        return (
            f"nodes of {host} came and went {len(known.flaps)} times within {self.policy.flap_window_s:g} s: "
            f"none is taken in for another {self.cooling_s(host, now):.0f} s (--rdzv-conf=flap_limit=0: all are)"
        )
