"""`eval run` and `eval pairs`: a small random model, made-up references, videos of seconds."""

import json
import os
import time
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest

from longcompress.cli.main import main as command
from longcompress.eval.metrics.meteor import is_available
from longcompress.eval.runner import run as running
from longcompress.eval.runner.run_file import RunConfig, alone, pairs, read_run
from longcompress.eval.runner.score import score_files
from longcompress.eval.runner.sources import from_files, from_scenes
from longcompress.eval.tasks import TASKS
from longcompress.eval.tasks.synthetic import Synthetic
from longcompress.eval.tasks.task import How
from longcompress.events.listing import EventList
from longcompress.types import Event

import models
import ranks
import videos
from task_cases import CASES, HOW, put

DENSE = {
    name: {"duration": 4.0, "timestamps": [[0, 2], [2, 4]], "sentences": ["It is red.", "It is a ball."]}
    for name in ("first", "second", "missing")
}
CHOICE = [
    {"key": key, "type": "tv", "video_info": {"duration_minutes": 1}, "qa": [
        {"uid": f"{key}-{i}", "question": f"Which {i}?\n(A) red\n(B) blue", "answer": "B",
         "question_type": ["reasoning"], "time_reference": "00:00-00:01"} for i in range(3)]}
    for key in ("first", "second", "missing")
]  # fmt: skip
SPANS = "first 0 2##a red ball\nmissing 0 1##x\nsecond 1 3##a box\nfirst 1 2##what is seen\n"
REFERENCE = {
    "charades-sta": ("reference.txt", SPANS),
    "lvbench": ("reference.jsonl", "".join(json.dumps(item) + "\n" for item in CHOICE)),
    "activitynet-dense": ("reference.json", json.dumps(DENSE)),
}
IDS = {
    "charades-sta": ["first_0", "first_1", "missing_0", "second_0"],
    "lvbench": [f"{key}-{i}" for key in ("first", "second", "missing") for i in range(3)],
    "activitynet-dense": ["first", "second", "missing"],
}
FAILED = {
    "charades-sta": ["missing_0"],
    "lvbench": ["missing-0", "missing-1", "missing-2"],
    "activitynet-dense": ["missing"],
}
CONFIG = RunConfig(budgets=("24",))


@pytest.fixture(scope="module")
def model():
    return models.model()


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with two videos of the three, one of them deeper, and the reference of each task."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "videos" / "deep").mkdir(parents=True)
    videos.write(folder / "videos" / "first.mp4", videos.Video())
    videos.write(folder / "videos" / "deep" / "second.mp4", videos.Video(beeps=(0.5, 2.0)))
    for task, (name, text) in REFERENCE.items():
        (folder / task).mkdir()
        (folder / task / name).write_text(text)
    return folder


def reference(here, task):
    return [here / task / REFERENCE[task][0]]


def run(task, files, videos, model, out, config=None, *, durations=None, **options):
    (summary,) = running.run(
        from_files(task, files, videos, durations=durations), model, out, config, **options
    )
    return summary


def do(here, task, model, out, config=CONFIG):
    return run(task, reference(here, task), here / "videos", model, out, config, num_draws=50)


def lines(path):
    """Header and lines, without what a clock says."""
    values = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [{key: value for key, value in item.items() if key != "seconds"} for item in values]


@pytest.fixture
def whole(here, model, tmp_path):
    out = tmp_path / "a.jsonl"
    return out, do(here, "lvbench", model, out)


@pytest.mark.parametrize("task", REFERENCE)
def test_every_id_is_there_once_and_the_score_is_that_of_its_predictions(here, model, tmp_path, task):
    out = tmp_path / "a.jsonl"
    summary = do(here, task, model, out)
    header, *each = lines(out)
    assert [line["id"] for line in each] == IDS[task]
    assert (header["task"], header["budget"], header["size_px"]) == (task, "24", 16)
    assert header["versions"]["torch"] and len(header["reference_sha256"][0]) == 64
    failed = [line for line in each if "failed" in line]
    assert [line["id"] for line in failed] == FAILED[task] == summary["missing"]
    assert failed[0] == {
        "id": FAILED[task][0],
        "video": "missing",
        "failed": f"no video 'missing' in {here / 'videos'}",
    }
    assert summary["failed"] == failed and summary["num_failed"] == len(failed)
    for line in (line for line in each if "failed" not in line):
        assert 0 < line["tokens"] <= 24 and line["prompt"] and line["parsed"] is (line["value"] is not None)
    scored = score_files(task, reference(here, task), summary["predictions"], How(), num_draws=50)
    assert scored["metrics"] == pytest.approx(summary["metrics"], nan_ok=True)
    assert scored["intervals"] == summary["intervals"]
    assert json.loads((tmp_path / "a.summary.json").read_text()) == json.loads(json.dumps(summary))
    same = pairs(out, out)
    assert same["num"] == len(each) - len(failed) and same["only_first"] == same["only_second"] == []
    assert (same["differences"] or task == "activitynet-dense") and all(
        (line["mean"], line["low"], line["high"]) == (0, 0, 0) for line in same["differences"].values()
    )


