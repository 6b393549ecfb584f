from __future__ import annotations

import io
import logging
import re
from dataclasses import replace

import pytest

from rallypoint.events import Event, emit, is_observed
from rallypoint.observe.log import LogSink, level_of, logged, read_level

LINE = re.compile(r"\d\d:\d\d:\d\d\.\d{3} \S+ ")


def test_one_event_is_one_line_with_time_host_name_and_message() -> None:
    stream = io.StringIO()

    with logged({}, stream):
        emit("rendezvous.wait", "round 0 is complete", rank=1)

    assert LINE.sub("", stream.getvalue()) == "rendezvous.wait: round 0 is complete\n"
    assert LINE.match(stream.getvalue())


def test_further_lines_of_a_message_are_indented() -> None:
    stream = io.StringIO()

    LogSink(stream)(Event("agent.failed", "one\ntwo"))

    assert stream.getvalue().endswith("agent.failed: one\n    two\n")


def test_a_percent_sign_in_a_message_is_only_a_percent_sign() -> None:
    stream = io.StringIO()

    LogSink(stream)(Event("agent.stopping", "100 %d"))

    assert stream.getvalue().endswith(": 100 %d\n")


def test_the_packages_loggers_write_the_same_lines() -> None:
    stream = io.StringIO()

    with logged({}, stream):
        logging.getLogger("rallypoint.server").warning("refused %d", 7)

    assert LINE.sub("", stream.getvalue()) == "server: refused 7\n"


def test_nothing_is_written_before_and_after() -> None:
    stream = io.StringIO()
    logger = logging.getLogger("rallypoint")
    before = (logger.level, logger.propagate, list(logger.handlers))

    with logged({}, stream):
        assert is_observed()
    emit("agent.stopping", "late")

    assert stream.getvalue() == ""
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


@pytest.mark.parametrize(
    ("text", "level"),
    [("debug", 10), ("INFO", 20), ("Warning", 30), ("error", 40), ("critical", 50), ("15", 15), ("", 20), (" ", 20)],
)
def test_levels_have_names_in_any_case_or_numbers(text: str, level: int) -> None:
    assert read_level({"LOGLEVEL": text}) == (level, None)


def test_a_level_that_is_none_is_a_warning_not_a_crash() -> None:
    stream = io.StringIO()

    with logged({"LOGLEVEL": "chatty"}, stream):
        emit("rendezvous.wait", "shown all the same")

    assert "LOGLEVEL is 'chatty'" in stream.getvalue()
    assert "shown all the same" in stream.getvalue()


def test_events_below_the_level_are_left_out() -> None:
    stream = io.StringIO()

    with logged({"LOGLEVEL": "error"}, stream):
        emit("rendezvous.wait", "left out")
        emit("agent.failed", "shown")

    assert LINE.sub("", stream.getvalue()) == "agent.failed: shown\n"


def test_an_event_without_a_level_of_its_own_is_info() -> None:
    event = Event("some.thing", "happened")

    assert level_of(event) == logging.INFO
    assert level_of(replace(event, name="agent.trouble")) == logging.WARNING


def test_peers_that_go_are_no_news_for_people() -> None:
    assert level_of(Event("server.disconnected", "10.0.0.7:4242 is gone: peer closed")) == logging.DEBUG


def test_a_closed_stream_is_no_reason_to_fail() -> None:
    stream = io.StringIO()
    sink = LogSink(stream)
    stream.close()

    sink(Event("agent.stopping", "into the void"))

    assert stream.closed


def test_a_program_without_standard_error_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)

    LogSink()(Event("agent.failed", "nobody reads this"))
