"""The merge state: exact budgets, mass and time kept, the same for any cut."""

import random

import pytest
import torch

from longcompress.compression.global_memory import GlobalMemory
from longcompress.compression.segmenter import Segmenter
from longcompress.compression.state import STATE_CLASSES, MergeState
from longcompress.config import BudgetConfig, MemoryConfig, MergeConfig, SegmentConfig
from longcompress.serialize import pack, unpack
from longcompress.types import Encoded, Segment, Tokens

from helpers import assert_same_video
from models import tokens

PATCHES, WIDTHS = 4, {"video": 16, "audio": 8}


def stream(name: str, steps: int, seed: int = 0) -> Encoded:
    """`steps` seconds of one stream: slowly drifting features, as videos have."""
    patches = PATCHES if name == "video" else 1
    generator = torch.Generator().manual_seed(seed)
    drift = torch.randn(steps, patches, WIDTHS[name], generator=generator).cumsum(0) * 0.3
    x = (torch.randn(1, patches, WIDTHS[name], generator=generator) + drift).reshape(steps * patches, -1)
    start_s = torch.arange(steps, dtype=torch.float64).repeat_interleave(patches)
    tokens = Tokens(x, torch.ones(len(x)), start_s + 0.5, start_s, start_s + 1)
    return Encoded(tokens, x[:, :8].contiguous(), x.view(steps, patches, -1).mean(1, keepdim=True), patches)


def empty_state(
    budget: int = 64, kind: str = "mean", *, keep_assignment: bool = False, **options
) -> MergeState:
    torch.manual_seed(0)
    memory = GlobalMemory(MemoryConfig(kind=kind, num_queries=2), WIDTHS, dict.fromkeys(WIDTHS, 1))
    merge = MergeConfig(options.get("schedule", 0.25), tokens_per_segment={"video": 20, "*": 5})
    allocation = BudgetConfig(tokens=64, allocation=options.get("allocation", "even"))
    return MergeState(merge, allocation, memory, budget, keep_assignment)


def fill(state: MergeState, steps: int, cuts: list[int] = ()) -> MergeState:
    """The state after `steps` seconds of both streams, pushed in pieces that end at `cuts`."""
    parts = {name: stream(name, steps) for name in WIDTHS}
    segmenter, at = Segmenter(SegmentConfig()), 0
    for cut in [*cuts, steps]:
        for name, part in parts.items():
            for segment in segmenter.push(name, part.rows(at, cut)):
                state.add(segment)
        at = cut
    for segment in segmenter.flush():
        state.add(segment)
    return state


MERGING = {  # how tokens merge, and how a budget is allocated
    "rounds": {},
    "novelty": {"allocation": "novelty"},
    "blocks": {"schedule": "blocks"},
    "tree": {"schedule": "tree"},
    "height": {"schedule": "tree", "allocation": "height"},
    "rounds, height": {"allocation": "height"},
}


@pytest.fixture(params=MERGING)
def merging(request) -> dict[str, str]:
    return MERGING[request.param]


@pytest.mark.parametrize("kind", ["none", "mean", "learned", "coarse", "scales"])
@pytest.mark.parametrize("steps", [1, 9, 10, 11, 95])
def test_a_compressed_memory_has_exactly_the_budget_or_all_there_is(kind, steps, merging):
    state = fill(empty_state(kind=kind, **merging), steps)
    for budget in (8, 31, 64, 10_000):
        video = state.compress(budget)
        num_globals = sum(map(len, video.globals.values()))
        assert num_globals == {"none": 0, "mean": 2}.get(kind, 4)
        assert video.num_tokens == min(budget, state.num_tokens() + num_globals)


def test_mass_and_time_are_kept(merging):
    streams = fill(empty_state(**merging), 300).compress(50).streams
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


@pytest.mark.parametrize("kind", ["mean", "learned", "coarse", "scales"])
def test_the_memory_is_the_same_for_any_cut(kind, merging):
    whole = fill(empty_state(40, kind, **merging), 200)
    for seed in range(3):
        cuts = sorted(random.Random(seed).sample(range(1, 200), 25))
        pieces = fill(empty_state(40, kind, **merging), 200, cuts)
        for budget in (8, 40, 500):
            assert_same_video(whole.compress(budget), pieces.compress(budget))


def test_compressing_changes_nothing_held(merging):
    state = fill(empty_state(40, **merging), 100)
    first = state.compress()
    state.compress(9)
    assert_same_video(first, state.compress(40))


def test_a_state_goes_on_from_its_data(merging):
    whole, twin = empty_state(40, **merging), empty_state(40, **merging)
    parts, segmenter = {name: stream(name, 200) for name in WIDTHS}, Segmenter(SegmentConfig())
    segments = [s for name, part in parts.items() for s in segmenter.push(name, part)] + segmenter.flush()
    for k, segment in enumerate(segments):
        whole.add(segment)
        if k == 15:
            twin.set_state(unpack(pack(whole.state(), STATE_CLASSES), STATE_CLASSES))
        elif k > 15:
            twin.add(segment)
    assert set(whole.heights) == (
        {"video", "audio"} if merging.get("schedule") == "tree" else set()
    )  # it was full
    assert_same_video(whole.compress(20), twin.compress(20))
    assert_same_video(whole.copy().compress(20), twin.compress(20))


@pytest.mark.parametrize("schedule", [0.25, "tree"])
def test_by_height_a_smaller_budget_joins_tokens_of_a_larger(schedule):
    state = fill(empty_state(kind="none", keep_assignment=True, schedule=schedule, allocation="height"), 100)
    finer = state.compress(64).assignment
    for budget in range(63, state.num_groups - 1, -1):
        coarser = state.compress(budget).assignment
        for name in WIDTHS:
            pairs = torch.stack([finer[name], coarser[name]], 1).unique(dim=0)
            assert len(pairs) == int(finer[name].max()) + 1
        finer = coarser


