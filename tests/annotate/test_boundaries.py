"""Boundaries: laws of cutting, stitching and merging, and known cuts in made videos."""

import math
import random
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

import longcompress as lc
from longcompress.annotate.boundaries import (
    BoundaryConfig,
    SceneCutter,
    SoundCutter,
    Stretch,
    find_boundaries,
    merged,
    stitched,
)
from longcompress.annotate.detectors import detect_scenes
from longcompress.annotate.measure import edges, f1, num_matches, truth, windows
from longcompress.media.write import write
from longcompress.synthetic.scenes import Scene, SceneEvent, make_scene, write_video
from longcompress.types import Audio, Encoded, Tokens

from helpers import normal


@pytest.fixture(scope="module")
def model():
    return lc.load("tiny", device="cpu")


def encoded_of(metric: torch.Tensor, first: int, step_s: float = 0.25) -> Encoded:
    """Frames (T, P, d) as an encoder gives them, from number `first` on."""
    start_s = (first + torch.arange(len(metric), dtype=torch.float64)).repeat_interleave(metric.shape[1])
    start_s = start_s * step_s
    tokens = Tokens(metric.flatten(0, 1), torch.ones(len(start_s)), start_s, start_s, start_s + step_s)
    return Encoded(tokens, metric.flatten(0, 1), patches=metric.shape[1])


def spans_of(metric: torch.Tensor, cuts: list[int], **config: float) -> list[tuple[float, float]]:
    cutter = SceneCutter(BoundaryConfig(**config))
    for a, b in zip([0, *cuts], [*cuts, len(metric)], strict=True):
        if a < b:
            cutter.push(encoded_of(metric[a:b], a))
    return cutter.finish(len(metric) / 4)


def looks(*lengths: int, noise: float = 0.01) -> torch.Tensor:
    """(T, 4, 8) frames of as many different scenes, a little noisy."""
    base = torch.cat([normal(1, 4, 8, seed=i).expand(n, -1, -1) for i, n in enumerate(lengths)])
    return base + noise * normal(*base.shape, seed=99)


def test_scenes_are_cut_between_the_frames_that_differ():
    assert spans_of(looks(20, 24, 16), []) == [(0.0, 4.875), (4.875, 10.875), (10.875, 15.0)]


def test_scenes_do_not_depend_on_how_frames_were_pushed():
    metric = looks(20, 3, 24, 16, 9)
    whole = spans_of(metric, [])
    for seed in range(5):
        assert spans_of(metric, sorted(random.Random(seed).sample(range(1, 72), 9))) == whole


def test_a_flash_makes_no_scene():
    metric = looks(40)
    metric[17] = normal(4, 8, seed=5)
    assert spans_of(metric, []) == [(0.0, 10.0)]


def test_steady_motion_has_no_cut():
    angle = torch.arange(60) * 0.4  # every frame is as new as the one before
    metric = torch.stack([angle.cos(), angle.sin()], -1)[:, None].expand(-1, 4, -1).contiguous()
    assert spans_of(metric, []) == [(0.0, 15.0)]


def stretches_of(values: list[float], step_s: float) -> list[Stretch]:
    return [Stretch(i * step_s, torch.tensor([v]), 1) for i, v in enumerate(values)]


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().mean())


@pytest.mark.parametrize("seed", range(20))
def test_stitched_spans_are_a_partition_that_is_long_and_different_enough(seed):
    values = np.random.default_rng(seed).normal(size=30).tolist()
    parts = stretches_of(values, 0.7)
    spans = stitched(parts, 21.0, far, 0.5, 2.0)
    assert spans[0][0] == 0.0 and spans[-1][1] == 21.0
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    assert all(b - a >= 2.0 - 1e-9 for a, b in spans) or len(spans) == 1
    means = [np.mean([v for i, v in enumerate(values) if a <= i * 0.7 + 0.35 < b]) for a, b in spans]
    assert all(abs(a - b) >= 0.5 - 1e-5 for a, b in pairwise(means))