def test_answers_that_say_something_score_as_their_predictions_do(here, model, tmp_path, monkeypatch):
    answers = {
        "charades-sta": "From 0.25 to 1.75 seconds.",
        "lvbench": "(B) blue",
        "activitynet-dense": "From 0.5 to 2 seconds, it is red.",
    }
    for task, text in answers.items():
        monkeypatch.setattr(model.llm, "answer", lambda video, asked, text=text, **_: [text for _ in asked])
        summary = do(here, task, model, tmp_path / f"{task}.jsonl")
        scored = score_files(task, reference(here, task), summary["predictions"], How())
        assert scored["metrics"] == pytest.approx(summary["metrics"]) and summary["num_unparsed"] == 0
        assert all(line["parsed"] for line in lines(tmp_path / f"{task}.jsonl")[1:] if "failed" not in line)
        assert (task == "activitynet-dense" and not is_available()) or (
            max(max(of.values()) for of in summary["each"].values()) >= 0.5
        )


SAYS = {  # task: an answer to its prompt that can be read
    "mlvu": "(A)", "lvbench": "(A)", "video-mme": "A. x", "longvideobench": "(A)",
    "video-chatgpt": "a dog\na cat", "longvale-sc": "A dog runs.", "needle": "2 to 50",
    "synthetic_qa": "2 to 50",
}  # fmt: skip
PROMPTED = [(task, prompt) for task, item in TASKS.items() for prompt in item.prompts]
PROMPTED.append(("charades-sta", "When: {question}"))  # of one's own


@pytest.mark.parametrize(("task", "prompt"), PROMPTED)
def test_each_task_and_prompt_to_its_end(model, tmp_path, monkeypatch, task, prompt):
    """Without compressing: what is written beside a run is worth what its summary says."""
    words = SAYS.get(task, "From 02 to 50, a dog runs.")
    memory = SimpleNamespace(
        num_tokens=8,
        ask_all=lambda asked, **_: [SimpleNamespace(text=words) for _ in asked],
        list_events=lambda **_: EventList([Event(2, 51, "red ball")], 3),
    )
    monkeypatch.setattr(
        running, "encoded", lambda *args: [(name, running.Encoded(memory, 0.0)) for name in args[-1]]
    )
    files, out = put(tmp_path, CASES[task][0]), tmp_path / "a.jsonl"
    examples = list(TASKS[task].read(files))
    (tmp_path / "lengths.json").write_text(json.dumps({example.video: 40.0 for example in examples}))
    for example in examples:
        (tmp_path / f"{example.video}.mp4").touch()
    config, lengths = RunConfig(prompt=prompt), tmp_path / "lengths.json"
    if TASKS[task].synthesize is not None:
        files, lengths = [out], None
        source = from_scenes(task, Synthetic(minutes=(5,), num_videos=1))
        (summary,) = running.run(source, model, out, config)
    else:
        summary = run(task, files, tmp_path, model, out, config, durations=lengths, num_draws=20)
    assert summary["num_answered"] == len(examples) and summary["num_failed"] == 0
    how = replace(HOW, times=summary["header"]["times"], asker=HOW.asker if "note" in summary else None)
    scored = score_files(task, files, summary["predictions"], how, durations=lengths, num_draws=20)
    assert (scored["num_missing"], scored["num_unknown"]) == (0, 0)
    assert scored["unparsed"] == summary["unparsed"]
    of_words = task == "needle" or task.startswith(("synthetic_places", "synthetic_qa", "synthetic_whole"))
    assert bool(summary["unparsed"]) == of_words
    each = {example["id"]: example["score"] for example in lines(out)[1:]}
    if "{question}" in prompt:
        asked = {line["id"]: line["prompt"] for line in lines(out)[1:]}
        assert asked == {example.id: f"When: {example.question}" for example in examples}
    names = summary["each"]
    of_all = {key: {n: names[n][key] for n in names if key in names[n]} or None for key in each}
    of_meteor = task in ("activitynet-dense", "longvale-dvc", "youcook2") and not is_available()
    unscored = (
        task in ("longvale-sc", "synthetic_alerts", "synthetic_requests") or of_meteor or "note" in summary
    )
    assert each == of_all and unscored == (each[examples[0].id] is None)
    of_captions = task in ("activitynet-dense", "youcook2", "longvale-dvc", "longvale-sc", "avsd")
    assert TASKS[task].uses_meteor == of_captions == (summary["header"]["meteor"] is not None)
    assert ("meteor" in summary["metrics"] or "scorer" in summary["metrics"]) == of_captions
    assert ("note" in summary) == (task in ("magqa", "video-chatgpt")) == (summary["metrics"] == {})
    assert TASKS[task].needs_judge == ("note" in summary)
    if "note" not in summary:
        assert scored["metrics"] == pytest.approx(summary["metrics"], nan_ok=True)


