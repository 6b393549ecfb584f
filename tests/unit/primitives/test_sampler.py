from __future__ import annotations

from collections import Counter

import pytest

from rallypoint.primitives.sampler import ElasticDistributedSampler


def deal(items: int, ranks: int, start: int = 0, epoch: int = 0) -> list[list[int]]:
    """Give what each rank gets."""
    dealt = []
    for rank in range(ranks):
        sampler = ElasticDistributedSampler(range(items), ranks, rank, start)
        sampler.set_epoch(epoch)
        dealt.append(list(sampler))
        assert len(dealt[-1]) == len(sampler) == sampler.num_samples
    return dealt


@pytest.mark.parametrize(("items", "ranks", "start"), [(10, 3, 0), (10, 3, 4), (9, 2, 3), (10, 3, 9), (5, 5, 3)])
def test_every_item_that_is_left_is_dealt_and_each_rank_gets_as_many(items: int, ranks: int, start: int) -> None:
    dealt = deal(items, ranks, start)

    counted = Counter(item for hand in dealt for item in hand)
    assert set(counted) == set(range(start, items))
    assert max(counted.values()) - min(counted.values()) <= 1
    assert len({len(hand) for hand in dealt}) == 1


def test_an_epoch_decides_the_order() -> None:
    assert deal(100, 2, epoch=1) == deal(100, 2, epoch=1) != deal(100, 2, epoch=2)


def test_rank_and_ranks_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    sampler = ElasticDistributedSampler(range(8))
    assert (sampler.num_replicas, sampler.rank, sampler.total_size) == (4, 3, 8)

    monkeypatch.delenv("RANK")
    with pytest.raises(ValueError, match="RANK in the environment is no number"):
        ElasticDistributedSampler(range(8))


@pytest.mark.parametrize(
    ("rank", "start", "complaint"),
    [(2, 0, "Invalid rank 2"), (-1, 0, "Invalid rank -1"), (0, 8, "Start index 8 should be less than dataset size 8")],
)
def test_what_is_out_of_range_is_refused(rank: int, start: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ElasticDistributedSampler(range(8), 2, rank, start)