def test_a_short_stretch_joins_the_neighbour_that_is_more_alike():
    values = ((0.0, 10.0, 10), (5.0, 6.0, 1), (6.0, 50.0, 10))  # start_s, total, number
    parts = [Stretch(start_s, torch.tensor([total]), num) for start_s, total, num in values]
    assert stitched(parts, 12.0, far, 0.1, 2.0) == [(0.0, 5.0), (5.0, 12.0)]  # 6 is nearer to 5 than to 1


def test_nothing_is_stitched_of_nothing():
    assert stitched([], 9.0, far, 0.1, 2.0) == []


def tone(hertz: float, seconds: float, level: float = 0.3) -> torch.Tensor:
    return level * torch.sin(torch.arange(round(seconds * 16000)) / 16000 * hertz * 2 * math.pi)


def heard(samples: torch.Tensor, sizes: list[int]) -> list[tuple[float, float]]:
    cutter, at = SoundCutter(BoundaryConfig()), 0
    for size in [*sizes, len(samples)]:
        part = samples[at : at + size]
        cutter.push(Audio(part, at / 16000))
        at += len(part)
    return cutter.finish(len(samples) / 16000)


def test_audio_events_are_the_parts_that_are_no_silence():
    quiet = 1e-3 * normal(16000 * 4, seed=1)
    samples = torch.cat([quiet, tone(440, 3), quiet, tone(440, 2), tone(3000, 3), quiet])
    spans = heard(samples, [])
    assert spans == [(4.0, 7.0), (11.0, 13.0), (13.0, 16.0)]
    assert heard(samples, [7, 4001, 12345, 16000, 16000, 99999]) == spans


def test_a_gap_in_the_audio_is_silence():
    cutter = SoundCutter(BoundaryConfig())
    cutter.push(Audio(tone(440, 3), 0.0))
    cutter.push(Audio(tone(440, 3), 90.0))
    assert cutter.finish(93.0) == [(0.0, 3.0), (90.0, 93.0)]


def test_an_event_lasts_as_long_as_its_audio():
    assert merged([(0.0, 4.7), (4.7, 32.6), (32.6, 38.9), (38.9, 52.0)], [(30.0, 39.6)]) == [
        (0.0, 4.7),
        (4.7, 39.6),  # the example of LongVALE's figure
        (39.6, 52.0),
    ]


@pytest.mark.parametrize("seed", range(30))
def test_merged_events_are_disjoint_cover_all_scenes_and_cut_no_audio_that_they_began_with(seed):
    rng = random.Random(seed)
    times = sorted(rng.sample(range(1, 100), 8))
    scenes = list(zip([0, *times], [*times, 100], strict=True))
    ends = sorted(rng.sample(range(101), 6))
    sounds = [(ends[i], ends[i + 1]) for i in (0, 2, 4)]
    events = merged(scenes, sounds)
    # second by second, as a person would do it with a ruler: a scene's event goes on while its audio does
    owner, until = [], -1
    for second in range(100):
        scene = next(s for s in scenes if s[0] <= second < s[1])
        if second >= until:
            until = max(
                [scene[1], *(b for a, b in sounds if set(range(a, b)) & set(range(second, scene[1])))]
            )
            owner.append((second, until))
    assert events == owner
    assert events[0][0] == 0 and events[-1][1] == 100


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="rate_fps must be > 0, got 0"):
        BoundaryConfig(rate_fps=0)


def test_cuts_of_a_real_file_are_at_their_times(tmp_path, model):
    names = (("video", "red ball"), ("video", "blue box"), ("audio", "siren"), ("video", "green star"))
    spans = ((0.0, 5.0), (5.0, 12.0), (5.0, 12.0), (12.0, 18.0))
    events = [SceneEvent(*span, *name) for span, name in zip(spans, names, strict=True)]
    path = write_video(Scene(7, 18.0, tuple(events)), tmp_path / "v.mp4", size_px=64)
    bounds = find_boundaries(model, str(path), BoundaryConfig())
    times = edges(bounds.scenes, 18.0)
    assert len(times) == 2 and abs(times[0] - 5) <= 0.25 and abs(times[1] - 12) <= 0.25
    ((start_s, end_s),) = bounds.sounds
    assert abs(start_s - 5) <= 0.25 and abs(end_s - 12) <= 0.25
    assert bounds.duration_s == pytest.approx(18.0, abs=0.15) and bounds.still < 0.5
    part = find_boundaries(model, str(path), BoundaryConfig(), part=(2.0, 10.0))
    assert len(part.scenes) == 2 and abs(part.scenes[0][1] - 3.0) <= 0.25 and part.duration_s == 8.0


