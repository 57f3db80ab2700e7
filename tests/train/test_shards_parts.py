"""Parts of a video are samples of their own: what a file with only that part would have been."""

import json

import numpy as np
import pytest
import torch

from longcompress.config import MediaConfig
from longcompress.media import reader as media
from longcompress.train.data.questions import turns_of
from longcompress.train.records import Record, Turn, part_key, part_of, read_records
from longcompress.train.shards import make as shards
from longcompress.train.shards.sample import members_of, read_sample
from longcompress.types import Audio, Event, Frames
from longcompress.videos import read_session

import models
import videos

pytestmark = pytest.mark.slow

PARTS = [
    (0.0, 3.2),
    (2.0, 6.8),
    (3.48, 8.28),
    (5.2, 60.0),
]  # whole blocks of 1024 samples, as files have them
LOSSLESS = {"codec": "ffv1", "audio_codec": "pcm_s16le", "audio_hz": 16000, "layout": "mono"}


@pytest.fixture(scope="module")
def model():
    return models.model()


def written(path, start_s=0.0, seconds=9.6):
    """A video, or a file that holds only what that video has from start_s on."""
    flashes, beeps = [[t - start_s for t in (1.1, 2.9, 4.0, 6.3, 8.5)] for _ in range(2)]
    stamps = range(0, round(seconds * 1000), 20)
    return videos.write(
        path, videos.Video(stamps=stamps, audio_s=seconds, flashes=flashes, beeps=beeps, **LOSSLESS)
    )


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return written(tmp_path_factory.mktemp("video") / "f.mkv")


@pytest.fixture(scope="module")
def samples_by_key(model, video, tmp_path_factory):
    """The whole video and its parts side by side."""
    out = tmp_path_factory.mktemp("shards")
    records = [Record("f", str(video))]
    for part in PARTS[:3]:
        token = {"<t0>": 1.0, "<t1>": 2.5}
        turns = (Turn("user", "When?"), Turn("assistant", "From <t0> to <t1>."))
        records.append(
            Record(part_key("f", part), str(video), events=(Event(0.0, part[1] - part[0], "all"),),
                   dialogues=(turns,), meta={"split": list(part), "token": token})
        )  # fmt: skip
    done = shards.make(records, out, model, progress=False)
    assert [result.status for result in done] == ["made"] * 4, done
    index = shards.pack(out, records, progress=False)
    return {entry.key: index.read(i) for i, entry in enumerate(index.entries)}


def streams_of(members):
    """Each stream's compressed tokens."""
    state = read_sample(members, "here").state(models.model().merge_state())
    return state.compress(1 << 20).streams


def same(got, want, rel=0.0):
    assert set(got) == set(want) == {"video", "audio"}
    for name, tokens in want.items():
        for field in ("size", "time_s", "start_s", "end_s"):
            torch.testing.assert_close(getattr(got[name], field), getattr(tokens, field), rtol=0, atol=1e-9)
        assert float((got[name].x - tokens.x).norm()) <= rel * float(tokens.x.norm())


@pytest.mark.parametrize("part", PARTS[:3])
def test_features_of_a_part_are_those_of_its_frames_and_samples_alone(samples_by_key, model, video, part):
    fine = MediaConfig(rate_fps=25.0, size_px=model.config.media.size_px)
    values = []
    with media.read(video, fine) as parts:
        for piece in parts:
            if isinstance(piece, Frames):
                keep = (piece.time_s >= part[0] - 1e-6) & (piece.time_s < part[1] - 1e-6)
                values.append(Frames(piece.pixels[keep], piece.time_s[keep] - part[0], piece.step_s))
            else:
                a, b = (round((t - piece.start_s) * piece.rate_hz) for t in part)
                start_s = max(0.0, piece.start_s - part[0])
                values.append(Audio(piece.samples[max(0, a) : max(0, b)], start_s, piece.rate_hz))
    session = read_session(model, [v for v in values if len(v)], budget=shards.ENDLESS, progress=False)
    same(
        streams_of(samples_by_key[part_key("f", part)]),
        streams_of(members_of(session.state(), model, {"key": "f"}, 1.0)),
    )


