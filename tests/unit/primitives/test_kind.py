"""The two ways in which a name is used."""

from __future__ import annotations

import pytest
from tests.support.session_store import FakeServer, PlainStore

from rallypoint.errors import DistStoreError
from rallypoint.primitives.kind import agree_on_kind, has_sessions


def test_the_way_is_what_the_store_can_do_and_all_agree_on_it():
    session, store = FakeServer().connect(), PlainStore()
    for _ in range(2):
        assert agree_on_kind(session, "n")
        assert not agree_on_kind(store, "n")


@pytest.mark.parametrize(("store", "theirs"), [(PlainStore(), "sessions"), (FakeServer().connect(), "plain")])
def test_who_goes_the_other_way_is_refused(store, theirs):
    store.set("n/kind", theirs)
    with pytest.raises(DistStoreError, match=f"'n' is used by members of kind '{theirs}', this one's store makes it"):
        agree_on_kind(store, "n")


def test_a_foreign_store_has_no_sessions():
    assert not has_sessions(object())
