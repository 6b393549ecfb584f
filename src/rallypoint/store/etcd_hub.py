"""All watches of one store on one stream, which is made anew when it is lost and goes on where it was.

Rules:

- Each subscription knows the revision that it wants to hear of next. On a new connection, to whichever member, it
  begins there: nothing is told twice or left out, as long as etcd keeps its history.
- Where etcd has compacted what a subscription still wanted, it begins anew, and is told that there is a gap.
- One thread reads; it is started with the first subscription and ends with the store. Listeners are called by it and
  must not wait.
- After ``QUIET_S`` without a word the member is asked for a sign of life, and left if there is none in ``SIGN_S``.
"""

from __future__ import annotations

import contextlib
import threading
from time import monotonic
from typing import Final, Protocol

from rallypoint.clock import Deadline
from rallypoint.errors import (
    AccessDeniedError,
    AuthenticationError,
    ConnectionLostError,
    DistError,
    DistNetworkError,
    RefusedError,
    ReplyTimeoutError,
)
from rallypoint.store import etcd_wire as wire
from rallypoint.store.etcd_cluster import PAUSE_MAX_S, PAUSE_S, Cluster
from rallypoint.store.etcd_link import GrpcError, Link
from rallypoint.store.etcd_names import Span
from rallypoint.store.etcd_refusal import Verdict, as_refusal, verdict_of

__all__ = ["QUIET_S", "SIGN_S", "Hub", "Listener", "Subscription"]

QUIET_S: Final = 6.0
"""After so much silence a member is asked for a sign of life, in seconds; etcd takes it ill below 5."""

SIGN_S: Final = 3.0
"""How long it may take to give one, in seconds."""

OPEN_S: Final = 3.0
"""How long a member may take to begin a stream, in seconds."""


class Listener(Protocol):
    """Who is told what happens; by the hub's thread."""

    def began(self, revision: int, /) -> None:
        """The watch has begun, or begun anew, when etcd had this revision."""

    def hear(self, events: list[wire.WatchEvent], /) -> None:
        """Keys have changed."""

    def missed(self, revision: int, /) -> None:
        """Changes before this revision cannot be told."""

    def over(self, error: DistError, /) -> None:
        """Nothing more will be told."""


class Subscription:
    """What one listener wants to hear."""

    __slots__ = ("denials", "filters", "has_gap", "is_begun", "listener", "next", "number", "span")

    def __init__(self, span: Span, revision: int, listener: Listener, filters: dict[str, bool]) -> None:
        self.span = span
        self.next = revision
        self.listener = listener
        self.filters = filters
        self.has_gap = False
        self.is_begun = False  # on the present stream
        self.denials = 0
        self.number = 0

    def request(self) -> bytes:
        """Give the request that begins this, or begins it anew."""
        return wire.watch_create(self.number, self.span.start, self.span.end, revision=self.next, **self.filters)


