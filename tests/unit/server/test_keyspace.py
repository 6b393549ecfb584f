from __future__ import annotations

import re

import pytest

from rallypoint.errors import DistStoreError
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.changes import Appended, Change, KeyDeleted, KeySet, Popped, Pushed
from rallypoint.server.keyspace import ENTRY_SIZE, Keyspace, KeyspaceError
from rallypoint.server.limits import Limits

INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)


@pytest.fixture
def keyspace() -> Keyspace:
    return Keyspace()


def test_set_tells_whether_the_key_is_new(keyspace: Keyspace) -> None:
    assert keyspace.set(b"k", b"v")
    assert not keyspace.set(b"k", b"w")
    assert keyspace.get(b"k") == b"w"


def test_a_stored_value_is_handed_out_without_a_copy(keyspace: Keyspace) -> None:
    value = bytes(1000)
    keyspace.set(b"k", value)
    assert keyspace.get(b"k") is value


def test_a_missing_key_has_no_value(keyspace: Keyspace) -> None:
    assert keyspace.get(b"k") is None
    assert b"k" not in keyspace
    assert not keyspace.has_key(b"k")


def test_an_empty_value_is_a_value(keyspace: Keyspace) -> None:
    keyspace.set(b"", b"")
    assert keyspace.get(b"") == b""
    assert b"" in keyspace


def test_keys_are_listed_oldest_first_without_queues(keyspace: Keyspace) -> None:
    for key in (b"b", b"a", b"b"):
        keyspace.set(key, b"")
    keyspace.push(b"q", b"")
    assert keyspace.keys() == [b"b", b"a"]
    assert len(keyspace) == 2


def test_missing_counts_the_names_that_are_neither_key_nor_queue(keyspace: Keyspace) -> None:
    keyspace.set(b"k", b"")
    keyspace.push(b"q", b"")
    assert keyspace.missing([b"k", b"q", b"x", b"y"]) == 2
    assert keyspace.missing([]) == 0


# --- multi_set and append --------------------------------------------------------------------------------


def test_multi_set_gives_the_new_keys_and_a_later_pair_wins(keyspace: Keyspace) -> None:
    keyspace.set(b"b", b"")
    assert keyspace.multi_set([(b"a", b"1"), (b"b", b"2"), (b"c", b"3"), (b"a", b"4")]) == [b"a", b"c"]
    assert [keyspace.get(key) for key in (b"a", b"b", b"c")] == [b"4", b"2", b"3"]


def test_multi_set_that_does_not_fit_changes_nothing() -> None:
    keyspace = Keyspace(Limits(stored_size_max=3 * ENTRY_SIZE))
    keyspace.set(b"a", b"old")
    with pytest.raises(KeyspaceError) as caught:
        keyspace.multi_set([(b"a", b"new"), (b"b", bytes(ENTRY_SIZE)), (b"c", b"")])
    assert caught.value.reason is CloseReason.STORE_FULL
    assert (keyspace.keys(), keyspace.get(b"a")) == ([b"a"], b"old")


def test_append_creates_and_extends(keyspace: Keyspace) -> None:
    assert keyspace.append(b"k", b"x")
    assert not keyspace.append(b"k", b"")
    assert not keyspace.append(b"k", b"yz")
    assert keyspace.get(b"k") == b"xyz"
    assert not keyspace.append(b"k", b"!")
    assert keyspace.get(b"k") == b"xyz!"


def test_a_value_handed_out_does_not_grow_afterwards(keyspace: Keyspace) -> None:
    keyspace.set(b"k", b"x")
    keyspace.append(b"k", b"y")
    before = keyspace.get(b"k")
    keyspace.append(b"k", b"z")
    assert (before, keyspace.get(b"k")) == (b"xy", b"xyz")
    assert type(before) is bytes


def test_append_past_the_stored_limit_is_refused_and_changes_nothing() -> None:
    keyspace = Keyspace(Limits(value_stored_size_max=5))
    keyspace.append(b"k", b"12345")
    size = keyspace.stored_size
    message = "APPEND would grow the value of key b'k' to 6 bytes, the limit is 5"
    with pytest.raises(KeyspaceError, match=re.escape(message)) as caught:
        keyspace.append(b"k", b"6")
    assert caught.value.reason is CloseReason.STORED_VALUE_TOO_LARGE
    assert (keyspace.get(b"k"), keyspace.stored_size) == (b"12345", size)


