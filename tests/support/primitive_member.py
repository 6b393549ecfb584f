"""A process that takes part in a lock, an election or a barrier until it is told to stop, or killed.

``python primitive_member.py KIND DIALECT PORT LABEL [...]``; DIALECT is ``session``, ``c10d`` or a file's path. It says
on its output, line by line, what happens to it.
"""

from __future__ import annotations

import sys
import time

from rallypoint.errors import BarrierBrokenError
from rallypoint.primitives.barrier import Barrier
from rallypoint.primitives.election import Election
from rallypoint.primitives.lock import Lock
from rallypoint.store.base import Store
from rallypoint.store.file import FileStore
from rallypoint.store.tcp import TCPStore

TTL_S = 1.0
LONG_S = 60


def connect(dialect: str, port: str) -> Store:
    if dialect.startswith("/"):
        return FileStore(dialect)
    return TCPStore("127.0.0.1", int(port), timeout=LONG_S, dialect=dialect, session_timeout=TTL_S)


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def hold_lock(store: Store, label: str) -> None:
    """Hold the lock until a line comes, and once more until the next, and so on."""
    lock = Lock(store, "L", label=label, ttl=TTL_S)
    say("ready")
    while sys.stdin.readline():
        with lock:
            say("holds", lock.token)
            if not sys.stdin.readline():
                return
        say("freed")


def count(store: Store, label: str) -> None:
    """Add 1 to a number, by reading and writing it, a hundred times."""
    lock = Lock(store, "L", label=label, ttl=TTL_S)
    say("ready")
    for _ in range(100):
        with lock:
            store.set("number", str(int(store.get("number")) + 1))
    say("done")


def lead(store: Store, label: str) -> None:
    election = Election(store, "E", label=label, ttl=TTL_S)
    say("ready")
    sys.stdin.readline()
    say("leads", election.campaign())
    sys.stdin.readline()
    election.resign()


def meet(store: Store, label: str, rank: int, world_size: int) -> None:
    with Barrier(store, "B", rank, world_size, label=label, ttl=TTL_S) as barrier:
        say("ready")
        while sys.stdin.readline():
            while (generation := try_to_meet(barrier)) is None:
                time.sleep(0.05)
            say("met", generation)


def try_to_meet(barrier: Barrier) -> int | None:
    try:
        return barrier.wait()
    except BarrierBrokenError as error:
        if barrier.statistics().broken == 1:
            say("broken", *error.gone)
        return None


def main(kind: str, dialect: str, port: str, label: str, *numbers: str) -> None:
    with connect(dialect, port) as store:
        if kind == "lock":
            hold_lock(store, label)
        elif kind == "count":
            count(store, label)
        elif kind == "lead":
            lead(store, label)
        else:
            meet(store, label, *map(int, numbers))


if __name__ == "__main__":
    main(*sys.argv[1:])
