from __future__ import annotations

import math
import signal
from itertools import product

import pytest

from rallypoint.agent.group import SLOW_STOP_S, GroupRules, WorkerGroupMachine
from rallypoint.agent.moves import (
    Begun,
    CutOff,
    Decision,
    Dismissed,
    Event,
    Fenced,
    Finish,
    GroupState,
    Leave,
    Rendezvous,
    RendezvousDone,
    RendezvousFailed,
    ReportFailure,
    ReportGoing,
    ReportSuccess,
    RoundOver,
    RunClosed,
    SignalReceived,
    Started,
    StartFailed,
    StartWorkers,
    StopFinished,
    StopWorkers,
    StoreBack,
    StoreLost,
    Ticked,
    WorkerExited,
)

GRACE_S = 30.0
TERM = StopWorkers(signal.SIGTERM, GRACE_S)
KILL = StopWorkers(signal.SIGKILL, 0.0)
ADMITTED = RendezvousDone(round=0, node_rank=0, node_count=2)
STARTED = Started({0: 100, 1: 101})
RUNNING: tuple[Event, ...] = (Begun(), ADMITTED, STARTED)
ALL_WELL = (WorkerExited(0, 0), WorkerExited(1, 0))
DONE = (*RUNNING, *ALL_WELL)
CRASH = WorkerExited(1, 42)
SIGTERM = SignalReceived(signal.SIGTERM)
SIGINT = SignalReceived(signal.SIGINT)


def machine(**rules: float) -> WorkerGroupMachine:
    return WorkerGroupMachine(GroupRules(local_world_size=2, grace_s=GRACE_S, **rules))  # type: ignore[arg-type]


def play(group: WorkerGroupMachine, *events: Event, now: float = 0.0) -> Decision:
    assert events
    for event in events:
        decision = group.step(event, now)
    return decision


# --- the way of a run that goes well ---------------------------------------------------------------------


def test_a_run_begins_with_a_rendezvous() -> None:
    assert play(machine(), Begun()) == (GroupState.RENDEZVOUS, (Rendezvous(),), "looking for the other nodes")


def test_the_admitted_node_starts_its_workers() -> None:
    decision = play(machine(), Begun(), ADMITTED)

    assert decision.state is GroupState.STARTING
    assert decision.effects == (StartWorkers(0, 0),)
    assert decision.why == "round 0: this is node 0 of 2, starting 2 worker(s)"


def test_started_workers_are_healthy() -> None:
    assert play(machine(), *RUNNING) == (GroupState.HEALTHY, (), "round 0: 2 worker(s) run")


def test_the_first_worker_that_ends_well_changes_nothing() -> None:
    decision = play(machine(), *RUNNING, WorkerExited(0, 0))

    assert decision == (GroupState.HEALTHY, (), "worker 0 (pid 100) ended with exit code 0; 1 of 2 still run(s)")


def test_success_here_is_reported_and_waits_for_the_others() -> None:
    decision = play(machine(), *DONE)

    assert decision.state is GroupState.SUCCEEDED_WAITING
    assert decision.effects == (ReportSuccess(),)


def test_success_everywhere_ends_with_code_zero() -> None:
    group = machine()

    cleaning = play(group, *DONE, RunClosed("succeeded", "all 2 nodes ended well"))
    end = play(group, StopFinished())

    assert cleaning.effects == (TERM,)
    assert end == (
        GroupState.SUCCEEDED,
        (Finish(GroupState.SUCCEEDED, 0),),
        "the run has ended: all 2 nodes ended well",
    )


# --- failures of own workers -----------------------------------------------------------------------------


def test_a_failure_without_restarts_ends_the_run_with_the_workers_own_code() -> None:
    group = machine()

    stop = play(group, *RUNNING, CRASH)
    end = play(group, StopFinished())

    assert stop.effects == (ReportFailure("worker 1 (pid 101) ended with exit code 42", 42, final=True), TERM)
    assert stop.why == "worker 1 (pid 101) ended with exit code 42; no restarts are allowed"
    assert end.effects == (Finish(GroupState.FAILED, 42),)


def test_what_the_worker_said_is_passed_on() -> None:
    stop = play(machine(), *RUNNING, WorkerExited(1, 1, "ValueError: boom"))

    assert stop.effects[0] == ReportFailure(
        "worker 1 (pid 101) ended with exit code 1: ValueError: boom", 1, final=True
    )