def test_cut_anywhere_and_gone_on_with_it_is_the_same(here, model, whole, tmp_path):
    out, summary = whole
    data, again = out.read_bytes(), tmp_path / "b.jsonl"
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for cut in (0, 5, ends[0], ends[0] + 30, ends[1], ends[2] - 1, ends[4] + 7, ends[-2], len(data)):
        again.write_bytes(data[:cut])
        got = do(here, "lvbench", model, again)
        assert lines(again) == lines(out), cut
        apart = ("run", "run_sha256", "predictions")
        assert {k: v for k, v in got.items() if k not in apart} == {
            k: v for k, v in summary.items() if k not in apart
        }


KILLED = """
import sys
from longcompress.model import LongCompress

import models
from longcompress.eval.runner import run as running
from longcompress.eval.runner.run_file import RunConfig
import time
from longcompress.eval.runner.sources import from_files
first = running.encoded
def slow(*args):
    if args[3] == "second":
        time.sleep(600)
    return first(*args)
running.encoded = slow
source = from_files("lvbench", [sys.argv[1]], sys.argv[2])
running.run(source, models.model(), sys.argv[3], RunConfig(budgets=("24",)))
"""


def test_each_of_several_budgets_has_a_run_of_the_same_videos(here, model, whole, tmp_path, monkeypatch):
    sessions = []
    first = running.Session
    monkeypatch.setattr(running, "Session", lambda *a, **k: sessions.append(a) or first(*a, **k))
    source = from_files("lvbench", reference(here, "lvbench"), here / "videos")
    config = RunConfig(budgets=("8", "16", "50%"))
    summaries = running.run(source, model, tmp_path / "a.jsonl", config, num_draws=50)
    assert len(sessions) == 2  # one for each video that can be read
    names = ["a.8.jsonl", "a.16.jsonl", "a.50pc.jsonl"]
    assert [summary["run"] for summary in summaries] == names
    assert [summary["header"]["budget"] for summary in summaries] == ["8", "16", "50%"]
    for name, budget in zip(names[:2], (8, 16), strict=True):
        each = lines(tmp_path / name)[1:]
        assert {line["tokens"] for line in each if "failed" not in line} == {budget}
    got = pairs(tmp_path / names[0], tmp_path / names[1])
    assert got["num"] == 6 and got["differs"]["budget"] == ["8", "16"]
    done = len(sessions)
    running.run(source, model, tmp_path / "a.jsonl", config, num_draws=50)
    assert len(sessions) == done  # all is there


@pytest.mark.slow
def test_killed_and_gone_on_with_it_is_the_same(here, model, whole, tmp_path):
    out, again = whole[0], tmp_path / "killed.jsonl"
    (tmp_path / "killed.py").write_text(KILLED)
    words = [*reference(here, "lvbench"), here / "videos", again]
    with ranks.started(tmp_path / "killed.py", *words, out=tmp_path / "log") as child:
        until = time.monotonic() + 300
        while time.monotonic() < until and (not again.is_file() or again.read_bytes().count(b"\n") < 4):
            assert child.exitcode is None
            time.sleep(0.1)
    assert len(lines(again)) == 4
    do(here, "lvbench", model, again)
    assert lines(again) == lines(out)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            RunConfig(budgets=("32",)),
            r"a.jsonl was started with budgets = \['24'\], this run has \['32'\]; resume with the same",
        ),
        (RunConfig(budgets=("24",), media="video"), r"with media = 'both', this run has 'video'"),
        (RunConfig(budgets=("24",), limit=2), r"with limit = None, this run has 2"),
        (RunConfig(budgets=("24",), max_new_tokens=3), r"with max_new_tokens = 6, this run has 3"),
    ],
)
def test_another_config_is_refused_by_name(here, model, whole, config, message):
    before = whole[0].read_bytes()
    with pytest.raises(ValueError, match=message):
        do(here, "lvbench", model, whole[0], config)
    assert whole[0].read_bytes() == before


