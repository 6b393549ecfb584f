from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import pytest

from rallypoint.agent.failure import (
    ERROR_FILE_ENV,
    ERROR_FILE_SIZE_MAX,
    NO_TRACEBACK,
    ChildFailedError,
    ErrorHandler,
    ProcessFailure,
    exit_status,
    get_error_handler,
    record,
)
from rallypoint.errors import AgentError

TORCH_RECORD = {
    "message": {
        "message": "ValueError: boom",
        "extraInfo": {"py_callstack": "Traceback (most recent call last):\n...\n", "timestamp": "1795227434"},
    }
}


@pytest.fixture
def error_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "error.json"
    monkeypatch.setenv(ERROR_FILE_ENV, str(path))
    return path


def failure_of(path: Path, content: object, exitcode: int = 1) -> ProcessFailure:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return ProcessFailure(0, 997, exitcode, str(path))


# --- exit codes ---


@pytest.mark.parametrize(("returncode", "status"), [(0, 0), (1, 1), (42, 42), (255, 255), (-9, 137), (-15, 143)])
def test_a_launcher_owes_the_workers_own_code_or_128_plus_the_signal(returncode: int, status: int) -> None:
    assert exit_status(returncode) == status


# --- ProcessFailure ---


def test_a_nested_file_gives_message_time_and_traceback(tmp_path: Path) -> None:
    failure = failure_of(tmp_path / "e.json", TORCH_RECORD)

    assert failure.message == "ValueError: boom"
    assert failure.timestamp == 1795227434
    assert failure.traceback == "Traceback (most recent call last):\n...\n"
    assert failure.error_file_data == TORCH_RECORD
    assert failure.signal_name() == "<N/A>"


@pytest.mark.parametrize("timestamp", [10, "10"])
def test_a_flat_file_gives_message_and_time_as_number_or_text(tmp_path: Path, timestamp: object) -> None:
    failure = failure_of(tmp_path / "e.json", {"message": "test error message", "timestamp": timestamp})

    assert failure.message == "test error message"
    assert failure.timestamp == 10
    assert failure.traceback is None


@pytest.mark.parametrize("timestamp", [None, "soon", [], float("inf")])
def test_an_odd_timestamp_is_replaced_by_the_time_of_reading(tmp_path: Path, timestamp: object) -> None:
    failure = failure_of(tmp_path / "e.json", {"message": "m", "timestamp": timestamp})

    assert failure.message == "m"
    assert failure.timestamp > 1_000_000_000


def test_a_message_that_is_no_text_is_shown_as_json(tmp_path: Path) -> None:
    assert failure_of(tmp_path / "e.json", {"message": {"code": 7}}).message == '{"code": 7}'
    assert failure_of(tmp_path / "e.json", {"message": ["a"]}).message == '["a"]'
    assert failure_of(tmp_path / "e.json", {"message": {"message": "m", "extraInfo": 3}}).message == "m"


def test_without_a_file_a_signal_is_named() -> None:
    failure = ProcessFailure(0, 997, -9, "/nowhere/error.json")

    assert failure.message == "Signal 9 (SIGKILL) received by PID 997"
    assert failure.signal_name() == "SIGKILL"
    assert failure.error_file == "<N/A>"
    assert failure.error_file_data == {"message": "<NONE>"}


def test_a_signal_without_a_name_is_given_by_its_number() -> None:
    assert ProcessFailure(0, 997, -40, "").message == "Signal 40 (<N/A>) received by PID 997"


