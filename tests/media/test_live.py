"""Live sources without a device: FFmpeg's test patterns, sockets of a child process, files at their speed."""

import io
import re
import subprocess
import sys
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from longcompress.config import MediaConfig
from longcompress.media.live import KINDS, _Times, kind_of, live_source
from longcompress.types import Audio, Frames

from videos import Video, number_of, write

CONFIG = MediaConfig(rate_fps=2, size_px=32)
SERVE = """
import socket, sys, time
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
data = open(sys.argv[1], "rb").read()
for _ in range(int(sys.argv[2])):
    peer, _ = server.accept()
    peer.sendall(data)
    time.sleep(float(sys.argv[3]))
    peer.close()
"""


@pytest.fixture
def serve(tmp_path):
    """Serves bytes to some clients, one after another, from a child process; returns the port."""
    children = []

    def start(data, num=1, pause_s=0.0):
        (tmp_path / "data").write_bytes(data)
        words = [sys.executable, "-c", SERVE, str(tmp_path / "data"), str(num), str(pause_s)]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        children.append(child)
        return int(child.stdout.readline())

    yield start
    for child in children:
        child.kill()
        child.wait()


def read(source, config=CONFIG, **options):
    """(frames, audio, warnings, tracks)."""
    warnings, tracks = [], []
    options = {"protocols": list(KINDS), "retry_s": 0.0, "on_warning": warnings.append} | options
    parts = list(live_source(source, config, on_open=tracks.extend, **options))
    return (
        [part for part in parts if isinstance(part, Frames)],
        [part for part in parts if isinstance(part, Audio)], warnings, tracks,
    )  # fmt: skip


def test_a_pattern_comes_at_the_models_rate():
    frames, audio, warnings, tracks = read("lavfi:testsrc=size=160x120:rate=10:duration=3")
    assert [float(f.time_s[0]) for f in frames] == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5])
    assert {tuple(f.pixels.shape) for f in frames} == {(1, 32, 32, 3)}
    assert (audio, warnings, tracks) == ([], [], ["video"])


def test_a_tone_comes_at_once_and_whole():
    _, audio, _, tracks = read("lavfi:sine=frequency=440:sample_rate=48000:duration=2")
    assert tracks == ["audio"] and sum(map(len, audio)) == pytest.approx(32000, abs=64)
    assert max(len(part) for part in audio) <= 1600  # nothing waits for a second of it
    for before, part in pairwise(audio):
        assert part.start_s == pytest.approx(before.end_s, abs=1e-9)
    assert Audio.join(audio).samples.abs().max() > 0.1


def test_a_file_is_read_as_it_is(tmp_path):
    path = write(tmp_path / "video.mkv", Video())
    frames, audio, _, tracks = read(str(path), MediaConfig(rate_fps=2, size_px=96))
    numbers = [number_of(f.pixels[0]) for f in frames]  # the first of each half second: 25 frames a second
    assert numbers == [0, 13, 25, 38, 50, 63, 75, 88]
    assert sum(len(part) for part in audio) == pytest.approx(4 * 16000, abs=1200)
    assert tracks == ["video", "audio"]
    silent = MediaConfig(rate_fps=2, size_px=32, audio=False)
    assert read(str(path), silent)[1] == [] and read(str(path), silent)[3] == ["video"]


def test_a_file_at_its_speed_takes_its_time(tmp_path):
    path = write(tmp_path / "video.mkv", Video(audio_codec=None))
    start = time.monotonic()
    frames = read(str(path), speed=8.0)[0]
    assert time.monotonic() - start > 0.4 and float(frames[-1].time_s[0]) == 3.52


def test_standard_input_is_a_source(tmp_path, monkeypatch):
    path = write(tmp_path / "video.ts", Video(audio_codec=None))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(path.read_bytes())))
    assert len(read("-")[0]) == 8


def test_a_stream_that_comes_again_goes_on_by_the_clock(tmp_path, serve):
    """Two connections with the same stamps: times rise, and the gap is that of the clock."""
    data = write(tmp_path / "video.ts", Video(audio_codec=None)).read_bytes()
    port, warnings, times = serve(data, num=2), [], []
    config = MediaConfig(rate_fps=2, size_px=32, audio=False)
    source = live_source(
        f"tcp://127.0.0.1:{port}", config, protocols=["tcp"], retry_s=3.0, timeout_s=2.0,
        on_warning=warnings.append,
    )  # fmt: skip
    for part in source:
        times.append(float(part.time_s[0]))
        if len(times) == 14:
            break
    source.close()
    first = [0, 0.52, 1, 1.52, 2, 2.52, 3, 3.52]  # of each half second, at its own time
    assert times[:8] == pytest.approx(first)
    rises = torch.tensor(times).diff()
    assert (rises > 0).all() and rises[8:].tolist() == pytest.approx([0.5] * 5, abs=0.05)
    assert len(warnings) == 1 and "it is opened again for 3 s" in warnings[0]


