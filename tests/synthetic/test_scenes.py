"""Laws of the synthetic videos: same in, same out; any cut gives the whole; what is written is read."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from longcompress.synthetic import scenes
from longcompress.synthetic.scenes import OBJECTS, SOUNDS, Scene, SceneEvent, make_scene

import videos


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(11, 120.0)


@pytest.fixture(scope="module")
def video(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scene]:
    short = replace(scene, duration_s=30.3, events=scenes.clip_events(scene.events, 20, 50.3))
    return scenes.write_video(short, tmp_path_factory.mktemp("videos") / "video.mp4", size_px=96), short


def frames(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with av.open(str(path)) as video:
        shown = [(float(f.pts * f.time_base), f.to_ndarray(format="rgb24")) for f in video.decode(video=0)]
    return np.array([t for t, _ in shown]), np.stack([frame for _, frame in shown])


def samples(path: Path, rate_hz: int = 16000) -> np.ndarray:
    """The audio with its first sample at 0 of the container's clock."""
    pieces: list[np.ndarray] = []
    with av.open(str(path)) as video:
        for piece in video.decode(audio=0):
            at, wave = round(float(piece.pts * piece.time_base) * rate_hz), piece.to_ndarray()[0]
            have = sum(map(len, pieces))
            pieces += [np.zeros(max(0, at - have), np.float32), wave[max(0, have - at) :]]
    return np.concatenate(pieces)


def together(scene: Scene, kind: str) -> Iterator[list[SceneEvent]]:
    """What is there at each start of an event: nowhere is there more."""
    for item in scene.of(kind):
        yield [other for other in scene.of(kind) if other.start_s <= item.start_s < other.end_s]


@pytest.mark.parametrize("seed", range(6))
def test_make_scene_keeps_its_word(seed):
    scene = make_scene(seed, 300.0)
    assert scene == make_scene(seed, 300.0) != make_scene(seed + 1, 300.0)
    assert 17 <= len(scene.of("video")) <= 27 and 10 <= len(scene.of("audio")) <= 18
    assert all(item.start_s >= 0 and item.end_s <= 300 for item in scene.events)
    assert all(5 <= item.end_s - item.start_s <= 20 for item in scene.events)
    assert max(len(present) for present in together(scene, "video")) <= 3
    assert max(len(present) for present in together(scene, "audio")) <= 2
    for name in (*OBJECTS, *SOUNDS):
        spans = [(item.start_s, item.end_s) for item in scene.events if item.name == name]
        assert all(after[0] - before[1] >= 4 for before, after in pairwise(spans))


def test_make_scene_of_few_seconds():
    scene = make_scene(0, 3.0)
    assert scene.of("video") and scene.of("audio")
    assert all(0 <= item.start_s < item.end_s <= 3 for item in scene.events)


def test_objects_rarely_hide_each_other():
    hidden = shown = 0
    for seed in range(8):
        scene, at = make_scene(seed, 120.0), np.arange(0, 120, 0.5)
        seen = scenes.patches(scene, at)
        for item in scene.of("video"):
            present = seen[(item.start_s <= at) & (at < item.end_s)]
            hidden += int((present != OBJECTS.index(item.name)).all((1, 2)).sum())
            shown += len(present)
    assert hidden / shown < 0.01


def test_a_frame_depends_on_its_own_time_only(scene):
    at = np.random.default_rng(0).uniform(0, 120, 12)
    whole = scenes.frames(scene, at, size_px=64)
    assert whole.shape == (12, 64, 64, 3) and whole.dtype == np.uint8
    for index in (7, 0, 11):
        assert np.array_equal(scenes.frames(scene, at[index], size_px=64)[0], whole[index])
    assert np.array_equal(scenes.frames(make_scene(11, 120.0), at[::-1], size_px=64)[::-1], whole)


@pytest.mark.parametrize("colour", scenes.COLOURS)
def test_an_object_is_there_from_start_until_end(colour):
    rgb = np.array(scenes.paint.RGB[colour])
    for shape in scenes.SHAPES:
        middle = ((0.5, 0.5),) * 3
        scene = Scene(3, 10.0, (SceneEvent(2.25, 5.5, "video", f"{colour} {shape}", middle, 0.3),))
        at = np.array([2.25 - 1e-9, 2.25, 4.0, 5.5 - 1e-9, 5.5])
        near = np.abs(scenes.frames(scene, at).astype(int) - rgb).max(-1) <= 13
        assert ((near.sum((1, 2)) > 300) == [False, True, True, True, False]).all(), shape
        seen = scenes.patches(scene, at)
        assert ((seen == OBJECTS.index(f"{colour} {shape}")).sum((1, 2)) == [0, 4, 4, 4, 0]).all()
        assert (seen[[0, 4]] == len(OBJECTS)).all()


def test_patches_follow_the_object_and_the_topmost_wins():
    path = ((0.2, 0.2), (0.5, 0.5), (0.8, 0.8))
    low = SceneEvent(0.0, 8.0, "video", "red ball", path, 0.3)
    high = SceneEvent(0.5, 8.0, "video", "blue box", path, 0.39)
    seen = scenes.patches(Scene(0, 8.0, (low,)), [0.0, 7.99])
    assert seen[0, 0, 0] == seen[1, 3, 3] == OBJECTS.index("red ball") and seen[0, 3, 3] == len(OBJECTS)
    both = scenes.patches(Scene(0, 8.0, (low, high)), [7.9])
    assert both[0, 3, 3] == OBJECTS.index("blue box") and not (both == OBJECTS.index("red ball")).any()


