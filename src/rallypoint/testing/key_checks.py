"""What a store does with keys and values: the checks that need no waiting."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from functools import partial

from rallypoint.testing.conformance import Lab

__all__: list[str] = []

THREADS = 4
ROUNDS = 25


def check_values_come_back_as_bytes(lab: Lab) -> None:
    """Values given as str, bytes or bytearray come back as bytes."""
    for value in ("text", "grüß dich", b"raw \x00\xff", bytearray(b"array"), "", b""):
        lab.store.set("key", value)
        expected = value.encode() if isinstance(value, str) else bytes(value)
        lab.equal(lab.store.get("key"), expected, f"get after set({value!r})")


def check_keys_are_any_text(lab: Lab) -> None:
    """Keys may hold slashes, blanks and any letters, and bytes mean the same key as their text."""
    for key in ("a", "a/b", "/a", " ", "ключ", "a" * 1000):
        lab.store.set(key, f"value of {key}")
    for key in ("a", "a/b", "/a", " ", "ключ", "a" * 1000):
        lab.equal(lab.store.get(key), f"value of {key}".encode(), f"get({key!r})")
        lab.equal(lab.store.get(key.encode()), f"value of {key}".encode(), f"get({key.encode()!r})")


def check_the_last_set_wins(lab: Lab) -> None:
    """A second set replaces the value."""
    lab.store.set("key", "a longer first value")
    lab.store.set("key", "second")
    lab.equal(lab.store.get("key"), b"second", "get after two sets")


def check_large_values(lab: Lab) -> None:
    """A value of one MiB comes back whole."""
    value = bytes(range(256)) * 4096
    lab.store.set("large", value)
    lab.equal(lab.store.get("large"), value, "get of a large value")


def check_add_counts_in_decimal_text(lab: Lab) -> None:
    """Add starts at 0, gives the new value, and keeps it as decimal text."""
    store = lab.store
    lab.equal([store.add("n", 1), store.add("n", 2), store.add("n", 3)], [1, 3, 6], "add 1, 2, 3")
    lab.equal(store.get("n"), b"6", "get of a counter")
    lab.equal(store.add("n", -8), -2, "add(-8) to 6")
    lab.equal(store.get("n"), b"-2", "get of a negative counter")
    store.set("m", "40")
    lab.equal(store.add("m", 2), 42, "add(2) to a value that was set to '40'")
    lab.equal(store.add("zero", 0), 0, "add(0) to a missing key")
    lab.equal(store.check(["zero"]), True, "check after add(0)")


def check_add_takes_white_space(lab: Lab) -> None:
    """White space around a number is not part of it, as for C's strtoll."""
    lab.store.set("n", " 7 \t ")
    lab.equal(lab.store.add("n", 1), 8, "add(1) to ' 7 \\t '")


def check_add_is_atomic(lab: Lab) -> None:
    """Adds at the same time all count, and each gets a number of its own."""

    def count() -> list[int]:
        return [lab.store.add("n", 1) for _ in range(ROUNDS)]

    given = sorted(number for numbers in lab.together([count] * THREADS, "add") for number in numbers)
    lab.equal(given, list(range(1, THREADS * ROUNDS + 1)), f"{THREADS} threads with {ROUNDS} add(1) each")


def check_compare_set(lab: Lab) -> None:
    """Compare_set writes only over the expected value, and tells what is there."""
    store = lab.store
    lab.equal(
        store.compare_set("k", "expected", "new"), b"expected", "compare_set of a missing key, not empty expected"
    )
    lab.equal(store.check(["k"]), False, "check after a compare_set that must not write")
    lab.equal(store.compare_set("k", "", "first"), b"first", "compare_set of a missing key, '' expected")
    lab.equal(store.compare_set("k", "other", "second"), b"first", "compare_set with a wrong value expected")
    lab.equal(store.compare_set("k", "", "second"), b"first", "compare_set with '' expected over a value")
    lab.equal(store.get("k"), b"first", "get after two compare_sets that must not write")
    lab.equal(store.compare_set("k", b"first", b"second"), b"second", "compare_set with the right value expected")
    lab.equal(store.get("k"), b"second", "get after the compare_set")
    store.set("empty", "")
    lab.equal(store.compare_set("empty", "", "full"), b"full", "compare_set of an empty value, '' expected")


def check_compare_set_has_one_winner(lab: Lab) -> None:
    """Of several compare_sets at the same time one wins, and all are told which."""
    names = [f"thread {number}" for number in range(THREADS)]
    found = lab.together([partial(lab.store.compare_set, "k", "", name) for name in names], "compare_set")
    lab.equal(found, [lab.store.get("k")] * THREADS, f"compare_set('k', '', …) in {THREADS} threads")


