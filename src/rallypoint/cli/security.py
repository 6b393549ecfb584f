"""The options of a command that serves: what those who connect must prove, and may do."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import click

if TYPE_CHECKING:
    from rallypoint.server.security import Security

__all__ = ["security_options", "security_to_serve_with"]

_Command: TypeAlias = Callable[..., Any]

_OPTIONS = (
    click.option(
        "--token-file",
        metavar="FILE",
        help="Let in only who proves to have a token of this file, and prove it too. A line is TOKEN or NAME TOKEN, "
        "that of an identity. Only its owner and its group may read the file.  [env: RALLYPOINT_TOKEN_FILE; "
        "RALLYPOINT_TOKEN for the token itself]",
    ),
    click.option(
        "--allow-plain",
        "plain_networks",
        multiple=True,
        metavar="NETWORK",
        help="Let clients from this network (10.0.0.0/8, 127.0.0.1) in without a token or TLS, which torch's cannot "
        "have; may be repeated.  [env: RALLYPOINT_ALLOW_PLAIN, split by commas]",
    ),
    click.option(
        "--access-rules",
        "rules_file",
        metavar="FILE",
        help="What each identity may read and change, in JSON: "
        '{"trainer": {"read": ["train/"], "write": ["train/"]}, "*": {"read": [""]}}.',
    ),
    click.option(
        "--tls-cert", metavar="FILE", help="Serve TLS with this certificate (PEM); looked at again as it changes."
    ),
    click.option("--tls-key", metavar="FILE", help="The certificate's key, if it does not stand in the same file."),
    click.option(
        "--tls-ca", metavar="FILE", help="Let in only who brings a certificate of these authorities (mutual TLS)."
    ),
)


def security_options(command: _Command) -> _Command:
    """Declare the options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def security_to_serve_with(
    *,
    token_file: str | None,
    plain_networks: Sequence[str],
    rules_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
) -> Security | None:
    """Give what the options and the environment say; ``None`` if they want nothing of anybody.

    Raises:
        click.ClickException: what they say makes no sense; the sentence names the option or the file.
    """
    if tls_cert is None and (tls_key is not None or tls_ca is not None):
        raise click.UsageError("--tls-key and --tls-ca mean nothing without --tls-cert")
    from rallypoint.net.tls import Tls
    from rallypoint.server.security import Security, read_networks, read_rules, read_tokens

    try:
        security = Security(
            read_tokens(os.environ, token_file),
            None if rules_file is None else read_rules(rules_file),
            tuple(plain_networks) or read_networks(os.environ),
            None if tls_cert is None else Tls(tls_ca, tls_cert, tls_key),
        )
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    return security if security.wants_anything else None
