"""The tables of a journal: what is in them, how a row is known to be whole, how rows become a state.

Every row carries a checksum, because SQLite's pages have none: what the disk gives back otherwise than it was written
is noticed, if not by the checks of the database's structure, then by that.

Commits that came last are in the table ``log``, as they were written; the others have what all commits before them add
up to. Values that APPEND grows are kept as a value and its tails, so that an append costs what it adds. Bodies that
several answers share are kept once.

What this file does not know: files, transactions, who may open them.
"""

from __future__ import annotations

import sqlite3
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias
from zlib import crc32

from rallypoint.server.changes import Answer, GroupState, KeyState, LeaseState, Member, SessionState, State

__all__ = [
    "SCHEMA",
    "DamagedError",
    "Facts",
    "Row",
    "encode_members",
    "read_facts",
    "read_log",
    "read_state",
    "read_tailed",
    "sum_of",
    "summed",
]

Column: TypeAlias = int | bytes | None
Row: TypeAlias = tuple[Column, ...]

_MEMBER = struct.Struct("<IHH")  # rank, bytes of the session's id, bytes of the label

# A sum covers the columns before it, but those that SQLite assigns.
SCHEMA: Final = {
    "facts": "CREATE TABLE facts (data_id BLOB NOT NULL, commits INTEGER NOT NULL, revision INTEGER NOT NULL,"
    " lease_last INTEGER NOT NULL, sum INTEGER NOT NULL)",
    "keys": "CREATE TABLE keys (number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, value BLOB NOT NULL,"
    " revision INTEGER NOT NULL, lease INTEGER NOT NULL, sum INTEGER NOT NULL)",
    "tails": "CREATE TABLE tails (number INTEGER PRIMARY KEY, key BLOB NOT NULL, tail BLOB NOT NULL,"
    " revision INTEGER NOT NULL, sum INTEGER NOT NULL)",
    "tails_by_key": "CREATE INDEX tails_by_key ON tails (key)",
    "items": "CREATE TABLE items (number INTEGER PRIMARY KEY, name BLOB NOT NULL, item BLOB NOT NULL,"
    " sum INTEGER NOT NULL)",
    "items_by_name": "CREATE INDEX items_by_name ON items (name)",
    "leases": "CREATE TABLE leases (lease INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL, session BLOB NOT NULL,"
    " identity BLOB NOT NULL, sum INTEGER NOT NULL)",
    "sessions": "CREATE TABLE sessions (session BLOB PRIMARY KEY, label BLOB NOT NULL, identity BLOB NOT NULL,"
    " timeout_ms INTEGER NOT NULL, sum INTEGER NOT NULL) WITHOUT ROWID",
    "settled": "CREATE TABLE settled (session BLOB PRIMARY KEY, done INTEGER NOT NULL, sum INTEGER NOT NULL)"
    " WITHOUT ROWID",
    "answers": "CREATE TABLE answers (session BLOB NOT NULL, request INTEGER NOT NULL, head BLOB, body INTEGER,"
    " sum INTEGER NOT NULL, PRIMARY KEY (session, request)) WITHOUT ROWID",
    "answers_by_body": "CREATE INDEX answers_by_body ON answers (body) WHERE body IS NOT NULL",
    "bodies": "CREATE TABLE bodies (number INTEGER PRIMARY KEY, body BLOB NOT NULL, sum INTEGER NOT NULL)",
    "groups": "CREATE TABLE groups (kind INTEGER NOT NULL, name BLOB NOT NULL, generation INTEGER NOT NULL,"
    " members BLOB NOT NULL, sum INTEGER NOT NULL, PRIMARY KEY (kind, name)) WITHOUT ROWID",
    "log": "CREATE TABLE log (number INTEGER PRIMARY KEY, changes BLOB NOT NULL, sum INTEGER NOT NULL)",
}
"""Name -> the statement that makes it, which SQLite keeps as it is written here."""

Facts: TypeAlias = tuple[bytes, int, int, int]
"""Id of the data; of what the other tables have: number of commits, last revision, last lease."""


class DamagedError(Exception):
    """The database is well formed, but not what was written."""


def sum_of(row: Iterable[Column]) -> int:
    """Give a checksum over all columns and their limits."""
    total = 0
    for column in row:
        if isinstance(column, bytes):
            total = crc32(column, crc32(b"b%d:" % len(column), total))
        elif column is None:
            total = crc32(b"-", total)
        else:
            total = crc32(b"%d;" % column, total)
    return total


def summed(row: Row) -> Row:
    """Give a row with its sum behind it."""
    return (*row, sum_of(row))


def encode_members(members: Iterable[Member]) -> bytes:
    """Give the members of a group's generation as one text."""
    return b"".join(_MEMBER.pack(rank, len(session), len(label)) + session + label for rank, session, label in members)


def read_facts(database: sqlite3.Connection) -> Facts:
    """Give the one row of facts.

    Raises:
        DamagedError: it is not there, not alone or not whole.
    """
    rows = list(_rows(database, "facts", "data_id, commits, revision, lease_last"))
    if len(rows) != 1:
        raise DamagedError(f"{len(rows)} rows of facts")
    data_id, commits, revision, lease_last = rows[0]
    return _bytes(data_id), _int(commits), _int(revision), _int(lease_last)


