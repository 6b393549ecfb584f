"""What can happen to a worker group, and what is to be done about it: the words of ``agent.group``.

Plain data without behaviour, shared by the machine that decides and the driver that acts. Time that passes
between an effect and the event that answers it is the driver's.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeAlias

__all__ = [
    "Begun",
    "CutOff",
    "Decision",
    "Dismissed",
    "Effect",
    "Event",
    "Fenced",
    "Finish",
    "GroupRules",
    "GroupState",
    "Leave",
    "Rendezvous",
    "RendezvousDone",
    "RendezvousFailed",
    "ReportFailure",
    "ReportGoing",
    "ReportSuccess",
    "RoundOver",
    "RunClosed",
    "SignalReceived",
    "StartFailed",
    "StartWorkers",
    "Started",
    "StopFinished",
    "StopWorkers",
    "StoreBack",
    "StoreLost",
    "Ticked",
    "WorkerExited",
    "describe_exit",
    "describe_signal",
    "describe_slow_stop",
    "exit_code_of",
]

WORKERS_NAMED_MAX = 8
"""A sentence names so many workers; the rest is counted."""


class GroupState(Enum):
    """Where the worker group of a node stands."""

    INIT = "init"
    RENDEZVOUS = "rendezvous"
    STARTING = "starting"
    HEALTHY = "healthy"
    STOPPING = "stopping"
    SUCCEEDED_WAITING = "succeeded, waiting for the other nodes"
    STOPPED = "stopped"
    FAILED = "failed"
    SUCCEEDED = "succeeded"

    @property
    def is_final(self) -> bool:
        """Tell whether the run has ended on this node."""
        return self in (GroupState.STOPPED, GroupState.FAILED, GroupState.SUCCEEDED)


@dataclass(frozen=True)
class GroupRules:
    """What the machine is told once.

    Attributes:
        local_world_size: how many workers this node runs, at least 1.
        max_restarts: how many failures of own workers are answered by another round, 0 or more.
        is_budget_shared: whether ``max_restarts`` is of all nodes together; who counts closes the run after it.
        grace_s: seconds between the signal that asks workers to end and SIGKILL, 0 or more.
        store_patience_s: seconds without any answer from the store until the node gives up.
        success_wait_s: seconds that a node whose workers ended well waits for the others.
        farewell_s: seconds that such a node waits for a rendezvous that does not answer.
        signals: those that the agent takes as the end of the run, for what people are told.
    """

    local_world_size: int
    max_restarts: int = 0
    grace_s: float = 30.0
    store_patience_s: float = 30.0
    success_wait_s: float = math.inf
    farewell_s: float = 5.0
    is_budget_shared: bool = False
    signals: tuple[int, ...] = ()


# --- what can happen -------------------------------------------------------------------------------------


class Begun(NamedTuple):
    """The agent was told to run."""


class RendezvousDone(NamedTuple):
    """A round is formed and this node's place in it is known."""

    round: int
    node_rank: int
    node_count: int


class RendezvousFailed(NamedTuple):
    """No round came about: too few nodes in time, or a backend that does not answer."""

    why: str


class Dismissed(NamedTuple):
    """This node stood by as a spare, and the run ended without it."""

    why: str


class RunClosed(NamedTuple):
    """The run has ended for all nodes; ``outcome`` is ``succeeded``, ``failed``, ``closed`` or unknown."""

    outcome: str | None
    why: str

    def tell(self) -> str:
        """Give a sentence; ``why`` may be a whole one of the run already."""
        return self.why if self.why.startswith("the run ") else f"the run has ended: {self.why}"


class RoundOver(NamedTuple):
    """Another round is wanted: a node came, went, or reported a failure."""

    why: str


class Fenced(NamedTuple):
    """The others took this node for dead and went on without it."""

    why: str


class CutOff(NamedTuple):
    """Nobody has answered for so long that the others may go on without this node."""

    why: str


class Started(NamedTuple):
    """All workers run: process id by local rank."""

    pids: Mapping[int, int]


class StartFailed(NamedTuple):
    """A worker could not be started; those started before it are gone again."""

    why: str
    exit_code: int


