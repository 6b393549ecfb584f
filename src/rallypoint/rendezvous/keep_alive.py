"""The thread that keeps a node's place: it beats, drops who is gone, and hears the news, whatever goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rallypoint.events import emit
from rallypoint.rendezvous.pace import GAP_MIN_S, gap_max_s
from rallypoint.rendezvous.participant import Participant, Seen

__all__ = ["KeepAlive"]

PAUSE_MIN_S, PAUSE_MAX_S = 0.1, 2.0
"""Between looks at a backend that fails."""


class KeepAlive:
    """A supervised thread beside a participant.

    It ends when it is told to, and for no other reason: an error is told as an event once, noted as news, and the next
    look follows after a pause that grows. It refers to the participant and not to the handler, so that a handler that
    nobody needs any more can be collected, and end it.

    Args:
        participant: whose place to keep.
        name: the thread's name.
    """

    def __init__(self, participant: Participant, name: str) -> None:
        self._participant = participant
        self._stopping = threading.Event()
        self._trouble = ""
        self._pause_s = 0.0
        self._gap_s = GAP_MIN_S
        self._version = -1
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; once."""
        self._thread.start()

    @property
    def stopper(self) -> Callable[[], None]:
        """What tells the thread to end, without referring to this object."""
        return self._stopping.set

    def stop(self, timeout_s: float) -> None:
        """Tell the thread to end and wait for it, at most ``timeout_s`` seconds; doing it again is fine."""
        self._stopping.set()
        self._participant.wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._turn()

    def _turn(self) -> None:
        try:
            seen = self._participant.keep_place()
            self._participant.note_trouble(None)
            self._trouble, self._pause_s = "", 0.0
            self._wait_after(seen)
        except Exception as error:  # noqa: BLE001 - supervised: told, noted, tried again
            if repr(error) != self._trouble:
                self._trouble = repr(error)
                emit("rendezvous.trouble", f"keeping this node's place failed, trying again: {error!r}")
            self._participant.note_trouble(error)
            self._pause_s = min(PAUSE_MAX_S, max(PAUSE_MIN_S, 2 * self._pause_s))
            self._stopping.wait(self._pause_s)

    def _wait_after(self, seen: Seen) -> None:
        half_s = self._participant.rules.keep_alive_interval_s / 2
        if self._participant.is_joining:
            # The joining thread looks by itself; here it is only about beats while it is busy with something else.
            self._participant.wait_while_joining(half_s, self._stopping.is_set)
            return
        if seen.state.version != self._version:
            self._version, self._gap_s = seen.state.version, GAP_MIN_S
        longest_s = min(gap_max_s(len(seen.state.nodes)), half_s)
        self._gap_s = self._participant.pause(seen, min(self._gap_s, longest_s))
