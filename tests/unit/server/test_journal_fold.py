from __future__ import annotations

import sqlite3
from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st
from tests.support.changes import changes

from rallypoint.server.batch import Batch
from rallypoint.server.changes import State, apply
from rallypoint.server.journal_fold import write_batch
from rallypoint.server.journal_tables import SCHEMA, read_state, read_tailed, summed


@given(changes(), st.integers(0, 40))
def test_batches_one_after_the_other_give_what_their_changes_give(given_changes, cut) -> None:
    state = State()
    apply(state, given_changes)
    tailed: set[bytes] = set()
    with closing(sqlite3.connect(":memory:")) as database:
        for statement in SCHEMA.values():
            database.execute(statement)
        database.execute("INSERT INTO facts VALUES (?, ?, ?, ?, ?)", summed((bytes(16), 0, 0, 0)))
        for part in (given_changes[:cut], given_changes[cut:]):
            batch = Batch()
            batch.add(part)
            write_batch(database, batch, tailed)
            assert read_tailed(database) == tailed
        found = read_state(database)
    assert list(found.keys.items()) == list(state.keys.items())
    assert (found.queues, found.leases, found.groups) == (state.queues, state.leases, state.groups)
    assert found.sessions == state.sessions
