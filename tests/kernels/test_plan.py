"""kernels/plan.py against a merge written step by step in float64, and the laws of planning."""

import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from longcompress.kernels import Plan, after_rounds, plan, pool

from helpers import (
    assert_within,
    drifting_patches,
    mean_over_heads,
    merge_step_by_step,
    normal,
    offsets_of,
)

SCORES = ("ward", "cosine")
ORDERS = ("seat", "reference")
LONGVLM = [1280, 640, 320, 160, 80, 40, 10]
LONGVLM_SCRIPT = [2880, 1440, 720, 360, 180, 90, 40]


def planned(metric: Tensor, lengths: list[int], keep: int | list[int], **options) -> Plan:
    """`plan` on segments of these lengths, after checking everything that holds for any plan."""
    weight = options.get("weight")
    if isinstance(keep, list):
        keep = torch.tensor(keep)
    got = plan(metric, offsets_of(lengths), keep, **options)
    limits = [keep] * len(lengths) if isinstance(keep, int) else keep.tolist()
    begins = offsets_of([min(k, n) for k, n in zip(limits, lengths, strict=True)])
    assert torch.equal(got.offsets, begins)
    assert [part.dtype for part in got] == [torch.int32, torch.float32, torch.float32, torch.int32]
    assert got.group.shape == got.weight.shape == metric.shape[:1]
    assert got.mass.shape == (int(begins[-1]),)
    assert torch.equal(got.weight, torch.ones(len(metric)) if weight is None else weight.float())
    tokens = offsets_of(lengths).tolist()
    for s in range(len(lengths)):
        mine = got.group[tokens[s] : tokens[s + 1]]
        assert mine.unique().tolist() == list(range(int(begins[s]), int(begins[s + 1]))), f"segment {s}"
    return got


def random_weight(rng: np.random.Generator, n: int, kind: str) -> Tensor | None:
    if kind == "ones":
        return None
    return torch.from_numpy(rng.integers(1 if kind == "counts" else 0, 6, n).astype(np.float32))


def expected_groups(metric: Tensor, lengths: list[int], keep: list[int], weight: Tensor | None, **options):
    """(N,) groups and (M,) sizes that the step-by-step merge of every segment gives."""
    groups, sizes, at, first = [], [], 0, 0
    for n, limit in zip(lengths, keep, strict=True):
        part = None if weight is None else weight[at : at + n].numpy()
        merged = merge_step_by_step(metric[at : at + n].numpy(), keep=limit, weight=part, **options)
        groups.append(merged.group + first)
        sizes.append(merged.size)
        at, first = at + n, first + len(merged.size)
    return np.concatenate(groups), np.concatenate(sizes)


# --- equal to the step-by-step merge


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "left", "width"),
    [(LONGVLM, 30, 1024), (LONGVLM_SCRIPT, 20, 1024)],
    ids=["30", "20"],
)
@pytest.mark.parametrize("kind", ["random", "video"])
def test_reference_order_is_the_published_merge(kind, schedule, left, width):
    x = normal(2560, width, seed=3, dtype=torch.float64)
    if kind == "video":
        x = drifting_patches(10, 256, width, seed=4)
    heads = width // 64
    options = {"schedule": schedule, "score": "cosine", "order": "reference"}
    want = merge_step_by_step(x.numpy(), metric_of=mean_over_heads(heads), **options)
    assert len(want.size) == left

    metric = x.view(2560, heads, 64).mean(1)
    got = planned(metric, [2560], left, **options)
    assert np.array_equal(got.group.numpy(), want.group)
    assert np.array_equal(got.mass.numpy(), want.size)
    assert_within("pooled", pool(x, got), want.x, 1e-12)


