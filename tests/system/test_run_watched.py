"""What else watches a run: timers over pieces of work, and a port that says whether the agent lives."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path

from tests.support.launcher import WAIT, Run, until, write_script

LATE_ONCE = (
    "import time",
    "import rallypoint.elastic.timer as timer",
    "timer.configure(timer.FileTimerClient(os.environ['TORCHELASTIC_TIMER_FILE']))",
    "report()",
    "is_late = os.environ['RANK'] == '1' and int(os.environ['RALLYPOINT_ROUND']) < int(sys.argv[1])",
    "with timer.expires(after=0.2 if is_late else 600, scope='step'):",
    "    if is_late: time.sleep(600)",
)


def test_a_worker_that_is_late_is_killed_and_the_run_goes_on(tmp_path: Path) -> None:
    environ = {"TORCHELASTIC_ENABLE_FILE_TIMER": "1", "TORCHELASTIC_TIMER_FILE": str(tmp_path / "timers")}
    options = ("--nproc-per-node=2", "--max-restarts=1", write_script(tmp_path, *LATE_ONCE), "1")
    with Run(tmp_path, *options, environ=environ) as run:
        assert run.wait() == 0
        assert len(run.reports()) == 4

    assert "its timer expired in step" in run.stderr
    assert not (tmp_path / "timers").exists()


def test_the_report_of_a_late_worker_names_its_piece_of_work(tmp_path: Path) -> None:
    environ = {"TORCHELASTIC_ENABLE_FILE_TIMER": "1"}
    with Run(tmp_path, "--nproc-per-node=2", write_script(tmp_path, *LATE_ONCE), "9", environ=environ) as run:
        assert run.wait() == 137

    assert "rank 1" in run.stderr
    assert "its timer expired in step" in run.stderr
    assert not list(tmp_path.glob("watchdog_timer_*"))


def test_workers_hear_of_a_pipe_only_if_somebody_asked_for_one(tmp_path: Path) -> None:
    with Run(tmp_path, write_script(tmp_path, "report()")) as run:
        assert run.wait() == 0
        (report,) = run.reports()

    assert "TORCHELASTIC_TIMER_FILE" not in report
    assert "TORCHELASTIC_HEALTH_CHECK_PORT" not in report


def test_an_agent_can_be_asked_whether_it_lives(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    environ = {"TORCHELASTIC_HEALTH_CHECK_PORT": str(port)}
    with Run(tmp_path, write_script(tmp_path, "report()", WAIT), environ=environ) as run:
        (report,) = run.until_reports(1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as reply:
            assert reply.status == 200
        run.process.terminate()
        assert run.wait() == 143
        until("the port is closed", lambda: not answers(port))

    assert report["TORCHELASTIC_HEALTH_CHECK_PORT"] == str(port)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
