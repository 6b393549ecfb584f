"""Which of the two ways a primitive works on a store: by the verbs of sessions, or by keys alone.

The two do not see each other, so all who use one name must go the same way. The first writes which it is under
``<name>/kind``; one that goes the other way is refused.
"""

from __future__ import annotations

from typing import Final

from rallypoint.errors import DistStoreError
from rallypoint.store.base import Store

__all__ = ["PLAIN", "SESSIONS", "agree_on_kind", "has_sessions"]

SESSIONS: Final = "sessions"
PLAIN: Final = "plain"


def has_sessions(store: Store) -> bool:
    """Tell whether a store, ours or foreign, has the verbs of sessions."""
    ask = getattr(store, "has_sessions", None)
    return ask is not None and bool(ask())


def agree_on_kind(store: Store, name: str) -> bool:
    """Settle the way in which a name is used; give whether it is by sessions. Cost: 1 call.

    Raises:
        DistStoreError: others use it in the other way.
    """
    kind = SESSIONS if has_sessions(store) else PLAIN
    found = bytes(store.compare_set(f"{name}/kind", b"", kind.encode())).decode(errors="replace")
    if found != kind:
        raise DistStoreError(
            f"{name!r} is used by members of kind {found!r}, this one's store makes it {kind!r}: all of them have to "
            "speak the same dialect, or use two names"
        )
    return kind == SESSIONS
