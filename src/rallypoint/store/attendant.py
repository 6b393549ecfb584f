"""A thread that keeps a session alive while nobody calls: for stores whose leases live as long as it.

Otherwise a store has no thread of its own: a connection that breaks while no call is under way is made again by the
next call, and if that is long in coming, the server has given the session up. This one calls often enough. It ends with
its client, at its next look at the latest.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from rallypoint.errors import DistNetworkError, ReplyTimeoutError, UnreachableError
from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.store.reach import SESSION_TIMEOUT_S

if TYPE_CHECKING:
    from rallypoint.store.session import SessionClient

__all__ = ["PERIOD_S", "PERIOD_S_MIN", "PERIOD_S_READ", "attend", "period_s"]

PERIOD_S = SESSION_TIMEOUT_S / 4
"""How often it calls, in seconds, if its session outlives a connection by the default time or longer."""

PERIOD_S_MIN = 0.05
"""How often it calls at most, in seconds, however short its session lives without a connection."""


PERIOD_S_READ = 0.4
"""While a thread reads the connection all the time, it is looked after more and more rarely, so often at last."""


def period_s(granted_s: float) -> float:
    """Give how often to call for a session that outlives its connection by so many seconds."""
    return max(min(PERIOD_S, granted_s / 4), PERIOD_S_MIN)


_attended: weakref.WeakSet[SessionClient] = weakref.WeakSet()


def attend(client: SessionClient) -> threading.Thread | None:
    """Keep a client's session alive from now on; give the thread that does, ``None`` if one does already."""
    if client in _attended:
        return None
    _attended.add(client)
    thread = threading.Thread(
        target=_run,
        args=(weakref.ref(client), period_s(client.trunk.granted_s)),
        name="rallypoint-session",
        daemon=True,
    )
    thread.start()
    return thread


def _run(seen: weakref.ref[SessionClient], pause_s: float) -> None:
    pause = threading.Event()
    next_s = pause_s
    while not pause.wait(next_s):
        client = seen()
        if client is None:
            return
        if client.trunk.is_read:
            next_s = max(pause_s, min(2 * next_s, PERIOD_S_READ))
            continue  # whoever reads sees the connection break, and makes it again
        next_s = pause_s
        try:
            client.trunk.ask(SessionVerb.PING, (0,), PERIOD_S)
        except (ReplyTimeoutError, UnreachableError):
            continue
        except DistNetworkError:  # closed, or lost for good
            return
        finally:
            del client
