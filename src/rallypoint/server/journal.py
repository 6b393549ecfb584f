"""What a durable server remembers, on disk: an SQLite database, one transaction for each wake-up of the loop.

Theory of operation::

    open --> lock --> file is ours, of this format, whole --> load: State
    write(changes) --> one row of the log, with all of them: on the disk (WAL, synchronous=FULL)
                          |                        '--> acknowledge: how many commits there are
                          '--many changes later--> fold: what they add up to goes into the other tables

A commit waits for the disk once, however many changes it has, and writes little more than they are, in one place. The
tables are spread out, so that a change costs a page there; folding many commits at once writes each page, and each key
that changed often, once. What is folded in the end is what a ``Batch`` of all those changes says.

When a commit fails, because the disk is full or broken, nobody can know what the disk has: the journal takes no more,
the server ends, and what was not answered is sent again to the next one.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from rallypoint.server.batch import Batch
from rallypoint.server.changes import Change, State, apply
from rallypoint.server.data_dir import DataDir, DataDirError
from rallypoint.server.journal_fold import write_batch
from rallypoint.server.journal_log import decode_changes, encode_changes
from rallypoint.server.journal_tables import (
    SCHEMA,
    DamagedError,
    Facts,
    read_facts,
    read_log,
    read_state,
    read_tailed,
    sum_of,
    summed,
)

__all__ = ["APPLICATION_ID", "FOLD_COUNT", "FOLD_SIZE", "FORMAT", "WAL_PAGES_MAX", "Journal"]

APPLICATION_ID: Final = 0x52505331
"""What says in an SQLite file's head that it is one of these: ``RPS1``."""

FORMAT: Final = 1
"""The version of the tables. A file of a newer one is refused."""

FOLD_COUNT: Final = 16_384
"""Changes after which the log is folded: some 20 ms then, in the loop's thread."""

FOLD_SIZE: Final = 4 << 20
"""Bytes of the log after which it is folded."""

WAL_PAGES_MAX: Final = 4000
"""Pages of commits after which they are moved into the database; a large commit may exceed it."""

_FREE_PAGES = 256  # given back to the system at a time
_WAL_SIZE_MAX = 64 << 20  # kept of the file of commits after a large one
_HEAD = b"SQLite format 3\0"


