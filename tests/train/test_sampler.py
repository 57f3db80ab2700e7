"""The sequence of batches does not depend on who reads it."""

from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest

from longcompress.train.data.sampler import BatchSampler
from longcompress.train.shards.index import Entry, Index


def index(num, seed=0, name="x"):
    sizes = np.random.default_rng(seed).integers(5, 200, num).tolist()
    entries = [Entry(f"{name}{i}", 0, {}, 60.0, {"video": n, "audio": n // 5}) for i, n in enumerate(sizes)]
    return Index(Path(name), (), tuple(entries), {})


INDEXES = [index(40), index(7, 1, "y")]


def sampler(indexes=INDEXES, **options):
    arguments = {"seed": 4, "max_tokens": 600, "budgets": (20, 60, 240), "min_videos": 3} | options
    return BatchSampler(indexes, **arguments)


def taken(num, **options):
    return list(islice(sampler(weights=[1.0, 3.0], **options), num))


def test_resume_is_one_integer():
    whole = taken(60)
    for start in (0, 1, 23, 59):
        assert taken(60 - start, start=start) == whole[start:]
    assert taken(60) == whole != taken(60, seed=5)


def test_batches_are_full_of_tokens_and_never_past_them():
    for batch, after in zip(taken(200), taken(201)[1:], strict=True):
        held = [sum(INDEXES[d].entries[i].tokens.values()) for d, i in batch.samples]
        assert list(batch.costs) == [min(n, batch.budget) for n in held]
        assert len(batch.samples) >= 3 and (sum(batch.costs) <= 600 or len(batch.samples) == 3)
        d, i = after.samples[0]
        next_cost = min(sum(INDEXES[d].entries[i].tokens.values()), batch.budget)
        assert sum(batch.costs) + next_cost > 600
    assert {b.budget for b in taken(200)} == {20, 60, 240}


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_a_batch_out_and_work_alike(world):
    for batch in taken(50):
        parts = [batch.of_rank(rank, world) for rank in range(world)]
        assert sorted(chain(*parts)) == sorted(batch.samples)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        cost = dict(zip(batch.samples, batch.costs, strict=True))
        loads = [sum(cost[s] for s in part) for part in parts]
        assert max(loads) - min(loads) <= max(batch.costs)


def test_a_mixture_keeps_its_shares_everywhere_and_each_set_its_epochs():
    sampled = list(islice(sampler(weights=[1.0, 3.0]).samples(), 400))
    for at in range(0, 400, 40):
        assert abs(sum(d for d, _ in sampled[at : at + 40]) - 30) <= 1
    small = [i for d, i in sampled if d == 1]
    for epoch in range(len(small) // 7):
        assert sorted(small[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert small[:7] != small[7:14]
    alone = list(islice(sampler(INDEXES[:1]).samples(), 80))
    assert [i for _, i in alone[:40]] == INDEXES[0].order(4, 0).tolist()


def test_what_can_not_be_is_refused():
    with pytest.raises(ValueError, match="each with samples"):
        sampler([])
    with pytest.raises(ValueError, match="a number > 0 for each of 1 data sets"):
        sampler([index(3)], weights=[0.0])
    for options in ({"max_tokens": 0}, {"budgets": ()}, {"budgets": (0,)}, {"min_videos": 0}):
        with pytest.raises(ValueError, match="must be >= 1"):
            taken(1, **options)


def test_batches_have_most_samples_at_most():
    indexes = [index(9)]
    for batch in islice(
        BatchSampler(indexes, seed=0, max_tokens=10**6, budgets=[10], min_videos=2, max_videos=4), 6
    ):
        assert len(batch.samples) == 4
    with pytest.raises(ValueError, match="max_videos must be 0 or >= min_videos = 3, got 2"):
        (BatchSampler(indexes, seed=0, max_tokens=10, budgets=[10], min_videos=3, max_videos=2))
