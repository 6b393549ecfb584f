"""How a session's client reaches its server: which addresses, which dialect, the handshake, the short way.

- Several endpoints may be given, of one server or of several that take its place; they are tried in turn, the one that
  answered last first.
- A peer that closes the connection on our opening without a word, or is silent while it answers another connection's in
  c10d, speaks c10d only: torch's server, or an older one of ours. Whoever holds a token does not fall back to that.
- On the server's own machine the client leaves TCP (``store.route``). It says HELLO under both
  names: if that is the same life of the same server, its session is the one under the local name.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Sequence

from rallypoint.clock import Deadline
from rallypoint.errors import AuthenticationError, ConnectionLostError, DistError, DistNetworkError
from rallypoint.net.address import format_endpoint, parse_endpoint
from rallypoint.net.connect import connect as connect_once
from rallypoint.net.loss import lost
from rallypoint.net.resolve import resolve
from rallypoint.net.retry import ATTEMPT_S_MAX, connect_with_retries
from rallypoint.net.stream import Stream
from rallypoint.net.unix import has_local_names
from rallypoint.protocol.session.auth import Hello, Welcome
from rallypoint.protocol.session.codec import encode_request
from rallypoint.protocol.session.handshake import handshake
from rallypoint.protocol.session.spec import LABEL_SIZE_MAX, NONCE_SIZE, SESSION_TIMEOUT_MS_MAX, SessionVerb
from rallypoint.store.base import as_timeout_s
from rallypoint.store.connection import shake_hands
from rallypoint.store.credentials import NO_CREDENTIALS, Credentials, has_token
from rallypoint.store.route import PROOF_S_MAX, call_locally
from rallypoint.store.uplink import Link, nobody_listens
from rallypoint.types import Endpoint, Timeout

__all__ = [
    "DEFAULT_DIALECT",
    "DIALECTS",
    "SESSION_TIMEOUT_S",
    "Reacher",
    "first_endpoint",
    "other_endpoints",
    "session_time_s",
    "wanted_dialect",
]

DIALECTS = ("auto", "session", "c10d")

DEFAULT_DIALECT = "auto"
"""What a store speaks unless told otherwise."""

SILENCE_S = 0.1
"""How long a server may be silent, in seconds, before it is asked whether it speaks c10d only, and after it said so."""

SILENCE_SHARE = 0.25
"""... and at most this part of the time that is left: a store in a hurry finds torch's server, too."""

TOKEN_SILENCE_S = 1.0
"""The same for who has a token, and can do nothing but fail if it does: a server that wants one logs the question."""

SESSION_TIMEOUT_S = 10.0
"""How long a session asks to outlive its connection, in seconds, unless told otherwise."""

SESSION_TIMEOUT_S_MAX = SESSION_TIMEOUT_MS_MAX / 1000
"""How long it can ask to, in seconds; servers may grant less."""

ENDPOINT_S_MAX = 3.0
"""How long one of several endpoints may keep the next one waiting, in seconds."""


def wanted_dialect(asked: str | None, *, use_libuv: bool) -> str:
    """Give the dialect that a store speaks: as asked, else as ``RALLYPOINT_DIALECT`` says, else the default.

    A store that is to be as careful as torch's legacy backend needs it (``use_libuv`` false) speaks c10d. Whoever has a
    token speaks it only if told so by name: c10d cannot prove anything.

    Raises:
        ValueError: for anything but ``auto``, ``session`` and ``c10d``.
    """
    named = asked if asked is not None else os.environ.get("RALLYPOINT_DIALECT")
    if not named and has_token():
        return "session"
    wanted = named or DEFAULT_DIALECT
    if wanted not in DIALECTS:
        source = "dialect" if asked is not None else "RALLYPOINT_DIALECT"
        raise ValueError(f"{source} must be 'auto', 'session' or 'c10d', not {wanted!r}")
    return wanted if use_libuv else "c10d"


def session_time_s(asked: Timeout | None) -> float:
    """Give how long a session is to outlive its connection, in seconds: as asked, else the default.

    Raises:
        TypeError: it is no time.
        ValueError: it is negative, not a number, or longer than the wire can say.
    """
    if asked is None:
        return SESSION_TIMEOUT_S
    seconds = as_timeout_s(asked, "session_timeout")
    if seconds > SESSION_TIMEOUT_S_MAX:
        raise ValueError(f"session_timeout must be {SESSION_TIMEOUT_S_MAX:g} seconds at most, not {seconds:g}")
    return seconds


