from __future__ import annotations

import pytest

from rallypoint.errors import LocalProtocolError, NotANumberError
from rallypoint.server.keyspace import Keyspace
from rallypoint.store.counting import add_to_counter
from rallypoint.store.file import FileStore
from rallypoint.store.hash import HashStore


def test_a_missing_key_and_an_empty_value_count_as_0():
    space = Keyspace()
    space.set(b"empty", b"")
    assert add_to_counter(space, b"empty", 5, "empty") == (5, True)
    assert add_to_counter(space, b"new", -2, "new") == (-2, True)
    assert add_to_counter(space, b"new", 1, "new") == (-1, False)


@pytest.mark.parametrize("amount", [1 << 63, -(1 << 63) - 1, (1 << 64) + 5])
def test_an_amount_beyond_64_bits_is_refused_and_nothing_is_changed(amount):
    space = Keyspace()
    space.set(b"k", b"")
    with pytest.raises(LocalProtocolError, match=f"'k' was given {amount}, which 64 bits cannot hold"):
        add_to_counter(space, b"k", amount, "k")
    assert space.get(b"k") == b""


@pytest.mark.parametrize("kind", ["hash", "file"])
def test_every_store_names_the_key_whose_value_is_no_number(kind, tmp_path):
    with HashStore() if kind == "hash" else FileStore(str(tmp_path / "store"), 1) as store:
        store.set("colour", "blue")
        with pytest.raises(
            NotANumberError, match="the value of key 'colour' is b'blue', not the decimal text"
        ) as caught:
            store.add("colour", 1)
        assert caught.value.key == "colour"
        assert isinstance(caught.value, ValueError)
        with pytest.raises(LocalProtocolError, match="64 bits cannot hold"):
            store.add("count", 1 << 63)
        assert store.get("colour") == b"blue"
