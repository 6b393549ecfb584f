from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.support.launcher import WAIT, Run, has_ended, until, write_script


def test_two_workers_run_once_and_know_their_places(tmp_path: Path) -> None:
    with Run(tmp_path, "--standalone", "--nproc-per-node=2", write_script(tmp_path, "report()")) as run:
        assert run.wait() == 0

    first, second = sorted(run.reports(), key=lambda report: report["RANK"])
    own = {"LOCAL_RANK": "0", "RANK": "0", "ROLE_RANK": "0"}
    both = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "ROLE_WORLD_SIZE": "2",
        "ROLE_NAME": "default",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        "OMP_NUM_THREADS": "1",
        "RALLYPOINT_ROUND": "0",
        "RALLYPOINT_NODE_RESTARTS": "0",
    }
    assert first.items() >= (both | own).items()
    assert second.items() >= (both | dict.fromkeys(own, "1")).items()
    for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_ERROR_FILE"):
        assert first[name], name
    assert first["MASTER_PORT"] == second["MASTER_PORT"]
    assert "Traceback" not in run.stderr


def test_the_workers_can_use_the_store_that_they_are_told_of(tmp_path: Path) -> None:
    work = write_script(
        tmp_path,
        "from rallypoint.store.tcp import TCPStore",
        'store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=30)',
        'store.set("from " + os.environ["RANK"], os.environ["RANK"])',
        'report(heard=store.get("from " + str(1 - int(os.environ["RANK"]))).decode())',
    )

    with Run(tmp_path, "--standalone", "--nproc-per-node=2", work) as run:
        assert run.wait() == 0, run.stderr

    assert {report["RANK"]: report["heard"] for report in run.reports()} == {"0": "1", "1": "0"}


def test_the_plain_form_keeps_the_users_run_id(tmp_path: Path) -> None:
    with Run(tmp_path, "--rdzv-id=mine", write_script(tmp_path, "report()")) as run:
        assert run.wait() == 0

    assert run.reports()[0]["TORCHELASTIC_RUN_ID"] == "mine"


def test_what_follows_the_script_is_the_scripts(tmp_path: Path) -> None:
    arguments = ["--nnodes=3", "-m", "$HOME", "a$$b", "${local_rank}", "--", "--tee"]

    with Run(tmp_path, write_script(tmp_path, "report()"), *arguments) as run:
        assert run.wait() == 0

    assert run.reports()[0]["arguments"] == '["--nnodes=3", "-m", "$HOME", "a$$b", "${local_rank}", "--", "--tee"]'


def test_options_can_be_spelled_with_underscores_and_come_from_the_environment(tmp_path: Path) -> None:
    work = write_script(tmp_path, "report()")

    with Run(tmp_path, "--nproc_per_node=2", work, environ={"PET_ROLE": "reader", "PET_NPROC_PER_NODE": "5"}) as run:
        assert run.wait() == 0

    assert [report["ROLE_NAME"] for report in run.reports()] == ["reader", "reader"]


def test_modules_and_programs_run_as_well_as_scripts(tmp_path: Path) -> None:
    write_script(tmp_path, "report(name=__name__)")

    with Run(tmp_path, "-m", "work", environ={"PYTHONPATH": str(tmp_path)}) as run:
        assert run.wait() == 0, run.stderr
    with Run(tmp_path, "--no-python", "sh", "-c", 'echo "rank $RANK"', name="sh") as shell:
        assert shell.wait() == 0, shell.stderr

    assert run.reports()[0]["name"] == "__main__"
    assert shell.stdout == "rank 0\n"


def test_a_worker_that_keeps_failing_ends_the_run_with_its_code(tmp_path: Path) -> None:
    work = write_script(tmp_path, "report()", 'if os.environ["RANK"] == "1": sys.exit(42)', WAIT)

    with Run(tmp_path, "--nproc-per-node=2", "--max-restarts=2", work) as run:
        assert run.wait() == 42

    assert [report["RALLYPOINT_NODE_RESTARTS"] for report in run.reports() if report["RANK"] == "1"] == ["0", "1", "2"]
    assert run.stderr.count("First failure:") == 1
    assert "exit code 42" in run.stderr
    assert "Traceback" not in run.stderr
    assert all(has_ended(int(report["pid"])) for report in run.reports())


