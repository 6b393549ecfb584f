from __future__ import annotations

import sys

from rallypoint.primitives.cycling import CyclingIterator


def test_epochs_follow_each_other_from_the_first_one_asked_for() -> None:
    assert list(CyclingIterator(3, lambda epoch: iter([epoch, epoch * 10]), start_epoch=1)) == [1, 10, 2, 20]


def test_empty_epochs_are_passed_over_however_many() -> None:
    count = sys.getrecursionlimit() * 2

    assert list(CyclingIterator(count, lambda epoch: iter([epoch] if epoch == count - 1 else []))) == [count - 1]


def test_it_is_its_own_iterator_and_stays_at_the_end() -> None:
    cycling = CyclingIterator(0, lambda _: iter([1]))

    assert iter(cycling) is cycling
    assert list(cycling) == [1]
    assert list(cycling) == []
