"""Fuzz the native engine beside the Python one: endless scripts of steps, mutated from a corpus, compared step by step.

    python tools/fuzz.py --seconds 60
    python tools/fuzz.py --seconds 60 --sessions    # with peers that speak the session dialect

A script that shows something new is worth mutating further; ``--keep`` adds it to the corpus. A script that the twins
play differently is written down, and the exit is 1. Under sanitizers, run it with the native twin built for them. The
model tests replay the corpus.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
CORPUS: Final = ROOT / "tests" / "fuzz" / "corpus"
FOUND: Final = ROOT / "build" / "fuzz"
SIZE_MAX: Final = 600

sys.path.insert(0, str(ROOT))

from tests.support.session_script import SessionScript, read_session_limits  # noqa: E402
from tests.support.twin_script import Observed, Script, TwinsDifferError, play, read_limits  # noqa: E402
from tests.support.twins import TWINS  # noqa: E402


def features(data: bytes, *, has_sessions: bool) -> set[object]:
    """Play a script over the twins, with peers in sessions or without; give what it showed, coarsely.

    Raises:
        TwinsDifferError: they do not do the same.
    """
    seen: set[object] = set()

    def look(step: Observed) -> None:
        numbers = step.statistics
        shape = (numbers.keys, numbers.queues, numbers.waiting, numbers.input_held, numbers.paused, numbers.sessions)
        seen.add(tuple(number.bit_length() for number in shape))
        seen.add((len(step.replies), *(len(reply).bit_length() for reply in step.replies.values())))
        seen.update(type(other) if len(other) == 1 else other[1:] for other in step.others)

    script = SessionScript(data) if has_sessions else Script(data)
    limits = read_session_limits(script) if has_sessions else read_limits(script)
    play(script, [make(limits) for make in TWINS.values()], look)
    return seen


def mutated(chance: random.Random, corpus: list[bytes]) -> bytes:
    """Give a script that resembles others."""
    data = bytearray(chance.choice(corpus))
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                data[at : at + 1] = chance.randbytes(1)
            case 1:
                data[at:at] = chance.randbytes(chance.choice([1, 4, 30]))
            case 2:
                del data[at : at + chance.choice([1, 4, 30])]
            case 3:
                other = chance.choice(corpus)
                data[at:] = other[chance.randrange(len(other) + 1) :]
            case _:
                data[at:at] = data[at // 2 : at // 2 + chance.randrange(40)]
    return bytes(data[:SIZE_MAX]) or b"\0"


def fuzz(seconds: float, seed: int, *, keeps: bool, has_sessions: bool) -> int:
    """Fuzz for a while; give the exit code."""
    chance = random.Random(seed)  # noqa: S311
    paths = sorted(CORPUS.iterdir())
    corpus, known = [path.read_bytes() for path in paths], set[object]()
    end, played = time.monotonic() + seconds, 0
    todo = list(corpus)
    while todo or time.monotonic() < end:
        data = todo.pop() if todo else mutated(chance, corpus)
        try:
            seen = features(data, has_sessions=has_sessions)
        except TwinsDifferError as difference:
            FOUND.mkdir(parents=True, exist_ok=True)
            path = FOUND / hashlib.sha256(data).hexdigest()[:16]
            path.write_bytes(data)
            print(f"the twins differ, script {played} of seed {seed}, kept as {path}: {difference}")
            return 1
        played += 1
        if not seen <= known and data not in corpus:
            corpus.append(data)
            if keeps and len(seen - known) > 3:
                (CORPUS / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        known |= seen
    print(f"{played} scripts of seed {seed} were played alike by {' and '.join(TWINS)}, {len(corpus)} showed something")
    return 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Fuzz the native engine beside the Python one.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="what the scripts depend on; random if not given")
    parser.add_argument("--keep", action="store_true", help="add scripts that show much that is new to the corpus")
    parser.add_argument("--sessions", action="store_true", help="with peers that speak the session dialect")
    options = parser.parse_args()
    if len(TWINS) < 2:
        print("the native twin was not built; there is nothing to compare")
        return 2
    seed = options.seed if options.seed is not None else time.time_ns() % (1 << 32)
    return fuzz(options.seconds, seed, keeps=options.keep, has_sessions=options.sessions)


if __name__ == "__main__":
    sys.exit(main())
