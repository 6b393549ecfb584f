"""An agent that vanishes takes its workers along, however it went."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

FAMILY = """
import os, signal

def stay(name):
    os.write(1, (name + "\\n").encode())
    while True:
        signal.pause()

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if not os.fork():
    stay("child")
if not os.fork():
    os.setpgid(0, 0)
    stay("child in a group of its own")
if not os.fork():
    os.setsid()
    if os.fork():
        os._exit(0)
    stay("daemon")
stay("worker")
"""

AGENT = """
import os, signal, sys
from rallypoint.agent.guard import Guard
from rallypoint.agent.process import WorkerCommand, WorkerProcesses

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])  # the test's word; waited for below

def start(*argv):
    guard = Guard.start()
    WorkerProcesses.start([WorkerCommand(0, argv, dict(os.environ))], guard=guard)
    return guard

"""

NAMES = {"worker", "child", "child in a group of its own", "daemon"}


@pytest.fixture
def family(tmp_path: Path) -> Path:
    path = tmp_path / "family.py"
    path.write_text(FAMILY)
    return path


class RunningAgent:
    """An agent in a process of its own. Its output ends when all who inherited it are gone."""

    def __init__(self, code: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", AGENT + code, *arguments],
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
            text=True,
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout

    def lines(self, count: int) -> set[str]:
        return {self.output.readline().rstrip("\n") for _ in range(count)}

    def __enter__(self) -> RunningAgent:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.output.close()


WIPED = """
import os, subprocess, sys, time
code = "import os, time; os.write(1, b'wiped\\\\n'); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", code], env={}, start_new_session=True)
time.sleep(600)
"""

STAY_AS_AGENT = "start(sys.executable, sys.argv[1])\nwhile True: signal.pause()\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGABRT])
def test_an_agent_ended_by_a_signal_takes_workers_children_and_daemons_along(
    family: Path, number: signal.Signals
) -> None:
    with RunningAgent(STAY_AS_AGENT, str(family)) as agent:
        assert agent.lines(4) == NAMES

        agent.process.send_signal(number)

        assert agent.output.read() == ""
        assert agent.process.wait() == -number


def test_an_agent_that_leaves_without_a_word_takes_its_workers_along(family: Path) -> None:
    code = "start(sys.executable, sys.argv[1])\nsignal.sigwait([signal.SIGUSR1])\nos._exit(3)\n"
    with RunningAgent(code, str(family)) as agent:
        assert agent.lines(4) == NAMES

        agent.process.send_signal(signal.SIGUSR1)

        assert agent.output.read() == ""


def test_a_fork_of_the_agent_that_holds_the_guards_pipe_does_not_fool_it(family: Path) -> None:
    code = """
start(sys.executable, sys.argv[1])
holder = os.fork()
if not holder:
    os.close(1)  # keeps the guard's pipe, not the output that the test waits for
    while True: signal.pause()
os.write(1, b"holder %d\\n" % holder)
while True: signal.pause()
"""
    with RunningAgent(code, str(family)) as agent:
        lines = agent.lines(5)
        (holder,) = (int(line.split()[1]) for line in lines - NAMES)
        try:
            agent.process.kill()

            assert agent.output.read() == ""
            os.kill(holder, 0)  # no worker, so nobody's business
        finally:
            os.kill(holder, signal.SIGKILL)


def test_an_agent_that_closes_its_descriptors_and_lives_on_keeps_its_workers(family: Path) -> None:
    code = """
guard = start(sys.executable, sys.argv[1])
os.close(guard._process.stdin.fileno())
os.write(1, b"closed\\n")
signal.sigwait([signal.SIGUSR1])
os.kill(guard.pid, 0)
os.write(1, b"guarded\\n")
while True: signal.pause()
"""
    with RunningAgent(code, str(family)) as agent:
        assert agent.lines(5) == NAMES | {"closed"}
        agent.process.send_signal(signal.SIGUSR1)
        assert agent.lines(1) == {"guarded"}

        agent.process.kill()

        assert agent.output.read() == ""


def test_the_workers_of_an_agent_within_a_worker_are_taken_along_too(family: Path, tmp_path: Path) -> None:
    inner = tmp_path / "inner.py"
    inner.write_text(AGENT + STAY_AS_AGENT)
    with RunningAgent(
        "start(sys.executable, *sys.argv[1:])\nwhile True: signal.pause()\n", str(inner), str(family)
    ) as (agent):
        assert agent.lines(4) == NAMES

        agent.process.kill()

        assert agent.output.read() == ""


def test_a_worker_that_keeps_starting_daemons_is_ended_with_all_of_them(tmp_path: Path) -> None:
    storm = tmp_path / "storm.py"
    storm.write_text(
        "import os, time\n"
        "for n in range(100000):\n"
        "    if not os.fork():\n"
        "        os.setsid()\n"
        "        if n == 20: os.write(1, b'storm\\n')\n"
        "        time.sleep(600)\n"
        "    time.sleep(0.005)\n"
    )
    with RunningAgent(STAY_AS_AGENT, str(storm)) as agent:
        assert agent.lines(1) == {"storm"}

        agent.process.kill()

        assert agent.output.read() == ""


def test_a_descendant_that_wiped_its_environment_and_left_the_session_is_taken_along(tmp_path: Path) -> None:
    script = tmp_path / "wiped.py"
    script.write_text(WIPED)
    with RunningAgent(STAY_AS_AGENT, str(script)) as agent:
        assert agent.lines(1) == {"wiped"}

        agent.process.kill()

        assert agent.output.read() == ""


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        yield process
        process.kill()


def test_a_bystander_of_the_same_user_is_left_alone(family: Path, bystander: subprocess.Popen[bytes]) -> None:
    with RunningAgent(STAY_AS_AGENT, str(family)) as agent:
        assert agent.lines(4) == NAMES
        agent.process.kill()
        assert agent.output.read() == ""

    assert bystander.poll() is None


def test_a_guard_that_is_killed_is_replaced_at_the_next_start(family: Path) -> None:
    code = """
guard = Guard.start()
os.kill(guard.pid, signal.SIGKILL)
os.waitid(os.P_PID, guard.pid, os.WEXITED | os.WNOWAIT)
WorkerProcesses.start([WorkerCommand(0, (sys.executable, sys.argv[1]), dict(os.environ))], guard=guard)
while True: signal.pause()
"""
    with RunningAgent(code, str(family)) as agent:
        assert agent.lines(4) == NAMES

        agent.process.kill()

        assert agent.output.read() == ""