def test_a_grown_value_is_compared_and_counted_like_any_other(keyspace: Keyspace) -> None:
    keyspace.append(b"k", b"1")
    keyspace.append(b"k", b"2")
    assert keyspace.compare_set(b"k", b"12", b"3") == (b"3", False)
    keyspace.append(b"k", b"4")
    assert keyspace.add(b"k", 1) == (35, False)
    keyspace.append(b"k", b"-")
    keyspace.append(b"k", b"-")
    assert keyspace.add(b"k", 1) == (36, False)


# --- add -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"0", 0),
        (b"12", 12),
        (b"-2", -2),
        (b"+7", 7),
        (b"12abc", 12),
        (b"0x10", 0),
        (b" \t\n\v\f\r 5", 5),
        (b"1_0", 1),
        (b"-0", 0),
        (b"1 2", 1),
        (b"7\x00", 7),
        (b"0" * 500 + b"3", 3),
        (b"-" + b"0" * 500 + b"3", -3),
        (b"9223372036854775807", INT64_MAX),
        (b"-9223372036854775808", INT64_MIN),
        (b"999999999999999999", 999_999_999_999_999_999),
    ],
)
def test_a_number_is_read_as_strtoll_reads_it(keyspace: Keyspace, text: bytes, number: int) -> None:
    keyspace.set(b"n", text)
    assert keyspace.add(b"n", 0) == (number, False)
    assert keyspace.get(b"n") == str(number).encode()


@pytest.mark.parametrize("text", [b"", b"abc", b" ", b"+", b"--1", b"- 1", "٣".encode(), b"\xa01", b"\x1c1"])
def test_text_without_digits_is_no_number(keyspace: Keyspace, text: bytes) -> None:
    keyspace.set(b"n", text)
    with pytest.raises(KeyspaceError, match=r"^the value of key b'n' is .*, not a decimal number$") as caught:
        keyspace.add(b"n", 1)
    assert caught.value.reason is CloseReason.NOT_A_NUMBER
    assert isinstance(caught.value, DistStoreError)
    assert keyspace.get(b"n") == text


@pytest.mark.parametrize("text", [b"9223372036854775808", b"-9223372036854775809", b"1" * 20, b"9" * 100_000])
def test_a_number_of_more_than_64_bits_is_refused(keyspace: Keyspace, text: bytes) -> None:
    keyspace.set(b"n", text)
    with pytest.raises(KeyspaceError, match="which 64 bits cannot hold") as caught:
        keyspace.add(b"n", -1)
    assert caught.value.reason is CloseReason.NOT_A_NUMBER
    assert len(str(caught.value)) < 200


def test_add_on_a_missing_key_starts_at_0(keyspace: Keyspace) -> None:
    assert keyspace.add(b"n", -7) == (-7, True)
    assert keyspace.add(b"n", 5) == (-2, False)


@pytest.mark.parametrize(
    ("start", "delta", "total"),
    [(INT64_MAX, 1, INT64_MIN), (INT64_MIN, -1, INT64_MAX), (INT64_MIN, INT64_MIN, 0), (INT64_MAX, INT64_MAX, -2)],
)
def test_a_sum_wraps_around_at_64_bits(keyspace: Keyspace, start: int, delta: int, total: int) -> None:
    keyspace.add(b"n", start)
    assert keyspace.add(b"n", delta) == (total, False)


# --- compare_set, delete ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("current", "expected", "reply", "is_new", "after"),
    [
        (None, b"", b"new", True, b"new"),
        (None, b"old", b"old", False, None),
        (b"old", b"old", b"new", False, b"new"),
        (b"", b"", b"new", False, b"new"),
        (b"old", b"other", b"old", False, b"old"),
        (b"old", b"", b"old", False, b"old"),
    ],
)
def test_compare_set(  # the table of its docstring
    keyspace: Keyspace, current: bytes | None, expected: bytes, reply: bytes, is_new: bool, after: bytes | None
) -> None:
    if current is not None:
        keyspace.set(b"c", current)
    assert keyspace.compare_set(b"c", expected, b"new") == (reply, is_new)
    assert keyspace.get(b"c") == after


