"""``rallypoint status``: what a server says of itself, as tables for people or as JSON."""

from __future__ import annotations

import json
from contextlib import closing
from time import sleep as pause
from typing import Any

import click

from rallypoint.cli.listening import DEFAULT_PORT
from rallypoint.cli.seconds import SecondsRange
from rallypoint.cli.status_tables import show
from rallypoint.errors import ConnectTimeoutError, DistError, RefusedError
from rallypoint.net.address import parse_endpoint
from rallypoint.observe.status import SECTIONS, read
from rallypoint.protocol.spec import CloseReason
from rallypoint.store.bootstrap import open_endpoint
from rallypoint.store.tcp import TCPStore
from rallypoint.types import Endpoint

__all__ = ["status"]

TIMEOUT_S = 10.0

_SHOWN_PLAIN = 1000  # keys of a server that has no status


@click.command()
@click.argument("address", metavar="HOST[:PORT]")
@click.argument("section", default="overview", metavar="[SECTION]")
@click.option("--json", "is_json", is_flag=True, help="Print the server's document as it is, one line each time.")
@click.option(
    "--watch",
    "watch_s",
    type=SecondsRange(0, min_open=True),
    default=None,
    metavar="SECONDS",
    help="Ask again every so many seconds, until Ctrl-C.",
)
@click.option(
    "--timeout-s",
    type=SecondsRange(0, min_open=True),
    default=TIMEOUT_S,
    show_default=True,
    help="Seconds that the server may take to answer; if given, also to come up.",
)
@click.pass_context
def status(
    ctx: click.Context, address: str, section: str, *, is_json: bool, watch_s: float | None, timeout_s: float
) -> None:
    """Look into a server: who is there, who waits for what, who is missing.

    SECTION is overview, peers, sessions, barriers, leases, watches, refusals, keys/PREFIX, or values/PREFIX, which
    shows the values too. Token and TLS come from the environment, as for any client.

    The exit code is 0, 1 if the server does not answer or refuses, 2 for wrong usage, and 3 if it has no status, as
    torch's has none: then its keys are listed, if it can do that.
    """
    if section.partition("/")[0] not in SECTIONS:
        raise click.BadParameter(f"{section!r} is no section: there are {', '.join(SECTIONS)}", param_hint="SECTION")
    try:
        endpoint = parse_endpoint(address, DEFAULT_PORT)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="HOST[:PORT]") from error
    try:
        may_wait = ctx.get_parameter_source("timeout_s") is not click.core.ParameterSource.DEFAULT
        with closing(_connect(endpoint, timeout_s, may_wait=may_wait)) as store:
            if not store.has_sessions():
                why = "speaks c10d only, as torch's servers do"
                ctx.exit(_show_plain(store, f"{address} {why}", is_json=is_json))
            try:
                _look(store, "" if section == "overview" else _asked(section), watch_s, is_json=is_json)
            except RefusedError as refusal:
                if refusal.reason != CloseReason.UNKNOWN_VERB.value:
                    raise
                ctx.exit(_show_plain(store, f"{address} has no status", is_json=is_json))
    except KeyboardInterrupt:
        ctx.exit(0)
    except (DistError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def _asked(section: str) -> str:
    return section + "/" if section in {"keys", "values"} else section


def _connect(endpoint: Endpoint, timeout_s: float, *, may_wait: bool) -> TCPStore:
    """Connect; unless a server is to be waited for that is yet to come, one that is not there is told at once."""
    if not may_wait:
        try:
            store = _open(endpoint, 0.0)
        except ConnectTimeoutError as error:
            if not isinstance(error.__cause__, TimeoutError):
                raise click.ClickException(
                    f"{error.__cause__ or error}; with --timeout-s a server is waited for that is yet to come"
                ) from error
        else:
            store.set_timeout(timeout_s)
            return store
    return _open(endpoint, timeout_s)


def _open(endpoint: Endpoint, timeout_s: float) -> TCPStore:
    return open_endpoint(endpoint, timeout=timeout_s, dialect="auto")


def _look(store: TCPStore, what: str, watch_s: float | None, *, is_json: bool) -> None:
    """Show a section, again and again if that is wanted."""
    while True:
        document = store.status(what)
        if is_json:
            click.echo(json.dumps(document))
        else:
            text = show(read(document))
            if watch_s is not None:
                click.clear()
            click.echo(text)
        if watch_s is None:
            return
        pause(watch_s)


def _show_plain(store: TCPStore, why: str, *, is_json: bool) -> int:
    """Show what can be learned of a server that has no status; give the exit code."""
    keys: list[str] | None
    try:
        keys = sorted(store.list_keys())
    except (DistError, NotImplementedError):
        keys = None
    count = store.num_keys()
    if is_json:
        document: dict[str, Any] = {"version": 0, "section": "plain", "why": why, "keys": count}
        click.echo(json.dumps(document | ({} if keys is None else {"names": keys})))
        return 3
    click.echo(f"{why}: it tells no more than its keys", err=True)
    click.echo(f"{count} keys" + (", which it does not list" if keys is None else ""))
    for key in (keys or [])[:_SHOWN_PLAIN]:
        click.echo(f"  {key}")
    if keys is not None and len(keys) > _SHOWN_PLAIN:
        click.echo(f"  and {len(keys) - _SHOWN_PLAIN} more")
    return 3
