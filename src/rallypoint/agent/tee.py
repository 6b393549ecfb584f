"""Carry the output of workers to files and, line by line with a prefix, to the console.

One thread and one selector read the pipes of all workers of a node. Each read goes to the worker's file as it is;
for the console it is cut into lines, so that lines of different workers never mix, and each line goes out at once.

A slow console slows its workers down, as a plain pipe would. A stuck one (a terminal stopped by Ctrl-S, a pager that
nobody scrolls) does so for :data:`CONSOLE_STALL_S` seconds at most: from then on lines for it are dropped, files
still get everything, and when it moves again it is told how many lines it missed. A closed one is written no more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import selectors
import threading
from collections import deque
from io import FileIO
from pathlib import Path

from rallypoint.agent.logs import Output
from rallypoint.clock import Deadline
from rallypoint.server.descriptors import is_standard_stream

__all__ = ["Console", "LineAssembler", "Tee", "read_tail"]

LINE_SIZE_MAX = 64 * 1024
"""The longest line that is kept together, in bytes; a longer one is shown in parts of this size."""

READ_SIZE = 64 * 1024
"""The bytes taken from one pipe before the next one has its turn."""

LAST_READS = 16
"""How often a pipe that somebody holds open is read before it is let go: the whole of a pipe's buffer."""

CONSOLE_BACKLOG_SIZE_MAX = 1024 * 1024
"""The bytes that may wait for the console."""

CONSOLE_STALL_S = 10.0
"""How long a console may take nothing, in seconds, before lines for it are dropped."""

TAIL_LINES_MAX, TAIL_LINE_SIZE_MAX = 20, 2000
"""The last lines of a worker's standard error that are kept for the report of its failure, and the bytes of each."""

TAIL_SIZE_MAX = 64 * 1024
"""The bytes at the end of a log file that are looked at for those lines."""

TAIL_WAIT_S = 1.0
"""How long to wait for the end of a dead worker's stream, in seconds; a child of it may hold it open."""

NOWHERE = -1
"""Stands for a console that is not there: the first write finds it closed."""

_log = logging.getLogger("rallypoint.agent")


class LineAssembler:
    """Cuts a stream into lines. Knows nothing of where they come from or go.

    A line ends at a newline, or at the end of the stream. A carriage return within a line goes back to its start, as
    on a terminal: of a progress bar that draws itself a thousand times over, the last state is the line.

    Threads: one.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._is_returned = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes, give the lines that they complete, without their newlines.

        Cost: linear in the bytes, under any segmentation; keeps at most ``LINE_SIZE_MAX`` bytes.
        """
        lines: list[bytes] = []
        *whole, rest = data.split(b"\n")
        for piece in whole:
            self._extend(piece, lines)
            lines.append(self._take())
        self._extend(rest, lines)
        return lines

    def finish(self) -> list[bytes]:
        """Give what is left at the end of the stream: one line or, if it is blank, none."""
        line = self._take()
        return [line] if line.strip() else []

    def _extend(self, piece: bytes, lines: list[bytes]) -> None:
        if not piece:
            return
        body = piece.rstrip(b"\r")
        if body:
            if self._is_returned or b"\r" in body:
                self._take()
                body = body[body.rfind(b"\r") + 1 :]
            self._parts.append(body)
            self._size += len(body)
            if self._size > LINE_SIZE_MAX:
                text = self._take()
                cut = (len(text) - 1) // LINE_SIZE_MAX * LINE_SIZE_MAX
                lines += [text[at : at + LINE_SIZE_MAX] for at in range(0, cut, LINE_SIZE_MAX)]
                self._parts, self._size = [text[cut:]], len(text) - cut
        # Only the next byte tells whether this return begins a newline or an update of the line.
        self._is_returned = piece.endswith(b"\r")

    def _take(self) -> bytes:
        line = b"".join(self._parts)
        self._parts, self._size, self._is_returned = [], 0, False
        return line


