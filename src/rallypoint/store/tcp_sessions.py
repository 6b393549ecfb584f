"""The part of a TCP store that needs a session with its server; see ``store.session_calls``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rallypoint.store.attendant import attend
from rallypoint.store.base import Store, as_timeout_s
from rallypoint.types import Text, Timeout

if TYPE_CHECKING:
    from rallypoint.store.calls import Patience
    from rallypoint.store.native import Client
    from rallypoint.store.pipeline import Pipeline
    from rallypoint.store.session import SessionClient
    from rallypoint.store.session_calls import Entry, Watch

__all__ = ["TCPSessionCalls"]


class TCPSessionCalls(Store):
    """The methods of ``store.session_calls`` on a client that has a session."""

    _client: Client

    def has_sessions(self) -> bool:
        """Tell whether the server keeps a session for this store; then every write is acknowledged, too."""
        return hasattr(self._client, "trunk")

    def session_ends_at(self) -> float:
        """Tell when the server may end the session; see :meth:`Store.session_ends_at`. Cost: none."""
        return self._session.trunk.ends_at if self.has_sessions() else math.inf

    @property
    def _session(self) -> SessionClient:
        client: Any = self._client
        if not hasattr(client, "trunk"):
            raise NotImplementedError(
                f"this needs a session with the server, and {type(self).__name__} speaks c10d with it: "
                "has_sessions() tells"
            )
        session: SessionClient = client
        return session

    def _patience(self, timeout: Timeout | None) -> Patience:
        return self if timeout is None else as_timeout_s(timeout)

    def pipeline(self) -> Pipeline:
        """Collect requests that are sent together; see :meth:`Store.pipeline`. Cost: about one round trip."""
        return self._session.pipeline(self)

    def post_set(self, key: Text, value: Text, /) -> None:
        """Store a value without waiting for an answer; see :meth:`Store.post_set`. Cost: one message."""
        if self.has_sessions():
            self._session.post_set(key, value, self)
        else:
            self.set(key, value)

    def read(self, key: Text, /) -> Entry | None:
        """Give a key's value and revision as they are now, ``None`` if it is absent. Cost: one round trip."""
        return self._session.read(key, self)

    def swap(self, key: Text, revision: int, value: Text, *, lease: int = 0) -> tuple[bool, int]:
        """Write a value if the key has the expected revision; see :meth:`Store.swap`. Cost: one round trip."""
        return self._session.swap(key, revision, value, lease, self)

    def read_prefix(self, prefix: Text, /) -> list[Entry]:
        """Give all entries whose keys begin with a prefix. Cost: one round trip; grows with them."""
        return self._session.read_prefix(prefix, self)

    def list_prefix(self, prefix: Text, /) -> list[str]:
        """Give all keys that begin with a prefix. Cost: one round trip; grows with them."""
        return self._session.list_prefix(prefix, self)

    def delete_prefix(self, prefix: Text, /) -> int:
        """Remove all keys that begin with a prefix; give how many there were. Cost: one round trip for 4096."""
        return self._session.delete_prefix(prefix, self)

    def watch(self, key: Text, *, is_prefix: bool = False, since: int | None = None) -> Watch:
        """Begin to watch a key, or all that begin with it; see :meth:`Store.watch`. Cost: one round trip."""
        return self._session.watch(key, is_prefix, since, self)

    def lease_grant(self, ttl: Timeout | None, /) -> int:
        """Begin a lease; see :meth:`Store.lease_grant`. Cost: one round trip."""
        ttl_s = None if ttl is None else as_timeout_s(ttl, "ttl")
        if ttl_s == math.inf:
            raise ValueError("ttl must be finite; None is as long as the session")
        session = self._session
        lease = session.lease_grant(ttl_s, self)
        if ttl is None:
            attend(session)
        return lease

    def lease_renew(self, lease: int, /) -> float:
        """Let a lease live on; give the seconds until it ends. Cost: one round trip."""
        return self._session.lease_renew(lease, self)

    def lease_revoke(self, lease: int, /) -> int:
        """End a lease and remove its keys; give how many there were. Cost: one round trip."""
        return self._session.lease_revoke(lease, self)

    def meet(self, name: Text, rank: int, world_size: int, *, label: str = "", timeout: Timeout | None = None) -> int:
        """Wait until all members have come; see :meth:`Store.meet`. Cost: one round trip and the time of the last."""
        return self._session.meet(name, rank, world_size, label, self._patience(timeout))

    def exchange(
        self, name: Text, rank: int, world_size: int, value: Text, *, label: str = "", timeout: Timeout | None = None
    ) -> list[bytes]:
        """Give one value, and get every member's; see :meth:`Store.exchange`. Cost: as ``meet``."""
        return self._session.exchange(name, rank, world_size, value, label, self._patience(timeout))

    def status(self, what: str = "", /) -> dict[str, Any]:
        """Give what the server says of itself; see :meth:`Store.status`. Cost: one round trip."""
        return self._session.status(what, self)
