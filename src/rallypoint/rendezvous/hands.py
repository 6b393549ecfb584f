"""What runs for a node under a coordinator once it has begun: its side of the talk, and what stands for the office.

It is apart from the handler, so that a handler that nobody holds any more is collected, and ends it.

What this file does not know: what torch's methods are, what the workers need.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from rallypoint.clock import Clock
from rallypoint.rendezvous.board import Board, Holder
from rallypoint.rendezvous.contact import Contact
from rallypoint.rendezvous.coordinator import Coordinator
from rallypoint.rendezvous.follower import Follower
from rallypoint.rendezvous.following import Following
from rallypoint.rendezvous.ground import Ground, board_opener
from rallypoint.rendezvous.office import HOLD_S, Office
from rallypoint.rendezvous.reports import Workers
from rallypoint.rendezvous.settings import CoordinatedSettings
from rallypoint.rendezvous.state import Card
from rallypoint.types import Endpoint

__all__ = ["Hands", "begin"]


@dataclass
class Hands:
    """What runs.

    Attributes:
        following: the node's side of the talk with the coordinator; does nothing before it is started.
        coordinator: stands for the office as soon as it is started, by ``following`` where it finds that called for.
        node: the node's id, drawn for it.
        label: how it is named for people.
    """

    following: Following
    coordinator: Coordinator
    node: str
    label: str


def begin(  # noqa: PLR0917 - what they stand between
    board: Board,
    ground: Ground,
    settings: CoordinatedSettings,
    card: Card,
    workers: Workers | None,
    serve: Callable[[int, int], Endpoint],
    clock: Clock,
) -> Hands:
    """Make what runs for a node; nothing does yet.

    Args:
        board: the keys of the run.
        ground: the store between the nodes.
        settings: what the node was told.
        card: how it introduces itself.
        workers: what it runs; ``None`` if the coordinator need not number the workers.
        serve: starts the workers' store for a proposal, of the round that is given too; gives where it is.
        clock: what all times are measured on.
    """
    run_id, rules = settings.node.run_id, settings.node.rules
    node = secrets.token_hex(16)
    label = f"{card.host}#{node[:6]}"
    following = Following(
        board,
        Follower(node, card, rules, workers, settings.worker_store),
        node,
        settings.ttl_s,
        rules.keep_alive_interval_s,
        serve,
        Contact(ground.where, min(rules.answer_s, settings.ttl_s), clock),
        run_id,
        stand=lambda: coordinator.start(),  # noqa: PLW0108 - made below
        clock=clock,
    )
    coordinator = Coordinator(
        board_opener(ground.store, run_id, rules.answer_s),
        lambda: Office(rules, settings.policy, HOLD_S),
        Holder(node, label),
        settings.ttl_s,
        run_id,
        is_over=following.is_over,
        clock=clock,
    )
    return Hands(following, coordinator, node, label)
