"""Functions as workers have what scripts have: nobody outlives the agent, streams are kept, signals arrive."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.launcher import PATIENCE_S, has_ended, until

import rallypoint

METHODS = ("spawn", "fork")

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
import rallypoint
from rallypoint.launcher.api import LaunchConfig, elastic_launch
from rallypoint.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std

HERE = Path(sys.argv[1])

def tell(name):
    scratch = HERE / (name + ".tmp")
    scratch.write_text(str(os.getpid()))
    scratch.replace(HERE / name)

def family():
    if not os.fork():
        if not os.fork():
            os.setsid()
            tell("daemon" + os.environ["RANK"])
            time.sleep(600)
        tell("child" + os.environ["RANK"])
        time.sleep(600)
    tell("worker" + os.environ["RANK"])
    time.sleep(600)

def talk(text):
    print(text, os.environ["RANK"], flush=True)
    os.system("echo from a shell")
    print("to stderr", file=sys.stderr)
    return os.environ["RANK"]

def die_once():
    if os.environ["RANK"] == "1" and os.environ["RALLYPOINT_ROUND"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return os.environ["RALLYPOINT_ROUND"]

def obey():
    signal.signal(signal.SIGTERM, lambda *_: (tell("told" + os.environ["RANK"]), os._exit(0)))
    tell("worker" + os.environ["RANK"])
    time.sleep(600)

def meet():
    store, rank, world = next(rallypoint.rendezvous("env://"))
    with store:
        store.set(f"here{rank}", str(rank))
        found = [int(store.get(f"here{other}")) for other in range(world)]
    if os.environ["RALLYPOINT_ROUND"] == "0" and rank == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

def config(**changes):
    return LaunchConfig(**dict(min_nodes=1, max_nodes=1, nproc_per_node=2, run_id="r", rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, start_method=sys.argv[2]) | changes)

if __name__ == "__main__":
"""


@contextmanager
def running(folder: Path, method: str, *lines: str) -> Iterator[subprocess.Popen[str]]:
    """Run the program's last lines; its output ends when all who inherited it are gone."""
    path = folder / "program.py"
    path.write_text(PROGRAM + "".join(f"    {line}\n" for line in lines))
    process = subprocess.Popen(
        [sys.executable, str(path), str(folder), method],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def pid_of(folder: Path, name: str) -> int:
    until(f"{name} runs", (folder / name).exists)
    return int((folder / name).read_text())


@pytest.mark.parametrize("method", METHODS)
def test_nobody_outlives_a_killed_agent(tmp_path: Path, method: str) -> None:
    with running(tmp_path, method, "elastic_launch(config(), family)()") as agent:
        pids = [pid_of(tmp_path, f"{who}{rank}") for who in ("worker", "child", "daemon") for rank in range(2)]
        agent.kill()
        for pid in pids:
            until(f"{pid} is gone", lambda pid=pid: has_ended(pid))  # type: ignore[misc]


@pytest.mark.parametrize("method", METHODS)
def test_a_signal_to_the_agent_reaches_the_functions_and_is_raised(tmp_path: Path, method: str) -> None:
    lines = (
        "try: elastic_launch(config(), obey)()",
        "except SignalException as error: print('signal', error.sigval)",
    )
    with running(tmp_path, method, *lines) as agent:
        for rank in range(2):
            pid_of(tmp_path, f"worker{rank}")
        agent.send_signal(signal.SIGTERM)
        out, _ = agent.communicate(timeout=PATIENCE_S)

    assert out == "signal 15\n"
    assert (tmp_path / "told0").exists()
    assert (tmp_path / "told1").exists()


@pytest.mark.parametrize("method", METHODS)
def test_the_streams_of_functions_are_kept_and_shown(tmp_path: Path, method: str) -> None:
    specs = f"DefaultLogsSpecs(log_dir={str(tmp_path / 'logs')!r}, redirects=Std.ERR, tee=Std.OUT)"
    line = f"print(elastic_launch(config(logs_specs={specs}), talk)('hello'))"
    with running(tmp_path, method, line) as agent:
        out, err = agent.communicate(timeout=PATIENCE_S)

    assert agent.returncode == 0, err
    for rank in range(2):
        assert f"[default_role{rank}]:hello {rank}\n" in out
        assert f"[default_role{rank}]:from a shell\n" in out
        (kept,) = (tmp_path / "logs").glob(f"r_*/round_0/{rank}/stdout.log")
        assert kept.read_text() == f"hello {rank}\nfrom a shell\n"
        assert kept.with_name("stderr.log").read_text() == "to stderr\n"
    assert out.endswith("{0: '0', 1: '1'}\n")
    assert "to stderr" not in err


@pytest.mark.parametrize("method", METHODS)
def test_functions_are_started_again_after_a_kill(tmp_path: Path, method: str) -> None:
    with running(tmp_path, method, "print(elastic_launch(config(max_restarts=3), die_once)())") as agent:
        out, err = agent.communicate(timeout=PATIENCE_S)

    assert out == "{0: '1', 1: '1'}\n", err


def test_functions_of_two_nodes_meet_again_after_one_was_killed(tmp_path: Path) -> None:
    server = rallypoint.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    where = f"rdzv_endpoint='127.0.0.1:{server.port}', rdzv_configs={{'is_host': '0'}}, min_nodes=2, max_nodes=2"
    line = f"print(elastic_launch(config(max_restarts=1, {where}), meet)())"
    with server, contextlib.ExitStack() as stack:
        nodes = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            nodes.append(stack.enter_context(running(tmp_path / name, "spawn", line)))
        outputs = [node.communicate(timeout=PATIENCE_S) for node in nodes]

    everybody = [0, 1, 2, 3]
    assert sorted(out for out, _ in outputs) == [
        f"{{0: {everybody}, 1: {everybody}}}\n",
        f"{{2: {everybody}, 3: {everybody}}}\n",
    ], outputs
