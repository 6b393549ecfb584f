from __future__ import annotations

import logging

from rallypoint.server.refusals import BURST, LINES_PER_S, RefusalLog, log_line


def test_each_refusal_is_a_line():
    lines = []
    refusals = RefusalLog(lines.append, 0.0)
    for number in range(BURST):
        refusals.note(f"refused {number}", 0.0)
    assert lines == [f"refused {number}" for number in range(BURST)]


def test_a_flood_is_counted_and_the_count_told():
    lines = []
    refusals = RefusalLog(lines.append, 0.0)
    for _ in range(BURST + 500):
        refusals.note("refused", 0.0)
    assert len(lines) == BURST
    refusals.note("refused again", 1.0)
    assert lines[-1] == "refused again (500 refusals before this one were not logged)"
    refusals.note("and again", 1.0)
    assert lines[-1] == "and again"


def test_a_lasting_flood_gets_its_lines_each_second():
    lines = []
    refusals = RefusalLog(lines.append, 0.0)
    for step in range(100_000):
        refusals.note("refused", step / 1000)
    assert BURST + 98 * LINES_PER_S <= len(lines) <= BURST + 101 * LINES_PER_S


def test_lines_go_to_the_servers_log(caplog):
    with caplog.at_level(logging.WARNING, "rallypoint.server"):
        log_line("refused")
    assert caplog.record_tuples == [("rallypoint.server", logging.WARNING, "refused")]


def test_refusals_without_a_line_of_their_own_are_counted_too():
    lines = []
    refusals = RefusalLog(lines.append, 0.0)
    refusals.leave_out(7)
    refusals.note("refused", 0.0)
    assert lines == ["refused (7 refusals before this one were not logged)"]


def test_a_log_that_fails_ends_nothing_and_what_it_missed_is_counted():
    lines, faults = [], [OSError(24, "Too many open files"), ValueError("of a program's own handler")]

    def log(line):
        if faults:
            raise faults.pop()
        lines.append(line)

    refusals = RefusalLog(log, 0.0)
    for number in range(3):
        refusals.note(f"refused {number}", 0.0)
    assert lines == ["refused 2 (2 refusals before this one were not logged)"]
