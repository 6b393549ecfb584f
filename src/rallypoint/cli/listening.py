"""The options of a command that listens: on which addresses, on which port."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import click

from rallypoint.errors import DistNetworkError
from rallypoint.net.address import PORT_MAX, listen_exactly

__all__ = ["DEFAULT_PORT", "bind_option", "listen_on", "port_option"]

DEFAULT_PORT = 29500  # torch's

_Command: TypeAlias = Callable[..., Any]

port_option = click.option(
    "--port",
    type=click.IntRange(0, PORT_MAX),
    default=DEFAULT_PORT,
    show_default=True,
    help="The TCP port; 0 lets the system choose a free one.",
)


def bind_option(explanation: str) -> Callable[[_Command], _Command]:
    """Declare ``--bind``.

    Args:
        explanation: its help: which addresses it takes, and who may come that way.
    """
    return click.option(
        "--bind",
        "hosts",
        multiple=True,
        default=("127.0.0.1",),
        show_default=True,
        metavar="ADDRESS",
        help=explanation,
    )


def listen_on(hosts: Sequence[str], port: int) -> list[socket.socket]:
    """Listen on every address.

    Raises:
        click.ClickException: it cannot be done, and nothing listens.
    """
    try:
        return listen_exactly(hosts, port)
    except (DistNetworkError, ValueError) as error:
        raise click.ClickException(str(error)) from error