@pytest.mark.parametrize("kind", ["random", "video"])
def test_default_plan_is_the_step_by_step_merge_of_wide_features(kind):
    frames, patches, heads, wide = 10, 49, 4, 64
    x = normal(frames * patches, wide, seed=5, dtype=torch.float64)
    if kind == "video":
        x = drifting_patches(frames, patches, wide, seed=6)
    want = merge_step_by_step(x.numpy(), keep=30, metric_of=mean_over_heads(heads))
    got = planned(x.view(-1, heads, wide // heads).mean(1), [len(x)], 30)
    assert np.array_equal(got.group.numpy(), want.group)
    assert np.array_equal(got.mass.numpy(), want.size)
    assert_within("pooled", pool(x, got), want.x, 1e-12)


@pytest.mark.parametrize("weights", ["ones", "counts", "zeros"])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("seed", range(16))
def test_small_segments_are_merged_step_by_step(seed, score, weights):
    rng = np.random.default_rng([seed, SCORES.index(score)])
    lengths = rng.integers(0, 41, size=7).tolist()
    keep = rng.integers(1, 14, size=7).tolist()
    metric = torch.from_numpy(rng.standard_normal((sum(lengths), int(rng.integers(3, 71)))))
    weight = random_weight(rng, len(metric), weights)
    for order in ORDERS:
        schedule = float(rng.choice([0.5, 0.25, 0.125, 0.3, 0.01]))
        options = {"score": score, "order": order, "schedule": schedule}
        got = planned(metric, lengths, keep, weight=weight, **options)
        group, size = expected_groups(metric, lengths, keep, weight, **options)
        assert np.array_equal(got.group.numpy(), group), options
        assert np.array_equal(got.mass.numpy(), size), options


@pytest.mark.parametrize("weights", ["ones", "counts", "zeros"])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("n", [255, 256, 257, 601])
def test_large_segments_are_merged_step_by_step(n, score, weights):
    rng = np.random.default_rng(n)
    metric = torch.from_numpy(rng.standard_normal((2 * n, 16)))
    weight = random_weight(rng, len(metric), weights)
    if weights == "zeros":
        weight[:n] = 0  # a whole segment of tokens that count for nothing
    got = planned(metric, [n, n], [n // 5, 7], score=score, weight=weight)
    group, size = expected_groups(metric, [n, n], [n // 5, 7], weight, score=score)
    assert np.array_equal(got.mass.numpy(), size)
    assert np.array_equal(got.group.numpy(), group)


@pytest.mark.parametrize("score", ["ward", "cosine"])
@pytest.mark.parametrize("num_scores", [1, 5_000, 40_000])
def test_scores_of_some_rows_at_a_time_give_the_same_plan(score, num_scores, monkeypatch):
    metric, offsets = normal(760, 16, seed=4), offsets_of([451, 309])
    weight = torch.arange(760).remainder(5).add(1).float()
    for of in (None, weight):
        want = plan(metric, offsets, 40, score=score, weight=of)
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules["longcompress.kernels.plan"], "MOST_SCORES", num_scores)
            got = plan(metric, offsets, 40, score=score, weight=of)
        assert torch.equal(got.group, want.group)


def test_a_list_of_pairs_goes_on_with_its_last():
    metric = normal(61, 8, seed=7, dtype=torch.float64)
    got = planned(metric, [61], 4, schedule=[20, 3])
    want = merge_step_by_step(metric.numpy(), keep=4, schedule=[20] + [3] * 40)
    assert np.array_equal(got.group.numpy(), want.group)


@pytest.mark.parametrize("score", SCORES)
def test_low_precision_metrics_are_decided_as_float32(score):
    metric = normal(200, 24, seed=8).bfloat16()
    narrow, wide = (planned(m, [200], 11, score=score) for m in (metric, metric.float()))
    assert torch.equal(narrow.group, wide.group)


@pytest.mark.parametrize("n", [100, 300])
@pytest.mark.parametrize("score", SCORES)
def test_float32_pairs_are_as_good_as_float64_ones(score, n):
    """Encoders give features with a large common mean; the pairs chosen must still score what the best do."""
    x = normal(n, 64, seed=9, dtype=torch.float64) + 3 * normal(1, 64, seed=10, dtype=torch.float64)
    metric = x.float()
    exact = metric.double().numpy()
    pairs = n // 4
    got = planned(metric, [n], n - pairs, score=score).group.numpy()
    scored = np.full((n, n), -np.inf)
    for i in range(0, n, 2):
        for j in range(1, n, 2):
            a, b = exact[i], exact[j]
            ward, cosine = -0.5 * ((a - b) ** 2).sum(), (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
            scored[i, j] = ward if score == "ward" else cosine
    odd_of = {got[j]: j for j in range(1, n, 2)}
    chosen = [scored[i, odd_of[got[i]]] for i in range(0, n, 2) if got[i] in odd_of]
    assert len(chosen) == pairs
    best = np.sort(scored[0::2].max(axis=1))[::-1][:pairs]
    assert best.sum() - sum(chosen) <= 1e-5 * np.abs(best).sum()


@pytest.mark.parametrize("n", [60, 300])  # in a batch; through the buffer, where no division is needed
@pytest.mark.parametrize("factor", [0.5, 3.0, 4096.0])
def test_equal_weights_plan_as_no_weights(n, factor):
    metric = normal(n, 16, seed=30, dtype=torch.float64)
    equal = planned(metric, [n], 5, weight=torch.full((n,), factor))
    assert torch.equal(equal.group, planned(metric, [n], 5).group)
    group, _ = expected_groups(metric, [n], [5], equal.weight)
    assert np.array_equal(equal.group.numpy(), group)
    one_round = n - n // 4
    uneven = torch.full((n,), factor)
    uneven[-1] *= 1 + 1e-6  # the division now happens, and changes nothing that matters
    almost = planned(metric, [n], one_round, weight=uneven)
    assert torch.equal(almost.group, planned(metric, [n], one_round).group)


# --- what a plan is


def test_a_merged_group_keeps_the_seat_of_its_odd_token():
    line = torch.tensor([0.0, 9.0, 9.1, 0.2, 50.0, 70.0])[:, None]  # 2 joins 1, then 0 joins 3
    assert planned(line, [6], 5).group.tolist() == [0, 1, 1, 2, 3, 4]
    assert planned(line, [6], 4, schedule=0.5).group.tolist() == [1, 0, 0, 1, 2, 3]
    assert planned(line, [6], 5, order="reference").group.tolist() == [0, 2, 2, 3, 1, 4]
    assert planned(line, [6], 4, schedule=0.5, order="reference").group.tolist() == [2, 1, 1, 2, 0, 3]


def test_ward_would_rather_move_a_light_token():
    metric = torch.tensor([[0.0], [1.0], [10.0], [12.0]])  # seat 0 is closer to 1 than seat 2 to 3
    assert planned(metric, [4], 3).group.tolist() == [0, 0, 1, 2]
    heavy = torch.tensor([100.0, 100.0, 1.0, 1.0])  # costs 50 against 2
    assert planned(metric, [4], 3, weight=heavy).group.tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    "schedule",
    [0.5, 0.25, 0.125, [7, 2], *(pytest.param(s, marks=pytest.mark.slow) for s in (0.01, [1]))],
    ids=str,
)
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    "kind", ["random", *(pytest.param(k, marks=pytest.mark.slow) for k in ("equal", "zero"))]
)
def test_exactly_keep_groups_are_left(kind, score, schedule):
    for keep in (1, 3, 30):
        lengths = sorted({0, 1, 2, 3, max(keep - 1, 0), keep, keep + 1, 2 * keep, 2 * keep + 1, 77})
        metric = normal(sum(lengths), 5, seed=11)
        if kind == "equal":
            metric = normal(1, 5, seed=12).expand(sum(lengths), 5)
        elif kind == "zero":
            metric = torch.zeros(sum(lengths), 5)
        for order in ORDERS:  # `planned` counts the groups
            options = {"score": score, "schedule": schedule, "order": order}
            packed = planned(metric, lengths, keep, **options)
            each = planned(metric, lengths, [keep] * len(lengths), **options)
            assert torch.equal(packed.group, each.group)
            at = 0
            for n in lengths:
                planned(metric[at : at + n], [n], keep, **options)
                at += n


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("score", SCORES)
def test_every_segment_has_its_own_keep(score, dtype):
    lengths, keep = [40, 40, 0, 40, 9, 1], [1, 39, 5, 40, 4, 3]
    metric = normal(sum(lengths), 12, seed=13)
    together = plan(metric, offsets_of(lengths), torch.tensor(keep, dtype=dtype), score=score)
    at = 0
    for s, n in enumerate(lengths):
        alone = planned(metric[at : at + n], [n], keep[s], score=score)
        assert torch.equal(together.group[at : at + n] - together.offsets[s], alone.group)
        at += n


def test_no_segments_and_no_tokens_make_no_groups():
    for lengths in ([], [0], [0, 0, 0]):
        assert planned(torch.zeros(0, 4), lengths, 3).offsets.tolist() == [0] * (len(lengths) + 1)


def test_no_more_tokens_than_keep_stay_as_they_are():
    got = planned(normal(24, 6, seed=14), [7, 0, 17], 17)
    assert got.group.tolist() == list(range(24))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("weights", ["ones", "counts", "zeros"])
def test_mass_is_kept(weights, score):
    rng = np.random.default_rng(15)
    lengths = [300, 0, 1, 64, 300, 33]
    metric = normal(sum(lengths), 10, seed=16)
    weight = random_weight(rng, len(metric), weights)
    got = planned(metric, lengths, 9, score=score, weight=weight)
    begins, ends = offsets_of(lengths).tolist(), got.offsets.tolist()
    for s in range(len(lengths)):
        arrived = got.weight[begins[s] : begins[s + 1]].sum()
        assert got.mass[ends[s] : ends[s + 1]].sum() == arrived  # whole numbers: no rounding
    for g in range(len(got.mass)):
        assert got.mass[g] == got.weight[got.group == g].sum()


def test_large_masses_are_exact():
    weight = torch.tensor([4097.0, 1.0, 70001.0, 2.0, 8190.0])  # bfloat16 is exact to 256, float16 to 2048
    got = planned(normal(5, 3, seed=17), [5], 1, weight=weight)
    assert got.mass.tolist() == [82291.0]


@pytest.mark.parametrize("schedule", [0.5, 0.25, 0.125, 0.01])
def test_after_rounds_counts_full_rounds(schedule):
    for n in (0, 1, 2, 3, 7, 40, 2560):
        left = [n]
        while left[-1] > 1:
            left.append(left[-1] - min(max(1, int(schedule * left[-1])), left[-1] // 2))
        for rounds in (0, 1, 2, 5):
            done = min(rounds, len(left) - 1)
            assert after_rounds(n, schedule, rounds=rounds) == (left[done], done)
        for min_tokens in (1, 2, 30, 342):
            done = max((k for k, m in enumerate(left) if m >= min_tokens), default=0)
            assert after_rounds(n, schedule, min_tokens=min_tokens) == (left[done], done)


# --- nesting


def through_stops(metric: Tensor, lengths: list[int], stops: list[int], keep: int, **options) -> Tensor:
    """(N,) groups of planning to each of `stops` and then keep, each from the means and masses before."""
    composed, weight = torch.arange(len(metric)), options.pop("weight", None)
    for limit in [*stops, keep]:
        step = planned(metric, lengths, limit, weight=weight, **options)
        metric, weight = pool(metric, step), step.mass
        lengths = step.offsets.diff().tolist()
        composed = step.group.long()[composed]
    return composed


def full_rounds(n: int, schedule: float, keep: int) -> list[int]:
    """Tokens left after each full round that leaves more than keep."""
    left = []
    while n > 1:
        n -= min(max(1, int(schedule * n)), n // 2)
        if n <= keep:
            break
        left.append(n)
    return left


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("schedule", [0.5, 0.25, 0.125])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("kind", ["random", "video"])
def test_planning_nests_at_every_full_round(kind, score, schedule, dtype):
    n, keep = 320, 6
    metric = normal(2 * n, 24, seed=18, dtype=dtype)
    if kind == "video":  # in float32 without patches so still that their scores differ by less than 1e-6
        still = 1e-4 if dtype == torch.float64 else 0.02
        metric = torch.cat([drifting_patches(10, 32, 24, seed=s, still=still) for s in (19, 20)]).to(dtype)
    options = {"score": score, "schedule": schedule}
    straight = planned(metric, [n, n], keep, **options).group.long()
    stops = full_rounds(n, schedule, keep)
    assert len(stops) > 3
    for stop in stops:
        stopped = through_stops(metric, [n, n], [stop], keep, **options)
        assert torch.equal(stopped, straight), f"a stop at {stop}"
    assert torch.equal(through_stops(metric, [n, n], stops, keep, **options), straight), "all stops"


@pytest.mark.parametrize("weights", ["counts", "zeros"])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("seed", range(6))
def test_planning_nests_with_weights(seed, score, weights):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(20, 80))
    metric = torch.from_numpy(rng.standard_normal((n, 9)))
    weight = random_weight(rng, n, weights)
    straight = planned(metric, [n], 3, score=score, weight=weight).group.long()
    for stop in full_rounds(n, 0.25, 3):
        stopped = through_stops(metric, [n], [stop], 3, score=score, weight=weight)
        assert torch.equal(stopped, straight), f"a stop at {stop} of {n}"


@pytest.mark.parametrize("schedule", [0.5, 0.25, 0.125])
@pytest.mark.parametrize("score", SCORES)
def test_pooling_after_one_round_gives_the_bits_the_plan_goes_on_with(score, schedule):
    """So a stop at every round (as between budgets) nests to the bit, with all but still patches too."""
    for seed in range(6):
        metric = drifting_patches(10, 32, 24, seed=seed).float()
        straight = planned(metric, [320], 6, score=score, schedule=schedule).group.long()
        stops = full_rounds(320, schedule, 6)
        stopped = through_stops(metric, [320], stops, 6, score=score, schedule=schedule)
        assert torch.equal(stopped, straight), f"seed {seed}"


def test_budgets_nest_too():
    """Any two budgets of one stop: their plans after the stop are those of going through."""
    metric, (stop, _) = normal(500, 16, seed=21), after_rounds(500, 0.25, rounds=4)
    for keep in (1, 2, 50, 51, stop):
        straight = planned(metric, [500], keep).group.long()
        assert torch.equal(through_stops(metric, [500], [stop], keep), straight)


# --- the same in every pack, and ties


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("d", [3, 16, 64, 70])
@pytest.mark.parametrize("score", SCORES)
def test_a_segment_alone_and_in_a_pack_is_planned_alike(score, d, dtype):
    """With exact duplicates, so that a score that rounds differently elsewhere changes the plan."""
    lengths = [2, 33, 5, 100, 33, 300, 16, 255, 33, 256, 300, 17, 33, 1, 0, 100]
    rng = np.random.default_rng(d)
    kinds = normal(12, d, seed=22, dtype=dtype)
    metric = kinds[torch.from_numpy(rng.integers(0, 12, sum(lengths)))]
    together = planned(metric, lengths, 4, score=score, schedule=0.25)
    again = planned(metric.clone(), lengths, 4, score=score, schedule=0.25)
    assert all(torch.equal(a, b) for a, b in zip(together, again, strict=True))
    at = 0
    for s, n in enumerate(lengths):
        mine = metric[at : at + n].clone()
        here = together.group[at : at + n] - together.offsets[s]
        alone = planned(mine, [n], 4, score=score)
        assert torch.equal(alone.group, here), f"alone, segment {s} of {n} tokens"
        copies = planned(mine.repeat(5, 1), [n] * 5, 4, score=score)
        own = copies.group.view(5, n) - copies.offsets[:-1, None]
        assert (own == here).all(), f"five copies, segment {s} of {n} tokens"
        at += n


@pytest.mark.parametrize("schedule", [0.5, 0.25])
@pytest.mark.parametrize("d", [1, 3, 16, 64, 65])
@pytest.mark.parametrize("score", SCORES)
def test_equal_tokens_merge_at_the_lowest_seats(score, d, schedule):
    lengths = list(range(2, 301))
    pairs = [min(max(1, int(schedule * n)), n // 2) for n in lengths]
    metric = normal(1, d, seed=23).repeat(sum(lengths), 1)
    keep = [n - r for n, r in zip(lengths, pairs, strict=True)]
    got = planned(metric, lengths, keep, score=score, schedule=schedule)
    tokens, groups = offsets_of(lengths).tolist(), got.offsets.tolist()
    for s, (n, r) in enumerate(zip(lengths, pairs, strict=True)):
        seats = [i for i in range(n) if i % 2 or i >= 2 * r]  # the first r even seats join seat 1
        want = [seats.index(i if i in seats else 1) for i in range(n)]
        assert (got.group[tokens[s] : tokens[s + 1]] - groups[s]).tolist() == want, f"{n} tokens"


@pytest.mark.parametrize("score", SCORES)
def test_equal_tokens_merge_at_the_lowest_seats_in_every_round(score):
    lengths = [2, 3, 17, 64, 255, 300]
    metric = torch.zeros(sum(lengths), 4)
    metric[:, 0] = 1  # means and products without rounding
    got = planned(metric, lengths, 2, score=score)
    group, _ = expected_groups(metric.double(), lengths, [2] * len(lengths), None, score=score)
    assert np.array_equal(got.group.numpy(), group)


@pytest.mark.parametrize("d", [3, 16, 64, 70])
@pytest.mark.parametrize("score", SCORES)
def test_of_equal_partners_the_lowest_is_taken(score, d):
    rng = np.random.default_rng(24 + d)
    kinds = normal(5, d, seed=25)
    for n in (2, 10, 34, 100, 254, 256, 300, 400):
        kind = rng.integers(0, 5, n)
        got = planned(kinds[torch.from_numpy(kind)], [n], n // 2, score=score, schedule=0.5).group.tolist()
        for i in range(0, n, 2):
            same = np.flatnonzero(kind[1::2] == kind[i])
            if len(same):
                assert got[i] == same[0], f"seat {i} of {n}"


@pytest.mark.parametrize("n", [9, 40, 301])
@pytest.mark.parametrize("seed", range(4))
def test_exact_ties_of_ward_go_to_the_lowest_seat(seed, n):
    """Small whole numbers and weights of powers of two: every score is exact, a great many are equal."""
    rng = np.random.default_rng(seed)
    metric, weight = rng.integers(-1, 2, (n, 3)), 2 ** rng.integers(0, 3, n)
    best, partner = {}, {}
    for i in range(0, n, 2):
        costs = []
        for j in range(1, n, 2):
            share = Fraction(int(weight[i] * weight[j]), int(weight[i] + weight[j]))
            costs.append(share * int(((metric[i] - metric[j]) ** 2).sum()))
        best[i], partner[i] = min(costs), 2 * costs.index(min(costs)) + 1
    joined = sorted(best, key=lambda i: (best[i], i))[: n // 4]
    seats = [i for i in range(n) if i not in joined]
    want = [seats.index(partner[i] if i in joined else i) for i in range(n)]
    weights = torch.from_numpy(weight).float()
    got = planned(torch.from_numpy(metric).float(), [n], n - n // 4, weight=weights)
    assert got.group.tolist() == want


def test_a_zero_vector_has_cosine_minus_one():
    metric = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.1], [0.0, 0.0]])  # 2 with 1: -.995, all others -1
    assert planned(metric, [4], 3, score="cosine").group.tolist() == [0, 1, 1, 2]


def test_a_plan_has_no_gradient():
    metric = normal(20, 4, seed=26).requires_grad_()
    assert not any(part.requires_grad for part in planned(metric, [20], 3))


def test_fast_precision_plans_too():
    planned(normal(90, 8, seed=27), [50, 40], 7, precision="fast")


# --- messages

SIX = offsets_of([6])
BAD = {
    "metric-flat": ({"metric": torch.zeros(6)}, r"metric must be \(N, d\) float, got \(6,\)"),
    "metric-int": ({"metric": torch.zeros(6, 2, dtype=torch.int64)}, r"metric must be \(N, d\) float.*int64"),
    "offsets-2d": ({"offsets": SIX[None]}, r"offsets must be \(S \+ 1,\) integers, got \(1, 2\)"),
    "offsets-none": ({"offsets": SIX[:0]}, r"offsets must be \(S \+ 1,\) integers, got \(0,\)"),
    "offsets-float": ({"offsets": SIX.float()}, r"offsets must be \(S \+ 1,\) integers.*float32"),
    "offsets-short": ({"offsets": offsets_of([5])}, r"offsets must rise from 0 to N = 6, got \[0, 5\]"),
    "offsets-late": (
        {"offsets": SIX + torch.tensor([1, 0])},
        r"offsets must rise from 0 to N = 6, got \[1, 6\]",
    ),
    "offsets-fall": ({"offsets": torch.tensor([0, 4, 3, 6])}, r"offsets must rise from 0 to N = 6"),
    "offsets-long": (
        {"offsets": torch.arange(13)},
        r"offsets must rise from 0 to N = 6, got \[0, 1, .*, 12\]",
    ),
    "weight-shape": ({"weight": torch.ones(5)}, r"weight must be \(N,\) = \(6,\) like metric, got \(5,\)"),
    "schedule-zero": ({"schedule": 0.0}, r"schedule must be a fraction in \(0, 0\.5\].*got 0\.0"),
    "schedule-high": ({"schedule": 0.51}, r"schedule must be a fraction in \(0, 0\.5\].*got 0\.51"),
    "schedule-nan": ({"schedule": float("nan")}, r"schedule must be a fraction in \(0, 0\.5\].*got nan"),
    "schedule-empty": ({"schedule": []}, r"schedule must list at least one round.*got \[\]"),
    "schedule-no-pairs": ({"schedule": [4, 0]}, r"schedule must list .* >= 1 pairs, got \[4, 0\]"),
    "score": ({"score": "dot"}, r"score must be one of .*ward.*cosine.*got 'dot'"),
    "order": ({"order": "time"}, r"order must be one of .*seat.*reference.*got 'time'"),
    "precision": ({"precision": "bf16"}, r"precision must be one of .*exact.*fast.*got 'bf16'"),
    "keep-zero": ({"keep": 0}, r"keep must be >= 1 for every segment, got 0"),
    "keep-zeros": ({"keep": torch.tensor([0])}, r"keep must be >= 1 for every segment, got 0"),
    "keep-shape": (
        {"keep": torch.tensor([1, 2])},
        r"keep must be one integer or \(S,\) = \(1,\).*got \(2,\)",
    ),
    "keep-float": ({"keep": torch.tensor([2.0])}, r"keep must be one integer or \(S,\).*float32"),
}


@pytest.mark.parametrize("case", BAD)
def test_plan_refuses(case):
    wrong, message = BAD[case]
    arguments = {"metric": torch.ones(6, 2), "offsets": SIX, "keep": 3} | wrong
    with pytest.raises(ValueError, match=message):
        plan(**arguments)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_plan_names_the_segment_of_a_value_that_is_not_finite(value):
    metric = normal(12, 3, seed=28)
    metric[7, 1] = value
    with pytest.raises(ValueError, match=r"metric must be finite.*token 7 \(segment 3\)"):
        plan(metric, offsets_of([4, 0, 3, 5, 0]), 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_plan_names_the_segment_of_a_bad_weight(value):
    weight = torch.ones(12)
    weight[4] = value
    with pytest.raises(ValueError, match=r"weight finite and >= 0, but token 4 \(segment 2\)"):
        plan(normal(12, 3, seed=29), offsets_of([4, 0, 3, 5]), 2, weight=weight)
