"""The same tokens, other ways: laws of all of them, and each against loops that say what it is."""

from itertools import product

import numpy as np
import pytest
import torch

import longcompress as lc
from longcompress.compression.baselines import METHODS, spend
from longcompress.compression.global_memory import GlobalMemory
from longcompress.compression.state import MergeState
from longcompress.config import BudgetConfig, MemoryConfig, MergeConfig
from longcompress.encode import segments_of
from longcompress.session import Session
from longcompress.synthetic.scenes import make_scene, parts_of
from longcompress.types import Audio, Encoded, Frames, Segment, Tokens

from helpers import assert_close, merge_step_by_step

SPLIT = BudgetConfig(stream_weights={"video": 4.0, "*": 1.0})
AS_OURS = ("random", "evs", "tome", "longvlm")  # ways that fill their room
CHOOSING = ("frames", "random", "evs")
KEEPING = ("pool", "longvlm", "kmeans")  # ways in which every raw token counts


def encoded(
    first: int, steps: int, patches: int, x: np.ndarray | None = None, step_s: float = 1.0
) -> Encoded:
    """Frames `first` on of a stream; the metric is the features, so that loops need nothing else."""
    if x is None:
        x = np.random.default_rng([first, steps, patches]).standard_normal((steps * patches, 6))
    values = torch.from_numpy(np.asarray(x)).float()
    start_s = (first + torch.arange(steps, dtype=torch.float64)).repeat_interleave(patches) * step_s
    size = torch.ones(steps * patches)
    return Encoded(
        Tokens(values, size, start_s + step_s / 2, start_s, start_s + step_s), values, patches=patches
    )


def video(lengths, patches: int = 4, heard: int | None = None, windows: int = 1) -> list[Segment]:
    """Segments of so many frames each; the first `heard` of them have audio every second too."""
    out, at = [], 0
    for index, steps in enumerate(lengths):
        streams = {"video": encoded(at, steps, patches)}
        if heard is None or index < heard:
            streams["audio"] = encoded(at, steps, windows)
        out.append(Segment(index, float(at), float(at + steps), streams))
        at += steps
    return out


VIDEOS = {
    "even": video([5] * 6),
    "short end": video([5, 5, 5, 2]),
    "audio stops": video([4] * 5, heard=2),
    "silent": video([6] * 3, heard=0),
    "patches in no square": video([4] * 3, patches=6),
    "one patch": video([4] * 4, patches=1),
    "windows of two": video([3] * 4, patches=9, windows=2),
    "one frame": video([1], patches=4),
    "long": video([2] * 20),
}
ROOMS = (1, 2, 3, 7, 16, 41, 110)
CASES = [
    (name, room)
    for name, room in product(VIDEOS, ROOMS)
    if room >= len({n for segment in VIDEOS[name] for n in segment.streams})
]


def raw_of(segments, name: str) -> Tokens:
    return Tokens.join(item.streams[name].tokens for item in segments if name in item.streams)


def rows(tokens: Tokens) -> list[tuple[float, ...]]:
    """All that is known of each token, to be found again."""
    every = [
        tokens.x.double(),
        *(getattr(tokens, n)[:, None] for n in ("size", "time_s", "start_s", "end_s")),
    ]
    return [tuple(row) for row in torch.cat([item.double() for item in every], 1).tolist()]


def ours(segments, budget: int, split: BudgetConfig = SPLIT) -> dict[str, int]:
    """Tokens a stream has where these segments are closed and compressed, nothing lost on the way."""
    return lengths(lossless_state(segments, budget, split).compress())


def lossless_state(segments, budget: int, allocation: BudgetConfig = SPLIT) -> MergeState:
    merge = MergeConfig(tokens_per_segment={"*": 1 << 20})
    state = MergeState(merge, allocation, GlobalMemory(MemoryConfig("none"), {}, {}), budget)
    for segment in segments:
        state.add(segment)
    return state


def lengths(compressed) -> dict[str, int]:
    return {name: len(tokens) for name, tokens in compressed.streams.items()}


