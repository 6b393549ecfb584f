"""The other side of a gateway: any store, whose calls block, behind a loop that must not.

Theory of operation. Requests of one peer go down a lane (``lanes``), so that they keep their order, and are made by a
few threads in the words of the store (``storeverbs``); the answers come back through the loop's door. A WAIT's or a
BARRIER's turn in its lane ends with a first look: if that is not enough, ``lookout`` has it, and the lane goes on.

A store that cannot be reached: what waits goes on waiting. Any other request is tried again for ``patience_s``; then
its peer is closed. What may have been done, and must not be done twice, is not tried again: its peer is closed at once.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from rallypoint.clock import Clock
from rallypoint.errors import ConnectTimeoutError, DistNetworkError, DistStoreError, StoreTimeoutError
from rallypoint.gateway.lanes import Lanes
from rallypoint.gateway.lookout import Lookout
from rallypoint.gateway.storeverbs import REPEATABLE, StoreVerbs, refusal_of
from rallypoint.gateway.vocabulary import Answered, Failed, RelayEvent, RelayLimits
from rallypoint.protocol.session.spec import SessionVerb, Status
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.limits import Limits
from rallypoint.store.base import Store, timeout_override

__all__ = ["Backing"]

AGAIN_S_MIN: Final = 0.02
AGAIN_S_MAX: Final = 1.0
"""Pauses between the attempts of one request, in seconds, each twice the one before."""

_LABEL = "rallypoint-gateway"

_LOST = (DistNetworkError, StoreTimeoutError, ConnectionError, TimeoutError, OSError)
_NOT_SENT = (ConnectTimeoutError,)


class _Check:
    """A CHECK of one name, which a READ of it often follows at once: so rallypoint's clients get a value."""

    def __init__(self, call: int, name: bytes, peer: int) -> None:
        self.call = call
        self.name = name
        self.peer = peer
        self.read = 0
        self.has_begun = False


