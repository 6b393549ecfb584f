"""A relay or a gateway inside a process: for one round, or as long as one likes.

::

    with LocalGateway("tcp://head:29500", key_space="rounds/7/") as gateway:
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(gateway.port)}
        ...  # workers that speak to it see the keys of their round only
    delete_key_space(store, "rounds/7/")
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType

from rallypoint.errors import AuthenticationError
from rallypoint.gateway.front import FrontOptions
from rallypoint.gateway.gateway import Gateway
from rallypoint.gateway.opening import open_store
from rallypoint.gateway.relay import AnyRelay, make_relay
from rallypoint.gateway.spaces import KeySpace
from rallypoint.gateway.upstream import Reach
from rallypoint.gateway.vocabulary import DEFAULT_RELAY_LIMITS, RelayLimits
from rallypoint.net.address import UNIX_PREFIX, listen_exactly, local_endpoint, parse_endpoint
from rallypoint.net.url import refuse_user, split_url
from rallypoint.server.limits import DEFAULT_LIMITS, DRAIN_S, Limits
from rallypoint.server.refusals import log_line
from rallypoint.store.base import Store
from rallypoint.store.credentials import credentials_to_use
from rallypoint.store.reach import Reacher
from rallypoint.types import Endpoint

__all__ = ["LocalGateway", "delete_key_space"]

_END_S_MAX = 5.0


class LocalGateway:
    """A server of the c10d dialect for this machine's workers, in a thread of this process.

    Args:
        upstream: where the keys are: a store, which stays open at the end; a URL; or what connects to a server. For
            ``tcp://host:port`` and ``tls://host:port`` it is a relay with a session of its own to a server of ours, for
            any other URL, and for a store, a gateway, which makes the store's calls in a few threads.
        key_space: what stands in front of each of the workers' keys; empty for the keys as they are.
        bind: a loopback address, or ``unix:PATH`` for a socket file of this user's.
        port: the TCP port; 0 lets the system choose.
        limits: what workers are granted.
        relay_limits: what it grants itself; ``patience_s`` is for how long workers wait for a store that is gone.
        log: takes one line, without its end, for each worker that is closed, and when the store comes or goes.

    Attributes:
        endpoint: where it listens.
        port: its TCP port, 0 on a socket file.

    Raises:
        BindError: it cannot listen there.
        ValueError: the key space's name or the URL is none.

    Threads: any; a forked child has to leave it alone. Not for torch's clients of this very process: some of their
        calls keep the interpreter for as long as they last.
    """

    def __init__(
        self,
        upstream: Store | str | Reach,
        key_space: str = "",
        *,
        bind: str = "127.0.0.1",
        port: int = 0,
        limits: Limits = DEFAULT_LIMITS,
        relay_limits: RelayLimits = DEFAULT_RELAY_LIMITS,
        log: Callable[[str], None] = log_line,
    ) -> None:
        space = KeySpace(key_space) if key_space else None
        options = FrontOptions(limits, relay_limits, space, log=log)
        make = _maker(upstream, relay_limits)
        listeners = listen_exactly([bind], port)
        self.endpoint: Endpoint = local_endpoint(listeners[0])
        self.port = 0 if self.endpoint.host.startswith(UNIX_PREFIX) else self.endpoint.port
        self.failure: AuthenticationError | None = None
        try:
            self._front = make(listeners, options)
        except BaseException:
            for listener in listeners:
                listener.close()
            raise
        self._thread = threading.Thread(target=self._run, name="rallypoint-gateway", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._front.run()
        except AuthenticationError as error:
            self.failure = error

    def is_serving(self) -> bool:
        """Tell whether it serves: not after ``close``, nor after the server has refused who we are (``failure``)."""
        return self._thread.is_alive()

    def close(self, drain_s: float = DRAIN_S) -> None:
        """End it; closing twice is fine. Keys stay: see :func:`delete_key_space`.

        Args:
            drain_s: how long what workers have sent, and are owed, may take to be done, in seconds.
        """
        self._front.stop(drain_s)
        if threading.current_thread() is not self._thread:
            self._thread.join(drain_s + _END_S_MAX)

    def __enter__(self) -> LocalGateway:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def delete_key_space(store: Store, key_space: str) -> int:
    """Remove all keys of a key space; give how many there were. Items that lie in its queues stay.

    Args:
        store: the store, as it is outside of the key space.
        key_space: its name, not empty.

    Raises:
        ValueError: the name is none.
        NotImplementedError: the store cannot list its keys.

    Cost: one round trip where the store has sessions, else one for each key.
    """
    if not key_space:
        raise ValueError("the name of a key space is empty: this would delete every key of the store")
    prefix = KeySpace(key_space).name
    try:
        return store.delete_prefix(prefix)
    except NotImplementedError:
        return sum(store.delete_key(key) for key in store.list_keys() if key.startswith(prefix))


def _maker(upstream: Store | str | Reach, relay_limits: RelayLimits) -> Callable[..., AnyRelay | Gateway]:
    """Give what makes a front for listeners."""
    if isinstance(upstream, Store):
        return partial(Gateway, upstream)
    if not isinstance(upstream, str):
        return partial(make_relay, upstream)
    parts = split_url(upstream)
    if parts.scheme in {"tcp", "tls"}:
        refuse_user(upstream)
        endpoints = [parse_endpoint(place) for place in parts.netloc.split(",")]
        credentials = credentials_to_use(True if parts.scheme == "tls" else None)
        reach = Reacher(endpoints, credentials=credentials, session_timeout_s=relay_limits.patience_s)
        return partial(make_relay, reach, is_secured=credentials.tls is not None)
    return partial(Gateway, open_store(upstream, relay_limits.patience_s), close_store=True)
