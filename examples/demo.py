"""The main job, end to end: two nodes of two workers train, one worker is killed in the middle, the job recovers.

Everything is a real process on loopback: a store (``rallypoint serve``), two agents (``rallypoint run``) and their
workers (``train_digits.py``). Run it with ``make demo``.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

NODES, WORKERS_PER_NODE, EPOCHS, KILL_AFTER_EPOCH = 2, 2, 80, 20
SILENCE_MAX_S = 60.0  # the demo gives up when nothing at all happens for so long
STOP_GRACE_S = 10.0

HERE = Path(__file__).resolve().parent
RALLYPOINT = [sys.executable, "-m", "rallypoint"]

Line = tuple[str, str]  # who wrote it, what


STARTED = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:6.2f} s] {text}", flush=True)


def read_lines(name: str, stream: IO[str], lines: queue.Queue[Line | None]) -> None:
    for line in stream:
        lines.put((name, line.rstrip("\n")))
    lines.put(None)


@contextlib.contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a process and end it, whatever happens."""
    process = subprocess.Popen(command, text=True, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def agent_command(endpoint: str, checkpoint: Path) -> list[str]:
    return [
        *RALLYPOINT, "run", f"--nnodes={NODES}", f"--nproc-per-node={WORKERS_PER_NODE}", "--max-restarts=3",
        "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--rdzv-conf=is_host=0", "--rdzv-id=demo",
        str(HERE / "train_digits.py"), f"--epochs={EPOCHS}", f"--checkpoint={checkpoint}",
    ]  # fmt: skip


class Story:
    """What the workers report, told line by line; kills one of them when the time has come."""

    def __init__(self) -> None:
        self.round = -1
        self.members: list[dict[str, int]] = []
        self.killed_in_round: int | None = None
        self.killed_at = 0.0
        self.restarted_s: float | None = None
        self.recovered_s: float | None = None
        self.accuracy: float | None = None

    def hear(self, event: dict[str, Any]) -> None:
        {"round": self.hear_round, "epoch": self.hear_epoch, "trained": self.hear_trained}[event["event"]](event)

    def hear_agent(self, name: str, line: str) -> None:
        say(f"{name} | {line}")
        if "agent.starting" in line and self.killed_in_round is not None and self.restarted_s is None:
            self.restarted_s = time.monotonic() - self.killed_at

    def hear_round(self, event: dict[str, Any]) -> None:
        self.round, self.members = event["round"], event["members"]
        seats = ", ".join(f"rank {m['rank']} = node {m['node']} pid {m['pid']}" for m in self.members)
        say(f"round {self.round}: {len(self.members)} workers: {seats}")

    def hear_epoch(self, event: dict[str, Any]) -> None:
        epoch = event["epoch"]
        if self.killed_in_round is not None and self.recovered_s is None and self.round > self.killed_in_round:
            self.recovered_s = time.monotonic() - self.killed_at
            say(f"epoch {epoch} is the first of the new round: recovered {self.recovered_s:.2f} s after the kill")
        if epoch % 20 == 0:
            say(f"epoch {epoch}: {event['accuracy']:.1%} of the test images right")
        if epoch == KILL_AFTER_EPOCH and self.killed_in_round is None:
            self.kill(self.members[-1])

    def kill(self, member: dict[str, int]) -> None:
        say(f"killing rank {member['rank']} (pid {member['pid']}) with SIGKILL")
        self.killed_in_round, self.killed_at = self.round, time.monotonic()
        os.kill(member["pid"], signal.SIGKILL)

    def hear_trained(self, event: dict[str, Any]) -> None:
        self.accuracy = event["accuracy"]


def listen(agents: list[subprocess.Popen[str]], story: Story) -> None:
    """Tell what the agents and their workers print, until all of them have said their last word.

    Raises:
        TimeoutError: if nothing is heard for SILENCE_MAX_S.
    """
    lines: queue.Queue[Line | None] = queue.Queue()
    # Letters: which node an agent is, the rendezvous decides.
    streams = [
        (f"agent {x}", s) for x, agent in zip("ab", agents, strict=True) for s in (agent.stdout, agent.stderr) if s
    ]
    for name, stream in streams:
        threading.Thread(target=read_lines, args=(name, stream, lines), daemon=True).start()
    speaking = len(streams)
    while speaking:
        try:
            line = lines.get(timeout=SILENCE_MAX_S)
        except queue.Empty:
            raise TimeoutError(f"nothing happened for {SILENCE_MAX_S:g} s") from None
        if line is None:
            speaking -= 1
        elif line[1].startswith("{"):
            story.hear(json.loads(line[1]))
        else:
            story.hear_agent(*line)


def main() -> int:
    story = Story()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rallypoint-demo-")))
        serve = [*RALLYPOINT, "serve", "--bind=127.0.0.1", "--port=0", "--ready-json"]
        server = stack.enter_context(running(serve, stdout=subprocess.PIPE))
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline())
        endpoint = f"{ready['host']}:{ready['port']}"
        say(f"the store serves on {endpoint}, pid {ready['pid']}")
        command = agent_command(endpoint, folder / "digits.npz")
        agents = [stack.enter_context(running(command, **pipes)) for _ in range(NODES)]
        listen(agents, story)
        codes = [agent.wait(STOP_GRACE_S) for agent in agents]
    if any(codes) or story.accuracy is None or story.recovered_s is None or story.restarted_s is None:
        say(f"the demo failed: exit codes {codes}, recovered: {story.recovered_s}, accuracy: {story.accuracy}")
        return 1
    say(f"new workers were started {story.restarted_s:.2f} s after the kill")
    say(f"time to recover {story.recovered_s:.2f} s, most of it Python and scikit-learn starting in the new workers")
    say(f"final accuracy {story.accuracy:.1%} of the test images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
