"""What a durable server remembers, on disk: an SQLite database, one transaction for each wake-up of the loop.

Theory of operation::

    open --> lock --> file is ours, of this format, whole --> load: State
    write(changes) --> Batch --> BEGIN, a statement for each kind of thing, COMMIT: on the disk (WAL, synchronous=FULL)
                                                                       |
                                                 acknowledge: how many commits there are

A commit waits for the disk once, however many changes it has. When it fails, because the disk is full or broken, nobody
can know what the disk has: the journal takes no more, the server ends, and what was not answered is sent again to the
next one.

Growth. Answers are removed lazily, ``SETTLED_MAX`` at a time; until then more of them are kept than are needed, which
hurts nobody: no client asks for a settled one. Pages that are free go back to the system in small steps.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from rallypoint.server.batch import Batch
from rallypoint.server.changes import Change, Member, State
from rallypoint.server.data_dir import DataDir, DataDirError
from rallypoint.server.journal_tables import (
    SCHEMA,
    DamagedError,
    Facts,
    Row,
    encode_members,
    read_facts,
    read_state,
    sum_of,
    summed,
)

__all__ = ["APPLICATION_ID", "FORMAT", "SETTLED_MAX", "WAL_PAGES_MAX", "Journal"]

APPLICATION_ID: Final = 0x52505331
"""What says in an SQLite file's head that it is one of these: ``RPS1``."""

FORMAT: Final = 1
"""The version of the tables. A file of a newer one is refused."""

SETTLED_MAX: Final = 4096
"""Settlements of requests after which settled answers are removed."""

