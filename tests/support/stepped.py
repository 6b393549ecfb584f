"""Programs that run one store call at a time, in the order that a test chooses, and may die between any two.

Each member runs in a thread, of which only one runs at any moment: before each call of its store it stops and waits to
be stepped. So an interleaving is a list of names, and a failure can be played again.
"""

from __future__ import annotations

import threading

from rallypoint.errors import StoreTimeoutError

__all__ = ["Crashed", "Member", "Stepped"]

TURN_S = 30.0
"""How long a member may take from one call to the next, in real seconds."""


class Crashed(BaseException):
    """Ends a member's program where it stands; all that it tries on its way out fails, too."""


class Member:
    """A program in a thread.

    Args:
        program: what it does.
    """

    def __init__(self, program):
        # Plain locks, given to and fro between two threads: nothing else hands over so quickly.
        self._turn = threading.Lock()
        self._done = threading.Lock()
        self._turn.acquire()
        self._done.acquire()
        self._is_crashed = False
        self.is_over = False
        self.error = None
        self._program = program
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._finish_turn()

    def _run(self):
        try:
            self._program(self)
        except Crashed:
            pass
        except BaseException as error:  # noqa: BLE001 - raised where the member is stepped
            self.error = error
        self.is_over = True
        self._done.release()

    def pause(self):
        """Wait to be stepped; called by the program, through its store. Others than the member's thread go on."""
        if threading.current_thread() is not self._thread:
            return
        if not self._is_crashed:
            self._done.release()
            assert self._turn.acquire(timeout=TURN_S)
        if self._is_crashed:
            raise Crashed

    def step(self):
        """Let it go as far as before its next call."""
        if not self.is_over:
            self._turn.release()
            self._finish_turn()

    def crash(self):
        """End it where it stands: the call it was about to make is not made."""
        if not self.is_over:
            self._is_crashed = True
            self._turn.release()
            self._thread.join(TURN_S)
            assert self.is_over

    def _finish_turn(self):
        assert self._done.acquire(timeout=TURN_S)
        if self.error is not None:
            raise self.error


class Stepped:
    """A store that lets its member be stepped before each call; nothing in it waits in real time.

    Args:
        store: what does the work.
        member: whose it is.
    """

    STEPPED = (
        "set", "get", "add", "compare_set", "check", "delete_key", "read", "swap", "read_prefix", "lease_grant",
        "lease_renew", "lease_revoke",
    )  # fmt: skip

    def __init__(self, store, member):
        self._store = store
        self._member = member
        self.timeout = store.timeout
        self.set_timeout = store.set_timeout
        self.has_sessions = store.has_sessions
        for name in self.STEPPED:
            setattr(self, name, self._stepping(getattr(store, name)))

    def _stepping(self, call):
        def stepped(*args, **options):
            self._member.pause()
            return call(*args, **options)

        return stepped

    def wait(self, keys, timeout=None):
        """Look once: the time is up whenever the test steps a member that still waits."""
        self._member.pause()
        if not self._store.check(keys):
            raise StoreTimeoutError("wait timeout", keys=keys, missing=keys)

    def watch(self, key, **options):
        self._member.pause()
        return SteppedWatch(self._store.watch(key, **options), self._member)


class SteppedWatch:
    """A watch that waits as many steps as it takes."""

    def __init__(self, watch, member):
        self._watch = watch
        self._member = member

    def next(self, timeout=None):
        while True:
            self._member.pause()
            try:
                return self._watch.next(0)
            except StoreTimeoutError:
                continue

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._watch.close()
