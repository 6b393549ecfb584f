from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import pytest

from rallypoint.agent.tail import TailLog


def followed(dst: io.StringIO, files: dict[int, Path], **settings: Any) -> TailLog:
    paths = {rank: str(path) for rank, path in files.items()}
    return TailLog("w", paths, dst, **{"interval_sec": 0.001} | settings)


def test_every_line_of_every_file_arrives_once_with_its_prefix(tmp_path: Path) -> None:
    dst = io.StringIO()
    files = {rank: tmp_path / f"{rank}.log" for rank in range(8)}
    tail = followed(dst, files, log_line_prefixes={0: "<0>"}).start()

    def write(rank: int) -> None:
        with files[rank].open("w", buffering=1) as file:
            for number in range(1000):
                file.write(f"{number}\n")

    threads = [threading.Thread(target=write, args=(rank,)) for rank in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not tail.stopped()
    tail.stop()

    prefixes = {rank: "<0>" if rank == 0 else f"[w{rank}]:" for rank in files}
    expected = [f"{prefixes[rank]}{number}" for rank in files for number in range(1000)]
    assert sorted(dst.getvalue().splitlines()) == sorted(expected)
    assert tail.stopped()


def test_the_last_line_needs_no_end(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a\nb")
    tail = followed(dst := io.StringIO(), {0: tmp_path / "log"}).start()

    tail.stop()

    assert dst.getvalue() == "[w0]:a\n[w0]:b\n"


def test_some_lines_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("keep 1\ndrop\nkeep 2\n")
    tail = followed(dst := io.StringIO(), {0: tmp_path / "log"}, log_line_filter=lambda line: "keep" in line).start()

    tail.stop()

    assert dst.getvalue() == "[w0]:keep 1\n[w0]:keep 2\n"


@pytest.mark.parametrize("files", [{}, {0: "never.log"}])
def test_files_that_never_appear_are_no_trouble(files: dict[int, str], tmp_path: Path) -> None:
    tail = followed(dst := io.StringIO(), {rank: tmp_path / name for rank, name in files.items()})
    tail.start().stop()
    tail.stop()

    assert tail.stopped()
    assert dst.getvalue() == ""


def test_a_file_that_cannot_be_read_is_told_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "log").write_text("a\n")

    followed(dst := io.StringIO(), {0: tmp_path / "folder", 1: tmp_path / "log"}).start().stop()

    assert dst.getvalue() == "[w1]:a\n"
    assert "is not followed any more" in caplog.text


def test_stopped_before_the_start_does_no_harm() -> None:
    tail = TailLog("w", {}, io.StringIO())

    tail.stop()

    assert tail.stopped()
