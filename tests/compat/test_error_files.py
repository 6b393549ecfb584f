"""Error files, written by one side and read by the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing import errors as torch_errors

from rallypoint.agent import failure as our_errors


@pytest.fixture
def error_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    return path


def fail() -> None:
    raise ValueError("boom")


def test_torchs_worker_reports_to_our_agent(error_file: Path) -> None:
    with pytest.raises(ValueError, match="boom"):
        torch_errors.record(fail)()

    failure = our_errors.ProcessFailure(0, 997, 1, str(error_file))

    assert failure.message == "ValueError: boom"
    assert failure.traceback is not None
    assert failure.traceback.endswith("ValueError: boom\n")


def test_our_worker_reports_to_torchs_agent(error_file: Path) -> None:
    with pytest.raises(ValueError, match="boom"):
        our_errors.record(fail)()

    failure = torch_errors.ProcessFailure(0, 997, 1, str(error_file))

    assert failure.message["message"] == "ValueError: boom"
    assert failure.timestamp == our_errors.ProcessFailure(0, 997, 1, str(error_file)).timestamp


@pytest.mark.parametrize(("exitcode", "has_file"), [(1, False), (-9, False), (-11, False), (3, True)])
def test_both_say_the_same_of_a_failure(tmp_path: Path, exitcode: int, has_file: bool) -> None:
    path = tmp_path / "error.json"
    if has_file:
        path.write_text(json.dumps({"message": "flat", "timestamp": 10}))

    ours = our_errors.ProcessFailure(2, 997, exitcode, str(path))
    theirs = torch_errors.ProcessFailure(2, 997, exitcode, str(path))

    assert ours.message == theirs.message
    assert ours.signal_name() == theirs.signal_name()
    assert ours.error_file == theirs.error_file
    if has_file:
        assert ours.timestamp == theirs.timestamp
        assert ours.timestamp_isoformat() == theirs.timestamp_isoformat()


def test_both_pass_a_childs_file_on_alike(tmp_path: Path, error_file: Path) -> None:
    child = tmp_path / "child.json"
    child.write_text(json.dumps({"message": {"message": "m", "extraInfo": {"timestamp": "11"}}}))

    torch_errors.ErrorHandler().dump_error_file(str(child), 5)
    theirs = json.loads(error_file.read_text())
    our_errors.ErrorHandler().dump_error_file(str(child), 5)

    assert json.loads(error_file.read_text()) == theirs
