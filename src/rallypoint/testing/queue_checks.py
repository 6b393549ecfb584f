"""What a store that has queues does with them."""

from __future__ import annotations

from datetime import timedelta

from rallypoint.testing.conformance import Lab

__all__: list[str] = []

LOOK_ONCE = timedelta(0)


def check_queues_are_first_in_first_out(lab: Lab) -> None:
    """The oldest item comes first, and queue_len counts what is left."""
    if not _has_queues(lab):
        return
    lab.equal(lab.store.queue_len("q"), 0, "queue_len of a queue never used")
    for item in ("1", b"2", ""):
        lab.store.queue_push("q", item)
    lab.equal(lab.store.queue_len("q"), 3, "queue_len after three pushes")
    popped = [lab.store.queue_pop("q"), lab.store.queue_pop("q", False), lab.store.queue_pop("q")]
    lab.equal(popped, [b"1", b"2", b""], "queue_pop three times")
    lab.equal(lab.store.queue_len("q"), 0, "queue_len after three pops")


def check_an_empty_queue(lab: Lab) -> None:
    """A pop that must not block says that the queue is empty; one that may gives up in its time."""
    if not _has_queues(lab):
        return
    try:
        item = lab.store.queue_pop("q", False)
    except RuntimeError as error:
        lab.equal("empty" in str(error), True, f"looking for 'empty' in the error {str(error)!r}")
    else:
        raise AssertionError(f"queue_pop('q', False) of an empty queue gave {item!r}, expected a RuntimeError")
    with lab.short_timeout():
        lab.times_out(lambda: lab.store.queue_pop("q"), "queue_pop of an empty queue", names=["q"])


def check_an_item_makes_its_queue_present(lab: Lab) -> None:
    """Check and wait find a queue with an item in it, and no other; keys and queues do not mix."""
    if not _has_queues(lab):
        return
    store = lab.store
    keys = store.num_keys()
    store.queue_push("q", "item")
    lab.equal(store.check(["q"]), True, "check of a queue with an item")
    store.wait(["q"], LOOK_ONCE)
    lab.equal(store.num_keys(), keys, "num_keys after a push")
    store.queue_pop("q")
    lab.equal(store.check(["q"]), False, "check of an emptied queue")
    store.set("k", "v")
    lab.equal(store.queue_len("k"), 0, "queue_len of a key")


def check_a_pop_waits_for_a_push(lab: Lab) -> None:
    """A pop in one thread gets what another thread pushes, and each item goes to one of them."""
    if not _has_queues(lab):
        return
    results = [lab.spawn(lambda: lab.store.queue_pop("q"), "queue_pop in 4 threads") for _ in range(4)]
    lab.settle()
    for item in "abcd":
        lab.store.queue_push("q", item)
    lab.equal(sorted(result() for result in results), [b"a", b"b", b"c", b"d"], "queue_pop in 4 threads")
    lab.equal(lab.store.queue_len("q"), 0, "queue_len after as many pops as pushes")


def _has_queues(lab: Lab) -> bool:
    try:
        lab.store.queue_len("is there such a thing")
    except NotImplementedError:
        return False
    return True
