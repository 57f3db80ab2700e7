"""`eval run needle` and `synthetic_qa`: videos drawn from seeds, a small random model, answers made up."""

import json
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from longcompress.cli.main import main
from longcompress.config import MediaConfig
from longcompress.eval.metrics.bootstrap import interval
from longcompress.eval.runner import run as running
from longcompress.eval.runner.run_file import RunConfig, pairs, read_run
from longcompress.eval.runner.score import score_files
from longcompress.eval.runner.sources import from_scenes
from longcompress.eval.tasks import TASKS
from longcompress.eval.tasks.synthetic import NUM_QUESTIONS, Synthetic, depths_of, synthesize_all
from longcompress.eval.tasks.task import Answers, How, Prediction
from longcompress.synthetic.needles import FIRST_SEED, haystack
from longcompress.synthetic.questions import KINDS, SPAN_KINDS, grade
from longcompress.types import Audio, Frames

import models
import ranks
from synthetic_runs import CONFIG, TWO_OF_5, compressed, run_drawn

pytestmark = pytest.mark.slow

TWO = Synthetic(minutes=(5, 6), num_videos=2)


@pytest.fixture(scope="module")
def model():
    return models.model()


def lines(path):
    """Header and lines, without what a clock says."""
    values = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [{key: value for key, value in item.items() if key != "seconds"} for item in values]


def examples_of(task, synthetic=TWO):
    return synthesize_all(task, TASKS[task].synthesize, synthetic)[0]


def saying(monkeypatch, says):
    """A model that answers by `says(video, prompt)` without compressing."""

    def encode(source, media, read, video, names):
        memory = SimpleNamespace(
            num_tokens=8,
            ask_all=lambda asked, **_: [SimpleNamespace(text=says(video, item)) for item in asked],
        )
        return [(name, running.Encoded(memory, 0.0)) for name in names]

    monkeypatch.setattr(running, "encoded", encode)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("drawn") / "a.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "encoded", compressed)
        return out, run_drawn("needle", TWO_OF_5, model, out, CONFIG)


def test_a_model_that_compresses(tmp_path):
    """The one test here in which videos are drawn, pushed and looked at."""
    model = models.model(media=MediaConfig(size_px=16, rate_fps=0.02))
    config, synthetic = (
        RunConfig(budgets=("24",), max_new_tokens=2, media="video"),
        Synthetic(minutes=(5,), num_videos=1),
    )
    summary = run_drawn("needle", synthetic, model, tmp_path / "a.jsonl", config)
    header, *each = lines(tmp_path / "a.jsonl")
    assert summary["num_answered"] == 20 == len(each) and all(0 < line["tokens"] <= 24 for line in each)
    assert (header["rate_fps"], header["budget"]) == (0.02, "24")


def test_a_line_for_each_needle_and_a_header_that_says_what_was_drawn(whole):
    out, summary = whole
    header, *each = lines(out)
    assert (
        header["synthetic"] == {"minutes": [5.0], "num_videos": 2, "first_video": 0}
        and header["reference"] == []
    )
    assert (header["times"], header["media"], header["meteor"]) == ("whole_seconds", "video", None)
    assert [example["id"] for example in each] == [
        f"needle-5min-{n}-{i}" for n in range(2) for i in range(20)
    ]
    for number in range(2):
        asked = [example["prompt"] for example in each if example["video"] == f"needle-5min-{number}"]
        assert asked == [example.question.text for example in haystack(FIRST_SEED + number, 300.0)[1]]
    assert all(set(example["score"]) <= {"recall", "error_s"} for example in each)
    assert summary["num_answered"] == 40 and summary["num_failed"] == 0
    scored = score_files("needle", [out], summary["predictions"], How())  # the run is its own reference
    assert scored["metrics"] == summary["metrics"] and scored["intervals"] == summary["intervals"]
    differences = pairs(out, out)["differences"]
    of_kinds = [item["num"] for name, item in differences.items() if name.startswith("recall/kind/")]
    assert differences["recall"]["mean"] == 0 and len(of_kinds) == 4
    assert sum(of_kinds) == differences["recall"]["num"]


