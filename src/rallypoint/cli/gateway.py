"""``rallypoint gateway``: torch's wire in front of any store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import click

from rallypoint.cli.key_space import key_space_option
from rallypoint.cli.limits import limit_option, limits_with
from rallypoint.cli.listening import bind_option, listen_on, port_option
from rallypoint.cli.ready import announce, check_ready_json, ready_json_option, ready_line
from rallypoint.cli.seconds import SecondsRange
from rallypoint.errors import DistError
from rallypoint.gateway.front import FrontOptions
from rallypoint.gateway.gateway import serve as serve_forever
from rallypoint.gateway.opening import first_place, open_store
from rallypoint.gateway.spaces import KeySpace
from rallypoint.gateway.vocabulary import DEFAULT_RELAY_LIMITS
from rallypoint.net.address import format_endpoint, local_endpoint
from rallypoint.net.url import without_secrets
from rallypoint.rendezvous.patience import said_if_slow

__all__ = ["gateway"]


@click.command()
@click.option(
    "--store",
    "url",
    required=True,
    metavar="URL",
    help="Where the keys are: etcd://host:port/prefix, tcp://host:port, tls://host:port or file:///path.",
)
@bind_option(
    "Listen on this address, or on a socket file (unix:PATH); may be repeated. Whoever reaches an address acts "
    "in the gateway's name: keep it on this machine."
)
@port_option
@key_space_option
@ready_json_option("serves")
@click.option(
    "--patience-s",
    type=SecondsRange(0, min_open=True),
    default=DEFAULT_RELAY_LIMITS.patience_s,
    show_default=True,
    help="Seconds for which a request is tried at a store that is lost, before its client is closed; waits go on.",
)
@limit_option
@click.pass_context
def gateway(
    ctx: click.Context,
    url: str,
    hosts: Sequence[str],
    port: int,
    space: KeySpace | None,
    *,
    ready_json: bool,
    patience_s: float,
    limits_given: Sequence[str],
) -> None:
    """Let plain TCPStore clients use any store.

    Unmodified clients, torch's included, find a TCPStore here; its keys are kept in the store at URL. Each machine may
    have a gateway of its own to the same store.
    """
    check_ready_json(ready_json)
    limits = limits_with(limits_given)
    try:
        place = first_place(url)
        with said_if_slow(place, patience_s, partial(click.echo, err=True)) if place else nullcontext():
            store = open_store(url, patience_s)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--store") from error
    except (DistError, RuntimeError, OSError) as error:
        raise click.ClickException(str(error)) from error
    try:
        listeners = listen_on(hosts, port)
    except BaseException:
        store.close()
        raise
    local = [local_endpoint(listener) for listener in listeners]
    here = " and ".join(map(format_endpoint, local))
    text = f"rallypoint serves {without_secrets(url)} on {here} (pid {os.getpid()}); Ctrl-C ends it"
    on_ready = partial(announce, ready_line(local) if ready_json else text, listeners)
    options = FrontOptions(limits, replace(DEFAULT_RELAY_LIMITS, patience_s=patience_s), space)
    ctx.exit(serve_forever(store, listeners, options, on_ready=on_ready))
