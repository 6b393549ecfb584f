"""Find and kill what workers leave behind; run as a program, this file is the guard's process.

A process belongs to a worker if it is in the worker's group or session, if its environment at its start carries the
agent's marker, ``RALLYPOINT_WORKER_OF=<id>``, for an agent within a worker ``<outer id>:<id>``, or if it descends from
such a process. The marker finds daemons too, which left group and session. One that wiped its environment as well is
found through its parent as long as that lives, and is known by number and start time from then on; only a daemon that
wiped its environment, left the session and lost its parent between two looks escapes.

The guard watches its agent through a pidfd and through its own parent's id, never through the end of a pipe alone:
the pipe's other end may live on in processes that the agent forked. It is told by lines on its standard input:
``+PID`` (watch this group), ``-PID`` (forget it), ``dPATH`` (a folder that is to go if nothing is in it but folders),
``q`` (end, touch nobody)::

    agent ──── "+812" ────▶ guard ─── agent gone? ──▶ SIGKILL groups, then whoever carries the marker,
      │                                                until two looks in a row find nobody
      ╰─ worker 812 ─ child ─ daemon

This file imports little and nothing of this package, because each agent starts it as an isolated program.
"""

# pathlib and contextlib would be most of the guard's start-up time:
# ruff: noqa: PTH106, PTH110, PTH116, PTH123, PTH208, SIM105

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

FOLLOW_MS, PARENT_LOOK_MS = 2000, 200
"""How often the guard looks who descends from workers and, where there is no pidfd, whether its agent lives."""


class Member:
    """A process that belongs to a worker.

    Attributes:
        pid: its process id.
        parent: its parent's.
        group: its process group.
        session: its session.
        start: when it was started, in the system's own unit: with the id it names one process for good.
        marker: its marker's value, empty if something else was proof enough.
    """

    def __init__(  # noqa: PLR0917 - made in two places of this file
        self, pid: int, parent: int, group: int, session: int, start: float, marker: str = ""
    ) -> None:
        self.pid = pid
        self.parent = parent
        self.group = group
        self.session = session
        self.start = start
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


def members(marker_id: str | None, groups: Collection[int], kin: dict[int, float] | None = None) -> list[Member]:
    """Find the living processes that belong to workers; zombies and this process do not count.

    Args:
        marker_id: the agent's id, or ``None`` to look at groups, sessions and descent only.
        groups: the workers' process ids, each also the number of a group and a session.
        kin: those found before, start times by process id; they belong to workers whatever they have done since.
            Those found now are added.

    Returns:
        Each of them.

    Cost: one look at each process of the machine, and at the environment of those of this user.
    """
    known = {} if kin is None else kin
    found: dict[int, Member] = {}
    children: dict[int, list[Member]] = {}
    own = os.getpid()
    for process in _by_proc(marker_id, groups) if _HAS_PROC else _by_psutil(marker_id, groups):
        if process.pid == own:
            continue
        children.setdefault(process.parent, []).append(process)
        belongs = process.group in groups or process.session in groups or known.get(process.pid) == process.start
        if belongs or (marker_id is not None and is_marked(process.marker, marker_id)):
            found[process.pid] = process
    parents = list(found)
    while parents:
        for child in children.get(parents.pop(), ()):
            if child.pid not in found:
                found[child.pid] = child
                parents.append(child.pid)
    known.update((member.pid, member.start) for member in found.values())
    return list(found.values())


def signal_members(
    marker_id: str,
    groups: Collection[int],
    number: int,
    kin: dict[int, float] | None = None,
    *,
    is_first: bool = False,
) -> list[int]:
    """Send a signal to each process that :func:`members` finds.

    A number that was freed and given to a stranger between look and signal is not hit: the process is pinned and
    looked at again first.

    Args:
        marker_id: as for :func:`members`.
        groups: as there.
        number: the signal.
        kin: as there.
        is_first: leave out those who are told otherwise: members of ``groups`` themselves, signalled as a whole
            before, and workers of an agent that is itself a worker here, which passes the signal on.

    Returns:
        The processes found, signalled or not permitted to be.
    """
    found = [
        member
        for member in members(marker_id, groups, kin)
        if not is_first or (member.group not in groups and member.marker.rpartition(":")[2] in ("", marker_id))
    ]
    for member in found:
        pinned = _pin(member.pid)
        try:
            if pinned is None:
                os.kill(member.pid, number)
            elif not _HAS_PROC or _start_of(member.pid) == member.start:
                signal.pidfd_send_signal(pinned, number)
        except (ProcessLookupError, PermissionError):
            pass  # gone by itself, or another user's by now: nothing that we may do
        finally:
            if pinned is not None:
                os.close(pinned)
    return [member.pid for member in found]


def follow(groups: Collection[int], kin: dict[int, float]) -> None:
    """Note who descends from workers, or from those noted before, while their parents live; drop who is gone."""
    for pid in [pid for pid, start in kin.items() if _start_of(pid) != start]:
        del kin[pid]
    parents = [*groups, *kin]
    while parents:
        for child in _children(parents.pop()):
            start = _start_of(child)
            if start is not None and child not in kin:
                kin[child] = start
                parents.append(child)