class Journal:
    """One data directory, opened.

    Args:
        directory: made if it is not there.
        data_id: the identity of the data if there is none yet, 16 bytes.

    Attributes:
        data_id: the identity of the data.
        commits: how many there were since the data was made.

    Raises:
        DataDirError: the directory cannot be used, another server uses it, or what is in it is foreign, damaged, or of
            a newer format.

    Threads: none but the caller's, one at a time.
    """

    def __init__(self, directory: str | os.PathLike[str], data_id: bytes) -> None:
        self._dir = DataDir(directory)
        self._path = self._dir.store
        self._batch = Batch()  # the log
        self._log_size = 0
        self._unread: list[bytes] = []  # of the log, not in the batch yet
        self._has_failed = False
        try:
            self._find_store(data_id)
            self._database = _connect(self._path)
        except BaseException:
            self._dir.close()
            raise
        try:
            with self._refusing():
                _prepare(self._database)
                self._check()
                self._read_log()
                self._database.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES_MAX}")
            self._check_commits(self.commits)
        except BaseException:
            self._abandon()
            raise

    # --- opening -----------------------------------------------------------------------------------------

    def _find_store(self, data_id: bytes) -> None:
        if not self._path.exists():
            self._check_commits(0)
            self._create(data_id)
        self._check_head()

    def _create(self, data_id: bytes) -> None:
        path = self._dir.create_store()
        try:
            database = _connect(path)
            try:
                _prepare(database)
                database.execute("PRAGMA auto_vacuum = INCREMENTAL")
                database.execute("BEGIN IMMEDIATE")
                database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                database.execute(f"PRAGMA user_version = {FORMAT}")
                for statement in SCHEMA.values():
                    database.execute(statement)
                facts = (data_id, 0, 0, 0)
                database.execute("INSERT INTO facts VALUES (?, ?, ?, ?, ?)", (*facts, sum_of(facts)))
                database.execute("COMMIT")
                database.execute("PRAGMA journal_mode = WAL")  # last: so that all is in this one file
            finally:
                database.close()
        except sqlite3.Error as error:
            raise DataDirError(f"{path} cannot be made: {error}", path=str(path)) from error
        self._dir.adopt_store(path)

    def _check_head(self) -> None:
        """Refuse a foreign file before SQLite touches it."""
        try:
            with self._path.open("rb") as file:
                head = file.read(100)
        except OSError as error:
            raise DataDirError(f"{self._path} cannot be read: {error}", path=str(self._path)) from error
        if len(head) < 100 or not head.startswith(_HEAD):
            raise self._refused("is no SQLite database: it is foreign, or its beginning is lost")
        version, _, application = struct.unpack_from(">III", head, 60)
        if application != APPLICATION_ID:
            raise self._refused(f"is foreign: its application id is {application:#x}, not {APPLICATION_ID:#x}")
        if version != FORMAT:
            age = "newer" if version > FORMAT else "unknown"
            raise DataDirError(
                f"{self._path} has the {age} format {version}, this rallypoint reads format {FORMAT}: serve it with the"
                " release that wrote it, or with a later one",
                path=str(self._path),
            )

    def _check(self) -> None:
        (mode,) = self._database.execute("PRAGMA journal_mode").fetchone()
        if mode != "wal":
            raise self._refused(f"is in the journal mode {mode!r}, not in 'wal'")
        found = self._database.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        if dict(found) != SCHEMA:
            raise self._refused("has other tables than this server writes")
        (verdict,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise self._refused(f"is damaged: {' '.join(verdict.split())}")

    def load(self) -> State:
        """Give what all commits add up to.

        Raises:
            DataDirError: something is damaged.

        Cost: everything is read, and held once by the state.
        """
        with self._refusing():
            state = read_state(self._database)
            for changes in read_log(self._database, read_facts(self._database)[1]):
                apply(state, decode_changes(changes))
        return state

    def _read_log(self) -> None:
        self.data_id, self.commits, self._revision, self._lease_last = read_facts(self._database)
        self._tailed = read_tailed(self._database)
        log = read_log(self._database, self.commits)
        for changes in log:
            self._batch.add(decode_changes(changes))
            self._log_size += len(changes)
        self.commits += len(log)

    # --- writing -----------------------------------------------------------------------------------------

    def write(self, changes: Sequence[Change]) -> None:
        """Have changes on the disk, all or none.

        Args:
            changes: what came about since the last call, in its order; nothing to do if empty.

        Raises:
            DataDirError: they could not be committed. The journal takes nothing any more.

        Cost: one wait for the disk, about 0.1 ms on a fast one; linear in the size of the changes. Now and then the log
        is folded.
        """
        if changes:
            self._commit(encode_changes(changes))
            self._take_in(changes)

    def write_encoded(self, commit: bytes, sum_count: int) -> bool:
        """As ``write``, changes that the compiled engine has made bytes of; the log is left to ``fold``.

        Args:
            commit: they.
            sum_count: how many changes all that was written so adds up to since the last fold, about.

        Returns:
            Whether the log is to be folded.
        """
        self._commit(commit)
        self._unread.append(commit)
        return sum_count > FOLD_COUNT // 4 or self._log_size > FOLD_SIZE

    def _commit(self, commit: bytes) -> None:
        if self._has_failed:
            raise AssertionError("a journal that has failed was written to")
        with self._failing(f"{len(commit)} bytes of changes"):
            self._database.execute("INSERT INTO log VALUES (?, ?, ?)", summed((self.commits + 1, commit)))
            self.commits += 1
            self._dir.acknowledge(self.commits)
        self._log_size += len(commit)

    def fold(self, total: bytes) -> None:
        """Fold the log.

        Args:
            total: changes, encoded, that all commits that were written encoded since the last time add up to.

        Raises:
            DataDirError: it has failed. The journal takes nothing any more.
        """
        self._unread.clear()
        self._batch.add(decode_changes(total))
        with self._failing("the log, folded,"):
            self._fold()

    def _take_in(self, changes: Sequence[Change]) -> None:
        self._batch.add(changes)
        if self._batch.count > FOLD_COUNT or self._log_size > FOLD_SIZE:
            with self._failing("the log, folded,"):
                self._fold()

    @contextlib.contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self._has_failed = True
            raise DataDirError(
                f"{what} could not be committed to {self._path} ({error}), and nothing was answered that is not on it:"
                " the server ends; make sure that the disk has room and is sound, and start it again",
                path=str(self._path),
            ) from error

    def _fold(self) -> None:
        """Bring the log into the other tables, all or nothing."""
        batch = self._batch
        execute = self._database.execute
        execute("BEGIN IMMEDIATE")
        write_batch(self._database, batch, self._tailed)
        self._revision = max(self._revision, batch.revision)
        self._lease_last = max(self._lease_last, batch.lease_last)
        facts: Facts = (self.data_id, self.commits, self._revision, self._lease_last)
        execute("UPDATE facts SET data_id = ?, commits = ?, revision = ?, lease_last = ?, sum = ?", summed(facts))
        execute("DELETE FROM log")
        execute(f"PRAGMA incremental_vacuum({_FREE_PAGES})").fetchall()
        execute("COMMIT")
        self._batch = Batch()
        self._log_size = 0

    # --- the end -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """End: the log is folded, commits are moved into the database; a second call does nothing."""
        if not self._has_failed:
            with contextlib.suppress(sqlite3.Error, DataDirError):  # all that counts is on the disk
                for commit in self._unread:
                    self._batch.add(decode_changes(commit))
                if self._batch.count:
                    self._fold()
        self._has_failed = True
        self._abandon()

    def _abandon(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._database.close()
        self._dir.close()

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise DataDirError(f"{self._path} cannot be used: {error}", path=str(self._path)) from error
        except (sqlite3.Error, DamagedError, struct.error) as error:
            raise self._refused(f"is damaged: {error}") from error

    def _refused(self, what: str) -> DataDirError:
        return DataDirError(
            f"{self._path} {what}; restore the whole directory from a copy, or serve from another one",
            path=str(self._path),
        )

    def _check_commits(self, commits: int) -> None:
        if commits < self._dir.acknowledged:
            raise self._refused(
                f"has {commits} commits, of {self._dir.acknowledged} that were acknowledged: it or"
                f" {self._path.name}-wal is lost, cut or damaged"
            )


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)


def _prepare(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("PRAGMA temp_store = MEMORY")
    database.execute(f"PRAGMA journal_size_limit = {_WAL_SIZE_MAX}")
