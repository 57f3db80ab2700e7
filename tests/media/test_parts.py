"""A part of a video is read as if it were all there is."""

import numpy as np
import pytest
import torch

from longcompress.config import MediaConfig
from longcompress.media.audio import AudioTrack
from longcompress.media.frames import VideoTrack
from longcompress.media.reader import arrays, read
from longcompress.types import Audio

from readings import SMALL, STAMPS, gather, joined, shown_at
from videos import Video, number_of, write

PARTS = [(0.0, 1.0), (0.5, 2.25), (1.337, 3.9), (2.0, 60.0)]


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("stamps", STAMPS)
@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_frames_and_samples_of_a_part_are_the_videos_there(tmp_path, kind, stamps, part):
    stamps_s = np.array(STAMPS[stamps]) / 1000
    path = write(tmp_path / f"a.{kind}", Video(stamps=STAMPS[stamps], options={"g": "10"}))
    config = MediaConfig(rate_fps=8.0, **SMALL)
    _, whole_times, whole_audio, _ = gather(path, config)
    pixels, times, sounds, warned = gather(path, config, part=part)
    assert not warned
    begin_s, end_s = part
    want = [k / 8 for k in range(999) if k / 8 < min(end_s, whole_times[-1] + 1 / 8) - begin_s - 1e-3]
    assert abs(len(want) - len(times)) <= (end_s > 4) and times == want[: len(times)]
    assert [number_of(p) for p in pixels] == [shown_at(stamps_s, begin_s + t) for t in times]
    first, last = (round(second * config.rate_hz) for second in part)
    np.testing.assert_array_equal(joined(sounds), joined(whole_audio)[first:last])
    assert sounds[0].start_s == 0


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_arrays(part):
    pixels = torch.arange(4000, dtype=torch.uint8).reshape(1000, 2, 2, 1).expand(-1, -1, -1, 3)[:100]
    samples = torch.rand(64000)
    config = MediaConfig(rate_fps=25.0, size_px=2)
    first, last = (round(second * 25) for second in part)
    got, times, sounds, _ = gather(arrays(pixels, 25.0, samples), config, part=part)
    if part[0] * 25 == first:
        want, want_times, _, _ = gather(arrays(pixels[first:last], 25.0), config)
        assert times == want_times and torch.equal(torch.stack(got), torch.stack(want))
    start, end = (round(second * 16000) for second in part)
    np.testing.assert_array_equal(joined(sounds), samples[start:end].numpy())


def test_a_part_that_begins_after_an_hour(tmp_path):
    """Stamps of more than an hour aren't taken for lies, where the video begins long before the part."""
    stamps = range(0, 4_000_000, 8000)
    path = write(tmp_path / "a.mp4", Video(stamps=stamps, audio_codec=None, options={"g": "4"}))
    config = MediaConfig(audio=False, **SMALL)
    pixels, times, _, warned = gather(path, config, part=(3700.5, 3730.0))
    assert times == list(range(30)) and not warned
    assert [number_of(p) for p in pixels] == [int((3700.5 + t + 1e-3) // 8) for t in times]
    assert AudioTrack(16000, media_start_s=-4000.0).reached_s == -4000


def test_of_a_part_only_what_is_needed_is_decoded(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", Video(stamps=range(0, 20000, 40), audio_s=20.0, options={"g": "25"}))
    decoded, pushed = [], []
    decode, push = VideoTrack._decode, VideoTrack.push
    monkeypatch.setattr(VideoTrack, "_decode", lambda self, p: decoded.append(p) or decode(self, p))
    monkeypatch.setattr(VideoTrack, "push", lambda self, p: pushed.append(p) or push(self, p))
    _, times, sounds, _ = gather(path, MediaConfig(**SMALL), part=(10.0, 13.0))
    assert times == [0, 1, 2] and len(joined(sounds)) == 48000
    assert len(decoded) < 180  # of 500: about a group before it is known how long groups are, and the part's
    assert 325 <= len(pushed) < 335  # nothing is read behind the part


def test_a_gap_in_the_audio_before_a_part_is_no_fault():
    values = [Audio(torch.ones(16000), at, 16000) for at in (0.0, 1.5, 2.2)]  # a gap, and an overlap
    _, _, whole, _ = gather(values)
    for part in ((0.5, 2.0), (1.2, 1.4), (2.0, 3.0), (2.4, 9.0)):
        _, _, sounds, _ = gather(values, part=part)
        first, last = (round(second * 16000) for second in part)
        np.testing.assert_array_equal(joined(sounds), joined(whole)[first:last])


def test_errors_say_what_is_wrong(tmp_path):
    path = write(tmp_path / "a.mp4", Video())
    for part in ((-1.0, 2.0), (2.0, 2.0), (float("nan"), 1.0)):
        with pytest.raises(
            ValueError, match=r"part must be \(start_s, end_s\) with 0 <= start_s < end_s, got"
        ):
            read(path, part=part)
    with pytest.raises(ValueError, match=r"nothing in its part from 100 to 120 s; the media ends at 4\.\d s"):
        gather(path, part=(100.0, 120.0))