def check_check(lab: Lab) -> None:
    """Check is true exactly if all keys are there."""
    lab.store.set("a", "")
    lab.store.add("b", 1)
    lab.equal(lab.store.check(["a", "b"]), True, "check of two present keys")
    lab.equal(lab.store.check(["a", "missing"]), False, "check of a present and a missing key")
    lab.equal(lab.store.check(["missing"]), False, "check of a missing key")
    lab.equal(lab.store.check([]), True, "check of no keys")


def check_delete_key(lab: Lab) -> None:
    """Delete_key removes a key and tells whether there was one."""
    lab.store.set("k", "v")
    lab.equal(lab.store.delete_key("k"), True, "delete_key of a present key")
    lab.equal(lab.store.check(["k"]), False, "check after delete_key")
    lab.equal(lab.store.delete_key("k"), False, "delete_key of a missing key")
    lab.equal(lab.store.add("k", 2), 2, "add to a deleted counter")


def check_num_keys(lab: Lab) -> None:
    """Num_keys grows and shrinks with the keys."""
    before = lab.store.num_keys()
    for number in range(5):
        lab.store.set(f"key{number}", "v")
    lab.store.set("key0", "again")
    lab.equal(lab.store.num_keys() - before, 5, "the growth of num_keys by 5 new keys")
    lab.store.delete_key("key0")
    lab.equal(lab.store.num_keys() - before, 4, "the growth of num_keys after one key was deleted")


def check_list_keys(lab: Lab) -> None:
    """List_keys gives the users' keys and nothing else, if the store can list them."""
    lab.store.set("a", "1")
    lab.store.add("b/c", 1)
    lab.store.set("gone", "1")
    lab.store.delete_key("gone")
    with contextlib.suppress(NotImplementedError):
        lab.equal(sorted(lab.store.list_keys()), ["a", "b/c"], "list_keys")


def check_append(lab: Lab) -> None:
    """Append adds to the end of a value and creates a missing one, also if the text is the same again."""
    for suffix in ("a", "a", "b", ""):
        lab.store.append("k", suffix)
    lab.equal(lab.store.get("k"), b"aab", "get after append of 'a', 'a', 'b', ''")
    lab.store.append("empty", "")
    lab.equal(lab.store.check(["empty"]), True, "check after append of nothing to a missing key")


def check_append_is_atomic(lab: Lab) -> None:
    """Appends at the same time all arrive, each in one piece."""

    def write(name: str) -> None:
        for number in range(ROUNDS):
            lab.store.append("log", f"<{name}{number}>")

    lab.together([partial(write, name) for name in "abcd"], "append")
    pieces = sorted(lab.store.get("log").decode().strip("<>").split("><"))
    lab.equal(pieces, sorted(f"{name}{number}" for name in "abcd" for number in range(ROUNDS)), "concurrent appends")


def check_multi_set_and_get(lab: Lab) -> None:
    """Multi_set stores pair by pair, multi_get gives in the order asked."""
    lab.store.multi_set(["a", "b", "c"], ["1", b"2", ""])
    lab.equal(lab.store.multi_get(["c", "a", "b", "a"]), [b"", b"1", b"2", b"1"], "multi_get(['c', 'a', 'b', 'a'])")
    lab.equal(lab.store.multi_get([]), [], "multi_get of no keys")
    lab.store.multi_set([], [])


def check_multi_set_with_unequal_lists(lab: Lab) -> None:
    """Multi_set with more keys than values is an error, and stores nothing."""
    try:
        lab.store.multi_set(["a", "b"], ["1"])
    except RuntimeError:
        lab.equal(lab.store.check(["a"]), False, "check after a refused multi_set")
    else:
        raise AssertionError("multi_set(['a', 'b'], ['1']) was accepted, expected a RuntimeError")


def check_one_string_is_no_list_of_keys(lab: Lab) -> None:
    """A str where a list of keys belongs is a TypeError, not one key a letter."""
    for name, call in (("check", lab.store.check), ("wait", lab.store.wait), ("multi_get", lab.store.multi_get)):
        try:
            call("key")
        except TypeError:
            continue
        raise AssertionError(f"{name}('key') was accepted, expected a TypeError")


def check_clones_share_the_data(lab: Lab) -> None:
    """A clone sees what the store writes and the other way round."""
    clone = lab.store.clone()
    lab.store.set("a", "1")
    lab.equal(clone.get("a"), b"1", "the clone's get of a key set by the store")
    clone.set("b", "2")
    lab.equal(lab.store.multi_get(["b"]), [b"2"], "the store's multi_get of a key set by the clone")
    if clone is not lab.store and hasattr(clone, "close"):
        clone.close()


def check_the_timeout_can_be_read(lab: Lab) -> None:
    """The timeout that was set is what the property shows."""
    lab.store.set_timeout(timedelta(seconds=7.5))
    lab.equal(lab.store.timeout, timedelta(seconds=7.5), "timeout after set_timeout of 7.5 seconds")


def check_it_says_whether_it_has_the_extended_api(lab: Lab) -> None:
    """Has_extended_api is a bool."""
    lab.equal(type(lab.store.has_extended_api()), bool, "the type of has_extended_api()")