@pytest.mark.slow
def test_what_is_held_is_bounded_for_ever(merging):
    parts = {name: stream(name, 2000) for name in WIDTHS}
    state, segmenter, sizes = empty_state(32, **merging), Segmenter(SegmentConfig()), []
    for at in range(0, 2000, 10):
        for name, part in parts.items():
            for segment in segmenter.push(name, part.rows(at, at + 10)):
                state.add(segment)
                sizes.append((state.num_tokens(), state.num_groups))
    assert max(n for n, _ in sizes) <= 4 * 32
    assert max(g for _, g in sizes) <= 16
    early, late = sizes[len(sizes) // 4 :][:20], sizes[-20:]
    assert abs(sum(n for n, _ in late) - sum(n for n, _ in early)) < 20 * 40
    held = [len(c.groups["video"]) / c.num_segments for c in state.chunks]
    if merging.get("schedule") != "tree":  # its stretches are kept alike in what merging them costs
        assert max(held) <= 3 * min(held)  # early and late stretches are kept alike
    else:
        half = len(held) // 2
        assert sum(held[:half]) <= 3 * sum(held[half:]) <= 9 * sum(held[:half])


@pytest.mark.parametrize("allocation", ["even", "height"])
def test_a_quiet_stretch_keeps_a_token_and_a_busy_one_gets_the_others(allocation):
    state = empty_state(64, "none", schedule="tree", allocation=allocation)
    for k in range(100):
        part = stream("video", 10, seed=k)
        x = part.tokens.x * (10.0 if k in (40, 41) else 0.01)
        shifted = [t + 10.0 * k for t in (part.tokens.time_s, part.tokens.start_s, part.tokens.end_s)]
        tokens = Tokens(x, part.tokens.size, *shifted)
        encoded = Encoded(tokens, x[:, :8].contiguous(), part.summary, PATCHES)
        state.add(Segment(k, 10.0 * k, 10.0 * k + 10, {"video": encoded}))
        assert state.num_tokens() <= 4 * 64 and state.num_groups <= 32
    busy, quiet = state.chunks[40 // state.segments_per_chunk], state.chunks[0]
    assert len(busy.groups["video"]) > 3 * len(quiet.groups["video"])
    for budget in (64, 40, len(state.chunks)):
        start_s = state.compress(budget).streams["video"].start_s
        counts = torch.histc(start_s, bins=len(state.chunks), min=0.0, max=1000.0)
        assert len(start_s) == budget
        assert int(counts.min()) >= 1  # every group keeps one
        if budget == 64 and allocation == "height":
            assert int(counts.max()) > 20


def test_learned_memory_reads_what_closed_tokens_say():
    state = fill(empty_state(1000, "learned"), 50)
    query = state.global_memory.query["video"]
    closed = Tokens.join(chunk.groups["video"].tokens for chunk in state.chunks)
    score = query.double() @ closed.x.double().t() + closed.size.double().log()
    want = score.softmax(1) @ closed.x.double()
    torch.testing.assert_close(state.compress().globals["video"].double(), want, rtol=1e-5, atol=1e-5)


def test_mean_memory_is_the_mean_of_summaries():
    state = fill(empty_state(30), 73)
    want = stream("audio", 73).summary.double().mean(0)
    torch.testing.assert_close(state.compress().globals["audio"].double(), want, rtol=1e-6, atol=1e-6)


def test_a_stream_that_begins_late_in_a_segment_is_no_coarser_later():
    parts = {name: stream(name, 60) for name in WIDTHS}
    state, segmenter = empty_state(10_000), Segmenter(SegmentConfig())
    for name, part in parts.items():
        for segment in segmenter.push(name, part.rows(0 if name == "video" else 19, 60)):
            state.add(segment)
    for segment in segmenter.flush():
        state.add(segment)
    assert [len(group) for _, group in state.groups("audio")] == [1, 5, 5, 5, 5]


def test_the_assignment_says_where_every_raw_token_went():
    video = fill(empty_state(40, keep_assignment=True), 60).compress()
    for name in WIDTHS:
        raw, held = stream(name, 60).tokens, video.streams[name]
        group = video.assignment[name].long()
        assert len(group) == len(raw)
        assert torch.equal(torch.bincount(group, minlength=len(held)).float(), held.size)
        sums = torch.zeros_like(held.x).index_add(0, group, raw.x)
        torch.testing.assert_close(sums / held.size[:, None], held.x, rtol=1e-4, atol=1e-5)


def test_novelty_buys_tokens_where_something_happens():
    state, segments = empty_state(1000, allocation="novelty"), []
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
        state.add(segment)
    streams = state.compress(30).streams
    counts = torch.bincount((streams["video"].time_s // 10).long(), minlength=4)
    assert int(counts.argmax()) == 2 and int(counts[1]) < int(counts[2])


@pytest.mark.parametrize(
    ("budget", "message"), [(0, "budget must be a whole number"), (3, "at least 4"), (2.5, "whole number")]
)
def test_a_budget_too_small_is_an_error(budget, message):
    with pytest.raises(ValueError, match=message):
        fill(empty_state(), 20).compress(budget)


def test_the_smallest_budget_works():
    streams = fill(empty_state(), 200).compress(4).streams
    assert {n: len(t) for n, t in streams.items()} == {"video": 1, "audio": 1}


def test_tokens_of_helpers_are_in_time():
    assert bool((tokens(9, 4, 0).time_s.diff() >= 0).all())
