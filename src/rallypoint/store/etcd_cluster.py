"""An etcd cluster as one peer: connections to its members, fail-over among them, and who we are to them.

Rules:

- All calls go to one member as long as it answers. One that refuses connections, falls silent, has lost its leader or
  cannot do what it is asked is left for the next in the list; the round goes on until the caller's deadline.
- A request is sent again as it is, byte for byte. Whether an earlier copy of it may have been applied is told with the
  answer (``Answer.was_unsure``), and it is for the caller to have made it so that this can be found out
  (``store.etcd_writer``).
- A call has a connection for itself. Connections that are done wait for the next call, the last used first.

Members are left after ``ATTEMPT_S`` of silence where there are others, so one that hangs costs that long, and one that
is dead a refused connection.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from rallypoint.clock import Deadline
from rallypoint.errors import (
    AuthenticationError,
    ConnectionLostError,
    DistNetworkError,
    ForkedStoreError,
    UnreachableError,
)
from rallypoint.net.connect import connect
from rallypoint.store import etcd_wire as wire
from rallypoint.store.etcd_heads import head_of
from rallypoint.store.etcd_link import GrpcError, Link
from rallypoint.store.etcd_refusal import AUTH_IS_OFF, Verdict, as_refusal, is_about, verdict_of
from rallypoint.store.etcd_trouble import Troubles
from rallypoint.types import Endpoint

if TYPE_CHECKING:
    from rallypoint.net.tls import Tls

__all__ = ["ATTEMPT_S", "Answer", "Cluster", "Refused"]

ATTEMPT_S: Final = 1.0
ATTEMPT_MAX_S: Final = 8.0
"""How long one of several members may be silent before another is asked, in seconds: at first, and after many failures.
What is asked amid the election of a leader is lost, so that short attempts end soon after it."""

LONE_ATTEMPT_S: Final = 15.0
"""How long a cluster's only known address may be silent before it is asked anew, in seconds."""

CONNECT_S: Final = 1.0
"""How long one of several members may need to take a connection, in seconds."""

PAUSE_S: Final = 0.02
PAUSE_MAX_S: Final = 0.5
"""The first and the longest pause when all members have failed, in seconds."""

IDLE_MAX: Final = 16
"""Connections to one member that wait for the next call."""


class Answer(NamedTuple):
    """What a request was answered.

    Attributes:
        data: the message.
        was_unsure: it was sent more than once, and an earlier copy may have been applied.
    """

    data: bytes
    was_unsure: bool


class Refused(Exception):  # noqa: N818 - a word between two modules
    """A request was refused for good.

    Attributes:
        error: what etcd has said.
        endpoint: the member.
        was_unsure: an earlier copy of the request may have been applied.
    """

    def __init__(self, error: GrpcError, endpoint: Endpoint, was_unsure: bool, size: int) -> None:
        super().__init__(str(error))
        self.error = error
        self.endpoint = endpoint
        self.was_unsure = was_unsure
        self.size = size


