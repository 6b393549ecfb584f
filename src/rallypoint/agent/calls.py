"""A call that a worker is to make, as a value, and what came of it: the light side of ``agent.functions``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["START_METHODS", "FunctionCall", "read_values"]

START_METHODS = ("spawn", "forkserver", "fork")
"""How a process for a function may be made."""


@dataclass(frozen=True)
class FunctionCall:
    """A call that is to be made in a process of its own.

    Attributes:
        function: what is called; unless it is forked, something that ``pickle`` finds by its name.
        args: its arguments.
        start_method: one of :data:`START_METHODS`.

    Raises:
        ValueError: if the start method is none of them.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    start_method: str = "spawn"

    def __post_init__(self) -> None:
        if self.start_method not in START_METHODS:
            raise ValueError(f"start_method is {self.start_method!r}; it must be one of {', '.join(START_METHODS)}")

    @property
    def name(self) -> str:
        """What reports call it."""
        function = self.function
        while isinstance(function, functools.partial):
            function = function.func
        return getattr(function, "__qualname__", type(function).__qualname__)

    @property
    def is_forked(self) -> bool:
        """Tell whether its process is a copy of this one."""
        return self.start_method == "fork"


def read_values(packed: Mapping[int, bytes], ranks: Iterable[int]) -> dict[int, Any]:
    """Unpack what workers returned.

    Args:
        packed: by rank, as the workers left it; commands leave nothing.
        ranks: the workers.

    Returns:
        For each rank what its function returned; ``None`` for commands.

    Raises:
        AgentError: if this process cannot make anything of it.
    """
    if not any(packed.values()):
        return dict.fromkeys(ranks)
    from rallypoint.agent.functions import read_value

    return {rank: read_value(packed.get(rank, b"")) for rank in ranks}
