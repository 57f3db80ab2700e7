"""Close, hold, compress: exact budgets, mass and time kept, the same for any cut."""

import random

import pytest
import torch

from longcompress.compression.merging import Compressor, GlobalMemory
from longcompress.compression.segmenter import Segmenter
from longcompress.compression.state import Hold
from longcompress.config import BudgetConfig, MemoryConfig, MergeConfig, SegmentConfig
from longcompress.types import Encoded, Segment, Tokens

from models import tokens

PATCHES, WIDTHS = 4, {"video": 16, "audio": 8}


def stream(name: str, steps: int, seed: int = 0) -> Encoded:
    """`steps` seconds of one stream: slowly drifting features, as videos have."""
    patches = PATCHES if name == "video" else 1
    draw = torch.Generator().manual_seed(seed)
    drift = torch.randn(steps, patches, WIDTHS[name], generator=draw).cumsum(0) * 0.3
    x = (torch.randn(1, patches, WIDTHS[name], generator=draw) + drift).reshape(steps * patches, -1)
    start_s = torch.arange(steps, dtype=torch.float64).repeat_interleave(patches)
    made = Tokens(x, torch.ones(len(x)), start_s + 0.5, start_s, start_s + 1)
    return Encoded(made, x[:, :8].contiguous(), x.view(steps, patches, -1).mean(1, keepdim=True), patches)


def compressor(kind: str = "mean", **options) -> Compressor:
    torch.manual_seed(0)
    memory = GlobalMemory(MemoryConfig(kind=kind, num_queries=2), WIDTHS, dict.fromkeys(WIDTHS, 1))
    merge = MergeConfig(
        tokens_per_segment={"video": 20, "*": 5}, **{k: v for k, v in options.items() if k != "share"}
    )
    budget = BudgetConfig(tokens=64, allocation=options.get("share", "even"))
    return Compressor(merge, budget, memory)


def compressed(
    made: Compressor, steps: int, budget: int, cuts: list[int] = (), *, members: bool = False
) -> Hold:
    parts = {name: stream(name, steps) for name in WIDTHS}
    hold, segmenter, at = Hold(), Segmenter(SegmentConfig()), 0
    for cut in [*cuts, steps]:
        for name, part in parts.items():
            for segment in segmenter.push(name, part.rows(at, cut)):
                made.close(hold, segment, budget, keep_assignment=members)
        at = cut
    for segment in segmenter.flush():
        made.close(hold, segment, budget, keep_assignment=members)
    return hold


def same(a: tuple, b: tuple) -> bool:
    """Whether two compressed memories are equal to the bit."""
    tokens_equal = all(
        torch.equal(getattr(a[0][n], f), getattr(b[0][n], f))
        for n in a[0]
        for f in ("x", "size", "time_s", "start_s", "end_s")
    )
    return a[0].keys() == b[0].keys() and tokens_equal and all(torch.equal(a[1][n], b[1][n]) for n in a[1])


@pytest.mark.parametrize("kind", ["none", "mean", "learned"])
@pytest.mark.parametrize("steps", [1, 9, 10, 11, 95])
@pytest.mark.parametrize("budget", [8, 31, 64, 10_000])
def test_a_compressed_memory_has_exactly_the_budget_or_all_there_is(kind, steps, budget):
    made = compressor(kind)
    hold = compressed(made, steps, 64)
    streams, globals_, _ = made.compress_to(hold, budget)
    num_globals = sum(map(len, globals_.values()))
    assert num_globals == {"none": 0, "mean": 2, "learned": 4}[kind]
    assert sum(map(len, streams.values())) + num_globals == min(budget, hold.num_tokens() + num_globals)


@pytest.mark.parametrize("share", ["even", "novelty"])
def test_mass_and_time_are_kept(share):
    made = compressor(share=share)
    hold = compressed(made, 300, 64)
    streams, _, _ = made.compress_to(hold, 50)
    for name, patches in (("video", PATCHES), ("audio", 1)):
        held = streams[name]
        assert float(held.size.sum()) == 300 * patches
        mean = float((held.time_s * held.size).sum() / held.size.sum())
        assert abs(mean - 150.0) < 1e-6
        assert bool((held.time_s.diff() >= 0).all())
        assert bool((held.start_s <= held.time_s).all() and (held.time_s <= held.end_s).all())
        assert float(held.start_s.min()) == 0.0 and float(held.end_s.max()) == 300.0
        raw = stream(name, 300).tokens.x.double()
        torch.testing.assert_close(
            (held.x.double() * held.size[:, None]).sum(0), raw.sum(0), rtol=1e-4, atol=1e-2
        )


