"""The quick way through torch's utilities: members with sessions meet on the server, unless a plain one is among them.

Nobody can know beforehand who else will come, and torch's members know only keys. So:

- A member with a session goes to the server's meeting place first. There all must come for anybody to pass: if one of
  them takes the plain way, nobody passes there.
- It waits there a slice at a time, and between two slices looks for what plain members leave: their keys. As soon as
  there are any it takes the plain way, too, and leaves such keys itself.
- So either all meet on the server, or all with keys. A slice is as long as what was waited before: a group that is
  complete at once pays nothing, and one with a torch member among it waits at most about twice as long as it had to.
- Keys stay: once a name was used the plain way, all go that way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rallypoint.clock import Deadline
from rallypoint.errors import BarrierTimeoutError

__all__ = ["FIRST_SLICE_S", "SLICE_MAX_S", "meet_unless_plain"]

FIRST_SLICE_S = 0.05
"""How long a member waits on the server before it looks for plain members."""

SLICE_MAX_S = 5.0
"""How long it waits at most between two looks."""

_T = TypeVar("_T")


def meet_unless_plain(meet: Callable[[float], _T], has_plain: Callable[[], bool], deadline: Deadline) -> _T | None:
    """Meet on the server, or find that there are plain members.

    Args:
        meet: comes to the meeting place, waits there for so many seconds, and gives what came of it.
        has_plain: whether a plain member has left a trace.
        deadline: until when.

    Returns:
        What came of it; ``None`` if there are plain members.

    Raises:
        BarrierTimeoutError: not all came, and none of them is plain.

    Cost: 1 call if all come at once; 2 more each slice.
    """
    while True:
        slice_s = min(max(deadline.waited_s(), FIRST_SLICE_S), SLICE_MAX_S)
        is_last = deadline.remaining_s() <= slice_s
        try:
            return meet(min(slice_s, deadline.remaining_s()))
        except BarrierTimeoutError:
            if has_plain():
                return None
            if is_last:
                raise