def test_without_a_file_an_exit_code_points_to_where_help_is() -> None:
    failure = ProcessFailure(0, 997, 3, "")

    assert failure.message == NO_TRACEBACK
    assert failure.error_file == "<N/A>"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no JSON"),
        ('{"message": {"mess', "its 18 bytes are no JSON"),
        ("[1, 2]", 'no "message"'),
        ('{"text": "x"}', 'no "message"'),
        ("[" * 100_000, "no JSON"),
        ("x" * (ERROR_FILE_SIZE_MAX + 1), f"larger than {ERROR_FILE_SIZE_MAX} bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_never_raised(tmp_path: Path, content: str, said: str) -> None:
    failure = failure_of(tmp_path / "e.json", content, exitcode=-11)

    assert failure.message.startswith("Signal 11 (SIGSEGV) received by PID 997 (the error file ")
    assert said in failure.message
    assert failure.error_file == str(tmp_path / "e.json")


def test_bytes_that_are_no_text_are_said_never_raised(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_bytes(b"\xff\xfe\x00garbage")

    assert "no JSON" in ProcessFailure(0, 997, 1, str(tmp_path / "e.json")).message


def test_a_folder_in_the_files_place_is_said_never_raised(tmp_path: Path) -> None:
    assert "cannot be used" in ProcessFailure(0, 997, 1, str(tmp_path)).message


def test_failures_share_nothing() -> None:
    first, second = ProcessFailure(0, 1, 1, ""), ProcessFailure(1, 2, -9, "")

    first.error_file_data["errorTraits"] = {"category": "x"}

    assert second.error_file_data == {"message": "<NONE>"}


# --- ChildFailedError ---


def at(path: Path, seconds: int, message: str = "m") -> str:
    path.write_text(json.dumps({"message": message, "timestamp": seconds}))
    return str(path)


def test_the_first_failure_is_the_earliest(tmp_path: Path) -> None:
    failures = {
        0: ProcessFailure(0, 10, 1, at(tmp_path / "0", 200)),
        1: ProcessFailure(1, 11, 1, at(tmp_path / "1", 100)),
        2: ProcessFailure(2, 12, -15, ""),
    }

    error = ChildFailedError("train.py", failures)

    assert error.get_first_failure() == (1, failures[1])
    assert isinstance(error, AgentError)
    assert error.failures == failures
    assert error.failures is not failures


def test_within_one_moment_the_one_with_a_record_and_then_the_lower_rank_comes_first(tmp_path: Path) -> None:
    failures = {rank: ProcessFailure(rank, 10 + rank, 1, at(tmp_path / str(rank), 100)) for rank in (2, 1)}
    failures[0] = ProcessFailure(0, 10, -9, "")
    failures[0].failed_at = 100.0

    assert ChildFailedError("x", failures).get_first_failure()[0] == 1


def test_nanoseconds_decide_between_two_failures_of_one_second(tmp_path: Path) -> None:
    failures = {}
    for rank, nanoseconds in ((0, 900), (1, 100)):
        extra = {"timestamp": "100", "timestamp_ns": str(100_000_000_000 + nanoseconds * 1_000_000)}
        failures[rank] = failure_of(tmp_path / str(rank), {"message": {"message": "m", "extraInfo": extra}})

    assert ChildFailedError("x", failures).get_first_failure()[0] == 1


def test_the_report_tells_all_that_is_known(tmp_path: Path) -> None:
    first = failure_of(tmp_path / "e.json", TORCH_RECORD)
    second = ProcessFailure(3, 998, -9, "", stderr_tail=("out of", "memory"))

    report = str(ChildFailedError("train.py", {5: first, 7: second}))

    assert report.startswith(f"train.py failed: 2 workers on {os.uname().nodename}\nFirst failure:\n")
    assert "rank 5 (local rank 0, pid 997): exit code 1 at 2026-" in report
    assert f"error file: {tmp_path / 'e.json'}" in report
    assert "message: ValueError: boom" in report
    assert "Traceback (most recent call last):" in report
    assert "rank 7 (local rank 3, pid 998): killed by signal 9 (SIGKILL)" in report
    assert "last lines of its stderr:\n      out of\n      memory" in report
    assert "errors.record" not in report


def test_the_report_says_how_to_get_tracebacks_if_there_is_none() -> None:
    report = ChildFailedError("train.py", {0: ProcessFailure(0, 997, 3, "")}).format_msg()

    assert "1 worker on" in report
    assert "decorate its main function with rallypoint.elastic.multiprocessing.errors.record" in report
    assert "message: no exception was recorded" in report
    assert "pytorch.org" not in report


def test_workers_ended_because_of_the_first_do_not_hide_how_to_get_tracebacks(tmp_path: Path) -> None:
    first, second = ProcessFailure(0, 997, 3, ""), ProcessFailure(1, 998, -15, "")

    report = ChildFailedError("train.py", {0: first, 1: second}).format_msg()

    assert "errors.record" in report


def test_an_unusable_error_file_is_reported_without_the_pages_of_torch(tmp_path: Path) -> None:
    (tmp_path / "error.json").write_text("{")

    report = ChildFailedError("train.py", {0: ProcessFailure(0, 997, 3, str(tmp_path / "error.json"))}).format_msg()

    assert "no exception was recorded (the error file" in report
    assert "pytorch.org" not in report


def test_an_error_without_failures_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one failure"):
        ChildFailedError("train.py", {})


def test_the_error_survives_being_copied() -> None:
    error = ChildFailedError("train.py", {0: ProcessFailure(0, 997, 3, "")})

    twin = copy.deepcopy(error)

    assert twin.failures == error.failures
    assert str(twin) == str(error)


# --- writing ---


def test_record_writes_the_exception_and_raises_it(error_file: Path) -> None:
    @record
    def main() -> None:
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        main()

    data = json.loads(error_file.read_text())
    extra = data["message"]["extraInfo"]
    assert data["message"]["message"] == "ValueError: boom"
    assert "test_failure.py" in extra["py_callstack"]
    assert "agent/failure.py" not in extra["py_callstack"]
    assert extra["timestamp"] == extra["timestamp_ns"][:-9]
    assert [path.name for path in error_file.parent.iterdir()] == ["error.json"]
    assert ProcessFailure(0, 1, 1, str(error_file)).message == "ValueError: boom"


def test_record_passes_arguments_and_the_result_on() -> None:
    @record
    def add(left: int, *, right: int) -> int:
        """Add."""
        return left + right

    assert add(1, right=2) == 3
    assert add.__name__ == "add"
    assert add.__doc__ == "Add."


@pytest.mark.parametrize("code", [0, None])
def test_record_makes_a_clean_system_exit_a_return(error_file: Path, code: int | None) -> None:
    @record
    def main() -> int:
        raise SystemExit(code)

    assert main() is None
    assert not error_file.exists()


def test_record_lets_any_other_system_exit_pass_unwritten(error_file: Path) -> None:
    @record
    def main() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit) as info:
        main()

    assert info.value.code == 3
    assert not error_file.exists()


def test_record_without_the_variable_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ERROR_FILE_ENV, raising=False)
    monkeypatch.chdir(tmp_path)

    @record
    def main() -> None:
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        main()

    get_error_handler().dump_error_file("/nowhere")
    assert list(tmp_path.iterdir()) == []


