"""torch's way to say where the output of workers goes, and to let a plug-in say it.

``LogsSpecs`` turns the environments of the workers of one start into paths, ``LogsDest``. What comes out of it, from
``DefaultLogsSpecs`` or from somebody else's subclass, becomes the outputs that the agent works with.

Source: names, signatures and the meaning of each path as observed in torch 2.13.0. Unlike there, nothing is deleted
when a start is repeated: its folder is ``attempt_<n>.1``, and nothing is made on disk before it is needed.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rallypoint.agent.failure import ERROR_FILE_ENV
from rallypoint.agent.logs import DEFAULT_PREFIX, LineFilter, LogFolders, LogOptions, Output, Std, Streams, WorkerLogs

if TYPE_CHECKING:
    from rallypoint.agent.spec import WorkerSpec

__all__ = ["DefaultLogsSpecs", "LogsDest", "LogsSpecs", "SpecFolders", "folders_for", "outputs_of"]


@dataclass
class LogsDest:
    """Where the streams of the workers of one start go, by local rank.

    Attributes:
        stdouts: the file for standard output; empty: the console; the null device: nowhere.
        stderrs: as ``stdouts``, for standard error.
        tee_stdouts: the files among ``stdouts`` that the console shows too, line by line.
        tee_stderrs: as ``tee_stdouts``, for standard error.
        error_files: where each worker leaves its error.
        filtered_stdout: the file for those tee'd lines of all that match a filter; empty: none.
        filtered_stderr: as ``filtered_stdout``, for standard error.
    """

    stdouts: dict[int, str] = field(default_factory=dict)
    stderrs: dict[int, str] = field(default_factory=dict)
    tee_stdouts: dict[int, str] = field(default_factory=dict)
    tee_stderrs: dict[int, str] = field(default_factory=dict)
    error_files: dict[int, str] = field(default_factory=dict)
    filtered_stdout: str = ""
    filtered_stderr: str = ""


class LogsSpecs(abc.ABC):
    """Decides where the output of workers goes.

    Args:
        log_dir: the folder for the runs' folders; ``None`` for a temporary one.
        redirects: streams that go to files only.
        tee: streams that go to files and to the console.
        local_ranks_filter: the local ranks that the console shows; ``None`` or empty for all.

    Attributes:
        prefix: the template of what an agent puts before each tee'd line.
    """

    prefix: str = DEFAULT_PREFIX

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        redirects: Streams = Std.NONE,
        tee: Streams = Std.NONE,
        local_ranks_filter: Collection[int] | None = None,
    ) -> None:
        self._root_log_dir = None if log_dir is None else os.fspath(log_dir)
        self._redirects = redirects
        self._tee = tee
        self._local_ranks_filter = local_ranks_filter

    @abc.abstractmethod
    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Give the paths for one start; folders exist then.

        Args:
            envs: each worker's environment by local rank; its ``TORCHELASTIC_ERROR_FILE`` is added to it.
        """

    @property
    @abc.abstractmethod
    def root_log_dir(self) -> str:
        """The folder for the runs' folders."""


