"""The option of a command that serves which sets what its peers are granted: ``--limit NAME=VALUE``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any, Final, TypeAlias

import click

from rallypoint.server.limits import DEFAULT_LIMITS, MOST, NUMBER_MAX, Limits

__all__ = ["limit_option", "limits_with"]

_Command: TypeAlias = Callable[..., Any]

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_WHOLE = re.compile(r"([0-9]{1,30})([KMG]?)", re.IGNORECASE)
_SECONDS = re.compile(r"[0-9]{1,30}(\.[0-9]*)?")

_HINT = "--limit"


def limit_option(command: _Command) -> _Command:
    """Declare the option."""
    return click.option(
        "--limit",
        "limits_given",
        multiple=True,
        metavar="NAME=VALUE",
        help="Set one of the server's limits, as keys_max=100000 or stored_size_max=8G (K, M and G are powers of "
        "1024); may be repeated. An unknown name gets the list of them.",
    )(command)


def limits_with(given: Iterable[str], limits: Limits = DEFAULT_LIMITS, *, fixed: Iterable[str] = ()) -> Limits:
    """Give limits with some of them set.

    Args:
        given: texts ``NAME=VALUE``.
        limits: the others.
        fixed: names that another option has set.

    Raises:
        click.BadParameter: a text is none, its name is unknown or was set before, or its value is out of range.
    """
    known = [field.name for field in fields(Limits)]
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=_HINT)
        if name not in known:
            raise click.BadParameter(
                f"there is no limit {name!r}, the limits are: {', '.join(known)}", param_hint=_HINT
            )
        if name in values or name in fixed:
            raise click.BadParameter(f"{name} is set twice", param_hint=_HINT)
        values[name] = _value(name, value)
    return replace(limits, **values)


def _value(name: str, text: str) -> float:
    """Read the value of one limit."""
    value: float | None = None
    if isinstance(getattr(DEFAULT_LIMITS, name), float):
        most = MOST.get(name)
        allowed = "seconds above 0" if most is None else f"seconds above 0, {most:g} at most"
        if _SECONDS.fullmatch(text):
            value = float(text)
            most = most or value
    else:
        most = MOST.get(name, NUMBER_MAX)
        allowed = f"a whole number from 1 to {most}, K, M or G behind it for 1024 to the power of 1, 2 or 3"
        if found := _WHOLE.fullmatch(text):
            value = int(found[1]) * _UNITS[found[2].upper()]
    if value is None or most is None or not 0 < value <= most:
        raise click.BadParameter(f"{name} is {text!r}, it must be {allowed}", param_hint=_HINT)
    return value