def test_a_killed_worker_counts_as_128_plus_the_signal() -> None:
    group = machine()
    stop = play(group, *RUNNING, WorkerExited(0, -signal.SIGKILL))

    assert stop.effects[0] == ReportFailure("worker 0 (pid 100) was killed by SIGKILL", -9, final=True)
    assert play(group, StopFinished()).effects == (Finish(GroupState.FAILED, 137),)


def test_a_failure_within_the_budget_leads_to_the_next_round() -> None:
    group = machine(max_restarts=1)

    stop = play(group, *RUNNING, CRASH)
    again = play(group, WorkerExited(0, -15), StopFinished())
    start = play(group, RendezvousDone(1, 0, 2))

    assert stop.effects == (ReportFailure("worker 1 (pid 101) ended with exit code 42", 42, final=False), TERM)
    assert stop.why.endswith("; restart 1 of 1")
    assert again.state is GroupState.RENDEZVOUS
    assert again.effects == (Rendezvous(),)
    assert start.effects == (StartWorkers(round=1, restarts_used=1),)


def test_the_failure_after_the_last_restart_is_final() -> None:
    group = machine(max_restarts=1)
    play(group, *RUNNING, CRASH, StopFinished(), RendezvousDone(1, 0, 2), STARTED)

    stop = play(group, CRASH)

    assert stop.effects[0] == ReportFailure("worker 1 (pid 101) ended with exit code 42", 42, final=True)
    assert stop.why.endswith("; none of 1 restart(s) is left")


def test_workers_that_end_while_they_are_stopped_are_no_further_failures() -> None:
    group = machine(max_restarts=1)

    decision = play(group, *RUNNING, CRASH, WorkerExited(0, 1))

    assert decision == (GroupState.STOPPING, (), "the workers are being stopped")
    assert group.restarts_used == 1


def test_workers_that_cannot_be_started_are_a_failure_like_any_other() -> None:
    group = machine()

    stop = play(group, Begun(), ADMITTED, StartFailed("worker 0 could not be started: no such file", 127))

    assert stop.effects == (ReportFailure("worker 0 could not be started: no such file", 127, final=True), TERM)


def test_a_node_whose_own_failure_is_answered_by_the_end_of_the_run_keeps_its_workers_code() -> None:
    end = play(machine(max_restarts=1), *RUNNING, CRASH, StopFinished(), RunClosed("failed", "node b failed"))

    assert end.effects == (Finish(GroupState.FAILED, 42),)


def test_an_old_failure_does_not_colour_a_later_end() -> None:
    group = machine(max_restarts=1)
    play(group, *RUNNING, CRASH, StopFinished(), RendezvousDone(1, 0, 2), STARTED)

    play(group, RunClosed("failed", "node b failed"))

    assert play(group, StopFinished()).effects == (Finish(GroupState.FAILED, 1),)


# --- news of the round -----------------------------------------------------------------------------------


def test_rounds_that_end_because_of_others_cost_no_restart() -> None:
    group = machine(max_restarts=0)

    for number in range(5):
        play(group, Begun(), RendezvousDone(number, 0, 2), STARTED)
        stop = play(group, RoundOver("node b joined"))
        again = play(group, StopFinished())

        assert stop == (GroupState.STOPPING, (TERM,), f"round {number} is over: node b joined")
        assert again.effects == (Rendezvous(),)
    assert group.restarts_used == 0


def test_a_fenced_node_kills_at_once_and_comes_back() -> None:
    group = machine()

    stop = play(group, *RUNNING, Fenced("no sign of life for 15 s"))
    again = play(group, StopFinished())

    assert stop.effects == (KILL,)
    assert "no sign of life for 15 s" in stop.why
    assert again.effects == (Rendezvous(),)


def test_a_node_fenced_while_it_stops_kills_what_is_left() -> None:
    decision = play(machine(max_restarts=1), *RUNNING, CRASH, Fenced("no sign of life"))

    assert decision.state is GroupState.STOPPING
    assert decision.effects == (KILL,)


@pytest.mark.parametrize(
    ("outcome", "state", "exit_code"),
    [
        ("succeeded", GroupState.SUCCEEDED, 0),
        ("failed", GroupState.FAILED, 1),
        ("closed", GroupState.STOPPED, 1),
        (None, GroupState.STOPPED, 1),
    ],
)
@pytest.mark.parametrize("before", [RUNNING, DONE], ids=["running", "done"])
def test_the_end_of_the_run_stops_the_workers_and_gives_its_outcome(
    before: tuple[Event, ...], outcome: str | None, state: GroupState, exit_code: int
) -> None:
    group = machine()

    stop = play(group, *before, RunClosed(outcome, "told to"))
    end = play(group, StopFinished())

    assert stop.effects == (TERM,)
    assert end == (state, (Finish(state, exit_code),), "the run has ended: told to")


