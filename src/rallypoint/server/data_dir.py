"""The directory of a durable server: who may use it, its files, and how many commits were acknowledged.

Theory of operation. Three files::

    store.db        the store, an SQLite database
    store.db-wal    commits that are not in it yet, while a server runs or after it was killed
    lock            held by the server that runs; in it: its process id, and how many commits were acknowledged

The number of acknowledged commits is written without a wait for the disk, *after* each commit has reached it. So after
a crash of the server, or of the machine, it is at most the number of commits that the store really has. If it is
above that, somebody has taken commits away: ``store.db-wal`` was cut, damaged or left out of a copy, which SQLite by
itself takes for a crash in the middle of a commit. Then the store would silently be an older one; it is refused
instead. Whoever wants the older one removes ``lock`` while no server runs.

Files are readable for their owner only, whatever the umask. A directory without a store in which there is anything else
is not taken: somebody has named the wrong one. (Other files beside a store, a copy of it perhaps, are left alone.)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from pathlib import Path

from rallypoint.errors import DistStoreError

__all__ = ["LOCK_NAME", "STORE_NAME", "DataDir", "DataDirError"]

STORE_NAME = "store.db"
"""The database's file."""

LOCK_NAME = "lock"
"""The lock's file."""

_OWN_NAMES = (STORE_NAME, LOCK_NAME, "store.new")  # what SQLite adds to them included
_OF_MOUNTS = ("lost+found",)  # in the root of a file system

_LOCK_LINE = re.compile(rb"pid ([0-9]{10}) commits ([0-9]{20})\n")


class DataDirError(DistStoreError):
    """The directory of a durable server cannot be used, or can be used no more.

    Attributes:
        path: the directory, or the file in it that is at fault.
    """

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class DataDir:
    """A directory, and the right to be the only one that uses it; until ``close`` or the end of the process.

    Args:
        directory: made if it is not there.

    Attributes:
        store: the path of the database; it need not be there yet.
        acknowledged: the commits that were acknowledged before this process, by the lock's file.

    Raises:
        DataDirError: it cannot be used, or another process uses it.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path = Path(directory)
        self.store = self.path / STORE_NAME
        lock = self.path / LOCK_NAME
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._refuse_foreign()
            self._lock_fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise DataDirError(f"{self.path} cannot be a data directory: {error}", path=str(self.path)) from error
        try:
            self.acknowledged = self._take_lock(lock)
            self.acknowledge(self.acknowledged)
            os.fsync(self._lock_fd)
            self.sync()
        except OSError as error:
            os.close(self._lock_fd)
            raise DataDirError(f"{lock} cannot be used: {error}", path=str(lock)) from error
        except DataDirError:
            os.close(self._lock_fd)
            raise

    def _refuse_foreign(self) -> None:
        found = {path.name for path in self.path.iterdir()}
        foreign = sorted(name for name in found if not name.startswith(_OWN_NAMES) and name not in _OF_MOUNTS)
        if foreign and not found & {STORE_NAME, LOCK_NAME}:
            others = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
            raise DataDirError(
                f"{self.path} is no data directory: there is no {STORE_NAME} in it, but {foreign[0]!r}{others}; give a "
                "new or an empty directory",
                path=str(self.path),
            )

    def _take_lock(self, lock: Path) -> int:
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            found = _LOCK_LINE.fullmatch(os.pread(self._lock_fd, 4096, 0))
            holder = f"process {int(found[1])}" if found else "another process"
            raise DataDirError(
                f"{self.path} is in use by {holder}: end that server, or give this one a directory of its own",
                path=str(lock),
            ) from error
        text = os.pread(self._lock_fd, 4096, 0)
        if not text:
            return 0
        found = _LOCK_LINE.fullmatch(text)
        if found is None:
            raise DataDirError(
                f"{lock} is not a lock of a rallypoint server: give it another directory", path=str(lock)
            )
        return int(found[2])

    def create_store(self) -> Path:
        """Make an empty file for a new database, under a name for the time until it is whole.

        Raises:
            DataDirError: it cannot be made.
        """
        path = self.store.with_suffix(".new")
        try:
            for leftover in self.path.glob(f"{path.name}*"):
                leftover.unlink()
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as error:
            raise DataDirError(f"{path} cannot be made: {error}", path=str(path)) from error
        return path

    def adopt_store(self, path: Path) -> None:
        """Let a new database, whole and closed, be the store.

        Raises:
            DataDirError: it cannot be renamed.
        """
        try:
            path.rename(self.store)
            self.sync()
        except OSError as error:
            raise DataDirError(f"{path} cannot become {self.store}: {error}", path=str(path)) from error

    def acknowledge(self, commits: int) -> None:
        """Note how many commits have reached the disk. Cost: one system call, no wait for the disk."""
        os.pwrite(self._lock_fd, self._line(os.getpid(), commits), 0)

    def sync(self) -> None:
        """Have the names of the directory's files on the disk."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let others use the directory; a second call does nothing."""
        if self._lock_fd >= 0:
            with contextlib.suppress(OSError):
                os.fsync(self._lock_fd)
            os.close(self._lock_fd)
            self._lock_fd = -1

    @staticmethod
    def _line(pid: int, commits: int) -> bytes:
        return b"pid %010d commits %020d\n" % (pid, commits)