class Cluster:
    """A cluster, for one store.

    Args:
        endpoints: of its members, one at least; those that are not named are not used.
        tls: our files; ``None`` for no TLS.
        user: whose token the members want; empty for none.
        password: the user's.

    Attributes:
        endpoints: as given.
        owner_pid: the process that may use it.

    Threads: any.
    """

    def __init__(self, endpoints: Sequence[Endpoint], tls: Tls | None, user: str, password: str) -> None:
        self.endpoints = tuple(endpoints)
        self.owner_pid = os.getpid()
        self._tls = tls
        self._user, self._password = user, password
        self._token = ""
        self._lock = threading.RLock()  # a signal's handler may call amid a step of its own thread; so with all others
        self._proving = threading.RLock()  # one thread at a time asks for a token
        self._at = 0  # which member is asked
        self._idle: dict[Endpoint, list[Link]] = {endpoint: [] for endpoint in self.endpoints}
        self._busy: set[Link] = set()
        self._closed_for = ""

    def __str__(self) -> str:
        return ",".join(map(str, self.endpoints))

    @property
    def endpoint(self) -> Endpoint:
        """The member that is asked at present."""
        return self.endpoints[self._at]

    @property
    def has_user(self) -> bool:
        """Tell whether the members want to know who calls."""
        return bool(self._user)

    def check_owner(self) -> None:
        """Refuse to go on in a forked child, or after ``close``."""
        pid = os.getpid()
        if pid != self.owner_pid:
            raise ForkedStoreError(
                f"this EtcdStore belongs to process {self.owner_pid}, process {pid} inherited it by a fork: make "
                "another one there",
                owner_pid=self.owner_pid,
            )
        if self._closed_for:
            raise ConnectionLostError(f"this EtcdStore {self._closed_for}", endpoint=self.endpoint)

    # --- calls -------------------------------------------------------------------------------------------

    def ask(self, method: str, message: bytes, deadline: Deadline) -> bytes:
        """Ask what may be asked twice, and give the answer.

        Raises:
            DistError: it was refused, by the table of ``etcd_refusal``.
            UnreachableError: no member answered in time.
        """
        try:
            return self.request(method, message, deadline).data
        except Refused as refused:
            raise as_refusal(refused.error, refused.endpoint, refused.size) from refused.error

    def ask_member(self, endpoint: Endpoint, method: str, message: bytes, deadline: Deadline) -> bytes:
        """Ask one member, once.

        Raises:
            DistError: it cannot be reached, or refuses.
        """
        self.check_owner()
        link, _ = self._take(endpoint, deadline)
        try:
            return self._call(link, method, message, deadline)
        except GrpcError as error:
            raise as_refusal(error, endpoint, len(message)) from error

    def request(self, method: str, message: bytes, deadline: Deadline) -> Answer:
        """Send a request until a member has answered it.

        Raises:
            Refused: it was refused for good.
            AuthenticationError: no member takes us for who we are.
            UnreachableError: no member answered in time.

        Cost: one round trip to the member, and what etcd needs.
        """
        was_unsure = False
        failures = rejected = 0
        troubles = Troubles()
        while True:
            self.check_owner()
            endpoint = self.endpoint
            trouble: Exception
            has_sent = False
            try:
                link, is_fresh = self._take(endpoint, deadline)
            except AuthenticationError as error:
                rejected += 1
                if rejected >= len(self.endpoints):
                    raise
                trouble, is_fresh = error, True
            except DistNetworkError as error:
                trouble, is_fresh = error, True
            else:
                has_sent = True
                try:
                    return Answer(
                        self._call(link, method, message, self._attempt(deadline, failures), needs_leader=True),
                        was_unsure,
                    )
                except GrpcError as error:
                    verdict = verdict_of(error)
                    if verdict is Verdict.FINAL:
                        raise Refused(error, endpoint, was_unsure, len(message)) from error
                    if verdict is Verdict.NEW_TOKEN and self._user and rejected <= len(self.endpoints):
                        rejected += 1
                        self._token = ""
                        continue  # it was refused before anything was done
                    if verdict is Verdict.NEW_TOKEN:
                        raise Refused(error, endpoint, was_unsure, len(message)) from error
                    trouble = error
                except DistNetworkError as error:
                    trouble = error
            was_unsure = was_unsure or has_sent
            failures += self._leave(endpoint, is_fresh)
            troubles.note(endpoint, trouble)
            self._check_time(deadline, troubles, trouble)
            if failures >= len(self.endpoints):
                turn = min(failures // len(self.endpoints) - 1, 10)
                time.sleep(min(PAUSE_S * (1 << turn), PAUSE_MAX_S, deadline.remaining_s()))

    def _call(
        self, link: Link, method: str, message: bytes, deadline: Deadline, *, needs_leader: bool = False
    ) -> bytes:
        """Make one call on a link, and put it back if it is good for another.

        A member that has lost the leader refuses a call at once that ``needs_leader``, instead of saying nothing.
        """
        head = head_of(method, str(link.stream.endpoint), self._token, self._tls is not None, needs_leader)
        try:
            answer = link.call(head, message, deadline)
        except GrpcError:
            self._put(link)
            raise
        except BaseException:
            self._drop(link)
            self.check_owner()  # closed meanwhile: say so
            raise
        self._put(link)
        return answer

    def _attempt(self, deadline: Deadline, failures: int = 0) -> Deadline:
        patience_s = LONE_ATTEMPT_S
        if len(self.endpoints) > 1:
            patience_s = min(ATTEMPT_S * (1 << min(max(0, failures - 2), 10)), ATTEMPT_MAX_S)
        return deadline if deadline.remaining_s() <= patience_s else Deadline(patience_s)

    def _check_time(self, deadline: Deadline, troubles: Troubles, trouble: Exception) -> None:
        if not deadline.has_passed():
            return
        waited_s = deadline.waited_s()
        raise UnreachableError(
            f"etcd at {self} did not do what was asked within {waited_s:.3f} s: {troubles}",
            endpoint=self.endpoint,
            waited_s=waited_s,
            unreachable_s=waited_s,
        ) from trouble

    # --- connections -------------------------------------------------------------------------------------

    def open(self, method: str, deadline: Deadline) -> Link:
        """Begin a stream of messages with the member that is asked at present, or the next that can be reached.

        Raises:
            DistNetworkError: not this member; another is tried the next time.
        """
        self.check_owner()
        endpoint = self.endpoint
        try:
            link = self._connect(endpoint, deadline)
            try:
                if self._needs_token():
                    self._prove(link, deadline)
                head = head_of(method, str(endpoint), self._token, self._tls is not None, needs_leader=True)
                link.open(head, deadline)
            except GrpcError as error:
                self._drop(link)
                raise as_refusal(error, endpoint) from error
            except BaseException:
                self._drop(link)
                raise
        except DistNetworkError:
            self._leave(endpoint, is_fresh=True)
            raise
        return link

    def end(self, link: Link, *, is_lost: bool) -> None:
        """Close a stream's connection; a lost one says something about its member."""
        self._drop(link)
        if is_lost:
            self._leave(link.stream.endpoint, is_fresh=True)

    def forget_token(self) -> None:
        """Prove anew who we are, the next time."""
        self._token = ""

    def close(self, why: str) -> None:
        """Close all connections; calls that wait on one, and later ones, are told why."""
        self._closed_for = self._closed_for or why
        with self._lock:
            links = [*self._busy, *(link for links in self._idle.values() for link in links)]
            self._busy.clear()
            for idle in self._idle.values():
                idle.clear()
        for link in links:
            link.close()

    def _take(self, endpoint: Endpoint, deadline: Deadline) -> tuple[Link, bool]:
        """Give a connection that is ready for a call, and tell whether it was made for it."""
        with self._lock:
            idle = self._idle[endpoint]
            link = idle.pop() if idle else None
            if link is not None:
                self._busy.add(link)
        is_fresh = link is None
        if link is None:
            link = self._connect(endpoint, deadline)
        if self._needs_token():
            try:
                self._prove(link, self._attempt(deadline))
            except GrpcError as error:
                self._drop(link)
                if verdict_of(error) is Verdict.AGAIN:
                    raise DistNetworkError(f"etcd at {endpoint} cannot say who we are: {error}") from error
                raise as_refusal(error, endpoint) from error
            except BaseException:
                self._drop(link)
                raise
        return link, is_fresh

    def _connect(self, endpoint: Endpoint, deadline: Deadline) -> Link:
        until = Deadline(CONNECT_S) if len(self.endpoints) > 1 and deadline.remaining_s() > CONNECT_S else deadline
        stream = connect(endpoint, until)
        if self._tls is not None:
            from rallypoint.net.tlsstream import secure

            stream = secure(stream, self._tls, until, protocols=("h2",))
        link = Link(stream)
        with self._lock:
            self._busy.add(link)
        if self._closed_for:
            self._drop(link)
            self.check_owner()
        return link

    def _prove(self, link: Link, deadline: Deadline) -> None:
        """See to it that there is a token, if there has to be one."""
        with self._proving:
            if not self._needs_token():
                return
            head = head_of("Auth/Authenticate", str(link.stream.endpoint), "", self._tls is not None)
            try:
                answer = link.call(head, wire.authenticate(self._user, self._password), deadline)
            except GrpcError as error:
                if not is_about(error, AUTH_IS_OFF):
                    raise
                self._user = ""  # nobody wants to know
                return
            texts = wire.texts_of(answer, 2)
            self._token = texts[0].decode() if texts else ""

    def _needs_token(self) -> bool:
        return bool(self._user) and not self._token

    def _put(self, link: Link) -> None:
        with self._lock:
            self._busy.discard(link)
            idle = self._idle[link.stream.endpoint]
            if link.is_usable and len(idle) < IDLE_MAX and not self._closed_for:
                idle.append(link)
                return
        link.close()

    def _drop(self, link: Link) -> None:
        with self._lock:
            self._busy.discard(link)
        link.close()

    def _leave(self, endpoint: Endpoint, is_fresh: bool) -> int:
        """Take note of a failure; leave the member if the connection was fresh, else only its old connections.

        Returns:
            How many failures that counts as.
        """
        with self._lock:
            stale, self._idle[endpoint] = self._idle[endpoint], []
            if is_fresh and self.endpoints[self._at] == endpoint:
                self._at = (self._at + 1) % len(self.endpoints)
        for link in stale:
            link.close()
        return int(is_fresh)
