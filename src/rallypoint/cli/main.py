"""``rallypoint``: from the start of the process to its exit code, whatever happens to its signals and streams.

Nothing heavy is imported before the signals are taken, because the imports are most of the time until a command runs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

__all__ = ["main"]

_EARLY_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; ends by ``SystemExit``, or at once by a signal that comes before the command takes it itself.

    Args:
        arguments: what follows the program's name; ``None``: the process's own.
    """
    for number in _EARLY_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _exit_at_once)
    _fill_closed_streams()
    from rallypoint.cli.commands import group

    try:
        group(arguments, prog_name="rallypoint")
    except OSError as error:
        if not _is_from_echo(error):
            raise
        print(f"rallypoint: the standard output cannot be written: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    finally:
        _drop_unwritten()


def _exit_at_once(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)  # an exception raised inside an import would be lost, or shown as a traceback


def _fill_closed_streams() -> None:
    """Put the null device where a standard stream is closed, so that no socket becomes a worker's stream."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest free one
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _is_from_echo(error: OSError) -> bool:
    """Tell whether an error comes from writing a command's own words."""
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    return innermost is not None and innermost.tb_frame.f_globals.get("__name__") == "click.utils"


def _drop_unwritten() -> None:
    """Let what the standard output does not take go nowhere, or the interpreter would try once more, and complain."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
