"""Signals as notes: what asks an agent to end, and who takes it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeAlias

__all__ = ["DEFAULT_SIGNALS", "SIGNALS_ENV", "parse_signals", "takeable_signals", "taken_signals"]

SIGNALS_ENV = "TORCHELASTIC_SIGNALS_TO_HANDLE"
"""Tells workers which signals their agent takes as the end of the run, names split by commas."""

DEFAULT_SIGNALS: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""The signals that ask an agent to end."""

Handler: TypeAlias = Callable[[int, FrameType | None], Any]


def parse_signals(text: str) -> tuple[int, ...]:
    """Read a list of signals: names with or without ``SIG``, or numbers, split by commas.

    Raises:
        ValueError: naming the part that is no signal, or that no process can take (SIGKILL, SIGSTOP).
    """
    numbers = []
    for part in text.split(","):
        name = part.strip().upper()
        if not name:
            continue
        try:
            found = signal.Signals(int(name)) if name.isdecimal() else signal.Signals[f"SIG{name.removeprefix('SIG')}"]
        except (KeyError, ValueError):
            raise ValueError(f"{part.strip()!r} in {text!r} is no signal; write names like SIGTERM,SIGINT") from None
        if found in (signal.SIGKILL, signal.SIGSTOP):
            raise ValueError(f"{part.strip()!r} in {text!r} cannot be handled by any process; leave it out")
        numbers.append(int(found))
    return tuple(dict.fromkeys(numbers))


def takeable_signals(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Give the signals that ``taken_signals`` would handle here and now."""
    if threading.current_thread() is not threading.main_thread():
        return ()
    return tuple(number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN)


@contextmanager
def taken_signals(numbers: tuple[int, ...], handler: Handler) -> Iterator[None]:
    """Handle signals as long as the context lasts; those that the user had ignored (``nohup``) stay ignored.

    Args:
        numbers: the signals.
        handler: called in the main thread, between any two of its instructions.

    Threads: does nothing outside the main thread, where Python allows no handlers.
    """
    before: dict[int, Any] = {}
    for number in takeable_signals(numbers):
        before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous if previous is not None else signal.SIG_DFL)
