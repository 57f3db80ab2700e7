"""Two tracks that come and go: tokens cover exactly what was there of each, at its own times."""

import warnings

import pytest
import torch

import longcompress as lc
from longcompress.config import MediaConfig
from longcompress.media.reader import read
from longcompress.session import Dropped, Session
from longcompress.types import Audio, Frames
from longcompress.videos import compress

from models import model as make_model
from videos import Video, onsets, write

FAST = {"preset": "ultrafast", "tune": "zerolatency"}
ALL = 1 << 20  # a budget that merges nothing away


@pytest.fixture(scope="module")
def model():
    return make_model()


def covered(model, path, **changes):
    """Stream -> (raw tokens, first start, last end), and the warnings, of a compressed file."""
    before = model.config
    model.change({"media": changes})
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            memory = compress(model, path, budget=ALL, progress=False)
    finally:
        model.config = before
    out = {
        name: (round(float(t.size.sum())), float(t.start_s.min()), float(t.end_s.max()))
        for name, t in memory.streams.items()
    }
    return out, [str(w.message) for w in caught]


CASES = {
    "audio ends early": ({"stamps": range(0, 120_000, 500), "audio_s": 33.6}, 120, 0.0, 33.6),
    "video ends early": ({"stamps": range(0, 33_000, 500), "audio_s": 120.0}, 33, 0.0, 120.0),
    "audio comes late": (
        {"stamps": range(0, 100_000, 500), "audio_s": 30.3, "audio_start_s": 57.3}, 100, 57.3, 87.6
    ),
    "a still and a song": ({"stamps": [0], "audio_s": 120.0}, 1, 0.0, 120.0),
    "slides": ({"stamps": [0, 80_000, 104_000, 119_000], "audio_s": 120.0}, 120, 0.0, 120.0),
    "ten frames, a pause, nine": (
        {"stamps": [*range(0, 10_000, 1000), 60_000, *range(111_000, 120_000, 1000)], "audio_s": 119.7},
        120, 0.0, 119.7,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("name", CASES)
def test_each_track_is_covered_as_far_as_it_goes(model, tmp_path, name, suffix):
    spec, num_frames, start_s, end_s = CASES[name]
    codec = "mp2" if suffix == "ts" else "aac"
    path = write(tmp_path / f"video.{suffix}", Video(**spec, audio_codec=codec, options=FAST))
    streams, warned = covered(model, path)
    num, first_s, last_s = streams["video"]
    assert (num, first_s) == (num_frames * model.video.patches, 0.0)
    assert last_s == pytest.approx(num_frames, abs=0.06)
    num, first_s, last_s = streams["audio"]
    assert first_s == pytest.approx(start_s, abs=0.06) and last_s == pytest.approx(end_s, abs=0.1)
    assert num == pytest.approx(end_s - start_s, abs=1.1)
    assert not warned


@pytest.fixture(scope="module")
def eight_minutes(tmp_path_factory):
    options = FAST | {"g": "100", "sc_threshold": "0"}
    path = tmp_path_factory.mktemp("long") / "video.mp4"
    return write(path, Video(stamps=range(0, 480_000, 1000), audio_s=480, options=options))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "times"),
    [
        ({"frames": 4}, [0.0, 159.7, 319.3, 479.0]),
        ({"rate_fps": 0.0125}, [0.0, 80.0, 160.0, 240.0, 320.0, 400.0]),
        ({"decode": "keyframe"}, [0.0, 100.0, 200.0, 300.0, 400.0]),
    ],
)
def test_sparse_frames_beside_audio(model, eight_minutes, changes, times):
    before = model.config
    model.change({"media": changes})
    try:
        memory = compress(model, eight_minutes, budget=ALL, progress=False)
    finally:
        model.config = before
    starts = memory.streams["video"].start_s.unique().tolist()
    assert starts == pytest.approx(times, abs=0.2)
    assert round(float(memory.streams["audio"].size.sum())) == 480


