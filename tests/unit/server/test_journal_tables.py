from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallypoint.server.changes import Member, State
from rallypoint.server.journal_tables import (
    SCHEMA,
    DamagedError,
    encode_members,
    read_facts,
    read_log,
    read_state,
    read_tailed,
    sum_of,
    summed,
)

columns = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.binary(max_size=9))


@pytest.fixture
def database():
    database = sqlite3.connect(":memory:")
    for statement in SCHEMA.values():
        database.execute(statement)
    database.execute("INSERT INTO facts VALUES (?, ?, ?, ?, ?)", summed((b"id", 3, 2, 1)))
    yield database
    database.close()


def test_sqlite_keeps_the_statements_as_they_are_written(database):
    assert dict(database.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")) == SCHEMA


@given(st.lists(columns, max_size=4), st.lists(columns, max_size=4))
def test_rows_that_differ_have_other_sums(one, other):
    assert (sum_of(one) == sum_of(other)) == (one == other)


def test_empty_tables_are_an_empty_state(database):
    assert read_facts(database) == (b"id", 3, 2, 1)
    assert read_state(database) == State(revision=2, lease_last=1)


@pytest.mark.parametrize(
    ("table", "row", "what"),
    [
        ("keys", (1, b"k", b"v", 1, 0, 5), "a row of keys is not what was written"),
        ("keys", (1, b"k", "v", 1, 0, 5), "a row of keys is not what was written"),
        ("sessions", summed((b"s", b"", 5, 1)), "a text is of the type int"),
        ("leases", summed((1, b"ttl", b"", b"")), "a number is of the type bytes"),
        ("settled", summed((b"s", 1)), "belongs to a session that is not there"),
        ("bodies", (1, b"body", 5), "a row of bodies is not what was written"),
        ("tails", (1, b"k", b"v", 1, sum_of((b"k", b"v", 1))), "an end and no beginning"),
    ],
)
def test_what_cannot_have_been_written_is_damage(database, table, row, what):
    database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    with pytest.raises(DamagedError, match=what):
        read_state(database)


def test_members_of_any_label_come_back(database):
    members = (Member(0, b"s" * 16, b""), Member(2**32 - 1, b"t" * 16, "häns".encode()))
    database.execute("INSERT INTO groups VALUES (?, ?, ?, ?, ?)", summed((46, b"g", 7, encode_members(members))))
    assert read_state(database).groups == {(46, b"g"): (7, members)}


def test_the_log_is_what_follows_the_other_tables(database):
    assert read_log(database, 3) == []
    database.executemany("INSERT INTO log VALUES (?, ?, ?)", [summed((5, b"y")), summed((4, b"x"))])
    assert read_log(database, 3) == [b"x", b"y"]
    for commits in (2, 4):
        with pytest.raises(DamagedError, match=f"2 commits after the first {commits}, and they do not follow"):
            read_log(database, commits)


def test_keys_with_tails_are_known(database):
    database.executemany("INSERT INTO tails VALUES (?, ?, ?, ?, ?)", [(n, b"k", b"t", 1, 0) for n in range(3)])
    assert read_tailed(database) == {b"k"}