@pytest.mark.parametrize("part", PARTS[:3])
def test_features_of_a_part_are_those_of_a_file_with_only_that_part(samples_by_key, model, tmp_path, part):
    path = written(tmp_path / "part.mkv", part[0], part[1] - part[0])
    session = read_session(model, path, budget=shards.ENDLESS, progress=False)
    want = streams_of(members_of(session.state(), model, {"key": "f"}, 1.0))
    same(streams_of(samples_by_key[part_key("f", part)]), want, rel=1e-4)


def test_a_part_lasts_as_long_as_it_was_cut_and_its_times_are_its_own(samples_by_key):
    content = json.loads(samples_by_key["f_3p48_8p28"]["json"])
    assert content["duration_s"] == content["features"]["duration_s"] == pytest.approx(4.8)
    assert content["meta"]["split"] == [3.48, 8.28]
    whole = json.loads(samples_by_key["f"]["json"])
    assert whole["duration_s"] == pytest.approx(9.62) and whole["video"] == content["video"]
    record = Record(
        "f", "f.mkv", dialogues=((Turn("user", "When?"), Turn("assistant", "<t0>")),), meta=content["meta"]
    )
    generator = np.random.default_rng(0)
    assert turns_of(record, "conversation", generator, duration_s=4.8, times="hundredths") == [
        ("When?", "21")
    ]


def test_a_part_outside_its_video_fails_by_name(model, video, tmp_path):
    late = Record("late", str(video), meta={"split": [100.0, 120.0]})
    long = Record("long", str(video), meta={"split": list(PARTS[3])})
    event = Record("event", str(video), events=(Event(5, 8, "late"),), meta={"split": [1.0, 5.0]})
    done = {
        result.key: result for result in shards.make([late, long, event], tmp_path, model, progress=False)
    }
    assert all(result.status == "failed" for result in done.values())
    assert (
        "f.mkv: there is nothing in its part from 100 to 120 s; the media ends at 9.6" in done["late"].reason
    )
    assert "f.mkv: its part from 5.2 to 60 s goes on after its end at about 9.6 s" in done["long"].reason
    assert "events[0] 5 to 8 s is outside the video of 4 s" in done["event"].reason


def test_the_bytes_of_a_part_are_refused_by_name(video, tmp_path):
    record = Record("a", str(video), meta={"split": [1.0, 3.0]})
    (result,) = shards.make([record], tmp_path, None, kind="media", progress=False)
    assert result.status == "failed"
    assert "f.mkv: the record is of its part [1.0, 3.0] only" in result.reason


def test_parts_of_a_video_have_keys_of_their_own(tmp_path):
    lines = [{"video": "a.b.mp4"}] + [
        {"video": "a.b.mp4", "meta": {"split": s}} for s in ([0, 9], [12.0, 62.5], [1234.567, 2000])
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert [r.key for r in read_records(path)] == ["a_b", "a_b_0_9", "a_b_1234p567_2000", "a_b_12_62p5"]
    assert [r.part for r in read_records(path)] == [None, (0, 9), (1234.567, 2000), (12, 62.5)]


@pytest.mark.parametrize("split", [[3], [5, 2], [-1, 2], ["a", 2], [0, float("inf")], 7])
def test_a_split_that_is_none_is_refused(tmp_path, split):
    with pytest.raises(ValueError, match=r"split must be \[start_s, end_s\] with 0 <= start_s < end_s, got"):
        part_of(split)
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"video": "a.mp4", "meta": {"split": split}}))
    with pytest.raises(ValueError, match=r"line 1: split must be"):
        read_records(path)


def test_overlapping_events_are_counted_where_they_are_read_and_in_the_sample(model, video, tmp_path):
    events = [{"start_s": a, "end_s": b, "text": "x"} for a, b in ((0, 5), (1, 2), (4, 6), (6, 7))]
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"video": str(video), "events": events}))
    with pytest.warns(
        UserWarning, match=r"list\.jsonl: 2 events of 1 records begin before one ahead of them has"
    ):
        records = read_records(path)
    for kind, maker in (("features", model), ("media", None)):
        out = tmp_path / kind
        shards.make(records, out, maker, kind=kind, progress=False)
        index = shards.pack(out, records, progress=False)
        assert json.loads(index.read(0)["json"])["meta"] == {"overlapping": 2}
