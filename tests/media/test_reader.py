"""Frames and audio come back at their true times, whatever the container."""

import gc
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from longcompress.config import MediaConfig
from longcompress.media.frames import Clock, FrameSampler, VideoTrack, fit_pixels
from longcompress.media.reader import arrays, probe, read
from longcompress.types import Audio, Frames

from readings import KINDS, SMALL, STAMPS, gather, joined, media_threads, shown_at
from videos import Video, number_of, onsets, write

IRREGULAR = [0, 40, 80, 200, 240, 700, 720, 760, 1500, 1510, 1600, 2400, 2440, 3100, 3900]


@pytest.mark.parametrize("stamps", STAMPS)
@pytest.mark.parametrize(
    "suffix", [kind if kind == "mp4" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_flash_and_beep_come_back_at_their_seconds(tmp_path, suffix, stamps):
    video = replace(KINDS[suffix], stamps=STAMPS[stamps])
    path = write(tmp_path / f"video.{suffix}", video)
    pixels, times, sounds, warned = gather(path, MediaConfig(rate_fps=50, size_px=16, threads=1))
    bright = [t for p, t in zip(pixels, times, strict=True) if p.float().mean() > 128]
    starts = [t for t in bright if not any(0 < t - other < 0.1 for other in bright)]
    heard = onsets(joined(sounds), 16000, sounds[0].start_s)
    assert starts == pytest.approx(
        video.flashes, abs=0.045
    )  # a TS begins its audio with 21 ms of AAC priming
    assert heard == pytest.approx(video.beeps, abs=0.04)
    assert warned == []


SHOWN = {
    "h264-b": Video(options={"bf": "3", "g": "20"}),
    "h264-opengop": Video(options={"bf": "3", "x264-params": "open-gop=1:keyint=15:min-keyint=5"}),
    "h264-irregular": Video(stamps=IRREGULAR, options={"g": "5"}),
    "h264-10bit": Video(pix_fmt="yuv420p10le", options={"g": "12"}),
    "h264-interlaced": Video(options={"flags": "+ildct+ilme", "x264-params": "interlaced=1", "g": "12"}),
    "mpeg4": Video(codec="mpeg4", options={"g": "12"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("kind", SHOWN)
def test_every_exact_frame_is_the_one_shown(tmp_path, kind, suffix):
    video = replace(SHOWN[kind], audio_codec=None)
    path = write(tmp_path / f"video.{suffix}", video)
    stamps = np.array(video.stamps) / 1000
    for rate_fps in (0.4, 1.0, 3.3, 25.0):
        pixels, times, _, _ = gather(path, MediaConfig(rate_fps=rate_fps, **SMALL))
        assert times == pytest.approx([k / rate_fps for k in range(len(times))], abs=1e-9)
        assert len(times) >= stamps[-1] * rate_fps
        for frame, instant in zip(pixels, times, strict=True):
            assert number_of(frame) == shown_at(stamps, instant)


@pytest.mark.parametrize("decode", ["nonref", "keyframe"])
def test_fast_ways_report_their_own_times(tmp_path, decode):
    video = Video(stamps=range(0, 8000, 40), audio_s=8, options={"bf": "2", "g": "30"})
    path = write(tmp_path / "video.mp4", video)
    pixels, times, sounds, _ = gather(path, MediaConfig(decode=decode, **SMALL))
    assert [number_of(p) * 0.04 for p in pixels] == pytest.approx(times, abs=1e-3)
    assert len(times) in ((8,) if decode == "nonref" else (6, 7))
    worst = max(abs(t - k) for k, t in enumerate(times)) if decode == "nonref" else 0
    assert worst <= 0.12
    assert len(joined(sounds)) >= 8 * 16000


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_sparse_frames_are_the_same_with_far_less_decoded(tmp_path, suffix, monkeypatch):
    video = Video(stamps=range(0, 40000, 40), audio_codec=None, options={"g": "10", "preset": "ultrafast"})
    path = write(tmp_path / f"video.{suffix}", video)
    counted = []
    push = FrameSampler.push
    monkeypatch.setattr(FrameSampler, "push", lambda self, *a: counted.append(1) or push(self, *a))
    pixels, times, _, warned = gather(path, MediaConfig(rate_fps=0.2, **SMALL))
    assert times == pytest.approx(list(range(0, 40, 5)))
    assert [number_of(p) for p in pixels] == [125 * k for k in range(8)]
    assert len(counted) < 250 and len(warned) == 1  # of the missing audio


DECODERS = {
    "h264.mp4": Video(options={"bf": "3", "g": "24", "preset": "ultrafast"}),
    "h264-open.ts": Video(options={"x264-params": "bframes=3:b-adapt=0:open-gop=1:keyint=24:scenecut=0"}),
    "h264-refresh.ts": Video(options={"x264-params": "intra-refresh=1:keyint=24:scenecut=0"}),
    "h265.mkv": Video(
        codec="libx265", options={"preset": "ultrafast", "x265-params": "keyint=24:log-level=0"}
    ),
    "vp9.webm": Video(codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8", "g": "24"}),
    "mpeg4.mkv": Video(codec="mpeg4", options={"bf": "2", "g": "12"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DECODERS)
def test_leaving_out_what_is_not_wanted_changes_no_bit(tmp_path, kind, monkeypatch):
    video = replace(DECODERS[kind], stamps=range(0, 12000, 40), audio_codec=None, size=(128, 64))
    path = write(tmp_path / f"video.{kind.split('.')[1]}", video)
    for rate_fps in (1.0, 0.25):
        config = MediaConfig(rate_fps=rate_fps, audio=False, **SMALL)
        some = gather(path, config)
        with monkeypatch.context() as patch:
            patch.setattr(VideoTrack, "_dropping_pays", lambda self: False)
            patch.setattr(VideoTrack, "_lookahead_pays", lambda self: False)
            every = gather(path, config)
        assert some[1] == every[1]
        assert all(map(torch.equal, some[0], every[0])) or (kind == "h264-refresh.ts" and some[3])


@pytest.mark.parametrize(
    ("audio_hz", "layout", "codec", "suffix"),
    [
        (8000, "mono", "pcm_s16le", "mkv"),
        (22050, "stereo", "aac", "mp4"),
        (44100, "5.1", "aac", "mp4"),
        (96000, "stereo", "flac", "mkv"),
        (11025, "mono", "pcm_s16le", "wav"),
        (44100, "stereo", "libmp3lame", "mp3"),
    ],
)
def test_audio_of_any_rate_and_layout_is_mono_at_16_khz(tmp_path, audio_hz, layout, codec, suffix):
    video = Video(codec=None, audio_codec=codec, audio_hz=audio_hz, layout=layout, audio_s=3, beeps=(1.0,))
    path = write(tmp_path / f"video.{suffix}", video)
    _, _, sounds, _ = gather(path, MediaConfig(video=False))
    samples = joined(sounds)
    assert all(len(s) == 16000 and s.rate_hz == 16000 for s in sounds[:-1])
    assert len(samples) == pytest.approx(3 * 16000, abs=0.15 * 16000)
    assert onsets(samples, 16000, 0) == pytest.approx([1.0], abs=0.04)
    tone = samples[int(1.05 * 16000) : int(1.15 * 16000)]
    assert np.abs(np.fft.rfft(tone)).argmax() * 10 == pytest.approx(1000, abs=20)
    assert np.abs(samples).max() <= 1.0


def test_late_audio_says_where_it_starts(tmp_path):
    path = write(tmp_path / "video.mkv", Video(audio_start_s=1.5, audio_s=2, beeps=(2.0,)))
    _, times, sounds, _ = gather(path)
    assert times[0] == 0 and sounds[0].start_s == pytest.approx(1.5, abs=0.025)
    assert onsets(joined(sounds), 16000, sounds[0].start_s) == pytest.approx([2.0], abs=0.03)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_rotation_is_applied(tmp_path, rotation, fit):
    video = Video(rotation=rotation, quarter=True, audio_codec=None, stamps=[0, 40], size=(160, 96))
    path = write(tmp_path / "video.mp4", video)
    pixels, _, _, _ = gather(path, MediaConfig(size_px=32, fit=fit))
    corners = {
        0: (4, 4),
        90: (-5, 4),
        180: (-5, -5),
        270: (4, -5),
    }  # the white corner, turned counterclockwise
    for turn, (row, column) in corners.items():
        assert (pixels[0][row, column].float().mean() > 128) == (turn == rotation)
    assert probe(path).rotation_deg == rotation


@pytest.mark.parametrize("size", [(1, 1), (33, 17), (2, 600), (600, 2)])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_odd_sizes_become_squares(tmp_path, size, fit):
    video = Video(codec="ffv1", pix_fmt="yuv444p", size=size, audio_codec=None, stamps=[0, 500], quarter=True)
    pixels, times, _, _ = gather(write(tmp_path / "video.mkv", video), MediaConfig(size_px=24, fit=fit))
    assert times == [0.0] and pixels[0].shape == (24, 24, 3)


def test_crop_keeps_the_aspect(tmp_path):
    video = Video(audio_codec=None, size=(160, 80), stamps=[0, 40])
    pixels, _, _, _ = gather(write(tmp_path / "video.mp4", video), MediaConfig(size_px=40, fit="crop"))
    whole, _, _, _ = gather(tmp_path / "video.mp4", MediaConfig(size_px=80, fit="squash"))
    assert (pixels[0].float() - whole[0][20:60:1, 20:60].float()).abs().mean() < 40


def test_reading_twice_gives_the_same_bits(tmp_path):
    path = write(tmp_path / "video.mp4", Video())
    first, second = (
        gather(path, MediaConfig(rate_fps=5, size_px=32)),
        gather(path, MediaConfig(rate_fps=5, size_px=32)),
    )
    assert first[1] == second[1] and all(map(torch.equal, first[0], second[0]))
    assert np.array_equal(joined(first[2]), joined(second[2]))


def test_paths_file_objects_and_streams_give_the_same(tmp_path):
    path = write(tmp_path / "video.mkv", Video())

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.inner = open(path, "rb")  # noqa: SIM115  # closed with the pipe

        def readable(self):
            return True

        def readinto(self, buffer):
            return self.inner.readinto(memoryview(buffer)[:777])

        def close(self):
            self.inner.close()
            super().close()

    want = gather(str(path))
    raw = io.BytesIO(path.read_bytes())
    with Pipe() as pipe, open(path, "rb") as file:
        for source in (path, f"file://{path}", raw, raw, file, pipe):
            got = gather(source)
            assert got[1] == want[1] and all(map(torch.equal, got[0], want[0]))
            assert np.array_equal(joined(got[2]), joined(want[2]))
        assert not file.closed and not raw.closed


def test_probe_tells_the_header(tmp_path):
    path = write(tmp_path / "video.mp4", Video(options={"g": "25", "sc_threshold": "0"}))
    info = probe(path)
    assert (info.has_video, info.has_audio, info.width, info.height) == (True, True, 160, 96)
    assert info.duration_s == pytest.approx(4.0, abs=0.1) and info.rate_fps == pytest.approx(25, abs=0.5)
    assert (info.video_codec, info.audio_codec, info.rate_hz, info.channels) == ("h264", "aac", 48000, 2)
    assert info.num_bytes == path.stat().st_size and info.keyframe_gap_s is None
    assert probe(path, keyframes=True).keyframe_gap_s == pytest.approx(1.0, abs=0.1)
    silent = probe(write(tmp_path / "silent.mkv", Video(audio_codec=None)))
    assert silent.has_video and not silent.has_audio


def test_arrays_come_back_unchanged():
    pixels = torch.randint(0, 256, (40, 24, 24, 3), dtype=torch.uint8)
    samples = torch.rand(40 * 16000) - 0.5
    got, times, sounds, _ = gather(arrays(pixels, 1.0, samples), MediaConfig(size_px=24))
    assert torch.equal(torch.stack(got), pixels) and times == list(range(40))
    assert np.array_equal(joined(sounds), samples.numpy())


def test_arrays_are_taken_at_the_wanted_rate_and_size():
    pixels = np.zeros((100, 48, 64, 3), np.uint8)
    pixels += np.arange(100, dtype=np.uint8)[:, None, None, None]
    got, times, sounds, _ = gather(arrays(pixels, 10.0, np.zeros(80000), 8000), MediaConfig(size_px=16))
    assert times == list(range(10)) and [int(p[0, 0, 0]) for p in got] == list(range(0, 100, 10))
    assert len(joined(sounds)) == 160000 and got[0].shape == (16, 16, 3)


def test_a_live_source_is_not_held_back():
    def live():
        for second in range(3):
            sent.append(second)
            yield Frames(
                torch.zeros(1, 8, 8, 3, dtype=torch.uint8), torch.tensor([float(second)]).double(), 1.0
            )
            yield Audio(torch.zeros(16000), float(second))

    sent: list[int] = []
    seen = []
    for item in read(live(), MediaConfig(size_px=8)):
        seen.append((type(item).__name__, sent[-1]))
    assert seen == [(kind, second) for second in range(3) for kind in ("Frames", "Audio")]


def test_threads_end_when_closed_dropped_or_read_through(tmp_path):
    path = write(tmp_path / "video.mp4", Video())
    config = MediaConfig(rate_fps=25, size_px=320)
    reading = read(path, config)
    next(reading)
    reading.close()
    assert not media_threads()
    with pytest.raises(StopIteration):
        next(reading)
    read(path, config)  # never read at all
    gc.collect()
    assert not media_threads()
    list(read(path, config))
    assert not media_threads()
    with pytest.raises(KeyboardInterrupt), read(path, config) as reading:
        for _ in reading:
            raise KeyboardInterrupt
    assert not media_threads()


@pytest.mark.slow
def test_an_abandoned_reading_does_not_keep_the_program_alive(tmp_path):
    path = write(tmp_path / "video.mp4", Video())
    code = (
        "import sys\nfrom longcompress.media.reader import read, MediaConfig\n"
        "r = read(sys.argv[1], MediaConfig(rate_fps=25, size_px=320)); next(r); print('left')"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "left\n" and done.returncode == 0, done.stderr


def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")
def test_memory_does_not_grow_with_the_length(tmp_path):
    video = Video(
        codec="mpeg4", stamps=range(0, 240_000, 40), audio_s=240, size=(64, 48), audio_hz=16000, layout="mono"
    )
    path = write(tmp_path / "video.mkv", video)
    seen = []
    for item in read(path, MediaConfig(size_px=64, threads=1)):
        if isinstance(item, Frames):
            seen.append((float(item.time_s[0]), resident_mb()))
    early = max(mb for second, mb in seen if second < 60)
    assert max(mb for _, mb in seen) < early + 15


def test_clock_rebuilds_missing_and_repeated_stamps():
    clock = Clock(0.001, 0.0, 0.04)
    got = [clock.next(pts, None) for pts in (0, 40, None, 120, 120, 90, 160)]
    assert got == pytest.approx([0, 0.04, 0.08, 0.12, None, None, 0.16])
    assert clock.warning() == "time stamps: 1 missing (rebuilt), 2 repeated or set back (left out)"


PICKED = json.loads((Path(__file__).parents[1] / "golden" / "mmduet" / "frames_picked.json").read_text())
SIZES = {tuple(case["size"]): (case["frame_rows"], case["frame_cols"]) for case in PICKED}


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_padding_puts_frames_where_mmduet_does(tmp_path, size):
    """Both of a file and of pushed frames; all around is black."""
    width, height = size
    config = MediaConfig(size_px=384, fit="pad")
    pushed = fit_pixels(torch.full((1, height, width, 3), 200, dtype=torch.uint8), config)
    spec = Video(size=size, stamps=[0, 40], audio_codec=None, pix_fmt="yuv444p", codec="ffv1", quarter=True)
    decoded, _, _, _ = gather(write(tmp_path / "video.mkv", spec), config)
    (top, bottom), (left, right) = SIZES[size]
    decoded = torch.stack(decoded)
    for pixels in (pushed, decoded):
        assert pixels.shape[1:] == (384, 384, 3)
        inside = torch.zeros(384, 384, dtype=torch.bool)
        inside[top : bottom + 1, left : right + 1] = True
        assert not pixels[:, ~inside].any()
    assert (pushed[:, top : bottom + 1, left : right + 1] == 200).all()
    assert (decoded[0, top + 3 : top + 6, left + 3 : left + 6] > 200).all()  # of the white quarter