def test_record_passes_a_childs_error_file_on_with_its_exit_code(error_file: Path, tmp_path: Path) -> None:
    failure = failure_of(tmp_path / "child.json", TORCH_RECORD, exitcode=5)

    @record
    def main() -> None:
        raise ChildFailedError("train.py", {0: failure})

    with pytest.raises(ChildFailedError):
        main()

    data = json.loads(error_file.read_text())
    assert data["message"].pop("errorCode") == 5
    assert data == TORCH_RECORD


def test_record_writes_nothing_for_a_child_without_an_error_file(error_file: Path) -> None:
    @record
    def main() -> None:
        raise ChildFailedError("train.py", {0: ProcessFailure(0, 997, 5, "")})

    with pytest.raises(ChildFailedError):
        main()

    assert not error_file.exists()


def test_record_uses_the_handler_it_was_given() -> None:
    class Handler(ErrorHandler):
        seen: BaseException | None = None

        def record_exception(self, error: BaseException) -> None:
            self.seen = error

    handler = Handler()

    def main() -> None:
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom") as info:
        record(main, handler)()

    assert handler.seen is info.value


def test_a_flat_child_file_is_passed_on_as_it_is(error_file: Path, tmp_path: Path) -> None:
    get_error_handler().dump_error_file(at(tmp_path / "child.json", 10, "flat"), error_code=5)

    assert json.loads(error_file.read_text()) == {"message": "flat", "timestamp": 10}


def test_a_child_file_that_is_cut_short_is_passed_on_as_a_note(error_file: Path, tmp_path: Path) -> None:
    (tmp_path / "child.json").write_text('{"mess')

    get_error_handler().dump_error_file(str(tmp_path / "child.json"), error_code=5)

    message = json.loads(error_file.read_text())["message"]
    assert "child.json cannot be used: its 6 bytes are no JSON" in message["message"]
    assert message["errorCode"] == 5


def test_an_earlier_error_file_is_replaced_whole(error_file: Path) -> None:
    error_file.write_text("x" * 100_000)

    get_error_handler().record_exception(ValueError("later"))

    assert ProcessFailure(0, 1, 1, str(error_file)).message == "ValueError: later"


def test_an_error_file_that_cannot_be_written_is_logged_and_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(ERROR_FILE_ENV, str(tmp_path / "file" / "error.json"))

    @record
    def main() -> None:
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        main()

    assert "error.json could not be written" in caplog.text


def test_a_stream_that_cannot_take_stacks_is_survived(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("no descriptor")

    monkeypatch.setattr("faulthandler.enable", refuse)

    get_error_handler().initialize()

    assert "stacks will not be printed at a crash: no descriptor" in caplog.text
