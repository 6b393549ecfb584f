"""A node is asked to go, and its workers take their time: the others stop at once, and begin again when those ended."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.launcher import Run, has_ended, serving, until, write_script
from tests.support.nodes import coordinates, kill, pids, together

FAST = "last_call_timeout=1,keep_alive_interval=0.3,keep_alive_max_attempt=10"

WORK = """
import pathlib, signal, time
here, node, round_ = pathlib.Path.cwd(), os.environ["NODE"], os.environ["RALLYPOINT_ROUND"]
def note(what):
    with open(here / "events", "a") as events: events.write(f"{what} {node} {round_}\\n")
def end(number, frame):
    note("asked")
    if (here / "slow").exists() and (here / "slow").read_text() == node:
        while not (here / "permission").exists(): time.sleep(0.02)
    note("ended")
    os._exit(0)
signal.signal(signal.SIGTERM, end)
note("began")
report()
while not (here / "done").exists(): time.sleep(0.02)
"""


class Job:
    """The nodes of one run, and what their workers have noted."""

    def __init__(self, stack: ExitStack, folder: Path, endpoint: str, backend: str) -> None:
        self._stack = stack
        self._folder = folder
        self._options = [f"--rdzv-backend={backend}", f"--rdzv-endpoint={endpoint}", "--rdzv-id=test"]
        self._options += [f"--rdzv-conf={'is_host=0,' if backend == 'rallypoint' else ''}{FAST}"]
        self._work = write_script(folder, WORK)

    def node(self, name: str, nodes: str) -> Run:
        arguments = [f"--nnodes={nodes}", *self._options, "--shutdown-timeout=600", self._work]
        return self._stack.enter_context(Run(self._folder, *arguments, name=name, environ={"NODE": name}))

    def touch(self, name: str, text: str = "") -> None:
        (self._folder / name).write_text(text)

    @property
    def events(self) -> list[str]:
        return (self._folder / "events").read_text().splitlines()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def go(job: Job, runs: dict[str, Run], name: str) -> tuple[int, list[Run]]:
    """Have a node be asked to go, whose workers do not end; give the round, and the others, when theirs have ended."""
    first = together(*runs.values())
    others = [run for run in runs.values() if run is not runs[name]]
    old = [pids(run)[-1] for run in others]
    job.touch("slow", name)
    runs[name].process.send_signal(signal.SIGTERM)
    for pid in old:
        until("a worker of another node has ended", lambda pid=pid: has_ended(pid))
    assert f"asked {name} {first}" in job.events
    assert not has_ended(pids(runs[name])[-1])
    for run in others:
        until("it knows whom it waits for", lambda run=run: "to end, which is going" in run.stderr)
        assert "is going: SIGTERM received" in run.stderr
    return first, others


def check_order(job: Job, first: int, name: str) -> None:
    """See that no worker began anew before the last of the round before had ended."""
    ended = job.events.index(f"ended {name} {first}")
    began = [at for at, event in enumerate(job.events) if event.startswith("began") and event.endswith(f" {first + 1}")]
    assert min(began) > ended, job.events


@pytest.mark.parametrize("is_head", [False, True], ids=["a node", "the coordinator"])
def test_the_others_stop_at_once_and_begin_again_when_the_workers_of_who_goes_have_ended(
    stack: ExitStack, tmp_path: Path, is_head: bool
) -> None:
    job = Job(stack, tmp_path, stack.enter_context(serving()), "rallypoint")
    runs = {name: job.node(name, "2:3") for name in "abc"}
    together(*runs.values())
    name = max(runs, key=lambda name: coordinates(runs[name]) is is_head)
    first, others = go(job, runs, name)
    job.touch("permission")
    assert together(*others, after=first) == first + 1
    check_order(job, first, name)
    job.touch("done")
    assert runs[name].wait() == 143
    assert [run.wait() for run in others] == [0, 0], "".join(run.stderr for run in others)
    assert "killing" not in runs[name].stderr


def test_an_agent_that_is_killed_while_it_is_going_is_not_waited_for(stack: ExitStack, tmp_path: Path) -> None:
    job = Job(stack, tmp_path, stack.enter_context(serving()), "rallypoint")
    runs = {name: job.node(name, "1:2") for name in "ab"}
    first, (other,) = go(job, runs, "b")
    kill(runs["b"])
    assert together(other, after=first) == first + 1
    until("the guard has ended its worker", lambda: has_ended(pids(runs["b"])[-1]))
    job.touch("done")
    assert other.wait() == 0, other.stderr


def test_a_newcomer_takes_the_place_of_who_is_going_when_that_has_gone(stack: ExitStack, tmp_path: Path) -> None:
    job = Job(stack, tmp_path, stack.enter_context(serving()), "rallypoint")
    runs = {name: job.node(name, "2") for name in "ab"}
    first = together(*runs.values())
    job.touch("slow", "b")
    runs["b"].process.send_signal(signal.SIGTERM)
    until("there are too few nodes", lambda: "waiting for 1" in runs["a"].stderr)
    newcomer = job.node("c", "2")
    until("it knows whom it waits for", lambda: "to end, which is going" in newcomer.stderr)
    assert not has_ended(pids(runs["b"])[-1])
    job.touch("permission")
    assert together(runs["a"], newcomer, after=first) == first + 1
    check_order(job, first, "b")
    job.touch("done")
    assert (runs["a"].wait(), newcomer.wait(), runs["b"].wait()) == (0, 0, 143)


def test_on_etcd_too_the_others_stop_at_once(stack: ExitStack, tmp_path: Path, etcd_url: str) -> None:
    job = Job(stack, tmp_path, etcd_url, "etcd")
    runs = {name: job.node(name, "1:2") for name in "ab"}
    first, (other,) = go(job, runs, "b")
    job.touch("permission")
    assert together(other, after=first) == first + 1
    check_order(job, first, "b")
    job.touch("done")
    assert (other.wait(), runs["b"].wait()) == (0, 143)
