"""What went wrong on other nodes, said once on this one."""

from __future__ import annotations

from collections import deque
from typing import Final

from rallypoint.events import emit
from rallypoint.rendezvous.reports import Order
from rallypoint.rendezvous.state import News, describe_failure

__all__ = ["Bulletin"]

NEWS_KEPT: Final = 32
"""So many pieces of news are remembered, so as not to be told twice."""


class Bulletin:
    """Tells the news that orders bring, as events.

    Args:
        node: this node's id, whose own news are none.
        run_id: the run.

    Threads: one.
    """

    def __init__(self, node: str, run_id: str) -> None:
        self._node = node
        self._run_id = run_id
        self._told: deque[News] = deque(maxlen=NEWS_KEPT)

    def pass_on(self, order: Order) -> None:
        """Tell what was not told yet; what the order's own reason says is told by whoever acts on it."""
        for news in order.news:
            if news.node == self._node or news in self._told:
                continue
            self._told.append(news)
            if news.message not in order.why:
                self._tell(news)

    def _tell(self, news: News) -> None:
        emit(
            "rendezvous.news",
            _sentence(news),
            run_id=self._run_id,
            round=news.round,
            node=news.node,
            host=news.host,
            rank=news.rank,
            exit_code=news.exit_code,
        )


def _sentence(news: News) -> str:
    """Say what went wrong, and where."""
    if news.kind != "failed":
        return f"round {news.round}: {news.message}"  # which names the node, and its rank
    who = news.host if news.rank is None else f"{news.host} (node {news.rank})"
    return f"a worker of {who} failed in round {news.round}" + describe_failure(news.exit_code, news.message)