def test_another_model_and_references_are_refused_by_name(here, model, whole, tmp_path):
    other = models.model()
    other.llm.lm.lm_head.weight.data += 1
    with pytest.raises(ValueError, match=r"was started with model_sha256 = '\w+', this run has '\w+'"):
        do(here, "lvbench", other, whole[0])
    changed = tmp_path / "reference.jsonl"
    changed.write_text(REFERENCE["lvbench"][1].replace("tv", "video"))
    with pytest.raises(
        ValueError, match=r"was started with reference_sha256 = \['\w+'\], this run has \['\w+'\]"
    ):
        run("lvbench", [changed], here / "videos", model, whole[0], CONFIG)


def test_files_that_are_no_runs(here, model, tmp_path):
    out = tmp_path / "a.jsonl"
    for text, message in (
        ("notes", r"a.jsonl is no file of a run: its first line must be a header; name another file"),
        ('{"format": 1}\nx\n', r"a.jsonl:2: must be a JSON object \(.*\); begin a new file"),
        ('{"format": 1}\n{}\n', r"a.jsonl:2: must be an object with an 'id'; begin a new file"),
        ('{"format": 1}\n{"id": "a"}\n{"id": "a"}\n', r"a.jsonl:3: 'a' comes again; remove one"),
    ):
        out.write_text(text)
        with pytest.raises(ValueError, match=message):
            do(here, "lvbench", model, out)
        assert out.read_text() == text


def test_wrong_arguments(here, model, tmp_path):
    out = tmp_path / "a.jsonl"
    with pytest.raises(ValueError, match="prompt must be one of default, or a text"):
        do(here, "lvbench", model, out, RunConfig(prompt="mine"))
    with pytest.raises(
        ValueError, match=r"prompt 'vtimellm' are in hundredths and need the length of 'first'"
    ):
        do(here, "charades-sta", model, out, RunConfig(prompt="vtimellm"))
    with pytest.raises(ValueError, match=r"budget must"):
        do(here, "lvbench", model, out, RunConfig(budgets=("1",)))
    with pytest.raises(ValueError, match=r"limit must be at least 1, got 0"):
        RunConfig(limit=0)
    with pytest.raises(FileNotFoundError, match=r"videos must be an existing folder, got .*none"):
        run("lvbench", reference(here, "lvbench"), tmp_path / "none", model, out)
    for name in ("first.mp4", "first.mkv"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"videos: two are called 'first', .*first.mkv and .*first.mp4; remove one"
    ):
        run("lvbench", reference(here, "lvbench"), tmp_path, model, out)
    assert not out.exists()


def test_a_video_that_cannot_be_read_is_lost_with_its_reason(here, model, tmp_path):
    (tmp_path / "first.mp4").write_bytes(b"no video at all" * 100)
    videos.write(tmp_path / "second.mp4", videos.Video(audio_codec=None))
    files, config = reference(here, "activitynet-dense"), RunConfig(budgets=("24",), media="audio")
    summary = run("activitynet-dense", files, tmp_path, model, tmp_path / "a.jsonl", config)
    assert summary["num_answered"] == 0 and summary["num_failed"] == 3
    reasons = {item["id"]: item["failed"] for item in summary["failed"]}
    assert (
        "first.mp4" in reasons["first"]
        and "second.mp4" in reasons["second"]
        and "no video 'missing'" in reasons["missing"]
    )