class Console:
    """Writes whole lines to a descriptor that may be slow, stuck or closed.

    Args:
        descriptor: where to write; stays the caller's.
        backlog_size_max: the bytes that may wait.
        stall_s: how long the descriptor may take nothing, in seconds, before lines are dropped.

    Threads: any number write; one thread of its own does the writing.
    """

    def __init__(
        self,
        descriptor: int,
        backlog_size_max: int,
        stall_s: float,
    ) -> None:
        self._descriptor = descriptor
        self._backlog_size_max = backlog_size_max
        self._stall_s = stall_s
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._lines_dropped = 0
        self._is_stuck = False
        self._is_closed = False
        # A daemon, because a write to a stopped terminal cannot be called back and must not keep the process.
        self._thread = threading.Thread(target=self._run, name="rallypoint-console", daemon=True)
        self._thread.start()

    def write(self, lines: list[bytes]) -> None:
        """Queue whole lines, newlines included; waits for a slow console, but never longer than ``stall_s``."""
        data = b"".join(lines)
        with self._changed:
            if not self._is_stuck:
                self._is_stuck = not self._changed.wait_for(self._has_room, self._stall_s)
            if self._is_stuck:
                self._lines_dropped += len(lines)
            elif not self._is_closed:
                self._waiting.append(data)
                self._size += len(data)
                self._changed.notify_all()

    def close(self, timeout_s: float) -> None:
        """Write what is queued, for at most ``timeout_s`` seconds."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def _has_room(self) -> bool:
        return self._size < self._backlog_size_max or self._is_closed

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting) or self._is_closed)
                if not self._waiting:
                    return
                data = self._waiting[0]
            try:
                _write_all(self._descriptor, data)
            except OSError as error:
                _log.warning("the console takes no more output of workers: %s", error)
                with self._changed:
                    self._is_closed = True
                    self._waiting.clear()
                    self._changed.notify_all()
                return
            with self._changed:
                self._waiting.popleft()
                self._size -= len(data)
                self._is_stuck = False
                if self._lines_dropped and not self._waiting:
                    note = f"rallypoint: {self._lines_dropped} lines are missing here: the console took none in time\n"
                    self._lines_dropped = 0
                    self._waiting.append(note.encode())
                    self._size += len(note)
                self._changed.notify_all()


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[_write_some(descriptor, left) :]


def _write_some(descriptor: int, data: memoryview) -> int:
    try:
        return os.write(descriptor, data)
    except BlockingIOError:  # somebody who shares the terminal made it non-blocking
        poller = select.poll()
        poller.register(descriptor, select.POLLOUT)
        poller.poll()
        return 0


class _Stream:
    """One pipe of one worker."""

    def __init__(self, read_end: int, output: Output, console: Console, *, keeps_tail: bool) -> None:
        self.read_end = read_end
        self.prefix = (output.prefix or "").encode()
        self.path = output.path
        self.file: FileIO | None = None if output.path is None else FileIO(output.path, "ab")
        self.collected = None if output.filter is None else FileIO(output.filter.path, "ab")
        self.texts = [] if output.filter is None else [text.encode() for text in output.filter.texts]
        self.console = console
        self.assembler = LineAssembler()
        self.tail: deque[bytes] | None = deque(maxlen=TAIL_LINES_MAX) if keeps_tail else None
        self.ended = threading.Event()

    def take(self, data: bytes) -> None:
        if self.file is not None:
            try:
                left = memoryview(data)
                while left:
                    left = left[self.file.write(left) :]
            except OSError as error:
                _log.warning("%s is not written any more: %s", self.path, error)
                self._close_file()
        self._show(self.assembler.feed(data))

    def finish(self) -> None:
        self._show(self.assembler.finish())
        self._close_file()
        if self.collected is not None:
            self.collected.close()
        os.close(self.read_end)
        self.ended.set()

    def _show(self, lines: list[bytes]) -> None:
        if not lines:
            return
        if self.tail is not None:
            self.tail.extend(line[:TAIL_LINE_SIZE_MAX] for line in lines)
        shown = [b"%b%b\n" % (self.prefix, line) for line in lines]
        self.console.write(shown)
        if self.collected is not None:
            self._collect([line for line in shown if any(text in line for text in self.texts)], self.collected)

    def _collect(self, lines: list[bytes], file: FileIO) -> None:
        """Write lines to the file that all workers share, one write each, so that they do not mix."""
        try:
            for line in lines:
                file.write(line)
        except OSError as error:
            _log.warning("lines are not collected any more: %s", error)
            self.texts = []

    def _close_file(self) -> None:
        if self.file is not None:
            with contextlib.suppress(OSError):  # the disk's refusal of earlier bytes was logged
                self.file.close()
            self.file = None


class Tee:
    """Carries the streams of all workers of one start: first :meth:`add` each, then :meth:`start`, then :meth:`close`.

    Args:
        console: the descriptors that stand for the console's standard output and error.

    Threads: one thread calls the methods.
    """

    def __init__(self, console: tuple[int, int]) -> None:
        self._descriptors = console
        self._consoles: dict[int, Console] = {}
        self._streams: dict[tuple[int, bool], _Stream] = {}
        self._selector = selectors.DefaultSelector()
        self._stop_read, self._stop_write = os.pipe()
        self._selector.register(self._stop_read, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="rallypoint-tee", daemon=True)
        self._deadline = Deadline.never()

    def add(self, local_rank: int, output: Output, *, is_stderr: bool) -> int:
        """Take one stream into care.

        Args:
            local_rank: the worker.
            output: a piped output.
            is_stderr: which of the worker's two streams it is.

        Returns:
            The descriptor for the worker to write to; the caller closes its copy once the worker has it.

        Raises:
            OSError: if the file cannot be opened, or descriptors ran out.
        """
        console = self._console(self._descriptors[is_stderr])
        read_end, write_end = os.pipe()
        try:
            stream = _Stream(read_end, output, console, keeps_tail=is_stderr)
        except OSError:
            os.close(read_end)
            os.close(write_end)
            raise
        os.set_blocking(read_end, False)
        self._streams[local_rank, is_stderr] = stream
        self._selector.register(read_end, selectors.EVENT_READ, stream)
        return write_end

    def start(self) -> None:
        """Begin to carry."""
        self._thread.start()

    def tail(self, local_rank: int) -> tuple[str, ...] | None:
        """Give the last lines of a worker's standard error, ``None`` if it is not in care.

        Waits a moment for the stream's end, so that the last words of a worker that just died are among them.
        """
        stream = self._streams.get((local_rank, True))
        if stream is None or stream.tail is None:
            return None
        stream.ended.wait(TAIL_WAIT_S)
        return tuple(line.decode("utf-8", "replace") for line in stream.tail.copy())

    def close(self, timeout_s: float) -> None:
        """Carry what is left until each stream ends, for at most ``timeout_s`` seconds, then let go of all."""
        self._deadline = Deadline(timeout_s)
        os.write(self._stop_write, b"\0")
        if self._thread.ident is None:
            self._run()
        else:
            self._thread.join()
        for console in self._consoles.values():
            console.close(self._deadline.remaining_s())
        self._selector.close()
        os.close(self._stop_read)
        os.close(self._stop_write)

    def _console(self, descriptor: int) -> Console:
        if descriptor not in self._consoles:
            shown = descriptor if is_standard_stream(descriptor) else NOWHERE
            self._consoles[descriptor] = Console(shown, CONSOLE_BACKLOG_SIZE_MAX, CONSOLE_STALL_S)
        return self._consoles[descriptor]

    def _run(self) -> None:
        is_closing = False
        open_streams = set(self._streams.values())
        while open_streams or not is_closing:
            timeout_s = self._deadline.remaining_s() if is_closing else None
            for key, _ in self._selector.select(timeout_s):
                if key.data is None:
                    is_closing = True
                    self._selector.unregister(self._stop_read)
                elif not self._carry(key.data):
                    open_streams.discard(key.data)
            if is_closing and self._deadline.has_passed():
                break
        for stream in open_streams:  # somebody holds them open still: take what is there, then let go
            for _ in range(LAST_READS):
                if not self._carry(stream):
                    break
            else:
                self._selector.unregister(stream.read_end)
                stream.finish()

    def _carry(self, stream: _Stream) -> bool:
        """Move what one pipe holds; ``False`` once it has ended."""
        try:
            data = os.read(stream.read_end, READ_SIZE)
        except BlockingIOError:
            return True
        if data:
            stream.take(data)
            return True
        self._selector.unregister(stream.read_end)
        stream.finish()
        return False


def read_tail(path: Path, lines_max: int = TAIL_LINES_MAX) -> tuple[str, ...]:
    """Give the last lines of a log file, decoded for people; an unreadable file has none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_SIZE_MAX))
            data = file.read(TAIL_SIZE_MAX)
    except OSError:
        return ()
    assembler = LineAssembler()
    lines = assembler.feed(data) + assembler.finish()
    kept = lines[1:] if size > TAIL_SIZE_MAX else lines
    return tuple(line[:TAIL_LINE_SIZE_MAX].decode("utf-8", "replace") for line in kept[-lines_max:])
