"""Find the ``LogsSpecs`` that an installed package announces under a name, for ``--logs-specs``.

Source: the entry point group, and what its classes are made with, as observed in torch 2.13.0. A class made for torch's
``LogsSpecs`` does as well: what it has to do is ``reify``.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

from rallypoint.agent.logs import LogOptions
from rallypoint.agent.logspecs import LogsDest, LogsSpecs

__all__ = ["ENTRY_POINT_GROUP", "make_logs_specs"]

ENTRY_POINT_GROUP = "torchrun.logs_specs"


class _Adapted(LogsSpecs):
    """Somebody's object that was made for torch."""

    def __init__(self, specs: Any) -> None:
        super().__init__()
        self._specs = specs

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        dest: LogsDest = self._specs.reify(envs)
        return dest

    @property
    def root_log_dir(self) -> str:
        return str(self._specs.root_log_dir)


def make_logs_specs(name: str, options: LogOptions) -> LogsSpecs:
    """Make what a package announces.

    Args:
        name: its name.
        options: what the user asked for.

    Raises:
        ValueError: if no package announces that name, or it cannot be loaded or made.
    """
    announced = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)}
    if name not in announced:
        known = ", ".join(sorted(announced)) or "none is installed"
        raise ValueError(f"{name!r} is no entry point of {ENTRY_POINT_GROUP}; there are: {known}")
    try:
        specs = announced[name].load()(
            log_dir=None if options.log_dir is None else str(options.log_dir),
            redirects=options.redirects,
            tee=options.tee,
            local_ranks_filter=options.local_ranks_filter and set(options.local_ranks_filter),
        )
    except Exception as error:  # whatever a plug-in does wrong, the user is told which one it was
        raise ValueError(f"the plug-in {announced[name].value!r} cannot be used: {error!r}") from error
    return specs if isinstance(specs, LogsSpecs) else _Adapted(specs)
