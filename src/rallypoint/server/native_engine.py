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
    from rallypoint._native import RawEffect
    from rallypoint.protocol.session.auth import Token

__all__ = ["NativeEngine", "statistics_of"]

_EVENTS = (Connected, Received, Resumed, Disconnected, Ticked, Stopping)  # in the order of their numbers
_REASONS = tuple(CloseReason)


class NativeEngine:
    """One server's state; see ``Engine``, which does the same.

    Args:
        limits: what peers are granted.
        seed: 32 bytes, where ids and nonces come from; see ``Engine``.
        token: what sessions must prove to hold; ``None`` lets in everybody.

    Raises:
        ImportError: the native twin does not run here; the message says why.

    Threads: none but the caller's.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS, *, seed: bytes = bytes(32), token: Token | None = None) -> None:
        module, why = choice()
        if module is None:
            raise ImportError(why)
        self._engine = module.Engine(limits.compiled(), (seed, b"" if token is None else token.reveal()))

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

    def statistics(self) -> Statistics:
        """Give the numbers. Cost: the number of peers."""
        return statistics_of(self._engine.statistics())


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