def test_audio_that_pauses_and_comes_back(model, tmp_path):
    """A muted microphone: a track that sends no packets for minutes."""
    frames = Frames(torch.zeros(300, 16, 16, 3, dtype=torch.uint8), torch.arange(300.0).double(), 1.0)
    first, second = Audio(torch.ones(5 * 16000) / 9, 0.0), Audio(torch.ones(50 * 16000) / 9, 250.25)
    memory = compress(model, [frames, first, second], budget=ALL, progress=False)
    audio = memory.streams["audio"]
    assert round(float(audio.size.sum())) == 55
    inside = (audio.start_s > 5) & (audio.end_s < 250.25)
    assert not inside.any()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["ts", "vob"])
def test_pieces_put_together_stay_in_sync(tmp_path, suffix):
    spec = Video(
        stamps=range(0, 12_000, 40),
        flashes=(8.0,),
        beeps=(8.0,),
        audio_s=11.0,
        audio_codec="mp2",
        options=FAST,
    )
    piece = write(tmp_path / f"piece.{suffix}", spec).read_bytes()
    path = tmp_path / f"all.{suffix}"
    path.write_bytes(piece * 8)
    flashes, beeps, warned = [], [], []
    with read(path, MediaConfig(rate_fps=25, size_px=32), on_warning=warned.append) as parts:
        for part in parts:
            if isinstance(part, Audio):
                beeps += onsets(part.samples.numpy(), part.rate_hz, part.start_s)
            else:
                bright = part.pixels.float().mean((1, 2, 3)) > 127
                flashes += part.time_s[bright].tolist()
    want = [12 * k + 8.0 for k in range(8)]
    assert [t for i, t in enumerate(flashes) if not i or t - flashes[i - 1] > 1] == pytest.approx(
        want, abs=0.1
    )
    assert [t for i, t in enumerate(beeps) if not i or t - beeps[i - 1] > 1] == pytest.approx(want, abs=0.1)
    assert sum("7 restarts, the first at 12.0 s" in text for text in warned) == 1
    with read(path, MediaConfig(frames=10, size_px=32, audio=False), on_warning=warned.append) as parts:
        times = [t for part in parts for t in part.time_s.tolist()]
    assert len(times) == 10 and times[0] < 0.1 and times[-1] > 84


def second(modality, start_s):
    if modality == "audio":
        return Audio(torch.full((16000,), 0.1), start_s)
    return Frames(
        torch.zeros(1, 16, 16, 3, dtype=torch.uint8), torch.tensor([start_s], dtype=torch.float64), 1.0
    )


@pytest.mark.slow
@pytest.mark.parametrize("absent", [("video",), ("audio",), ("video", "audio")])
@pytest.mark.parametrize(("until", "again"), [(63, 400.3), (64, 151.0), (60, 400.0), (63, 900.7)])
def test_a_live_camera_or_microphone_that_drops_out_and_returns(model, absent, until, again):
    session = Session(model, ALL)
    events = []
    for t in [*map(float, range(until)), *(again + k for k in range(29))]:
        for modality in ("video", "audio"):
            events += session.push(second(modality, t))
    if absent != ("video", "audio"):  # the other one went on
        session = Session(model, ALL)
        events = []
        for t in map(float, range(int(again) + 29)):
            for modality in ("video", "audio"):
                if modality not in absent or t < until or t >= again:
                    events += session.push(second(modality, t))
    session.close()
    assert not [event for event in events if isinstance(event, Dropped)]
    memory = session.memory()
    for modality in absent:
        tokens = memory.streams[modality]
        middle = (tokens.start_s >= until + 1) & (tokens.end_s <= again - 1)
        assert not middle.any()
        assert float(tokens.start_s.min()) == 0.0 and float(tokens.end_s.max()) >= again + 28