def test_pieces_of_audio_are_the_whole(scene):
    cuts = [0, 3.21, 3.22, 17.0, 41.9, 60.0]
    pieces = [scenes.audio(scene, a, b) for a, b in pairwise(cuts)]
    whole = scenes.audio(scene, 0, 60.0)
    assert np.array_equal(np.concatenate(pieces), whole)
    assert whole.shape == (960000,) and whole.dtype == np.float32 and np.abs(whole).max() <= 1
    assert scenes.audio(scene, 5, 5).shape == (0,)


@pytest.mark.parametrize("name", SOUNDS)
def test_a_audio_is_there_from_start_until_end(name):
    scene = Scene(0, 6.0, (SceneEvent(2.5, 4.5, "audio", name, loudness=0.25, key=99),))
    power = [scenes.audio(scene, t, t + 0.5).std() for t in np.arange(0, 6, 0.5)]
    quiet = np.median(power[:5] + power[9:])  # clicks are rare
    assert min(power[5:9]) > 6 * quiet


def test_sounds_differ_within_a_second():
    """Nearest mean of log spectra, from other pitches, keys and places: each is told from all others."""

    def spectrum_of(name: str, pitch: float, key: int, start_s: float) -> np.ndarray:
        item = SceneEvent(0.0, 5.0, "audio", name, pitch=pitch, key=key)
        wave = scenes.audio(Scene(key, 5.0, (item,)), start_s, start_s + 1)
        power = np.abs(np.fft.rfft(wave.reshape(-1, 400) * np.hanning(400))) ** 2
        return np.log(power[:, 1:193].reshape(40, 24, 8).sum(2) + 1e-2).mean(0)

    known = np.stack([spectrum_of(name, 1.0, 1, 1.0) for name in SOUNDS])
    for index, name in enumerate(SOUNDS):
        for pitch, key in ((0.96, 2), (1.04, 3)):
            far = np.linalg.norm(spectrum_of(name, pitch, key, 2.37) - known, axis=1)
            assert far.argmin() == index, name


def test_heard_is_the_share_of_the_window():
    scene = Scene(0, 9.0, (SceneEvent(2.75, 4.5, "audio", "bell"), SceneEvent(4.25, 6.0, "audio", "hum")))
    got = scenes.heard(scene, np.arange(8.0), np.arange(8.0) + 1)
    want = np.zeros((8, len(SOUNDS)), np.float32)
    want[2:5, SOUNDS.index("bell")] = [0.25, 1, 1]
    want[4:6, SOUNDS.index("hum")] = [1, 1]
    assert np.array_equal(got, want)


def test_clipped_events_move_as_before(scene):
    clipped = scenes.clip_events(scene.events, 20, 60)
    assert all(0 <= item.start_s < item.end_s <= 40 for item in clipped)
    at = np.arange(20, 60, 0.7)
    moved = Scene(scene.seed, 40.0, clipped)
    assert (
        scenes.patches(scene, at) == scenes.patches(moved, at - 20)
    ).mean() > 0.999  # rounding may move an edge
    assert np.array_equal(
        scenes.heard(scene, at, at + 0.5)[:-1], scenes.heard(moved, at - 20, at - 19.5)[:-1]
    )


@pytest.mark.slow
def test_the_decoded_video_shows_the_scene(video):
    path, scene = video
    at, shown = frames(path)
    assert np.allclose(at, np.arange(243) / 8)
    sampled = scenes.frames(scene, at, size_px=96)
    assert np.abs(shown.astype(int) - sampled).mean() < 8
    apart = np.abs(shown[:, None, ::4, ::4].astype(np.float32) - sampled[None, :, ::4, ::4]).mean((2, 3, 4))
    edges = [item.start_s for item in scene.of("video") if item.start_s > 0]
    assert edges
    for edge in edges:  # the object comes with its frame, not one before or after
        k = int(np.ceil(edge * 8))
        assert apart[k, k] < apart[k, k - 1] and apart[k - 1, k - 1] < apart[k - 1, k]


def test_the_decoded_audio_is_in_place(video):
    path, scene = video
    got, want = samples(path), scenes.audio(scene, 0, 30.3)
    assert len(want) <= len(got) + 16
    n = min(len(got), len(want))
    spectrum = np.fft.rfft(got[:n], 2 * n) * np.conj(np.fft.rfft(want[:n], 2 * n))
    lag = int(np.fft.irfft(spectrum)[np.r_[0:800, -800:0]].argmax())
    assert min(lag, 1600 - lag) <= 0.001 * 16000


@pytest.mark.parametrize(("suffix", "rate_fps"), [(".mp4", 8), (".mkv", 8), (".mp4", 29.97)])
def test_flash_and_beep_come_together(tmp_path, suffix, rate_fps):
    at_s = [1.0, 2.5, 4.75]
    path = videos.write_flash(tmp_path / f"flash{suffix}", at_s, duration_s=6.2, rate_fps=rate_fps)
    at, shown = frames(path)
    white = shown.mean((1, 2, 3)) > 128
    flashes = at[1:][white[1:] & ~white[:-1]]
    assert np.all((flashes >= np.array(at_s) - 0.001) & (flashes < np.array(at_s) + 1.05 / rate_fps))
    loud = np.flatnonzero(np.abs(samples(path)) > 0.1) / 16000
    beeps = loud[np.r_[True, np.diff(loud) > 0.1]]
    assert np.abs(beeps - at_s).max() < 0.005


def test_messages(tmp_path):
    with pytest.raises(ValueError, match=r"^duration_s must be above 0, got -1"):
        make_scene(0, -1)
    with pytest.raises(ValueError, match=r"path must end in one of .mp4.*, got 'x.avi'"):
        videos.write_flash(tmp_path / "x.avi", [], duration_s=1)
    with pytest.raises(ValueError, match=r"size_px must be even for H.264, got 63; take 64"):
        videos.write_flash(tmp_path / "x.mp4", [], duration_s=1, size_px=63)
