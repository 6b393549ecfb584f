"""Who meets whom: barriers and exchanges that take one request a member, and know who is missing and who is gone.

Rules:

- A group is a kind (MEET or EXCHANGE) and a name. Its members are ranks below a size that all of them say. When the
  last of them arrives, all are answered with the generation that has met, from 1 on; then the group starts anew.
- A rank has one place. Who arrives at a place where another request waits takes it; the other is refused, TAKEN_OVER.
- A size other than that of those who wait is refused. When nobody waits, another size starts a new company: nothing
  is known any more of who was there.
- Who gives up is told who is missing and who waits. Members that give up one after another, as at a common deadline,
  are told the same: who has given up counts as missing only when somebody has arrived again (in a group of more than
  ``MEMBERS_NAMED_MAX`` that wait: one arrival for as many of them).
- A session that ends leaves the gone behind: its members that waited, and those that took part in the last generation.
  If one of them waited, or a mate waits (a member of that generation), all who wait are told at once who is gone.
  Who arrives later is told so too, if it was known before or its session is older than the loss.
- A place that another session takes starts a new life: the gone are forgotten. So does a free place that a session
  takes that is younger than the loss.
- Memory is bounded by groups, members and the values of exchanges. At a bound, groups in which nobody waits are
  forgotten, the longest idle first; only then is a newcomer refused. A group whose members are all gone keeps the
  names of a few.

Theory of operation. A seat is in one of three tables of its group, so that an arrival looks at its own rank only, and
no step is longer than what it answers or forgets::

                arrive                      the last arrives: all, the table as it is
    (nobody) -----------> arrived <========================================> others (of the last generation, or gave up)
                             |    <----------------------------------------    |
                             |        arrive, same session                     |
                             |  session ends: here, all others LOST -> others  |  session ends
                             '-------------------> gone <----------------------'

Each session has a table of its seats, for its end. Sessions are numbers that rise with their age.

What this file does not know: connections, the wire, how replies are sent, what time it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from rallypoint.protocol.session.spec import (
    GROUP_SIZE_MAX,
    LABEL_SIZE_MAX,
    MEMBERS_NAMED_MAX,
    REPLY_FRAME_SIZE_MAX,
    SessionVerb,
)
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.group import (
    Arrival,
    Expired,
    Forgotten,
    Group,
    GroupView,
    Lost,
    Met,
    Outcome,
    Refused,
    Seat,
    Seated,
)

__all__ = ["Groups"]

_HEADS_SIZE: Final = 64  # of a reply and its generation, with room to spare
_LOST_GROUPS_MAX: Final = 1024  # groups of which only the gone are known


class Groups:
    """All barriers and exchanges.

    Args:
        groups_max: groups at one time.
        members_max: members of all groups at one time, those included that are remembered.
        values_size_max: bytes of the values of all exchanges that wait.

    Attributes:
        members: how many are remembered. Read only, for others.
        values_size: bytes of the values that wait. Read only, for others.

    Threads: none but the caller's.
    """

    __slots__ = (
        "_groups",
        "_groups_max",
        "_idle",
        "_lost",
        "_members_max",
        "_seats",
        "_values_size_max",
        "members",
        "values_size",
    )

    def __init__(self, groups_max: int, members_max: int, values_size_max: int) -> None:
        self._groups_max = groups_max
        self._members_max = members_max
        self._values_size_max = values_size_max
        self._groups: dict[tuple[int, bytes], Group] = {}
        self._idle: OrderedDict[Group, None] = OrderedDict()  # nobody waits; the longest idle first
        self._lost: OrderedDict[Group, None] = OrderedDict()  # of them, those whose members are all gone
        self._seats: dict[int, dict[Seat, None]] = {}  # of each session, the gone aside
        self.members = 0
        self.values_size = 0

    def __len__(self) -> int:
        """Count the groups, those included in which nobody waits."""
        return len(self._groups)

    def arrive(self, arrival: Arrival, now: float) -> list[Outcome]:
        """Let a member come; a request that waits already may be said again.

        Returns:
            What becomes of it and of others; nothing if it waits.

        Cost: O(1); what it releases or forgets besides.
        """
        group = self._groups.get((arrival.kind, arrival.name))
        is_new = group is None
        if group is None:
            group = Group(arrival.kind, arrival.name, arrival.size)
        refusal = self._refusal(group, arrival)
        if refusal is not None:
            return [refusal]
        is_same_company = arrival.size == group.size
        seat = group.seat(arrival.rank) if is_same_company else None
        if seat is not None and (seat.session, seat.request) == (arrival.session, arrival.request):
            return []
        if group.gone and is_same_company:
            is_told = arrival.session <= group.horizon if seat is None else _is_idle_seat_of(seat, arrival.session)
            if is_told:
                return [Lost([(arrival.session, arrival.request)], group.named_gone(now))]
        outcomes: list[Outcome] = []
        if not self._make_room(group, is_new, seat is None, outcomes):
            outcomes.append(self._full(arrival))
            return outcomes
        if is_new:
            self._groups[arrival.kind, arrival.name] = group
        self._idle.pop(group, None)
        self._lost.pop(group, None)
        if not is_same_company:
            self._disband(group)
            group.size = arrival.size
        elif group.gone:
            if seat is not None and group.gone.get(seat.rank) is seat:
                seat = None
            self._forget_gone(group)
        self._sit(group, seat, arrival, now, outcomes)
        if len(group.arrived) == group.size:
            outcomes.append(self._release(group))
        return outcomes

    def cancel(self, arrival: Arrival, now: float) -> Expired | None:
        """Let a member give up that came with ``arrival``; ``None`` if it does not wait.

        Cost: O(1); O(members that wait) for one in as many arrivals as ``MEMBERS_NAMED_MAX`` goes into them.
        """
        group = self._groups.get((arrival.kind, arrival.name))
        seat = None if group is None else group.arrived.get(arrival.rank)
        if group is None or seat is None or (seat.session, seat.request) != (arrival.session, arrival.request):
            return None
        group.look()
        named = group.named(arrival.rank, now)
        del group.arrived[arrival.rank]
        self._stand_up(group, seat)
        group.others[arrival.rank] = seat
        self._rest(group)
        return named

    def end(self, sessions: Iterable[int], newest: int, now: float) -> list[Outcome]:
        """Let sessions end at once.

        Args:
            sessions: their numbers.
            newest: the youngest session's that there has been.
            now: the time.

        Returns:
            Whom that leaves waiting in vain, group by group.

        Cost: the members of the sessions, and those that are told.
        """
        losses: dict[Group, bool] = {}
        for session in sessions:
            for seat in self._seats.pop(session, ()):
                group = seat.group
                losses[group] = self._lose(group, seat, now) or losses.get(group, False)
        outcomes: list[Outcome] = []
        for group, is_loss in losses.items():
            if group.gone:
                group.horizon = newest
            if is_loss and group.arrived:
                waiting = [(seat.session, seat.request) for seat in group.arrived.values()]
                outcomes.append(Lost(waiting, group.named_gone(now)))
                for seat in group.arrived.values():
                    self._stand_up(group, seat)
                group.others.update(group.arrived)
                group.arrived = {}
            if not group.arrived:
                self._rest(group)
                if not group.others:
                    self._bury(group, outcomes)
        return outcomes

    def restore(
        self, kind: int, name: bytes, generation: int, members: Sequence[tuple[int, int, bytes]], now: float
    ) -> None:
        """Remember a generation of an earlier life, its members ``(rank, session, label)``, those ended left out."""
        group = Group(kind, name, 1 + max((rank for rank, _, _ in members), default=0))
        group.generation = generation
        self._groups[kind, name] = group
        for rank, session, label in members:
            seat = group.others[rank] = Seat(group, rank, session)
            seat.label, seat.met, seat.since = label, generation, now
            self._seats.setdefault(session, {})[seat] = None
        self.members += len(members)
        self._rest(group)

    def views(self, now: float) -> Iterator[GroupView]:
        """Give all groups, oldest first, for people. Cost: O(members that wait) for each."""
        for group in self._groups.values():
            group.look()
            named = group.named(-1, now)
            yield GroupView(
                group.kind, group.name, group.generation, group.size, len(group.arrived), named, group.named_gone(now)
            )

    # --- what is refused ---------------------------------------------------------------------------------

    def _refusal(self, group: Group, arrival: Arrival) -> Refused | None:
        size, rank = arrival.size, arrival.rank
        reason = CloseReason.GROUP_MISMATCH
        if not 1 <= size <= GROUP_SIZE_MAX:
            sentence = f"the group is to have {size} members, it may have 1 to {GROUP_SIZE_MAX}"
        elif rank >= size:
            sentence = f"the member's rank is {rank}, the group is to have {size} members"
        elif group.arrived and group.size != size:
            sentence = f"the group is to have {size} members, those that wait say {group.size}"
        elif len(arrival.label) > LABEL_SIZE_MAX:
            reason = CloseReason.FIELD_TOO_LARGE
            sentence = f"the member's label has {len(arrival.label)} bytes, the limit is {LABEL_SIZE_MAX}"
        else:
            standing = group.arrived.get(rank)
            grown = len(arrival.value) - (0 if standing is None else len(standing.value))
            frame_size = _HEADS_SIZE + 8 * size + group.values_size + grown
            if frame_size <= REPLY_FRAME_SIZE_MAX and self.values_size + grown <= self._values_size_max:
                return None
            if frame_size > REPLY_FRAME_SIZE_MAX:
                reason = CloseReason.REPLY_TOO_LARGE
                sentence = f"the exchange would have {frame_size} bytes, the limit is {REPLY_FRAME_SIZE_MAX}"
            else:
                reason = CloseReason.TOO_MANY_GROUPS
                total = self.values_size + grown
                sentence = f"all exchanges would hold {total} bytes, the limit is {self._values_size_max}"
        return Refused(arrival.session, arrival.request, reason, sentence)

    def _make_room(self, group: Group, is_new: bool, is_new_member: bool, outcomes: list[Outcome]) -> bool:
        """Forget idle groups until there is room for one more group or member; say whether there is."""
        while (is_new and len(self._groups) >= self._groups_max) or (
            is_new_member and self.members >= self._members_max
        ):
            oldest = next((idle for idle in self._idle if idle is not group), None)
            if oldest is None:
                return False
            self._forget(oldest, outcomes)
        return True

    def _full(self, arrival: Arrival) -> Refused:
        sentence = (
            f"members wait in {len(self._groups)} groups, {self.members} in all,"
            f" the limits are {self._groups_max} and {self._members_max}"
        )
        return Refused(arrival.session, arrival.request, CloseReason.TOO_MANY_GROUPS, sentence)

    # --- seats -------------------------------------------------------------------------------------------

    def _sit(self, group: Group, seat: Seat | None, arrival: Arrival, now: float, outcomes: list[Outcome]) -> None:
        """Let a member wait; ``seat`` is what is known of its place, nobody being gone."""
        rank = arrival.rank
        if seat is not None:
            if seat.request:
                sentence = f"another request has come for rank {rank}"
                outcomes.append(Refused(seat.session, seat.request, CloseReason.TAKEN_OVER, sentence))
                self._stand_up(group, seat)
                del group.arrived[rank]
            else:
                del group.others[rank]
            if seat.session != arrival.session:
                self._drop(seat)
                seat = None
        if seat is None:
            seat = Seat(group, rank, arrival.session)
            self._seats.setdefault(arrival.session, {})[seat] = None
            self.members += 1
        seat.request, seat.label, seat.value, seat.since = arrival.request, arrival.label, arrival.value, now
        group.arrived[rank] = seat
        group.mates += group.is_mate(seat)
        group.values_size += len(seat.value)
        self.values_size += len(seat.value)
        group.fresh += 1

    def _stand_up(self, group: Group, seat: Seat) -> None:
        """Let a member wait no longer; which table it is in is the caller's business."""
        group.mates -= group.is_mate(seat)
        group.values_size -= len(seat.value)
        self.values_size -= len(seat.value)
        seat.request = 0
        seat.value = b""

    def _drop(self, seat: Seat) -> None:
        """Forget a seat of a session that lives, and has been taken out of its group's tables."""
        seats = self._seats[seat.session]
        del seats[seat]
        if not seats:
            del self._seats[seat.session]
        self.members -= 1

    def _lose(self, group: Group, seat: Seat, now: float) -> bool:
        """Let a seat's session end; say whether those who wait, wait in vain."""
        if seat.request:
            self._stand_up(group, seat)
            del group.arrived[seat.rank]
            is_loss = True
        else:
            del group.others[seat.rank]
            if not group.is_mate(seat):
                self.members -= 1
                return False
            is_loss = group.mates > 0
        seat.since = now
        group.gone[seat.rank] = seat
        return is_loss

    # --- groups ------------------------------------------------------------------------------------------

    def _release(self, group: Group) -> Met:
        """Answer all; they are the last generation now."""
        group.generation += 1
        seats = [group.arrived[rank] for rank in range(group.size)]
        members = [Seated(seat.session, seat.request, seat.label) for seat in seats]
        values = [seat.value for seat in seats] if group.kind == SessionVerb.EXCHANGE else []
        for seat in seats:
            seat.request = 0
            seat.value = b""
            seat.met = group.generation
        self.values_size -= group.values_size
        group.values_size = group.mates = group.fresh = 0
        group.missing = None
        group.others, group.arrived = group.arrived, {}
        self._rest(group)
        return Met(group.kind, group.name, group.generation, members, values)

    def _rest(self, group: Group) -> None:
        """Note that a group is idle, if it is."""
        if not group.arrived:
            self._idle[group] = None

    def _forget_gone(self, group: Group) -> None:
        self.members -= len(group.gone)
        group.gone.clear()

    def _disband(self, group: Group) -> None:
        """Forget all members of an idle group."""
        self._forget_gone(group)
        for seat in group.others.values():
            self._drop(seat)
        group.others.clear()
        group.missing = None

    def _forget(self, group: Group, outcomes: list[Outcome]) -> None:
        """Forget an idle group."""
        self._disband(group)
        del self._groups[group.kind, group.name]
        del self._idle[group]
        self._lost.pop(group, None)
        if group.generation:
            outcomes.append(Forgotten(group.kind, group.name))

    def _bury(self, group: Group, outcomes: list[Outcome]) -> None:
        """Keep of a group whose members are all gone what those need to know who come late."""
        if group.generation:
            outcomes.append(Forgotten(group.kind, group.name))
        group.generation = 0
        group.missing = None
        kept = dict(islice(group.gone.items(), MEMBERS_NAMED_MAX))
        self.members -= len(group.gone) - len(kept)
        group.gone = kept
        self._lost[group] = None
        if not kept:
            self._forget(group, outcomes)
        elif len(self._lost) > _LOST_GROUPS_MAX:
            self._forget(next(iter(self._lost)), outcomes)


def _is_idle_seat_of(seat: Seat, session: int) -> bool:
    return seat.session == session and not seat.request
