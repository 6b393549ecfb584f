"""A token that a launcher makes for its own run."""

from __future__ import annotations

import os
import secrets

import click

from rallypoint.store.credentials import has_token

__all__ = ["TOKEN_BYTES", "give_token"]

TOKEN_BYTES = 32
"""Random bytes in a token; written as twice as many letters."""


def give_token(ctx: click.Context, nodes_max: int) -> None:
    """Put a fresh token into the environment, which the workers inherit, unless one is named there.

    Args:
        ctx: of the command, for the complaint.
        nodes_max: how many nodes take part; nodes cannot learn a token from each other.

    Raises:
        click.UsageError: several nodes, and no token.
    """
    if has_token():
        return
    if nodes_max > 1:
        raise click.UsageError(
            f"--auth can make a token for one node only, and --nnodes allows {nodes_max}: give all nodes the same "
            "token, by RALLYPOINT_TOKEN_FILE or RALLYPOINT_TOKEN",
            ctx,
        )
    os.environ["RALLYPOINT_TOKEN"] = secrets.token_hex(TOKEN_BYTES)
