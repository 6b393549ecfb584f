"""The store on a server: in sessions with ours, in TCPStore's own wire with torch's.

Each method is one call of the *client* behind it, the Python or the compiled one (``store.calls``, ``store.native``);
a host has its server from ``store.hosting``. This file adds torch's surface: names, arguments, beginning and end.

Unlike torch's: every read has a deadline; a thread that waits holds up nobody; a timeout names the missing keys; a
timeout of 0 succeeds on what is there; Ctrl-C ends a wait at once; a pop that loses a race waits on; a fork is told.

Source: methods, arguments and error texts as observed in torch 2.13.0.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, cast

from rallypoint.clock import Deadline
from rallypoint.errors import BindError, WorkersMissingError
from rallypoint.store.base import DEFAULT_TIMEOUT, as_timeout_s
from rallypoint.store.credentials import NO_CREDENTIALS, credentials_to_use, security_of_environment
from rallypoint.store.hosting import HostedServer, check_arguments, host_server, is_agent_store, server_mode
from rallypoint.store.native import Client, make_client
from rallypoint.store.plain import is_plain_store
from rallypoint.store.reach import first_endpoint, other_endpoints, session_time_s, wanted_dialect
from rallypoint.store.route import spin_time_us
from rallypoint.store.tcp_sessions import TCPSessionCalls
from rallypoint.types import Endpoint, Keys, Text, Timeout

if TYPE_CHECKING:
    from rallypoint.net.tls import Tls

__all__ = ["TCPStore"]

POLL_FIRST_S = 0.001
POLL_MAX_S = 0.02
"""Pauses between looks at the worker count, doubling: torch's wire cannot wait for a number."""


class _NotMade:
    """What a store has for a client whose class forgot to call our constructor."""

    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError("this store was not constructed: call super().__init__() first")


