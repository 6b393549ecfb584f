"""The option of a command in front of a store which gives its clients keys of their own: ``--key-space``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import click

from rallypoint.gateway.spaces import KeySpace

__all__ = ["key_space_option"]

_Command: TypeAlias = Callable[..., Any]


def key_space_option(command: _Command) -> _Command:
    """Declare the option; the command gets ``space``, a ``KeySpace`` or ``None``."""
    return click.option(
        "--key-space",
        "space",
        callback=_read,
        metavar="NAME",
        help="Put NAME/ in front of every key, so that local clients see no keys but those of their own.",
    )(command)


def _read(_context: click.Context, parameter: click.Parameter, name: str | None) -> KeySpace | None:
    if name is None:
        return None
    if not name:
        raise click.BadParameter("the name of a key space is empty", param=parameter)
    try:
        return KeySpace(name)
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from error
