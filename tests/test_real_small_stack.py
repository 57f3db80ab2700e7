"""The real small stack: its videos are what its records say, and its figures are counted right."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from longcompress.config import MediaConfig
from longcompress.media import probe, read
from longcompress.media.write import write
from longcompress.types import Audio, Frames

import helpers

FOLDER = Path(__file__).parents[1] / "examples" / "real_small_stack"
sys.path.insert(0, str(FOLDER))
import compose  # noqa: E402 - programs beside the package
import score  # noqa: E402

run = helpers.program(FOLDER / "run.py")

GREEN = (0, 255, 0)


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """Red photos, a green background, a tone."""
    folder = tmp_path_factory.mktemp("material")
    square = compose.Image.new("RGBA", (40, 30), (255, 0, 0, 255))
    photos = [compose.Item(folder / f"{i}.png", f"A photo {i}.") for i in range(5)]
    for item in photos:
        square.save(item.path)
    compose.Image.new("RGB", (60, 50), GREEN).save(folder / "ground.png")
    tone = np.sin(np.arange(16000) / 16000 * 440 * 2 * np.pi).astype(np.float32)
    write(
        folder / "tone.mp4", lambda times: np.zeros((len(times), 16, 16, 3), np.uint8),
        lambda start, end: tone[: round((end - start) * 16000)],
        duration_s=1, size_px=16, rate_fps=1, rate_hz=16000,
    )  # fmt: skip
    sounds = [compose.Item(folder / "tone.mp4", f"The sound of {i}.") for i in range(2)]
    return compose.Material(photos, sounds, [folder / "ground.png"])


def test_events_are_seen_and_heard_when_the_record_says(part, tmp_path):
    path = compose.event_videos(part, 1, tmp_path, 3)
    (record,) = map(json.loads, path.read_text().splitlines())
    with read(tmp_path / record["video"], MediaConfig(size_px=64, rate_fps=2, rate_hz=16000)) as parts:
        media = list(parts)
    frames = np.concatenate([p.pixels.numpy() for p in media if isinstance(p, Frames)])
    samples = np.concatenate([p.samples.numpy() for p in media if isinstance(p, Audio)])
    red = (frames[..., 0] > 150).mean((1, 2)) > 0.05  # of each half second
    loud = np.abs(samples[: 24 * 16000].reshape(24, -1)).mean(1) > 0.03  # of each second
    seen, heard = np.zeros(48, bool), np.zeros(24, bool)
    for event in record["events"]:
        start, end = event["start_s"], event["end_s"]
        assert 3 <= end - start <= 4
        if event["text"].startswith(score.SOUND):
            heard[start:end] = True
        else:
            assert not seen[start * 2 : end * 2].any()  # a photo at a time
            seen[start * 2 : end * 2] = True
    assert (red == seen).all() and (loud == heard).all()
    assert len(record["events"]) == 6 and record["events"] == sorted(
        record["events"], key=lambda e: e["start_s"]
    )
    reference = json.loads((tmp_path / "reference.json").read_text())
    assert reference["v0000"]["sentences"] == [event["text"] for event in record["events"]]


def test_a_photo_is_a_video_of_one_frame_without_audio(part, tmp_path):
    path = compose.photo_videos(part, 2, tmp_path, 3)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [len(record["captions"]) for record in records] == [1, 1] and records[0] != records[1]
    info = probe(tmp_path / records[0]["video"])
    assert (info.width, info.height, info.has_audio) == (compose.SIZE_PX, compose.SIZE_PX, False)
    with read(tmp_path / records[0]["video"], MediaConfig(size_px=64, audio=False)) as parts:
        (frames,) = parts
    assert len(frames) == 1 and 0.05 < (frames.pixels[0, ..., 0] > 150).float().mean() < 0.95


def test_each_item_comes_as_often(part):
    order = [compose.pick(part.photos, number, 3) for number in range(17)]
    rounds = [{item.path for item in order[at : at + 5]} for at in (0, 5, 10)]
    assert rounds == [{item.path for item in part.photos}] * 3
    assert order[:5] != order[5:10] and len(set(order[15:])) == 2


def test_recall_is_that_of_the_answers_and_of_the_best_constant():
    true = {(i, "x"): (0.0, 4.0) if i < 3 else (10.0, 14.0) for i in range(4)}
    spans = {(0, "x"): (0.0, 4.0), (1, "x"): (1.0, 5.0), (2, "x"): None, (3, "x"): (2.0, 3.0)}
    got = score.recall(true, spans)
    assert got["questions"] == 4 and got["mean_iou"] == pytest.approx((1 + 3 / 5) / 4)
    assert [got[f"R@{t}"]["mean"] for t in (0.3, 0.5, 0.7)] == [0.5, 0.5, 0.25]
    assert all(got[f"R@{t}"]["constant"] == 0.75 for t in (0.3, 0.5, 0.7))  # always from 0 to 4
    assert got["R@0.5"]["low"] <= 0.5 <= got["R@0.5"]["high"]
    assert score.span_of("From 3 to 6.") == (3.0, 7.0) and score.span_of("no") is None


class Stub:
    """run.py without its models and commands: each command makes the file that it is to make."""

    def __init__(self, monkeypatch, fails=""):
        self.commands, self.fails = [], fails
        monkeypatch.setattr(run, "longcompress", self.command)
        monkeypatch.setattr(run, "material", lambda cache: {"train": 0, "test": 0, "names": 0})
        monkeypatch.setattr(
            run,
            "VIDEOS",
            {name: (part, num, self.compose, seed) for name, (part, num, _, seed) in run.VIDEOS.items()},
        )
        monkeypatch.setattr(run, "config", lambda cache, lm: None)
        monkeypatch.setattr(run.LongCompress, "from_config", lambda *_, **options: self)
        for name in ("photos", "events", "names"):
            monkeypatch.setattr(
                score, name, lambda model, shards: {"of": f"{model.parent.name} {shards.name}"}
            )

    def save_pretrained(self, folder):
        self.touch(folder / "config.json")

    def compose(self, part, num, folder, seed):
        self.touch(folder / "records.jsonl")

    def command(self, *words):
        out = words[words.index("--out") + 1]
        self.commands.append(f"{words[0]} {out.name}")
        if out.name == self.fails:
            raise ValueError(out.name)
        end = {"shards": "index.json", "train": "model/config.json", "eval": "compare.md"}[words[0]]
        self.touch(out / end)

    def touch(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


def test_stages_run_once_and_after_what_they_need(monkeypatch, tmp_path):
    stub = Stub(monkeypatch)
    values = run.main(["--out", str(tmp_path)])
    assert values == json.loads((tmp_path / "results.json").read_text())
    place = {command: i for i, command in enumerate(stub.commands)}
    assert len(place) == len(stub.commands) == 10
    assert place["shards photos_train"] < min(place["train align"], place["train control"])
    assert max(place["train align"], place["shards events_names"]) < place["train boundary"]
    assert place["train boundary"] < place["eval compare"]
    assert {name: value["of"] for name, value in values["figures"].items()} == {
        "align photos": "align photos_test", "control photos": "control photos_test",
        "boundary events_test": "boundary events_test", "boundary events_names": "boundary events_names",
        "align names": "align photos_names",
    }  # fmt: skip
    assert len(values["seconds"]) == len(values["cpu_seconds"]) == 1 + 6 + 10 + 5
    again = Stub(monkeypatch)
    assert run.main(["--out", str(tmp_path)]) == values and not again.commands


@pytest.mark.parametrize("fails", ["events_train", "photos_train", "align", "control", "boundary"])
def test_what_fails_ends_it_and_the_next_run_goes_on(monkeypatch, tmp_path, fails):
    first = Stub(monkeypatch, fails)
    with pytest.raises(ValueError, match=fails):
        run.main(["--out", str(tmp_path)])
    done = set(first.commands) - {f"shards {fails}", f"train {fails}"}
    again = Stub(monkeypatch)
    run.main(["--out", str(tmp_path)])
    assert not done & set(again.commands) and len(done) + len(again.commands) == 10


def test_a_command_counts_for_the_thread_that_runs_it_and_its_failure_is_told(capfd):
    before = run.cpu_s()
    run.longcompress("--version")
    assert run.cpu_s() > before and capfd.readouterr().out.startswith("$ longcompress --version")
    with pytest.raises(run.subprocess.CalledProcessError, match="exit status 2"):
        run.longcompress("no-such-command")
