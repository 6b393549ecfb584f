"""The compiled engine behind the interface of the Python one, so that one test drives both; see ``server.engine``.

A server does not need it: there the compiled reactor drives the compiled engine, and Python sees neither.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from rallypoint.server.limits import DEFAULT_LIMITS, Limits
from rallypoint.server.vocabulary import (
    Close,
    CloseReason,
    Connected,
    Disconnected,
    Effect,
    Event,
    Pause,
    Received,
    Reply,
    Resumed,
    Statistics,
    Stopping,
    Ticked,
)
from rallypoint.twin import choice

if TYPE_CHECKING:
    from rallypoint._native import Engine as RawEngine
    from rallypoint._native import RawEffect, Reactor
    from rallypoint.protocol.session.auth import Token
    from rallypoint.server.changes import Change, State

__all__ = ["NativeEngine", "restore", "statistics_of"]

_EVENTS = (Connected, Received, Resumed, Disconnected, Ticked, Stopping)  # in the order of their numbers
_REASONS = tuple(CloseReason)


class NativeEngine:
    """One server's state; see ``Engine``, which does the same.

    Args:
        limits: what peers are granted.
        seed: 32 bytes, where ids and nonces come from; see ``Engine``.
        token: what sessions must prove to hold; ``None`` lets in everybody.
        journal: note every change of state for ``take_commit``.
        data_id: with a journal: of what the server holds; see ``Engine``.

    Raises:
        ImportError: the native twin does not run here; the message says why.

    Threads: none but the caller's.
    """

    def __init__(
        self,
        limits: Limits = DEFAULT_LIMITS,
        *,
        seed: bytes = bytes(32),
        token: Token | None = None,
        journal: bool = False,
        data_id: bytes = b"",
    ) -> None:
        module, why = choice()
        if module is None:
            raise ImportError(why)
        self._engine = module.Engine(limits.compiled(), (seed, b"" if token is None else token.reveal()))
        self._data_id = data_id
        if journal:
            self._engine.remember(data_id, 0, 0)

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take one event; give what must be done. Replies of one peer come as one, pauses and closes after replies."""
        peer = -1 if isinstance(event, Ticked | Stopping) else event.peer
        data = b""
        if isinstance(event, Received):
            data = event.data
        elif isinstance(event, Connected):
            data = b"%c%b\0%b\0" % (event.origin.is_local, event.origin.host.encode(), event.address.encode())
        return [_effect(raw) for raw in self._engine.step(_EVENTS.index(type(event)), peer, data, now)]

    def next_deadline(self) -> float | None:
        """Give the time at which ``Ticked`` is due, ``None`` if no time matters now."""
        deadline: float | None = self._engine.next_deadline()
        return deadline

    def restore(self, state: State, now: float) -> None:
        """Begin with what an earlier life has left, before the first step; see ``Engine``. It has a journal then."""
        restore(self._engine, state, self._data_id, now)

    def take_commit(self) -> bytes:
        """Give what has changed since the last call as ``encode_changes`` does; nothing if nothing has."""
        commit: bytes = self._engine.take_changes()
        return commit

    def take_sum(self) -> bytes:
        """Give what all that changed since the last call adds up to, as ``encode_changes`` does."""
        total: bytes = self._engine.take_sum()
        return total

    def take_changes(self) -> list[Change]:
        """Give what has changed since the last call, in order; nothing without ``journal``."""
        from rallypoint.server.journal_log import decode_changes

        commit = self.take_commit()
        return decode_changes(commit) if commit else []

    def statistics(self) -> Statistics:
        """Give the numbers. Cost: the number of peers."""
        return statistics_of(self._engine.statistics())


def restore(engine: RawEngine | Reactor, state: State, data_id: bytes, now: float) -> None:
    """Let a compiled engine, or a reactor that has not started, begin with a state and note its changes."""
    from rallypoint.server.journal_log import encode_state

    for commit in encode_state(state):
        engine.restore(commit, now)
    engine.remember(data_id, state.revision, state.lease_last)


def statistics_of(numbers: list[int]) -> Statistics:
    """Give statistics from the compiled twin's list of numbers: its fields in order, then the closed by reason."""
    last = len(numbers) - len(_REASONS)
    closed = {reason: count for reason, count in zip(_REASONS, numbers[last:], strict=True) if count}
    names = [field.name for field in fields(Statistics) if field.name != "closed"]
    return Statistics(closed=closed, **dict(zip(names, numbers[:last], strict=True)))


def _effect(raw: RawEffect) -> Effect:
    if len(raw) == 2:
        return Reply(raw[0], raw[1])
    return Close(raw[0], _REASONS[raw[1]], raw[2]) if len(raw) == 3 else Pause(raw[0])