@pytest.mark.parametrize(("name", "room"), CASES)
def test_every_way_keeps_to_the_room_and_to_the_order_of_time(name, room):
    segments = VIDEOS[name]
    expected = ours(segments, room)
    for method in METHODS:
        got = spend(method, segments, room, SPLIT, seed=3)
        assert got.keys() == expected.keys(), method
        for stream, tokens in got.items():
            raw = raw_of(segments, stream)
            assert 1 <= len(tokens) <= (len(raw) if method == "full" else expected[stream]), method
            assert len(tokens) == expected[stream] or method not in AS_OURS, (method, stream)
            assert bool((tokens.time_s.diff() >= 0).all()), method
            assert bool((tokens.start_s <= tokens.time_s).all() and (tokens.time_s <= tokens.end_s).all())
            assert float(tokens.start_s.min()) >= float(raw.start_s.min())
            assert float(tokens.end_s.max()) <= float(raw.end_s.max())
            if method in KEEPING:  # nothing is left out: neither mass nor features nor the mean of the times
                assert float(tokens.size.sum()) == len(raw), method
                sums = [(t.size.double()[:, None] * t.x.double()).sum(0) for t in (tokens, raw)]
                torch.testing.assert_close(*sums, rtol=1e-4, atol=1e-3)
                middle = float((tokens.size * tokens.time_s).sum()) / len(raw)
                assert middle == pytest.approx(float(raw.time_s.mean()))
            if method in CHOOSING:
                remaining = rows(tokens)
                assert set(remaining) <= set(rows(raw)) and len(set(remaining)) == len(remaining), method


@pytest.mark.parametrize("name", VIDEOS)
def test_full_is_everything_whatever_the_room(name):
    segments = VIDEOS[name]
    for room in (0, 1, 10_000):
        for stream, tokens in spend("full", segments, room, SPLIT).items():
            assert rows(tokens) == rows(raw_of(segments, stream))


@pytest.mark.parametrize("method", METHODS)
def test_the_same_again_and_other_seeds(method):
    segments = VIDEOS["audio stops"]
    item, again, other = (spend(method, segments, 30, SPLIT, seed=seed) for seed in (4, 4, 5))
    assert {name: rows(t) for name, t in item.items()} == {name: rows(t) for name, t in again.items()}
    same = {name: rows(t) for name, t in item.items()} == {name: rows(t) for name, t in other.items()}
    assert same is (method not in ("random", "kmeans"))


@pytest.mark.parametrize("method", METHODS)
def test_with_room_for_all_nothing_is_lost(method):
    segments = VIDEOS["windows of two"]
    got = spend(method, segments, 10_000, SPLIT)
    for stream, tokens in got.items():
        assert sorted(rows(tokens)) == sorted(rows(raw_of(segments, stream)))


def test_what_there_is_room_for_is_split_like_ours_with_global_tokens_too():
    segments = video([2] * 40)  # 80 groups; ours holds no more than half of the budget
    for room, taken in product((30, 80, 151, 158, 160), (0, 9)):
        expected = lengths(lossless_state(segments, room + taken).compress(room))
        got = spend("random", segments, room, SPLIT, global_tokens=taken)
        assert {name: len(tokens) for name, tokens in got.items()} == expected, (room, taken)


def test_evs_keeps_what_differs_most_from_the_frame_before():
    patches, lengths = 4, [5, 5, 3]
    segments = video(lengths, patches, heard=0)
    x = raw_of(segments, "video").x.double().numpy().reshape(sum(lengths), patches, -1)
    worth = {}
    for t, c in product(range(len(x)), range(patches)):
        a, b = x[t, c], x[t - 1, c]
        worth[t, c] = 9.0 if t == 0 else 1 - a @ b / np.sqrt((a @ a) * (b @ b))
    for room in (3, 9, 30):
        highest = sorted(worth, key=lambda at: (-worth[at], at))[:room]
        got = spend("evs", segments, room, SPLIT)["video"]
        raw = rows(raw_of(segments, "video"))
        assert rows(got) == [raw[t * patches + c] for t, c in sorted(highest)]
        firsts = sum(float(time_s) == 0.5 for time_s in got.time_s)
        assert firsts == min(room, patches)


def test_frames_are_the_middles_of_equal_stretches():
    segments, patches = video([4, 4, 4], 4, heard=0), 4
    x = raw_of(segments, "video")
    for room in (4, 7, 8, 13, 20, 47):
        num = room // patches
        at = [int((i + 0.5) * 12 / num) for i in range(num)]
        want = [t * patches + c for t in at for c in range(patches)]
        assert rows(spend("frames", segments, room, SPLIT)["video"]) == rows(x.take(torch.tensor(want)))
    few = spend("frames", segments, 3, SPLIT)["video"]  # not even one frame
    assert 1 <= len(few) <= 3 and len(set(few.time_s.tolist())) == 1


