from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rallypoint.protocol.session.spec import LABEL_SIZE_MAX, MEMBERS_NAMED_MAX, SessionVerb
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.group import Arrival, Expired, Forgotten, Lost, Met, Outcome, Refused
from rallypoint.server.groups import Groups


@pytest.fixture
def groups() -> Groups:
    return Groups(groups_max=100, members_max=1000, values_size_max=1000)


def member(
    rank: int,
    size: int = 3,
    *,
    session: int | None = None,
    request: int = 1,
    name: bytes = b"g",
    value: bytes | None = None,
) -> Arrival:
    """Give an arrival: rank r comes from session 10 + r unless told."""
    kind = SessionVerb.MEET if value is None else SessionVerb.EXCHANGE
    owner = 10 + rank if session is None else session
    return Arrival(kind, name, rank, size, b"m%d" % rank, value or b"", owner, request)


def meet(groups: Groups, *, size: int = 3, request: int = 1, sessions: Iterable[int] | None = None) -> Met:
    """Let all members come; give what releases them."""
    owners = list(sessions or range(10, 10 + size))
    outcomes = [groups.arrive(member(rank, size, session=owners[rank], request=request), 0) for rank in range(size)]
    assert all(not outcome for outcome in outcomes[:-1])
    (met,) = outcomes[-1]
    assert isinstance(met, Met)
    return met


def refusal(outcomes: list[Outcome]) -> tuple[int, int, CloseReason, str]:
    (refused,) = outcomes
    assert isinstance(refused, Refused)
    return refused


def test_the_last_arrival_answers_all_by_rank(groups: Groups) -> None:
    assert groups.arrive(member(2, request=7), 0) == []
    assert groups.arrive(member(0, request=8), 1) == []
    (met,) = groups.arrive(member(1, request=9), 2)
    assert met == Met(SessionVerb.MEET, b"g", 1, [(10, 8, b"m0"), (11, 9, b"m1"), (12, 7, b"m2")], [])


def test_generations_rise_and_the_group_is_used_again(groups: Groups) -> None:
    assert [meet(groups, request=turn).generation for turn in (1, 2, 3)] == [1, 2, 3]
    assert len(groups) == 1
    assert groups.members == 3


def test_a_group_of_one_meets_at_once(groups: Groups) -> None:
    (met,) = groups.arrive(member(0, 1), 0)
    assert met == Met(SessionVerb.MEET, b"g", 1, [(10, 1, b"m0")], [])


def test_an_exchange_gives_the_values_by_rank_and_keeps_none(groups: Groups) -> None:
    groups.arrive(member(1, 2, value=b"one"), 0)
    assert groups.values_size == 3
    (met,) = groups.arrive(member(0, 2, value=b"zero"), 0)
    assert isinstance(met, Met)
    assert met.values == [b"zero", b"one"]
    assert groups.values_size == 0


def test_barriers_and_exchanges_of_one_name_do_not_meet(groups: Groups) -> None:
    groups.arrive(member(0, 2), 0)
    assert groups.arrive(member(1, 2, value=b"x"), 0) == []


def test_a_request_said_again_counts_once(groups: Groups) -> None:
    assert groups.arrive(member(0, 2), 0) == []
    assert groups.arrive(member(0, 2), 1) == []
    assert groups.members == 1


def test_another_request_takes_the_place(groups: Groups) -> None:
    groups.arrive(member(0, 2), 0)
    assert refusal(groups.arrive(member(0, 2, session=30), 1))[:3] == (10, 1, CloseReason.TAKEN_OVER)
    assert refusal(groups.arrive(member(0, 2, session=30, request=2), 1))[:3] == (30, 1, CloseReason.TAKEN_OVER)
    (met,) = groups.arrive(member(1, 2), 2)
    assert isinstance(met, Met)
    assert met.members == [(30, 2, b"m0"), (11, 1, b"m1")]