def test_two_runs_with_one_seed_are_the_same(model, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "encoded", compressed)
    again = tmp_path / "b.jsonl"
    run_drawn("needle", TWO_OF_5, model, again, CONFIG)
    assert lines(again) == lines(whole[0])
    other = tmp_path / "c.jsonl"
    run_drawn("needle", Synthetic(minutes=(5,), num_videos=1, first_video=1), model, other, CONFIG)
    assert [line["prompt"] for line in lines(other)[1:]] == [line["prompt"] for line in lines(again)[21:]]


def test_cut_anywhere_and_gone_on_with_it_is_the_same(model, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "encoded", compressed)
    out, summary = whole
    data, again = out.read_bytes(), tmp_path / "a.jsonl"
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    random = np.random.default_rng(0)
    for cut in (0, ends[0], ends[11] + 3, *random.integers(ends[0], len(data), 8).tolist(), len(data)):
        again.write_bytes(data[:cut])
        got = run_drawn("needle", TWO_OF_5, model, again, CONFIG)
        assert lines(again) == lines(out), cut
        assert got["metrics"] == summary["metrics"] and got["intervals"] == summary["intervals"]


KILLED = """
import sys, time
import models
from synthetic_runs import CONFIG, TWO_OF_5, compressed, run_drawn, running
def slow(*args):
    if args[3].endswith("-1"):
        time.sleep(600)
    return compressed(*args)
running.encoded = slow
run_drawn("needle", TWO_OF_5, models.model(), sys.argv[1], CONFIG)
"""


@pytest.mark.slow
def test_killed_while_it_writes_another_may_go_on_and_until_then_may_not(model, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "encoded", compressed)
    out = tmp_path / "killed.jsonl"
    (tmp_path / "killed.py").write_text(KILLED)
    with ranks.started(tmp_path / "killed.py", out, out=tmp_path / "log") as child:
        until = time.monotonic() + 300
        while time.monotonic() < until and (not out.is_file() or out.read_bytes().count(b"\n") < 21):
            assert child.exitcode is None
            time.sleep(0.1)
        before = out.read_bytes()
        with pytest.raises(
            ValueError, match=rf"killed.jsonl is being written by another run \(process {child.pid}\); wait"
        ):
            run_drawn("needle", TWO_OF_5, model, out, CONFIG)
        assert out.read_bytes() == before
    assert len(lines(out)) == 21 and (tmp_path / "killed.jsonl.lock").is_file()
    run_drawn("needle", TWO_OF_5, model, out, CONFIG)
    assert lines(out) == lines(whole[0]) and not (tmp_path / "killed.jsonl.lock").exists()


def test_other_videos_are_refused_by_name(model, whole):
    with pytest.raises(ValueError, match=r"was started with reference_sha256 = \['\w+'\], this run has"):
        run_drawn("needle", Synthetic(minutes=(5,), num_videos=3), model, whole[0], CONFIG)
    with pytest.raises(ValueError, match=r"was started with media = 'video', this run has 'both'"):
        run_drawn(
            "needle",
            Synthetic(minutes=(5,), num_videos=2),
            model,
            whole[0],
            RunConfig(budgets=("24",), max_new_tokens=4),
        )


@pytest.mark.parametrize("streams", ["video", "audio", "both"])
def test_what_comes_of_a_video_is_what_is_asked_for(model, streams):
    source = from_scenes("needle", Synthetic(minutes=(5,), num_videos=1))
    kinds = ("video", "audio") if streams == "both" else (streams,)
    config = model.config.media
    config = type(config)(size_px=16, video="video" in kinds, audio="audio" in kinds)
    with source.open("needle-5min-0", config, print) as parts:
        come = list(parts)
        assert (parts.streams, parts.duration_s, parts.name) == (kinds, 300.0, "needle-5min-0")
    assert {type(item) for item in come} == {{"video": Frames, "audio": Audio}[kind] for kind in kinds}