class Backing:
    """A store as the other side.

    Args:
        store: the store.
        prefix: how all keys begin, as they travel.
        tell: takes what happens, in the loop's thread.
        post: has the loop's thread make a call.
        log: takes one line when the store cannot be reached, and when it can again.
        clock: the time that decides.
        limits: what local peers are granted.
        relay_limits: what the gateway grants itself.
        close_store: also close the store at the end.

    Threads: all methods belong to the loop's thread.
    """

    def __init__(
        self,
        store: Store,
        prefix: bytes,
        tell: Callable[[RelayEvent], None],
        post: Callable[[Callable[[], None]], None],
        *,
        log: Callable[[str], None],
        clock: Clock,
        limits: Limits,
        relay_limits: RelayLimits,
        close_store: bool = False,
    ) -> None:
        self._store = store
        self._below: Store = getattr(store, "_underlying_non_prefix_store", store)
        self._verbs = StoreVerbs(store)
        self._tell = tell
        self._post = post
        self._log = log
        self._clock = clock
        self._names_max = limits.waited_names_max
        self._patience_s = relay_limits.patience_s
        self._closes_store = close_store
        self._lanes = Lanes(relay_limits.threads_max, _LABEL)
        self._lookout = Lookout(store, prefix, self._release, clock, self._trouble)
        self._lock = threading.Lock()
        self._waits: dict[int, int] = {}  # the names of each wait that is not answered
        self._names = 0
        self._beginning: set[int] = set()  # waits whose turn is not over
        self._withdrawn: set[int] = set()  # of these
        self._is_lost = False
        self._check: _Check | None = None  # the last request, if it was one
        self._ended = threading.Event()

    def begin(self) -> None:
        """Do nothing: threads are begun when there is something to do."""

    def end(self) -> None:
        """End all threads; what was asked is still done, if that does not take long, but not answered."""
        self._ended.set()
        self._lookout.end()
        self._lanes.end()
        if self._closes_store:
            self._store.close()

    def ask(self, call: int, verb: SessionVerb, fields: tuple[Any, ...], peer: int) -> None:
        """Do a request, after the earlier ones of the same peer."""
        before, self._check = self._check, None
        if verb not in {SessionVerb.WAIT, SessionVerb.BARRIER}:
            if verb is SessionVerb.CHECK and len(fields[0]) == 1:
                self._check = check = _Check(call, fields[0][0], peer)
                self._lanes.put(peer, partial(self._do_check, check))
            elif verb is not SessionVerb.READ or before is None or not self._joins(before, call, fields[0], peer):
                self._lanes.put(peer, partial(self._do, call, verb, fields))
            return
        number = len(fields[0]) if verb is SessionVerb.WAIT else 1
        with self._lock:
            total = self._names + number
            if total <= self._names_max:
                self._names = total
                self._waits[call] = number
                self._beginning.add(call)
        if total > self._names_max:
            detail = f"all peers would wait for {total} names, the limit is {self._names_max}"
            self._answer(Answered(call, Status.REFUSED, (CloseReason.TOO_MANY_WAITED.value.encode(), detail.encode())))
            return
        do = self._do_wait if verb is SessionVerb.WAIT else self._do_barrier
        self._lanes.put(peer, partial(do, call, *fields))

    def _joins(self, check: _Check, call: int, name: bytes, peer: int) -> bool:
        """Have a READ done with the CHECK that its peer has just sent, unless that has begun; tell whether it is."""
        if (check.name, check.peer) != (name, peer):
            return False
        with self._lock:
            if check.has_begun:
                return False
            check.read = call
        return True

    def withdraw(self, call: int) -> None:
        """Cancel a wait; other requests do not wait here."""
        with self._lock:
            if call in self._beginning:
                self._withdrawn.add(call)
                return
        if self._lookout.withdraw(call):
            self._answer_wait(Answered(call, Status.EXPIRED, ([],)))

    # --- in the threads ----------------------------------------------------------------------------------

    def _answer(self, event: RelayEvent) -> None:
        try:
            self._post(partial(self._tell, event))
        except DistStoreError:  # the loop has ended
            self._ended.set()

    def _answer_wait(self, event: Answered | Failed) -> None:
        with self._lock:
            self._names -= self._waits.pop(event.call)
            self._beginning.discard(event.call)
            self._withdrawn.discard(event.call)
        self._answer(event)

    def _release(self, call: int) -> None:
        self._answer_wait(Answered(call, Status.OK, ()))

    def _do(self, call: int, verb: SessionVerb, fields: tuple[Any, ...]) -> None:
        answer = self._attempt(call, partial(self._verbs.perform, verb, fields), is_repeatable=verb in REPEATABLE)
        self._note(verb, fields)
        self._answer(answer if isinstance(answer, (Answered, Failed)) else Answered(call, *answer))

    def _do_check(self, check: _Check) -> None:
        """Do a CHECK of one name, and with it the READ that follows: what is read is there."""
        with self._lock:
            check.has_begun = True
        if not check.read:
            self._do(check.call, SessionVerb.CHECK, ([check.name],))
            return
        seen = self._attempt(check.read, partial(self._verbs.check_and_read, check.name), is_repeatable=True)
        if isinstance(seen, (Answered, Failed)):
            self._answer(seen._replace(call=check.call))
            self._answer(seen)
            return
        readiness, value = seen
        self._answer(Answered(check.call, Status.OK, (readiness[0],)))
        self._answer(Answered(check.read, Status.OK, (int(value is not None), value or b"")))

    def _note(self, verb: SessionVerb, fields: tuple[Any, ...]) -> None:
        """Have those looked at who may wait for what a request has changed; also if it is not known whether it has."""
        match verb:
            case SessionVerb.SET | SessionVerb.ADD | SessionVerb.APPEND | SessionVerb.COMPARE_SET:
                self._lookout.touch(fields[:1])
            case SessionVerb.MULTI_SET:
                self._lookout.touch([key for key, _ in fields[0]])
            case SessionVerb.QUEUE_PUSH:
                self._lookout.pushed(fields[0])
            case SessionVerb.QUEUE_POP:
                self._lookout.popped(fields[0])

    def _do_wait(self, call: int, names: list[bytes]) -> None:
        """Have a wait's first look; what is missing after it is the lookout's."""
        with self._lock:
            is_over = call in self._withdrawn
        witness = names[0] if names else None
        if not is_over:
            try:
                with timeout_override(self._below, self._patience_s):
                    witness = self._verbs.first_missing(names)
            except Exception as error:  # noqa: BLE001 - any store's
                if (refusal := refusal_of(error)) is not None:
                    self._answer_wait(Answered(call, Status.REFUSED, refusal))
                    return
                self._trouble(error)  # it is looked at again
        if witness is None:
            self._release(call)
        else:
            self._look_out(call, partial(self._lookout.wait, call, tuple(names), witness))

    def _do_barrier(self, call: int, key: bytes, world_size: int) -> None:
        """Arrive at a barrier; unless that makes it whole, the rest is the lookout's."""
        arrived = self._attempt(call, partial(self._verbs.arrive, key), is_repeatable=False)
        self._lookout.touch([key])
        if isinstance(arrived, (Answered, Failed)):
            self._answer_wait(arrived)
        elif arrived >= world_size:
            self._release(call)
        else:
            self._look_out(call, partial(self._lookout.meet, call, key, world_size))

    def _look_out(self, call: int, register: Callable[[], None]) -> None:
        with self._lock:
            is_over = call in self._withdrawn
            self._beginning.discard(call)
            if not is_over:
                register()
        if is_over:
            self._answer_wait(Answered(call, Status.EXPIRED, ([],)))

    def _attempt(self, call: int, make: Callable[[], Any], *, is_repeatable: bool) -> Any:
        """Make a call of the store, again and again while the store cannot be reached.

        Args:
            call: the request's number.
            make: the store's call.
            is_repeatable: it may be made again when it is not known whether it was done.

        Returns:
            What the call gives; or ``Answered`` as refused, or ``Failed``.
        """
        begun = self._clock.now()
        pause_s = AGAIN_S_MIN
        while True:
            try:
                with timeout_override(self._below, self._patience_s):
                    result = make()
            except Exception as error:  # noqa: BLE001 - any store's; each has its answer
                if (refusal := refusal_of(error)) is not None:
                    return Answered(call, Status.REFUSED, refusal)
                if not isinstance(error, _LOST):
                    return Failed(call, f"the store failed: {type(error).__name__}: {error}")
                self._trouble(error)
                tried_s = self._clock.now() - begun
                if not is_repeatable and not isinstance(error, _NOT_SENT):
                    return Failed(call, f"the store was lost, it is not known whether the request was applied: {error}")
                if tried_s >= self._patience_s or self._ended.is_set():
                    return Failed(call, f"the store could not be reached for {tried_s:.1f} s: {error}")
            else:
                self._trouble(None)
                return result
            self._ended.wait(min(pause_s, max(0.0, self._patience_s - tried_s)))
            pause_s = min(2 * pause_s, AGAIN_S_MAX)

    def _trouble(self, error: Exception | None) -> None:
        """Say once that the store cannot be reached, and once that it can again."""
        is_lost = error is not None
        if is_lost == self._is_lost:
            return
        with self._lock:
            if is_lost == self._is_lost:
                return
            self._is_lost = is_lost
        line = "the store is there again" if error is None else f"the store cannot be reached, trying on: {error}"
        with contextlib.suppress(DistStoreError):  # the loop has ended
            self._post(partial(self._log, line))