@pytest.mark.parametrize(
    ("arrival", "sentence"),
    [
        (member(0, 0), "the group is to have 0 members, it may have 1 to 1048576"),
        (member(0, (1 << 20) + 1), "the group is to have 1048577 members, it may have 1 to 1048576"),
        (member(3, 3), "the member's rank is 3, the group is to have 3 members"),
        (member(1, 4), "the group is to have 4 members, those that wait say 3"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(groups: Groups, arrival: Arrival, sentence: str) -> None:
    groups.arrive(member(0), 0)
    assert refusal(groups.arrive(arrival, 0)) == (arrival.session, 1, CloseReason.GROUP_MISMATCH, sentence)
    assert groups.members == 1


def test_a_long_label_is_refused(groups: Groups) -> None:
    arrival = member(0)._replace(label=b"l" * (LABEL_SIZE_MAX + 1))
    assert refusal(groups.arrive(arrival, 0))[2] is CloseReason.FIELD_TOO_LARGE


def test_another_size_starts_a_new_company_when_nobody_waits(groups: Groups) -> None:
    meet(groups, size=3)
    met = meet(groups, size=2, request=2)
    assert met.generation == 2
    assert groups.members == 2
    assert groups.end([12], 99, 0) == []  # it is not of this company


def test_who_gives_up_learns_who_is_missing_and_who_waits(groups: Groups) -> None:
    meet(groups, size=4)
    groups.arrive(member(0, 4, request=2), 10)
    groups.arrive(member(1, 4, request=2), 12)
    expired = groups.cancel(member(1, 4, request=2), 12.5)
    assert expired == Expired([(2, b"m2", 12500), (3, b"m3", 12500)], [(0, b"m0", 2500)])


def test_a_member_never_seen_is_missing_without_a_label(groups: Groups) -> None:
    groups.arrive(member(0, 2), 0)
    assert groups.cancel(member(0, 2), 1) == Expired([(1, b"", -1)], [])


def test_members_that_give_up_together_are_told_the_same(groups: Groups) -> None:
    for rank in (0, 1, 2):
        groups.arrive(member(rank, 4), 0)
    told = [groups.cancel(member(rank, 4), 5) for rank in (0, 1, 2)]
    assert [expired.missing for expired in told if expired] == [[(3, b"", -1)]] * 3
    groups.arrive(member(3, 4), 6)
    expired = groups.cancel(member(3, 4), 7)
    assert expired is not None
    assert [rank for rank, _, _ in expired.missing] == [0, 1, 2]


def test_what_does_not_wait_cannot_give_up(groups: Groups) -> None:
    assert groups.cancel(member(0), 0) is None
    meet(groups)
    assert groups.cancel(member(0), 0) is None
    groups.arrive(member(0, request=2), 0)
    assert groups.cancel(member(0), 0) is None
    assert groups.cancel(member(0, session=30, request=2), 0) is None


def test_a_large_group_names_a_few(groups: Groups) -> None:
    for rank in range(300):
        groups.arrive(member(rank, 900), 0)
    expired = groups.cancel(member(0, 900), 1)
    assert expired is not None
    assert [rank for rank, _, _ in expired.missing] == [*range(300, 300 + MEMBERS_NAMED_MAX)]
    assert [rank for rank, _, _ in expired.waiting] == [*range(1, 1 + MEMBERS_NAMED_MAX)]


def test_in_a_large_group_those_that_came_are_not_named_as_missing(groups: Groups) -> None:
    for rank in range(300):
        groups.arrive(member(rank, 302), 0)
    groups.cancel(member(0, 302), 1)
    groups.arrive(member(300, 302), 1)
    expired = groups.cancel(member(1, 302), 1)
    assert expired is not None
    assert [rank for rank, _, _ in expired.missing] == [301]


# --- those who are gone ----------------------------------------------------------------------------------


def test_a_member_that_ends_while_it_waits_fails_all_who_wait(groups: Groups) -> None:
    groups.arrive(member(0), 0)
    groups.arrive(member(1), 1)
    assert groups.end([10], 99, 3) == [Lost([(11, 1)], [(0, b"m0", 0)])]
    # Who comes late and was there when it happened is told at once; the same who were told, too.
    assert groups.arrive(member(2), 4) == [Lost([(12, 1)], [(0, b"m0", 1000)])]
    assert groups.arrive(member(1, request=2), 5) == [Lost([(11, 2)], [(0, b"m0", 2000)])]


def test_a_member_of_the_last_generation_that_ends_fails_its_mates(groups: Groups) -> None:
    meet(groups)
    groups.arrive(member(0, request=2), 1)
    assert groups.end([11], 99, 2) == [Lost([(10, 2)], [(1, b"m1", 0)])]


def test_mates_that_come_later_are_told(groups: Groups) -> None:
    meet(groups)
    assert groups.end([11], 99, 2) == []
    assert groups.arrive(member(0, request=2), 2) == [Lost([(10, 2)], [(1, b"m1", 0)])]


def test_several_that_end_at_once_are_named_together(groups: Groups) -> None:
    meet(groups)
    groups.arrive(member(0, request=2), 1)
    assert groups.end([11, 12], 99, 2) == [Lost([(10, 2)], [(1, b"m1", 0), (2, b"m2", 0)])]


def test_one_session_may_be_several_members(groups: Groups) -> None:
    groups.arrive(member(0, session=20), 0)
    groups.arrive(member(1, session=20, request=2), 0)
    groups.arrive(member(2, session=21), 0)
    meet_again = [member(rank, session=20 + rank // 2, request=5 + rank) for rank in range(3)]
    groups.arrive(meet_again[2], 1)
    assert groups.end([20], 99, 2) == [Lost([(21, 7)], [(0, b"m0", 0), (1, b"m1", 0)])]


def test_a_place_taken_anew_forgets_the_gone(groups: Groups) -> None:
    meet(groups)
    groups.end([11], 99, 1)
    assert groups.arrive(member(1, session=100, request=1), 2) == []
    assert groups.arrive(member(0, request=2), 3) == []
    (met,) = groups.arrive(member(2, request=2), 4)
    assert isinstance(met, Met)
    assert met.generation == 2


def test_a_free_place_taken_by_a_younger_session_forgets_the_gone(groups: Groups) -> None:
    groups.arrive(member(0), 0)
    groups.arrive(member(1), 0)
    groups.end([10], 50, 1)
    assert groups.arrive(member(2, session=51), 2) == []
    assert groups.arrive(member(1, request=2), 3) == []


def test_former_members_that_end_late_do_not_hurt_those_who_took_their_places(groups: Groups) -> None:
    meet(groups)
    for rank in (0, 1):
        assert groups.arrive(member(rank, session=20 + rank), 1) == []
    assert groups.end([10, 11, 12], 99, 2) == []
    (met,) = groups.arrive(member(2, session=22), 3)
    assert isinstance(met, Met)


def test_who_gave_up_and_ends_is_merely_missing(groups: Groups) -> None:
    groups.arrive(member(0), 0)
    groups.arrive(member(1), 0)
    groups.cancel(member(0), 1)
    assert groups.end([10], 99, 2) == []
    assert groups.members == 1


def test_a_group_whose_members_are_all_gone_is_forgotten_but_for_those_who_come_late(groups: Groups) -> None:
    meet(groups)
    assert groups.end([10, 11, 12], 99, 0) == [Forgotten(SessionVerb.MEET, b"g")]
    assert meet(groups, sessions=[100, 101, 102]).generation == 1
    groups.arrive(member(0, 2, name=b"h"), 0)
    groups.end([10], 99, 1)
    assert groups.arrive(member(1, 2, name=b"h"), 1) == [Lost([(11, 1)], [(0, b"m0", 0)])]
    assert groups.arrive(member(1, 2, session=100, name=b"h"), 1) == []


# --- limits ----------------------------------------------------------------------------------------------


def test_the_longest_idle_group_makes_room_for_a_new_one() -> None:
    groups = Groups(groups_max=2, members_max=1000, values_size_max=1000)
    groups.arrive(member(0, 1, name=b"a"), 0)
    groups.arrive(member(0, 1, name=b"b"), 0)
    groups.arrive(member(0, 1, name=b"a", request=2), 0)
    outcomes = groups.arrive(member(0, 2, name=b"c"), 0)
    assert outcomes == [Forgotten(SessionVerb.MEET, b"b")]
    groups.arrive(member(0, 2, name=b"a", request=3), 0)
    assert refusal(groups.arrive(member(0, 2, name=b"d"), 0)) == (
        10,
        1,
        CloseReason.TOO_MANY_GROUPS,
        "members wait in 2 groups, 2 in all, the limits are 2 and 1000",
    )


def test_members_are_bounded() -> None:
    groups = Groups(groups_max=10, members_max=3, values_size_max=1000)
    meet(groups, size=3)
    assert groups.arrive(member(0, 9, name=b"h"), 0) == [Forgotten(SessionVerb.MEET, b"g")]
    groups.arrive(member(1, 9, name=b"h"), 0)
    groups.arrive(member(2, 9, name=b"h"), 0)
    assert refusal(groups.arrive(member(3, 9, name=b"h"), 0))[2] is CloseReason.TOO_MANY_GROUPS
    assert groups.members == 3


def test_values_are_bounded(groups: Groups) -> None:
    groups.arrive(member(0, value=b"v" * 600), 0)
    assert refusal(groups.arrive(member(1, value=b"v" * 401), 0)) == (
        11,
        1,
        CloseReason.TOO_MANY_GROUPS,
        "all exchanges would hold 1001 bytes, the limit is 1000",
    )
    assert groups.arrive(member(1, value=b"v" * 400), 0) == []


def test_a_reply_is_bounded() -> None:
    groups = Groups(groups_max=10, members_max=10, values_size_max=1 << 40)

    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 30

    assert refusal(groups.arrive(member(0, value=Huge(b"x")), 0))[2] is CloseReason.REPLY_TOO_LARGE


def test_what_is_kept_of_groups_whose_members_are_gone_is_bounded() -> None:
    groups = Groups(groups_max=1 << 20, members_max=1 << 20, values_size_max=1)
    for turn in range(1030):
        groups.arrive(member(0, 2, session=turn, name=b"g%d" % turn), 0)
        groups.end([turn], turn, 0)
    assert len(groups) == 1024
    assert groups.members == 1024


# --- looked into, remembered -----------------------------------------------------------------------------


def test_groups_can_be_looked_into(groups: Groups) -> None:
    meet(groups)
    groups.arrive(member(0, request=2), 1)
    (view,) = groups.views(2)
    assert (view.kind, view.name, view.generation, view.size, view.arrived) == (SessionVerb.MEET, b"g", 1, 3, 1)
    assert view.members == Expired([(1, b"m1", 2000), (2, b"m2", 2000)], [(0, b"m0", 1000)])
    assert view.gone == []


def test_an_earlier_life_is_remembered(groups: Groups) -> None:
    groups.restore(SessionVerb.MEET, b"g", 7, [(0, 10, b"m0"), (1, 11, b"m1"), (2, 12, b"m2")], 0)
    groups.arrive(member(0), 1)
    assert groups.end([11], 99, 2) == [Lost([(10, 1)], [(1, b"m1", 0)])]
    groups.arrive(member(1, session=100), 3)
    groups.arrive(member(0, request=2), 3)
    (met,) = groups.arrive(member(2), 3)
    assert isinstance(met, Met)
    assert met.generation == 8


# --- against a model -------------------------------------------------------------------------------------


class Model:
    """The rules for one group, slowly: who waits, who was in the last generation, who is gone."""

    def __init__(self) -> None:
        self.size = 0
        self.generation = 0
        self.waits: dict[int, tuple[int, int]] = {}
        self.seats: dict[int, tuple[int, int]] = {}  # rank -> session, generation; of all that are seated
        self.gone: dict[int, int] = {}
        self.horizon = -1

    def arrive(self, rank: int, size: int, session: int, request: int) -> list[object]:
        if self.waits and size != self.size:
            return ["refused"]
        if size != self.size:
            self.seats, self.gone, self.size = {}, {}, size
        if self.waits.get(rank) == (session, request):
            return []
        if self.gone:
            known = self.seats.get(rank)
            if rank in self.gone:
                is_told = self.gone[rank] == session
            elif known is None:
                is_told = session <= self.horizon
            else:
                is_told = known[0] == session and rank not in self.waits
            if is_told:
                return [("lost", [(session, request)], list(self.gone))]
        self.gone = {}
        told: list[object] = []
        if rank in self.waits:
            told.append(("taken", self.waits.pop(rank)))
        if self.seats.get(rank, (None,))[0] != session:
            self.seats[rank] = (session, 0)
        self.waits[rank] = (session, request)
        if len(self.waits) == size:
            self.generation += 1
            told.append(("met", self.generation, [self.waits[each] for each in range(size)]))
            self.seats = {each: (waiter[0], self.generation) for each, waiter in self.waits.items()}
            self.waits = {}
        return told

    def end(self, session: int, newest: int) -> list[object]:
        mine = [rank for rank, seat in self.seats.items() if seat[0] == session]
        is_loss = False
        for rank in mine:
            met = self.seats.pop(rank)[1]
            if self.waits.pop(rank, None) is not None:
                is_loss = True
                self.gone[rank] = session
            elif met and met == self.generation:
                self.gone[rank] = session
                is_loss |= any(self.seats[other][1] == met for other in self.waits)
        if mine and self.gone:
            self.horizon = newest
        told: list[object] = []
        if is_loss and self.waits:
            told.append(("lost", list(self.waits.values()), sorted(self.gone)))
            self.waits = {}
        if mine and not self.seats:
            self.generation = 0
        return told


def said(outcomes: list[Outcome]) -> list[object]:
    told: list[object] = []
    for outcome in outcomes:
        if isinstance(outcome, Refused):
            is_taken = outcome.reason is CloseReason.TAKEN_OVER
            told.append(("taken", (outcome.session, outcome.request)) if is_taken else "refused")
        elif isinstance(outcome, Lost):
            told.append(("lost", outcome.waiting, [rank for rank, _, _ in outcome.gone]))
        elif isinstance(outcome, Met):
            told.append(("met", outcome.generation, [seated[:2] for seated in outcome.members]))
    return told


def ordered(told: list[object]) -> list[object]:
    return [(each[0], sorted(each[1]), sorted(each[2])) if each[0] == "lost" else each for each in told]


STEP = st.one_of(
    st.tuples(st.just("arrive"), st.integers(0, 3), st.sampled_from([3, 3, 3, 2]), st.integers(0, 4)),
    st.tuples(st.just("cancel"), st.integers(0, 3)),
    st.tuples(st.just("end"), st.integers(0, 4)),
    st.tuples(st.just("again"), st.integers(0, 3)),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEP, max_size=40))
def test_groups_do_as_the_model(steps: list[tuple[str, int, int, int]]) -> None:
    groups = Groups(groups_max=4, members_max=100, values_size_max=100)
    model = Model()
    newest = 4
    sessions = list(range(5))  # by slot; a slot whose session ends gets a new one
    last: dict[int, Arrival] = {}
    for request, step in enumerate(steps, 1):
        if step[0] == "arrive":
            rank, size, session = step[1], step[2], sessions[step[3]]
            if rank >= size:
                continue
            last[rank] = member(rank, size, session=session, request=request)
            told = model.arrive(rank, size, session, request)
            assert ordered(said(groups.arrive(last[rank], 0))) == ordered(told)
        elif step[0] == "again":
            if step[1] in last and model.waits.get(step[1]) == (last[step[1]].session, last[step[1]].request):
                assert groups.arrive(last[step[1]], 0) == []
        elif step[0] == "cancel":
            if step[1] in last:
                arrival = last[step[1]]
                is_waiting = model.waits.get(arrival.rank) == (arrival.session, arrival.request)
                expired = groups.cancel(arrival, 0)
                assert (expired is not None) == is_waiting
                if expired is not None:
                    assert expired.missing
                    del model.waits[arrival.rank]
        else:
            session = sessions[step[1]]
            told = model.end(session, newest)
            assert ordered(said(groups.end([session], newest, 0))) == ordered(told)
            newest += 1
            sessions[step[1]] = newest
        assert groups.members == len(model.seats) + len(model.gone)
    newest += 1
    groups.end(sessions, newest, 0)
    assert groups.values_size == 0