def test_right_answers_find_all_and_intervals_are_of_videos(model, tmp_path, monkeypatch):
    examples = examples_of("needle")
    right = {(example.video, example.question): example.truth.answer for example in examples}
    assert len(right) == len(examples) == 80
    saying(monkeypatch, lambda *asked: right[asked])
    summary = run_drawn("needle", TWO, model, tmp_path / "a.jsonl")
    metrics = summary["metrics"]
    assert metrics["recall"] == 1 and metrics["error_s"] < 0.5 and metrics["num"] == 80
    for name in ("kind/audio", "depth/0.8", "minutes/6", "kind,minutes/binding,5", "depth,minutes/0,6"):
        assert metrics[f"recall/{name}"] == 1.0, name
    saying(monkeypatch, lambda *asked: right[asked] if asked[1].startswith("When does the") else "nothing")
    summary = run_drawn("needle", TWO, model, tmp_path / "b.jsonl")
    metrics, each = summary["metrics"], summary["each"]["recall"]
    assert (metrics["recall/kind/video"], metrics["recall/kind/two_hop"]) == (1.0, 0.0)
    assert set(summary["each"]["error_s"]) == {example.id for example in examples if each[example.id] > 0}
    five = {example.id: each[example.id] for example in examples if ("minutes", "5") in example.groups}
    want = interval(five, {example.id: example.video for example in examples})
    got = summary["intervals"]["recall/minutes/5"]
    assert (
        got == {key: want[key] for key in ("mean", "low", "high", "num_videos")} and want["num_videos"] == 2
    )


def test_the_heat_map_is_the_share_of_each_patch():
    examples = examples_of("needle")
    scores = {example.id: float(("minutes", "6") in example.groups) for example in examples}
    scores[examples[0].id] = 1.0  # one of two videos of five minutes
    heat = depths_of(examples, scores)
    assert (
        list(heat) == [*dict.fromkeys(dict(example.groups)["kind"] for example in examples)]
        and len(heat) == 4
    )
    first = dict(examples[0].groups)
    for kind, patches in heat.items():
        assert set(patches) == {(m, d / 5) for m in (5.0, 6.0) for d in range(5)}
        for (minutes, depth), share in patches.items():
            is_first = (kind, f"{depth:g}", minutes) == (first["kind"], first["depth"], 5.0)
            assert share == (1.0 if minutes == 6 else 0.5 if is_first else 0.0)


def test_the_qa_asks_all_kinds_and_is_graded_as_the_bench_is():
    examples = examples_of("synthetic_qa", Synthetic(minutes=(3,), num_videos=2))
    assert {example.truth.kind for example in examples} == set(KINDS)
    for kind in KINDS:
        for video in ("synthetic_qa-3min-0", "synthetic_qa-3min-1"):
            num = sum(example.truth.kind == kind and example.video == video for example in examples)
            assert num <= NUM_QUESTIONS
    task = TASKS["synthetic_qa"]
    texts = ["3 to 7", "nothing", "red ball", "2", "bell 3 to 7, red ball 5 to 9", "", "?"]
    for i, example in enumerate(examples):
        for text in (texts[i % len(texts)], example.truth.answer, f"From {example.truth.answer}."):
            predictions = {example.id: Prediction(text, task.parse(text, example, How()))}
            want = grade(example.truth, text)
            assert (predictions[example.id].value is not None) == want["parsed"]
            each = task.score(Answers([example], predictions, How())).each
            assert each["score"] == {example.id: want["score"]}
    right = {
        example.id: Prediction(example.truth.answer, task.parse(example.truth.answer, example, How()))
        for example in examples
    }
    assert task.score(Answers(examples, right, How())).metrics["score"] == 1.0