class DefaultLogsSpecs(LogsSpecs):
    """Folders for run, attempt and local rank: ``<log_dir>/<run id>_<random>/attempt_<n>/<local rank>``.

    Raises:
        NotADirectoryError: if the log folder is there and is no folder.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        redirects: Streams = Std.NONE,
        tee: Streams = Std.NONE,
        local_ranks_filter: Collection[int] | None = None,
    ) -> None:
        super().__init__(log_dir, redirects, tee, local_ranks_filter)
        self._folders: LogFolders | None = None
        self.options.check()

    @property
    def options(self) -> LogOptions:
        """The same as the agent's own options."""
        log_dir, shown = self._root_log_dir, self._local_ranks_filter
        return LogOptions(
            log_dir=None if log_dir is None else Path(log_dir),
            redirects=self._redirects,
            tee=self._tee,
            local_ranks_filter=frozenset(shown) if shown else None,
            prefix=self.prefix,
        )

    @property
    def root_log_dir(self) -> str:
        """The folder that was given; with none, that of this run's temporary folder, empty before there is one."""
        if self._root_log_dir is not None:
            return self._root_log_dir
        root = self._folders.root if self._folders is not None else None
        return "" if root is None else str(root.parent)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Make the folders of one start and give the paths in them; see ``LogsSpecs``."""
        first = next(iter(envs.values()), {})
        if self._folders is None:
            self._folders = LogFolders(first.get("TORCHELASTIC_RUN_ID", "run"), self.options)
        attempt = int(first.get("TORCHELASTIC_RESTART_COUNT", "0"))
        logs = self._folders.open_round(attempt, {rank: rank for rank in sorted(envs)}, kind="attempt")
        for rank, env in envs.items():
            env[ERROR_FILE_ENV] = str(logs[rank].error_file)
        home = next((log.error_file.parent.parent for log in logs.values()), None)
        return LogsDest(
            stdouts={rank: _path_of(log.stdout) for rank, log in logs.items()},
            stderrs={rank: _path_of(log.stderr) for rank, log in logs.items()},
            tee_stdouts={rank: str(log.stdout.path) for rank, log in logs.items() if _is_teed(log.stdout)},
            tee_stderrs={rank: str(log.stderr.path) for rank, log in logs.items() if _is_teed(log.stderr)},
            error_files={rank: str(log.error_file) for rank, log in logs.items()},
            filtered_stdout=str(home / "filtered_stdout.log") if home is not None else "",
            filtered_stderr=str(home / "filtered_stderr.log") if home is not None else "",
        )

    @property
    def private(self) -> Path | None:
        """The folder of error files that nobody asked for, ``None`` if there is none."""
        return None if self._folders is None else self._folders.private

    def close(self, *, clean: bool) -> None:
        """Remove the folder of error files, if nobody asked for one and nothing worth keeping is in it."""
        if self._folders is not None:
            self._folders.close(clean=clean)


def _path_of(output: Output) -> str:
    if output.path is None:
        return "" if output.console else os.devnull
    return str(output.path)


def _is_teed(output: Output) -> bool:
    return output.path is not None and output.console


def outputs_of(
    dest: LogsDest,
    prefixes: Mapping[int, str],
    stdout_filters: Sequence[str] = (),
    stderr_filters: Sequence[str] = (),
) -> dict[int, WorkerLogs]:
    """Give the outputs that paths mean.

    Args:
        dest: the paths.
        prefixes: what stands before each tee'd line, for each local rank.
        stdout_filters: the texts that make a tee'd line of standard output one that is collected.
        stderr_filters: as ``stdout_filters``, for standard error.
    """
    out = LineFilter(Path(dest.filtered_stdout), tuple(stdout_filters)) if dest.filtered_stdout else None
    err = LineFilter(Path(dest.filtered_stderr), tuple(stderr_filters)) if dest.filtered_stderr else None
    return {
        rank: WorkerLogs(
            _output(dest.stdouts.get(rank, ""), rank in dest.tee_stdouts, prefix, out),
            _output(dest.stderrs.get(rank, ""), rank in dest.tee_stderrs, prefix, err),
            Path(dest.error_files.get(rank) or os.devnull),
        )
        for rank, prefix in prefixes.items()
    }


def _output(path: str, is_teed: bool, prefix: str, collected: LineFilter | None) -> Output:
    kept = None if path in ("", os.devnull) else Path(path)
    if not is_teed:
        return Output(kept, console=not path)
    return Output(kept, prefix=prefix, filter=collected if collected is not None and collected.texts else None)


def folders_for(spec: WorkerSpec, logs: LogOptions | LogsSpecs | None) -> LogFolders | SpecFolders:
    """Give the folders of an agent's run.

    Args:
        spec: what the workers are; its filters count.
        logs: what the user asked for.

    Raises:
        NotADirectoryError: if the log folder is something else than a folder.
    """
    if isinstance(logs, LogOptions):
        options = logs
    elif isinstance(logs, DefaultLogsSpecs):
        options = logs.options
    else:
        options = LogOptions() if logs is None else LogOptions(prefix=logs.prefix)
    out, err = tuple(spec.duplicate_stdout_filters or ()), tuple(spec.duplicate_stderr_filters or ())
    if out or err:
        options = replace(options, stdout_filters=out, stderr_filters=err)
    run_id = spec.rdzv_handler.get_run_id()
    if isinstance(logs, LogsSpecs) and not isinstance(logs, DefaultLogsSpecs):
        return SpecFolders(run_id, logs, options)
    return LogFolders(run_id, options)


class SpecFolders:
    """Has the agent use somebody's own ``LogsSpecs``; stands where ``LogFolders`` does.

    Args:
        run_id: the run's id.
        specs: who decides.
        options: prefix and filters in it count.
    """

    def __init__(self, run_id: str, specs: LogsSpecs, options: LogOptions) -> None:
        self._run_id = run_id
        self._specs = specs
        self._options = options

    private = None

    @property
    def root(self) -> Path | None:
        """Where the folders are."""
        return Path(self._specs.root_log_dir) if self._specs.root_log_dir else None

    def open_round(
        self, round_number: int, ranks: Mapping[int, int], role_name: str = "default"
    ) -> dict[int, WorkerLogs]:
        """Ask where the output of one start goes; see ``LogFolders.open_round``."""
        envs = {
            local_rank: {
                "TORCHELASTIC_RUN_ID": self._run_id,
                "TORCHELASTIC_RESTART_COUNT": str(round_number),
                "LOCAL_RANK": str(local_rank),
                "RANK": str(rank),
                "ROLE_NAME": role_name,
            }
            for local_rank, rank in ranks.items()
        }
        options = self._options
        prefixes = {local_rank: options.prefix_of(role_name, local_rank, rank) for local_rank, rank in ranks.items()}
        return outputs_of(self._specs.reify(envs), prefixes, options.stdout_filters, options.stderr_filters)

    def close(self, *, clean: bool) -> None:
        """Leave everything as it is: it belongs to whoever decided."""
