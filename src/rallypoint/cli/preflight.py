"""What can be known to fail before any other node is met: the program, the log folder, the place to meet.

A mistake in them is the same in every round, so it should cost no restart and no rendezvous.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import click

__all__ = [
    "PreflightError",
    "ProgramNotExecutableError",
    "ProgramNotFoundError",
    "check_endpoint",
    "check_log_dir",
    "check_program",
    "check_script",
]


class PreflightError(click.ClickException):
    """The workers could never be started."""

    exit_code = 2


class ProgramNotExecutableError(PreflightError):
    """The program may not be run."""

    exit_code = 126  # a shell's


class ProgramNotFoundError(PreflightError):
    """The program is not there."""

    exit_code = 127  # a shell's


def check_program(program: str) -> None:
    """Check that a program can be run, looked up in ``PATH`` unless it has a slash.

    Raises:
        ProgramNotFoundError: if there is none.
        ProgramNotExecutableError: if it may not be executed, as a folder.
    """
    if shutil.which(program):
        return
    if shutil.which(program, mode=os.F_OK) or ("/" in program and Path(program).exists()):
        raise ProgramNotExecutableError(f"the program {program!r} is not executable; chmod +x makes it so")
    where = "there is no such file" if "/" in program else "it is not in PATH; a file here is written ./NAME"
    raise ProgramNotFoundError(f"the program {program!r} cannot be found: {where}")


def check_script(script: str) -> None:
    """Check that there is a script for Python to read; ``-`` and what else starts so is Python's own affair.

    Raises:
        PreflightError: with exit code 2, which is Python's for the same mistake.
    """
    if script.startswith("-"):
        return
    if not Path(script).exists():
        raise PreflightError(f"the script {script!r} does not exist, seen from {Path.cwd()}")
    if not os.access(script, os.R_OK):
        raise PreflightError(f"the script {script!r} may not be read by this user")


def check_log_dir(path: Path | None) -> None:
    """Make the folder for logs, and see that it can be written.

    Raises:
        PreflightError: with exit code 2 if one of the two fails.
    """
    if path is None or path == Path(os.devnull):
        return
    if path.exists() and not path.is_dir():
        raise PreflightError(f"--log-dir {path} is no folder; name a folder, which is made if need be")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise PreflightError(f"--log-dir {path} cannot be made or written: {why}; name another folder") from error


def check_endpoint(ctx: click.Context, backend: str, endpoint: str, nodes_max: int, default_port: int) -> None:
    """Check an endpoint, and refuse port 0 for several nodes: each would serve, and wait at, a port of its own."""
    from rallypoint.net.address import parse_endpoint
    from rallypoint.rendezvous.endpoint import parse_rendezvous_endpoint

    if backend not in ("c10d", "static", "rallypoint") or not endpoint or endpoint.startswith("unix:"):
        return
    if backend == "rallypoint" and ("://" in endpoint or "," in endpoint):
        return  # read where it is used
    try:
        parse_endpoint(endpoint, default_port)  # it explains better, the other one is stricter
        port = parse_rendezvous_endpoint(endpoint, default_port).port
    except ValueError as error:
        if backend != "c10d" or "/" not in endpoint:
            raise click.UsageError(str(error), ctx) from error
        return  # the path of a file store
    if port == 0 and nodes_max > 1:
        raise click.UsageError(
            f"{nodes_max} nodes cannot meet at port 0 of {endpoint!r}: each would be given another port; "
            "name one port for all of them",
            ctx,
        )
