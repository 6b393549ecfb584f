from __future__ import annotations

import threading

import pytest

from rallypoint.agent.uninterrupted import run_to_its_end


def test_an_action_runs_once_in_a_thread_of_its_own() -> None:
    seen: list[threading.Thread] = []

    assert run_to_its_end(lambda: seen.append(threading.current_thread()), lambda: None) is None

    assert len(seen) == 1
    assert seen[0] is not threading.current_thread()


def test_what_the_action_raises_is_raised() -> None:
    def fail() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        run_to_its_end(fail, lambda: None)


def test_an_interrupt_is_told_and_given_back_when_the_action_is_through(monkeypatch: pytest.MonkeyPatch) -> None:
    told, done = threading.Event(), threading.Event()
    waits = iter([KeyboardInterrupt("first")])

    class Breaking(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            for error in waits:
                raise error
            return super().wait(timeout)

    monkeypatch.setattr("rallypoint.agent.uninterrupted.threading.Event", Breaking)

    def action() -> None:
        assert threading.Event.__mro__[1].wait(told, 30)  # type: ignore[attr-defined]
        done.set()

    interrupt = run_to_its_end(action, told.set)

    assert isinstance(interrupt, KeyboardInterrupt)
    assert done.is_set()
