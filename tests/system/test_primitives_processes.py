"""Locks, elections and barriers between processes that are killed."""

from __future__ import annotations

import contextlib
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.raw_server import LOOP_TWINS, use_twin

from rallypoint.primitives.election import Election
from rallypoint.store.file import FileStore
from rallypoint.store.tcp import TCPStore

MEMBER = Path(__file__).resolve().parents[1] / "support" / "primitive_member.py"
JOIN_S = 60


HOLDER = """
import sys, time
from rallypoint.store.tcp import TCPStore
port, key, session_timeout = sys.argv[1:]
store = TCPStore("127.0.0.1", int(port), session_timeout=float(session_timeout))
print(*store.swap(key, 0, "here", lease=store.lease_grant(None)), flush=True)
sys.stdin.read()
"""


class Member:
    """A process of ``primitive_member.py``."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, str(MEMBER), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hear(self):
        """Give the words of its next line."""
        return self.process.stdout.readline().split()

    def tell(self):
        """Let it go on."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def send(self, number):
        self.process.send_signal(number)

    def close(self):
        self.process.kill()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(JOIN_S)


@pytest.fixture(params=["session", "c10d", "file"])
def meeting(request, tmp_path):
    """Give a function that starts members of one store, and a store of the test's own."""
    with contextlib.ExitStack() as stack:
        if request.param == "file":
            place, port = str(tmp_path / "store"), 0
            store = stack.enter_context(FileStore(place))
        else:
            place = request.param
            server = stack.enter_context(
                TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=JOIN_S, server="thread")
            )
            port = server.port
            store = stack.enter_context(TCPStore("127.0.0.1", port, timeout=JOIN_S, dialect=place))

        def start(kind, label, *numbers):
            member = stack.enter_context(contextlib.closing(Member(kind, place, port, label, *numbers)))
            assert member.hear() == ["ready"]
            return member

        yield start, store


def test_a_lock_whose_holder_is_killed_goes_to_the_next_with_a_higher_token(meeting):
    start, _ = meeting
    first, *heirs = (start("lock", f"host {number}") for number in range(3))
    first.tell()
    tokens = [first.hear()[1]]
    for heir in heirs:
        heir.tell()
    first.send(signal.SIGKILL)
    ready, _, _ = select.select([heir.process.stdout for heir in heirs], [], [], JOIN_S)
    heirs.sort(key=lambda heir: heir.process.stdout not in ready)  # which of the two came first is not known
    tokens.append(heirs[0].hear()[1])
    heirs[0].send(signal.SIGKILL)
    tokens.append(heirs[1].hear()[1])
    heirs[1].tell()
    assert heirs[1].hear() == ["freed"]
    numbers = [int(token) for token in tokens]
    assert numbers == sorted(set(numbers))


def test_no_step_is_lost_under_a_lock(meeting):
    start, store = meeting
    store.set("number", "0")
    members = [start("count", f"host {number}") for number in range(3)]
    assert [member.hear() for member in members] == [["done"]] * 3
    assert store.get("number") == b"300"


def test_a_frozen_holder_finds_that_it_has_lost_the_lock(meeting):
    start, _ = meeting
    frozen, other = start("lock", "frozen"), start("lock", "other")
    frozen.tell()
    _, token = frozen.hear()
    frozen.send(signal.SIGSTOP)
    other.tell()
    word, newer = other.hear()
    assert (word, int(newer) > int(token)) == ("holds", True)
    frozen.send(signal.SIGCONT)
    frozen.tell()
    assert frozen.hear() == []  # it ended with LeaseLostError, and did not say that it had freed the lock
    assert frozen.process.wait(JOIN_S) == 1
    other.tell()
    assert other.hear() == ["freed"]


def test_the_next_candidate_follows_a_leader_that_is_killed(meeting):
    start, store = meeting
    observer = Election(store, "E")
    first, second = start("lead", "first"), start("lead", "second")
    first.tell()
    _, token = first.hear()
    assert observer.leader().label == "first"
    second.tell()
    first.send(signal.SIGKILL)
    word, newer = second.hear()
    assert (word, int(newer) > int(token)) == ("leads", True)
    assert observer.leader() == ("second", int(newer))


def test_a_barrier_fails_at_once_by_name_when_a_member_is_killed_and_meets_again_with_its_successor(meeting):
    start, _ = meeting
    members = [start("meet", f"host-{rank}", rank, 3) for rank in range(3)]
    for generation in ("1", "2"):
        for member in members:
            member.tell()
        assert [member.hear() for member in members] == [["met", generation]] * 3
    members[1].send(signal.SIGKILL)
    members[0].tell()
    members[2].tell()
    for member in (members[0], members[2]):
        heard = member.hear()
        assert heard[0] == "broken"
        assert "host-1" in " ".join(heard)
    members[1] = start("meet", "host-1", 1, 3)
    members[1].tell()
    assert [member.hear()[0] for member in members] == ["met"] * 3


@pytest.mark.parametrize("twin", LOOP_TWINS)
def test_a_session_that_asked_for_a_short_time_ends_so_soon_after_its_client_was_killed(twin, monkeypatch):
    use_twin(twin, monkeypatch)
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(
            TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=JOIN_S, server="thread")
        )
        holders = []
        for key, session_timeout in (("short", 0.1), ("long", 600)):
            holder = stack.enter_context(closing_holder(store.port, key, session_timeout))
            assert holder.stdout.readline().split()[0] == "True"
            holders.append(holder)
        watch = stack.enter_context(store.watch("", is_prefix=True, since=store.read("long").revision))
        for holder in reversed(holders):
            holder.kill()
        event = watch.next(JOIN_S)
        assert (type(event).__name__, event.key) == ("Deleted", "short")
        assert store.check(["long"])


@contextlib.contextmanager
def closing_holder(port, key, session_timeout):
    """Start a process that holds a key for as long as its session lives."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(port), key, str(session_timeout)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
