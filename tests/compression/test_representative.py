"""What a merged token shows: the mean of its raw tokens or one of them, and the place of which."""

from dataclasses import replace

import pytest
import torch

from longcompress.compression.merging import Group, merge, seat_order
from longcompress.config import MergeConfig
from longcompress.types import Encoded, Tokens

NUM, PATCHES, WIDTH = 96, 8, 12


def raw(seed: int = 0) -> Encoded:
    """Random tokens, each at a place of its own."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(NUM, WIDTH, generator=generator)
    start_s = torch.arange(NUM // PATCHES, dtype=torch.float64).repeat_interleave(PATCHES)
    patch = torch.arange(NUM) % PATCHES
    place = torch.stack([start_s, (patch // 4).double(), (patch % 4).double()], -1)
    tokens = Tokens(x, torch.ones(NUM), start_s + 0.5, start_s, start_s + 1, place)
    return Encoded(tokens, x[:, :6].contiguous(), patches=PATCHES)


def merged(keeps: list[int], **options) -> tuple[Group, Group]:
    """(raw tokens in seat order, what is left of them after merging to each number in turn)."""
    config = MergeConfig(**options)
    first = group = seat_order(raw(), config, 0, keep_assignment=True)
    for keep in keeps:
        group = merge([group], [keep], config)[0]
    return first, group


def is_row_of(rows: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    return (rows[:, None] == of[None]).all(-1).any(1)


@pytest.mark.parametrize("keeps", [[40], [70, 31, 9], [60, 1]])
def test_a_medoid_is_always_a_raw_token_of_its_group(keeps):
    before, after = merged(keeps, representative="medoid", place="medoid")
    assert len(after) == keeps[-1] and float(after.tokens.size.sum()) == NUM
    for i in range(len(after)):
        own = before.tokens.take(after.member == i)
        at = (own.x == after.tokens.x[i]).all(1).nonzero()[:, 0]
        assert len(at) == 1  # the row, and the place of the same token
        assert torch.equal(own.place[at[0]], after.tokens.place[i])


def test_of_one_merge_the_medoid_is_nearest_to_the_mean_metric():
    before, after = merged([25], representative="medoid", place="medoid")
    for i in range(len(after)):
        own = after.member == i
        distance = (before.metric[own] - after.metric[i]).double().square().sum(1)
        nearest = before.tokens.x[own][distance.argmin()]
        assert torch.equal(nearest, after.tokens.x[i])


def test_plans_sizes_and_times_are_those_of_the_mean():
    _, mean = merged([70, 31, 9])
    for options in ({"representative": "medoid"}, {"place": "medoid"}, {"place": "heaviest"}):
        _, group = merged([70, 31, 9], **options)
        assert torch.equal(group.member, mean.member)
        for name in ("size", "time_s", "start_s", "end_s"):
            assert torch.equal(getattr(group.tokens, name), getattr(mean.tokens, name))
        torch.testing.assert_close(group.metric, mean.metric)


def test_a_mean_row_may_have_the_medoids_place():
    before, after = merged([30, 11], place="medoid")
    _, mean = merged([30, 11])
    assert torch.equal(after.tokens.x, mean.tokens.x)
    assert is_row_of(after.tokens.place, before.tokens.place).all()
    assert not is_row_of(mean.tokens.place, before.tokens.place).all()


def test_the_heaviest_of_the_tokens_that_merged_last_gives_the_place():
    config = MergeConfig(place="heaviest")
    group = seat_order(raw(), config, 0, keep_assignment=False)
    size = torch.rand(NUM, generator=torch.Generator().manual_seed(3)) + 0.1
    group = replace(group, tokens=replace(group.tokens, size=size), member=torch.arange(NUM).int())
    after = merge([group], [20], config)[0]
    for i in range(20):
        own = (after.member == i).nonzero()[:, 0]
        assert torch.equal(after.tokens.place[i], group.tokens.place[own[size[own].argmax()]])


def test_of_raw_tokens_the_heaviest_is_the_medoid():
    _, heaviest = merged([40], place="heaviest")
    _, medoid = merged([40], place="medoid")
    assert torch.equal(heaviest.tokens.place, medoid.tokens.place)


def test_mean_places_keep_their_sum():
    before, after = merged([70, 31, 9])
    total = (after.tokens.place * after.tokens.size[:, None]).sum(0)
    torch.testing.assert_close(total, before.tokens.place.sum(0))
