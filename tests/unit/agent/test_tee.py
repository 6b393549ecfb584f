from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallypoint.agent import tee as tee_module
from rallypoint.agent.logs import Output
from rallypoint.agent.tee import LINE_SIZE_MAX, TAIL_LINES_MAX, Console, LineAssembler, Tee, read_tail


def lines_of(*segments: bytes) -> list[bytes]:
    assembler = LineAssembler()
    lines = [line for segment in segments for line in assembler.feed(segment)]
    return lines + assembler.finish()


class Pipe:
    """A pipe whose ends may be closed in any order, each once."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self._open = {self.read_end, self.write_end}

    def close(self, end: int) -> None:
        self._open.remove(end)
        os.close(end)

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        for end in list(self._open):
            self.close(end)


def read_all(descriptor: int) -> bytes:
    data = b""
    while piece := os.read(descriptor, 65536):
        data += piece
    return data


# --- LineAssembler ---


@pytest.mark.parametrize(
    ("segments", "lines"),
    [
        ([b"a\nb\n"], [b"a", b"b"]),
        ([b"a", b"b", b"\n", b"c"], [b"ab", b"c"]),
        ([b"\n\n"], [b"", b""]),
        ([b"a\r\nb\r\n"], [b"a", b"b"]),
        ([b"a\r", b"\n"], [b"a"]),
        ([b"a\r\r\n"], [b"a"]),
        ([b"\r1%\r50%\r100%\n", b"done\n"], [b"100%", b"done"]),
        ([b"1%\r", b"50%\r", b"100%\r", b"\n"], [b"100%"]),
        ([b"1%", b"\r", b"\r", b"2%"], [b"2%"]),
        ([b"1%\r", b"\r"], [b"1%"]),
        ([b"50%\r     \r", b"hello\n"], [b"hello"]),
        ([b"50%\r     \r"], []),
        ([b"partial"], [b"partial"]),
        ([b""], []),
    ],
)
def test_lines_are_assembled_and_returns_redraw_them(segments: list[bytes], lines: list[bytes]) -> None:
    assert lines_of(*segments) == lines


@given(st.text(alphabet="ab\r\n", max_size=40), st.lists(st.integers(0, 40), max_size=6))
def test_the_lines_do_not_depend_on_how_the_stream_is_cut(text: str, cuts: list[int]) -> None:
    data = text.encode()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]

    assert lines_of(*(data[start:end] for start, end in itertools.pairwise(edges))) == lines_of(data)


def test_a_line_is_held_until_its_newline() -> None:
    assembler = LineAssembler()

    assert assembler.feed(b"a") == []
    assert assembler.feed(b"b\nc") == [b"ab"]
    assert assembler.finish() == [b"c"]
    assert assembler.finish() == []


@pytest.mark.parametrize("segment_size", [1000, LINE_SIZE_MAX, 10 * LINE_SIZE_MAX])
def test_an_endless_line_is_shown_in_parts_and_never_kept_whole(segment_size: int) -> None:
    data = bytes(range(97, 123)) * (3 * LINE_SIZE_MAX // 26)
    assembler = LineAssembler()
    lines: list[bytes] = []

    for start in range(0, len(data), segment_size):
        lines += assembler.feed(data[start : start + segment_size])
        assert sum(len(part) for part in assembler._parts) <= LINE_SIZE_MAX
    lines += assembler.finish()

    assert b"".join(lines) == data
    assert max(len(line) for line in lines) == LINE_SIZE_MAX


# --- Console ---


def fill(write_end: int) -> int:
    """Fill a pipe up; give how many bytes it took."""
    os.set_blocking(write_end, False)
    size = 0
    try:
        while True:
            size += os.write(write_end, bytes(4096))
    except BlockingIOError:
        os.set_blocking(write_end, True)
        return size


def test_a_console_writes_in_order_and_empties_its_queue_at_the_end() -> None:
    with Pipe() as pipe:
        read_end, write_end = pipe.read_end, pipe.write_end
        console = Console(write_end, 1024, 60)
        for number in range(100):
            console.write([b"%d\n" % number])
        console.close(30)
        pipe.close(write_end)

        assert read_all(read_end) == b"".join(b"%d\n" % number for number in range(100))


def test_a_stuck_console_loses_lines_and_says_how_many_once_it_moves() -> None:
    with Pipe() as pipe:
        read_end, write_end = pipe.read_end, pipe.write_end
        filled = fill(write_end)
        console = Console(write_end, backlog_size_max=8, stall_s=0)
        console.write([b"kept 1\n", b"kept 2\n"])
        console.write([b"lost 1\n", b"lost 2\n"])
        console.write([b"lost 3\n"])

        data = b""
        while not data.endswith(b"in time\n"):
            data += os.read(read_end, 65536)
        with console._changed:  # its thread has yet to see what we read
            assert console._changed.wait_for(console._has_room, 30)
        console.write([b"kept 3\n"])
        console.close(30)
        pipe.close(write_end)
        data += read_all(read_end)

    assert data[filled:] == (
        b"kept 1\nkept 2\nrallypoint: 3 lines are missing here: the console took none in time\nkept 3\n"
    )


def test_a_slow_console_slows_its_writers_and_loses_nothing() -> None:
    with Pipe() as pipe:
        read_end, write_end = pipe.read_end, pipe.write_end
        fill(write_end)
        console = Console(write_end, backlog_size_max=8, stall_s=60)
        console.write([b"first line\n"])
        second = threading.Thread(target=console.write, args=([b"second line\n"],))
        second.start()
        data = b""
        while not data.endswith(b"first line\nsecond line\n"):
            data += os.read(read_end, 65536)
        second.join(30)
        console.close(30)


def test_a_closed_console_is_given_up_without_waiting(caplog: pytest.LogCaptureFixture) -> None:
    with Pipe() as pipe:
        read_end, write_end = pipe.read_end, pipe.write_end
        pipe.close(read_end)
        console = Console(write_end, backlog_size_max=1, stall_s=600)
        for _ in range(100):
            console.write([b"nobody reads this\n"])
        console.close(30)

    assert caplog.text.count("the console takes no more output of workers") == 1


def test_a_console_made_non_blocking_by_a_neighbour_is_waited_for() -> None:
    with Pipe() as pipe:
        read_end, write_end = pipe.read_end, pipe.write_end
        filled = fill(write_end)
        os.set_blocking(write_end, False)
        console = Console(write_end, 1024, 60)
        console.write([b"late\n"])
        data = b""
        while len(data) < filled + 5:
            data += os.read(read_end, 65536)
        console.close(30)

    assert data[filled:] == b"late\n"


# --- Tee ---


def test_raw_bytes_go_to_the_file_and_prefixed_lines_to_the_console(tmp_path: Path) -> None:
    with Pipe() as pipe:
        read_end, console = pipe.read_end, pipe.write_end
        tee = Tee((console, console))
        ends = [
            tee.add(rank, Output(tmp_path / f"{rank}.log", prefix=f"[w{rank}]:"), is_stderr=False) for rank in (0, 1)
        ]
        tee.start()
        os.write(ends[0], b"one ")
        os.write(ends[1], b"two\r\n")
        os.write(ends[0], b"line\n1%\r2%\n")
        os.write(ends[1], b"no newline")
        for end in ends:
            os.close(end)
        tee.close(30)
        pipe.close(console)
        shown = read_all(read_end)

    assert (tmp_path / "0.log").read_bytes() == b"one line\n1%\r2%\n"
    assert (tmp_path / "1.log").read_bytes() == b"two\r\nno newline"
    assert sorted(shown.splitlines()) == [b"[w0]:2%", b"[w0]:one line", b"[w1]:no newline", b"[w1]:two"]


def test_each_line_is_shown_as_soon_as_it_is_whole() -> None:
    with Pipe() as pipe:
        read_end, console = pipe.read_end, pipe.write_end
        tee = Tee((console, console))
        end = tee.add(0, Output(prefix="> "), is_stderr=False)
        tee.start()

        os.write(end, b"first\nsec")
        assert os.read(read_end, 100) == b"> first\n"
        os.write(end, b"ond\n")
        assert os.read(read_end, 100) == b"> second\n"

        os.close(end)
        tee.close(30)


def test_the_two_streams_go_to_the_two_consoles() -> None:
    with Pipe() as out, Pipe() as err:
        tee = Tee((out.write_end, err.write_end))
        ends = [tee.add(0, Output(prefix=""), is_stderr=is_stderr) for is_stderr in (False, True)]
        tee.start()
        os.write(ends[0], b"o\n")
        os.write(ends[1], b"e\n")
        for end in ends:
            os.close(end)
        tee.close(30)

        assert os.read(out.read_end, 100) == b"o\n"
        assert os.read(err.read_end, 100) == b"e\n"


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"earlier\n")
    with Pipe() as pipe:
        console = pipe.write_end
        tee = Tee((console, console))
        end = tee.add(0, Output(path), is_stderr=False)
        os.write(end, b"later\n")
        os.close(end)
        tee.close(30)

    assert path.read_bytes() == b"earlier\nlater\n"


def test_the_last_lines_of_stderr_are_kept() -> None:
    with Pipe() as pipe:
        console = pipe.write_end
        tee = Tee((console, console))
        end = tee.add(4, Output(prefix=""), is_stderr=True)
        tee.start()
        os.write(end, b"".join(b"line %d\n" % number for number in range(100)) + b"\xff last words")
        os.close(end)

        tail = tee.tail(4)

        tee.close(30)
        assert tee.tail(5) is None
    assert tail is not None
    assert len(tail) == TAIL_LINES_MAX
    assert tail[-2:] == ("line 99", "\ufffd last words")


def test_a_stream_that_somebody_holds_open_is_let_go_after_its_last_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tee_module, "TAIL_WAIT_S", 0)
    path = tmp_path / "log"
    with Pipe() as pipe:
        console = pipe.write_end
        tee = Tee((console, console))
        end = tee.add(0, Output(path), is_stderr=True)
        tee.start()
        os.write(end, b"last words")

        tee.close(0)

        os.close(end)
        assert tee.tail(0) == ("last words",)
        assert os.read(pipe.read_end, 100) == b"last words\n"  # before the descriptor's number is another test's
    assert path.read_bytes() == b"last words"


def test_a_full_disk_ends_the_file_and_not_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    with Pipe() as pipe:
        read_end, console = pipe.read_end, pipe.write_end
        tee = Tee((console, console))
        end = tee.add(0, Output(Path("/dev/full")), is_stderr=False)
        tee.start()
        os.write(end, b"one\n")
        assert os.read(read_end, 100) == b"one\n"
        os.write(end, b"two\n")
        assert os.read(read_end, 100) == b"two\n"
        os.close(end)
        tee.close(30)

    assert caplog.text.count("/dev/full is not written any more") == 1


def test_a_file_that_cannot_be_opened_is_an_error_and_leaks_nothing(tmp_path: Path) -> None:
    with Pipe() as pipe:
        console = pipe.write_end
        tee = Tee((console, console))
        before = len(list(Path("/dev/fd").iterdir()))

        with pytest.raises(FileNotFoundError):
            tee.add(0, Output(tmp_path / "missing" / "log"), is_stderr=False)

        assert len(list(Path("/dev/fd").iterdir())) == before
        tee.close(30)


# --- read_tail ---


def test_the_tail_of_a_file_is_its_last_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"%06d\n" % number for number in range(100_000)) + b"end")

    assert read_tail(path, 3) == ("099998", "099999", "end")
    assert len(read_tail(path)) == TAIL_LINES_MAX


def test_the_tail_of_one_long_line_is_not_its_middle(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 1_000_000 + b"\nlast\n")

    assert read_tail(path) == ("last",)


def test_the_tail_of_a_file_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read_tail(tmp_path / "missing") == ()
