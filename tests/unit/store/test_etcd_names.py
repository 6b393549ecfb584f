"""Where things lie: no two of them in one place, no range with somebody else's entries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rallypoint.store.etcd_names import Names

NAMES = Names(b"prefix/")

names = st.binary(max_size=12)


def within(place: bytes, span: tuple[bytes, bytes]) -> bool:
    return span[0] <= place and (span[1] == b"\0" or place < span[1])


def test_people_can_read_them():
    assert NAMES.key(b"a/b") == b"prefix/k/a/b"
    assert NAMES.queue(b"jobs").start == b"prefix/q/4:jobs/"
    assert NAMES.group(b"m", b"epoch") == b"prefix/g/m5:epoch/"
    assert NAMES.name(NAMES.key(b"a/b")) == b"a/b"


@given(names, names)
def test_a_queue_has_its_own_items_and_no_other(one, other):
    item = NAMES.item(one, 7, b"me")
    assert within(item, NAMES.queue(one))
    assert within(item, NAMES.queue(other)) == (one == other)
    assert not within(item, NAMES.keys())


@given(names, names)
def test_the_keys_of_a_prefix_are_those_that_begin_with_it(prefix, name):
    assert within(NAMES.key(name), NAMES.keys(prefix)) == name.startswith(prefix)


@given(st.integers(0, (1 << 63) - 1), st.integers(0, (1 << 63) - 1))
def test_items_are_in_the_order_of_their_revisions(one, other):
    assert (NAMES.item(b"q", one, b"z") < NAMES.item(b"q", other, b"a")) == (
        one < other or (one == other and b"z" < b"a")
    )
