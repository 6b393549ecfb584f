from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.workers import STAY, python_argv

from rallypoint.agent import sweep

Starter = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Starter]:
    """Start processes in sessions of their own; whoever is left at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(marker: str | None = None, code: str = STAY, **more: object) -> subprocess.Popen[bytes]:
        env = {} if marker is None else {sweep.MARKER_ENV: marker}
        process = subprocess.Popen(python_argv(code), env=env, start_new_session=True, **more)  # type: ignore[call-overload]
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def marker_id() -> str:
    return os.urandom(8).hex()


@pytest.fixture(params=["proc", "psutil"], autouse=True)
def _way_of_looking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "psutil":
        monkeypatch.setattr(sweep, "_HAS_PROC", False)


def pids(members: list[sweep.Member]) -> set[int]:
    return {member.pid for member in members}


@pytest.mark.parametrize(
    ("marker", "is_marked"), [("a", True), ("x:a", True), ("a:y", True), ("ab", False), ("", False), ("x:ab", False)]
)
def test_a_marker_names_ids_whole(marker: str, is_marked: bool) -> None:
    assert sweep.is_marked(marker, "a") is is_marked


def test_marked_processes_are_found_in_any_session(start: Starter, marker_id: str) -> None:
    ours, nested, _, _ = start(marker_id), start(f"{marker_id}:x"), start("other"), start()

    assert pids(sweep.members(marker_id, ())) == {ours.pid, nested.pid}


def test_members_of_a_group_or_session_are_found_without_a_marker(start: Starter) -> None:
    code = (
        "import os, signal\n"
        "for _ in range(2):\n"
        "    pid = os.fork()\n"
        "    if not pid: break\n"
        "else: os.setpgid(pid, pid)\n"  # the second child: same session, group of its own
        "os.write(1, b'%d\\n' % os.getpid())\n" + STAY
    )
    leader = start(code=code, stdout=subprocess.PIPE)
    assert leader.stdout is not None
    family = {int(leader.stdout.readline()) for _ in range(3)}

    assert pids(sweep.members(None, [leader.pid])) == family
    assert len(family) == 3
    for pid in family:
        os.kill(pid, signal.SIGKILL)


def test_the_dead_and_this_process_do_not_count(start: Starter, marker_id: str) -> None:
    process = start(marker_id, code="")
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert sweep.members(marker_id, [process.pid]) == []
    assert os.getpid() not in pids(sweep.members(None, [os.getpgid(0)]))


def test_a_signal_reaches_every_member(start: Starter, marker_id: str) -> None:
    marked, grouped, stranger = start(marker_id), start(), start()

    found = sweep.signal_members(marker_id, [grouped.pid], signal.SIGKILL)

    assert set(found) == {marked.pid, grouped.pid}
    assert marked.wait() == grouped.wait() == -signal.SIGKILL
    assert stranger.poll() is None


def test_a_first_signal_leaves_out_groups_and_the_workers_of_an_agent_among_the_members(
    start: Starter, marker_id: str
) -> None:
    direct, nested, grouped = start(f"x:{marker_id}"), start(f"x:{marker_id}:inner"), start(marker_id)

    found = sweep.signal_members(marker_id, [grouped.pid], signal.SIGKILL, is_first=True)

    assert found == [direct.pid]
    assert direct.wait() == -signal.SIGKILL
    assert nested.poll() is None
    assert grouped.poll() is None


def test_without_pidfds_a_signal_goes_to_the_number(
    start: Starter, marker_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    process = start(marker_id)

    sweep.signal_members(marker_id, (), signal.SIGKILL)

    assert process.wait() == -signal.SIGKILL


def test_a_process_that_ends_between_look_and_signal_is_no_error(
    start: Starter, marker_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = start(code="")
    gone.wait()
    monkeypatch.setattr(sweep, "members", lambda *_: [sweep.Member(gone.pid, 1, 1, 1, 0.0, marker_id)])

    assert sweep.signal_members(marker_id, (), signal.SIGKILL) == [gone.pid]


def test_a_number_that_passed_to_a_stranger_is_not_hit(
    start: Starter, marker_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_HAS_PROC", True)
    stranger = start("other")
    monkeypatch.setattr(sweep, "members", lambda *_: [sweep.Member(stranger.pid, 1, 1, 1, 0.0, marker_id)])

    sweep.signal_members(marker_id, (), signal.SIGKILL)

    assert sweep.state_of(stranger.pid) != ""
    assert stranger.poll() is None


def test_a_whole_group_is_signalled_at_once(start: Starter) -> None:
    process = start()

    assert sweep.kill_group(process.pid, signal.SIGKILL) is True
    assert process.wait() == -signal.SIGKILL
    assert sweep.kill_group(process.pid, signal.SIGKILL) is False


def test_the_state_of_a_process_is_told_in_words(start: Starter) -> None:
    process = start()

    assert sweep.state_of(process.pid).startswith("state ")
    process.kill()
    process.wait()
    assert sweep.state_of(process.pid) == ""


# --- the guard's program ---


@pytest.fixture
def commands() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_a_guard_told_to_end_touches_nobody(start: Starter, marker_id: str, commands: tuple[int, int]) -> None:
    process = start(marker_id)
    os.write(commands[1], b"+%d\nq\n" % process.pid)

    sweep.stand_guard(os.getppid(), marker_id, commands[0])

    assert process.poll() is None


def test_a_guard_whose_agent_is_gone_kills_the_watched_and_the_marked(
    start: Starter, marker_id: str, commands: tuple[int, int], capfd: pytest.CaptureFixture[str]
) -> None:
    watched, forgotten, marked = start(), start(), start(marker_id)
    os.write(commands[1], b"+%d\n+%d\nnonsense\n-%d\n" % (watched.pid, forgotten.pid, forgotten.pid))
    not_our_parent = marked.pid

    sweep.stand_guard(not_our_parent, marker_id, commands[0])

    assert watched.wait() == marked.wait() == -signal.SIGKILL
    assert forgotten.poll() is None
    assert f"the agent (pid {not_our_parent}) is gone; its guard killed" in capfd.readouterr().err


def test_a_guard_does_not_sweep_for_ever(monkeypatch: pytest.MonkeyPatch, marker_id: str) -> None:
    monkeypatch.setattr(sweep, "signal_members", lambda *_: [1])  # somebody who does not die

    assert sweep.end_all(marker_id, (), timeout_s=0.01) == 1


def test_commands_are_obeyed_in_order() -> None:
    groups = {1}

    assert sweep.obey([b"+2", b"-1", b"", b"x", b"+", b"+two"], groups) is True
    assert groups == {2}
    assert sweep.obey([b"+3", b"q", b"+4"], groups) is False
    assert groups == {2, 3}
    folders: set[bytes] = set()
    assert sweep.obey([b"d/a b", b"d"], groups, folders) is True
    assert folders == {b"/a b"}


WIPED = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"], env={},
    start_new_session=True)
os.write(1, b"%d\\n" % child.pid)
"""


