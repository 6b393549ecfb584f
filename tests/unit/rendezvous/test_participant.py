from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.rendezvous_backends import MemoryBackend

from rallypoint import events
from rallypoint.errors import RendezvousConnectionError, RendezvousStateError, RendezvousTimeoutError
from rallypoint.rendezvous.change import Acknowledge, Action, Beat, Close, Fail, Join, Leave, Propose
from rallypoint.rendezvous.decide import Enter, Rules, Stop, Wait
from rallypoint.rendezvous.participant import Participant, Seen
from rallypoint.rendezvous.state import Card, Phase, Standing, State, decode_state, encode_state
from rallypoint.rendezvous.verdict import Verdict, VerdictKind
from rallypoint.testing.clock import ManualClock
from rallypoint.types import Endpoint

RULES = Rules(min_nodes=1, max_nodes=1, keep_alive_interval_s=5.0)
TWO = Rules(min_nodes=2, max_nodes=2, keep_alive_interval_s=5.0)


@pytest.fixture
def told() -> Iterator[list[events.Event]]:
    seen: list[events.Event] = []
    events.subscribe(seen.append)
    yield seen
    events.unsubscribe(seen.append)


def make(backend: MemoryBackend, rules: Rules = RULES, host: str = "node1") -> tuple[Participant, ManualClock]:
    clock = ManualClock()
    return Participant(backend, rules, Card(host=host, address=host), "run", clock=clock), clock


def with_endpoint(action: Action, _state: State) -> Action:
    if isinstance(action, Acknowledge):
        return Acknowledge(action.proposal, Endpoint("node1", 29500))
    return action


def join(participant: Participant) -> Seen:
    """Take steps until the participant is in."""
    participant.begin_to_join()
    seen = None
    for _ in range(20):
        decision, seen, is_moving = participant.advance(seen, with_endpoint)
        if isinstance(decision.action, Enter):
            return seen
        assert is_moving, decision.why
    raise AssertionError("not in after 20 steps")


def join_both(first: Participant, second: Participant) -> None:
    for participant in (first, second):
        participant.begin_to_join()
    waiting = [first, second]
    for _ in range(20):
        waiting = [one for one in waiting if not isinstance(one.advance(None, with_endpoint)[0].action, Enter)]
        if not waiting:
            return
    raise AssertionError("not in after 20 steps each")


def state_of(backend: MemoryBackend) -> State:
    assert backend.data is not None
    return decode_state(backend.data)


# --- joining ---


def test_a_lone_node_gets_in_by_four_swaps() -> None:
    backend = MemoryBackend()
    participant, _ = make(backend)
    state = join(participant).state
    assert (state.phase, state.members, backend.version) == (Phase.COMPLETE, {participant.node_id: 0}, 3)
    assert (participant.entered, participant.is_joining) == (0, False)
    assert backend.looks == 1, "each swap tells what is stored, so there is nothing to look for"


def test_nodes_draw_ids_of_their_own() -> None:
    backend = MemoryBackend()
    ids = {make(backend)[0].node_id for _ in range(20)}
    assert len(ids) == 20
    assert all(len(node_id) == 32 for node_id in ids)


def test_a_lost_swap_is_decided_anew_on_what_the_winner_stored() -> None:
    backend = MemoryBackend()
    first, clock = make(backend, TWO)
    second, _ = make(backend, TWO, "node2")
    first.begin_to_join()
    second.begin_to_join()
    backend.before_swap = lambda: second.advance(None, with_endpoint)  # type: ignore[assignment]
    decision, seen, is_moving = first.advance(None, with_endpoint)
    assert (type(decision.action), is_moving) == (Join, True)
    assert state_of(backend).standing(Standing.READY) == [second.node_id]
    assert (clock.slept, backend.looks) == ([], 2), "one look each: the answer to a lost swap is the winner's state"
    decision, seen, _ = first.advance(seen, with_endpoint)
    assert decision.why == "round 0 has 1 of 2 places taken"
    assert set(state_of(backend).nodes) == {first.node_id, second.node_id}