def test_a_worker_that_is_killed_once_is_run_again(tmp_path: Path) -> None:
    work = write_script(tmp_path, "report()", 'if os.environ["RALLYPOINT_ROUND"] == "0": import time; time.sleep(600)')

    with Run(tmp_path, "--nproc-per-node=2", "--max-restarts=3", work) as run:
        os.kill(int(run.until_reports(2)[0]["pid"]), signal.SIGKILL)
        assert run.wait() == 0, run.stderr

    assert [report["TORCHELASTIC_RESTART_COUNT"] for report in run.reports()] == ["0", "0", "1", "1"]


def test_a_worker_killed_by_a_signal_gives_128_plus_its_number(tmp_path: Path) -> None:
    with Run(tmp_path, write_script(tmp_path, "os.kill(os.getpid(), 9)")) as run:
        assert run.wait() == 137


def test_a_recorded_exception_is_in_the_report(tmp_path: Path) -> None:
    work = write_script(
        tmp_path,
        "from rallypoint.agent.failure import record",
        "@record",
        "def main():",
        "    raise ValueError('deep trouble')",
        "main()",
    )

    with Run(tmp_path, "--redirects=3", f"--log-dir={tmp_path / 'logs'}", work) as run:
        assert run.wait() == 1

    assert "ValueError: deep trouble" in run.stderr
    assert "in main" in run.stderr
    (error_file,) = tmp_path.glob("logs/*/round_0/0/error.json")
    assert "deep trouble" in error_file.read_text()


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)], ids=str
)
def test_a_signal_ends_workers_and_launcher(tmp_path: Path, number: signal.Signals, exit_code: int) -> None:
    work = write_script(
        tmp_path,
        "import signal, subprocess",
        'child = subprocess.Popen(["sleep", "600"])',
        "report(child=str(child.pid))",
        WAIT,
    )

    with Run(tmp_path, "--nproc-per-node=2", "--shutdown-timeout=5", work) as run:
        reports = run.until_reports(2)
        run.process.send_signal(number)
        assert run.wait() == exit_code

    for report in reports:
        assert has_ended(int(report["pid"]))
        assert has_ended(int(report["child"]))
    assert "rallypoint/cli" not in run.stderr, "a traceback of the launcher"


def test_workers_have_their_grace_and_no_more(tmp_path: Path) -> None:
    work = write_script(
        tmp_path,
        "import signal, time",
        "def stubborn(number, frame): os.write(1, b'asked\\n')",
        "signal.signal(signal.SIGTERM, stubborn)",
        "report()",
        "while True: time.sleep(600)",
    )

    with Run(tmp_path, "--shutdown-timeout=0.3", work) as run:
        (report,) = run.until_reports(1)
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 143

    assert "asked" in run.stdout
    assert has_ended(int(report["pid"]))


def test_a_second_signal_does_not_wait_for_the_grace(tmp_path: Path) -> None:
    work = write_script(
        tmp_path,
        "import signal, time",
        "def stubborn(number, frame): os.write(1, b'asked\\n')",
        "signal.signal(signal.SIGTERM, stubborn)",
        "report()",
        "while True: time.sleep(600)",
    )

    with Run(tmp_path, "--shutdown-timeout=600", work) as run:
        (report,) = run.until_reports(1)
        run.process.send_signal(signal.SIGTERM)
        until("the worker is asked", lambda: "asked" in run.stdout)
        until("it says so", lambda: "; a second SIGTERM kills at once" in run.stderr)
        assert f"worker 0 (pid {report['pid']}) has not ended 2 s after SIGTERM, SIGKILL follows in 59" in run.stderr
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 143

    assert has_ended(int(report["pid"]))
    assert run.stderr.count("has not ended") == 1


def test_the_workers_of_a_killed_launcher_are_gone(tmp_path: Path) -> None:
    with Run(tmp_path, "--nproc-per-node=2", write_script(tmp_path, "report()", WAIT)) as run:
        reports = run.until_reports(2)
        run.process.kill()
        run.wait()

        for report in reports:
            until("the worker is gone", lambda pid=int(report["pid"]): has_ended(pid))


