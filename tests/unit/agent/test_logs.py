from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from tests.support.agents import observed

from rallypoint.agent.logs import LogFolders, LogOptions, Output, Std, to_map


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make this the place of temporary folders."""
    home = tmp_path / "tmp"
    home.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    return home


# --- Std ---


@pytest.mark.parametrize(
    ("text", "streams"),
    [
        ("0", Std.NONE),
        ("1", Std.OUT),
        ("2", Std.ERR),
        ("3", Std.ALL),
        ("0:1", {0: Std.OUT}),
        ("0:1,1:2", {0: Std.OUT, 1: Std.ERR}),
        ("0:3,10-12:1", {0: Std.ALL, 10: Std.OUT, 11: Std.OUT, 12: Std.OUT}),
        ("10:0", {10: Std.NONE}),
        (" 0 : 3 , 4 - 4 : 1 ", {0: Std.ALL, 4: Std.OUT}),
    ],
)
def test_streams_are_read_for_all_ranks_or_for_each(text: str, streams: object) -> None:
    assert Std.from_str(text) == streams


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "''"),
        ("4", "'4'"),
        ("a", "'a'"),
        ("3,", "'3'"),
        ("0:1,2", "'2'"),
        ("2,0:1", "'2'"),
        ("0:1,", "''"),
        ("0:", "''"),
        ("0:7", "'7'"),
        ("x:1", "'x:1'"),
        ("-1:1", "'-1:1'"),
        ("3-1:1", "'3-1:1'"),
        ("0-99999999:1", "'0-99999999:1'"),
        ("0:1,0:2", "local rank 0 a second time"),
        ("0-3:1,2:2", "local rank 2 a second time"),
    ],
)
def test_a_bad_choice_of_streams_is_refused_by_the_part_that_is_bad(text: str, part: str) -> None:
    with pytest.raises(ValueError) as info:
        Std.from_str(text)

    assert part in str(info.value)


def test_to_map_fills_missing_ranks_with_none() -> None:
    assert to_map(Std.OUT, 2) == {0: Std.OUT, 1: Std.OUT}
    assert to_map({1: Std.ERR, 7: Std.ALL}, 3) == {0: Std.NONE, 1: Std.ERR, 2: Std.NONE}


# --- Output ---


@pytest.mark.parametrize(
    ("output", "is_piped"),
    [
        (Output(), False),
        (Output(prefix="[x]:"), True),
        (Output(Path("f")), True),
        (Output(Path("f"), console=False), False),
        (Output(console=False), False),
    ],
)
def test_only_what_goes_to_two_places_or_under_a_prefix_needs_a_pipe(output: Output, is_piped: bool) -> None:
    assert output.is_piped is is_piped


# --- folders ---


def test_without_options_only_a_private_folder_is_made_and_it_is_gone_at_a_clean_end(temporary: Path) -> None:
    folders = LogFolders("job")
    assert list(temporary.iterdir()) == []

    logs = folders.open_round(0, {0: 4, 1: 5})

    assert logs[0].stdout == Output()
    assert logs[1].stderr == Output()
    assert logs[0].error_file.parent.is_dir()
    assert logs[0].error_file != logs[1].error_file
    assert folders.root is None
    (private,) = temporary.iterdir()
    assert private.stat().st_mode & 0o077 == 0
    folders.close(clean=True)
    folders.close(clean=True)
    assert list(temporary.iterdir()) == []


def test_after_a_failure_the_private_folder_stays_only_if_it_holds_an_error_file(temporary: Path) -> None:
    without, holding = LogFolders("a"), LogFolders("b")
    without.open_round(0, {0: 0})
    error_file = holding.open_round(0, {0: 0})[0].error_file
    error_file.touch()

    without.close(clean=False)
    holding.close(clean=False)

    assert list(temporary.rglob("error.json")) == [error_file]
    assert len(list(temporary.iterdir())) == 1


def test_a_log_folder_holds_one_folder_for_each_run_round_and_rank(tmp_path: Path, temporary: Path) -> None:
    log_dir = tmp_path / "deep" / "logs"
    options = LogOptions(log_dir, redirects=Std.OUT, tee=Std.ERR)
    folders = LogFolders("job", options)
    assert not log_dir.exists()

    logs = folders.open_round(3, {0: 8, 1: 9}, "trainer")

    assert folders.root is not None
    assert folders.root.parent == log_dir
    assert folders.root.name.startswith("job_")
    home = folders.root / "round_3" / "1"
    assert home.is_dir()
    assert logs[1].stdout == Output(home / "stdout.log", console=False)
    assert logs[1].stderr == Output(home / "stderr.log", prefix="[trainer1]:")
    assert logs[1].error_file == home / "error.json"
    assert list(temporary.iterdir()) == []


def test_a_second_start_within_a_round_has_a_folder_of_its_own_and_none_is_deleted(tmp_path: Path) -> None:
    folders = LogFolders("job", LogOptions(tmp_path))

    homes = [folders.open_round(number, {0: 0})[0].error_file.parent.parent for number in (0, 0, 1, 0)]
    folders.close(clean=True)

    assert [home.name for home in homes] == ["round_0", "round_0.1", "round_1", "round_0.2"]
    assert all(home.is_dir() for home in homes)


def test_two_runs_of_one_id_never_share_a_folder(tmp_path: Path) -> None:
    first, second = LogFolders("job", LogOptions(tmp_path)), LogFolders("job", LogOptions(tmp_path))
    first.open_round(0, {0: 0})
    second.open_round(0, {0: 0})

    assert first.root != second.root


@pytest.mark.parametrize(
    ("run_id", "name"), [("../../etc/x y", ".._.._etc_x_y_"), ("", "run_"), ("a" * 500, "a" * 128)]
)
def test_a_run_id_cannot_leave_the_log_folder(tmp_path: Path, run_id: str, name: str) -> None:
    folders = LogFolders(run_id, LogOptions(tmp_path))
    folders.open_round(0, {0: 0})

    assert folders.root is not None
    assert folders.root.parent == tmp_path
    assert folders.root.name.startswith(name)


def test_streams_kept_without_a_log_folder_go_to_a_temporary_one_that_stays(temporary: Path) -> None:
    folders = LogFolders("job", LogOptions(redirects={1: Std.ALL}))

    logs = folders.open_round(0, {0: 0, 1: 1})
    folders.close(clean=True)

    assert folders.root is not None
    assert temporary in folders.root.parents
    assert logs[0].stdout == Output()
    assert logs[1].stdout.path is not None
    assert logs[1].stdout.path.parent.is_dir()


def test_tee_wins_over_a_redirect_of_the_same_stream(tmp_path: Path) -> None:
    logs = LogFolders("job", LogOptions(tmp_path, redirects=Std.ALL, tee=Std.OUT)).open_round(0, {0: 0})

    assert logs[0].stdout.console
    assert not logs[0].stderr.console


def test_the_prefix_is_a_template(tmp_path: Path) -> None:
    options = LogOptions(tmp_path, tee=Std.OUT, prefix="${hostname} ${role_name} ${rank}/${local_rank} $$ ${other}>")

    logs = LogFolders("job", options).open_round(0, {1: 9}, "trainer")

    assert logs[1].stdout.prefix == f"{os.uname().nodename} trainer 9/1 $ ${{other}}>"


def test_ranks_that_are_filtered_out_keep_their_files_and_stay_off_the_console(tmp_path: Path) -> None:
    options = LogOptions(tmp_path, tee=Std.OUT, local_ranks_filter=frozenset({0}))

    logs = LogFolders("job", options).open_round(0, {0: 0, 1: 1})

    assert logs[0].stdout.prefix == "[default0]:"
    assert logs[0].stderr == Output()
    assert logs[1].stdout == Output(logs[1].error_file.parent / "stdout.log", console=False)
    assert logs[1].stderr == Output(console=False)


def test_dev_null_as_log_folder_keeps_nothing_but_the_prefix(temporary: Path) -> None:
    folders = LogFolders("job", LogOptions(Path(os.devnull), redirects=Std.OUT, tee=Std.ERR))

    logs = folders.open_round(0, {0: 0})
    folders.close(clean=True)

    assert logs[0].stdout == Output(console=False)
    assert logs[0].stderr == Output(prefix="[default0]:")
    assert list(temporary.iterdir()) == []


def test_a_log_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(NotADirectoryError, match="the log folder is no folder"):
        LogFolders("job", LogOptions(tmp_path / "file"))


def test_a_folder_that_nobody_named_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with observed() as events:
        LogFolders("r", LogOptions(log_dir=tmp_path / "named", tee=Std.OUT)).open_round(0, {0: 0})
        folders = LogFolders("r", LogOptions(tee=Std.OUT))
        folders.open_round(0, {0: 0})
        folders.open_round(1, {0: 0})

    assert [event.message for event in events] == [f"the output of workers is kept in {folders.root}"]
