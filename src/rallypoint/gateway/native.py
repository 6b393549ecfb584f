"""The compiled relay behind the interface of the Python one: a thread that never needs the interpreter lock.

Theory of operation. ``_native.Relay`` is translator, loop and session in one, on a thread of its own.
``NativeRelay.run`` starts it and becomes its *ear*, as ``server.native`` is a server's. Only connecting stays here, in
a thread as ``upstream`` has it: whenever the relay wants a connection, one is made, past its handshake, and handed
over::

    reactor: lost --- notice ---> ear --- session id ---> [connector: reach, pause, reach] --- adopt ---> reactor

The stream stays ours, too, until the relay has told that the connection is lost: it has a copy of the descriptor.
"""

from __future__ import annotations

import os
import random
import select
import socket
import threading
from array import array
from collections.abc import Sequence
from dataclasses import fields, replace

from rallypoint.clock import Deadline
from rallypoint.errors import AuthenticationError, DistNetworkError, DistStoreError
from rallypoint.events import follow
from rallypoint.gateway.front import DEFAULT_OPTIONS, FrontOptions
from rallypoint.gateway.upstream import Reach
from rallypoint.gateway.vocabulary import RelayStatistics
from rallypoint.net.address import format_endpoint
from rallypoint.net.retry import ATTEMPT_S_MAX, DEFAULT_BACKOFF, Backoff
from rallypoint.net.stream import Stream
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.limits import DRAIN_S, LINGER_S, NUMBER_MAX
from rallypoint.server.notices import Notices
from rallypoint.store.uplink import Link
from rallypoint.twin import native

__all__ = ["NativeRelay"]

_LABEL = "rallypoint-relay"
_REASONS = tuple(CloseReason)


class NativeRelay:
    """One compiled relay; see ``Relay``, which does the same.

    Args:
        reach: connects to the server, without TLS.
        listeners: bound and listening sockets; the relay owns them from now on.
        options: how it serves; on the system's clock, a key space with a name.
        backoff: the pauses between attempts to reach the server.

    Raises:
        OSError: there are no descriptors left; the listeners are still the caller's.

    Threads: ``stop`` may be called from any thread and from a signal handler, ``statistics`` from any; everything else
    belongs to the thread in ``run``.
    """

    def __init__(
        self,
        reach: Reach,
        listeners: Sequence[socket.socket],
        options: FrontOptions = DEFAULT_OPTIONS,
        *,
        backoff: Backoff = DEFAULT_BACKOFF,
    ) -> None:
        module = native()
        if module is None:
            raise AssertionError("the compiled twin is not there")
        limits = replace(options.limits, output_total_max=NUMBER_MAX).compiled()  # a relay bounds each peer's only
        own = options.relay_limits
        bounds = [min(own.unanswered_max, NUMBER_MAX), own.unanswered_size_max, own.unanswered_total_max]
        prefix = b"" if options.space is None else options.space.prefix
        fds = array("i", [listener.fileno() for listener in listeners]).tobytes()
        self._relay = module.Relay(
            limits, (own.patience_s, *bounds), prefix, fds, LINGER_S, options.spin_us / 1e6, (os.urandom(32), b"")
        )
        self._notices = Notices(listeners, options.log)
        self._reach = reach
        self._backoff = backoff
        self._refusal: AuthenticationError | None = None
        self._has_ended = threading.Event()
        self._lock = threading.Lock()  # around what the connector does with the relay
        self._stream: Stream | None = None
        self._was_there = False

    # --- for the owner -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Relay until ``stop``; all sockets are closed at the end, however it comes.

        Raises:
            AuthenticationError: the server has refused who we are from the beginning.
        """
        poll = select.poll()
        poll.register(self._relay.fileno(), select.POLLIN)
        try:
            self._relay.start()
            follow(self._observe)
            self._connect_soon(b"")
            while not self._relay.has_ended():
                poll.poll()
                self._heed()
        finally:
            self._relay.stop(0.0)
            with self._lock:
                self._has_ended.set()
            self._relay.join()
            self._heed()
            self._drop_stream()
        if self._refusal is not None:
            raise self._refusal

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """End it; what local peers are owed already still goes out, for ``drain_s`` seconds at most."""
        self._relay.stop(drain_s)

    def statistics(self, timeout_s: float = 1.0) -> RelayStatistics:  # noqa: ARG002 - it does not wait for long
        """Give the numbers.

        Raises:
            DistStoreError: it has ended.
        """
        if self._relay.has_ended():
            raise DistStoreError("the server has ended")
        numbers = self._relay.statistics()
        first = len(numbers) - len(_REASONS)
        closed = {reason: count for reason, count in zip(_REASONS, numbers[first:], strict=True) if count}
        names = [field.name for field in fields(RelayStatistics) if field.name != "closed"]
        return RelayStatistics(closed=closed, **dict(zip(names, numbers[:first], strict=True)))

    # --- connecting --------------------------------------------------------------------------------------

    def _connect_soon(self, session_id: bytes) -> None:
        threading.Thread(target=self._connect, args=(session_id,), name=_LABEL, daemon=True).start()

    def _connect(self, session_id: bytes) -> None:
        """Connect, however long it takes: in the connector's thread."""
        attempts = 0
        while not self._has_ended.is_set():
            try:
                link = self._reach(session_id, Deadline(ATTEMPT_S_MAX))
            except (DistNetworkError, ValueError) as error:
                attempts += 1
                if isinstance(error, AuthenticationError) and not self._was_there:
                    self._refusal = error
                    self.stop(0.0)
                    return
                self._miss(str(error))
            else:
                try:
                    with self._lock:
                        self._hand_over(link)
                except OSError as error:  # no descriptor is left, or none can be watched
                    attempts += 1
                    link.stream.close()
                    self._miss(f"its connection cannot be served: {error}")
                else:
                    return
            self._has_ended.wait(self._backoff.pause_s(attempts, random.random()))  # noqa: S311 - it spreads

    def _miss(self, why: str) -> None:
        with self._lock:
            if not self._has_ended.is_set():
                self._relay.miss(why.encode(errors="replace"))

    def _hand_over(self, link: Link) -> None:
        stream, welcome = link.stream, link.welcome
        if self._has_ended.is_set():
            stream.close()
            return
        if type(stream) is not Stream:
            raise AssertionError("over TLS the Python relay serves")
        ahead = stream.take(0, is_patient=False) if stream.has_read_ahead else b""
        endpoint = format_endpoint(stream.endpoint).encode()
        fd = os.dup(stream.fileno())
        self._was_there = True
        self._stream = stream
        self._relay.adopt(fd, ahead, endpoint, welcome.session, welcome.data, welcome.is_resumed)

    def _drop_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    # --- the ear -----------------------------------------------------------------------------------------

    def _observe(self, is_observed: bool) -> None:
        self._relay.observe(is_observed)

    def _heed(self) -> None:
        """Tell what the relay has left to be told, and connect if it wants that."""
        left_out, lines, wanted_session = self._relay.take_notices()
        self._notices.tell(left_out, lines, is_listening=self._relay.is_listening())
        if wanted_session is not None:
            self._drop_stream()
            self._connect_soon(wanted_session)