@pytest.mark.parametrize("room", [1, 2, 5, 9, 13, 20, 27, 40, 90])
def test_pool_is_means_over_the_boxes_that_fill_the_room_best(room):
    steps, edge = 5, 4
    (segment,) = video([steps], edge * edge, heard=0)
    boxes = [(t * e * e, t, e) for t in range(1, steps + 1) for e in range(1, edge + 1) if t * e * e <= room]
    num, times, side = max(boxes)  # of two alike the one finer in time
    groups: dict[tuple[int, int, int], list[int]] = {}
    for t, row, column in product(range(steps), range(edge), range(edge)):
        box = t * times // steps, row * side // edge, column * side // edge
        groups.setdefault(box, []).append((t * edge + row) * edge + column)
    got = spend("pool", [segment], room, SPLIT)["video"]
    assert len(got) == num == len(groups)
    raw = segment.streams["video"].tokens
    want = []
    for box in groups.values():
        part = raw.take(torch.tensor(box))
        times = part.time_s.mean(), part.start_s.min(), part.end_s.max()
        want.append([*part.x.double().mean(0).tolist(), len(part), *map(float, times)])
    assert_close("boxes", in_order(np.array(rows(got))), in_order(np.array(want)), rel=1e-6)


def in_order(table: np.ndarray) -> np.ndarray:
    """Rows by what is in them."""
    return table[np.lexsort(table.round(4).T)]


def same_tokens(name: str, got: Tokens, x: np.ndarray, size: np.ndarray) -> None:
    """These features with these sizes, in whatever order."""
    item = np.column_stack([got.size.double().numpy(), got.x.double().numpy()])
    assert_close(name, in_order(item), in_order(np.column_stack([size, x])), rel=1e-5)


@pytest.mark.parametrize("keep", [2, 3, 5, 8, 19])
def test_longvlm_halves_each_segment_by_cosine(keep):
    segments = video([5, 5], 4, heard=0)
    got = spend("longvlm", segments, 2 * keep, SPLIT)["video"]
    for index, segment in enumerate(segments):
        raw = segment.streams["video"].tokens.x.double().numpy()
        want = merge_step_by_step(raw, keep=keep, schedule=0.5, score="cosine", order="reference")
        mine = got.take((got.start_s >= 5 * index) & (got.start_s < 5 * index + 5))
        same_tokens(f"segment {index}", mine, want.x, want.size)


