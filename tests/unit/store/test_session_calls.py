from __future__ import annotations

import inspect

import pytest

from rallypoint.store.base import Store
from rallypoint.store.session_calls import Changed, Missed, SessionCalls, Watch

ARGUMENTS = {
    "swap": ("k", 0, "v"),
    "meet": ("b", 0, 1),
    "exchange": ("b", 0, 1, "v"),
    "status": (),
    "pipeline": (),
}
NAMES = [name for name, _ in inspect.getmembers(SessionCalls, inspect.isfunction)]
CALLS = [name for name in NAMES if name not in ("has_sessions", "session_ends_at", "post_set")]


@pytest.mark.parametrize("name", CALLS)
def test_a_store_without_sessions_says_so(name):
    store = Store()
    assert not store.has_sessions()
    with pytest.raises(NotImplementedError, match=r"this needs a store whose server keeps sessions: has_sessions\(\)"):
        getattr(store, name)(*ARGUMENTS.get(name, ("k",)))


class Told(Watch):
    """A watch whose events are known beforehand."""

    def __init__(self, *events):
        self.revision = 1
        self.events = list(events)
        self.timeouts = []
        self.is_closed = False

    def next(self, timeout=None):
        self.timeouts.append(timeout)
        return self.events.pop(0)

    def close(self):
        self.is_closed = True


def test_a_watch_is_iterated_over_without_end_and_closed_by_its_block():
    with Told(Changed("k", b"v", 2), Missed(5)) as watch:
        events = iter(watch)
        assert [next(events), next(events)] == [Changed("k", b"v", 2), Missed(5)]
    assert watch.timeouts == [float("inf")] * 2
    assert watch.is_closed