def test_who_loses_again_and_again_pauses_longer_and_then_looks() -> None:
    backend = MemoryBackend()
    first, clock = make(backend, TWO)
    second, _ = make(backend, TWO, "node2")
    join_both(first, second)
    clock.slept.clear()
    seen = first.look()
    for _ in range(40):
        second.make(Beat(), 5)
        before = backend.looks
        seen = first._swap(seen, Beat())
        if len(clock.slept):
            assert backend.looks == before + 1, "what was seen before the pause is old"
        seen = Seen(seen.state, "outdated")
    assert len(clock.slept) == 39
    assert max(clock.slept) <= 0.1
    assert max(clock.slept[:3]) <= 0.008
    assert first._swap(first.look(), Beat()).state.version == state_of(backend).version


def test_a_crowd_looks_at_many_changes_at_once() -> None:
    backend = MemoryBackend()
    rules = Rules(min_nodes=20, max_nodes=20)
    crowd = [make(backend, rules, f"node{number}") for number in range(10)]
    for participant, _ in crowd:
        participant.begin_to_join()
        participant.advance(None, with_endpoint)
    participant, clock = crowd[0]
    participant.pause(participant.look(), 0.001)
    assert clock.slept == [pytest.approx(0.005)]


def test_waiting_is_told_and_changes_nothing() -> None:
    backend = MemoryBackend()
    participant, _ = make(backend, TWO)
    participant.begin_to_join()
    participant.advance(None, with_endpoint)
    version = backend.version
    decision, _, is_moving = participant.advance(None, with_endpoint)
    assert (decision.action, is_moving, backend.version) == (Wait(), False, version)


def test_a_why_is_one_event_until_it_changes(told: list[events.Event]) -> None:
    backend = MemoryBackend()
    participant, _ = make(backend, TWO)
    participant.begin_to_join()
    for _ in range(5):
        participant.advance(None, with_endpoint)
    assert [(event.name, event.message) for event in told] == [
        ("rendezvous.join", "round 0 has 0 of 2 places taken"),
        ("rendezvous.wait", "1 of 2 nodes, waiting for 1"),
    ]
    assert told[0].fields == {"run_id": "run", "node": participant.node_id}


def test_the_driver_may_refuse_to_get_in_and_the_rules_say_so() -> None:
    backend = MemoryBackend()
    participant, _ = make(backend)
    participant.make(Close("closed", "told to"), 5)
    participant.begin_to_join()
    decision, _, is_moving = participant.advance(None, with_endpoint)
    assert isinstance(decision.action, Stop)
    assert not is_moving


# --- changes that no rule decides ---


def test_a_change_is_tried_again_until_it_wins() -> None:
    backend = MemoryBackend()
    first, _ = make(backend)
    second, _ = make(backend, host="node2")
    join(first)
    backend.before_swap = lambda: second.make(Close("failed", "the other was quicker"), 5)  # type: ignore[assignment]
    state = first.make(Leave("told to"), 5)
    assert first.node_id not in state.nodes
    assert state.closure is not None
    assert state.closure.why == "the other was quicker"


def test_a_change_that_does_not_apply_is_not_stored() -> None:
    backend = MemoryBackend()
    participant, _ = make(backend)
    participant.make(Leave("was never in"), 5)
    assert backend.version == 0


def test_a_change_that_always_loses_gives_up_at_its_deadline() -> None:
    backend = MemoryBackend()
    first, clock = make(backend)
    second, _ = make(backend, host="node2")
    join(second)

    def interfere() -> None:
        second.make(Beat(), 5)
        backend.before_swap = interfere
        clock.advance(1.0)

    # ``second``'s own swap takes the hook first, so that it is set anew only for ``first``.
    def once() -> None:
        backend.before_swap = None
        interfere()

    backend.before_swap = once
    with pytest.raises(RendezvousTimeoutError, match=r"close could not be stored within 3 s: .* swaps in a row"):
        first.make(Close("closed", "told to"), 3)


def test_departing_from_a_closed_run_is_hearing_of_it() -> None:
    backend = MemoryBackend()
    participant, _ = make(backend)
    join(participant)
    participant.make(Close("closed", "told to"), 5)
    state = participant.depart("it shut down", 5)
    assert participant.node_id in state.nodes
    assert state.unaware == []


def test_departing_is_no_news_to_who_departs(told: list[events.Event]) -> None:
    participant, _ = make(MemoryBackend())
    join(participant)
    participant.depart("told to", 5)
    participant.look()
    assert participant.news() == Verdict(VerdictKind.CURRENT, "this node is in no round")
    assert "rendezvous.fenced" not in [event.name for event in told]