@pytest.mark.parametrize("kind", ["mean", "learned"])
@pytest.mark.parametrize("seed", range(3))
def test_the_memory_is_the_same_for_any_cut(kind, seed):
    made = compressor(kind)
    whole = compressed(made, 200, 40)
    cuts = sorted(random.Random(seed).sample(range(1, 200), 25))
    pieces = compressed(made, 200, 40, cuts)
    for budget in (8, 40, 500):
        assert same(made.compress_to(whole, budget), made.compress_to(pieces, budget))


def test_compressing_changes_nothing_held():
    made = compressor()
    hold = compressed(made, 100, 40)
    first = made.compress_to(hold, 40)
    made.compress_to(hold, 9)
    assert same(first, made.compress_to(hold, 40))


def test_what_is_held_is_bounded_for_ever():
    made = compressor()
    parts = {name: stream(name, 2000) for name in WIDTHS}
    hold, segmenter, most = Hold(), Segmenter(SegmentConfig()), []
    for at in range(0, 2000, 10):
        for name, part in parts.items():
            for segment in segmenter.push(name, part.rows(at, at + 10)):
                made.close(hold, segment, 32)
                most.append((hold.num_tokens(), hold.num_groups()))
    assert max(n for n, _ in most) <= 4 * 32
    assert max(g for _, g in most) <= 16
    early, late = most[len(most) // 4 :][:20], most[-20:]
    assert abs(sum(n for n, _ in late) - sum(n for n, _ in early)) < 20 * 40
    held = [len(p.groups["video"]) / p.count for p in hold.pieces]
    assert max(held) <= 3 * min(held)  # early and late stretches are kept alike


def test_learned_memory_reads_what_closed_tokens_say():
    made = compressor("learned")
    hold = compressed(made, 50, 1000)
    query = made.memory.query["video"]
    closed = Tokens.join(p.groups["video"].tokens for p in hold.pieces)
    score = query.double() @ closed.x.double().t() + closed.size.double().log()
    want = score.softmax(1) @ closed.x.double()
    torch.testing.assert_close(made.memory.read(hold.memory)["video"].double(), want, rtol=1e-5, atol=1e-5)


def test_mean_memory_is_the_mean_of_summaries():
    made = compressor("mean")
    hold = compressed(made, 73, 30)
    want = stream("audio", 73).summary.double().mean(0)
    torch.testing.assert_close(made.memory.read(hold.memory)["audio"].double(), want, rtol=1e-6, atol=1e-6)


def test_members_say_where_every_raw_token_went():
    made = compressor()
    hold = compressed(made, 60, 40, members=True)
    streams, _, members = made.compress_to(hold, 40)
    for name in WIDTHS:
        raw, held = stream(name, 60).tokens, streams[name]
        group = members[name].long()
        assert len(group) == len(raw)
        assert torch.equal(torch.bincount(group, minlength=len(held)).float(), held.size)
        sums = torch.zeros_like(held.x).index_add(0, group, raw.x)
        torch.testing.assert_close(sums / held.size[:, None], held.x, rtol=1e-4, atol=1e-5)


def test_novelty_buys_tokens_where_something_happens():
    made = compressor(share="novelty")
    hold, segments = Hold(), []
    for k in range(4):
        part = stream("video", 10, seed=k).rows(0, 10)
        moved = Tokens(
            part.tokens.x,
            part.tokens.size,
            *(t + 10 * k for t in (part.tokens.time_s, part.tokens.start_s, part.tokens.end_s)),
        )
        still = k != 2
        metric = (
            torch.randn(40, 8, generator=torch.Generator().manual_seed(9)) if not still else torch.ones(40, 8)
        )
        segments.append(
            Segment(k, 10.0 * k, 10.0 * k + 10, {"video": Encoded(moved, metric, part.summary, PATCHES)})
        )
    for segment in segments:
        made.close(hold, segment, 1000)
    streams, _, _ = made.compress_to(hold, 30)
    counts = torch.bincount((streams["video"].time_s // 10).long(), minlength=4)
    assert int(counts.argmax()) == 2 and int(counts[1]) < int(counts[2])


@pytest.mark.parametrize(
    ("budget", "message"), [(0, "budget must be a whole number"), (3, "at least 4"), (2.5, "whole number")]
)
def test_a_budget_too_small_is_an_error(budget, message):
    made = compressor("mean")
    with pytest.raises(ValueError, match=message):
        made.compress_to(compressed(made, 20, 64), budget)


def test_the_smallest_budget_works():
    made = compressor("mean")
    streams, _, _ = made.compress_to(compressed(made, 200, 64), 4)
    assert {n: len(t) for n, t in streams.items()} == {"video": 1, "audio": 1}


def test_tokens_of_helpers_are_in_time():
    assert bool((tokens(9, 4, 0).time_s.diff() >= 0).all())