def test_a_failure_elsewhere_after_own_success_runs_the_round_again_here_too() -> None:
    group = machine()

    play(group, *DONE, RoundOver("a worker of node b failed"))

    assert play(group, StopFinished()).effects == (Rendezvous(),)


def test_the_end_of_the_run_replaces_the_plan_to_go_on() -> None:
    group = machine(max_restarts=3)
    play(group, *RUNNING, CRASH, RunClosed("failed", "node b has no restarts left"))

    assert play(group, StopFinished()).effects == (Finish(GroupState.FAILED, 42),)


def test_the_end_of_the_run_does_not_replace_the_verdict_of_a_final_failure() -> None:
    group = machine()
    play(group, *RUNNING, CRASH, RunClosed("closed", "told to"))

    assert play(group, StopFinished()).effects == (Finish(GroupState.FAILED, 42),)


# --- rendezvous ------------------------------------------------------------------------------------------


def test_a_spare_that_is_not_needed_ends_well() -> None:
    end = play(machine(), Begun(), Dismissed("the run ended while this node stood by"))

    assert end.effects == (Finish(GroupState.SUCCEEDED, 0),)


def test_a_rendezvous_that_fails_is_a_failure() -> None:
    end = play(machine(), Begun(), RendezvousFailed("1 of 2 nodes after 600 s"))

    assert end == (GroupState.FAILED, (Finish(GroupState.FAILED, 1),), "1 of 2 nodes after 600 s")


def test_a_round_that_ends_before_its_workers_start_is_joined_again() -> None:
    again = play(machine(), Begun(), RoundOver("node b vanished"))

    assert again.state is GroupState.RENDEZVOUS
    assert again.effects == (Rendezvous(),)


@pytest.mark.parametrize(
    ("news", "effect"), [(RoundOver("node b joined"), TERM), (Fenced("no sign of life"), KILL)], ids=["over", "fenced"]
)
def test_news_during_the_start_stop_the_workers_once_they_run(news: Event, effect: StopWorkers) -> None:
    group = machine()

    waiting = play(group, Begun(), ADMITTED, news)
    stop = play(group, STARTED)

    assert waiting.effects == ()
    assert stop.effects == (effect,)
    assert play(group, StopFinished()).effects == (Rendezvous(),)


def test_the_end_of_the_run_during_the_start_wins_over_another_round() -> None:
    group = machine()
    play(group, Begun(), ADMITTED, RoundOver("node b joined"), RunClosed("failed", "node b failed"), STARTED)

    assert play(group, StopFinished()).effects == (Finish(GroupState.FAILED, 1),)


def test_a_failed_start_follows_the_plan_that_is_made_already() -> None:
    group = machine()

    stop = play(group, Begun(), ADMITTED, SIGTERM, StartFailed("no such file", 127))

    assert stop.effects == (TERM,)
    assert play(group, StopFinished()).effects[-1] == Finish(GroupState.STOPPED, 143)


# --- signals ---------------------------------------------------------------------------------------------


def test_a_signal_is_told_the_others_stops_the_workers_with_the_same_signal_then_leaves() -> None:
    group = machine()

    stop = play(group, *RUNNING, SIGINT)
    end = play(group, StopFinished())

    told = ReportGoing("SIGINT received")
    assert stop == (GroupState.STOPPING, (told, StopWorkers(signal.SIGINT, GRACE_S)), "SIGINT received")
    assert end.effects == (Leave("SIGINT received"), Finish(GroupState.STOPPED, 130))


def test_a_signal_when_all_workers_ended_well_is_no_news_for_the_others() -> None:
    group = machine()

    stop = play(group, *DONE, SIGINT)
    end = play(group, StopFinished())

    assert stop == (GroupState.STOPPING, (StopWorkers(signal.SIGINT, GRACE_S),), "SIGINT received")
    assert end.effects == (Leave("SIGINT received"), Finish(GroupState.STOPPED, 130))


@pytest.mark.parametrize("before", [(), (Begun(),)], ids=["before the run", "in the rendezvous"])
def test_a_signal_without_workers_leaves_at_once(before: tuple[Event, ...]) -> None:
    end = play(machine(), *before, SIGTERM)

    assert end.effects == (Leave("SIGTERM received"), Finish(GroupState.STOPPED, 143))


