"""Who attacks: a process of its own for each attack, at a bounded rate, with nothing but sockets.

An attack is made ready, waits for the word, strikes again and again for some seconds, and then holds what it has until
it is told to end. It runs at the lowest priority, on the clients' core: what it does there should not be what honest
clients notice. It counts how often it got what it should not have: ``inside``.

    python -m benchmarks.attackers NAME PORT FOLDER     # what the runner starts
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.floods import ListedKeys, TinyRequests, Waits
from benchmarks.impostors import ExpiredCertificate, ForeignCertificate, Replay, WrongToken
from benchmarks.strangers import (
    Attack,
    HalfOpen,
    Nothing,
    PortScan,
    Prefixes,
    RandomBytes,
    SlowLoris,
    UnreadReplies,
)

__all__ = ["ATTACKS"]

CATCH_UP_S = 0.005
"""Strikes that are late by more are left out: an attacker that did not get its core makes up for nothing."""

ATTACKS: dict[str, Callable[[int, Path], Attack]] = {
    "port scan": PortScan,
    "random bytes": RandomBytes,
    "every prefix of every valid request": Prefixes,
    "slow-loris": SlowLoris,
    "unread replies": UnreadReplies,
    "20,000 half-open handshakes": HalfOpen,
    "wrong tokens": WrongToken,
    "replayed handshakes": Replay,
    "expired certificates": ExpiredCertificate,
    "foreign certificates": ForeignCertificate,
    "20 connections WAIT for 60,000 names and cancel": Waits,
    "4 connections LIST 200,000 KEYS": ListedKeys,
    "4 connections flood with tiny requests": TinyRequests,
    "nothing, a busy loop on the client's core": Nothing,
}


def strikes(rate: float, seconds: float) -> Iterator[int]:
    """Give the numbers of the strikes, each when it is due."""
    due = begun = time.monotonic()
    number = 0
    while (now := time.monotonic()) < begun + seconds:
        if rate and due > now:
            time.sleep(due - now)
            continue
        yield number
        number += 1
        if rate:
            due = max(due + 1 / rate, now - CATCH_UP_S)


def main() -> None:
    """Attack for as long as the line says, tell what came of it, and end at the next line."""
    attack = ATTACKS[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))
    os.nice(19)
    print(json.dumps({"ready": True}), flush=True)
    seconds = float(sys.stdin.readline())
    failed, count, begun, used = 0, 0, time.monotonic(), time.process_time()
    for number in strikes(attack.rate, seconds):
        count += 1
        try:
            attack.strike(number)
        except OSError:
            failed += 1
    took, used = time.monotonic() - begun, time.process_time() - used
    told = {"per_s": (attack.made or count) / took, "failed": failed, "inside": attack.inside, "cpu": used / took}
    print(json.dumps(told), flush=True)
    sys.stdin.readline()
    attack.end()


if __name__ == "__main__":
    main()
