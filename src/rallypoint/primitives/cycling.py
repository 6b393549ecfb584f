"""Go through data epoch by epoch.

Source: name and behaviour as observed in torch 2.13.0; an empty epoch costs no stack here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

__all__ = ["CyclingIterator"]

_T = TypeVar("_T")


class CyclingIterator(Generic[_T]):
    """Gives what an iterator of each epoch gives, one epoch after the other.

    Args:
        n: the epochs.
        generator_fn: makes the iterator of an epoch.
        start_epoch: the first epoch; made even if ``n`` says that there is none.

    Threads: one.
    """

    def __init__(self, n: int, generator_fn: Callable[[int], Iterator[_T]], start_epoch: int = 0) -> None:
        self._n = n
        self._epoch = start_epoch
        self._generator_fn = generator_fn
        self._iter = generator_fn(start_epoch)

    def __iter__(self) -> CyclingIterator[_T]:
        return self

    def __next__(self) -> _T:
        while True:
            try:
                return next(self._iter)
            except StopIteration:  # noqa: PERF203 - the end of an epoch, once
                if self._epoch + 1 >= self._n:
                    raise
                self._epoch += 1
                self._iter = self._generator_fn(self._epoch)
