"""``rallypoint serve``: a store in the foreground."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import click
from click.core import ParameterSource

from rallypoint.cli.limits import limit_option, limits_with
from rallypoint.cli.listening import bind_option, listen_on, port_option
from rallypoint.cli.ready import announce, check_ready_json, ready_json_option, ready_line
from rallypoint.cli.seconds import SecondsRange
from rallypoint.cli.security import security_options, security_to_serve_with
from rallypoint.net.address import PORT_MAX, UNIX_PREFIX, format_endpoint, local_endpoint
from rallypoint.observe.prometheus import MetricsError, served_metrics
from rallypoint.server.data_dir import DataDirError
from rallypoint.server.figures import FiguresSource
from rallypoint.server.foreground import serve as serve_forever
from rallypoint.server.limits import DEFAULT_LIMITS, DRAIN_S, SPIN_US_MAX, Limits
from rallypoint.server.native import Loop
from rallypoint.types import Endpoint

__all__ = ["serve"]


@click.command()
@bind_option(
    "Listen on this address, on a name's addresses, or on a socket file (unix:PATH); may be repeated. "
    "Without a token or TLS whoever reaches an address can read and change everything. "
    "0.0.0.0 is every IPv4 address, :: is every address."
)
@port_option
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False),
    default=None,
    metavar="DIR",
    help="Keep everything in this directory: what was answered is there again after a crash or a restart. Made if it "
    "is not there; one server at a time. Without it everything is kept in memory only.",
)
@ready_json_option("serves")
@click.option(
    "--connections-max",
    type=click.IntRange(1),
    default=DEFAULT_LIMITS.connections_max,
    show_default=True,
    help="Refuse clients beyond so many.",
)
@limit_option
@click.option(
    "--drain-s",
    type=SecondsRange(0),
    default=DRAIN_S,
    show_default=True,
    help="Seconds that pending replies may take to go out after SIGTERM or Ctrl-C.",
)
@click.option(
    "--spin-us",
    type=click.IntRange(0, SPIN_US_MAX),
    default=0,
    show_default=True,
    help="After each request look for the next one for so many microseconds before sleeping: quicker answers to "
    "clients on other cores, for processor time.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, PORT_MAX),
    default=None,
    help="Serve Prometheus metrics over HTTP on this port; 0 lets the system choose. Needs rallypoint[metrics].",
)
@click.option(
    "--metrics-bind",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="The address of the metrics; whoever reaches it can read them.",
)
@security_options
@click.pass_context
def serve(
    ctx: click.Context,
    /,
    hosts: Sequence[str],
    port: int,
    *,
    data_dir: str | None,
    ready_json: bool,
    connections_max: int,
    limits_given: Sequence[str],
    drain_s: float,
    spin_us: int,
    metrics_port: int | None,
    metrics_bind: str,
    **wanted: Any,
) -> None:
    """Serve a store that clients reach over the network.

    Any TCPStore client can use it: rallypoint's, and torch's unless a token or TLS is wanted. SIGTERM and Ctrl-C drain
    and end it; a second one ends it at once.
    """
    is_set = ctx.get_parameter_source("connections_max") is not ParameterSource.DEFAULT
    fixed = ["connections_max"] if is_set else []
    limits = limits_with(limits_given, replace(DEFAULT_LIMITS, connections_max=connections_max), fixed=fixed)
    _check_addresses(hosts)
    if data_dir == "":  # as of a variable that is not set; it would be the current directory
        raise click.BadParameter("'' names no directory: write . for the current one", param_hint="--data-dir")
    check_ready_json(ready_json)
    security = security_to_serve_with(**wanted)
    listeners = listen_on(hosts, port)
    endpoints = [local_endpoint(listener) for listener in listeners]
    line = ready_line(endpoints) if ready_json else _ready_text(endpoints)
    try:
        code = serve_forever(
            listeners,
            limits=limits,
            data_dir=data_dir,
            on_ready=partial(announce, line, listeners),
            drain_s=drain_s,
            spin_us=spin_us,
            security=security,
            beside=None if metrics_port is None else _metrics(limits, metrics_bind, metrics_port),
        )
    except (DataDirError, ValueError, MetricsError) as error:
        raise click.ClickException(str(error)) from error
    ctx.exit(code)


def _check_addresses(hosts: Sequence[str]) -> None:
    """Refuse as wrong usage what can be no address.

    Raises:
        click.BadParameter: an address is empty or has a port.
    """
    for host in hosts:
        if host in ("", UNIX_PREFIX):
            raise click.BadParameter(f"{host!r} names no address: write an address or unix:PATH", param_hint="--bind")
        if not host.startswith(UNIX_PREFIX) and (host.startswith("[") or host.count(":") == 1):
            raise click.BadParameter(
                f"{host!r} is no address alone: give the port with --port, and IPv6 without brackets",
                param_hint="--bind",
            )


def _metrics(limits: Limits, host: str, port: int) -> Callable[[Loop], AbstractContextManager[object]]:
    """Give what serves metrics beside a server."""

    @contextmanager
    def beside(loop: Loop) -> Iterator[None]:
        with served_metrics(FiguresSource(loop, limits), host, port) as bound:
            click.echo(f"rallypoint serves metrics on http://{host}:{bound}/metrics", err=True)
            yield

    return beside


def _ready_text(endpoints: Sequence[Endpoint]) -> str:
    where = " and ".join(map(format_endpoint, endpoints))
    return f"rallypoint serves on {where} (pid {os.getpid()}); Ctrl-C ends it"
