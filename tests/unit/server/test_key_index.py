from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rallypoint.server.key_index import KeyIndex


def test_keys_with_a_prefix_come_sorted() -> None:
    table = dict.fromkeys([b"/b/2", b"/a", b"/b/1", b"/c", b"/b"])
    index = KeyIndex(table)
    assert index.keys_with(b"/b/") == [b"/b/1", b"/b/2"]
    assert index.keys_with(b"/b") == [b"/b", b"/b/1", b"/b/2"]
    assert index.keys_with(b"") == sorted(table)
    assert index.keys_with(b"/d") == []


@given(st.lists(st.tuples(st.sampled_from(["add", "discard", "ask"]), st.integers(0, 400)), max_size=300))
def test_it_is_what_a_look_at_all_keys_gives(steps: list[tuple[str, int]]) -> None:
    table: dict[bytes, None] = {}
    index = KeyIndex(table)
    for step, number in steps:
        key = b"%03d" % number
        if step == "add":
            for each in (key, *(b"%03d+%d" % (number, more) for more in range(number % 100))):
                if each not in table:
                    table[each] = None
                    index.add(each)
        elif step == "discard":
            for each in [each for each in table if each.startswith(key[:2])]:
                del table[each]
                index.discard()
        else:
            assert index.keys_with(key[:2]) == sorted(each for each in table if each.startswith(key[:2]))


def test_it_does_not_grow_with_keys_that_come_and_go() -> None:
    table: dict[bytes, None] = {}
    index = KeyIndex(table)
    assert index.keys_with(b"") == []
    for number in range(10_000):
        key = b"%d" % number
        table[key] = None
        index.add(key)
        del table[key]
        index.discard()
    assert len(index._fresh) < 100
