"""Numbers that somebody may want: put by name and group, handed to one handler for each group.

What an agent and its workers put here goes nowhere until a handler is configured. Metrics of the group ``torchelastic``
that agents put are listed in ``rallypoint.agent.reporter``.

Source: names, signatures and what is emitted, as observed in torch 2.13.0.
"""

from __future__ import annotations

import abc
import functools
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar, overload

__all__ = [
    "ConsoleMetricHandler",
    "MetricData",
    "MetricHandler",
    "MetricStream",
    "MetricsConfig",
    "NullMetricHandler",
    "check_metrics",
    "configure",
    "getStream",
    "get_elapsed_time_ms",
    "initialize_metrics",
    "prof",
    "profile",
    "publish_metric",
    "put_metric",
]

DEFAULT_GROUP = "torchelastic"
"""The group of a metric that names none."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


class MetricData(NamedTuple):
    """One number.

    Attributes:
        timestamp: when it was put, in seconds since 1970.
        group_name: its group.
        name: its name.
        value: the number.
    """

    timestamp: float
    group_name: str
    name: str
    value: float


class MetricsConfig:
    """What a user says about metrics.

    Args:
        params: names and values; ``handler`` is known: ``console`` or ``null``.
    """

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = {} if params is None else params


class MetricHandler(abc.ABC):
    """Takes the numbers of the groups that it is configured for."""

    @abc.abstractmethod
    def emit(self, metric_data: MetricData) -> None:
        """Take one number, in the thread that put it."""


class ConsoleMetricHandler(MetricHandler):
    """Prints each number to the standard output."""

    def emit(self, metric_data: MetricData) -> None:
        """Print ``[time][group]: name=value``."""
        timestamp, group, name, value = metric_data
        print(f"[{timestamp}][{group}]: {name}={value}", flush=True)  # noqa: T201 - what it is for


class NullMetricHandler(MetricHandler):
    """Takes each number and does nothing with it."""

    def emit(self, metric_data: MetricData) -> None:
        """Do nothing."""


class MetricStream:
    """Puts numbers of one group to the handler that is configured when the stream is made.

    Args:
        group_name: the group.
        handler: who takes them.
    """

    def __init__(self, group_name: str, handler: MetricHandler) -> None:
        self.group_name = group_name
        self.handler = handler

    def add_value(self, metric_name: str, metric_value: float) -> None:
        """Put one number."""
        self.handler.emit(MetricData(time.time(), self.group_name, metric_name, metric_value))


_HANDLERS: dict[str | None, MetricHandler] = {None: NullMetricHandler()}
_BY_NAME: dict[str, type[MetricHandler]] = {"console": ConsoleMetricHandler, "null": NullMetricHandler}


def configure(handler: MetricHandler, group: str | None = None) -> None:
    """Have a handler take the numbers of a group.

    Args:
        handler: who takes them from now on.
        group: the group; ``None`` for all that have no handler of their own.
    """
    _HANDLERS[group] = handler


def check_metrics(cfg: MetricsConfig) -> None:
    """Look whether a user's configuration can be obeyed.

    Raises:
        ValueError: if its ``handler`` is unknown.
    """
    name = cfg.params.get("handler")
    if name is not None and name not in _BY_NAME:
        raise ValueError(f"the metrics handler {name!r} is unknown; there are {', '.join(_BY_NAME)}")


def initialize_metrics(cfg: MetricsConfig | None = None) -> None:
    """Configure what a user's configuration says; one that names no handler changes nothing.

    Raises:
        ValueError: if its ``handler`` is unknown.
    """
    if cfg is None:
        return
    check_metrics(cfg)
    name = cfg.params.get("handler")
    if name is not None:
        configure(_BY_NAME[name]())


def getStream(group: str) -> MetricStream:  # noqa: N802 - torch's name
    """Give a stream to a group's present handler."""
    return MetricStream(group, _HANDLERS.get(group) or _HANDLERS[None])


def put_metric(metric_name: str, metric_value: float, metric_group: str = DEFAULT_GROUP) -> None:
    """Put one number."""
    getStream(metric_group).add_value(metric_name, metric_value)


def publish_metric(metric_group: str, metric_name: str, metric_value: float) -> None:
    """Do what :func:`put_metric` does; torch's older name."""
    warnings.warn("use put_metric(name, value, group)", FutureWarning, stacklevel=2)
    put_metric(metric_name, metric_value, metric_group)


def get_elapsed_time_ms(start_time_in_seconds: float) -> int:
    """Give the milliseconds since a moment of ``time.time()``."""
    return int((time.time() - start_time_in_seconds) * 1000)


def _measured(fn: Callable[_P, _R], group: str, name: str) -> Callable[_P, _R]:
    @functools.wraps(fn)
    def measured(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        began = time.monotonic()
        outcome = "failure"
        try:
            result = fn(*args, **kwargs)
            outcome = "success"
            return result
        finally:
            put_metric(f"{name}.{outcome}", 1, group)
            put_metric(f"{name}.duration.ms", int((time.monotonic() - began) * 1000), group)

    return measured


@overload
def prof(fn: Callable[_P, _R], group: str = ...) -> Callable[_P, _R]: ...
@overload
def prof(fn: None = ..., group: str = ...) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...
def prof(fn: Callable[..., Any] | None = None, group: str = DEFAULT_GROUP) -> Callable[..., Any]:
    """Measure each call of a function: ``@prof`` or ``@prof(group="mine")``.

    Puts ``<Class>.<function>.success`` or ``.failure``, 1, and ``.duration.ms``; a function outside of classes is
    named ``<module>.<function>``.
    """
    if fn is None:
        return lambda decorated: prof(decorated, group)
    name = fn.__qualname__ if "." in fn.__qualname__ else f"{fn.__module__}.{fn.__qualname__}"
    return _measured(fn, group, name)


def profile(group: str | None = None) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Do what :func:`prof` does, with names of functions only; torch's older name."""
    warnings.warn("use @prof", FutureWarning, stacklevel=2)

    def decorate(fn: Callable[_P, _R]) -> Callable[_P, _R]:
        return _measured(fn, DEFAULT_GROUP if group is None else group, fn.__name__)

    return decorate