def test_commonest_answers_and_silence():
    task, examples = TASKS["synthetic_qa"], examples_of("synthetic_qa", Synthetic(minutes=(3,), num_videos=2))
    metrics = task.score(Answers(examples, {}, How())).metrics
    assert metrics["score"] == 0.0 and metrics["error_s"] is metrics["error_s_median"] is None
    counts = [example.truth.answer for example in examples if example.truth.kind == "count"]
    assert metrics["majority/count"] == max(map(counts.count, counts)) / len(counts)
    assert "majority/binding" not in metrics
    assert task.score(Answers([], {}, How())).metrics["score"] is None


def test_for_models_that_were_not_told_the_form_stands_in_the_prompt():
    ask = TASKS["synthetic_qa"].prompts["explained"]
    for example in examples_of("synthetic_qa", Synthetic(minutes=(3,), num_videos=1)):
        assert example.question in ask(example) and "red ball" in ask(example) and "whistle" in ask(example)
        form = ask(example).rpartition("\n")[2]
        assert ("187 to 192" in form) == (example.truth.kind in SPAN_KINDS)


def test_wrong_arguments(tmp_path):
    for kwargs, message in (
        ({"minutes": ()}, r"minutes must be lengths above 0, at least one, got \(\)"),
        ({"minutes": (0,)}, r"minutes must be lengths above 0, at least one, got \(0.0,\)"),
        ({"minutes": (5, 5)}, r"minutes must be different lengths, got \(5.0, 5.0\)"),
        ({"num_videos": 0}, "num_videos must be at least 1 and first_video at least 0, got 0 and 0"),
        ({"first_video": -1}, "num_videos must be at least 1 and first_video at least 0, got 3 and -1"),
    ):
        with pytest.raises(ValueError, match=message):
            Synthetic(**kwargs)
    with pytest.raises(ValueError, match="duration_s must be >= 300 to keep needles apart, got 60"):
        from_scenes("needle", Synthetic(minutes=(1,)))
    (tmp_path / "g.json").write_text('{"minutes": [5]}')
    with pytest.raises(
        ValueError, match=r"g.json:1: must say which videos were synthesized, .* \(KeyError: 'synthetic'"
    ):
        score_files("needle", [tmp_path / "g.json"], [tmp_path / "g.json"])


def test_the_command(tmp_path, capsys, monkeypatch):
    models.model().save_pretrained(tmp_path / "model", include_base=True)
    saying(monkeypatch, lambda video, prompt: "1 to 8")
    out = tmp_path / "a.jsonl"
    words = [
        "eval",
        "run",
        "needle",
        "--model",
        str(tmp_path / "model"),
        "--out",
        str(out),
        "--device",
        "cpu",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        more = ["--minutes", "5", "6", "--num-videos", "1", "--media", "video"]
        more += ["--plot", str(tmp_path / "heat.png")]
        assert main([*words, *more]) == 0
    table = capsys.readouterr().out
    assert "needle, 40 examples" in table and "recall/kind,minutes/video,6" in table
    header = read_run(out).header
    assert header["synthetic"] == {"minutes": [5.0, 6.0], "num_videos": 1, "first_video": 0}
    assert header["media"] == "video" and (tmp_path / "heat.png").stat().st_size > 3000
    for task, flags, message in (
        ("needle", ["--reference", "x", "--videos", "y"],
         "the videos of needle are synthetic; leave out --reference and --videos"),
        ("lvbench", ["--minutes", "5"], "--minutes is for tasks with synthetic videos, lvbench has files"),
        ("lvbench", ["--plot", "x.png"], "--plot is of needle at one budget, got it with lvbench"),
        ("lvbench", ["--reference", "x"], "lvbench needs --reference and --videos, got --reference"),
    ):  # fmt: skip
        assert main([*words[:2], task, *words[3:], *flags]) == 2
        assert message in capsys.readouterr().err