@pytest.mark.parametrize("keep", [1, 2, 5, 8])
def test_tome_merges_each_frame_on_its_own(keep):
    segments = video([3, 3], 9, heard=0)
    got = spend("tome", segments, 6 * keep, SPLIT)["video"]
    for t in range(6):
        raw = segments[t // 3].streams["video"].rows(t % 3, t % 3 + 1).tokens
        want = merge_step_by_step(
            raw.x.double().numpy(), keep=keep, schedule=0.5, score="cosine", order="reference"
        )
        same_tokens(f"frame {t}", got.take(got.start_s == t), want.x, want.size)


def test_tome_with_less_than_a_token_a_frame_keeps_frames_evenly():
    segments = video([8], 4, heard=0)
    got = spend("tome", segments, 2, SPLIT)["video"]
    x = raw_of(segments, "video").x.view(8, 4, -1)
    assert got.time_s.tolist() == [2.5, 6.5] and got.size.tolist() == [4, 4]
    torch.testing.assert_close(got.x, x[[2, 6]].mean(1))


def test_tome_merges_windows_along_time():
    segments = video([8], 1, heard=0)
    got = spend("tome", segments, 3, SPLIT)["video"]
    x = raw_of(segments, "video").x.double().numpy()
    want = merge_step_by_step(x, keep=3, schedule=0.5, score="cosine", order="reference")
    same_tokens("windows", got, want.x, want.size)
    assert float(got.size.sum()) == 8


@pytest.mark.parametrize("num", [2, 3, 5])
def test_kmeans_finds_groups_that_lie_apart(num):
    rng = np.random.default_rng(num)
    for seed in range(8):
        group = rng.permutation(np.arange(24) % num)
        x = np.eye(num)[group] * 100.0 + rng.standard_normal((24, num))
        segment = Segment(0, 0, 6, {"video": encoded(0, 6, 4, x)})
        got = spend("kmeans", [segment], num, SPLIT, seed=seed)["video"]
        want = np.stack([x[group == g].mean(0) for g in range(num)])
        same_tokens(f"seed {seed}", got, want, np.bincount(group))


def test_kmeans_leaves_every_token_with_its_nearest_mean():
    x = np.random.default_rng(5).standard_normal((24, 3))
    got = spend("kmeans", [Segment(0, 0, 6, {"video": encoded(0, 6, 4, x)})], 4, SPLIT, seed=1)["video"]
    centre = got.x.double().numpy()
    group = np.argmin(((x[:, None] - centre) ** 2).sum(2), 1)
    assert np.bincount(group).tolist() == got.size.tolist()
    assert_close("means", np.stack([x[group == g].mean(0) for g in range(len(centre))]), centre, rel=1e-5)


def test_kmeans_of_tokens_that_are_all_alike_is_one_token():
    got = spend("kmeans", [Segment(0, 0, 6, {"video": encoded(0, 6, 4, np.ones((24, 3)))})], 5, SPLIT)
    assert got["video"].size.tolist() == [24]
    assert got["video"].time_s.tolist() == [pytest.approx(3)]


def test_kmeans_goes_by_the_metric():
    x = np.random.default_rng(1).standard_normal((8, 5))
    part = encoded(0, 8, 1, x)
    part = Encoded(part.tokens, torch.tensor([[0.0], [9], [0], [9], [0], [9], [9], [9]]), patches=1)
    got = spend("kmeans", [Segment(0, 0, 8, {"audio": part})], 2, SPLIT)["audio"]
    odd = np.array([False, True, False, True, False, True, True, True])
    same_tokens("by metric", got, np.stack([x[odd].mean(0), x[~odd].mean(0)]), np.array([5, 3]))


def test_what_can_not_be_spent_is_an_error():
    segments = VIDEOS["even"]
    with pytest.raises(ValueError, match=r"method must be one of full, frames, .*, got 'best'"):
        spend("best", segments, 10, SPLIT)
    with pytest.raises(ValueError, match=r"budget must be at least 2 here"):
        spend("random", segments, 1, SPLIT)
    with pytest.raises(ValueError, match=r"budget must be a whole number of tokens >= 1, got -3"):
        spend("pool", segments, -3, SPLIT)


# --- segments as the encoders make them


@pytest.fixture(scope="module")
def tiny():
    return lc.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def parts(tiny):
    """A drawn video of 65.5 s, frames until 66 s."""
    return list(parts_of(make_scene(10_000_777, 65.5), tiny.config.media.rate_fps))


def compressed(model, segments, budget):
    state = model.merge_state(budget)
    for segment in segments:
        state.add(segment)
    return state.compress()


def pieces(parts, num: int):
    """The same video in more parts, audio in pieces of odd lengths."""
    for part in parts:
        if isinstance(part, Frames):
            for at in range(0, len(part), num):
                yield Frames(part.pixels[at : at + num], part.time_s[at : at + num], part.step_s)
        else:
            for at in range(0, len(part), 1601 * num):
                samples = part.samples[at : at + 1601 * num]
                yield Audio(samples, part.start_s + at / part.rate_hz, part.rate_hz)


@pytest.mark.parametrize("come", [("video", "audio"), ("video",), ("audio",)])
def test_segments_closed_and_compressed_are_the_memory_of_a_session(tiny, parts, come):
    session = Session(tiny, 120, media=come)
    for part in parts:
        session.push(part)
    session.close()
    memory = session.memory()
    nothing = Frames(torch.zeros(0, 8, 8, 3, dtype=torch.uint8), torch.zeros(0, dtype=torch.float64), 1.0)
    for passed in (parts, list(pieces(parts, 7)), [nothing, *parts, Audio(torch.zeros(0), 65.5)]):
        segments, duration_s = segments_of(tiny, passed, come)
        assert duration_s == memory.duration_s
        assert (
            sum(len(e) for item in segments for e in item.streams.values()) == session.stats()["raw_tokens"]
        )
        video = compressed(tiny, segments, 120)
        assert video.streams.keys() == memory.streams.keys() and video.globals.keys() == memory.globals.keys()
        for name, tokens in video.streams.items():
            assert rows(tokens) == rows(memory.streams[name])
        for name, some in video.globals.items():
            assert torch.equal(some, memory.globals[name])


def test_a_real_video_in_every_way(tiny, parts):
    segments, _ = segments_of(tiny, parts, ("video", "audio"))
    for budget in (12, 20, 60, 111, 300):
        ours_video = compressed(tiny, segments, budget)
        streams, taken = ours_video.streams, sum(map(len, ours_video.globals.values()))
        for method in METHODS:
            got = spend(method, segments, budget - taken, tiny.config.budget, global_tokens=taken)
            for name, tokens in got.items():
                assert not tokens.x.requires_grad and bool(tokens.x.isfinite().all())
                if method in AS_OURS:
                    assert len(tokens) == len(streams[name]), (method, budget)
                elif method != "full":
                    assert len(tokens) <= len(streams[name]), (method, budget)
