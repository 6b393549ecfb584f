"""``rallypoint relay``: a store for this machine's unmodified clients, kept by a server elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import click

from rallypoint.cli.key_space import key_space_option
from rallypoint.cli.listening import bind_option, listen_on, port_option
from rallypoint.cli.ready import announce, check_ready_json, ready_json_option, ready_line
from rallypoint.cli.seconds import SecondsRange
from rallypoint.errors import AuthenticationError, DistNetworkError
from rallypoint.gateway.front import FrontOptions
from rallypoint.gateway.relay import serve as serve_forever
from rallypoint.gateway.spaces import KeySpace
from rallypoint.gateway.vocabulary import DEFAULT_RELAY_LIMITS
from rallypoint.net.address import format_endpoint, local_endpoint, parse_endpoint
from rallypoint.server.limits import DEFAULT_LIMITS, SPIN_US_MAX
from rallypoint.store.credentials import credentials_to_use
from rallypoint.store.reach import Reacher
from rallypoint.types import Endpoint

__all__ = ["relay"]


@click.command()
@click.argument("upstream", nargs=-1, required=True, metavar="HOST:PORT...")
@bind_option(
    "Listen on this address, or on a socket file (unix:PATH); may be repeated. Whoever reaches an address acts "
    "in the relay's name: keep it on this machine."
)
@port_option
@ready_json_option("relays")
@click.option(
    "--patience-s",
    type=SecondsRange(0, min_open=True),
    default=DEFAULT_RELAY_LIMITS.patience_s,
    show_default=True,
    help="Seconds that the server may be gone before local clients are closed.",
)
@click.option(
    "--connections-max",
    type=click.IntRange(1),
    default=DEFAULT_LIMITS.connections_max,
    show_default=True,
    help="Refuse local clients beyond so many.",
)
@key_space_option
@click.option(
    "--spin-us",
    type=click.IntRange(0, SPIN_US_MAX),
    default=0,
    show_default=True,
    help="After each event look for the next one for so many microseconds before sleeping: quicker answers where a "
    "core is free, for processor time.",
)
@click.pass_context
def relay(
    ctx: click.Context,
    upstream: Sequence[str],
    hosts: Sequence[str],
    port: int,
    *,
    ready_json: bool,
    patience_s: float,
    connections_max: int,
    space: KeySpace | None,
    spin_us: int,
) -> None:
    """Let plain clients of this machine use a guarded server.

    All of them share one connection to the server at HOST:PORT (several: the same server's other addresses), which is
    made again when it is lost; meanwhile they wait. Token and TLS come from the environment, as for any client.
    """
    check_ready_json(ready_json)
    try:
        endpoints = [parse_endpoint(text) for text in upstream]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="HOST:PORT") from error
    try:
        credentials = credentials_to_use()
        reach = Reacher(endpoints, credentials=credentials, session_timeout_s=patience_s)
    except (DistNetworkError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    listeners = listen_on(hosts, port)
    local = [local_endpoint(listener) for listener in listeners]
    line = ready_line(local) if ready_json else _ready_text(local, endpoints)
    on_ready = partial(announce, line, listeners)
    limits = replace(DEFAULT_LIMITS, connections_max=connections_max)
    relay_limits = replace(DEFAULT_RELAY_LIMITS, patience_s=patience_s)
    try:
        options = FrontOptions(limits, relay_limits, space, spin_us=spin_us)
        code = serve_forever(reach, listeners, options, is_secured=credentials.tls is not None, on_ready=on_ready)
    except AuthenticationError as error:
        raise click.ClickException(str(error)) from error
    ctx.exit(code)


def _ready_text(local: Sequence[Endpoint], upstream: Sequence[Endpoint]) -> str:
    here, there = (" and ".join(map(format_endpoint, endpoints)) for endpoints in (local, upstream))
    return f"rallypoint relays {here} to {there} (pid {os.getpid()}); Ctrl-C ends it"
