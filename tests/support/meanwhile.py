"""What another thread may do between any two lines of a call, done there by the call's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

__all__ = ["runs_until"]


def runs_until(line: int, modules: list[ModuleType], call: Callable[[], object], act: Callable[[], object]) -> bool:
    """Run a call, and ``act`` before one of the lines that it runs.

    Args:
        line: which one, counted from 0.
        modules: the code whose lines count.
        call: without arguments.
        act: as another thread would do at this moment.

    Returns:
        Whether the call has run so many lines.
    """
    files = {module.__file__ for module in modules}
    left = line

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            left -= 1
            if left == -1:
                sys.settrace(None)
                act()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return left < 0
