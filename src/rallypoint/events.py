"""Events: what happened, as data. Whoever wants to know subscribes; nobody listening costs one look at a tuple.

Drivers emit events; machines return them as effects or as the ``why`` of a decision. ``rallypoint.observe``
holds the sinks (log lines, JSON lines, metrics).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["Event", "Sink", "emit", "follow", "is_observed", "subscribe", "unsubscribe"]

Value: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        name: dotted, the layer first: ``rendezvous.joined``, ``worker.exited``, ``server.refused``.
        message: one sentence for people, the same that a log line, a page or an error shows.
        fields: the numbers and names in the sentence, for machines.
    """

    name: str
    message: str
    fields: Mapping[str, Value] = field(default_factory=dict)


Sink: TypeAlias = Callable[[Event], None]
"""Called in the emitting thread; must not block and must not raise."""

_lock = threading.Lock()
_sinks: tuple[Sink, ...] = ()
_followers: list[weakref.WeakMethod[Callable[[bool], None]]] = []


def subscribe(sink: Sink) -> None:
    """Send every later event to ``sink`` too; subscribing twice counts once."""
    with _lock:
        if sink not in _sinks:
            _replace((*_sinks, sink))


def unsubscribe(sink: Sink) -> None:
    """Stop sending events to ``sink``; unknown sinks are ignored."""
    with _lock:
        _replace(tuple(known for known in _sinks if known != sink))


def follow(told: Callable[[bool], None]) -> None:
    """Tell, now and whenever that changes, whether anybody listens: for what cannot ask, as it is not Python.

    Args:
        told: a method, called with ``is_observed()`` for as long as there is its object; must neither block nor raise,
            nor call anything here.
    """
    with _lock:
        _followers.append(weakref.WeakMethod(told))
        told(bool(_sinks))


def _replace(sinks: tuple[Sink, ...]) -> None:
    global _sinks  # noqa: PLW0603 - one list of listeners a process, replaced whole so that emit needs no lock
    _sinks = sinks
    for follower in _followers.copy():
        told = follower()
        if told is None:
            _followers.remove(follower)
        else:
            told(bool(sinks))


def is_observed() -> bool:
    """Tell whether anybody listens, so that costly fields need not be gathered for nobody."""
    return bool(_sinks)


def emit(name: str, message: str, **fields: Value) -> None:
    """Tell every sink that something happened.

    Args:
        name: the event's dotted name.
        message: one sentence.
        fields: the data behind the sentence.
    """
    if not _sinks:
        return
    event = Event(name, message, fields)
    for sink in _sinks:
        sink(event)