class WorkerExited(NamedTuple):
    """A worker ended: its exit code, or minus the signal that killed it; ``detail`` is what it said about it."""

    local_rank: int
    returncode: int
    detail: str = ""


class StopFinished(NamedTuple):
    """All workers of this node, and all their children, are gone."""


class SignalReceived(NamedTuple):
    """Somebody asks this agent to end."""

    number: int


class StoreLost(NamedTuple):
    """The rendezvous did not answer; whether the round still stands is unknown."""

    why: str


class StoreBack(NamedTuple):
    """The rendezvous answers again."""


class Ticked(NamedTuple):
    """Time passed."""


Event: TypeAlias = (
    Begun
    | RendezvousDone
    | RendezvousFailed
    | Dismissed
    | RunClosed
    | RoundOver
    | Fenced
    | CutOff
    | Started
    | StartFailed
    | WorkerExited
    | StopFinished
    | SignalReceived
    | StoreLost
    | StoreBack
    | Ticked
)


# --- what is to be done ----------------------------------------------------------------------------------


class Rendezvous(NamedTuple):
    """Join the next round; answered by RendezvousDone, RendezvousFailed, RunClosed, Dismissed or RoundOver."""


class StartWorkers(NamedTuple):
    """Start all workers; answered by Started or StartFailed."""

    round: int
    restarts_used: int


class StopWorkers(NamedTuple):
    """Signal all workers, kill what is left after ``grace_s``; answered by StopFinished, once.

    During a stop it means: from now on this signal and this grace.
    """

    signal_number: int
    grace_s: float


class ReportFailure(NamedTuple):
    """Tell the other nodes that a worker failed here; ``final`` ends the run. Minus n: killed by signal n."""

    message: str
    returncode: int
    final: bool


class ReportSuccess(NamedTuple):
    """Tell the other nodes that all workers ended well here."""


class ReportGoing(NamedTuple):
    """Tell the other nodes that this one stops its workers and then leaves, so that they need not wait for that."""

    why: str


class Leave(NamedTuple):
    """Tell the other nodes that this one goes, so that they need not find out."""

    why: str


class Finish(NamedTuple):
    """The run has ended on this node."""

    state: GroupState
    exit_code: int


Effect: TypeAlias = (
    Rendezvous | StartWorkers | StopWorkers | ReportFailure | ReportSuccess | ReportGoing | Leave | Finish
)


class Decision(NamedTuple):
    """One step's result: where the group stands now, what to do in order, and why."""

    state: GroupState
    effects: tuple[Effect, ...]
    why: str


def exit_code_of(returncode: int) -> int:
    """Give the exit code that a shell would show: the worker's own, or 128 + the signal that killed it."""
    return returncode if returncode >= 0 else 128 - returncode


def describe_signal(number: int) -> str:
    """Give a signal's name, or its number where the platform has no name for it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def describe_slow_stop(left: Mapping[int, int], number: int, waited_s: float, left_s: float) -> str:
    """Give one clause about a stop that takes its time.

    Args:
        left: the workers that have yet to end: process id by local rank; none if only what they started is left.
        number: the signal that they were sent.
        waited_s: how long ago, in seconds.
        left_s: the seconds until SIGKILL.
    """
    named = [f"{local_rank} (pid {pid})" for local_rank, pid in sorted(left.items())[:WORKERS_NAMED_MAX]]
    more = f" and {len(left) - len(named)} more" if len(left) > len(named) else ""
    if len(left) > 1:
        who = f"workers {', '.join(named)}{more} have"
    else:
        who = f"worker {named[0]} has" if named else "what the workers have started has"
    return f"{who} not ended {waited_s:g} s after {describe_signal(number)}, SIGKILL follows in {left_s:.0f} s"


def describe_exit(local_rank: int, pid: int | None, returncode: int) -> str:
    """Give one clause about how a worker ended."""
    who = f"worker {local_rank} (pid {pid})" if pid is not None else f"worker {local_rank}"
    if returncode < 0:
        return f"{who} was killed by {describe_signal(-returncode)}"
    return f"{who} ended with exit code {returncode}"
