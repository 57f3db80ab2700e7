"""Video decodes in a thread beside audio, and nothing of what comes tells so."""

import io
import threading
import time

import av
import numpy as np
import pytest

from longcompress.config import MediaConfig
from longcompress.media.audio import AudioTrack
from longcompress.media.frames import VideoTrack
from longcompress.media.reader import read
from longcompress.media.side_thread import SideThread
from longcompress.media.source import Handle
from longcompress.types import Frames

from readings import KINDS, SMALL, media_threads
from videos import Video, write


class Pipe(io.BytesIO):
    """A source that can be read only once: both tracks are decoded in the thread that reads."""

    def seekable(self):
        return False


def trace(source, **options):
    """Every part with its bytes and what was reached with it, the warnings, and the error that ended it."""
    parts, warned, error = [], [], ""
    config = MediaConfig(**SMALL, **options.pop("config", {}))
    try:
        with read(source, config, on_warning=warned.append, **options) as reading:
            for part in reading:
                values = part.pixels if isinstance(part, Frames) else part.samples
                times = part.time_s.tolist() if isinstance(part, Frames) else part.start_s
                parts.append((times, values.numpy().tobytes(), reading.reached_s))
    except (ValueError, OSError, RuntimeError) as caught:
        error = str(caught)
    assert not media_threads()
    return parts, [text.split(": ", 1)[1] for text in warned], error.split(": ", 1)[-1]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracks")
    paths = {kind: write(folder / f"video.{kind}", spec) for kind, spec in KINDS.items() if kind != "mov"}
    pause = Video(stamps=range(0, 200_000, 500), audio_s=50.3, audio_start_s=147.3, size=(64, 48))
    pieces = folder / "pieces.ts"
    pieces.write_bytes(paths["ts"].read_bytes() * 3)
    broken = bytearray(paths["mkv"].read_bytes())
    for at in range(len(broken) // 3, len(broken), 4001):
        broken[at : at + 40] = bytes(40)
    (folder / "broken.mkv").write_bytes(broken)
    paths |= {"pause": write(folder / "pause.mkv", pause), "pieces": pieces, "broken": folder / "broken.mkv"}
    return paths


@pytest.mark.parametrize("name", ["mkv", "webm", "ts", "pause", "pieces", "broken"])
@pytest.mark.parametrize(
    "options", [{}, {"part": (1.0, 2.5)}, {"config": {"rate_fps": 25.0}}], ids=["all", "part", "fast"]
)
def test_two_threads_give_what_a_single_thread_gives(files, name, options):
    path = files[name]
    for _ in range(2):
        got = trace(path, **{k: dict(v) if k == "config" else v for k, v in options.items()})
        assert got == trace(Pipe(path.read_bytes()), **options)
    assert got[0]


@pytest.mark.parametrize("name", ["mkv", "ts", "pause", "pieces", "broken"])
def test_nothing_comes_before_what_was_said_to_be_reached(files, name):
    reached = {"video": 0.0, "audio": 0.0}
    for times, _, reached_s in trace(files[name], config={"rate_fps": 25.0})[0]:
        kind, start_s = ("video", times[0]) if isinstance(times, list) else ("audio", times)
        assert start_s >= reached[kind] - 1e-9
        assert all(reached_s[k] >= reached[k] for k in reached)
        reached = reached_s


def test_each_track_has_a_thread_of_its_own(files, monkeypatch):
    seen: dict[str, set[int]] = {"video": set(), "audio": set()}

    def note(name, push):
        return lambda *a: (seen[name].add(threading.get_ident()), push(*a))[1]

    monkeypatch.setattr(VideoTrack, "push", note("video", VideoTrack.push))
    monkeypatch.setattr(AudioTrack, "push", note("audio", AudioTrack.push))
    list(read(files["mkv"], MediaConfig(**SMALL)))
    assert len(seen["video"]) == len(seen["audio"]) == 1 and seen["video"] != seen["audio"]
    seen["video"].clear(), seen["audio"].clear()
    list(read(Pipe(files["mkv"].read_bytes()), MediaConfig(**SMALL)))
    assert seen["video"] == seen["audio"]


def test_what_waits_when_a_reading_is_closed_is_not_decoded(files, monkeypatch):
    stops, pushed, third = [], [], threading.Event()
    init, push = Handle.__init__, VideoTrack.push

    def note(self, *arguments, **options):
        init(self, *arguments, **options)
        stops.append(self.stop)

    def wait(self, packet):
        pushed.append(packet)
        if len(pushed) == 3:
            third.set()
            assert stops[-1].wait(60)
        yield from push(self, packet)

    monkeypatch.setattr(Handle, "__init__", note)
    monkeypatch.setattr(VideoTrack, "push", wait)
    reading = read(files["mkv"], MediaConfig(**SMALL))
    assert third.wait(60)
    reading.close()
    assert len(pushed) == 3 and not media_threads()


@pytest.mark.parametrize("track", [VideoTrack, AudioTrack])
def test_an_error_of_either_thread_comes_at_its_place(files, monkeypatch, track):
    push, counts = track.push, []

    def fail(self, *arguments):
        counts.append(1)
        if len(counts) == 40:
            raise RuntimeError("file: the fortieth")
        yield from push(self, *arguments)

    monkeypatch.setattr(track, "push", fail)
    config = {"rate_fps": 25.0}
    got = trace(files["mp4"], config=config)
    counts.clear()
    mkv = trace(files["mkv"], config=config)
    counts.clear()
    assert mkv == trace(Pipe(files["mkv"].read_bytes()), config=config)
    assert got[2] == mkv[2] == "the fortieth" and got[0] and mkv[0]


def test_results_come_in_the_order_of_the_jobs_and_no_more_than_wanted_wait():
    side, at_work, done = SideThread(3), [], []

    def job(number):
        at_work.append(number)
        time.sleep(0.002 * (number % 3))
        yield from (number, -number)

    for number in range(20):
        done += side.put(job(number))
        assert len(at_work) <= len(done) // 2 + 3 + 1
    done += side.take()
    assert done == [value for number in range(20) for value in (number, -number)]
    side.close()
    assert not media_threads()


def test_nothing_comes_after_an_error_of_a_job():
    side: SideThread[int] = SideThread(8)

    def job(number):
        yield number
        if number == 2:
            raise RuntimeError("two")

    seen = []
    with pytest.raises(RuntimeError, match="two"):
        for number in range(6):
            for value in side.put(job(number)):
                seen.append(value)
        for value in side.take():
            seen.append(value)
    assert seen == [0, 1, 2]
    assert [*side.put(job(7)), *side.take()] == []
    side.close()


@pytest.mark.parametrize("layout", ["mono", "stereo"])
@pytest.mark.parametrize("rate_hz", [11025, 16000, 44100, 48000])
def test_samples_and_chunks_do_not_depend_on_how_decoded_audio_was_cut(layout, rate_hz):
    rng = np.random.default_rng(rate_hz)
    num = av.AudioLayout(layout).nb_channels
    samples = (rng.standard_normal((num, 5 * rate_hz)) * 0.3).astype(np.float32)

    def chunks(sizes):
        track, at, out = AudioTrack(16000), 0, []
        while at < samples.shape[1]:
            piece = samples[:, at : at + next(sizes)]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), format="fltp", layout=layout)
            frame.sample_rate = rate_hz
            out += list(track.push(frame, at / rate_hz))
            at += piece.shape[1]
            assert track.reached_s == pytest.approx(at / rate_hz)
        out += list(track.finish())
        return [(chunk.start_s, chunk.samples.numpy().tobytes()) for chunk in out]

    whole = chunks(iter(lambda: 1 << 30, 0))
    assert len(whole) in (5, 6)
    for seed in range(4):
        sizes = np.random.default_rng(seed)
        assert chunks(iter(lambda r=sizes: int(r.integers(1, 5000)), 0)) == whole