WAL_PAGES_MAX: Final = 1000
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
        self._settled: dict[bytes, int] = {}
        self._settlements = 0
        self._tailed: set[bytes] = set()
        self._members: dict[tuple[int, bytes], tuple[Member, ...]] = {}
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
                self.data_id, self.commits, self._revision, self._lease_last = read_facts(self._database)
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
        """Give what all commits add up to; before the first ``write``. Answers that are settled may be among it.

        Raises:
            DataDirError: something is damaged.

        Cost: everything is read, and held once by the state.
        """
        with self._refusing():
            state, self._tailed = read_state(self._database)
        self._members = {group: found.members for group, found in state.groups.items()}
        return state

    # --- writing -----------------------------------------------------------------------------------------

    def write(self, changes: Sequence[Change]) -> None:
        """Have changes on the disk, all or none.

        Args:
            changes: what came about since the last call, in its order; nothing to do if empty.

        Raises:
            DataDirError: they could not be committed. The journal takes nothing any more.

        Cost: one wait for the disk, about 0.1 ms on a fast one; linear in the changes. Every ``WAL_PAGES_MAX`` pages
        some milliseconds for moving them.
        """
        if not changes:
            return
        if self._has_failed:
            raise AssertionError("a journal that has failed was written to")
        batch = Batch(changes)
        try:
            execute = self._database.execute
            execute("BEGIN IMMEDIATE")
            self._write_keys(batch)
            self._write_queues(batch)
            self._write_leases(batch)
            self._write_sessions(batch)
            self._write_answers(batch)
            self._write_groups(batch)
            if self._settlements > SETTLED_MAX:
                self._remove_settled()
            facts = self._next_facts(batch)
            execute(
                "UPDATE facts SET data_id = ?, commits = ?, revision = ?, lease_last = ?, sum = ?",
                (*facts, sum_of(facts)),
            )
            execute("COMMIT")
            self.commits += 1
            self._dir.acknowledge(self.commits)
        except (sqlite3.Error, OSError) as error:
            self._has_failed = True
            raise DataDirError(
                f"{len(changes)} changes could not be committed to {self._path} ({error}), and have not been answered:"
                " the server ends; make sure that the disk has room and is sound, and start it again",
                path=str(self._path),
            ) from error

    def _next_facts(self, batch: Batch) -> Facts:
        self._revision = max(self._revision, batch.revision)
        self._lease_last = max(self._lease_last, batch.lease_last)
        return self.data_id, self.commits + 1, self._revision, self._lease_last

    def _many(self, statement: str, rows: Iterable[Row]) -> None:
        self._database.executemany(statement, rows)

    def _write_keys(self, batch: Batch) -> None:
        if batch.keys_gone:
            self._many("DELETE FROM keys WHERE key = ?", ((key,) for key in batch.keys_gone))
        if self._tailed:
            tailed = [key for key in (*batch.keys_gone, *batch.keys) if key in self._tailed]
            self._many("DELETE FROM tails WHERE key = ?", ((key,) for key in tailed))
            self._tailed.difference_update(tailed)
        if batch.keys:
            self._many(
                "INSERT INTO keys (key, value, revision, lease, sum) VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE"
                " SET value = excluded.value, revision = excluded.revision, lease = excluded.lease, sum = excluded.sum",
                (summed((key, *state)) for key, state in batch.keys.items()),
            )
        if batch.tails:
            self._many(
                "INSERT INTO tails (key, tail, revision, sum) VALUES (?, ?, ?, ?)",
                (summed((key, b"".join(parts), revision)) for key, (parts, revision) in batch.tails.items()),
            )
            self._tailed.update(batch.tails)

    def _write_queues(self, batch: Batch) -> None:
        if batch.pushed:
            self._many("INSERT INTO items (name, item, sum) VALUES (?, ?, ?)", map(summed, batch.pushed))
        if batch.popped:
            self._many(
                "DELETE FROM items WHERE number IN (SELECT number FROM items WHERE name = ? ORDER BY number LIMIT ?)",
                batch.popped.items(),
            )

    def _write_leases(self, batch: Batch) -> None:
        if batch.leases_gone:
            self._many("DELETE FROM leases WHERE lease = ?", ((lease,) for lease in batch.leases_gone))
        if batch.leases:
            self._many(
                "INSERT INTO leases VALUES (?, ?, ?, ?, ?)",
                (summed((lease, *state)) for lease, state in batch.leases.items()),
            )

    def _write_sessions(self, batch: Batch) -> None:
        if batch.sessions_gone:
            for table in ("sessions", "settled", "answers"):
                statement = f"DELETE FROM {table} WHERE session = ?"  # noqa: S608
                self._many(statement, ((session,) for session in batch.sessions_gone))
            for session in batch.sessions_gone:
                self._settled.pop(session, None)
            self._settlements += len(batch.sessions_gone)  # their answers' bodies
        if batch.sessions:
            self._many("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", map(summed, batch.sessions.values()))

    def _write_answers(self, batch: Batch) -> None:
        rows: list[Row] = []
        numbers: dict[int, int | None] = {}  # of bodies, by the identity of the object
        for session, request, answer in batch.answers:
            number = None
            if answer is not None and answer.body:
                number = numbers.get(id(answer.body))
                if number is None:
                    number = numbers[id(answer.body)] = self._write_body(answer.body)
            rows.append(summed((session, request, None if answer is None else answer.head, number)))
        if rows:
            self._many("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", rows)
        self._settled.update(batch.done)
        self._settlements += len(batch.done)

    def _write_body(self, body: bytes) -> int:
        (number,) = self._database.execute("SELECT coalesce(max(number), 0) + 1 FROM bodies").fetchone()
        self._database.execute("INSERT INTO bodies VALUES (?, ?, ?)", summed((number, body)))
        return int(number)

    def _write_groups(self, batch: Batch) -> None:
        if batch.groups_gone:
            for table in ("groups", "members"):
                self._many(f"DELETE FROM {table} WHERE kind = ? AND name = ?", batch.groups_gone)  # noqa: S608
            for group in batch.groups_gone:
                self._members.pop(group, None)
        if batch.groups:
            rows = (summed((*group, state.generation)) for group, state in batch.groups.items())
            self._many("INSERT OR REPLACE INTO groups VALUES (?, ?, ?, ?)", rows)
        for group, state in batch.groups.items():
            if self._members.get(group) != state.members:  # most groups meet again as they are
                row = summed((*group, encode_members(state.members)))
                self._database.execute("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?)", row)
                self._members[group] = state.members

    def _remove_settled(self) -> None:
        """Remove the answers that nobody asks for any more, and give some of the free pages back."""
        rows = list(self._settled.items())
        self._many("INSERT OR REPLACE INTO settled VALUES (?, ?, ?)", map(summed, rows))
        self._many("DELETE FROM answers WHERE session = ? AND request < ?", rows)
        self._database.execute(
            "DELETE FROM bodies WHERE number NOT IN (SELECT body FROM answers WHERE body IS NOT NULL)"
        )
        self._database.execute(f"PRAGMA incremental_vacuum({_FREE_PAGES})").fetchall()
        self._settled.clear()
        self._settlements = 0

    # --- the end -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """End: settled answers are removed, commits moved into the database; a second call does nothing."""
        if not self._has_failed:
            with contextlib.suppress(sqlite3.Error):  # all that counts is on the disk
                self._database.execute("BEGIN IMMEDIATE")
                self._remove_settled()
                self._database.execute("COMMIT")
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
