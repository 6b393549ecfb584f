"""How a batch of changes goes into the tables that have what all commits before it add up to.

What this file does not know: transactions, the log, what is in the tables.
"""

from __future__ import annotations

import sqlite3

from rallypoint.server.batch import Batch
from rallypoint.server.journal_tables import Row, encode_members, summed

__all__ = ["write_batch"]


def write_batch(database: sqlite3.Connection, batch: Batch, tailed: set[bytes]) -> None:
    """Write a batch, in the caller's transaction.

    Args:
        database: with the tables.
        batch: what to write.
        tailed: the keys that have tails, kept up to date.

    Raises:
        sqlite3.Error: it failed, after any part of it.
    """
    _write_keys(database, batch, tailed)
    _write_queues(database, batch)
    _write_leases(database, batch)
    _write_sessions(database, batch)
    _write_answers(database, batch)
    _write_groups(database, batch)


def _write_keys(database: sqlite3.Connection, batch: Batch, tailed: set[bytes]) -> None:
    if batch.keys_gone:
        database.executemany("DELETE FROM keys WHERE key = ?", ((key,) for key in batch.keys_gone))
    if tailed:
        whole = [key for key in (*batch.keys_gone, *batch.keys) if key in tailed]
        database.executemany("DELETE FROM tails WHERE key = ?", ((key,) for key in whole))
        tailed.difference_update(whole)
    if batch.keys:
        database.executemany(
            "INSERT INTO keys (key, value, revision, lease, sum) VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE"
            " SET value = excluded.value, revision = excluded.revision, lease = excluded.lease, sum = excluded.sum",
            (summed((key, *state)) for key, state in batch.keys.items()),
        )
    if batch.tails:
        database.executemany(
            "INSERT INTO tails (key, tail, revision, sum) VALUES (?, ?, ?, ?)",
            (summed((key, b"".join(parts), revision)) for key, (parts, revision) in batch.tails.items()),
        )
        tailed.update(batch.tails)


def _write_queues(database: sqlite3.Connection, batch: Batch) -> None:
    if batch.pushed:
        database.executemany("INSERT INTO items (name, item, sum) VALUES (?, ?, ?)", map(summed, batch.pushed))
    if batch.popped:
        database.executemany(
            "DELETE FROM items WHERE number IN (SELECT number FROM items WHERE name = ? ORDER BY number LIMIT ?)",
            batch.popped.items(),
        )


def _write_leases(database: sqlite3.Connection, batch: Batch) -> None:
    if batch.leases_gone:
        database.executemany("DELETE FROM leases WHERE lease = ?", ((lease,) for lease in batch.leases_gone))
    if batch.leases:
        database.executemany(
            "INSERT INTO leases VALUES (?, ?, ?, ?, ?)",
            (summed((lease, *state)) for lease, state in batch.leases.items()),
        )


def _write_sessions(database: sqlite3.Connection, batch: Batch) -> None:
    if batch.sessions_gone:
        for table in ("sessions", "settled", "answers"):
            statement = f"DELETE FROM {table} WHERE session = ?"  # noqa: S608
            database.executemany(statement, ((session,) for session in batch.sessions_gone))
    if batch.sessions:
        database.executemany("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", map(summed, batch.sessions.values()))


def _write_answers(database: sqlite3.Connection, batch: Batch) -> None:
    rows: list[Row] = []
    numbers: dict[int, int | None] = {}  # of bodies, by the identity of the object
    for session, request, answer in batch.answers:
        number = None
        if answer is not None and answer.body:
            number = numbers.get(id(answer.body))
            if number is None:
                number = numbers[id(answer.body)] = _write_body(database, answer.body)
        rows.append(summed((session, request, None if answer is None else answer.head, number)))
    if rows:
        database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", rows)
    if batch.done:
        database.executemany("INSERT OR REPLACE INTO settled VALUES (?, ?, ?)", map(summed, batch.done.items()))
        database.executemany("DELETE FROM answers WHERE session = ? AND request < ?", batch.done.items())
    database.execute("DELETE FROM bodies WHERE number NOT IN (SELECT body FROM answers WHERE body IS NOT NULL)")


def _write_body(database: sqlite3.Connection, body: bytes) -> int:
    (number,) = database.execute("SELECT coalesce(max(number), 0) + 1 FROM bodies").fetchone()
    database.execute("INSERT INTO bodies VALUES (?, ?, ?)", summed((number, body)))
    return int(number)


def _write_groups(database: sqlite3.Connection, batch: Batch) -> None:
    if batch.groups_gone:
        database.executemany("DELETE FROM groups WHERE kind = ? AND name = ?", batch.groups_gone)
    if batch.groups:
        rows = (
            summed((*group, state.generation, encode_members(state.members))) for group, state in batch.groups.items()
        )
        database.executemany("INSERT OR REPLACE INTO groups VALUES (?, ?, ?, ?, ?)", rows)