def test_lingering_ends_when_all_have_heard() -> None:
    backend = MemoryBackend()
    first, _ = make(backend, TWO)
    second, _ = make(backend, TWO, "node2")
    join_both(first, second)
    first.make(Close("closed", "told to"), 5)
    first.depart("it shut down", 5)
    waiting = threading.Thread(target=first.linger, args=(60,))
    waiting.start()
    second.keep_place()
    waiting.join(30)
    assert not waiting.is_alive()


def test_lingering_has_an_end() -> None:
    backend = MemoryBackend()
    first = Participant(backend, TWO, Card(host="a", address="a"), "run")
    second, _ = make(backend, TWO, "node2")
    join_both(first, second)
    first.make(Close("closed", "told to"), 5)
    first.depart("it shut down", 5)
    first.linger(0.05)


# --- keeping a place ---


def test_beats_are_stored_when_they_are_due() -> None:
    backend = MemoryBackend()
    participant, clock = make(backend)
    join(participant)
    before = state_of(backend).nodes[participant.node_id].beat
    participant.keep_place()
    assert state_of(backend).nodes[participant.node_id].beat == before
    clock.advance(5.0)
    participant.keep_place()
    assert state_of(backend).nodes[participant.node_id].beat == before + 1


def test_who_is_silent_is_dropped_and_that_is_an_event(told: list[events.Event]) -> None:
    backend = MemoryBackend()
    first, clock = make(backend, TWO)
    second, _ = make(backend, TWO, "node2")
    join_both(first, second)
    for _ in range(4):
        clock.advance(4.0)
        first.keep_place()
    assert second.node_id not in state_of(backend).nodes
    assert "rendezvous.drop" in [event.name for event in told]
    assert first.news().kind is VerdictKind.OVER
    second.look()
    assert second.news().kind is VerdictKind.FENCED


# --- news ---


def test_there_is_no_news_before_the_first_round() -> None:
    participant, _ = make(MemoryBackend())
    assert participant.news() == Verdict(VerdictKind.CURRENT, "this node is in no round")


def test_a_change_of_ones_own_is_news_at_once() -> None:
    participant, _ = make(MemoryBackend())
    join(participant)
    assert participant.news().kind is VerdictKind.CURRENT
    participant.make(Fail(0, "boom", 3, final=True), 5)
    assert participant.news().kind is VerdictKind.CLOSED
    assert participant.news().outcome == "failed"


def test_a_wait_for_news_ends_with_the_look_that_brings_them(told: list[events.Event]) -> None:
    backend = MemoryBackend()
    first = Participant(backend, TWO, Card(host="a", address="a"), "run")
    second, _ = make(backend, TWO, "node2")
    join_both(first, second)
    heard: list[Any] = []
    waiting = threading.Thread(target=lambda: heard.append(first.wait_for_news(60)))
    waiting.start()
    second.make(Fail(0, "boom", 3, final=False), 5)
    first.look()
    waiting.join(30)
    assert heard[0].kind is VerdictKind.OVER
    assert [event.message[-17:] for event in told if event.name == "rendezvous.over"][:1] == ["exit code 3: boom"]


def test_a_wait_for_news_has_an_end() -> None:
    participant = Participant(MemoryBackend(), RULES, Card(host="a", address="a"), "run")
    join(participant)
    assert participant.wait_for_news(0.01).kind is VerdictKind.CURRENT


def test_a_node_whose_beats_do_not_arrive_takes_itself_for_fenced() -> None:
    participant, clock = make(MemoryBackend())
    join(participant)
    clock.advance(15.0)
    assert participant.news().kind is VerdictKind.CURRENT
    clock.advance(0.5)
    kind, why, *_ = participant.news()
    assert kind is VerdictKind.FENCED
    assert why == "no beat of this node was stored for 15.5 s, so the others may have taken it for gone"
    assert participant.wait_for_news(60).kind is VerdictKind.FENCED


def test_a_node_that_hears_nothing_is_cut_off_and_claims_nothing_about_the_others() -> None:
    participant, clock = make(MemoryBackend())
    join(participant)
    participant.note_trouble(RendezvousConnectionError("no answer"))
    clock.advance(15.5)
    kind, why, *_ = participant.news()
    assert kind is VerdictKind.CUT_OFF
    assert why == (
        f"nothing was heard from {MemoryBackend().where} for 15.5 s (no answer), so this node stops: it cannot know "
        "whether the others go on"
    )


