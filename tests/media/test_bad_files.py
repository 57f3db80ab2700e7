"""What can be read is read; what can't is one clear error; nothing hangs."""

import io
import os
import struct
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from longcompress.config import MediaConfig
from longcompress.media.reader import probe, read
from longcompress.types import Audio

from readings import SMALL, gather, joined, longer, media_threads, patched, restamp
from videos import Video, number_of, write

PLAIN = Video(stamps=range(0, 3000, 40), audio_s=3, options={"g": "10", "sc_threshold": "0"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def mp4(folder):
    return write(folder / "plain.mp4", replace(PLAIN, container_options={"movflags": "+faststart"}))


@pytest.fixture(scope="module")
def mkv(folder):
    return write(folder / "plain.mkv", PLAIN)


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    assert not media_threads()


# --- not a video at all


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"x\.mp4: the file is empty"),
        (b"hello, this is no video\n" * 50, r"x\.mp4: no video or audio file \(1200 bytes\)"),
        (bytes(5000), r"x\.mp4: no video or audio file"),
        (bytes(range(256)) * 40, r"x\.mp4: (no video|nothing)"),
        (
            b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isommp41\x00\x00\x10\x00mdat" + bytes(4000),
            "no readable index",
        ),
    ],
)
def test_what_is_no_video_is_one_clear_error(tmp_path, data, message):
    (tmp_path / "x.mp4").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        list(read(tmp_path / "x.mp4"))
    with pytest.raises(ValueError, match=message):
        probe(tmp_path / "x.mp4")
    if data:
        with pytest.raises(ValueError, match=r"<BytesIO>"):
            list(read(io.BytesIO(data)))