class TCPStore(TCPSessionCalls):
    """A store on a server that clients reach over TCP; one of them may run the server.

    Args:
        host_name: the server's name or address. On the host of the server it only says what to bind: a literal
            loopback name or address binds loopback, any other every interface. A client may name several places where
            the server is to be found, with commas between them: ``"node0,node1:29501"``.
        port: the server's port. 0 lets the kernel choose one for a server; ``port`` tells which.
        world_size: how many clients take part, this one included, if that is known: they count themselves, and the
            one with the server waits for all. ``None`` or negative counts and waits for nobody.
        is_master: run the server.
        timeout: seconds or a ``timedelta``, for the constructor as a whole and then for each wait; 0 looks once,
            ``math.inf`` waits for ever.
        wait_for_workers: take part in the count at all.
        multi_tenant: share one server among this process's stores on the same port; it lives until the last is gone.
        master_listen_fd: a bound socket to serve on; taken over unless the constructor fails.
        use_libuv: what ``libuvBackend`` tells; false refuses queues, as torch's legacy backend does, and asks
            the server carefully enough for that backend.
        server: where an own server runs, ``"process"`` or ``"thread"``; ``None`` is what ``RALLYPOINT_SERVER`` says,
            else a thread with the native twin, a process without it.
        spin_us: look for a reply for so many microseconds, 1000 at most, before sleeping: quick between processors
            that have nothing else to do. ``None`` is what ``RALLYPOINT_SPIN_US`` says, else 0.
        dialect: what is spoken with the server. ``"session"``: every call is acknowledged, a lost connection is made
            again within the caller's timeout, and ``has_sessions``; our servers only. ``"c10d"``: torch's wire.
            ``"auto"``: the first, or the second if the server does not know it. ``None`` is what
            ``RALLYPOINT_DIALECT`` says, else our choice.
        tls: the files of TLS, for the client and an own server; true for TLS with the authorities that the system
            trusts, false for none. ``None`` is what ``RALLYPOINT_TLS_CA``, ``_CERT``, ``_KEY`` and ``_NAME`` say.
        session_timeout: how long the server keeps our session when its connection is lost, seconds or a ``timedelta``,
            a day at most, and not longer than the server grants (``session_timeout_s_max``). So long after we were
            killed, what lives with the session ends: leases without a time of their own and their keys, our place in a
            barrier. If it ended while we were cut off, we go on with a new one, and a call of which it is not known
            whether it was applied says so. ``None`` is 10 seconds, which is also the least that a server gives after it
            was started again on its data. c10d has no sessions.

    A token, which both sides then prove that they have, comes from ``RALLYPOINT_TOKEN`` or ``RALLYPOINT_TOKEN_FILE``.

    Raises:
        ValueError: a world size of 0, a port outside 0..65535, a negative timeout, an unknown dialect, more than a day
            for ``session_timeout``.
        DistNetworkError: port 0 for a client.
        BindError: the port is in use.
        ConnectTimeoutError: nobody answered as a store does before the timeout.
        AuthenticationError: the server cannot prove who it is, or does not take us for who we are; at once.
        WorkersMissingError: too few clients joined before it.

    Threads: any number may use one store; one that waits holds up nobody.
    """

    _server: HostedServer | None = None
    _client: Client = cast("Client", _NotMade())

    def __init__(  # noqa: PLR0917 - torch's signature
        self,
        host_name: str,
        port: int,
        world_size: int | None = None,
        is_master: bool = False,
        timeout: Timeout = DEFAULT_TIMEOUT,
        wait_for_workers: bool = True,
        multi_tenant: bool = False,
        master_listen_fd: int | None = None,
        use_libuv: bool = True,
        *,
        server: str | None = None,
        spin_us: int | None = None,
        dialect: str | None = None,
        tls: Tls | bool | None = None,
        session_timeout: Timeout | None = None,
    ) -> None:
        check_arguments(host_name, port, world_size, is_master)
        self._own_timeout_s = as_timeout_s(timeout)
        self._host = host_name
        self._port = port
        self._use_libuv = bool(use_libuv)
        self._spin_us = spin_time_us(spin_us)
        self._session_timeout_s = session_time_s(session_timeout)
        self._tls = tls
        if dialect is None and tls is None and is_plain_store(host_name, port):
            self._credentials, self._dialect = NO_CREDENTIALS, "c10d"
        else:
            self._credentials = credentials_to_use(tls)
            self._dialect = wanted_dialect(dialect, use_libuv=self._use_libuv)
        self._others = () if is_master else other_endpoints(host_name, port)
        deadline = Deadline(self._own_timeout_s)
        try:
            if is_master:
                self._start_server(master_listen_fd, bool(multi_tenant), server)
            # An error names the time that was given, unless a server's start has taken of it.
            self._connect(deadline.remaining_s() if is_master else self._own_timeout_s)
            if wait_for_workers and world_size is not None and world_size > 0:
                self._join(world_size, deadline)
        except BaseException:
            self.close()
            raise

    # --- beginning and end -------------------------------------------------------------------------------

    def _start_server(self, listen_fd: int | None, multi_tenant: bool, server: str | None) -> None:
        security = security_of_environment(self._tls)
        mode = server_mode(server, needs_python=security is not None and security.job_token is None)
        try:
            hosted = host_server(
                self._host,
                self._port,
                listen_fd=listen_fd,
                multi_tenant=multi_tenant,
                mode=mode,
                security=security,
            )
        except BindError as error:
            if not is_agent_store(self._port, error):
                raise
        else:
            self._server, self._port = hosted, hosted.port
            # It is reached by another address than its certificate is for.
            self._credentials = self._credentials.named(self._host)

    def _connect(self, timeout_s: float) -> None:
        # Our own server is reached directly: the name that others use may lead around a corner.
        via = None if self._server is None else self._server.reachable_at
        public = first_endpoint(self._host, self._port)
        self._endpoint = via or public
        self._client = self._make_client(public, timeout_s, via)
        self._dialect = "session" if self.has_sessions() else "c10d"  # clones need not ask again

    def _make_client(self, public: Endpoint, timeout_s: float, via: Endpoint | None = None) -> Client:
        return make_client(
            public,
            timeout_s,
            via=via,
            is_careful=not self._use_libuv,
            spin_us=self._spin_us,
            dialect=self._dialect,
            others=self._others,
            credentials=self._credentials,
            session_timeout_s=self._session_timeout_s,
        )

    def _join(self, world_size: int, deadline: Deadline) -> None:
        arrived = self._client.count_workers(1, self)
        pause_s = POLL_FIRST_S
        while self._server is not None and arrived < world_size:
            if deadline.has_passed():
                raise WorkersMissingError(
                    f"Timed out after {deadline.timeout_s:g} seconds waiting for clients. "
                    f"{arrived}/{world_size} clients joined.",
                    arrived=arrived,
                    expected=world_size,
                    waited_s=deadline.waited_s(),
                    endpoint=Endpoint(self._host, self._port),
                )
            time.sleep(min(pause_s, deadline.remaining_s()))
            pause_s = min(POLL_MAX_S, 2 * pause_s)
            arrived = self._client.count_workers(0, self)

    def close(self) -> None:
        """Close the connections, and end the server unless other stores share it. Closing twice is fine."""
        client, server, self._server = self.__dict__.get("_client"), self._server, None
        if client is not None:
            client.close(f"the store on {self._endpoint} is closed")
        if server is not None:
            server.release()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        try:
            self.close()
        except Exception:  # what it needs may be gone already when the interpreter ends, and the system closes the rest
            if not is_finalizing():
                raise

    def clone(self) -> TCPStore:
        """Give another client of the same server, with connections and a timeout of its own.

        It does not keep the server alive. It may be made in a forked child, of a store that the child inherited.
        """
        client = self._make_client(self._endpoint, self._timeout_s)
        twin = object.__new__(type(self))
        twin.__dict__.update(
            self.__dict__,
            _server=None,
            _client=client,
            _own_timeout_s=self._timeout_s,
        )
        return twin

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            "a TCPStore cannot be pickled or copied, it holds connections of this process: make a new TCPStore with "
            f"host {self._host!r} and port {self._port} where it is needed, or use clone() in this process"
        )

    # --- keys and values ---------------------------------------------------------------------------------

    def set(self, key: Text, value: Text, /) -> None:
        """Store ``value`` under ``key``. Cost: one round trip; in c10d one message, not waited for."""
        self._client.set(key, value, self)

    def get(self, key: Text, /) -> bytes:
        """Give the value of ``key``, waiting for it until the timeout.

        Raises:
            StoreTimeoutError: if the key did not appear in time.

        Cost: one round trip if the key is there.
        """
        return self._client.get(key, self)

    def add(self, key: Text, amount: int, /) -> int:
        """Add a signed 64-bit number to a counter, and give its new value. Cost: one round trip."""
        return self._client.add(key, amount, self)

    def compare_set(self, key: Text, expected: Text, desired: Text, /) -> bytes:
        """Replace the value if it is the expected one; see :meth:`Store.compare_set`. Cost: one round trip."""
        return self._client.compare_set(key, expected, desired, self)

    def check(self, keys: Keys, /) -> bool:
        """Tell whether all keys are there; a queue that is not empty counts as there. Cost: one round trip."""
        return self._client.check(keys, self)

    def wait(self, keys: Keys, timeout: Timeout | None = None, /) -> None:
        """Wait until all keys are there; see :meth:`Store.wait`. Cost: one round trip if they are."""
        self._client.wait(keys, self if timeout is None else as_timeout_s(timeout))

    def delete_key(self, key: Text, /) -> bool:
        """Remove a key; tell whether there was one. Cost: one round trip."""
        return self._client.delete_key(key, self)

    def num_keys(self) -> int:
        """Count the server's keys, the count of workers included. Cost: one round trip."""
        return self._client.num_keys(self)

    def list_keys(self) -> list[str]:
        """Give the names of all keys, in no particular order.

        Raises:
            UnicodeDecodeError: if one is not UTF-8.

        Cost: one round trip; grows with the store.
        """
        return [wire[1:].decode() for wire in self._client.list_keys(self) if wire.startswith(b"/")]

    def append(self, key: Text, value: Text, /) -> None:
        """Add to the end of a value; a missing key is created. Cost: as ``set``."""
        self._client.append(key, value, self)

    def multi_get(self, keys: Keys, /) -> list[bytes]:
        """Give the values of several keys in order, waiting for all. Cost: one round trip if they are there."""
        return self._client.multi_get(keys, self)

    def multi_set(self, keys: Keys, values: Keys, /) -> None:
        """Store several values at once, which our server does as one step. Cost: as ``set``.

        Raises:
            DistStoreError: if there are not as many values as keys.
        """
        self._client.multi_set(keys, values, self)

    def has_extended_api(self) -> bool:
        """Tell that ``append``, ``multi_get`` and ``multi_set`` are one request each: true."""
        return True

    # --- queues and barriers -----------------------------------------------------------------------------

    def queue_push(self, key: Text, value: Text, /) -> None:
        """Put an item at the end of a queue. Cost: as ``set``."""
        self._need_queues()
        self._client.queue_push(key, value, self)

    def queue_pop(self, key: Text, block: bool = True) -> bytes:
        """Take the oldest item of a queue; if another caller takes it first, go on waiting.

        Raises:
            QueueEmptyError: if there is none and ``block`` is false.
            StoreTimeoutError: if there was none for us before the timeout.

        Cost: one round trip if there is an item.
        """
        self._need_queues()
        return self._client.queue_pop(key, block, self)

    def queue_len(self, key: Text, /) -> int:
        """Give the number of items in a queue. Cost: one round trip."""
        self._need_queues()
        return self._client.queue_len(key, self)

    def barrier(self, key: Text, world_size: int, timeout: Timeout | None = None) -> None:
        """Wait until ``world_size`` callers have come to the barrier ``key``; a name serves once.

        Torch's verb, with its rules: who comes later passes at once, who gave up stays counted. ``key`` then holds
        the count, as a counter does. :func:`rallypoint.primitives.barrier.barrier` can be used again and again.

        Args:
            key: the barrier's name, also the name of its counter.
            world_size: how many callers are expected.
            timeout: seconds or a ``timedelta``; ``None`` is the store's own.

        Raises:
            BarrierTimeoutError: if too few came in time.

        Cost: one round trip and the time of the last; one more if this object has just written something.
        """
        self._client.barrier(key, world_size, self if timeout is None else as_timeout_s(timeout))

    def _need_queues(self) -> None:
        if not self._use_libuv:
            raise NotImplementedError("queues not implemented on legacy TCPStore backend")

    # --- what it is --------------------------------------------------------------------------------------

    @property
    def host(self) -> str:
        """The host name, as it was given."""
        return self._host

    @property
    def port(self) -> int:
        """The server's port; the real one where 0 was given."""
        return self._port

    @property
    def libuvBackend(self) -> bool:  # noqa: N802 - torch's name
        """The ``use_libuv`` that was given."""
        return self._use_libuv

    def __repr__(self) -> str:
        client = self.__dict__.get("_client")
        ends = None if client is None else client.ends()
        client_text = "<nullptr>"
        if ends is not None:
            client_text = "TCPClient(SocketImpl(fd={}, addr={}, remote={}))".format(*ends)
        server = "<nullptr>" if self._server is None else f"TCPServer(port={self._server.port})"
        return f"{type(self).__name__}(client={client_text}, server={server})"