def test_a_killed_launcher_leaves_no_empty_folder(tmp_path: Path) -> None:
    script = write_script(tmp_path, "report()", WAIT)
    with Run(tmp_path, "--nproc-per-node", "2", script) as run:
        run.until_reports(2)
        assert list(tmp_path.glob("rallypoint_errors_*"))
        run.process.kill()
        until("the folder for error files is gone", lambda: not list(tmp_path.glob("rallypoint_errors_*")))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_script_run_as_a_function_is_a_worker_like_any_other(tmp_path: Path, method: str) -> None:
    options = ("--run-path", f"--start-method={method}", "--nproc-per-node=2")
    with Run(tmp_path, *options, write_script(tmp_path, "report()"), "a", "$b") as run:
        assert run.wait() == 0
        assert sorted((report["RANK"], report["arguments"]) for report in run.reports()) == [
            ("0", '["a", "$b"]'),
            ("1", '["a", "$b"]'),
        ]
    with Run(tmp_path, *options, write_script(tmp_path, "raise ValueError('boom')"), name="failing") as run:
        assert run.wait() == 1
    assert "work.py failed" in run.stderr
    assert "ValueError: boom" in run.stderr


def test_tee_writes_files_and_whole_prefixed_lines(tmp_path: Path) -> None:
    work = write_script(tmp_path, 'print("line of", os.environ["RANK"])', 'print("to stderr", file=sys.stderr)')

    with Run(
        tmp_path, "--nproc-per-node=2", "--tee=3", f"--log-dir={tmp_path / 'logs'}", "--role=trainer", work
    ) as run:
        assert run.wait() == 0

    assert sorted(run.stdout.splitlines()) == ["[trainer0]:line of 0", "[trainer1]:line of 1"]
    assert "[trainer0]:to stderr\n" in run.stderr
    kept = {path.parent.name: path.read_text() for path in tmp_path.glob("logs/*/round_0/*/stdout.log")}
    assert kept == {"0": "line of 0\n", "1": "line of 1\n"}


def test_the_prefix_of_teed_lines_comes_from_torchs_variable(tmp_path: Path) -> None:
    work = write_script(tmp_path, 'print("line")')
    template = {"TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "[${role_name}-${local_rank}:${rank}]:"}

    with Run(tmp_path, "--tee=1", f"--log-dir={tmp_path / 'logs'}", work, environ=template) as run:
        assert run.wait() == 0

    assert run.stdout.splitlines() == ["[default-0:0]:line"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--nnodess=2"], "--nnodes"),
        (["--nnodes=a"], "'a' is no number of nodes"),
        (["--nnodes=0"], "at least 1"),
        (["--nnodes=3:2"], "MIN not above MAX"),
        (["--nproc-per-node=0"], "at least 1"),
        (["--nproc-per-node=many"], "write a number, auto, cpu or gpu"),
        (["--max-restarts=-1"], "--max-restarts"),
        (["--nnodes=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"], "cannot meet at port 0"),
        (["--nnodes=2", "--standalone"], "--standalone means one node"),
        (["--nnodes=1:2", "--master-port=29500"], "fixed ranks"),
        (["--rdzv-backend=bogus"], "'bogus' is not registered"),
        (["--standalone", "--rdzv-conf=join_timout=5"], "join_timeout"),
        (["--rdzv-conf=nothing"], "'nothing' must have a value"),
        (["--rdzv-backend=c10d", "--rdzv-endpoint=::1"], "brackets"),
        (["--no-python", "--module"], "exclude each other"),
        (["--tee=9"], "no choice of streams"),
        (["--signals-to-handle=SIGBOGUS"], "is no signal"),
        (["--nnodes=2", "--node-rank=2"], "from 0 to 1"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(tmp_path: Path, options: list[str], complaint: str) -> None:
    with Run(tmp_path, *options, write_script(tmp_path, "report()")) as run:
        assert run.wait() == 2

    assert complaint in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