class Hub:
    """The watches of one store.

    Args:
        cluster: whom to ask.

    Attributes:
        trouble: why nothing can be heard at present; empty while it can.

    Threads: any.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.trouble = ""
        self._cluster = cluster
        self._lock = threading.RLock()  # a signal's handler may close a watch amid a step of its own thread
        self._subscriptions: dict[int, Subscription] = {}
        self._count = 0
        self._link: Link | None = None
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closed_for: DistError | None = None

    def subscribe(self, span: Span, revision: int, listener: Listener, **filters: bool) -> Subscription:
        """Tell a listener of all changes from a revision on; 0 is from now on.

        Args:
            span: the keys.
            revision: of the first change.
            listener: who is told.
            filters: ``is_deaf_to_deletions``, ``is_deaf_to_writes``.

        Cost: one message; nobody is waited for.
        """
        self._cluster.check_owner()
        subscription = Subscription(span, revision, listener, filters)
        with self._lock:
            if self._closed_for is not None:
                raise self._closed_for
            self._number(subscription)
            link = self._link
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rallypoint-etcd-watch", daemon=True)
                self._thread.start()
        self._wake.set()
        if link is not None:
            self._post(link, subscription.request())
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Tell a listener nothing more. Cost: one message; nobody is waited for."""
        with self._lock:
            was_there = self._subscriptions.pop(subscription.number, None) is not None
            link = self._link
        if was_there and link is not None:
            self._post(link, wire.watch_cancel(subscription.number))

    def close(self, error: DistError) -> None:
        """End all watches; their listeners are told why."""
        with self._lock:
            if self._closed_for is not None:
                return
            self._closed_for = error
            listeners = [subscription.listener for subscription in self._subscriptions.values()]
            self._subscriptions.clear()
            link, self._link = self._link, None
        self._wake.set()
        for listener in listeners:
            listener.over(error)
        if link is not None:
            link.close()

    def _number(self, subscription: Subscription) -> None:
        self._count += 1
        subscription.number = self._count
        self._subscriptions[self._count] = subscription

    def _post(self, link: Link, message: bytes) -> None:
        try:
            link.post(message, Deadline(OPEN_S))
        except DistNetworkError:
            link.close()  # the thread that reads sees it, and begins all of them anew
        except BaseException:
            link.close()  # half a frame may have gone out
            raise

    # --- the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while self._closed_for is None:
            if not self._subscriptions:
                self._wake.clear()
                if not self._subscriptions and self._closed_for is None:
                    self._wake.wait()
                continue
            link: Link | None = None
            try:
                link = self._connect()
                if link is None:
                    return
                failures, self.trouble = 0, ""
                self._read(link)
            except (AccessDeniedError, AuthenticationError) as error:
                self.trouble = str(error)
                failures += 1
                if failures >= len(self._cluster.endpoints):
                    self._give_up(error)
            except GrpcError as error:
                self.trouble = str(error)
                failures += 1
                self._weigh(error, link)
            except DistError as error:
                self.trouble = str(error)
                failures += 1
            finally:
                with self._lock:
                    self._link = None
                if link is not None:
                    self._cluster.end(link, is_lost=self._closed_for is None)
            if failures > 1 and self._closed_for is None:
                self._wake.clear()
                self._wake.wait(min(PAUSE_S * (1 << min(failures, 10)), PAUSE_MAX_S))

    def _connect(self) -> Link | None:
        """Begin a stream, and all subscriptions on it; ``None`` if the hub was closed meanwhile."""
        link = self._cluster.open("Watch/Watch", Deadline(OPEN_S))
        with self._lock:
            if self._closed_for is not None:
                link.close()
                return None
            for old in list(self._subscriptions.values()):
                old.is_begun = False
                del self._subscriptions[old.number]  # a number that the new stream does not know yet
                self._number(old)
            requests = [one.request() for one in self._subscriptions.values()]
            self._link = link
        for request in requests:
            link.post(request, Deadline(OPEN_S))
        return link

    def _read(self, link: Link) -> None:
        asked_at: float | None = None
        while True:
            try:
                message = link.next_message(Deadline(QUIET_S if asked_at is None else SIGN_S))
            except ReplyTimeoutError:
                if asked_at is not None and link.heard_at < asked_at:
                    raise
                quiet_s = monotonic() - link.heard_at
                asked_at = None
                if quiet_s >= QUIET_S - SIGN_S:
                    asked_at = monotonic()
                    link.ping(Deadline(SIGN_S))
                continue
            asked_at = None
            self._take(link, wire.read_watch(message))

    def _take(self, link: Link, told: wire.Told) -> None:
        """Pass on what was told."""
        with self._lock:
            subscription = self._subscriptions.get(told.watch)
            if subscription is None and told.is_created and told.is_canceled:  # refused, and not told which
                subscription = next((one for one in self._subscriptions.values() if not one.is_begun), None)
            if subscription is None:
                return
            listener = subscription.listener
            calls: list[tuple[object, object]] = []
            if told.is_canceled:
                if not told.compacted_at:
                    self._check_reason(subscription, told.reason)
                    del self._subscriptions[subscription.number]
                    calls.append((listener.over, _ended(told.reason, self._cluster)))
                else:
                    del self._subscriptions[subscription.number]
                    subscription.next, subscription.has_gap = 0, True
                    self._number(subscription)
            elif told.is_created:
                subscription.is_begun = True
                if not subscription.next:
                    subscription.next = told.revision + 1
                if subscription.has_gap:
                    subscription.has_gap = False
                    calls.append((listener.missed, told.revision))
                calls.append((listener.began, told.revision))
            elif told.events:
                subscription.next = told.events[-1].entry.revision + 1
                calls.append((listener.hear, told.events))
            else:
                subscription.next = max(subscription.next, told.revision + 1)
            is_anew = subscription.has_gap
        for call, what in calls:
            call(what)  # type: ignore[operator]
        if is_anew:
            self._post(link, subscription.request())

    def _check_reason(self, subscription: Subscription, reason: str) -> None:
        """Raise what ends more than this one watch: a token that has lapsed, a member without a leader.

        Some releases of etcd call the first a denial, too, so that it counts as one only with a fresh token.
        """
        is_denial = "permission denied" in reason
        if (is_denial or "auth" in reason) and self._cluster.has_user and subscription.denials == 0:
            subscription.denials += 1
            raise GrpcError(16, reason)
        if "no leader" in reason:
            raise ConnectionLostError(f"etcd has ended the watches: {reason}", endpoint=self._cluster.endpoint)

    def _weigh(self, error: GrpcError, link: Link | None) -> None:
        if verdict_of(error) is Verdict.NEW_TOKEN:
            self._cluster.forget_token()
        elif verdict_of(error) is Verdict.FINAL:
            endpoint = link.stream.endpoint if link is not None else self._cluster.endpoint
            self._give_up(as_refusal(error, endpoint))

    def _give_up(self, error: DistError) -> None:
        with self._lock:
            subscriptions = list(self._subscriptions.values())
            self._subscriptions.clear()
        for subscription in subscriptions:
            with contextlib.suppress(Exception):
                subscription.listener.over(error)


def _ended(reason: str, cluster: Cluster) -> DistError:
    if "denied" in reason:
        return AccessDeniedError(f"etcd at {cluster} does not let this user watch that: {reason}")
    return RefusedError(
        f"etcd at {cluster} has ended a watch: {reason or 'it says not why'}",
        reason="watch_ended",
        endpoint=cluster.endpoint,
    )
