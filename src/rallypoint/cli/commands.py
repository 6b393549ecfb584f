"""The group of commands.

The table below is all that ``rallypoint --help`` needs; a command's module is imported when the command is called.
"""

from __future__ import annotations

import importlib
from typing import NamedTuple

import click

import rallypoint

__all__ = ["COMMANDS", "CommandEntry", "group"]


class CommandEntry(NamedTuple):
    """One command that is not imported yet.

    Attributes:
        module: where it lives; the command is the attribute of the command's own name.
        summary: one line for ``rallypoint --help``; the same as the command's own first sentence.
    """

    module: str
    summary: str


COMMANDS = {
    "run": CommandEntry("rallypoint.cli.run", "Start the workers of this node and keep them going."),
    "serve": CommandEntry("rallypoint.cli.serve", "Serve a store that clients reach over the network."),
    "relay": CommandEntry("rallypoint.cli.relay", "Let plain clients of this machine use a guarded server."),
    "gateway": CommandEntry("rallypoint.cli.gateway", "Let plain TCPStore clients use any store."),
    "status": CommandEntry(
        "rallypoint.cli.status", "Look into a server: who is there, who waits for what, who is missing."
    ),
    "doctor": CommandEntry("rallypoint.cli.doctor", "Say which twin runs and why, and whether a store works here."),
}


class LazyGroup(click.Group):
    """A group that imports a command when it is called, and prints its own help without any of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Give the names, as they are shown."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import one command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(importlib.import_module(entry.module), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """Write the list of commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


@click.command("rallypoint", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(rallypoint.__version__, prog_name="rallypoint")
def group() -> None:
    """Let the processes of a distributed job find each other, share values, wait, and survive failures."""