def test_delete_takes_the_key_and_leaves_the_queue(keyspace: Keyspace) -> None:
    keyspace.set(b"x", b"")
    keyspace.push(b"x", b"item")
    assert keyspace.delete(b"x")
    assert not keyspace.delete(b"x")
    assert keyspace.queue_length(b"x") == 1
    assert b"x" in keyspace


# --- queues ----------------------------------------------------------------------------------------------


def test_items_come_out_in_order_with_the_length_before(keyspace: Keyspace) -> None:
    for item in (b"1", b"", b"3"):
        keyspace.push(b"q", item)
    assert [keyspace.pop(b"q") for _ in range(4)] == [(3, b"1"), (2, b""), (1, b"3"), (0, None)]


def test_an_empty_queue_leaves_nothing_behind(keyspace: Keyspace) -> None:
    keyspace.push(b"q", b"item")
    keyspace.pop(b"q")
    keyspace.pop(b"q")
    assert keyspace.queue_length(b"unknown") == 0
    assert keyspace.pop(b"unknown") == (0, None)
    assert (keyspace.queues, keyspace.stored_size) == ({}, 0)


# --- size ------------------------------------------------------------------------------------------------


def test_what_is_stored_is_counted_to_the_byte(keyspace: Keyspace) -> None:
    keyspace.set(b"key", b"12345")
    assert keyspace.stored_size == 8 + ENTRY_SIZE
    keyspace.set(b"key", b"1")
    keyspace.append(b"key", b"23")
    assert keyspace.stored_size == 6 + ENTRY_SIZE
    keyspace.push(b"q", b"item")
    assert keyspace.stored_size == 6 + ENTRY_SIZE + 5 + ENTRY_SIZE
    keyspace.multi_set([(b"key", b""), (b"n", b"1")])
    assert keyspace.stored_size == 3 + 2 + 5 + 3 * ENTRY_SIZE
    keyspace.add(b"n", 99)
    assert keyspace.stored_size == 3 + 4 + 5 + 3 * ENTRY_SIZE
    keyspace.delete(b"key")
    keyspace.delete(b"n")
    keyspace.pop(b"q")
    assert keyspace.stored_size == 0


def test_a_full_store_refuses_every_kind_of_growth_and_goes_on_with_the_rest() -> None:
    keyspace = Keyspace(Limits(stored_size_max=2 * ENTRY_SIZE + 4))
    keyspace.set(b"a", b"1")
    keyspace.push(b"q", b"2")
    for refused in (
        lambda: keyspace.set(b"a", b"12"),
        lambda: keyspace.set(b"b", b""),
        lambda: keyspace.append(b"a", b"2"),
        lambda: keyspace.append(b"b", b""),
        lambda: keyspace.add(b"a", 9),
        lambda: keyspace.add(b"b", 1),
        lambda: keyspace.compare_set(b"b", b"", b""),
        lambda: keyspace.compare_set(b"a", b"1", b"12"),
        lambda: keyspace.multi_set([(b"a", b"12")]),
        lambda: keyspace.push(b"q", b""),
    ):
        with pytest.raises(KeyspaceError, match=r"^the store would hold \d+ bytes in 1 keys and 1 queues") as caught:
            refused()
        assert caught.value.reason is CloseReason.STORE_FULL
    assert (keyspace.get(b"a"), keyspace.keys(), keyspace.queue_length(b"q")) == (b"1", [b"a"], 1)
    assert keyspace.add(b"a", 1) == (2, False)
    keyspace.pop(b"q")
    assert keyspace.set(b"b", b"1")


# --- revisions, prefixes, changes ------------------------------------------------------------------------


