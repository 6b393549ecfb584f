"""Where a node reads its orders: what stands there, and then each that comes.

What this file does not know: what follows from an order; who reads again when reading fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from rallypoint.clock import Clock
from rallypoint.errors import RendezvousStateError, StoreTimeoutError
from rallypoint.events import emit
from rallypoint.rendezvous.board import Board
from rallypoint.rendezvous.bulletin import Bulletin
from rallypoint.rendezvous.reports import Order, decode_order
from rallypoint.store.session_calls import Changed, Deleted, Watch

__all__ = ["LOOK_S", "Mailbox"]

LOOK_S: Final = 10.0
"""Orders are read again after so many seconds in which the store said nothing."""


class Mailbox:
    """The orders for one node.

    Args:
        board: the keys of the run.
        node: the node's id.
        run_id: the run, for events.
        obey: is given each order.
        clock: what silence is measured on.

    Threads: one.
    """

    def __init__(self, board: Board, node: str, run_id: str, obey: Callable[[Order], None], clock: Clock) -> None:
        self._board = board
        self._node = node
        self._run_id = run_id
        self._obey = obey
        self._clock = clock
        self._bulletin = Bulletin(node, run_id)
        self._look_at = math.inf

    def look(self) -> None:
        """Take the order that stands there, if there is one. Cost: 1 call."""
        self._look_at = self._clock.now() + LOOK_S
        found = self._board.order(self._node)
        if found is not None:
            self._take(*found)

    def read(self, watch: Watch, timeout_s: float) -> None:
        """Take the next thing that a watch of the order tells within ``timeout_s`` seconds, if there is any."""
        self._look_at = min(self._look_at, self._clock.now() + LOOK_S)
        try:
            event = watch.next(min(timeout_s, max(0.0, self._look_at - self._clock.now())))
        except StoreTimeoutError:
            if self._clock.now() >= self._look_at:
                self.look()
            return
        if isinstance(event, Changed):
            self._take(event.value, event.revision)
            self._look_at = self._clock.now() + LOOK_S
        elif not isinstance(event, Deleted):  # where a coordinator goes its orders go; the next writes them anew
            self.look()

    def _take(self, data: bytes, revision: int) -> None:
        try:
            order = decode_order(data)
        except RendezvousStateError as error:
            emit("rendezvous.trouble", f"an order is left out: {error}", run_id=self._run_id)
            return
        if order.term >= revision:  # it would hide the orders of every coordinator up to that term
            what = f"its coordinator began with change {order.term}, and it was written before, as change {revision}"
            emit("rendezvous.trouble", f"an order is left out: {what}", run_id=self._run_id)
            return
        self._obey(order)
        self._bulletin.pass_on(order)
