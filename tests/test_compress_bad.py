"""Odd and broken videos end to end: `compress` gives a memory of what can be read, or a clear error."""

import io
import subprocess
import sys
import warnings
from dataclasses import replace

import av
import pytest
import torch

from longcompress.config import MergeConfig
from longcompress.videos import compress

from models import model as make_model
from readings import KINDS, STAMPS, longer, media_threads, patched, restamp
from videos import Video, write

PLAIN = Video(stamps=range(0, 6000, 40), audio_s=6, options={"g": "10", "sc_threshold": "0"})
RAW = 10_000  # tokens; more than any video here has


@pytest.fixture(scope="module")
def model():
    return unmerged()


def unmerged():
    """A model that keeps raw tokens, if the budget has room for them."""
    return make_model(merge=MergeConfig(tokens_per_segment={"*": RAW}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def mkv(folder):
    return write(folder / "plain.mkv", PLAIN)


@pytest.fixture(scope="module")
def mp4(folder):
    return write(folder / "plain.mp4", replace(PLAIN, container_options={"movflags": "+faststart"}))


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    assert not media_threads()


def compressed(model, path, budget=RAW):
    """The memory and the warnings."""
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        memory = compress(model, path, budget=budget, progress=False)
    return memory, [str(w.message) for w in messages]


def loudness(encoder):
    """Features that say how loud a window is, for a random encoder says little; times stay the encoder's."""

    def features(samples):
        whole = torch.nn.functional.pad(samples, (0, encoder.block - samples.shape[1]))
        loud = whole.unflatten(1, (-1, encoder.window)).abs().amax(2)
        return loud[..., None].expand(-1, -1, encoder.width)

    return features


@pytest.mark.slow
@pytest.mark.parametrize("stamps", STAMPS)
@pytest.mark.parametrize("suffix", KINDS)
def test_flash_and_beep_are_tokens_of_their_seconds(tmp_path, suffix, stamps):
    model = unmerged()
    model.change({"media": {"rate_fps": 10.0}})
    model.audio.features = loudness(model.audio)
    video = replace(KINDS[suffix], stamps=STAMPS[stamps])
    memory, _ = compressed(model, write(tmp_path / f"video.{suffix}", video))
    for name, expected, window_s in (("video", video.flashes, 0.1), ("audio", video.beeps, 1.0)):
        tokens = memory.streams[name]
        far = (tokens.x - tokens.x.median(0).values).norm(dim=1)
        hit = far > (far.max() + far.median()) / 2
        starts = sorted(set(tokens.start_s[hit].tolist()))
        for second in expected:
            assert any(abs(s - second) <= window_s + 1e-6 for s in starts), (name, second, starts)
        for start in starts:  # and nowhere else: a flash lasts 0.1 s, a beep a little longer
            assert any(s - window_s - 0.05 <= start <= s + 0.35 for s in expected), (name, start)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "the file is empty"), (b"hello, this is no video\n" * 50, "no video or audio file")],
)
def test_no_video_is_one_clear_error(model, tmp_path, data, message):
    (tmp_path / "x.mp4").write_bytes(data)
    with pytest.raises(ValueError, match=rf"x\.mp4: {message}"):
        compress(model, tmp_path / "x.mp4", budget=40, progress=False)


