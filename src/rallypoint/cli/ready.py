"""What a command that serves says when it is ready."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import click

from rallypoint.net.address import UNIX_PREFIX, close_listener
from rallypoint.types import Endpoint

__all__ = ["announce", "check_ready_json", "ready_json_option", "ready_line"]

_Command: TypeAlias = Callable[..., Any]


def ready_json_option(does: str) -> Callable[[_Command], _Command]:
    """Declare ``--ready-json``.

    Args:
        does: what the command does once it is ready, as *serves*.
    """
    return click.option(
        "--ready-json", is_flag=True, help=f"Print one line of JSON with host, port and pid once it {does}."
    )


def check_ready_json(is_wanted: bool) -> None:
    """Refuse to start where nobody could read the line.

    Raises:
        click.ClickException: the standard output is closed.
    """
    if is_wanted and sys.stdout is None:
        raise click.ClickException("the ready line cannot be written: the standard output is closed")


def ready_line(endpoints: Sequence[Endpoint]) -> str:
    """Give the first TCP address and the first socket file, as far as there are any, and the process id."""
    ready: dict[str, str | int] = {}
    for endpoint in reversed(endpoints):
        if endpoint.host.startswith(UNIX_PREFIX):
            ready["path"] = endpoint.host[len(UNIX_PREFIX) :]
        else:
            ready.update(host=endpoint.host, port=endpoint.port)
    return json.dumps({**ready, "pid": os.getpid()})


def announce(line: str, listeners: Sequence[socket.socket]) -> None:
    """Say that it is ready.

    Args:
        line: what to say, for people or for programs.
        listeners: closed if it cannot be said: whoever waits for the line would never come.

    Raises:
        click.ClickException: the standard output takes no line.
    """
    try:
        print(line, flush=True)
    except OSError as error:
        for listener in listeners:
            close_listener(listener)
        raise click.ClickException(
            f"the ready line cannot be written to the standard output: {error.strerror}"
        ) from error