def test_missing_files_directories_and_devices(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere\.mp4"):
        read(tmp_path / "nowhere.mp4")
    with pytest.raises(IsADirectoryError, match="is a directory; name a file"):
        read(tmp_path)
    with pytest.raises(ValueError, match="no regular file"):
        read("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe is no regular file .*pass the file object"):
        read(tmp_path / "pipe")
    for name in ("concat:a.mp4|b.mp4", "data:text/plain,x", "pipe:0"):
        with pytest.raises(FileNotFoundError, match="no file"):
            read(name)
    with pytest.raises(TypeError, match=r"source must be .*got int"):
        read(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got ndarray; wrap arrays with"):
        read(np.zeros((1, 2, 2, 3), np.uint8))
    with pytest.raises(TypeError, match=r"must give Frames or Audio, got str"):
        list(read(["a.mp4"]))  # type: ignore[list-item]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(mkv):
    mkv.chmod(0)
    try:
        with pytest.raises(PermissionError, match="plain"):
            read(mkv)
    finally:
        mkv.chmod(0o644)


def test_config_without_a_wish(mkv):
    with pytest.raises(ValueError, match="frames and audio are both off"):
        read(mkv, MediaConfig(video=False, audio=False))


# --- what points elsewhere

ELSEWHERE = {
    "list.m3u8": (
        b"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nplain.mp4\n#EXT-X-ENDLIST\n",
        "M3U/HLS playlist",
    ),
    "list.ffconcat": (b"ffconcat version 1.0\nfile plain.mp4\n", "ffconcat list"),
    "list.txt": (b"# two films\nfile 'plain.mp4'\n", "concat list"),
    "live.sdp": (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n", "SDP session"),
    "live.mpd": (
        b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
        "DASH manifest",
    ),
    "list.pls": (b"[playlist]\nFile1=plain.mp4\n", "PLS playlist"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_playlists_are_refused_under_any_name(mp4, name):
    data, what = ELSEWHERE[name]
    for other in (name, name + ".mp4"):
        path = mp4.with_name(other)
        path.write_bytes(data)
        with pytest.raises(
            ValueError, match=rf"{other} is an? {what}: what points to other files is refused"
        ):
            read(path)


def dref(mp4: Path, name: str, entry: bytes) -> Path:
    """`mp4` with the first data reference replaced, the boxes around it grown to fit (moov at the end)."""
    data = bytearray(mp4.read_bytes())
    at = data.index(b"dref") - 4
    size = struct.unpack(">I", data[at : at + 4])[0]
    table = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    grow = len(table) - size
    data[at : at + size] = table
    for kind in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        box = data.rindex(kind, 0, at) - 4
        data[box : box + 4] = struct.pack(">I", struct.unpack(">I", data[box : box + 4])[0] + grow)
    other = mp4.with_name(name)
    other.write_bytes(data)
    return other


def test_an_mp4_with_its_data_elsewhere_is_refused(folder):
    plain = write(folder / "end.mp4", PLAIN)
    assert len(gather(dref(plain, "same.mp4", struct.pack(">I4sI", 12, b"url ", 1)))[1]) == 3
    where = b"file:///etc/passwd\0"
    path = dref(plain, "outside.mp4", struct.pack(">I4sI", 12 + len(where), b"url ", 0) + where)
    with pytest.raises(
        ValueError, match=r"outside\.mp4 is an MP4/MOV that keeps its data elsewhere \(url file:"
    ):
        read(path)


def test_protocols_are_only_those_allowed(mkv):
    with pytest.raises(
        ValueError, match=r"protocols must have 'http', got only file; add it .*--protocols file http"
    ):
        read("http://127.0.0.1:9/video.mp4")
    with pytest.raises(ValueError, match="protocols must have 'rtsp'"):
        probe("rtsp://127.0.0.1/video")
    with pytest.raises(ValueError, match="protocols must have 'file'"):
        read(mkv, protocols=("https",))
    with pytest.raises(ValueError, match="chained URLs"):
        read("zip://a.mp4::http://127.0.0.1:9/a.zip", protocols=("zip", "http"))


# --- damaged videos


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_a_truncated_video_gives_what_is_there(folder, suffix, share):
    video = replace(PLAIN, container_options={"movflags": "+faststart"} if suffix == "mp4" else {})
    data = write(folder / f"whole.{suffix}", video).read_bytes()
    path = folder / f"cut.{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    if share == 0.1 and suffix != "ts":
        with pytest.raises(
            ValueError, match="no readable index" if suffix == "mp4" else "nothing could be decoded: "
        ):
            gather(path)
        return
    pixels, times, sounds, warned = gather(path)
    assert 1 <= len(times) <= 4 and times == list(range(len(times)))
    assert all(abs(number_of(p) - 25 * k) <= 1 for k, p in enumerate(pixels))  # a TS has 21 ms of AAC priming
    if share == 0.5 and suffix != "ts":
        assert any("the header says 3.0 s, the media ends at" in text for text in warned)
    if share == 0.5:
        assert 0.5 * 16000 < len(joined(sounds)) < 2.5 * 16000


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_damage_in_the_middle_is_stepped_over(folder, suffix):
    data = bytearray(write(folder / f"whole2.{suffix}", PLAIN).read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, len(data) // 20, dtype=np.uint8).tobytes()
    data[len(data) * 4 // 10 : len(data) * 4 // 10 + len(noise)] = noise
    path = folder / f"damaged.{suffix}"
    path.write_bytes(data)
    _, times, sounds, warned = gather(path)
    assert times[0] == 0 and times[-1] >= 1 and len(times) >= 2
    assert sum(map(len, sounds)) > 16000
    assert any("packets were lost" in text or "gaps (silence)" in text for text in warned), warned


@pytest.mark.parametrize("seed", range(12))
def test_random_damage_never_hangs_or_crashes(folder, mp4, mkv, seed):
    rng = np.random.default_rng(seed)
    whole = (mp4, mkv)[seed % 2]
    data = np.frombuffer(whole.read_bytes(), np.uint8).copy()
    for at in rng.integers(0, len(data), 30):
        data[at] = rng.integers(256)
    path = folder / f"noise{whole.suffix}"
    path.write_bytes(data.tobytes())
    try:
        gather(path)
    except ValueError as error:
        assert "noise" in str(error)


@pytest.mark.parametrize("factor", [12000, 0.1])
def test_an_mp4_header_that_lies_about_the_length_is_not_believed(mp4, factor):
    path = longer(mp4, "hours.mp4", factor)
    assert probe(path, keyframes=True).duration_s == pytest.approx(3, abs=0.1)
    _, times, sounds, _ = gather(path)
    assert times == [0, 1, 2] and len(joined(sounds)) == pytest.approx(3 * 16000, abs=1600)


def test_a_matroska_header_may_lie_both_ways(mkv):
    data = mkv.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3  # Duration, a float64 in ms
    for claim_s in (36000.0, 0.5):
        path = mkv.with_name("claim.mkv")
        path.write_bytes(data[:at] + struct.pack(">d", claim_s * 1000) + data[at + 8 :])
        _, times, _, warned = gather(path)
        assert times == [0, 1, 2]
        assert any(f"the header says {claim_s:.1f} s" in text for text in warned)


# --- tracks that are missing or can't be decoded


def test_no_audio_and_no_frames(folder):
    silent = write(folder / "silent.mp4", replace(PLAIN, audio_codec=None))
    _, times, sounds, warned = gather(silent)
    assert times == [0, 1, 2] and not sounds and warned == [f"{silent}: no audio track; the rest is read"]
    assert gather(silent, MediaConfig(audio=False, **SMALL))[3] == []
    with pytest.raises(ValueError, match=r"silent\.mp4: nothing to read: no audio track"):
        read(silent, MediaConfig(video=False))
    blind = write(folder / "blind.mp4", replace(PLAIN, codec=None))
    _, times, sounds, warned = gather(blind)
    assert not times and sounds and warned == [f"{blind}: no video track; the rest is read"]


def test_audio_shorter_than_the_frames(folder):
    path = write(folder / "short.mp4", replace(PLAIN, audio_s=1))
    _, times, sounds, warned = gather(path)
    assert times == [0, 1, 2] and len(joined(sounds)) == pytest.approx(16000, abs=1500) and warned == []


def test_an_unknown_codec_leaves_the_other_track(folder, mp4):
    path = patched(mp4, "odd.mp4", b"avc1\x00\x00\x00\x00", b"zzzz\x00\x00\x00\x00")
    _, times, sounds, warned = gather(path)
    assert not times and sounds and "video track 0 has a codec" in warned[0]
    with pytest.raises(ValueError, match=r"odd\.mp4: nothing to read: video track 0 has a codec that"):
        read(path, MediaConfig(audio=False))
    mute = write(folder / "mute.mkv", replace(PLAIN, audio_codec=None))
    with pytest.raises(ValueError, match="nothing"):
        list(read(patched(mute, "odd.mkv", b"V_MPEG4/ISO/AVC", b"V_ZZZZZ/ISO/AVC")))


# --- time stamps


def remux(source: Path, target: Path, change) -> Path:
    """A copy with the stamps of each frame packet as `change(number, pts, dts)` gives them."""
    with av.open(str(source)) as inside, av.open(str(target), "w") as outside:
        stream = inside.streams.video[0]
        copy = outside.add_stream_from_template(stream)
        for number, packet in enumerate(p for p in inside.demux(stream) if p.size):
            packet.pts, packet.dts = change(number, packet.pts, packet.dts)
            packet.stream = copy
            outside.mux(packet)
    return target


@pytest.fixture(scope="module")
def simple(folder):
    return write(folder / "simple.mkv", replace(PLAIN, audio_codec=None, options={"bf": "0", "g": "10"}))


ODD = {"back": {30: 1080}, "repeated": {n: 40 * n - 40 for n in range(5, 70, 10)}, "hour": {}}


@pytest.mark.parametrize("kind", ODD)
def test_odd_stamps_are_ignored_with_one_warning(folder, simple, kind):
    if kind == "hour":
        change = lambda n, pts, dts: (pts + 9_000_000 * (n == 40), dts)  # noqa: E731  # shorter than a def
        path = remux(simple, folder / "hour.mkv", change)
    else:
        path = restamp(simple, folder / f"{kind}.mkv", ODD[kind])
    pixels, times, _, warned = gather(path, MediaConfig(audio=False, rate_fps=5, **SMALL))
    assert times == pytest.approx([k / 5 for k in range(15)])
    assert all(abs(number_of(p) * 0.04 - t) < 0.09 for p, t in zip(pixels, times, strict=True))
    assert sum("time stamps: " in text for text in warned) == (kind != "back")  # FFmpeg itself mends that one


def test_missing_stamps_are_rebuilt(folder):
    video = replace(PLAIN, audio_codec=None, codec="mpeg4", options={"g": "10"})
    path = write(folder / "bare.m4v", video)  # an elementary stream has no stamps
    pixels, times, _, _ = gather(path, MediaConfig(audio=False, **SMALL))
    assert times == [0, 1, 2] and [number_of(p) for p in pixels] == [0, 25, 50]


def test_restarting_stamps_go_on(folder, simple):
    with av.open(str(simple)) as inside, av.open(str(folder / "twice.ts"), "w") as outside:
        stream = inside.streams.video[0]
        copy = outside.add_stream_from_template(stream)
        for shift in (100_000, 0):
            inside.seek(0)
            for packet in inside.demux(stream):
                if packet.size:
                    packet.pts += shift
                    packet.dts = None if shift == 0 else packet.pts
                    packet.stream = copy
                    if shift == 0:
                        packet.dts = packet.pts + 200_000
                        packet.pts = packet.dts
                    outside.mux(packet)
    _, times, _, _ = gather(folder / "twice.ts", MediaConfig(audio=False, **SMALL))
    assert times[0] == 0 and len(times) >= 6


def sound_with(path: Path, starts: list[tuple[float, float]]) -> Path:
    """PCM audio: a constant 0.25 from each start on for so many seconds, with stamps in ms."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000)
        stream.layout = "mono"
        for start_s, length_s in starts:
            for at in range(0, int(length_s * 16000), 1600):
                block = np.full((1, 1600), 8192, np.int16)
                frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
                frame.sample_rate = 16000
                for packet in stream.encode(frame):
                    packet.pts = packet.dts = round((start_s + at / 16000) / packet.time_base)
                    container.mux(packet)
    return path


def test_gaps_in_the_audio_are_silence(folder):
    path = sound_with(folder / "gap.mkv", [(0.5, 1.0), (2.5, 1.0)])
    _, _, sounds, warned = gather(path, MediaConfig(video=False))
    samples = joined(sounds)
    assert sounds[0].start_s == 0.0 and len(samples) == pytest.approx(3 * 16000, abs=50)
    loud = np.abs(samples) > 0.1
    assert loud[: 16000 - 50].all() and not loud[16000 + 50 : 32000 - 50].any() and loud[32000 + 50 :].all()
    assert any("1 gaps (silence)" in text for text in warned)


def test_overlaps_in_the_audio_are_cut():
    parts = [
        Audio(torch.full((16000,), level), start) for level, start in ((0.1, 0.0), (0.2, 0.75), (0.3, 1.75))
    ]
    samples = joined(list(read(parts)))
    assert len(samples) == 2.75 * 16000
    assert (samples[15900] - 0.1, samples[16100] - 0.2, samples[-1] - 0.3) == pytest.approx(
        (0, 0, 0), abs=1e-6
    )


def test_audio_of_a_rate_that_makes_no_sense_is_left_out():
    good, bad = Audio(torch.zeros(16000), 0.0), Audio(torch.zeros(100), 0.0, 5)
    assert [item.end_s for item in read([bad, good])] == [1.0]


def test_a_long_gap_begins_a_new_stretch(folder):
    path = sound_with(folder / "far.mkv", [(0.0, 1.0), (200.0, 1.0)])
    _, _, sounds, _ = gather(path, MediaConfig(video=False))
    assert [s.start_s for s in sounds] == pytest.approx([0.0, 200.0], abs=1e-3)


# --- sizes


def test_zero_frame_rate(folder, mp4):
    path = write(folder / "slow.mkv", replace(PLAIN, stamps=[0, 1500], audio_codec=None))
    pixels, times, _, _ = gather(path)
    assert times[:2] == [0, 1] and [number_of(p) for p in pixels[:2]] == [0, 0]


def test_frames_over_the_limit_are_refused(mp4, folder):
    with pytest.raises(
        ValueError, match=r"plain\.mp4: video track 0 \(h264\): frames of 160 x 96 have more than"
    ):
        read(mp4, MediaConfig(max_pixels=160 * 96 - 1))
    assert len(gather(mp4, MediaConfig(max_pixels=160 * 96, **SMALL))[1]) == 3
    assert gather(mp4, MediaConfig(max_pixels=1, video=False))[2]


def test_a_frame_that_grows_on_the_way_is_refused(folder):
    small = write(folder / "small.ts", replace(PLAIN, audio_codec=None, size=(64, 48))).read_bytes()
    large = write(folder / "large.ts", replace(PLAIN, audio_codec=None, size=(320, 192))).read_bytes()
    (folder / "grows.ts").write_bytes(small + large)
    with pytest.raises(ValueError, match=r"grows\.ts: video track 0 \(h264\) at \d.* s: frames of 320 x 192"):
        gather(folder / "grows.ts", MediaConfig(max_pixels=64 * 48, **SMALL))
    assert len(gather(folder / "grows.ts")[1]) >= 5


@pytest.mark.slow
def test_eight_k_is_read(folder):
    video = Video(size=(7680, 4320), stamps=[0], audio_codec=None, codec="mjpeg", pix_fmt="yuvj420p")
    pixels, times, _, _ = gather(write(folder / "large.mkv", video))
    assert times == [0.0] and number_of(pixels[0]) == 0
