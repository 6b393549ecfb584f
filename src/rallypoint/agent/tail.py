"""Follow log files as they grow, and write their lines with a prefix somewhere else.

The agent itself carries streams through pipes (``agent.tee``); this is for files that others write.

Source: names, signature and behaviour as observed in torch 2.13.0. One thread follows all files.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, TextIO

from rallypoint.agent.tee import LineAssembler

__all__ = ["TailLog"]

READ_SIZE = 64 * 1024

_log = logging.getLogger("rallypoint.agent")


class _Followed:
    """One file, from before it is there."""

    def __init__(self, path: str, prefix: str) -> None:
        self.path = Path(path)
        self.prefix = prefix
        self.assembler = LineAssembler()
        self._file: BinaryIO | None = None

    def new_lines(self) -> list[bytes]:
        lines: list[bytes] = []
        if self._file is None:
            if not self.path.exists():
                return lines
            self._file = self.path.open("rb")
        while data := self._file.read(READ_SIZE):
            lines += self.assembler.feed(data)
        return lines

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class TailLog:
    """Writes every line of some files, as it appears, to one place.

    Args:
        name: stands in the prefix: ``[<name><local rank>]:``.
        log_files: the files by local rank; they need not be there yet.
        dst: takes the lines.
        log_line_prefixes: other prefixes, by local rank.
        interval_sec: seconds between two looks.
        log_line_filter: tells which lines are written.
    """

    def __init__(  # noqa: PLR0917 - torch's signature
        self,
        name: str,
        log_files: Mapping[int, str],
        dst: TextIO,
        log_line_prefixes: Mapping[int, str] | None = None,
        interval_sec: float = 0.1,
        log_line_filter: Callable[[str], bool] = lambda _line: True,
    ) -> None:
        prefixes = log_line_prefixes or {}
        self._files = [_Followed(path, prefixes.get(rank, f"[{name}{rank}]:")) for rank, path in log_files.items()]
        self._dst = dst
        self._interval_s = interval_sec
        self._filter = log_line_filter
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_stopped = False

    def start(self) -> TailLog:
        """Begin to follow; gives this object back."""
        self._thread = threading.Thread(target=self._run, name="rallypoint-tail", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Write what is there, and end. Calling it twice, or before the start, does no harm."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._is_stopped = True

    def stopped(self) -> bool:
        """Tell whether it was stopped."""
        return self._is_stopped

    def _run(self) -> None:
        followed = list(self._files)
        is_last = False
        while not is_last:
            is_last = self._ended.wait(self._interval_s)
            for file in list(followed):
                try:
                    self._write(file, file.new_lines() + (file.assembler.finish() if is_last else []))
                except Exception:  # noqa: BLE001, PERF203 - one file fails; the others are still followed
                    _log.exception("%s is not followed any more", file.path)
                    followed.remove(file)
        for file in self._files:
            file.close()

    def _write(self, file: _Followed, lines: list[bytes]) -> None:
        texts = [line.decode("utf-8", "replace") for line in lines]
        shown = [f"{file.prefix}{text}\n" for text in texts if self._filter(text)]
        if shown:
            self._dst.write("".join(shown))
            self._dst.flush()
