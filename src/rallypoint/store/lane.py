"""The compiled fast lane of a session's client: what it needs of the Python one, beside which it runs.

``rallypoint._native.Lane`` has the connection while one thread at a time calls, and every call goes its usual course:
one small request out, its answer in at the first look. As soon as anything else happens the trunk has it again
(``land``), with what the lane had begun as a ticket of its own; the rest of such a call, and every call meanwhile, runs
in Python. When the trunk is at rest, the next call takes the lane again.

::

    lane    set a ─ get b ─ get c ··· (nothing yet) ╮                               ╭ set e
    trunk                                           ╰ leads: waits ─── OK c ─ done ─╯
    trunk                                                └ set d of another thread: follows ─ done
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.store.ticket import Begun, Ticket

if TYPE_CHECKING:
    from types import ModuleType

    from rallypoint.store.session import SessionClient
    from rallypoint.store.trunk import Trunk
    from rallypoint.store.uplink import Link

__all__ = ["CALLS", "Lender", "open_lane"]

CALLS: Final = (
    "set",
    "get",
    "add",
    "compare_set",
    "check",
    "wait",
    "append",
    "multi_get",
    "multi_set",
    "queue_push",
    "queue_pop",
    "queue_len",
    "delete_key",
    "num_keys",
    "barrier",
    "swap",
)
"""The calls that the lane has, by the names of the client's own."""


class Lender:
    """What the lane asks Python for.

    Attributes:
        signs: gives what must all be empty, or nothing, in a trunk at rest. It runs no Python code, so all of it is
            seen at one moment.
        verbs: a request's verb by its number.
    """

    signs = attrgetter(
        "_busy",
        "_holder",
        "_followers",
        "_uplink.end",
        "_uplink.outbox",
        "_session._unanswered",
        "_session._cancelled",
        "_session._cutter._begun",
    )
    verbs: Final[dict[int, SessionVerb]] = {int(verb): verb for verb in SessionVerb}

    @staticmethod
    def lend(trunk: Trunk) -> tuple[Link, int, int, Ticket] | None:
        """Give what the lane needs to take over, if it may.

        Returns:
            The connection, its descriptor, how long to look for an answer before sleeping, in microseconds, and a
            ticket that a request may become.
        """
        link = trunk.link
        if link is None or not link.is_sound or link.stream.has_read_ahead:
            return None
        return link, link.stream.fileno(), link.stream.spin_us, Ticket(SessionVerb.PING)

    @staticmethod
    def begun(timeout_s: float, ticket: Ticket, link: Link, data: bytes) -> Begun:
        """Give a call's patience whose request is on its way."""
        begun = Begun(timeout_s)
        begun.ticket, begun.link, begun.data = ticket, link, data
        return begun


def open_lane(client: SessionClient, module: ModuleType) -> None:
    """Have a client's calls take the lane.

    Args:
        client: as made, on a connection without TLS.
        module: ``rallypoint._native``.
    """
    lane: Any = module.Lane(client, client.trunk, Lender)
    client.trunk.land = lane.land
    vars(client).update({name: getattr(lane, name) for name in CALLS})
