"""What a coordinated rendezvous stands on: a store, the ways to it, and how long it has to be served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rallypoint.clock import Deadline
from rallypoint.errors import DistError, RendezvousError
from rallypoint.rendezvous.board import Board
from rallypoint.rendezvous.reports import decode_report, read_notice
from rallypoint.store.base import Store
from rallypoint.store.bootstrap import store_timeout
from rallypoint.types import Timeout

__all__ = ["Ground", "board_opener", "linger", "tell_progress"]


@dataclass(frozen=True)
class Ground:
    """The store that a handler stands on.

    Attributes:
        store: with sessions; the handler closes it.
        where: what does not answer if it does not, for messages.
        is_host: whether this process serves it.
    """

    store: Store
    where: str
    is_host: bool = False


def board_opener(store: Store, run_id: str, call_s: float) -> Callable[[], tuple[Board, Callable[[], None]]]:
    """Give what opens a coordinator's own way to the store, and what closes that, without referring to a handler.

    Args:
        store: the node's.
        run_id: the run.
        call_s: how long connecting, and each call, may take, in seconds.
    """

    def open_board() -> tuple[Board, Callable[[], None]]:
        with store_timeout(store, call_s):
            own = store.clone()
        return Board(own, run_id, call_s=call_s), own.close

    return open_board


def tell_progress(board: Board, said: str = "") -> str:
    """Give who coordinates and how far it says it is, as the end of a sentence; empty if the store does not answer.

    Args:
        board: the keys of the run.
        said: the sentence so far; what it says already is not said again.
    """
    try:
        notice, holder = read_notice(board.progress()), board.holder()
    except (DistError, OSError):
        return ""
    if holder is None:
        return "; nobody coordinates"
    if notice is None or notice.text in said:
        return f"; {holder.label} coordinates"
    return f"; {holder.label}, which coordinates, says: {notice.text}"


def linger(board: Board, timeout: Timeout) -> None:
    """Wait until every node has heard of the end, or has gone: what this process serves ends with it.

    Args:
        board: the keys of the run.
        timeout: the longest wait; a store that fails ends it too.
    """
    deadline = Deadline(timeout)
    try:
        with board.watch_reports() as watch:
            while not all(_has_heard(posted.data) for posted in board.reports()):
                watch.next(deadline.remaining_s())  # raises when the time is up
    except (DistError, OSError):
        return


def _has_heard(data: bytes | None) -> bool:
    if data is None:
        return True
    try:
        report = decode_report(data)
    except RendezvousError:
        return True
    return report.has_heard or bool(report.leaving)