def test_each_change_has_the_next_revision() -> None:
    keyspace = Keyspace()
    assert keyspace.revision_of(b"/a") == 0
    keyspace.set(b"/a", b"1")
    keyspace.add(b"/n", 5)
    keyspace.append(b"/a", b"2")
    keyspace.compare_set(b"/c", b"", b"x")
    keyspace.multi_set([(b"/m", b"1"), (b"/a", b"3")])
    assert [keyspace.revision_of(key) for key in (b"/a", b"/n", b"/c", b"/m")] == [6, 2, 4, 5]
    keyspace.delete(b"/a")
    assert (keyspace.revision, keyspace.revision_of(b"/a")) == (7, 0)
    keyspace.set(b"/a", b"")
    assert keyspace.revision_of(b"/a") == 8


def test_what_changes_no_key_has_no_revision() -> None:
    keyspace = Keyspace()
    keyspace.set(b"/a", b"1")
    keyspace.compare_set(b"/a", b"2", b"3")
    keyspace.compare_set(b"/b", b"2", b"3")
    keyspace.delete(b"/none")
    keyspace.multi_set([])
    keyspace.push(b"/q", b"")
    keyspace.pop(b"/q")
    with pytest.raises(KeyspaceError):
        keyspace.append(b"/a", bytes(1 << 29))
    assert (keyspace.revision, keyspace.revision_of(b"/a")) == (1, 1)


@pytest.mark.parametrize(
    ("expected", "is_swapped", "is_new"), [(0, False, False), (1, True, False), (2, False, False), (-1, True, False)]
)
def test_a_swap_goes_by_the_revision(expected: int, is_swapped: bool, is_new: bool) -> None:
    keyspace = Keyspace()
    keyspace.set(b"/a", b"old")
    assert keyspace.swap(b"/a", expected, b"new", 0) == (is_swapped, is_new)
    assert keyspace.get(b"/a") == (b"new" if is_swapped else b"old")


@pytest.mark.parametrize(("expected", "outcome"), [(0, (True, True)), (1, (False, False)), (-1, (True, True))])
def test_a_swap_of_a_missing_key(expected: int, outcome: tuple[bool, bool]) -> None:
    keyspace = Keyspace()
    assert keyspace.swap(b"/a", expected, b"new", 0) == outcome
    assert keyspace.has_key(b"/a") is outcome[0]


def test_keys_are_found_by_their_prefix_as_they_come_and_go() -> None:
    keyspace = Keyspace()
    keyspace.multi_set([(b"/p/%d" % number, b"") for number in range(3)])
    assert keyspace.keys_with(b"/p/") == [b"/p/0", b"/p/1", b"/p/2"]
    keyspace.delete(b"/p/1")
    keyspace.set(b"/p/", b"")
    keyspace.push(b"/p/q", b"")
    assert keyspace.keys_with(b"/p/") == [b"/p/", b"/p/0", b"/p/2"]


def test_every_change_is_told_once_it_is_done() -> None:
    keyspace = Keyspace()
    told: list[Change] = []
    keyspace.on_change = told.append
    keyspace.set(b"/a", b"1")
    keyspace.set(b"/a", b"2", 7)
    keyspace.append(b"/a", b"3")
    keyspace.append(b"/b", b"4")
    keyspace.multi_set([(b"/c", b"5"), (b"/c", b"6")])
    keyspace.add(b"/a", 1)
    keyspace.delete(b"/a")
    keyspace.push(b"/q", b"item")
    keyspace.pop(b"/q")
    keyspace.pop(b"/q")
    keyspace.delete(b"/none")
    assert told == [
        KeySet(b"/a", b"1", 1),
        KeySet(b"/a", b"2", 2, 7),
        Appended(b"/a", b"3", 3),
        KeySet(b"/b", b"4", 4),
        KeySet(b"/c", b"6", 5),
        KeySet(b"/a", b"24", 6),
        KeyDeleted(b"/a", 7),
        Pushed(b"/q", b"item"),
        Popped(b"/q"),
    ]


def test_what_was_put_back_is_as_it_was() -> None:
    keyspace = Keyspace()
    keyspace.restore(b"/a", b"value", 9)
    other = Keyspace()
    other.set(b"/a", b"value")
    assert (keyspace.get(b"/a"), keyspace.revision_of(b"/a")) == (b"value", 9)
    assert keyspace.stored_size == other.stored_size