@pytest.mark.parametrize("detector", ["content", "adaptive"])
def test_scenes_of_pyscenedetect_take_the_place_of_ours(tmp_path, model, detector):
    pytest.importorskip("scenedetect")
    half = lambda times: np.where(times < 4.0, 30, 220)[:, None, None, None]  # noqa: E731
    pixels = lambda times: np.broadcast_to(half(times), (len(times), 64, 64, 3)).astype(np.uint8)  # noqa: E731
    silence = lambda a, b: np.zeros(round((b - a) * 16000), np.float32)  # noqa: E731
    path = write(tmp_path / "v.mp4", pixels, silence, duration_s=8.0, size_px=64, rate_fps=8, rate_hz=16000)
    whole = find_boundaries(model, str(path), BoundaryConfig(detector=detector))
    assert [pytest.approx(span, abs=0.15) for span in whole.scenes] == [(0.0, 4.0), (4.0, 8.0)]
    part = find_boundaries(model, str(path), BoundaryConfig(detector=detector), part=(2.0, 7.0))
    assert [pytest.approx(span, abs=0.15) for span in part.scenes] == [(0.0, 2.0), (2.0, 5.0)]
    with pytest.raises(ValueError, match=r"detector 'content' reads files alone, got s3://a/b.mp4"):
        detect_scenes("s3://a/b.mp4", "content", None)
    (tmp_path / "bad.mp4").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"bad.mp4: PySceneDetect can't read it"):
        detect_scenes(str(tmp_path / "bad.mp4"), "content", None)


def test_a_detector_whose_package_is_not_there_is_named(tmp_path, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(ImportError, match=r"'adaptive' needs PySceneDetect .*pip install scenedetect opencv"):
        detect_scenes("v.mp4", "adaptive", None)


def test_boundaries_beat_fixed_windows_on_synthetic_videos(tmp_path, model):
    pairs, fixed = [], []
    for seed in (31_000_000, 31_000_001):
        scene = make_scene(seed, 60.0)
        path = write_video(scene, tmp_path / f"{seed}.mp4", size_px=64)
        times = edges(find_boundaries(model, str(path), BoundaryConfig()).scenes, 60.0)
        pairs.append((times, truth(scene)[0]))
        fixed.append((windows(len(times), 60.0), truth(scene)[0]))
    assert f1(pairs, 0.5) > 0.7 > 0.4 > f1(fixed, 0.5)


def test_a_still_video_is_known_by_its_share(tmp_path, model):
    gray = lambda times: np.full((len(times), 64, 64, 3), 120, np.uint8)  # noqa: E731
    silence = lambda a, b: np.zeros(round((b - a) * 16000), np.float32)  # noqa: E731
    path = write(tmp_path / "v.mp4", gray, silence, duration_s=6.0, size_px=64, rate_fps=8, rate_hz=16000)
    bounds = find_boundaries(model, str(path), BoundaryConfig())
    assert bounds.still == 1.0 and len(bounds.scenes) == 1 and bounds.sounds == ()


@pytest.mark.parametrize("seed", range(40))
def test_matches_are_as_many_as_a_maximum_matching_has(seed):
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    rng = np.random.default_rng(seed)
    times, known = (np.sort(rng.uniform(0, 20, n)) for n in rng.integers(1, 25, 2))
    near = csr_matrix(np.abs(times[:, None] - known[None]) <= 0.5)
    want = int((maximum_bipartite_matching(near) >= 0).sum())
    assert num_matches(times.tolist(), known.tolist(), 0.5) == want
    assert f1([(times.tolist(), known.tolist())], 0.5) == pytest.approx(2 * want / (len(times) + len(known)))