def read_log(database: sqlite3.Connection, commits: int) -> list[bytes]:
    """Give the commits that are not in the other tables yet, oldest first.

    Args:
        database: where they are.
        commits: how many are in the other tables.

    Raises:
        DamagedError: one is not whole, or not there though a later one is.
    """
    log = list(_rows(database, "log", "number, changes", "number"))
    if [number for number, _ in log] != list(range(commits + 1, commits + 1 + len(log))):
        raise DamagedError(
            f"there are {len(log)} commits after the first {commits}, and they do not follow one another"
        )
    return [_bytes(changes) for _, changes in log]


def read_tailed(database: sqlite3.Connection) -> set[bytes]:
    """Give the keys that have tails."""
    return {_bytes(key) for (key,) in database.execute("SELECT DISTINCT key FROM tails")}


def read_state(database: sqlite3.Connection) -> State:
    """Give what all rows but the log's add up to.

    Raises:
        DamagedError: a row is not whole, or belongs to nothing.

    Cost: everything is read, and held once by the state.
    """
    _, _, revision, lease_last = read_facts(database)
    state = State(revision, lease_last)
    for key, value, revised, lease in _rows(database, "keys", "key, value, revision, lease", "number"):
        state.keys[_bytes(key)] = KeyState(_bytes(value), _int(revised), _int(lease))
    _read_tails(database, state)
    for name, item in _rows(database, "items", "name, item", "number"):
        state.queues.setdefault(_bytes(name), []).append(_bytes(item))
    for lease, ttl_ms, session, identity in _rows(database, "leases", "lease, ttl_ms, session, identity"):
        state.leases[_int(lease)] = LeaseState(_int(ttl_ms), _bytes(session), _bytes(identity))
    _read_sessions(database, state)
    _read_groups(database, state)
    return state


def _read_tails(database: sqlite3.Connection, state: State) -> None:
    tails: defaultdict[bytes, list[bytes]] = defaultdict(list)
    revisions: dict[bytes, int] = {}
    for column, tail, revision in _rows(database, "tails", "key, tail, revision", "number"):
        key = _bytes(column)
        tails[key].append(_bytes(tail))
        revisions[key] = _int(revision)
    for key, parts in tails.items():
        old = state.keys.get(key)
        if old is None:
            raise DamagedError("the value of a key has an end and no beginning")
        state.keys[key] = KeyState(b"".join((old.value, *parts)), revisions[key], old.lease)


def _read_sessions(database: sqlite3.Connection, state: State) -> None:
    for session, label, identity, timeout_ms in _rows(database, "sessions", "session, label, identity, timeout_ms"):
        state.sessions[_bytes(session)] = SessionState(_bytes(label), _bytes(identity), _int(timeout_ms))
    for session, done in _rows(database, "settled", "session, done"):
        _session(state, session).done = _int(done)
    bodies = {number: _bytes(body) for number, body in _rows(database, "bodies", "number, body")}
    for session, request, head, body in _rows(database, "answers", "session, request, head, body"):
        if body is not None and body not in bodies:
            raise DamagedError("an answer has no body")
        answer = None if head is None else Answer(_bytes(head), b"" if body is None else bodies[body])
        _session(state, session).answers[_int(request)] = answer


def _session(state: State, session: Column) -> SessionState:
    found = state.sessions.get(_bytes(session))
    if found is None:
        raise DamagedError("something belongs to a session that is not there")
    return found


def _read_groups(database: sqlite3.Connection, state: State) -> None:
    for kind, name, generation, members in _rows(database, "groups", "kind, name, generation, members"):
        state.groups[_int(kind), _bytes(name)] = GroupState(_int(generation), _decode_members(_bytes(members)))


def _decode_members(text: bytes) -> tuple[Member, ...]:
    members = []
    at = 0
    while at < len(text):
        rank, session_size, label_size = _MEMBER.unpack_from(text, at)
        at += _MEMBER.size
        label_at = at + session_size
        members.append(Member(rank, text[at:label_at], text[label_at : label_at + label_size]))
        at = label_at + label_size
    return tuple(members)


def _rows(database: sqlite3.Connection, table: str, columns: str, order: str = "") -> Iterator[Row]:
    """Give rows whose sums are right, without the sums."""
    ordered = f" ORDER BY {order}" if order else ""
    for *row, expected in database.execute(f"SELECT {columns}, sum FROM {table}{ordered}"):  # noqa: S608
        if not all(column is None or isinstance(column, (int, bytes)) for column in row) or sum_of(row) != expected:
            raise DamagedError(f"a row of {table} is not what was written")
        yield tuple(row)


def _int(column: Column) -> int:
    if not isinstance(column, int):
        raise DamagedError(f"a number is of the type {type(column).__name__}")
    return column


def _bytes(column: Column) -> bytes:
    if not isinstance(column, bytes):
        raise DamagedError(f"a text is of the type {type(column).__name__}")
    return column