def wiped(start: Starter, marker: str | None, code: str = STAY) -> tuple[subprocess.Popen[bytes], int]:
    """Start a process, and below it one in a session of its own with an empty environment."""
    parent = start(marker, code=WIPED + code, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


def test_a_descendant_is_found_whatever_it_wiped(start: Starter, marker_id: str) -> None:
    parent, child = wiped(start, marker_id)

    assert pids(sweep.members(marker_id, ())) == pids(sweep.members(None, [parent.pid])) == {parent.pid, child}
    sweep.signal_members(marker_id, (), signal.SIGKILL)


def test_who_was_found_once_is_known_when_its_parent_is_gone(start: Starter, marker_id: str) -> None:
    parent, child = wiped(start, marker_id)
    kin: dict[int, float] = {}
    sweep.members(marker_id, (), kin)
    parent.kill()
    parent.wait()

    assert pids(sweep.members(marker_id, (), {child: 0.0})) == set()  # a stranger under that number
    assert pids(sweep.members(marker_id, (), kin)) == {child}
    assert sweep.signal_members(marker_id, (), signal.SIGKILL, kin) == [child]


def test_a_guard_follows_children_while_their_parents_live(
    start: Starter, marker_id: str, commands: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_HAS_PROC", True)
    parent, child = wiped(start, None)
    kin: dict[int, float] = {}

    sweep.follow([parent.pid], kin)
    assert list(kin) == [child]
    parent.kill()
    parent.wait()
    sweep.follow([], kin)
    assert list(kin) == [child]

    assert sweep.end_all(marker_id, (), kin) == 1
    sweep.follow([], kin)
    assert kin == {}


def test_a_folder_goes_unless_something_is_in_it(tmp_path: Path) -> None:
    for name in ("empty", "used"):
        (tmp_path / name / "round_0" / "0").mkdir(parents=True)
    (tmp_path / "used" / "error.json").touch()

    sweep.remove_empty(os.fsencode(tmp_path / "empty"))
    sweep.remove_empty(os.fsencode(tmp_path / "used"))
    sweep.remove_empty(os.fsencode(tmp_path / "gone"))

    assert [path.name for path in tmp_path.rglob("*")] == ["used", "error.json"]
