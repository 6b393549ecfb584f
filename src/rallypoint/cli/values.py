"""How the options of ``rallypoint run`` are read: each function takes what was written, and a ValueError complains."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

__all__ = [
    "Read",
    "read_nodes",
    "read_options",
    "read_ranks",
    "read_signals",
    "read_streams",
    "read_texts",
    "read_workers",
]

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # not generic before click 8.4


class Read(_ParamType):
    """An option read by a function whose ValueError is the complaint."""

    def __init__(self, read: Callable[[str], Any]) -> None:
        self.name = read.__name__.removeprefix("read_")
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read what was written; give what was read already, a default, as it is."""
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def read_nodes(text: str) -> tuple[int, int]:
    """Read ``N`` or ``MIN:MAX``."""
    fewest, colon, most = text.partition(":")
    try:
        numbers = int(fewest), int(most if colon else fewest)
    except ValueError:
        raise ValueError(f"{text!r} is no number of nodes; write N or MIN:MAX") from None
    if not 0 < numbers[0] <= numbers[1]:
        raise ValueError(f"{text!r} is no number of nodes; it must be at least 1, and MIN not above MAX")
    return numbers


def read_workers(text: str) -> int:
    """Read a number, or count the devices of this host."""
    from rallypoint.launch.devices import count_cpus, count_gpus

    kind = text.strip().lower()
    if kind in ("gpu", "auto"):
        found = count_gpus(os.environ)
        if found:
            return found
        if kind == "gpu":
            why = "no NVIDIA driver is to be seen" if found is None else "this host, or CUDA_VISIBLE_DEVICES, has none"
            raise ValueError(f"the GPUs cannot be counted: {why}; give a number")
    if kind in ("cpu", "auto"):
        return count_cpus()
    try:
        number = int(kind)
    except ValueError:
        raise ValueError(f"{text!r} is no number of workers; write a number, auto, cpu or gpu") from None
    if number < 1:
        raise ValueError(f"{number} is no number of workers; it must be at least 1")
    return number


def read_streams(text: str) -> Any:
    """Read which streams of which workers."""
    from rallypoint.agent.logs import Std

    return Std.from_str(text)


def read_ranks(text: str) -> frozenset[int] | None:
    """Read local ranks split by commas; ``None`` for none, which means all."""
    try:
        ranks = frozenset(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(f"{text!r} is no list of local ranks; write numbers split by commas") from None
    return ranks or None


def read_texts(text: str) -> tuple[str, ...]:
    """Split texts at commas; two commas stand for one within a text."""
    return tuple(part.replace("\0", ",") for part in text.replace(",,", "\0").split(",") if part)


def read_options(text: str) -> dict[str, str]:
    """Read a backend's options, ``KEY=VALUE`` split by commas."""
    from rallypoint.rendezvous.endpoint import parse_rendezvous_config

    return parse_rendezvous_config(text)


def read_signals(text: str) -> str:
    """See that these are names of signals; give them as they are."""
    from rallypoint.agent.signals import parse_signals

    parse_signals(text)
    return text
