"""A run whose store host dies amid it, and comes back: with its data nobody restarts, without it everybody says so."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.launcher import WAIT, Run, until, write_script
from tests.support.served import free_port, served

from rallypoint import TCPStore

SESSION = {"RALLYPOINT_DIALECT": "session"}
FAST = "is_host=0,last_call_timeout=1,keep_alive_interval=0.2,keep_alive_max_attempt=8"
"""A node gives its round up when it has heard nothing for 1.6 seconds."""

GONE = "has other data now: what this store knew is gone|is gone, and what it held with it"
"""What a node says whose host is back, and one whose host was away for so long that it is not waited for."""

STEPS = 60


class StoreHost:
    """``rallypoint serve`` on one port, killed with SIGKILL and started again."""

    def __init__(self, stack: ExitStack, *options: str) -> None:
        self.port = free_port()
        self._stack = stack
        self._options = options
        self.start()

    def start(self) -> None:
        self._process, _ = self._stack.enter_context(served("--port", str(self.port), *self._options))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def options(host: StoreHost, conf: str) -> list[str]:
    return ["--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{host.port}", f"--rdzv-conf={conf}"]


def write_work(folder: Path, host: StoreHost) -> str:
    """Write workers that count their steps in the store, and end when a file says so."""
    return write_script(
        folder,
        "import pathlib, time",
        "from rallypoint import TCPStore",
        f'store = TCPStore("127.0.0.1", {host.port}, wait_for_workers=False, timeout=60)',
        "report()",
        f"for step in range({STEPS}):",
        '    store.add("steps", 1)',
        "    time.sleep(0.05)",
        'store.set("finished/" + os.environ["RANK"], "yes")',
        f"while not pathlib.Path({str(folder / 'go')!r}).exists(): time.sleep(0.02)",
    )


def rounds_of(*runs: Run) -> list[list[str]]:
    return [[report["RALLYPOINT_ROUND"] for report in run.reports()] for run in runs]


def has_given_up(run: Run) -> bool:
    """Tell whether a node has given its round up, or even the run."""
    return "is over for this node" in run.stderr or run.process.poll() is not None


def test_a_durable_store_host_may_be_killed_amid_a_run(tmp_path: Path) -> None:
    with ExitStack() as stack:
        host = StoreHost(stack, "--data-dir", str(tmp_path / "data"))
        both = [*options(host, "is_host=0,last_call_timeout=1"), write_work(tmp_path, host)]
        a, b = (stack.enter_context(Run(tmp_path, *both, name=name, environ=SESSION)) for name in "ab")
        for run in (a, b):
            run.until_reports(1)
        for _ in range(2):
            with TCPStore("127.0.0.1", host.port, wait_for_workers=False, dialect="session") as store:
                before = store.add("steps", 0)
                until("workers take steps", lambda store=store, before=before: store.add("steps", 0) > before)
            host.kill()
            host.start()
        with TCPStore("127.0.0.1", host.port, wait_for_workers=False, dialect="session", timeout=60) as store:
            store.wait(["finished/0", "finished/1"])
            steps = store.add("steps", 0)
        (tmp_path / "go").touch()
        assert (a.wait(), b.wait()) == (0, 0), a.stderr + b.stderr

    assert steps == 2 * STEPS, "each step was counted once"
    assert rounds_of(a, b) == [["0"], ["0"]]


def test_a_run_outlives_its_store_host_by_a_round(tmp_path: Path) -> None:
    with ExitStack() as stack:
        host = StoreHost(stack, "--data-dir", str(tmp_path / "data"))
        both = [*options(host, FAST), write_work(tmp_path, host)]
        a, b = (stack.enter_context(Run(tmp_path, *both, name=name, environ=SESSION)) for name in "ab")
        for run in (a, b):
            run.until_reports(1)
        host.kill()
        for run in (a, b):
            until("the node gives its round up", lambda run=run: "is over for this node" in run.stderr)
        host.start()
        (tmp_path / "go").touch()
        assert (a.wait(), b.wait()) == (0, 0), a.stderr + b.stderr

    assert [rounds[-1] for rounds in rounds_of(a, b)] == ["1", "1"]


@pytest.mark.parametrize("interval_s", [0.2, 1], ids=["later", "before"])
def test_a_store_host_that_forgot_everything_ends_the_run_with_a_word(tmp_path: Path, interval_s: float) -> None:
    with ExitStack() as stack:
        host = StoreHost(stack)
        conf = f"is_host=0,last_call_timeout=1,keep_alive_interval={interval_s}"
        both = [*options(host, conf), write_script(tmp_path, "report()", WAIT)]
        a, b = (stack.enter_context(Run(tmp_path, *both, name=name, environ=SESSION)) for name in "ab")
        for run in (a, b):
            run.until_reports(1)
        host.kill()
        if interval_s < 1:
            for run in (a, b):
                until("the node gives its round up", lambda run=run: has_given_up(run))
        host.start()
        assert (a.wait(), b.wait()) == (1, 1), a.stderr + b.stderr

    for run in (a, b):
        said = run.stderr.splitlines()[-1]
        assert said.startswith("rallypoint: ")
        assert re.search(GONE, said), said
        assert "Traceback" not in run.stderr
