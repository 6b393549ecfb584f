"""Measure everything, hold it against the bars, write RESULTS.md.

python -m benchmarks                       # all of it, about 30 minutes
python -m benchmarks --quick               # about 6 minutes, wide spreads
python -m benchmarks --only calls --rounds 3 --out /tmp/calls.md --json /tmp/calls.json
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks import attacks, busy, calls, collectives, durable, growth, memory, rendezvous, results, servers
from benchmarks.bars import bars_of
from benchmarks.build import build
from benchmarks.machine import describe
from benchmarks.peers import NATIVE, PURE, has_native
from benchmarks.progress import FULL, QUICK, Effort, note
from benchmarks.report import Figures, judge

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
OWN_REPORTS = {"rendezvous": RESULTS.with_name("RENDEZVOUS.md"), "attacks": RESULTS.with_name("ATTACKS.md")}
"""Where a report goes that has one question, unless told otherwise."""

QUESTIONS: dict[str, Callable[[Figures, Effort, random.Random], None]] = {
    "servers": servers.run,
    "calls": calls.run,
    "busy": busy.run,
    "memory": memory.run,
    "collectives": collectives.run,
    "durable": durable.run,
    "growth": growth.run,
    "rendezvous": rendezvous.run,
    "attacks": attacks.run,
}


def main() -> int:
    """Give 1 if a bar is missed or was not measured, when asked to be strict."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, peers and points")
    parser.add_argument("--only", action="append", choices=QUESTIONS, help="one question; may be repeated")
    parser.add_argument("--rounds", type=int, help="how often everything is measured")
    parser.add_argument("--judge", choices=(NATIVE, PURE), help="the twin that the bars are for (default: the native)")
    parser.add_argument("--out", type=Path, help="where the report goes (default: RESULTS.md or the question's)")
    parser.add_argument("--json", type=Path, help="write every single figure to this file")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of the order of the measurements")
    parser.add_argument("--strict", action="store_true", help="fail when a bar is missed")
    options = parser.parse_args()

    effort = QUICK if options.quick else FULL
    if options.rounds:
        effort = replace(effort, rounds=options.rounds)
    ours = options.judge or (NATIVE if has_native() else PURE)
    asked = options.only or list(QUESTIONS)
    options.out = options.out or (OWN_REPORTS.get(asked[0], RESULTS) if len(asked) == 1 else RESULTS)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    build()
    start = time.monotonic()
    figures, rng = Figures(), random.Random(options.seed)
    for name in asked:
        note(f"{name}, {effort.rounds} rounds")
        QUESTIONS[name](figures, effort, rng)
    bars = [bar for bar in bars_of(ours) if bar.question in asked or figures.workloads(bar.question)]
    verdicts = [judge(bar, figures) for bar in bars]
    results.write(options.out, figures, verdicts, ours, effort, time.monotonic() - start)
    if options.json:
        about = {"machine": dict(describe()), "seed": options.seed, "figures": list(figures.as_json())}
        options.json.write_text(json.dumps(about, indent=1) + "\n")
    print("\n".join(results.bars_table(verdicts)))
    note(f"the report is in {options.out}")
    return int(options.strict and not all(verdict.is_met for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