def state_of(pid: int) -> str:
    """Say in a few words what a process that does not die is doing; empty where the system does not tell."""
    stat = _stat(str(pid))
    if stat is None:
        return ""
    words = "uninterruptible sleep" if stat[0] == b"D" else f"state {stat[0].decode('ascii')}"
    try:
        with open(f"/proc/{pid}/wchan", encoding="ascii", errors="replace") as file:
            place = file.read().strip("\0 \n0")
    except OSError:
        place = ""
    return f"{words} in {place}" if place else words


# --- looking at processes --------------------------------------------------------------------------------

_HAS_PROC = os.path.exists("/proc/self/stat")


def _stat(name: str) -> list[bytes] | None:
    """Give a process' fields, ``None`` if it is gone: 0 state, 1 parent, 2 group, 3 session, 19 time of its start."""
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    # The second field is the program's name in parentheses, which may hold spaces and parentheses itself.
    return text[text.rfind(b")") + 2 :].split()


def _start_of(pid: int) -> float | None:
    """Give when a living process was started, ``None`` for one that is gone or a zombie."""
    stat = _stat(str(pid))
    return None if stat is None or stat[0] in b"ZX" else float(stat[19])


def _children(pid: int) -> list[int]:
    """Give the children of a process, where the system lists them."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except OSError:
        pass  # gone meanwhile, or an old kernel
    return found


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


def _by_proc(marker_id: str | None, groups: Collection[int]) -> Iterator[Member]:
    """Give every living process; markers are looked up where nothing else is proof."""
    for name in os.listdir("/proc"):
        stat = _stat(name) if name.isdigit() else None
        if stat is None or stat[0] in b"ZX":
            continue
        parent, group, session = (int(number) for number in stat[1:4])
        is_proved = marker_id is None or group in groups or session in groups
        yield Member(int(name), parent, group, session, float(stat[19]), "" if is_proved else _marker(name))


def _by_psutil(marker_id: str | None, groups: Collection[int]) -> Iterator[Member]:
    import psutil

    for process in psutil.process_iter():
        marker = ""
        try:
            group, session = os.getpgid(process.pid), os.getsid(process.pid)
            is_proved = marker_id is None or group in groups or session in groups
            if not is_proved and process.uids().effective == os.geteuid():
                marker = process.environ().get(MARKER_ENV, "")
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            member = Member(process.pid, process.ppid(), group, session, process.create_time(), marker)
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or not ours to look at
        yield member


def _pin(pid: int) -> int | None:
    """Hold on to a process so that its number cannot change hands; ``None`` where the system cannot."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except (AttributeError, OSError):  # not Linux, an old kernel, or out of descriptors
        return None


# --- the guard's program ---------------------------------------------------------------------------------


def end_all(
    marker_id: str, groups: Collection[int], kin: dict[int, float] | None = None, timeout_s: float = SWEEP_S
) -> int:
    """Kill every member, and whoever appears meanwhile, until two looks in a row find nobody or the time is up.

    Returns:
        How many processes were found.
    """
    known = {} if kin is None else kin
    deadline = time.monotonic() + timeout_s
    killed = {member.pid for member in members(marker_id, groups, known)}
    for group in groups:
        kill_group(group, signal.SIGKILL)
    calm = 0
    while calm < 2:
        found = signal_members(marker_id, groups, signal.SIGKILL, known)
        killed.update(found)
        calm = 0 if found else calm + 1
        if time.monotonic() >= deadline:
            break
        time.sleep(SWEEP_PAUSE_S)
    return len(killed)


def remove_empty(folder: bytes) -> None:
    """Remove a folder in which there is nothing but folders; in any other, those of its folders that are empty."""
    for path, _, _ in os.walk(folder, topdown=False):
        if not os.listdir(path):
            os.rmdir(path)


def obey(commands: list[bytes], groups: set[int], folders: set[bytes] | None = None) -> bool:
    """Apply the agent's commands in order.

    Returns:
        Whether the guard is to go on; ``False`` after ``q``.
    """
    for command in commands:
        if command == b"q":
            return False
        action, rest = command[:1], command[1:]
        if rest.isdigit() and action in b"+-":
            (groups.add if action == b"+" else groups.discard)(int(rest))
        elif rest and action == b"d" and folders is not None:
            folders.add(rest)
    return True


def stand_guard(agent_pid: int, marker_id: str, commands_fd: int = 0) -> None:
    """Watch until told to end, or until the agent is gone; then kill what it leaves behind.

    Args:
        agent_pid: the process that started this one.
        marker_id: its id in its workers' environment.
        commands_fd: where its commands come from.
    """
    groups: set[int] = set()
    folders: set[bytes] = set()
    kin: dict[int, float] = {}
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
            calm_ms = FOLLOW_MS if groups or kin else None
            poller.poll(calm_ms if agent_fd is not None else PARENT_LOOK_MS)
            follow(groups, kin)
        while is_open:
            try:
                data = os.read(commands_fd, 65536)
            except BlockingIOError:
                break
            if not data:
                is_open = False
                poller.unregister(commands_fd)
            *commands, rest = (rest + data).split(b"\n")
            if not obey(commands, groups, folders):
                return
    count = end_all(marker_id, groups, kin)
    for folder in folders:
        remove_empty(folder)
    if count:
        text = f"rallypoint: the agent (pid {agent_pid}) is gone; its guard killed {count} process(es) of its workers\n"
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
