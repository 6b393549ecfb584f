"""A store in a file that processes of one machine (or of one shared file system) have open, torch's among them."""

from __future__ import annotations

import operator
import os
import time
import weakref
from collections.abc import Sequence

from rallypoint import events
from rallypoint.clock import Deadline
from rallypoint.errors import StoreTimeoutError
from rallypoint.server.keyspace import Keyspace
from rallypoint.store.base import Store, as_timeout_s, check_lengths, decode_key
from rallypoint.store.counting import add_to_counter
from rallypoint.store.filelog import FileLog
from rallypoint.store.filerecords import CLEANUP, REFCOUNT
from rallypoint.types import Keys, Text, Timeout, as_bytes, as_keys

__all__ = ["FileStore"]

INTERNAL_KEYS = (REFCOUNT, CLEANUP)

POLL_FIRST_S = 0.001
POLL_MAX_S = 0.01
"""Pauses between a waiter's looks at the file's size, each longer than the one before."""

REREAD_S = 0.1
"""A waiter takes the lock and reads at least so often: network file systems show an old size until then."""

KEYS_SHOWN_MAX = 32


class FileStore(Store):
    """A store whose data is a file in the format of torch's FileStore; both may use one file at the same time.

    Each operation takes the file's ``flock``; waiting is polling, at most 10 ms apart. The file lives until the last
    store on it is closed or collected, and then longer if ``world_size`` is left out: whoever opens it later finds the
    old keys (and an event says so).

    Args:
        file_name: the file; it is created, its directory is not.
        world_size: how many stores there will be, in all, before the file may be removed: the last to go removes it
            once so many have gone. Negative: nobody removes it.

    Raises:
        DistStoreError: the file cannot be opened; at once.
        StoreTimeoutError: others hold its lock until the timeout.
        CorruptStoreError: it is damaged, or not a FileStore's file.

    Cost: each operation a lock, a ``stat`` and the reading of what is new; opening reads the whole file. The file grows
    with each write and never shrinks.
    Threads: any; also forked children, each of which opens the file for itself.
    """

    def __init__(self, file_name: str | os.PathLike[str], world_size: int = -1) -> None:
        super().__init__()
        self._path = os.fspath(file_name)
        self._world_size = operator.index(world_size)
        self._log = FileLog(os.path.abspath(self._path))  # noqa: PTH100 - keeps what a Path would tidy away
        self._finalizer = weakref.finalize(self, self._log.leave, self._world_size)
        before = self._log.enter(Deadline(self._timeout_s))
        keys = _user_keys(self._log.space)
        if before <= 0 and keys:
            events.emit(
                "store.file_reused",
                f"{self._path} was left by stores that are gone: the keys in it ({len(keys)}) are theirs",
                path=self._path,
            )

    def __repr__(self) -> str:
        return f"FileStore({self._path!r}, world_size={self._world_size})"

    @property
    def path(self) -> str:
        """The file's name, as it was given."""
        return self._path

    def close(self) -> None:
        """Count this store out; the last one of ``world_size`` removes the file. Collection does the same."""
        self._finalizer()

    def clone(self) -> FileStore:
        """Give another store on the same file, counted like any other."""
        twin = FileStore(self._log.path, self._world_size)
        twin.set_timeout(self._timeout_s)
        return twin

    # --- writing -----------------------------------------------------------------------------------------

    def set(self, key: Text, value: Text, /) -> None:
        """Store ``value`` under ``key``."""
        record = (_name(key), as_bytes(value))
        with self._log.writing(Deadline(self._timeout_s)):
            self._log.write(record)

    def multi_set(self, keys: Keys, values: Keys, /) -> None:
        """Store several values, all or none."""
        names, contents = [b"/" + name for name in as_keys(keys)], [as_bytes(value) for value in values]
        check_lengths(names, contents)
        with self._log.writing(Deadline(self._timeout_s)):
            self._log.write(*zip(names, contents, strict=True))

    def add(self, key: Text, amount: int, /) -> int:
        """Add to a counter; an empty value counts as 0.

        Raises:
            LocalProtocolError: ``amount`` does not fit into 64 bits.
            NotANumberError: the value is not the decimal text of a 64-bit number.
        """
        name, amount = _name(key), operator.index(amount)
        with self._log.writing(Deadline(self._timeout_s)) as space:
            total, _ = add_to_counter(space, name, amount, key)
            self._log.write((name, b"%d" % total))
            return total

    def compare_set(self, key: Text, expected: Text, desired: Text, /) -> bytes:
        """Replace a value if it is the expected one; see :meth:`Store.compare_set`."""
        name, old, new = _name(key), as_bytes(expected), as_bytes(desired)
        with self._log.writing(Deadline(self._timeout_s)) as space:
            current = space.get(name)
            if current is None and old:
                return old
            if current is not None and current != old:
                return current
            self._log.write((name, new))
            return new

    def append(self, key: Text, value: Text, /) -> None:
        """Add to the end of a value; a missing key is created. The whole value is written again."""
        name, suffix = _name(key), as_bytes(value)
        with self._log.writing(Deadline(self._timeout_s)) as space:
            self._log.write((name, (space.get(name) or b"") + suffix))

    def delete_key(self, key: Text, /) -> bool:
        """Remove a key; tell whether there was one."""
        name = _name(key)
        with self._log.writing(Deadline(self._timeout_s)) as space:
            if not space.has_key(name):
                return False
            self._log.write((b"-" + name, b""))
            return True

    # --- reading -----------------------------------------------------------------------------------------

    def get(self, key: Text, /) -> bytes:
        """Give the value of ``key``, waiting for it until the store's timeout."""
        return self._await([as_bytes(key, "key")], self._timeout_s, "Timeout waiting for key:")[0]

    def multi_get(self, keys: Keys, /) -> list[bytes]:
        """Give the values of several keys as they are at one moment, waiting until all are there."""
        return self._await(as_keys(keys), self._timeout_s, "Wait timeout for keys:")

    def wait(self, keys: Keys, timeout: Timeout | None = None, /) -> None:
        """Wait until all keys are there; ``timeout`` ``None`` is the store's own, 0 looks once."""
        timeout_s = self._timeout_s if timeout is None else as_timeout_s(timeout)
        self._await(as_keys(keys), timeout_s, "Wait timeout for keys:")

    def check(self, keys: Keys, /) -> bool:
        """Tell whether all keys are there."""
        names = [b"/" + key for key in as_keys(keys)]
        with self._log.reading(Deadline(self._timeout_s)) as space:
            return all(space.has_key(name) for name in names)

    def num_keys(self) -> int:
        """Count the keys, the one or two in which stores are counted included."""
        with self._log.reading(Deadline(self._timeout_s)) as space:
            return len(space)

    def list_keys(self) -> list[str]:
        """Give the names of the users' keys."""
        with self._log.reading(Deadline(self._timeout_s)) as space:
            return [name.decode() for name in _user_keys(space)]

    def _await(self, keys: Sequence[bytes], timeout_s: float, complaint: str) -> list[bytes]:
        """Give the values of ``keys`` as soon as all are there at one moment."""
        deadline = Deadline(timeout_s)
        pause_s = POLL_FIRST_S
        while True:
            with self._log.reading(Deadline(deadline.remaining_s())) as space:
                values = [space.get(b"/" + key) for key in keys]
            found = [value for value in values if value is not None]
            if len(found) == len(keys):
                return found
            if deadline.has_passed():
                missing = [decode_key(key) for key, value in zip(keys, values, strict=True) if value is None]
                raise self._timed_out(complaint, keys, missing, deadline)
            reread = Deadline(min(REREAD_S, deadline.remaining_s()))
            while not reread.has_passed() and not self._log.has_moved():
                time.sleep(min(pause_s, reread.remaining_s()))
                pause_s = min(1.5 * pause_s, POLL_MAX_S)

    def _timed_out(
        self, complaint: str, keys: Sequence[bytes], missing: list[str], deadline: Deadline
    ) -> StoreTimeoutError:
        shown = ", ".join(missing[:KEYS_SHOWN_MAX])
        more = f" and {len(missing) - KEYS_SHOWN_MAX} more" if len(missing) > KEYS_SHOWN_MAX else ""
        return StoreTimeoutError(
            f"{complaint} {shown}{more} after {int(deadline.timeout_s * 1000)} ms "
            f"({len(missing)} of {len(keys)} missing in {self._path})",
            keys=[decode_key(key) for key in keys],
            missing=missing,
            waited_s=deadline.waited_s(),
        )


def _name(key: Text) -> bytes:
    return b"/" + as_bytes(key, "key")


def _user_keys(space: Keyspace) -> list[bytes]:
    return [name[1:] for name in space.keys() if name not in INTERNAL_KEYS]  # noqa: SIM118 - not a mapping
