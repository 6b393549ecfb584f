"""Find and kill what workers leave behind; run as a program, this file is the guard's process.

A process belongs to a worker if it is in the worker's group or session, or if its environment at its start carries
the agent's marker: ``RALLYPOINT_WORKER_OF=<id>``, for an agent within a worker ``<outer id>:<id>``. The marker finds
daemons too, which left group and session; only a program that wiped its environment *and* left the session escapes.

The guard watches its agent through a pidfd and through its own parent's id, never through the end of a pipe alone:
the pipe's other end may live on in processes that the agent forked. It is told by lines on its standard input:
``+PID`` (watch this group), ``-PID`` (forget it), ``q`` (end, touch nobody)::

    agent ──── "+812" ────▶ guard ─── agent gone? ──▶ SIGKILL groups, then whoever carries the marker,
      │                                                until two looks in a row find nobody
      ╰─ worker 812 ─ child ─ daemon

This file imports little and nothing of this package, because each agent starts it as an isolated program.
"""

# pathlib and contextlib would be most of the guard's start-up time:
# ruff: noqa: PTH110, PTH116, PTH123, PTH208, SIM105

from __future__ import annotations

import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself would be the guard's costliest import
    from collections.abc import Collection, Iterator

__all__ = ["MARKER_ENV", "Member", "is_marked", "kill_group", "members", "signal_members", "state_of"]

MARKER_ENV = "RALLYPOINT_WORKER_OF"
"""The variable in every worker's environment that says whose worker it is."""

SWEEP_S = 10.0
"""How long the guard goes on killing, in seconds: a process stuck in the kernel must not keep it for ever."""

SWEEP_PAUSE_S = 0.05
"""The pause between two looks, in seconds: a process started meanwhile shows its environment by then."""

PARENT_LOOK_MS = 200
"""Where there is no pidfd: how often the guard looks whether its parent is still the agent, in milliseconds."""


class Member:
    """A process that belongs to a worker.

    Attributes:
        pid: its process id.
        group: its process group.
        session: its session.
        marker: its marker's value, empty if group or session were proof enough.
    """

    def __init__(self, pid: int, group: int, session: int, marker: str) -> None:
        self.pid = pid
        self.group = group
        self.session = session
        self.marker = marker


def is_marked(marker: str, marker_id: str) -> bool:
    """Tell whether a marker's value names an id: ``outer:inner`` names both."""
    return marker_id in marker.split(":")


def kill_group(group: int, number: int) -> bool:
    """Send a signal to a whole process group.

    Args:
        group: its leader's process id. The caller makes sure that the number is still that of its own worker.
        number: the signal.

    Returns:
        Whether there was anybody who could be signalled.
    """
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS says EPERM for a group of zombies
        return False
    return True


def members(marker_id: str | None, groups: Collection[int]) -> list[Member]:
    """Find the living processes that belong to workers; zombies and this process do not count.

    Args:
        marker_id: the agent's id, or ``None`` to look at groups and sessions only.
        groups: the workers' process ids, each also the number of a group and a session.

    Returns:
        Each of them.

    Cost: one look at each process of the machine, and at the environment of this user's processes.
    """
    found = _members_by_proc(marker_id, groups) if _HAS_PROC else _members_by_psutil(marker_id, groups)
    own = os.getpid()
    return [member for member in found if member.pid != own]


def signal_members(marker_id: str, groups: Collection[int], number: int, *, is_first: bool = False) -> list[int]:
    """Send a signal to each process that :func:`members` finds.

    A number that was freed and given to a stranger between look and signal is not hit: the process is pinned and
    looked at again first.

    Args:
        marker_id: the id in the workers' environment.
        groups: the workers' process ids.
        number: the signal.
        is_first: leave out those who are told otherwise: members of ``groups`` themselves, signalled as a whole
            before, and workers of an agent that is itself a worker here, which passes the signal on.

    Returns:
        The processes found, signalled or not permitted to be.
    """
    found = [
        member.pid
        for member in members(marker_id, groups)
        if not is_first or (member.group not in groups and member.marker.rpartition(":")[2] in ("", marker_id))
    ]
    for pid in found:
        pinned = _pin(pid)
        try:
            if pinned is None:
                os.kill(pid, number)
            elif not _HAS_PROC or _member(str(pid), marker_id, groups) is not None:
                signal.pidfd_send_signal(pinned, number)
        except (ProcessLookupError, PermissionError):
            pass  # gone by itself, or another user's by now: nothing that we may do
        finally:
            if pinned is not None:
                os.close(pinned)
    return found


def state_of(pid: int) -> str:
    """Say in a few words what a process that does not die is doing; empty where the system does not tell."""
    stat = _stat(str(pid))
    if stat is None:
        return ""
    words = "uninterruptible sleep" if stat[0] == "D" else f"state {stat[0]}"
    try:
        with open(f"/proc/{pid}/wchan", encoding="ascii", errors="replace") as file:
            place = file.read().strip("\0 \n0")
    except OSError:
        place = ""
    return f"{words} in {place}" if place else words


# --- looking at processes --------------------------------------------------------------------------------

_HAS_PROC = os.path.exists("/proc/self/stat")