def test_a_signal_during_the_start_stops_the_workers_with_it_once_they_run() -> None:
    group = machine()

    told = play(group, Begun(), ADMITTED, SIGINT)

    assert told.effects == (ReportGoing("SIGINT received"),)
    assert play(group, STARTED).effects == (StopWorkers(signal.SIGINT, GRACE_S),)


def test_further_signals_only_turn_the_stop_into_a_kill() -> None:
    group = machine()
    play(group, *RUNNING, SIGTERM)

    second, third = play(group, SIGINT), play(group, SIGINT)
    end = play(group, StopFinished())

    assert second == (GroupState.STOPPING, (KILL,), "SIGINT received again: killing the workers")
    assert third.state is GroupState.STOPPING
    assert end.effects[-1] == Finish(GroupState.STOPPED, 143)


def test_a_signal_while_stopping_for_the_next_round_ends_the_run_here() -> None:
    group = machine(max_restarts=1)

    waiting = play(group, *RUNNING, CRASH, SIGTERM)
    end = play(group, StopFinished())

    assert waiting.effects == (ReportGoing("SIGTERM received"),)
    assert end.effects == (Leave("SIGTERM received"), Finish(GroupState.STOPPED, 143))


def test_a_signal_while_ending_keeps_the_verdict_and_the_next_one_kills() -> None:
    group = machine()

    first = play(group, *RUNNING, CRASH, SIGTERM)
    second = play(group, SIGTERM)
    end = play(group, StopFinished())

    assert (first.effects, second.effects) == ((), (KILL,))
    assert end.effects[-1] == Finish(GroupState.FAILED, 42)


# --- a stop that takes long --------------------------------------------------------------------------------


SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize(
    ("reason", "ways"),
    [
        (SIGINT, "; a second SIGINT kills at once"),
        (RoundOver("b left"), "; SIGINT or SIGTERM twice ends this node and kills at once"),
        (RunClosed("failed", "b failed"), "; SIGINT or SIGTERM twice kills at once"),
    ],
)
def test_a_stop_that_takes_long_is_told_once_with_what_would_end_it(reason: Event, ways: str) -> None:
    group = machine(signals=SIGNALS)
    play(group, *RUNNING, WorkerExited(0, 0), reason, now=100.0)
    number = "SIGINT" if reason is SIGINT else "SIGTERM"

    assert group.next_deadline() == 100.0 + SLOW_STOP_S
    told = play(group, Ticked(), now=102.0)

    waits = f"worker 1 (pid 101) has not ended 2 s after {number}, SIGKILL follows in 28 s"
    assert told == (GroupState.STOPPING, (), waits + ways)
    assert group.next_deadline() == math.inf


def test_workers_that_end_during_the_stop_are_not_waited_for() -> None:
    group = machine()
    play(group, *RUNNING, RoundOver("b left"), WorkerExited(1, -15))

    why = play(group, Ticked(), now=2.0).why

    assert why == "worker 0 (pid 100) has not ended 2 s after SIGTERM, SIGKILL follows in 28 s"


@pytest.mark.parametrize(
    "events",
    [(SIGTERM, SIGTERM), (SIGTERM, Fenced("lost")), (Fenced("lost"),), (SIGTERM, StopFinished())],
    ids=["killed", "fenced meanwhile", "fenced", "stopped"],
)
def test_a_stop_that_is_a_kill_or_is_over_is_not_told(events: tuple[Event, ...]) -> None:
    group = machine()

    play(group, *RUNNING, *events)

    assert group.next_deadline() == math.inf


def test_a_stop_with_little_grace_is_not_told() -> None:
    group = WorkerGroupMachine(GroupRules(local_world_size=2, grace_s=SLOW_STOP_S))

    play(group, *RUNNING, SIGTERM)

    assert group.next_deadline() == math.inf


# --- the store out of reach ------------------------------------------------------------------------------


def test_a_store_out_of_reach_is_put_up_with_until_patience_ends() -> None:
    group = machine(store_patience_s=20.0)

    lost = play(group, *RUNNING, StoreLost("connection refused"), now=100.0)
    again = play(group, StoreLost("timed out"), now=110.0)
    early = play(group, Ticked(), now=119.0)
    late = play(group, Ticked(), now=120.0)
    end = play(group, StopFinished())

    assert lost.effects == again.effects == early.effects == ()
    assert lost.why == again.why == "the rendezvous does not answer: connection refused"
    assert late.effects == (TERM,)
    assert late.why == "the rendezvous does not answer: connection refused; gave up after 20 s"
    assert end.effects == (Finish(GroupState.FAILED, 1),)


