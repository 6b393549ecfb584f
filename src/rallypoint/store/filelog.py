"""The file behind a FileStore: an append-only log that several processes, torch's among them, read and write.

Rules:

- The lock is ``flock`` on the file: shared to read, exclusive to write. Nothing is read or written without it.
- Under the lock the log is whole. So a record that is cut off, or is none, is damage and reported as such.
- One record, one ``write``: a process that is killed can hardly leave a torn one.

A log keeps what it has read and how far it has come. Others may remove and recreate the file, or cut it, under our
feet; both are noticed, and the file is then read from its start::

    path --stat--> another inode?  -> open anew, read all
                   shorter than read? ------------> read all
                   else -------------> read what is new

The open file is held, so that its inode number cannot be given to a successor meanwhile. A forked child opens the
file for itself: a lock belongs to what was opened, and parent and child would share it.

Source: locks and counters as observed in torch 2.13.0.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import threading
import time
from collections.abc import Iterator
from typing import Final

from rallypoint import events
from rallypoint.clock import Deadline
from rallypoint.errors import DistStoreError, LocalProtocolError, StoreTimeoutError
from rallypoint.server.keyspace import Keyspace
from rallypoint.store.filerecords import CLEANUP, REFCOUNT, REMOVED, damage, decode_records, encode_record

__all__ = ["FileLog"]

READ_SIZE: Final = 1 << 20
"""Bytes read at a time."""

TAIL_SIZE: Final = 32
"""The last bytes read are compared with the file each time: a file that was cut and has grown again shows there."""

LOCK_TIMEOUT_MIN_S: Final = 0.1
"""A lock is waited for at least so long: that a writer is at work for a moment does not mean that a key is missing."""

LEAVE_TIMEOUT_S: Final = 1.0
"""How long a store that goes away waits for the lock; then it leaves its count behind."""

LOCK_PAUSE_FIRST_S: Final = 0.0002
LOCK_PAUSE_MAX_S: Final = 0.01

_inside = threading.local()
_leaving: list[tuple[FileLog, int]] = []


class FileLog:
    """One process's view of the file.

    Attributes:
        path: absolute.
        space: what the records say, as of the last time the lock was held; keys as they are written.

    Threads: any; one at a time is inside :meth:`reading` or :meth:`writing`.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.space = Keyspace()
        self._fd = -1
        self._pid = os.getpid()
        self._inode: tuple[int, int] | None = None
        self._counted_in: tuple[int, int] | None = None
        self._seen: tuple[int, int, int] | None = None
        self._offset = 0
        self._tail = b""
        self._is_closed = False
        self._mutex = threading.Lock()

    # --- the lock ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def reading(self, deadline: Deadline) -> Iterator[Keyspace]:
        """Hold the shared lock; give what the file says, nothing at all if there is no file.

        Raises:
            StoreTimeoutError: others held the lock until the deadline (at least 0.1 s).
            CorruptStoreError: the file is damaged.
            DistStoreError: the file cannot be opened or read.
        """
        with self._locked(fcntl.LOCK_SH, deadline):
            yield self.space

    @contextlib.contextmanager
    def writing(self, deadline: Deadline) -> Iterator[Keyspace]:
        """Hold the exclusive lock, of a new file if there is none; raises what :meth:`reading` does."""
        with self._locked(fcntl.LOCK_EX, deadline):
            yield self.space

    def write(self, *records: tuple[bytes, bytes]) -> None:
        """Append records, all or none. Only inside :meth:`writing`.

        Raises:
            DistStoreError: the file system refuses, for instance because it is full; the file is as it was.
            LocalProtocolError: a key or a value is too long.
        """
        try:
            data = b"".join(encode_record(key, value) for key, value in records)
        except LocalProtocolError:
            self._forget()  # the caller may have changed the space already
            raise
        try:
            written = os.pwrite(self._fd, data, self._offset)
            if written < len(data):
                os.ftruncate(self._fd, self._offset)
        except OSError as error:
            self._forget()
            raise self._refused("appended to", error) from error
        if written < len(data):
            self._forget()
            raise DistStoreError(f"{self.path} cannot be appended to: {written} of {len(data)} bytes went in")
        self._apply(list(records))
        self._advance(self._offset + len(data), data)

    def has_moved(self) -> bool:
        """Tell, without the lock, whether the file looks different from when it was last read. Cost: one ``stat``."""
        try:
            status = os.stat(self.path)  # noqa: PTH116 - in a polling loop
        except FileNotFoundError:
            return self._seen is not None
        return (status.st_dev, status.st_ino, status.st_size) != self._seen

    # --- coming and going --------------------------------------------------------------------------------

    def enter(self, deadline: Deadline) -> int:
        """Count one more store; give how many were there before."""
        with self.writing(deadline) as space:
            before = self._count(space, REFCOUNT)
            self.write((REFCOUNT, b"%d" % (before + 1)))
            self._counted_in = self._inode
        return before

    def leave(self, world_size: int) -> None:
        """Count one store less, and remove the file with the last; once, and only in the process that entered.

        Never raises: it runs when a store is collected, perhaps at the interpreter's end, and nobody could answer. What
        goes wrong is an event.
        """
        if getattr(_inside, "depth", 0):
            _leaving.append((self, world_size))  # collected while this thread holds a log's lock, perhaps this file's
            return
        self._after_fork()
        try:
            if self._counted_in is not None and self._counted_in == _inode_at(self.path):
                self._count_out(world_size)
        except (DistStoreError, OSError) as error:
            events.emit(
                "store.file_left_behind",
                f"a FileStore on {self.path} went away without being counted out: {error}",
                path=self.path,
            )
        finally:
            self._is_closed = True
            if self._mutex.acquire(timeout=LEAVE_TIMEOUT_S):  # else another thread is using the file
                self._drop()
                self._mutex.release()

    def _count_out(self, world_size: int) -> None:
        with self.writing(Deadline(LEAVE_TIMEOUT_S)) as space:
            if self._inode != self._counted_in:
                return  # somebody else's file stands in the place of ours
            closed, open_stores = self._count(space, CLEANUP) + 1, self._count(space, REFCOUNT) - 1
            self.write((CLEANUP, b"%d" % closed), (REFCOUNT, b"%d" % open_stores))
            if open_stores <= 0 and 0 <= world_size <= closed:
                os.unlink(self.path)  # noqa: PTH108 - a str throughout

    # --- inside ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self, kind: int, deadline: Deadline) -> Iterator[None]:
        deadline = deadline if deadline.timeout_s >= LOCK_TIMEOUT_MIN_S else Deadline(LOCK_TIMEOUT_MIN_S)
        self._after_fork()
        if not self._mutex.acquire(timeout=min(deadline.remaining_s(), threading.TIMEOUT_MAX)):
            raise self._lock_timed_out(deadline)
        _inside.depth = getattr(_inside, "depth", 0) + 1
        try:
            is_there = self._lock(kind, deadline)
            try:
                if is_there:
                    self._catch_up()
                yield
            finally:
                if is_there:
                    fcntl.flock(self._fd, fcntl.LOCK_UN)
        except OSError as error:
            if isinstance(error, DistStoreError):
                raise
            raise self._refused("used", error) from error
        finally:
            self._mutex.release()
            _inside.depth -= 1
            while _leaving and not _inside.depth:
                log, world_size = _leaving.pop()
                log.leave(world_size)

    def _lock(self, kind: int, deadline: Deadline) -> bool:
        """Lock the file that is at the path now; tell whether there is one."""
        pause_s = LOCK_PAUSE_FIRST_S
        while True:
            if not self._open(may_create=kind == fcntl.LOCK_EX):
                return False
            try:
                fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if deadline.has_passed():
                    raise self._lock_timed_out(deadline) from None
                time.sleep(min(pause_s, deadline.remaining_s()))
                pause_s = min(2 * pause_s, LOCK_PAUSE_MAX_S)
            else:
                if self._inode == _inode_at(self.path):
                    return True
                self._drop()  # it was removed before we had the lock; closing it also unlocks it

    def _open(self, *, may_create: bool) -> bool:
        if self._is_closed:
            raise DistStoreError(f"this FileStore on {self.path} is closed")
        if self._fd >= 0:
            if self._inode == _inode_at(self.path):
                return True
            self._drop()
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if may_create else 0), 0o644)
        except FileNotFoundError:
            if may_create or not os.path.isdir(os.path.dirname(self.path)):  # noqa: PTH112, PTH120 - a str throughout
                raise
            return False
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise DistStoreError(f"{self.path} is not a regular file, a FileStore needs one")
        self._fd, self._inode = fd, (status.st_dev, status.st_ino)
        return True

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._counted_in = None  # the parent counts itself out
            self._mutex = threading.Lock()  # another thread of the parent may have held it
            self._drop()

    def _drop(self) -> None:
        """Close the file and forget what it said."""
        fd, self._fd, self._inode = self._fd, -1, None
        if fd >= 0:
            os.close(fd)
        self._forget()

    def _forget(self) -> None:
        self.space = Keyspace()
        self._offset, self._tail, self._seen = 0, b"", None

    def _catch_up(self) -> None:
        """Read what has been written since the last time."""
        size = os.fstat(self._fd).st_size
        if size < self._offset or os.pread(self._fd, len(self._tail), self._offset - len(self._tail)) != self._tail:
            self._forget()
            self._counted_in = None  # our count went with the rest
        rest = b""
        while self._offset + len(rest) < size:
            at = self._offset + len(rest)
            more = os.pread(self._fd, min(max(READ_SIZE, len(rest)), size - at), at)
            if not more:
                break
            rest += more
            records, taken = decode_records(rest, self._offset, self.path)
            self._apply(records)
            if taken:
                self._advance(self._offset + taken, rest[:taken])
                rest = rest[taken:]
        if rest:
            raise damage(self.path, self._offset, f"the file ends {len(rest)} bytes into it")
        assert self._inode is not None
        self._seen = (*self._inode, self._offset)

    def _apply(self, records: list[tuple[bytes, bytes]]) -> None:
        for key, value in records:
            if key.startswith(REMOVED):
                self.space.delete(key[len(REMOVED) :])
            else:
                self.space.set(key, value)

    def _advance(self, offset: int, data: bytes) -> None:
        self._offset = offset
        self._tail = (self._tail + data[-TAIL_SIZE:])[-TAIL_SIZE:]
        assert self._inode is not None
        self._seen = (*self._inode, offset)

    def _count(self, space: Keyspace, key: bytes) -> int:
        text = space.get(key) or b"0"
        try:
            return int(text)
        except ValueError:
            raise DistStoreError(f"{self.path} has {text!r} under {key.decode()}, expected a number") from None

    def _lock_timed_out(self, deadline: Deadline) -> StoreTimeoutError:
        return StoreTimeoutError(
            f"Timeout waiting for the lock of {self.path} after {int(deadline.timeout_s * 1000)} ms: another process "
            "or thread holds it",
            waited_s=deadline.waited_s(),
        )

    def _refused(self, what: str, error: OSError) -> DistStoreError:
        return DistStoreError(f"{self.path} cannot be {what}: {error.strerror or error}")


def _inode_at(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - for each operation
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
