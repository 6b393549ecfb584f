"""Where the output of workers goes: which streams are kept, in which folders, under which prefix.

Nothing is made on disk before something is to be written there. The folders of one run::

    <log_dir>/<run_id>_<random>/round_<n>/<local_rank>/{stdout.log, stderr.log, error.json}

Each start of a worker group gets a folder of its own (a second start within one round is ``round_<n>.1``), and
none is ever deleted. Without a log option only the error files need a place: a private temporary folder, which is
removed at a clean end.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

__all__ = ["DEFAULT_PREFIX", "LogFolders", "LogOptions", "Output", "Std", "WorkerLogs", "read_tail", "to_map"]

DEFAULT_PREFIX = "[${role_name}${local_rank}]:"
"""The template that stands before each tee'd line; also known: ``${rank}`` and ``${hostname}``."""

RUN_NAME_SIZE_MAX = 128
"""The part of a run id that goes into a folder's name, in characters."""

TAIL_LINES_MAX = 20
"""The last lines of a failed worker's stderr that its report shows."""

TAIL_SIZE_MAX = 16 * 1024
"""The bytes at the end of a stream that are looked at for those lines."""


class Std(enum.IntFlag):
    """Which of the standard streams of a worker are meant.

    Source: names and numbers as observed in torch 2.13.0.
    """

    NONE = 0
    OUT = 1
    ERR = 2
    ALL = OUT | ERR

    @classmethod
    def from_str(cls, text: str) -> Std | dict[int, Std]:
        """Read the form of the command line.

        Args:
            text: one number for all local ranks (``"3"``), or one for each local rank or range of them
                (``"0:1,1:2"``, ``"0:3,10-12:1"``).

        Raises:
            ValueError: naming the part that is neither.
        """
        if not re.search("[:,]", text):
            return _stream(text, text)
        found: dict[int, Std] = {}
        for part in text.split(","):
            match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?:(.*)", part, re.ASCII)
            if match is None:
                raise ValueError(
                    f"{part!r} in {text!r} is no <local rank>:<streams>; write 0:1 or 10-12:3, parts split by commas"
                )
            first = int(match[1])
            last = first if match[2] is None else int(match[2])
            if last < first or last - first >= _RANKS_MAX:
                raise ValueError(f"{part!r} in {text!r} is no range of local ranks; write the smaller one first")
            for rank in range(first, last + 1):
                if rank in found:
                    raise ValueError(f"{part!r} in {text!r} names local rank {rank} a second time")
                found[rank] = _stream(match[3], text)
        return found


Streams: TypeAlias = Std | Mapping[int, Std]
"""One value for all local ranks, or one for each; ranks that are not named have ``Std.NONE``."""

_RANKS_MAX = 65536


def _stream(part: str, text: str) -> Std:
    stripped = part.strip()
    if stripped not in ("0", "1", "2", "3"):
        raise ValueError(f"{part!r} in {text!r} is no choice of streams; write 0 (none), 1 (out), 2 (err) or 3 (both)")
    return Std(int(stripped))


def to_map(streams: Streams, local_world_size: int) -> dict[int, Std]:
    """Give one value for each local rank, ``Std.NONE`` for those that are not named.

    Shape: keys 0 to ``local_world_size`` - 1, in order.
    """
    if isinstance(streams, Std):
        return dict.fromkeys(range(local_world_size), streams)
    return {rank: streams.get(rank, Std.NONE) for rank in range(local_world_size)}


@dataclass(frozen=True)
class Output:
    """Where one stream of one worker goes.

    ========  =======  =========================================================================
    path      console  meaning
    ========  =======  =========================================================================
    ``None``  yes      the agent's own stream, inherited as it is; lines with ``prefix`` if given
    a file    no       redirect: the worker writes to the file itself
    a file    yes      tee: raw bytes to the file, lines with ``prefix`` to the console
    ``None``  no       nowhere
    ========  =======  =========================================================================

    Attributes:
        path: the file, opened for appending; its folder exists.
        console: whether the agent's own stream shows it.
        prefix: what stands before each line on the console; ``None`` for none.
    """

    path: Path | None = None
    console: bool = True
    prefix: str | None = None

    @property
    def is_piped(self) -> bool:
        """Tell whether the agent must carry the bytes, which then come through a pipe."""
        return self.console and (self.path is not None or self.prefix is not None)


@dataclass(frozen=True)
class LogOptions:
    """What a user asked for.

    Attributes:
        log_dir: the folder for the runs' folders; ``None`` for a temporary one, made if a stream is to be kept.
            ``/dev/null`` keeps no stream.
        redirects: streams that go to files only.
        tee: streams that go to files and, line by line with a prefix, to the console.
        local_ranks_filter: the local ranks that the console shows; ``None`` for all. Files are written for all.
        prefix: the template of the prefix, see :data:`DEFAULT_PREFIX`.
    """

    log_dir: Path | None = None
    redirects: Streams = Std.NONE
    tee: Streams = Std.NONE
    local_ranks_filter: frozenset[int] | None = None
    prefix: str = DEFAULT_PREFIX


@dataclass(frozen=True)
class WorkerLogs:
    """The outputs of one worker, and the file in which it may leave its error.

    Attributes:
        stdout: where its standard output goes.
        stderr: where its standard error goes.
        error_file: a path in an existing folder; the file itself is not made.
    """

    stdout: Output
    stderr: Output
    error_file: Path


class LogFolders:
    """The folders of one run on this node.

    Args:
        run_id: the run's id; characters that do not suit a file name become ``_``.
        options: what the user asked for.

    Raises:
        NotADirectoryError: if ``options.log_dir`` is there and is no folder.
    """

    def __init__(self, run_id: str, options: LogOptions | None = None) -> None:
        raise NotImplementedError

    @property
    def root(self) -> Path | None:
        """Give the folder that keeps this run's streams, or ``None`` as long as none is kept."""
        raise NotImplementedError

    def open_round(
        self, round_number: int, ranks: Mapping[int, int], role_name: str = "default"
    ) -> dict[int, WorkerLogs]:
        """Make the folders for one start of the worker group.

        Args:
            round_number: the rendezvous round.
            ranks: the global rank of each local rank, for prefixes.
            role_name: the workers' role, for prefixes.

        Returns:
            The outputs of each local rank, in the order of ``ranks``.

        Raises:
            OSError: if a folder cannot be made.
        """
        raise NotImplementedError

    def close(self, *, clean: bool) -> None:
        """Remove the private folder of error files, if there is one. Calling it twice does no harm.

        Args:
            clean: whether the run ended well; otherwise a private folder that holds an error file stays.
        """
        raise NotImplementedError


def read_tail(path: Path, lines_max: int = TAIL_LINES_MAX) -> tuple[str, ...]:
    """Give the last lines of a log file, decoded for people; an unreadable file has none."""
    raise NotImplementedError
