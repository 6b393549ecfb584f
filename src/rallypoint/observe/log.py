"""Events as lines on a stream: time, host, name, message.

One line an event, written in one piece, so that lines of several threads do not mix::

    14:02:11.301 gpu-07 agent.starting: round 0: this is node 0 of 2, starting 2 worker(s)

What the package's own loggers (``logging.getLogger("rallypoint...")``) have to say appears among them in the same
form. The environment variable ``LOGLEVEL`` chooses the least level: DEBUG, INFO (the default), WARNING, ERROR or
CRITICAL in any case, or a number.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from rallypoint.events import Event, subscribe, unsubscribe

__all__ = ["LogSink", "level_of", "logged", "read_level"]

_LEVELS = {"DEBUG": logging.DEBUG, "INFO": logging.INFO, "WARNING": logging.WARNING, "ERROR": logging.ERROR}
_LEVELS |= {"WARN": logging.WARNING, "CRITICAL": logging.CRITICAL, "FATAL": logging.CRITICAL}

_EVENT_LEVELS: Mapping[str, int] = {
    "agent.healthy": logging.DEBUG,
    "agent.note": logging.DEBUG,
    "agent.rendezvous": logging.DEBUG,
    "agent.succeeded": logging.DEBUG,
    "agent.succeeded_waiting": logging.DEBUG,
    # The agent says the same in its own words, once.
    "rendezvous.acknowledge": logging.DEBUG,
    "rendezvous.closed": logging.DEBUG,
    "rendezvous.enter": logging.DEBUG,
    "rendezvous.fenced": logging.DEBUG,
    "rendezvous.hear": logging.DEBUG,
    "rendezvous.join": logging.DEBUG,
    "rendezvous.joined": logging.DEBUG,
    "rendezvous.over": logging.DEBUG,
    "rendezvous.propose": logging.DEBUG,
    # Counted by the figures and listed by the status; a line for each peer that goes would hide all others.
    "server.disconnected": logging.DEBUG,
    "agent.failed": logging.ERROR,
    "agent.store_lost": logging.WARNING,
    "agent.trouble": logging.WARNING,
    "launch.trouble": logging.WARNING,
    "rendezvous.plugin_failed": logging.WARNING,
    "rendezvous.trouble": logging.WARNING,
}
"""Events that are more, or less, than INFO."""


def read_level(environ: Mapping[str, str]) -> tuple[int, str | None]:
    """Give the least level to show, and a complaint if ``LOGLEVEL`` is none."""
    text = environ.get("LOGLEVEL", "").strip()
    if not text:
        return logging.INFO, None
    if text.isdecimal():
        return int(text), None
    level = _LEVELS.get(text.upper())
    if level is None:
        return logging.INFO, f"LOGLEVEL is {text!r}; it must be one of {', '.join(_LEVELS)}; going on with INFO"
    return level, None


def level_of(event: Event) -> int:
    """Give an event's level."""
    return _EVENT_LEVELS.get(event.name, logging.INFO)


class _LineFormatter(logging.Formatter):
    """One line a record; more lines of a message are indented, so that each line's start tells what it is."""

    default_time_format = "%H:%M:%S"
    default_msec_format = "%s.%03d"

    def __init__(self, host: str) -> None:
        super().__init__(f"%(asctime)s {host.replace('%', '%%')} %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\n", "\n    ")


class LogSink:
    """Writes events as lines.

    Args:
        stream: where to; ``None``: standard error as it is when a line is written.
        level: the least level that is written.
    """

    def __init__(self, stream: TextIO | None = None, level: int = logging.INFO) -> None:
        self.level = level
        self.handler = _LineHandler(stream)
        self.handler.setFormatter(_LineFormatter(os.uname().nodename))
        self.handler.addFilter(_short_name)

    def __call__(self, event: Event) -> None:
        """Write one event."""
        level = level_of(event)
        if level >= self.level:
            self.handler.handle(logging.LogRecord(event.name, level, "", 0, "%s", (event.message,), None))


class _LineHandler(logging.Handler):
    """Writes whole lines; a stream that is gone takes its lines with it, and nothing else."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        stream = self._stream if self._stream is not None else sys.stderr
        if stream is None:
            return  # started without standard error
        try:
            stream.write(self.format(record) + "\n")
            stream.flush()
        except (OSError, ValueError):  # closed or full: there is nowhere left to complain
            return


def _short_name(record: logging.LogRecord) -> bool:
    record.name = record.name.removeprefix("rallypoint.")
    return True


@contextmanager
def logged(environ: Mapping[str, str], stream: TextIO | None = None) -> Iterator[LogSink]:
    """Write all events, and what the package's loggers say, as long as the context lasts.

    Args:
        environ: where ``LOGLEVEL`` is looked up.
        stream: where to; ``None``: standard error.
    """
    level, complaint = read_level(environ)
    sink = LogSink(stream, level)
    logger = logging.getLogger("rallypoint")
    before, propagated = logger.level, logger.propagate
    logger.addHandler(sink.handler)
    logger.setLevel(level)
    logger.propagate = False
    subscribe(sink)
    if complaint is not None:
        logger.warning("%s", complaint)
    try:
        yield sink
    finally:
        unsubscribe(sink)
        logger.removeHandler(sink.handler)
        logger.setLevel(before)
        logger.propagate = propagated
