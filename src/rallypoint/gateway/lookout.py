"""Waiting at a store that cannot be waited at without a thread: one that looks, and one that watches.

Theory of operation. ``waits`` says when to look at what; the looking thread asks the store that and tells who is
released. Where the store keeps sessions, the watching thread has one watch over all keys of the key space, as long as
anybody waits, and has looked at what it hears of; pauses between looks may then be long. What local peers write is
looked at in any case. Looking at many names takes half of a thread's time at most::

    [watching thread] -- a key has changed ---.
    [threads of calls] -- a peer has set it ---+--> touch --> [looking thread] -- check --> the store
                                               time -------'        |
                                                                    '--> released: answered OK

A store that is lost is looked at on and on; those who wait are not told.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from rallypoint.clock import Clock
from rallypoint.errors import StoreTimeoutError
from rallypoint.gateway.storeverbs import StoreVerbs, refusal_of, store_key, wire_key
from rallypoint.gateway.waits import Names, Spot, Waits
from rallypoint.store.base import Store, timeout_override
from rallypoint.store.session_calls import Missed, Watch

__all__ = ["LOOK_S_MAX", "Lookout"]

PAUSE_POLLED_S_MAX: Final = 0.01
"""The longest pause between looks at one name where nobody watches, in seconds."""

PAUSE_WATCHED_S_MAX: Final = 2.0
"""The same where a watch tells of keys, in seconds: of queues none does."""

PAUSE_UNWATCHED_S_MAX: Final = 0.1
"""The same where a watch could tell, but does not (yet), in seconds: such stores are further away than a file."""

WATCH_IDLE_S: Final = 10.0
"""A watch ends when nobody has waited for so long, in seconds."""

WATCH_AGAIN_S: Final = 0.5
"""The pause before a watch that was lost is begun again, in seconds."""

LOOK_S_MAX: Final = 10.0
"""How long one call of the looking thread may take, in seconds."""

REST_S_MIN: Final = 0.005
REST_S_MAX: Final = 1.0
"""After looking at several names for at least so long, in seconds, the thread rests as long, up to a bound."""

END_S_MAX: Final = 1.0
"""How long the end waits for the threads, in seconds."""


class Lookout:
    """Waits of one gateway.

    Args:
        store: the store.
        prefix: how the keys that are waited for begin, as they travel.
        release: takes a call whose wait is over; from the threads here.
        clock: for the pauses.
        trouble: takes an error of the store, and ``None`` when it answers.

    Threads: any.
    """

    def __init__(
        self,
        store: Store,
        prefix: bytes,
        release: Callable[[int], None],
        clock: Clock,
        trouble: Callable[[Exception | None], None],
    ) -> None:
        self._store = store
        self._below: Store = getattr(store, "_underlying_non_prefix_store", store)
        self._verbs = StoreVerbs(store)
        self._prefix = prefix
        self._release = release
        self._clock = clock
        self._trouble = trouble
        self._can_watch = store.has_sessions()
        self._waits = Waits(PAUSE_UNWATCHED_S_MAX if self._can_watch else PAUSE_POLLED_S_MAX)
        self._changed = threading.Condition(threading.Lock())
        self._threads: list[threading.Thread] = []
        self._watch: Watch | None = None
        self._is_watching = False  # there is a thread for it
        self._is_refused = False
        self._has_ended = False
        self._over = threading.Event()  # the same, for those who pause

    # --- for those who wait ------------------------------------------------------------------------------

    def wait(self, call: int, names: Names, witness: bytes) -> None:
        """Wait for names, one of which was just missing."""
        self._begin(lambda: self._waits.wait(call, names, witness, self._clock.now()))

    def meet(self, call: int, key: bytes, world_size: int) -> None:
        """Wait for a barrier's count."""
        self._begin(lambda: self._waits.meet(call, key, world_size, self._clock.now()))

    def _begin(self, register: Callable[[], None]) -> None:
        with self._changed:
            if self._has_ended:
                return
            register()
            if not self._threads:
                self._start(self._look_on, "look")
            if self._can_watch and not self._is_watching:
                self._is_watching = True
                self._start(self._watch_on, "watch")
            self._changed.notify_all()

    def _start(self, run: Callable[[], None], label: str) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=run, name=f"rallypoint-gateway-{label}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def withdraw(self, call: int) -> bool:
        """Forget a wait; tell whether there was one, which is then not released any more."""
        with self._changed:
            return self._waits.withdraw(call)

    # --- for those who change something ------------------------------------------------------------------

    def touch(self, names: Sequence[bytes]) -> None:
        """Have names looked at that may have changed."""
        with self._changed:
            if len(self._waits):
                now = self._clock.now()
                for name in names:
                    self._waits.touch(name, now)
                self._changed.notify_all()

    def pushed(self, name: bytes) -> None:
        """Have a queue looked at."""
        with self._changed:
            self._waits.is_queue(name)
            self._waits.touch(name, self._clock.now())
            self._changed.notify_all()

    def popped(self, name: bytes) -> None:
        """Take note of a pop, or of an attempt."""
        with self._changed:
            self._waits.popped(name, self._clock.now())
            self._changed.notify_all()

    def end(self) -> None:
        """Wait for nothing any more."""
        with self._changed:
            self._has_ended = True
            self._over.set()
            watch, threads = self._watch, self._threads
            self._changed.notify_all()
        if watch is not None:
            _close(watch)
        for thread in threads:
            thread.join(END_S_MAX)

    # --- looking -----------------------------------------------------------------------------------------

    def _look_on(self) -> None:
        spots: list[Spot] = []
        with timeout_override(self._below, LOOK_S_MAX):
            while True:
                with self._changed:
                    while not (self._has_ended or (spots := self._waits.due(self._clock.now()))):
                        due = self._waits.next_deadline()
                        self._changed.wait(None if due is None else max(0.0, due - self._clock.now()))
                    if self._has_ended:
                        return
                begun = self._clock.now()
                for spot in spots:
                    self._look(spot)
                spent_s = self._clock.now() - begun
                if len(spots) > 1 and spent_s > REST_S_MIN:
                    self._over.wait(min(spent_s, REST_S_MAX))

    def _look(self, spot: Spot) -> None:
        try:
            released = self._seen(spot)
        except Exception as error:  # noqa: BLE001 - any store's; whoever waits goes on waiting
            if refusal_of(error) is None:
                self._trouble(error)
            with self._changed:
                self._waits.missing(spot, self._clock.now())
            return
        self._trouble(None)
        for call in released:
            self._release(call)

    def _seen(self, spot: Spot) -> Sequence[int]:
        """Look at a spot; give who is released."""
        waits, verbs = self._waits, self._verbs
        if spot.is_count:
            number = verbs.count_at(spot.name)
            with self._changed:
                return waits.counted(spot.name, number, self._clock.now())
        if not self._store.check([store_key(spot.name)]):
            with self._changed:
                waits.missing(spot, self._clock.now())
            return ()
        with self._changed:
            may_be_queue, lists = waits.at(spot)
        witnesses = {names: verbs.first_missing(names, spot.name) for names in lists}
        items = verbs.items(spot.name) if may_be_queue else 0
        with self._changed:
            return waits.found(spot.name, items, witnesses, self._clock.now())

    # --- watching ----------------------------------------------------------------------------------------

    def _watch_on(self) -> None:
        while self._is_wanted():
            try:
                watch = self._store.watch(store_key(self._prefix), is_prefix=True)
            except Exception as error:  # noqa: BLE001 - any store's
                self._lost_watch(error)
                continue
            with self._changed:
                self._watch = watch
                self._waits.pause_s_max = PAUSE_WATCHED_S_MAX
                self._waits.touch_all(self._clock.now())
                self._changed.notify_all()
            try:
                self._hear(watch)
            except Exception as error:  # noqa: BLE001 - as above, also because it was closed
                self._lost_watch(error)
            finally:
                with self._changed:
                    self._watch = None
                    self._waits.pause_s_max = PAUSE_UNWATCHED_S_MAX
                _close(watch)

    def _is_wanted(self) -> bool:
        """Tell whether to watch on; if not, this thread ends."""
        with self._changed:
            if self._has_ended or self._is_refused or not len(self._waits):
                self._is_watching = self._is_refused  # by who may not watch it is not tried again
                return False
        return True

    def _hear(self, watch: Watch) -> None:
        while not self._has_ended:
            try:
                event = watch.next(WATCH_IDLE_S)
            except StoreTimeoutError:
                event = None
            with self._changed:
                now = self._clock.now()
                if event is None and not len(self._waits):
                    return
                if isinstance(event, Missed):
                    self._waits.touch_all(now)
                elif event is not None:
                    self._waits.touch(wire_key(event.key), now)
                self._changed.notify_all()

    def _lost_watch(self, error: Exception) -> None:
        with self._changed:
            if self._has_ended:
                return
            self._waits.pause_s_max = PAUSE_UNWATCHED_S_MAX
            self._is_refused = refusal_of(error) is not None
        if not self._is_refused:
            self._trouble(error)
            self._over.wait(WATCH_AGAIN_S)


def _close(watch: Any) -> None:
    with contextlib.suppress(Exception):  # of a store that is lost, or closed already
        watch.close()
