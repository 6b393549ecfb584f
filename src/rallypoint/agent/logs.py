"""Where the output of workers goes: which streams are kept, in which folders, under which prefix.

Nothing is made on disk before something is to be written there. The folders of one run::

    <log_dir>/<run_id>_<random>/round_<n>/<local_rank>/{stdout.log, stderr.log, error.json}

Each start of a worker group gets a folder of its own (a second start within one round is ``round_<n>.1``), and
none is ever deleted. Without a log option only the error files need a place: a private temporary folder, which is
removed at a clean end.
"""

from __future__ import annotations

import enum
import errno
import os
import re
import shutil
import string
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from rallypoint.events import emit

__all__ = [
    "DEFAULT_PREFIX",
    "LineFilter",
    "LogFolders",
    "LogOptions",
    "Output",
    "Std",
    "Streams",
    "WorkerLogs",
    "to_map",
]

DEFAULT_PREFIX = "[${role_name}${local_rank}]:"
"""The template that stands before each tee'd line; also known: ``${rank}`` and ``${hostname}``."""

RUN_NAME_SIZE_MAX = 128
"""The part of a run id that goes into a folder's name, in characters."""


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
    return {rank: _of(streams, rank) for rank in range(local_world_size)}


@dataclass(frozen=True)
class LineFilter:
    """Collects lines of all workers in one file.

    Attributes:
        path: the file; its folder exists.
        texts: a line that contains any of them is collected.
    """

    path: Path
    texts: tuple[str, ...]


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
        filter: which of the lines that go to the console are also collected elsewhere.
    """

    path: Path | None = None
    console: bool = True
    prefix: str | None = None
    filter: LineFilter | None = None

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
        stdout_filters: a tee'd line of standard output that contains any of these texts is collected in a file for all
            workers of a start too, ``filtered_stdout.log``.
        stderr_filters: as ``stdout_filters``, for standard error.
    """

    log_dir: Path | None = None
    redirects: Streams = Std.NONE
    tee: Streams = Std.NONE
    local_ranks_filter: frozenset[int] | None = None
    prefix: str = DEFAULT_PREFIX
    stdout_filters: tuple[str, ...] = ()
    stderr_filters: tuple[str, ...] = ()

    def prefix_of(self, role_name: str, local_rank: int, rank: int) -> str:
        """Give what stands before each tee'd line of one worker."""
        return string.Template(self.prefix).safe_substitute(
            role_name=role_name, local_rank=local_rank, rank=rank, hostname=os.uname().nodename
        )

    def check(self) -> None:
        """Look whether the log folder can be one.

        Raises:
            NotADirectoryError: if it is there and is no folder.
        """
        log_dir = self.log_dir
        if log_dir is not None and log_dir != Path(os.devnull) and log_dir.exists() and not log_dir.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "the log folder is no folder", str(log_dir))


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
        options: what the user asked for; the default keeps nothing.

    Raises:
        NotADirectoryError: if ``options.log_dir`` is there and is no folder.

    Threads: one.
    """

    def __init__(self, run_id: str, options: LogOptions | None = None) -> None:
        self._options = LogOptions() if options is None else options
        self._run_name = re.sub(r"[^A-Za-z0-9._-]", "_", run_id)[:RUN_NAME_SIZE_MAX] or "run"
        self._root: Path | None = None
        self._private: Path | None = None
        self._keeps_nothing = self._options.log_dir == Path(os.devnull)
        self._options.check()

    @property
    def root(self) -> Path | None:
        """Give this run's folder in the log folder, ``None`` as long as nothing is kept."""
        return self._root

    @property
    def private(self) -> Path | None:
        """Give the folder of error files that nobody asked for, ``None`` if there is none."""
        return self._private

    def open_round(
        self, round_number: int, ranks: Mapping[int, int], role_name: str = "default", *, kind: str = "round"
    ) -> dict[int, WorkerLogs]:
        """Make the folders for one start of the worker group.

        Args:
            round_number: the rendezvous round.
            ranks: the global rank of each local rank, for prefixes.
            role_name: the workers' role, for prefixes.
            kind: what the folder's name says of the number.

        Returns:
            The outputs of each local rank, in the order of ``ranks``.

        Raises:
            OSError: if a folder cannot be made.
        """
        kept = {rank: self._streams(rank) for rank in ranks}
        folder = self._round_folder(f"{kind}_{round_number}", is_private=not self._is_kept(kept.values()))
        logs = {}
        for local_rank, rank in ranks.items():
            home = folder / str(local_rank)
            home.mkdir()
            prefix = self._options.prefix_of(role_name, local_rank, rank)
            redirects, tee = kept[local_rank]
            logs[local_rank] = WorkerLogs(
                self._output(home / "stdout.log", local_rank, Std.OUT in redirects, Std.OUT in tee, prefix),
                self._output(home / "stderr.log", local_rank, Std.ERR in redirects, Std.ERR in tee, prefix),
                home / "error.json",
            )
        return logs

    def close(self, *, clean: bool) -> None:
        """Remove the private folder of error files, if there is one. Calling it twice does no harm.

        Args:
            clean: whether the run ended well; otherwise a private folder that holds an error file stays, because
                the report names it.
        """
        private, self._private = self._private, None
        if private is not None and (clean or not any(private.rglob("error.json"))):
            shutil.rmtree(private, ignore_errors=True)

    def _streams(self, local_rank: int) -> tuple[Std, Std]:
        return _of(self._options.redirects, local_rank), _of(self._options.tee, local_rank)

    def _is_kept(self, streams: Iterable[tuple[Std, Std]]) -> bool:
        if self._keeps_nothing:
            return False
        return self._options.log_dir is not None or any(redirects | tee for redirects, tee in streams)

    def _round_folder(self, name: str, *, is_private: bool) -> Path:
        if is_private:
            if self._private is None:
                self._private = Path(tempfile.mkdtemp(prefix="rallypoint_errors_"))
            home = self._private
        else:
            if self._root is None:
                log_dir = self._options.log_dir or Path(tempfile.mkdtemp(prefix="rallypoint_"))
                log_dir.mkdir(parents=True, exist_ok=True)
                self._root = Path(tempfile.mkdtemp(prefix=f"{self._run_name}_", dir=log_dir.absolute()))
                if self._options.log_dir is None:
                    emit("agent.logs", f"the output of workers is kept in {self._root}", path=str(self._root))
            home = self._root
        folder = home / name
        again = 0
        while folder.exists():
            again += 1
            folder = home / f"{name}.{again}"
        folder.mkdir()
        return folder

    def _output(self, path: Path, local_rank: int, is_redirected: bool, is_teed: bool, prefix: str) -> Output:
        shown = self._options.local_ranks_filter
        is_shown = shown is None or local_rank in shown
        kept = None if self._keeps_nothing else path
        if is_teed:
            texts = self._options.stdout_filters if path.name == "stdout.log" else self._options.stderr_filters
            collected = LineFilter(path.parent.parent / f"filtered_{path.name}", texts) if texts and kept else None
            return Output(kept, console=is_shown, prefix=prefix if is_shown else None, filter=collected)
        if is_redirected:
            return Output(kept, console=False)
        return Output(console=is_shown)


def _of(streams: Streams, local_rank: int) -> Std:
    return streams if isinstance(streams, Std) else streams.get(local_rank, Std.NONE)
