"""Which items of a data set each rank takes, also when some of them have been taken before a restart.

Source: names, signature and the numbers of items as observed in torch 2.13.0, whose class of this name is built on a
sampler of torch. The order within an epoch is another one, because torch's comes from torch's random numbers.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator, Sized

__all__ = ["ElasticDistributedSampler"]


class ElasticDistributedSampler:
    """Deals the items from ``start_index`` on, shuffled anew each epoch, to all ranks; each gets as many.

    Where the items cannot be dealt evenly some are dealt twice. All ranks must be in the same epoch.

    Args:
        dataset: the data; only its length counts.
        num_replicas: the ranks; ``None``: ``WORLD_SIZE``.
        rank: the one that takes; ``None``: ``RANK``.
        start_index: how many items were taken before.

    Attributes:
        num_samples: the items that each rank gets.
        total_size: the items that all get together.
        epoch: decides the order.

    Raises:
        ValueError: if the rank or the start index is out of range, or not to be found in the environment.
    """

    def __init__(
        self, dataset: Sized, num_replicas: int | None = None, rank: int | None = None, start_index: int = 0
    ) -> None:
        self.dataset = dataset
        self.num_replicas = _from_environment("WORLD_SIZE") if num_replicas is None else num_replicas
        self.rank = _from_environment("RANK") if rank is None else rank
        self.epoch = 0
        if not 0 <= self.rank < self.num_replicas:
            raise ValueError(f"Invalid rank {self.rank}, rank should be in the interval [0, {self.num_replicas - 1}]")
        if start_index >= len(dataset):
            raise ValueError(f"Start index {start_index} should be less than dataset size {len(dataset)}")
        self.start_index = start_index
        self.num_samples = math.ceil((len(dataset) - start_index) / self.num_replicas)
        self.total_size = self.num_samples * self.num_replicas

    def __iter__(self) -> Iterator[int]:
        dice = random.Random(self.epoch)  # noqa: S311 - shuffling
        # By keys: of all that `random` gives, only random() itself is promised to stay the same between versions.
        items = sorted(range(self.start_index, len(self.dataset)), key=lambda _: dice.random())
        for place in range(self.rank, self.total_size, self.num_replicas):
            yield items[place % len(items)]

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on all ranks alike, before each pass through the data."""
        self.epoch = epoch


def _from_environment(name: str) -> int:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        raise ValueError(f"give num_replicas and rank; {name} in the environment is no number") from None