def test_what_is_not_there_or_a_folder_is_one_clear_error(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
        compress(model, tmp_path / "gone.mp4", budget=40, progress=False)
    with pytest.raises((ValueError, OSError), match=str(tmp_path.name)):
        compress(model, tmp_path, budget=40, progress=False)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
def test_a_cut_video_is_remembered_as_far_as_it_goes(model, mkv, share):
    data = mkv.read_bytes()
    memory, _ = compressed(model, io.BytesIO(data[: int(share * len(data))]))
    whole, _ = compressed(model, mkv)
    assert 0.2 * share * 6 <= memory.duration_s <= whole.duration_s
    cut, full = memory.streams["video"], whole.streams["video"]
    inside = int(cut.start_s.max())  # the last frames may be broken ones
    assert torch.equal(cut.x[cut.start_s < inside], full.x[full.start_s < inside])


def test_damage_in_the_middle_leaves_the_rest(model, mkv):
    data = bytearray(mkv.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    memory, _ = compressed(model, io.BytesIO(bytes(data)))
    assert memory.duration_s == pytest.approx(6, abs=0.2)
    assert float(memory.streams["video"].end_s.max()) >= 5


@pytest.mark.parametrize("factor", [6000, 0.1])
def test_a_header_that_lies_is_not_believed(model, mp4, factor):
    memory, _ = compressed(model, longer(mp4, "lies.mp4", factor))
    whole, _ = compressed(model, mp4)
    assert memory.duration_s == pytest.approx(whole.duration_s, abs=0.1)
    assert len(memory.streams["video"]) == len(whole.streams["video"]) == 6 * 4


def test_missing_and_short_tracks_are_told_and_the_rest_is_there(model, folder):
    silent, messages = compressed(model, write(folder / "silent.mp4", replace(PLAIN, audio_codec=None)))
    assert set(silent.streams) == {"video"} and "no audio track" in messages[0] and len(messages) == 1
    blind, messages = compressed(model, write(folder / "blind.mp4", replace(PLAIN, codec=None)))
    assert "no video track" in messages[0] and len(messages) == 1
    assert set(blind.streams) == {"audio"} and blind.duration_s == pytest.approx(6, abs=0.1)
    short, _ = compressed(model, write(folder / "short.mp4", replace(PLAIN, audio_s=1)))
    assert float(short.streams["audio"].end_s.max()) < 2.1 and len(short.streams["video"]) == 24
    odd = patched(
        write(folder / "odd0.mp4", PLAIN), "odd.mp4", b"avc1\x00\x00\x00\x00", b"zzzz\x00\x00\x00\x00"
    )
    heard, messages = compressed(model, odd)
    assert set(heard.streams) == {"audio"} and any("codec" in text for text in messages)


@pytest.mark.parametrize(
    "stamps", [{30: 1080}, {n: 40 * n - 40 for n in range(5, 70, 10)}], ids=["back", "repeated"]
)
def test_odd_stamps_change_no_count(model, folder, stamps):
    plain = replace(PLAIN, stamps=range(0, 3000, 40), audio_codec=None, options={"bf": "0", "g": "10"})
    simple = write(folder / "simple.mkv", plain)
    memory, messages = compressed(model, restamp(simple, folder / "stamps.mkv", stamps))
    assert len(memory.streams["video"]) == 3 * 4 and len(messages) <= 2  # of the sound, of the stamps
    assert memory.streams["video"].start_s.unique().tolist() == [0, 1, 2]


def test_tiny_and_huge_frames(model, folder):
    item = replace(PLAIN, codec="ffv1", size=(1, 1), stamps=range(0, 2000, 500), audio_codec=None, options={})
    memory, _ = compressed(model, write(folder / "one.mkv", item))
    assert len(memory.streams["video"]) == 2 * 4
    limited = unmerged()
    limited.change({"media": {"max_pixels": 1000}})
    large = write(folder / "large.mp4", replace(PLAIN, audio_codec=None))
    with pytest.raises(ValueError, match="max_pixels"):
        compress(limited, large, budget=40, progress=False)


@pytest.mark.parametrize(
    ("budget", "message"), [(0, "budget"), (1, "budget must be at least"), (4, "budget must be at least")]
)
def test_a_budget_too_small_is_refused_before_anything_is_decoded(model, mkv, budget, message):
    with pytest.raises(ValueError, match=message):
        compress(model, mkv, budget=budget, progress=False)


def test_a_budget_larger_than_the_video_keeps_all_of_it(model, mkv):
    memory, _ = compressed(model, mkv)
    assert len(memory.streams["video"]) == 24
    assert memory.num_tokens < RAW and float(memory.streams["video"].size.max()) == 1


@pytest.mark.slow
def test_an_mp4_with_its_index_at_the_end_can_not_come_from_a_pipe(tmp_path):
    path = write(tmp_path / "long.mp4", replace(PLAIN, stamps=range(0, 12000, 40), audio_s=12.0))
    words = [sys.executable, "-c", "import sys; from longcompress.cli.main import main; sys.exit(main())"]
    words += ["compress", "-", "--out", str(tmp_path / "x.lcm")]
    with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE) as cat:
        done = subprocess.run(words, stdin=cat.stdout, capture_output=True, text=True)
    assert done.returncode == 3 and "<stdin>: this MP4/MOV has its index at the end" in done.stderr
    assert not list(tmp_path.glob("*.lcm"))


def test_a_recording_that_still_grows_is_read_as_far_as_it_is(model, tmp_path):
    """Its header has no length yet."""

    class Pipe(io.BytesIO):
        def seekable(self):
            return False  # the muxer can't go back to write the length

    whole = Pipe()
    path = write(tmp_path / "whole.mkv", replace(PLAIN, stamps=range(0, 8000, 40), audio_s=8.0))
    with av.open(str(path)) as source, av.open(whole, "w", format="matroska") as target:
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    data = whole.getvalue()
    (tmp_path / "live.mkv").write_bytes(data[: len(data) * 2 // 3])
    memory, warned = compressed(model, tmp_path / "live.mkv")
    assert 4 < memory.duration_s < 8 and not any("the header says" in text for text in warned)