def first_endpoint(host_name: str, port: int) -> Endpoint:
    """Give the first place of a host name that may name several, with commas between them."""
    if "," not in host_name:
        return Endpoint(host_name, port)
    return _endpoints(host_name, port)[0]


def other_endpoints(host_name: str, port: int) -> tuple[Endpoint, ...]:
    """Give the places that follow the first.

    Raises:
        ValueError: one of them is no place.
    """
    return _endpoints(host_name, port)[1:] if "," in host_name else ()


def _endpoints(host_name: str, port: int) -> tuple[Endpoint, ...]:
    return tuple(parse_endpoint(part.strip(), port) for part in host_name.split(","))


class Reacher:
    """Makes a session's connections.

    Args:
        endpoints: of the server, as everybody calls it; the first is how errors name it.
        via: where this process reaches the first, if that is a shorter way. The name must mean something all the same.
        credentials: what both sides prove.
        spin_us: how long to look for a reply before sleeping, in microseconds.
        session_timeout_s: how long the session asks to outlive its connection, in seconds.

    Threads: one at a time.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        via: Endpoint | None = None,
        credentials: Credentials = NO_CREDENTIALS,
        spin_us: int = 0,
        session_timeout_s: float = SESSION_TIMEOUT_S,
    ) -> None:
        self._endpoints = list(endpoints)
        self._via = via
        self._credentials = credentials
        self._spin_us = spin_us
        self._session_timeout_ms = round(session_timeout_s * 1000)
        self._label = f"{socket.gethostname()} pid {os.getpid()}".encode()[:LABEL_SIZE_MAX]

    def open(self, timeout_s: float, *, may_be_plain: bool) -> Link | None:
        """Connect to a server, which may come later.

        Args:
            timeout_s: seconds for everything together; 0 looks once.
            may_be_plain: a server that speaks c10d only will do.

        Returns:
            The connection; ``None`` if the server speaks c10d only.

        Raises:
            ConnectTimeoutError: if nobody answered as a store does.
            AuthenticationError: one side cannot prove itself to the other.
        """
        made: list[Link] = []
        endpoint = self._endpoints[0]

        def attempt(_: Endpoint, deadline: Deadline) -> Stream:
            link = self._attempt(b"", deadline, may_be_plain=may_be_plain and self._credentials.token is None)
            if isinstance(link, Stream):
                return link
            made.append(link)
            return link.stream

        try:
            stream = connect_with_retries(endpoint, timeout_s, lambda *_: None, attempt=attempt)
        except AuthenticationError as error:
            error.endpoint = error.endpoint or endpoint
            raise
        if made:
            return made[-1]
        stream.close()
        return None

    def __call__(self, session: bytes, deadline: Deadline) -> Link:
        """Connect once.

        Args:
            session: the id of the session to go on with, empty for a new one.
            deadline: for everything together.

        Raises:
            DistNetworkError: why it did not work.
        """
        link = self._attempt(session, deadline, may_be_plain=False)
        assert isinstance(link, Link)
        return link

    def _attempt(self, session: bytes, deadline: Deadline, *, may_be_plain: bool) -> Link | Stream:
        """Try each endpoint once; a bare stream leads to a server that speaks c10d only."""
        count = len(self._endpoints)
        each_s = ATTEMPT_S_MAX if count == 1 else ENDPOINT_S_MAX
        trouble: DistNetworkError | None = None
        while True:
            count -= 1
            endpoint = self._endpoints[0]
            this = Deadline(min(each_s, deadline.remaining_s()))
            try:
                return self._call(endpoint, session, this, may_be_plain=may_be_plain)
            except AuthenticationError:
                raise
            except DistNetworkError as error:
                if trouble is None or nobody_listens(trouble):  # one that may be there is not to be taken for gone
                    trouble = error
                if len(self._endpoints) > 1:
                    self._endpoints.append(self._endpoints.pop(0))
                if count == 0:
                    raise trouble from trouble.__cause__

    def _call(self, endpoint: Endpoint, session: bytes, deadline: Deadline, *, may_be_plain: bool) -> Link | Stream:
        stream = self._connect(endpoint, deadline)
        try:
            link = self._greet(
                stream,
                session,
                deadline,
                endpoint if may_be_plain or (self._credentials.token and not session) else None,
            )
        except ConnectionLostError:
            stream.close()
            if session or not (may_be_plain or self._credentials.token):
                raise  # a server whose session this is speaks our dialect: the connection broke
            stream = self._connect(endpoint, deadline)
            try:
                shake_hands(stream, deadline)
                self._refuse_plain(endpoint)
            except BaseException:
                stream.close()
                raise
            return stream
        except BaseException:
            stream.close()
            raise
        link.stream.spin_us = self._spin_us
        return link

    def _look_whether_deaf(self, stream: Stream, endpoint: Endpoint, deadline: Deadline) -> None:
        """Find out whether a server does not understand our HELLO: it answers c10d that comes later, but not us.

        Torch's server (libuv) takes another opening than its own without a word, and would for ever.

        Raises:
            ConnectionLostError: so it is.
        """
        silence_s = SILENCE_S if self._credentials.token is None else TOKEN_SILENCE_S
        if _hears(stream, min(silence_s, deadline.remaining_s() * SILENCE_SHARE)):
            return
        other = self._connect(endpoint, deadline)
        try:
            shake_hands(other, deadline)
        finally:
            other.close()
        if not _hears(stream, min(SILENCE_S, deadline.remaining_s() * SILENCE_SHARE)):
            raise lost(endpoint)

    def _refuse_plain(self, endpoint: Endpoint) -> None:
        """Refuse a server that speaks c10d only, if there is a token that it cannot prove."""
        if self._credentials.token is not None:
            raise AuthenticationError(
                f"the server at {format_endpoint(endpoint)} speaks c10d only, and cannot prove that it has the token: "
                "it is torch's, or none of this job; unset RALLYPOINT_TOKEN and RALLYPOINT_TOKEN_FILE to use it",
                endpoint=endpoint,
            )

    def _greet(self, direct: Stream, session: bytes, deadline: Deadline, deaf: Endpoint | None) -> Link:
        """Shake hands, here or by the short way; ``deaf`` is who may not understand us."""
        sock = self._find_short_cut(direct)
        if sock is None:
            return Link(direct, self._open(direct, session, deadline, deaf=deaf))
        # The session itself is asked for where it is to be; here we only learn which server this is.
        other = Stream(sock, direct.endpoint, ends=(direct.local, direct.peer))
        try:
            welcome = self._open(direct, b"", deadline, deaf=deaf)
            nearby = self._open_nearby(other, session)
            if nearby is not None and nearby.life == welcome.life:
                with contextlib.suppress(DistNetworkError):
                    direct.send_at_once(encode_request(SessionVerb.BYE, 1, 0))
                direct.close()
                return Link(other, nearby)
            other.close()
            if session:
                welcome = self._open(direct, session, deadline, is_first=False)
            return Link(direct, welcome)
        except BaseException:
            other.close()
            raise

    def _find_short_cut(self, direct: Stream) -> socket.socket | None:
        """Call the server's local name, if this machine is its own; not past TLS, which says who we are, too."""
        local, peer = direct.local, direct.peer
        if self._credentials.tls is not None or not has_local_names() or local.host != peer.host or peer.port == 0:
            return None
        return call_locally(peer.port)

    def _open_nearby(self, other: Stream, session: bytes) -> Welcome | None:
        try:
            return self._open(other, session, Deadline(PROOF_S_MAX))
        except DistError:
            return None

    def _connect(self, endpoint: Endpoint, deadline: Deadline) -> Stream:
        if self._via is None:
            stream = connect_once(endpoint, deadline)
        else:
            resolve(endpoint.host, endpoint.port, deadline)  # the others have nothing but the name
            stream = connect_once(self._via, deadline)
        if self._credentials.tls is None:
            return stream
        from rallypoint.net.tlsstream import secure  # loads the system's TLS

        return secure(stream, self._credentials.tls, deadline, endpoint.host)

    def _open(
        self,
        stream: Stream,
        session: bytes,
        deadline: Deadline,
        *,
        is_first: bool = True,
        deaf: Endpoint | None = None,
    ) -> Welcome:
        identity, token, _ = self._credentials
        hello = Hello(session, identity, self._label, os.urandom(NONCE_SIZE), self._session_timeout_ms)
        course = handshake(hello, token, is_first=is_first)
        step = next(course)
        try:
            while True:
                if isinstance(step, bytes):
                    stream.send(step, deadline)
                    if deaf is not None:
                        self._look_whether_deaf(stream, deaf, deadline)
                        deaf = None
                    step = course.send(b"")
                else:
                    step = course.send(stream.receive_exactly(step, deadline))
        except StopIteration as end:
            welcome: Welcome = end.value
            return welcome


def _hears(stream: Stream, timeout_s: float) -> bool:
    """Tell whether something comes on a connection, its end included, within so many seconds."""
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))
