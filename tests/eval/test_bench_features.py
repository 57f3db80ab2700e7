"""`bench features`: both ways give the same; figures of a short run."""

import json

import pytest
import torch
import videos

from longcompress.eval import bench_features as bench


@pytest.fixture(scope="module")
def model():
    return bench.random_model("longvale", "small")


@pytest.mark.parametrize("seconds", [5.0, 11.0])
def test_both_ways_give_the_same_features(model, tmp_path, seconds):
    stamps = range(0, round(1000 * seconds), 200)
    path = str(videos.write(tmp_path / "video.mp4", videos.Video(stamps=stamps, audio_s=seconds)))
    got, (want, took) = bench.ours(model, path)[0], bench.plain(model, path)
    bench.check(got, want, torch.float32)
    assert {name: len(x) for name, x in want.items()} == {
        "video": 100, "audio": 1 if seconds == 5 else 3, "speech": 1 if seconds == 5 else 3,
    }  # fmt: skip
    assert list(took) == ["decode", "video", "audio", "speech"] and all(one > 0 for one in took.values())
    want["speech"] = want["speech"] * 1.001
    with pytest.raises(ValueError, match=r"stream 'speech': features .* are 1\.0e-03 apart, at most 1e-04"):
        bench.check(got, want, torch.float32)


def test_figures_of_a_short_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "make_video", lambda path, minutes: videos.write(path, videos.Video()))
    rows = bench.measure(
        "vtimellm", "small", repeat=2, threads=1, memory=[0.1], out=str(tmp_path / "f.jsonl")
    )
    assert [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()] == rows
    peak, row = rows
    assert peak["peak_mb"] >= peak["loaded_mb"] > 0 and peak["tokens"] == {"video": 100}
    assert len(row["ours_wall_runs_s"]) == len(row["plain_cpu_runs_s"]) == 2
    ratios = [p / o for p, o in zip(row["plain_cpu_runs_s"], row["ours_cpu_runs_s"], strict=True)]
    assert row["plain_over_ours_cpu"] == pytest.approx(sum(ratios) / 2)
    assert "plain over ours" in capsys.readouterr().out


def test_ways_take_turns_in_beginning():
    order = []
    took = bench.timed({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == list("abbaab") and len(took["a"]) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bench.measure(repeat=0), "repeat must be >= 1, got 0"),
        (lambda: bench.kind_of("int8"), "dtype must be one of float32, bfloat16, float16, got 'int8'"),
        (
            lambda: bench.random_model("longvale", "huge"),
            "size must be one of small, middle, paper, got 'huge'",
        ),
    ],
)
def test_wrong_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()