def test_lost_videos_are_asked_again_in_their_places(here, model, whole, tmp_path):
    out, _ = whole
    videos, again = tmp_path / "videos", tmp_path / "b.jsonl"
    videos.mkdir()
    (videos / "second.mp4").symlink_to(here / "videos" / "deep" / "second.mp4")
    asked = "lvbench", reference(here, "lvbench"), videos, model, again, CONFIG
    run(*asked)
    before = again.read_bytes().splitlines()
    assert [item["id"] for item in lines(again) if "failed" in item] == [
        "first-0",
        "first-1",
        "first-2",
        *FAILED["lvbench"],
    ]
    (videos / "first.mp4").symlink_to(here / "videos" / "first.mp4")
    assert run(*asked)["num_failed"] == 6 and again.read_bytes().splitlines() == before
    assert run(*asked, retry_failed=True)["num_failed"] == 3
    after = again.read_bytes().splitlines()
    assert after[:1] + after[4:] == before[:1] + before[4:]  # but for the video that came
    want = [
        item if "failed" not in item else item | {"failed": f"no video 'missing' in {videos}"}
        for item in lines(out)
    ]
    assert lines(again) == want  # as if it had been there from the beginning
    again.write_bytes(b"".join(line + b"\n" for line in before[:6]))  # killed, videos lost and videos to come
    run(*asked, retry_failed=True)
    assert lines(again) == want


def test_a_file_that_another_run_writes_is_left_alone(here, model, whole):
    before = whole[0].read_bytes()
    with (
        alone(whole[0]),
        pytest.raises(
            ValueError,
            match=rf"a.jsonl is being written by another run \(process {os.getpid()}\); wait for it",
        ),
    ):
        do(here, "lvbench", model, whole[0])
    assert whole[0].read_bytes() == before
    do(here, "lvbench", model, whole[0])
    assert [item.name for item in whole[0].parent.iterdir() if "lock" in item.name] == []


def test_streams_that_the_model_does_not_take_in(here, model, tmp_path, monkeypatch):
    monkeypatch.setattr(type(model), "media", ("video",))
    with pytest.raises(ValueError, match=r"media must be of video, which the model takes in, got audio"):
        do(here, "lvbench", model, tmp_path / "a.jsonl", RunConfig(media="audio"))


def test_pairs_of_runs_that_differ(here, model, whole, tmp_path):
    out, _ = whole
    short = tmp_path / "short.jsonl"
    do(here, "lvbench", model, short, RunConfig(budgets=("40",), limit=5))
    got = pairs(out, short)
    assert got["num"] == 5 and got["only_first"] == ["second-2"] and got["only_second"] == []
    assert got["differs"]["budget"] == ["24", "40"] and got["differences"]["accuracy"]["num"] == 5
    (tmp_path / "short.summary.json").unlink()
    with pytest.raises(ValueError, match=r"short.jsonl has no summary of its present lines in .*; run it to"):
        pairs(out, short)
    other = tmp_path / "other.jsonl"
    do(here, "charades-sta", model, other)
    with pytest.raises(
        ValueError, match=r"runs to compare must have the same task, got 'lvbench' in .*a.jsonl"
    ):
        pairs(out, other)


def test_the_commands(here, tmp_path, capsys):
    models.model().save_pretrained(tmp_path / "model", include_base=True)
    out = tmp_path / "a.jsonl"
    words = ["eval", "run", "lvbench", "--reference", *reference(here, "lvbench"),
             "--videos", here / "videos", "--model", tmp_path / "model", "--budgets", 24, "--limit", 4,
             "--max-new-tokens", 4, "--media", "video", "--device", "cpu", "--out", out]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert command(list(map(str, words))) == 0
        table = capsys.readouterr().out
        assert "lvbench, 4 examples" in table and "4 answered, 0 failed; all of it in" in table
        assert command([*map(str, words), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["header"]["max_new_tokens"] == 4
    assert read_run(out).header["media"] == "video"
    assert command(["eval", "pairs", str(out), str(out)]) == 0
    table = " ".join(capsys.readouterr().out.split())  # a title wraps at its table's width
    assert "a.jsonl minus a.jsonl, 4 examples of both" in table and "0.0000 to 0.0000" in table
    assert command(["eval", "pairs", str(out), str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num"] == 4
    assert command([*map(str, words[:-1]), "a.txt"]) == 2
    assert "--out must end in .jsonl, got a.txt; summary and predictions" in capsys.readouterr().err


def test_the_command_reaches_them(tmp_path, capsys):
    missing = str(tmp_path / "missing.jsonl")
    assert command(["eval", "pairs", missing, missing]) != 0
    assert "missing.jsonl" in capsys.readouterr().err
    words = ["run", "charades-sta", "--reference", missing, "--videos", str(tmp_path), "--model", "tiny"]
    assert command(["eval", *words, "--budgets", "64", "--out", str(tmp_path / "out.jsonl")]) != 0
    assert "missing.jsonl" in capsys.readouterr().err
