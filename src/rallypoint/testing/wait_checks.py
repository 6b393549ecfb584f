"""What a store does about time: who waits, who is woken, who gives up."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial

from rallypoint.testing.conformance import SHORT_S, Lab

__all__: list[str] = []

LOOK_ONCE = timedelta(0)
SHORT = timedelta(seconds=SHORT_S)
WAITERS = 8


def check_get_waits_for_every_kind_of_creation(lab: Lab) -> None:
    """A get in one thread ends when another thread creates the key, in whatever way."""
    store = lab.store
    creations: dict[str, Callable[[str], object]] = {
        "set": lambda key: store.set(key, "1"),
        "add": lambda key: store.add(key, 1),
        "append": lambda key: store.append(key, "1"),
        "compare_set": lambda key: store.compare_set(key, "", "1"),
        "multi_set": lambda key: store.multi_set([key], ["1"]),
    }
    for name, create in creations.items():
        key = f"made by {name}"
        result = lab.spawn(partial(store.get, key), f"get of a key that is made by {name}")
        lab.settle()
        create(key)
        lab.equal(result(), b"1", f"get of a key that was made by {name}")


def check_wait_needs_all_keys(lab: Lab) -> None:
    """A wait for several keys ends with the last of them, and at once if all are there."""
    store = lab.store
    result = lab.spawn(lambda: store.wait(["a", "b", "a"]), "wait(['a', 'b', 'a'])")
    lab.settle()
    store.set("b", "")
    store.set("a", "")
    result()
    store.wait(["a", "b"])
    store.wait([])


def check_multi_get_waits(lab: Lab) -> None:
    """A multi_get waits for all its keys."""
    lab.store.set("a", "1")
    result = lab.spawn(lambda: lab.store.multi_get(["a", "b"]), "multi_get(['a', 'b'])")
    lab.settle()
    lab.store.set("b", "2")
    lab.equal(result(), [b"1", b"2"], "multi_get of a key that came later")


def check_everybody_who_waits_is_woken(lab: Lab) -> None:
    """One set ends the waits of all threads that wait for the key."""
    results = [lab.spawn(lambda: lab.store.get("k"), f"get in {WAITERS} threads") for _ in range(WAITERS)]
    lab.settle()
    lab.store.set("k", "v")
    lab.equal([result() for result in results], [b"v"] * WAITERS, f"get in {WAITERS} threads")


def check_a_timeout_names_the_missing(lab: Lab) -> None:
    """A wait that gives up is a RuntimeError with 'timeout' in it that names the missing keys, and only those."""
    lab.store.set("present", "")
    keys = ["present", "absent"]
    lab.times_out(lambda: lab.store.wait(keys, SHORT), f"wait({keys})", names=["absent"], spares="present")
    with lab.short_timeout():
        lab.times_out(lambda: lab.store.get("absent"), "get('absent')", names=["absent"])
        lab.times_out(lambda: lab.store.multi_get(keys), f"multi_get({keys})", names=["absent"], spares="present")
        lab.times_out(lambda: lab.store.wait(["absent"]), "wait(['absent'])", names=["absent"])


def check_a_store_works_after_a_timeout(lab: Lab) -> None:
    """After a timeout the store goes on as if nothing had been."""
    lab.times_out(lambda: lab.store.wait(["k"], SHORT), "wait(['k'])")
    lab.store.set("k", "v")
    lab.equal(lab.store.get("k"), b"v", "get after a timeout")
    lab.equal(lab.store.add("n", 1), 1, "add after a timeout")


def check_a_timeout_of_zero_looks_once(lab: Lab) -> None:
    """A timeout of 0 succeeds if the keys are there, and fails at once if not."""
    lab.store.set("present", "v")
    lab.store.wait(["present"], LOOK_ONCE)
    lab.times_out(lambda: lab.store.wait(["absent"], LOOK_ONCE), "wait(['absent'], 0)", names=["absent"])
    lab.store.set_timeout(LOOK_ONCE)
    lab.equal(lab.store.get("present"), b"v", "get of a present key with a timeout of 0")
    lab.times_out(lambda: lab.store.get("absent"), "get('absent') with a timeout of 0", names=["absent"])


def check_a_deleted_key_is_missing(lab: Lab) -> None:
    """A key that was set and deleted again does not satisfy a wait, begun before or after."""
    store = lab.store
    result = lab.spawn(lambda: store.wait(["a", "b"], 4 * SHORT), "wait(['a', 'b'])")
    lab.settle()
    store.set("a", "")
    store.delete_key("a")
    store.set("b", "")
    lab.times_out(result, "wait(['a', 'b']), 'a' set and deleted before 'b' was set", names=["a"])
    lab.times_out(lambda: store.wait(["a"], LOOK_ONCE), "wait for a deleted key", names=["a"])


def check_a_swap_that_fails_wakes_nobody(lab: Lab) -> None:
    """A compare_set that writes nothing does not end a get of that key."""
    lab.store.set_timeout(4 * SHORT)
    result = lab.spawn(lambda: lab.store.get("k"), "get('k')")
    lab.settle()
    lab.store.compare_set("k", "something", "else")
    lab.times_out(result, "get('k') while compare_set('k', 'something', 'else') wrote nothing", names=["k"])


def check_a_wait_holds_nobody_up(lab: Lab) -> None:
    """While one thread waits, others go on using the same object."""
    result = lab.spawn(lambda: lab.store.get("late"), "get('late')")
    lab.settle()
    for number in range(10):
        lab.equal(lab.store.add("n", 1), number + 1, "add while another thread waits")
    lab.store.set("late", "v")
    lab.equal(result(), b"v", "get('late')")


def check_barriers(lab: Lab) -> None:
    """A barrier lets nobody through before all have come, and gives up in its time."""
    passed = lab.together([lambda: lab.store.barrier("all", 3)] * 3, "barrier('all', 3) in 3 threads")
    lab.equal(passed, [None] * 3, "barrier('all', 3) in 3 threads")
    lab.times_out(lambda: lab.store.barrier("alone", 2, SHORT), "barrier('alone', 2) of one member")
