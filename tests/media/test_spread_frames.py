"""So many frames of a video of any length, the first and the last among them."""

import itertools

import numpy as np
import pytest
import torch

from longcompress.config import MediaConfig
from longcompress.media.grid import Grid
from longcompress.media.reader import arrays, read
from longcompress.types import Audio, Frames

from readings import gather
from videos import Video, number_of, write

LATE = range(120, 5000, 40)


def numbers(source, num: int, **options) -> tuple[list[int], list[float], list[str]]:
    """Numbers of the frames, their times, warnings."""
    pixels, times, _, warned = gather(source, MediaConfig(frames=num, size_px=96, threads=1), **options)
    return [number_of(p) for p in pixels], times, warned


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("num", [2, 7, 10, 100])
@pytest.mark.parametrize("stamps", [range(0, 4000, 40), LATE], ids=["constant", "late"])
def test_frames_are_spread_like_their_numbers(tmp_path, suffix, num, stamps):
    path = write(tmp_path / f"video.{suffix}", Video(stamps=stamps, options={"bf": "2", "g": "20"}))
    got, times, warned = numbers(path, num)
    want = [int(k * (len(stamps) - 1) / (num - 1) + 1e-6) for k in range(num)]  # linspace, as integers
    assert got == want and warned == []
    assert times[0] == pytest.approx(stamps[0] / 1000, abs=0.03)  # a TS begins its audio 21 ms before
    assert times[-1] - times[0] == pytest.approx((stamps[-1] - stamps[0]) / 1000, abs=2e-3)


def test_a_short_video_gives_frames_again_and_a_part_only_its_own(tmp_path):
    path = write(tmp_path / "video.mp4", Video(stamps=range(0, 2000, 40), audio_s=2.0))
    got, times, _ = numbers(path, 100)
    assert len(got) == 100 and set(got) == set(range(50)) and sorted(times) == times
    got, times, _ = numbers(path, 6, part=(0.4, 0.8))
    assert got == [10, 11, 13, 15, 17, 19] and times[0] == 0 and times[-1] == pytest.approx(0.36)
    single = write(tmp_path / "single.mp4", Video(stamps=[0], audio_codec=None))
    assert numbers(single, 5)[0] == [0] * 5


def test_the_last_frame_ends_where_the_video_does(tmp_path):
    path = write(tmp_path / "video.mkv", Video(audio_codec=None))
    with read(path, MediaConfig(frames=30, size_px=16)) as parts:
        frames = list(parts)
    steps = [part.step_s for part in frames for _ in range(len(part))]
    assert steps == pytest.approx([3.96 / 29] * 29 + [0.04])
    assert float(frames[-1].time_s[-1]) + frames[-1].step_s == pytest.approx(4.0)


def test_a_video_without_frames_gives_its_audio(tmp_path):
    path = write(tmp_path / "video.mkv", Video(codec=None))
    pixels, _, sounds, _ = gather(path, MediaConfig(frames=9, size_px=16))
    assert len(pixels) == 0 and sounds


def test_a_list_of_values_is_spread_too():
    pixels = torch.arange(30, dtype=torch.uint8)[:, None, None, None].expand(30, 8, 8, 3)
    with read(arrays(pixels, 10.0, torch.zeros(16000 * 3)), MediaConfig(frames=4, size_px=8)) as parts:
        items = list(parts)
    frames = [p for p in items if isinstance(p, Frames)]
    assert [int(x) for p in frames for x in p.pixels[:, 0, 0, 0]] == [0, 9, 19, 29]
    assert any(isinstance(p, Audio) for p in items)


def test_a_damaged_end_is_reported(tmp_path):
    path = write(tmp_path / "video.ts", Video(options={"g": "10"}))
    data = bytearray(path.read_bytes())
    for at in range(len(data) * 3 // 4 // 188 * 188, len(data), 188):
        data[at + 40 : at + 188] = bytes(148)
    path.write_bytes(data)
    got, _, warned = numbers(path, 20)
    assert 10 < len(got) <= 20
    assert len(got) == 20 or any(f"gave {len(got)} of 20 frames" in text for text in warned)


class Once:
    """A file object that can't be read twice."""

    def __init__(self, path):
        self.file = open(path, "rb")  # noqa: SIM115 - closed with the test

    def read(self, num):
        return self.file.read(num)


def test_a_source_without_a_known_end_is_refused(tmp_path):
    path = write(tmp_path / "video.mkv", Video())
    with pytest.raises(ValueError, match=r"frames = 5 are spread over a whole video, whose end isn't known"):
        read(Once(path), MediaConfig(frames=5))
    live = (part for part in arrays(torch.zeros(3, 8, 8, 3, dtype=torch.uint8)))
    with pytest.raises(ValueError, match="source must be a file or a list with frames = 5"):
        read(live, MediaConfig(frames=5))
    with pytest.raises(ValueError, match="frames must be 0, or at least 2"):
        MediaConfig(frames=1)


def test_the_middles_of_stretches_can_be_taken(tmp_path):
    path = write(tmp_path / "video.mkv", Video(audio_codec=None))  # frames 0 to 99
    with read(path, MediaConfig(frames=9, frames_at="middles", size_px=96)) as parts:
        frames = list(parts)
    # LongVLM's own code gives these numbers
    assert [number_of(p) for part in frames for p in part.pixels] == [5, 16, 27, 38, 49, 60, 71, 82, 93]
    assert float(frames[-1].time_s[-1]) + frames[-1].step_s == pytest.approx(4.0)


@pytest.mark.parametrize("num_frames", [101, 150, 200, 250, 333, 1000, 4997, 7200])
@pytest.mark.parametrize("rate", [24000 / 1001, 25.0, 30.0])
def test_middles_are_the_frames_that_longvlms_rounding_gives(num_frames, rate):
    bounds = np.round((num_frames - 1) / 100 * np.arange(101)).astype(int)  # numpy rounds as their code does
    expected = (bounds[:-1] + bounds[1:]) // 2
    stamps = np.round(1000 * np.arange(num_frames) / rate)  # a container that counts in ms
    config = MediaConfig(frames=100, frames_at="middles")
    grid = Grid.spread(config, stamps[0] / 1000, stamps[-1] / 1000, 1 / rate)
    instants = np.array([grid.at(k) for k in range(100)])
    assert (np.searchsorted(stamps / 1000, instants, side="right") - 1 == expected).all()
    shown = [grid.between(a, b) for a, b in itertools.pairwise(stamps / 1000)]
    assert (np.flatnonzero(shown) == expected[expected < num_frames - 1]).all()


def test_a_video_with_fewer_frames_than_instants_repeats_them(tmp_path):
    path = write(tmp_path / "video.mkv", Video(audio_codec=None, stamps=range(0, 400, 40)))
    with read(path, MediaConfig(frames=20, frames_at="middles", size_px=96)) as parts:
        numbers = [number_of(p) for part in parts for p in part.pixels]
    assert len(numbers) == 20 and numbers == sorted(numbers) and set(numbers) >= set(range(9))


def test_a_grid_knows_its_instants():
    grid = Grid.spread(MediaConfig(frames=4), 1.0, 2.5, 0.04)
    assert [grid.at(k) for k in range(5)] == [1.0, 1.5, 2.0, 2.5, float("inf")]
    assert grid.between(1.4, 1.6) and not grid.between(1.6, 1.9)