def test_a_stream_that_stays_away_ends_with_its_error(tmp_path, serve):
    data = write(tmp_path / "video.ts", Video(audio_codec=None)).read_bytes()
    port, frames = serve(data), 0
    with pytest.raises(OSError, match=r"source tcp://127.0.0.1:\d+ can't be read: nothing listens there"):
        for _ in live_source(
            f"tcp://127.0.0.1:{port}", CONFIG, protocols=["tcp"], retry_s=1.0, on_warning=lambda text: None
        ):
            frames += 1
    assert frames >= 8


def test_silence_is_a_failure_after_its_time(serve):
    port = serve(b"", pause_s=30.0)
    start = time.monotonic()
    with pytest.raises(OSError, match="nothing came in time; is it on, and the address right"):
        read(f"tcp://127.0.0.1:{port}", timeout_s=1.0)
    assert time.monotonic() - start < 8


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_must_be_allowed(kind):
    source = {"file": "a.mp4", "stdin": "-"}.get(kind, f"{kind}:{'' if KINDS[kind].is_device else '//'}cam/1")
    assert kind_of(source, [kind]) == kind
    other = "file" if kind != "file" else "rtsp"
    with pytest.raises(
        ValueError, match=rf"is of kind {kind}, allowed are {other}; allow it \(--protocols {kind}\)"
    ):
        kind_of(source, [other])


@pytest.mark.parametrize("source", ["srt://a/1", "concat://a|b", "rtsp:cam", "subfile:x", "data:video/mp4,A"])
def test_other_kinds_are_refused(source):
    with pytest.raises(ValueError, match=r"source must be a path, - or of a kind in file, stdin, .* got "):
        kind_of(source, list(KINDS))


def test_messages_have_no_password():
    with pytest.raises(ValueError, match="source rtsp://cam/1 is of kind") as error:
        kind_of("rtsp://ann:secret@cam/1?key=secret", ["file"])
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(("source", "message"), [
    ("v4l2:/dev/video99", "there is none of this name"),
    ("rtsp://127.0.0.1:1/x", "nothing listens there"),
    ("http://127.0.0.1:1/x.m3u8", "nothing listens there"),
    ("nowhere.mp4", "there is none of this name"),
    ("lavfi:nosuchfilter", "source lavfi:nosuchfilter can't be read"),
])  # fmt: skip
def test_what_is_not_there_is_named_with_a_remedy(source, message):
    with pytest.raises(OSError, match=message):
        read(source)


def test_a_playlist_reaches_no_file(tmp_path, serve):
    """A playlist of the network that names a file of this machine gets nothing of it."""
    path = write(tmp_path / "video.ts", Video(audio_codec=None))
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile://{path}\n#EXT-X-ENDLIST\n".encode()
    head = b"HTTP/1.0 200 OK\r\nContent-Type: application/vnd.apple.mpegurl\r\n"
    port = serve(head + b"Content-Length: %d\r\n\r\n" % len(text) + text, num=3)
    with pytest.raises((OSError, ValueError)):
        read(f"http://127.0.0.1:{port}/live.m3u8", timeout_s=3.0)
    local = tmp_path / "list.m3u8"
    local.write_bytes(text)
    with pytest.raises(ValueError, match="what points to other files is refused"):
        read(str(local))


def test_a_part_of_an_http_stream_that_is_missing_is_a_gap(tmp_path):
    """A server that has lost a segment of its HLS playlist: what comes after it has its own time."""
    for k in range(3):
        name, stamps = f"part{k}.ts", range(4000 * k, 4000 * k + 4000, 200)
        write(tmp_path / name, Video(stamps=stamps, audio_codec=None, options={"bf": "0"}))
    (tmp_path / "part1.ts").unlink()
    parts = "".join(f"#EXTINF:4,\npart{k}.ts\n" for k in range(3))
    (tmp_path / "live.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n{parts}#EXT-X-ENDLIST\n")
    words = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as child:
        try:
            port = int(re.search(r"port (\d+)", child.stdout.readline())[1])
            frames, _, _, tracks = read(f"http://127.0.0.1:{port}/live.m3u8", timeout_s=3.0)
        finally:
            child.kill()
    assert tracks == ["video"]
    times = [float(part.time_s[0]) for part in frames]
    assert times == pytest.approx([0.0, 0.6, 1, 1.6, 2, 2.6, 3, 3.6, 8, 8.6, 9, 9.6, 10, 10.6, 11, 11.6])


def test_frames_that_are_too_large_end_it():
    with pytest.raises(ValueError, match="frames of 160 x 120 have more than max_pixels = 1000"):
        read("lavfi:testsrc=size=160x120:rate=5:duration=1", MediaConfig(size_px=32, max_pixels=1000))


def test_stamps_that_leap_start_anew():
    times = _Times(is_live=True)
    places = [times.place(0, stamp_s) for stamp_s in (100.0, 100.5, 101.0, 40.0, 40.5, 9000.0, 9000.5)]
    assert [is_new for _, is_new in places] == [False, False, False, True, False, True, False]
    assert [time_s for time_s, _ in places] == pytest.approx([0, 0.5, 1, 1, 1.5, 1.5, 2], abs=0.2)
    of_file = _Times(is_live=False)
    assert [of_file.place(0, stamp_s)[0] for stamp_s in (5.0, 5.5, 3700.0)] == [0, 0.5, 3695.0]
