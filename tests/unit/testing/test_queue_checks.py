"""The checks of queues: each finds out a store that does otherwise."""

from __future__ import annotations

from tests.support.faulty_stores import checks_of, find_out, over_faults

from rallypoint.errors import QueueEmptyError
from rallypoint.store.hash import HashStore
from rallypoint.testing import queue_checks as checks


class QueueIsAStack(HashStore):
    def queue_pop(self, key, block=True):
        items = [super().queue_pop(key, block)]
        while self.queue_len(key):
            items.append(super().queue_pop(key))
        for item in items[:-1]:
            self.queue_push(key, item)
        return items[-1]


class EmptyQueueGivesNothing(HashStore):
    def queue_pop(self, key, block=True):
        try:
            return super().queue_pop(key, block)
        except QueueEmptyError:
            return b""


class ItemsAreNotPresent(HashStore):
    def check(self, keys, /):
        return all(self._space.has_key(key.encode()) for key in keys)


class PopDoesNotWait(HashStore):
    def queue_pop(self, key, block=True):
        try:
            return super().queue_pop(key, block=False)
        except QueueEmptyError:
            raise AssertionError("pop came too early") from None


FAULTS = [
    (checks.check_queues_are_first_in_first_out, QueueIsAStack, "gave [b'', b'2', b'1'], expected [b'1', b'2', b'']"),
    (checks.check_an_empty_queue, EmptyQueueGivesNothing, "gave b'', expected a RuntimeError"),
    (
        checks.check_an_item_makes_its_queue_present,
        ItemsAreNotPresent,
        "check of a queue with an item gave False, expected True",
    ),
    (checks.check_a_pop_waits_for_a_push, PopDoesNotWait, "pop came too early"),
]


@over_faults(FAULTS)
def test_a_fault_is_found_and_described(check, faulty, detail, monkeypatch):
    find_out(check, faulty, detail, monkeypatch)


def test_every_check_is_tried():
    assert {check.__name__ for check, *_ in FAULTS} == checks_of(checks)