def test_what_comes_later_than_patience_allows_is_dropped_and_told(model):
    session = Session(model, ALL, patience_s=30.0)
    for t in range(100):
        session.push(second("video", float(t)))
    late = session.push(Audio(torch.full((20 * 16000,), 0.1), 60.0))
    (dropped,) = [event for event in late if isinstance(event, Dropped)]
    assert dropped.what == "audio" and "late" in dropped.reason
    assert (dropped.time_s, dropped.end_s) == (60.0, pytest.approx(70.0, abs=0.01))
    session.close()
    audio = session.memory().streams["audio"]
    assert (float(audio.start_s.min()), float(audio.end_s.max())) == (pytest.approx(70.0, abs=0.01), 80.0)


@pytest.mark.parametrize("time_s", [1.7e9, float("nan"), float("inf"), -float("inf")])
def test_times_that_cannot_be_are_refused(model, time_s):
    session = Session(model)
    with pytest.raises(ValueError, match=r"times count from the start|must be finite"):
        session.push_frame(torch.zeros(16, 16, 3, dtype=torch.uint8), time_s)
    with pytest.raises(ValueError, match=r"times count from the start|must be finite"):
        session.push_audio(torch.zeros(16000), 16000, time_s)


def test_days_of_silence_are_gone_over_at_once(model):
    session = Session(model, ALL)
    session.push(second("video", 0.0))
    session.push(second("video", 9.9e7))
    assert session.memory().streams["video"].end_s.max() == 9.9e7 + 1


@pytest.mark.parametrize("single", [True, False])
def test_thirty_frames_a_second_are_thinned_to_the_models_rate(model, single):
    """One a step, so that as many tokens come of it as of a file."""
    times = torch.arange(300, dtype=torch.float64) / 30
    pixels = torch.zeros(300, 16, 16, 3, dtype=torch.uint8)
    session = Session(model, ALL, media=["video"])
    if single:
        for k, time_s in enumerate(times.tolist()):
            session.push_frame(pixels[k], time_s)
    else:
        session.push(Frames(pixels, times, 1 / 30))
    session.close()
    assert session.stats()["raw_tokens"] == 10 * model.video.patches
    assert session.memory().streams["video"].start_s.unique().tolist() == list(map(float, range(10)))


@pytest.mark.parametrize(
    ("samples", "want"),
    [
        (torch.tensor([-128, 0, 127], dtype=torch.int8), [-1.0, 0.0, 127 / 128]),
        (torch.tensor([0, 128, 255], dtype=torch.uint8), [-1.0, 0.0, 127 / 128]),
        (torch.tensor([-32768, 0, 32767], dtype=torch.int16), [-1.0, 0.0, 32767 / 32768]),
        (torch.tensor([-(2**31), 0, 2**30], dtype=torch.int32), [-1.0, 0.0, 0.5]),
        (torch.tensor([-1.0, 0.0, 0.5], dtype=torch.float64), [-1.0, 0.0, 0.5]),
    ],
)
def test_samples_of_every_width(model, monkeypatch, samples, want):
    session, pushed = Session(model), []
    monkeypatch.setattr(session, "push", lambda part: pushed.append(part) or [])
    session.push_audio(samples, 16000)
    assert pushed[0].samples.tolist() == pytest.approx(want, abs=1e-6)


def test_samples_that_are_no_sound_are_refused(model):
    session = Session(model)
    with pytest.raises(ValueError, match="samples must be finite"):
        session.push_audio(torch.tensor([0.0, float("nan")]), 16000)
    with pytest.raises(ValueError, match=r"integers of 8, 16 or 32 bits, got torch.int64"):
        session.push_audio(torch.tensor([0, 1]), 16000)


def test_a_question_before_anything_came_says_so(model):
    with pytest.raises(ValueError, match="nothing has come"):
        Session(model).ask("what is seen")
    assert lc.Session(model).memory().num_tokens == 0
