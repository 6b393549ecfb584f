from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tests.support.agents import ScriptedHandler

from rallypoint.agent.logs import LineFilter, LogFolders, LogOptions, Output, Std
from rallypoint.agent.logspecs import DefaultLogsSpecs, LogsDest, LogsSpecs, SpecFolders, folders_for, outputs_of
from rallypoint.agent.spec import WorkerSpec


@pytest.fixture(autouse=True)
def temporary_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def envs(ranks: int = 2, attempt: int = 2) -> dict[int, dict[str, str]]:
    return {rank: {"TORCHELASTIC_RUN_ID": "run", "TORCHELASTIC_RESTART_COUNT": str(attempt)} for rank in range(ranks)}


class OwnSpecs(LogsSpecs):
    """Somebody's own: one file for all."""

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        self.seen = envs
        path = f"{self.root_log_dir}/all.log"
        return LogsDest(stdouts=dict.fromkeys(envs, path), tee_stdouts={0: path}, error_files={0: f"{path}.json"})

    @property
    def root_log_dir(self) -> str:
        return self._root_log_dir or ""


def test_paths_are_given_by_run_attempt_and_local_rank(tmp_path: Path) -> None:
    told = envs()

    dest = DefaultLogsSpecs(tmp_path, redirects=Std.OUT, tee={0: Std.ERR}).reify(told)

    (home,) = tmp_path.glob("run_*/attempt_2")
    assert dest.stdouts == {rank: f"{home}/{rank}/stdout.log" for rank in range(2)}
    assert dest.stderrs == {0: f"{home}/0/stderr.log", 1: ""}
    assert dest.tee_stdouts == {}
    assert dest.tee_stderrs == {0: f"{home}/0/stderr.log"}
    assert dest.error_files == {rank: f"{home}/{rank}/error.json" for rank in range(2)}
    assert [env["TORCHELASTIC_ERROR_FILE"] for env in told.values()] == list(dest.error_files.values())
    assert all(Path(path).parent.is_dir() for path in dest.error_files.values())


def test_a_repeated_attempt_deletes_nothing(tmp_path: Path) -> None:
    specs = DefaultLogsSpecs(tmp_path)
    first = Path(specs.reify(envs(1)).error_files[0])
    first.write_text("kept")

    second = Path(specs.reify(envs(1)).error_files[0])

    assert first.read_text() == "kept"
    assert second.parent.parent.name == "attempt_2.1"


def test_without_a_folder_nothing_is_made_before_it_is_needed(tmp_path: Path) -> None:
    specs = DefaultLogsSpecs()
    assert specs.root_log_dir == ""
    assert list(tmp_path.iterdir()) == []

    specs.reify({0: {}})
    (private,) = tmp_path.iterdir()
    specs.close(clean=True)

    assert private.name.startswith("rallypoint_errors_")
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_for_kept_streams_is_told(tmp_path: Path) -> None:
    specs = DefaultLogsSpecs(tee=Std.ALL)
    dest = specs.reify(envs(1))

    specs.close(clean=True)

    assert Path(dest.stdouts[0]).is_relative_to(specs.root_log_dir)
    assert Path(specs.root_log_dir).is_dir()


def test_a_rank_that_is_not_shown_goes_nowhere(tmp_path: Path) -> None:
    dest = DefaultLogsSpecs(tmp_path, local_ranks_filter={1}).reify(envs())

    assert dest.stdouts == {0: os.devnull, 1: ""}


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(NotADirectoryError):
        DefaultLogsSpecs(str(tmp_path / "file"))


def test_paths_become_outputs(tmp_path: Path) -> None:
    dest = LogsDest(
        stdouts={0: "/a/out", 1: os.devnull}, stderrs={0: "/a/err"}, tee_stderrs={0: "/a/err"}, error_files={0: "/a/e"}
    )

    logs = outputs_of(dest, {0: "[0]:", 1: "[1]:"})

    assert (logs[0].stdout, logs[0].stderr) == (
        Output(Path("/a/out"), console=False),
        Output(Path("/a/err"), prefix="[0]:"),
    )
    assert (logs[1].stdout, logs[1].stderr) == (Output(console=False), Output())
    assert (logs[0].error_file, logs[1].error_file) == (Path("/a/e"), Path(os.devnull))


def spec(**settings: Any) -> WorkerSpec:
    return WorkerSpec("trainer", 1, ScriptedHandler(), entrypoint="x", **settings)


def test_an_agent_makes_its_own_folders_unless_somebody_else_decides(tmp_path: Path) -> None:
    assert isinstance(folders_for(spec(), None), LogFolders)
    assert isinstance(folders_for(spec(), LogOptions()), LogFolders)
    assert isinstance(folders_for(spec(), DefaultLogsSpecs(tmp_path)), LogFolders)
    assert isinstance(folders_for(spec(), OwnSpecs(tmp_path)), SpecFolders)


def test_somebodys_own_specs_are_asked_at_each_start(tmp_path: Path) -> None:
    specs = OwnSpecs(tmp_path)
    specs.prefix = "<${rank}>"
    folders = folders_for(spec(duplicate_stdout_filters=["a"]), specs)

    logs = folders.open_round(3, {0: 4, 1: 5}, "trainer")
    folders.close(clean=True)

    assert (folders.root, folders.private) == (tmp_path, None)
    assert logs[0].stdout == Output(tmp_path / "all.log", prefix="<4>")
    assert logs[1].stdout == Output(tmp_path / "all.log", console=False)
    assert specs.seen[1] == {
        "TORCHELASTIC_RUN_ID": "run-7",
        "TORCHELASTIC_RESTART_COUNT": "3",
        "LOCAL_RANK": "1",
        "RANK": "5",
        "ROLE_NAME": "trainer",
    }


def test_the_filters_of_a_spec_reach_tee_d_streams(tmp_path: Path) -> None:
    options = LogOptions(log_dir=tmp_path, tee=Std.OUT, redirects=Std.ERR)
    folders = folders_for(spec(duplicate_stdout_filters=["a", "b"], duplicate_stderr_filters=["c"]), options)

    logs = folders.open_round(0, {0: 0})[0]

    assert logs.stdout.filter == LineFilter(logs.error_file.parent.parent / "filtered_stdout.log", ("a", "b"))
    assert logs.stderr.filter is None


def test_filters_of_paths_reach_tee_d_streams(tmp_path: Path) -> None:
    dest = DefaultLogsSpecs(tmp_path, tee=Std.OUT).reify(envs(1))

    logs = outputs_of(dest, {0: ""}, ["a"], ["b"])[0]

    assert logs.stdout.filter == LineFilter(Path(dest.filtered_stdout), ("a",))
    assert logs.stderr.filter is None
    assert outputs_of(dest, {0: ""})[0].stdout.filter is None