def test_a_node_that_is_done_waits_only_briefly_for_a_store_out_of_reach_and_ends_well() -> None:
    group = machine(farewell_s=5.0)

    play(group, *DONE, StoreLost("connection refused"), now=100.0)
    early = play(group, Ticked(), now=104.0)
    late = play(group, Ticked(), now=105.0)
    end = play(group, StopFinished())

    assert (early.effects, late.effects) == ((), (TERM,))
    assert late.why == (
        "all workers of this node ended well, how the other nodes fare is not known: "
        "the rendezvous does not answer: connection refused"
    )
    assert end.effects == (Finish(GroupState.SUCCEEDED, 0),)


def test_workers_that_end_well_while_the_store_is_out_of_reach_shorten_the_wait() -> None:
    group = machine(farewell_s=5.0, store_patience_s=30.0)

    play(group, *RUNNING, StoreLost("connection refused"), now=100.0)
    play(group, WorkerExited(0, 0), WorkerExited(1, 0), now=110.0)

    assert group.next_deadline() == 115.0


def test_a_node_that_is_cut_off_kills_its_workers_and_joins_again() -> None:
    group = machine()

    cut_off = play(group, *RUNNING, CutOff("nothing was heard for 15 s"))
    after = play(group, StopFinished())

    assert cut_off.effects == (KILL,)
    assert cut_off.why == "round 0 is over for this node: nothing was heard for 15 s"
    assert after.effects == (Rendezvous(),)


def test_a_node_that_is_cut_off_when_it_is_done_ends_well() -> None:
    group = machine()

    play(group, *DONE, CutOff("nothing was heard for 15 s"))

    assert play(group, StopFinished()).effects == (Finish(GroupState.SUCCEEDED, 0),)


def test_a_store_that_answers_again_is_forgiven() -> None:
    group = machine(store_patience_s=20.0)
    play(group, *RUNNING, StoreLost("timed out"), StoreBack())

    assert group.next_deadline() == math.inf
    assert play(group, Ticked(), now=1000.0).effects == ()


def test_the_wait_for_the_other_nodes_can_be_limited() -> None:
    group = machine(success_wait_s=300.0)
    play(group, *DONE, now=7.0)

    deadline = group.next_deadline()
    late = play(group, Ticked(), now=deadline)

    assert deadline == 307.0
    assert late.effects == (TERM,)
    assert play(group, StopFinished()).effects == (Finish(GroupState.SUCCEEDED, 0),)


# --- the table -------------------------------------------------------------------------------------------

ENDS = {
    GroupState.STOPPED: (Begun(), SIGTERM),
    GroupState.FAILED: (Begun(), RendezvousFailed("alone")),
    GroupState.SUCCEEDED: (Begun(), Dismissed("not needed")),
}
ANY_EVENT: tuple[Event, ...] = (
    *(Begun(), ADMITTED, RendezvousFailed("x"), Dismissed("x"), RunClosed("failed", "x"), RoundOver("x"), Fenced("x")),
    *(STARTED, StartFailed("x", 1), CRASH, StopFinished(), SIGTERM, StoreLost("x"), StoreBack(), Ticked()),
)


@pytest.mark.parametrize(("state", "event"), list(product(ENDS, ANY_EVENT)), ids=str)
def test_nothing_happens_after_the_end(state: GroupState, event: Event) -> None:
    group = machine()
    play(group, *ENDS[state])
    assert group.state is state
    assert state.is_final

    assert play(group, event) == (state, (), f"{type(event).__name__} means nothing while {state.value}")


def test_a_late_arrival_changes_nothing() -> None:
    decision = play(machine(), Begun(), StopFinished())

    assert decision == (GroupState.RENDEZVOUS, (), "StopFinished means nothing while rendezvous")


def test_a_budget_that_all_nodes_share_is_left_to_who_counts() -> None:
    group = machine(max_restarts=1, is_budget_shared=True)
    for number in range(3):
        decision = play(group, *(RUNNING if number == 0 else RUNNING[1:]), CRASH)
        assert decision.effects == (ReportFailure("worker 1 (pid 101) ended with exit code 42", 42, final=False), TERM)
        play(group, StopFinished())
    assert group.restarts_used == 1

    decision = play(group, RunClosed("failed", "the restart is used up"))

    assert decision.effects == (Finish(GroupState.FAILED, 42),)