class StuckBackend(MemoryBackend):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answers = threading.Event(), threading.Event()
        self.answers.set()

    def get_state(self) -> tuple[bytes, Any] | None:
        self.asked.set()
        self.answers.wait()
        return super().get_state()


def test_an_answer_that_is_long_in_coming_is_trouble_until_it_comes() -> None:
    backend = StuckBackend()
    participant, clock = make(backend)
    join(participant)
    backend.answers.clear()
    backend.asked.clear()
    looking = threading.Thread(target=participant.keep_place)
    looking.start()
    try:
        backend.asked.wait()
        clock.advance(4.9)
        assert participant.news().kind is VerdictKind.CURRENT
        clock.advance(0.1)
        for ask in (participant.news, lambda: participant.wait_for_news(60)):
            with pytest.raises(RendezvousConnectionError, match=r"has not answered for 5\.0 s"):
                ask()
        clock.advance(10.5)
        kind, why, *_ = participant.news()
        assert kind is VerdictKind.CUT_OFF
        assert why.startswith(f"nothing was heard from {backend.where} for 15.5 s, so this node stops")
    finally:
        backend.answers.set()
        looking.join()
    assert participant.news().kind is VerdictKind.CURRENT


def test_a_node_that_left_while_it_was_joining_says_no_more(told: list[events.Event]) -> None:
    participant, _ = make(MemoryBackend())
    participant.begin_to_join()
    participant.depart("told to", 5)
    participant.advance(None, with_endpoint)
    assert told == []


def test_a_node_that_is_done_needs_no_beats() -> None:
    from rallypoint.rendezvous.change import Succeed

    backend = MemoryBackend()
    first, clock = make(backend, TWO)
    second, _ = make(backend, TWO, "node2")
    join_both(first, second)
    first.make(Succeed(0), 5)
    clock.advance(500.0)
    assert first.news().kind is VerdictKind.CURRENT


def test_trouble_is_raised_to_whoever_asks_for_news() -> None:
    participant, _ = make(MemoryBackend())
    join(participant)
    participant.note_trouble(RendezvousConnectionError("gone"))
    with pytest.raises(RendezvousConnectionError, match="gone"):
        participant.news()
    participant.note_trouble(KeyError("odd"))
    with pytest.raises(RendezvousConnectionError, match="the rendezvous backend failed: 'odd'"):
        participant.wait_for_news(60)
    participant.note_trouble(None)
    assert participant.news().kind is VerdictKind.CURRENT


# --- looking ---


def test_a_state_of_another_kind_is_an_error() -> None:
    backend = MemoryBackend()
    backend.set_state(b"\x80\x04pickle")
    participant, _ = make(backend)
    with pytest.raises(RendezvousStateError, match="pickle"):
        participant.look()


def test_a_store_that_lost_everything_means_another_life() -> None:
    backend = MemoryBackend()
    participant, _ = make(backend)
    join(participant)
    backend.erase()
    participant.look()
    assert participant.news().kind is VerdictKind.FENCED
    state = join(participant).state
    assert (state.round, participant.entered) == (0, 0)


def test_an_old_look_does_not_bring_back_an_old_verdict() -> None:
    backend = MemoryBackend()
    participant, _ = make(backend)
    old = join(participant)
    participant.make(Fail(0, "boom", 3, final=False), 5)
    participant._note(old)
    assert participant.news().kind is VerdictKind.OVER


def test_pauses_grow_up_to_a_limit_that_grows_with_the_nodes() -> None:
    backend = MemoryBackend()
    participant, _ = make(backend)
    seen = participant.look()
    assert participant.pause(seen, 0.01) == pytest.approx(0.015)
    assert participant.pause(seen, 0.2) == 0.25


def test_a_state_that_cannot_be_swapped_for_lack_of_one_is_looked_for() -> None:
    backend = MemoryBackend()
    participant, _ = make(backend)
    seen = join(participant)
    backend.erase()
    after = participant._swap(seen, Propose({participant.node_id: 0}))
    assert after is seen, "the proposal does not apply to a complete round"
    after = participant._swap(seen, Beat())
    assert after.token is None
    assert after.state.nodes == {}
    assert len(encode_state(after.state)) < 200