def _stat(name: str) -> tuple[str, int, int] | None:
    """Give state, group and session of a process, ``None`` if it is gone."""
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    # The second field is the program's name in parentheses, which may hold spaces and parentheses itself.
    fields = text[text.rfind(b")") + 2 :].split(None, 4)
    return fields[0].decode("ascii"), int(fields[2]), int(fields[3])


def _marker(name: str) -> str:
    """Give the marker of a process of this user, empty if it has none."""
    try:
        if os.stat(f"/proc/{name}").st_uid != os.geteuid():
            return ""
        with open(f"/proc/{name}/environ", "rb") as file:
            environment = file.read()
    except OSError:
        return ""
    start = MARKER_ENV.encode() + b"="
    for entry in environment.split(b"\0"):
        if entry.startswith(start):
            return entry[len(start) :].decode("utf-8", "replace")
    return ""


def _member(name: str, marker_id: str | None, groups: Collection[int]) -> Member | None:
    stat = _stat(name)
    if stat is None or stat[0] in "ZX":
        return None
    _, group, session = stat
    if group in groups or session in groups:
        return Member(int(name), group, session, "")
    marker = "" if marker_id is None else _marker(name)
    if marker_id is not None and is_marked(marker, marker_id):
        return Member(int(name), group, session, marker)
    return None


def _members_by_proc(marker_id: str | None, groups: Collection[int]) -> Iterator[Member]:
    for name in os.listdir("/proc"):
        member = _member(name, marker_id, groups) if name.isdigit() else None
        if member is not None:
            yield member


def _members_by_psutil(marker_id: str | None, groups: Collection[int]) -> Iterator[Member]:
    import psutil

    for process in psutil.process_iter():
        marker = ""
        try:
            group, session = os.getpgid(process.pid), os.getsid(process.pid)
            belongs = group in groups or session in groups
            if not belongs and marker_id is not None and process.uids().effective == os.geteuid():
                marker = process.environ().get(MARKER_ENV, "")
                belongs = is_marked(marker, marker_id)
            belongs = belongs and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or not ours to look at
        if belongs:
            yield Member(process.pid, group, session, marker)


def _pin(pid: int) -> int | None:
    """Hold on to a process so that its number cannot change hands; ``None`` where the system cannot."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except (AttributeError, OSError):  # not Linux, an old kernel, or out of descriptors
        return None


# --- the guard's program ---------------------------------------------------------------------------------


def end_all(marker_id: str, groups: Collection[int], timeout_s: float = SWEEP_S) -> int:
    """Kill every member, and whoever appears meanwhile, until two looks in a row find nobody or the time is up.

    Returns:
        How many processes were found.
    """
    deadline = time.monotonic() + timeout_s
    killed = {member.pid for member in members(marker_id, groups)}
    for group in groups:
        kill_group(group, signal.SIGKILL)
    calm = 0
    while calm < 2 and time.monotonic() < deadline:
        found = signal_members(marker_id, groups, signal.SIGKILL)
        killed.update(found)
        calm = 0 if found else calm + 1
        time.sleep(SWEEP_PAUSE_S)
    return len(killed)


def obey(commands: list[bytes], groups: set[int]) -> bool:
    """Apply the agent's commands in order.

    Returns:
        Whether the guard is to go on; ``False`` after ``q``.
    """
    for command in commands:
        if command == b"q":
            return False
        action, number = command[:1], command[1:]
        if number.isdigit() and action in b"+-":
            (groups.add if action == b"+" else groups.discard)(int(number))
    return True


def stand_guard(agent_pid: int, marker_id: str, commands_fd: int = 0) -> None:
    """Watch until told to end, or until the agent is gone; then kill what it leaves behind.

    Args:
        agent_pid: the process that started this one.
        marker_id: its id in its workers' environment.
        commands_fd: where its commands come from.
    """
    groups: set[int] = set()
    rest = b""
    os.set_blocking(commands_fd, False)
    poller = select.poll()
    poller.register(commands_fd, select.POLLIN)
    agent_fd = _pin(agent_pid)
    if agent_fd is not None:
        poller.register(agent_fd, select.POLLIN)
    is_open = True
    # Asked before each wait, and again after the last one: what the agent wrote before its end is still read.
    is_gone = False
    while not is_gone:
        is_gone = os.getppid() != agent_pid
        if not is_gone:
            poller.poll(None if agent_fd is not None else PARENT_LOOK_MS)
        while is_open:
            try:
                data = os.read(commands_fd, 65536)
            except BlockingIOError:
                break
            if not data:
                is_open = False
                poller.unregister(commands_fd)
            *commands, rest = (rest + data).split(b"\n")
            if not obey(commands, groups):
                return
    count = end_all(marker_id, groups)
    if count:
        text = f"rallypoint: the agent (pid {agent_pid}) is gone; its guard killed {count} processes of its workers\n"
        try:
            os.write(2, text.encode())
        except OSError:
            pass  # the console went with the agent


def main(arguments: list[str]) -> None:
    """Run as the guard of ``arguments``: the agent's process id and its marker id."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # What is sent to all processes of a service ends the agent in its own way; the guard ends after it.
        signal.signal(number, signal.SIG_IGN)
    stand_guard(int(arguments[0]), arguments[1])


if __name__ == "__main__":
    main(sys.argv[1:])
