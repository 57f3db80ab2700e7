"""Every command runs in this process through `main`, on a small random model and seconds of video."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
from transformers.utils import logging

import longcompress as lc
from longcompress.cli import doctor
from longcompress.cli import main as cli
from longcompress.cli.common import Failed
from longcompress.cli.output import cited
from longcompress.cli.parser import Group, documented, find
from longcompress.memory import VideoMemory
from longcompress.session import Session
from longcompress.synthetic import scenes
from longcompress.train.shards.index import load_index
from longcompress.train.shards.sample import read_sample
from longcompress.types import Cite

import models
import ranks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a video, a model, and a memory that knows its members; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("cli")
    scenes.write_video(scenes.make_scene(2, 12.0), folder / "video.mp4", size_px=64, rate_fps=4)
    models.model().save_pretrained(folder / "model", include_base=True)
    words = ["compress", f"{folder}/video.mp4", "--out", f"{folder}/video.lcm", "--keep-assignment"]
    assert cli.main([*words, "--model", f"{folder}/model", "--budget", "40"]) == 0
    return folder


@pytest.fixture
def run(here, capsys):
    """Runs a command with the small model: (exit code, stdout, stderr)."""

    def run(*words, model=True):
        typed = [str(w).replace("HERE", str(here)) for w in words]
        code = cli.main([*typed, "--model", f"{here}/model"] if model else typed)
        out, err = capsys.readouterr()
        return code, out, err

    logging.disable_progress_bar()
    capsys.readouterr()
    return run


def lines(text):
    """JSON lines as values."""
    return [json.loads(line) for line in text.splitlines()]


class TestInfo:
    def test_table(self, run):
        code, out, err = run("info", "HERE/video.mp4", "--budget", "40")
        assert (code, err) == (0, "")
        for word in ("video.mp4", "0:00:12", "64 x 64, h264, 4 a second", "1 channels, aac", "yes, "):
            assert word in out

    def test_json(self, run):
        code, out, _ = run("info", "HERE/video.mp4", "--budget", "40", "--json")
        report = json.loads(out)
        assert code == 0
        assert report["video"]["video_codec"] == "h264"
        estimate = report["estimate"]
        assert estimate["tokens"] == 40
        assert estimate["frames"] == 12
        assert estimate["video_tokens"] + estimate["audio_tokens"] + estimate["global_tokens"] == 40

    def test_a_budget_that_does_is_named(self, run):
        words = (
            "info",
            "HERE/video.mp4",
            "--media.rate_fps",
            "400",
            "--merge.tokens_per_segment",
            '{"video": 9000, "*": 9}',
        )
        code, out, _ = run(*words, "--budget", "5000")
        assert code == 0
        assert " no, " in out
        budget = out.split("--budget ")[1].split()[0]
        assert " yes, " in run(*words, "--budget", budget)[1]


class TestCompress:
    def test_the_memory_has_the_budget(self, run, tmp_path):
        out_file = tmp_path / "a.lcm"
        code, out, err = run("compress", "HERE/video.mp4", "--out", out_file, "--budget", "30")
        assert (code, err) == (0, "")
        assert out.startswith(f"{out_file}: 30 tokens (")
        for word in ("video", "audio", "0:00:12 of video", "kB", "encoders", "merging", "reading"):
            assert word in out
        assert VideoMemory.load(out_file).num_tokens == 30
        assert list(tmp_path.iterdir()) == [out_file]

    def test_several_into_a_folder(self, run, here, tmp_path):
        other = tmp_path / "other.mp4"
        other.write_bytes((here / "video.mp4").read_bytes())
        code, out, _ = run(
            "compress", "HERE/video.mp4", other, "--out", tmp_path / "new", "--budget=30", "--json"
        )
        report = lines(out)
        assert code == 0
        assert [t["out"] for t in report] == [f"{tmp_path}/new/video.lcm", f"{tmp_path}/new/other.lcm"]
        for item in report:
            assert item["tokens"] == sum(item["streams"].values()) + item["global_tokens"] == 30
            assert item["num_bytes"] == Path(item["out"]).stat().st_size
            assert item["wall_s"] >= item["encode_s"] + item["merge_s"] > 0

    def test_a_bad_one_among_several_is_told_and_the_rest_done(self, run, tmp_path):
        (tmp_path / "bad.mp4").write_bytes(b"nothing")
        files = [tmp_path / "bad.mp4", "HERE/video.mp4"]
        code, out, err = run("compress", *files, "--out", tmp_path / "new", "--budget", "30")
        assert code == 3
        assert "video.lcm: 30 tokens" in out
        assert "bad.mp4" in err
        assert "1 of 2 videos could not be read" in err
        assert [p.name for p in (tmp_path / "new").iterdir()] == ["video.lcm"]

    def test_flags_and_a_file_change_the_config(self, run, tmp_path):
        words = ("compress", "HERE/video.mp4", "--out", tmp_path / "a.lcm", "--json", "--budget", "30")
        config = tmp_path / "config.yaml"
        config.write_text("media: {rate_fps: 0.5}\nmerge: {schedule: [3, 2]}\n")
        raw = [
            lines(run(*words, *more)[1])[0]["raw_tokens"]
            for more in (
                [],
                ["--media.rate_fps", "2"],
                ["--media.rate_fps=2"],
                ["--media.rate-fps", "0.5"],
                ["--config", config],
                ["--config", config, "--media.rate_fps", "2"],
            )
        ]
        assert raw[1] == raw[2] == raw[5] == raw[0] + 12 * 4
        assert raw[3] == raw[4] == raw[0] - 6 * 4
        for more in (
            ["--budget.allocation", "novelty"],
            ["--merge.schedule", "[9, 4]"],
            ["--merge.schedule", "0.25", "--merge.score", "cosine", "--segments.length_s", "8"],
        ):
            assert lines(run(*words, *more)[1])[0]["tokens"] == 30

    def test_an_interrupt_leaves_nothing(self, run, tmp_path, monkeypatch):
        # a job that a shell runs in the background is born ignoring SIGINT
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        monkeypatch.setattr(Session, "push", lambda *_: signal.raise_signal(signal.SIGINT))
        try:
            code, out, err = run("compress", "HERE/video.mp4", "--out", tmp_path / "a.lcm")
        finally:
            signal.signal(signal.SIGINT, before)
        assert (code, out, err) == (130, "", "longcompress: interrupted: no half-written file was left\n")
        assert not list(tmp_path.iterdir())

    def test_sigterm_leaves_nothing_and_is_as_before_afterwards(self, run, tmp_path, monkeypatch):
        before = signal.getsignal(signal.SIGTERM)
        (tmp_path / "inside").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "inside"))
        left = []

        def end(*_):
            left.append(tempfile.mkdtemp())
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                os.rmdir(left[0])

        monkeypatch.setattr(Session, "push", end)
        code, out, _ = run("compress", "HERE/video.mp4", "--out", tmp_path / "a.lcm")
        assert (code, out) == (143, "") and signal.getsignal(signal.SIGTERM) is before
        assert left and not list((tmp_path / "inside").iterdir()) and not (tmp_path / "a.lcm").exists()

    def test_a_full_disk_leaves_nothing(self, run, tmp_path, monkeypatch):
        def fail(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", fail)
        code, out, err = run("compress", "HERE/video.mp4", "--out", tmp_path / "a.lcm")
        assert (code, out) == (4, "")
        assert "a.lcm can't be written" in err
        assert "No space left" in err
        assert not list(tmp_path.iterdir())


class TestAsk:
    @pytest.fixture
    def says(self, monkeypatch):
        """The language model says this, in two pieces, whatever is asked."""

        def answer(self, prefix, questions, *, stream=None, max_new_tokens=None, **_):
            for piece in ("red ball 3 ", "to 6\n"):
                if stream is not None:
                    stream(piece)
            return ["red ball 3 to 6"] * len(questions)

        monkeypatch.setattr("longcompress.llm.CausalLM.answer", answer)

    @pytest.mark.usefixtures("says")
    def test_text_events_and_what_they_rest_on(self, run):
        code, out, _ = run("ask", "HERE/video.lcm", "when is the red ball seen")
        assert code == 0
        assert out.startswith("red ball 3 to 6\n")
        assert "red ball" in out.splitlines()[-2]
        assert out.splitlines()[-1].startswith("  rests on 0:00:0")
        assert "video" in out

    @pytest.mark.usefixtures("says")
    def test_a_video_is_compressed_first(self, run):
        code, out, _ = run("ask", "HERE/video.mp4", "one", "two", "--budget", "30")
        assert code == 0
        assert [line for line in out.splitlines() if line.startswith(">")] == ["> one", "> two"]

    def test_json(self, run):
        code, out, _ = run("ask", "HERE/video.lcm", "when is it", "what", "--json", "--max-new-tokens", "3")
        report = lines(out)
        assert code == 0
        assert [t["question"] for t in report] == ["when is it", "what"]
        assert set(report[0]) == {"question", "text", "events", "cites", "coverage"}

    def test_a_real_answer_streams(self, run):
        text = lines(run("ask", "HERE/video.lcm", "when is it", "--json")[1])[0]["text"]
        assert run("ask", "HERE/video.lcm", "when is it")[1].splitlines()[0].strip() == text

    def test_an_empty_question_is_refused_before_anything_is_compressed(self, run):
        code, _, err = run("ask", "nowhere.mp4", " ")
        assert code == 2
        assert "questions must not be empty" in err

    def test_cites_that_touch_are_one_stretch(self):
        cites = [Cite("video", 0, 2.0, 4.0), Cite("audio", 0, 4.0, 5.0), Cite("video", 1, 0.0, 1.0)]
        assert cited(cites) == [(0.0, 1.0, "1 video"), (2.0, 5.0, "1 video, 1 audio")]


class TestEvents:
    @pytest.fixture(autouse=True)
    def happens(self, monkeypatch):
        """Events, whatever the model says."""
        from longcompress.events.listing import EventList
        from longcompress.types import Event

        unparsed = tuple(Event(10.0 * i, 10.0 * i + 10, f"answer {i}") for i in range(8))
        listed = EventList([Event(1.0, 4.0, "red ball"), Event(3.0, 9.0, "bell")], 20, 3, 2, 4, unparsed)
        monkeypatch.setattr(VideoMemory, "list_events", lambda *_, **__: listed)

    @pytest.mark.parametrize("kind", ["jsonl", "srt", "vtt", "ass", "csv", "edl"])
    def test_every_format_is_printed(self, run, kind):
        code, out, _ = run("events", "HERE/video.lcm", "--format", kind)
        assert code == 0
        assert "red ball" in out

    def test_json_lines(self, run):
        code, out, _ = run("events", "HERE/video.lcm", "--json")
        assert code == 0
        assert [(e["start_s"], e["end_s"]) for e in lines(out)] == [(1.0, 4.0), (3.0, 9.0)]
        assert run("events", "HERE/video.lcm")[1] == out

    def test_how_windows_answered_is_on_standard_error(self, run):
        code, out, err = run("events", "HERE/video.lcm")
        first, *others = err.splitlines()
        assert code == 0 and "windows" not in out
        assert first == (
            "longcompress: note: 20 windows asked, 3 pairs of them again; spans: 4 joined, 2 dropped; 8 "
            "answers without a time"
        )
        assert len(others) == 5
        assert others[1].endswith("warning: no time in the answer about 0:00:10.0 - 0:00:20.0 answer 1")
        assert not run("events", "HERE/video.lcm", "--quiet")[2]

    def test_a_file_by_its_name(self, run, tmp_path):
        code, out, _ = run("events", "HERE/video.lcm", "--out", tmp_path / "a.srt", "--json")
        assert code == 0
        assert json.loads(out) == {"out": f"{tmp_path}/a.srt", "format": "srt", "events": 2}
        assert "00:00:01,000 --> 00:00:04,000" in (tmp_path / "a.srt").read_text()

    def test_an_edl_counts_in_the_frames_of_the_video(self, run):
        def times(*words):
            return run("events", *words, "--format", "edl")[1]

        video = times("HERE/video.mp4", "--budget", "30")
        memory = times("HERE/video.lcm", "--timecode-fps", "4")
        assert video.splitlines()[1:] == memory.splitlines()[1:]
        assert times("HERE/video.lcm") == times("HERE/video.lcm", "--timecode-fps", "25")

    def test_words_that_contradict(self, run, here, tmp_path):
        for words, want in (
            (["--format", "srt", "--json"], "--json prints jsonl, got --format srt"),
            (["--window-s", "0"], "--window-s must be > 0"),
            (["--out", tmp_path / "a.mp4"], "--format is needed for --out"),
            (["--out", "HERE/video.lcm", "--format", "srt"], "--out must be another file"),
        ):
            code, _, err = run("events", "HERE/video.lcm", *words)
            assert code == 2
            assert want in err
        assert VideoMemory.load(here / "video.lcm").num_tokens == 40


class TestPlot:
    def test_of_a_video(self, run, tmp_path):
        code, out, _ = run("plot", "HERE/video.mp4", "--out", tmp_path / "new", "--budget", "30", "--json")
        names = {"video.tokens.png", "video.timeline.png", "video.merged.png"}
        assert code == 0
        assert {Path(p).name for p in json.loads(out)} == names
        assert {p.name for p in (tmp_path / "new").iterdir()} == names

    def test_of_a_memory(self, run, tmp_path):
        code, out, _ = run("plot", "HERE/video.lcm", "--out", tmp_path, "--format", "svg")
        assert code == 0
        assert out.split() == [f"{tmp_path}/video.tokens.svg", f"{tmp_path}/video.timeline.svg"]

    def test_of_a_memory_with_its_video(self, run, tmp_path):
        code, out, _ = run("plot", "HERE/video.lcm", "--original", "HERE/video.mp4", "--out", tmp_path)
        assert code == 0
        assert f"{tmp_path}/video.merged.png" in out
        assert run("plot", "HERE/video.lcm", "--original", "nowhere.mp4", "--out", tmp_path)[0] == 3


def test_synthesize_then_make_shards(run, tmp_path):
    """The folder is one of records: `shards make` reads it as it is."""
    words = ("synthesize", "--out", tmp_path / "new", "--seconds", "12", "--num", "2", "--seed", "5")
    code, out, _ = run(*words, "--size", "64", "--fps", "4", "--json", model=False)
    reports = lines(out)
    assert code == 0
    assert [report["seed"] for report in reports] == [5, 6]
    names = ["scene_0005.json", "scene_0005.mp4", "scene_0006.json", "scene_0006.mp4"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    code, out, _ = run("shards", "make", tmp_path / "new", "--out", tmp_path / "shards")
    assert (code, "2 samples in 1 shards" in out) == (0, True)
    index = load_index(tmp_path / "shards")
    for report, number in zip(reports, range(2), strict=True):
        events = scenes.make_scene(report["seed"], 12.0).events
        record = read_sample(index.read(number), "here").record
        assert [(e["start_s"], e["end_s"], e["text"]) for e in record["events"]] == sorted(
            (e.start_s, e.end_s, e.name) for e in events
        )
        assert len(events) == report["events"] > 0
    code, _, err = run("synthesize", "--out", tmp_path, "--num", "0", model=False)
    assert code == 2
    assert "--num must be > 0, got 0" in err


@pytest.mark.slow
def test_demo(run, tmp_path):
    words = ("demo", "--out", tmp_path, "--minutes", "0.5", "--budget", "100", "--json")
    code, out, err = run(*words, model=False)
    report = json.loads(out)
    assert code == 0 and "Estimate before decoding" in err and "wrote" in err
    assert set(report["questions"][0]) == {"kind", "question", "answer", "truth", "right"}
    assert 0 < report["events"]["F1"] <= 1 and report["events"]["num_asked"] == 3
    assert "List of events, IoU .5" in err and "a Qwen3-VL trained without merging: 188 of 750 tokens" in err
    assert len(report["stock_questions"]) == 5
    assert sum(answer["right"] for answer in report["stock_questions"]) >= 3
    assert {Path(file).name for file in report["files"]} == {path.name for path in tmp_path.iterdir()}
    assert {"video.mp4", "video.json", "video.lcm", "events.srt", "merged.png"} <= {
        path.name for path in tmp_path.iterdir()
    }


class TestTrain:
    @pytest.fixture
    def recipes(self, monkeypatch):
        """The recipes that trainings were called with, and their other arguments; nothing is trained."""
        from longcompress.train import stages
        from longcompress.train.engine import Engine
        from longcompress.train.tiny import recipe as tiny

        calls = []

        def train_tiny(out, recipe, **options):
            calls.append((recipe, options))
            return out / "model"

        def train_stage(model, recipe, out, **options):
            calls.append((recipe, options))
            return out / "model"

        monkeypatch.setattr(tiny, "train_tiny", train_tiny)
        monkeypatch.setattr(stages, "train_stage", train_stage)
        monkeypatch.setattr(Engine, "load", lambda *_: None)
        return calls

    def test_flags_are_fields_of_the_recipe(self, run, tmp_path, recipes):
        words = (
            "train",
            "boundary",
            "--out",
            tmp_path,
            "--shards",
            "a",
            "b",
            "--weights",
            "3",
            "1",
            "--lr",
            "0.5",
        )
        more = ("--engine.workers", "2", "--engine.bf16", "--questions.kinds", '{"qa": 1}', "--engine.report")
        code, out, _ = run(*words, *more, "--resume", "--json", model=False)
        assert (code, json.loads(out)) == (0, {"model": f"{tmp_path}/model"})
        recipe, options = recipes[0]
        assert (recipe.shards, recipe.weights, recipe.lr) == (["a", "b"], [3.0, 1.0], 0.5)
        assert (recipe.engine.workers, recipe.engine.bf16, recipe.engine.report) == (2, True, [])
        assert recipe.questions.kinds == {"qa": 1.0} and recipe.lora["r"] == 16  # from the file
        assert options == {"resume": True}

    def test_a_file_and_a_bool_that_is_false(self, run, tmp_path, recipes):
        (tmp_path / "mine.yaml").write_text("merge_lora: true\nsteps: 7\n")
        words = ("train", tmp_path / "mine.yaml", "--out", tmp_path, "--merge-lora", "false")
        assert run(*words, model=False)[0] == 0
        assert (recipes[0][0].steps, recipes[0][0].merge_lora) == (7, False)

    def test_the_embedded_model(self, run, tmp_path, recipes):
        words = ("train", "tiny", "--out", tmp_path, "--start", "lm", "--clips", "3", "--video.steps=7")
        assert run(*words, model=False)[0] == 0
        recipe, options = recipes[0]
        assert (recipe.clips, recipe.video.steps, options) == (3, 7, {"start": "lm"})
        assert recipe.mixes  # from the file
        code, _, err = run("train", "tiny", "--out", tmp_path, "--resume", model=False)
        assert (code, "it has --start alone" in err) == (2, True)
        code, _, err = run("train", "align", "--out", tmp_path, "--start", "lm", model=False)
        assert (code, "--start is for the embedded model" in err) == (2, True)

    def test_wrong_recipes(self, run, tmp_path):
        (tmp_path / "a.yaml").write_text("lrr: 1\n")
        (tmp_path / "b.yaml").write_text("{")
        for words, code, message in (
            (["nope"], 2, "no recipe 'nope'; give one of align, boundary"),
            (["./nope.yaml"], 3, "no recipe nope.yaml"),
            ([tmp_path / "a.yaml"], 2, "unknown key 'lrr'"),
            ([tmp_path / "b.yaml"], 2, "must be YAML or JSON"),
            (["align", "--lrr", "1"], 2, "unrecognized arguments: --lrr 1; did you mean --lr?"),
            (["align", "--lr", "fast"], 2, "--lr must be float, got fast; see longcompress train --help"),
            (["align", "--engine.workers", "-1"], 2, "workers >= 0"),
        ):
            got, _, err = run("train", *words, "--out", tmp_path, model=False)
            assert (got, message in err) == (code, True), err


class TestDoctor:
    def test_table_and_json(self, run):
        code, out, _ = run("doctor", model=False)
        assert code == 0, out
        assert "FFmpeg" in out
        code, out, _ = run("doctor", "--json", model=False)
        report = {c["name"]: c for c in json.loads(out)["checks"]}
        assert code == 0
        for name in ("python", "torch", "video", "decoder"):
            assert report[name]["status"] == "ok"
        assert report["training attention"]["state"].startswith(("chunked in", "flex in", "flash in"))
        assert {"gpu", "triton", "matplotlib (extra 'plot')"} <= set(report)

    def test_what_is_missing_is_told_with_the_command(self, run, monkeypatch):
        monkeypatch.setattr(doctor, "NEEDED", [*doctor.NEEDED, "no-such-package>=1.2"])
        monkeypatch.setitem(doctor.EXTRAS, "plot", ["matplotlib>=99"])
        code, out, _ = run("doctor", "--json", model=False)
        report = {c["name"]: c for c in json.loads(out)["checks"]}
        assert code == 1
        assert report["no-such-package"]["remedy"] == 'pip install "no-such-package>=1.2"'
        assert report["matplotlib (extra 'plot')"]["status"] == "note"
        assert report["matplotlib (extra 'plot')"]["remedy"] == 'pip install "matplotlib>=99"'

    def test_a_broken_package_is_told(self, monkeypatch):
        for name in ("av", "torch"):
            monkeypatch.setitem(sys.modules, name, None)
        checks = {c.name: c for c in doctor.examine()}
        assert checks["decoder"].remedy == "pip install --force-reinstall av"
        assert checks["gpu"].remedy == "pip install --force-reinstall torch"

    def test_the_attention_of_training_is_told(self, monkeypatch):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("longcompress.llm.attention.find_spec", lambda name: name == "triton")
        for flash, start in ((True, "flash in bfloat16"), (False, "flex in bfloat16, flex in")):
            monkeypatch.setattr(
                "longcompress.llm.attention.is_flash_attn_2_available", lambda flash=flash: flash
            )
            status, state, remedy = doctor._attention()
            assert state.startswith(start) and (status == "ok") == flash
            assert ("flash-attn" in remedy) == (status == "note")

    @pytest.mark.parametrize(
        ("installed", "spec", "status"),
        [
            ("2.13.0+cpu", ">=2.8", "ok"),
            ("2.7.1", ">=2.8", "wrong"),
            ("5.23.0", ">=5.18,<6", "ok"),
            ("6.0", ">=5.18,<6", "wrong"),
            ("3.1rc1", ">=3", "ok"),
        ],
    )
    def test_versions(self, installed, spec, status, monkeypatch):
        monkeypatch.setattr(doctor, "version", lambda _: installed)
        monkeypatch.setattr(doctor, "NEEDED", [f"thing{spec}"])
        (check,) = [c for c in doctor.examine() if c.name == "thing"]
        assert check.status == status

    def test_the_packages_are_those_of_setup(self):
        tree = ast.parse((ROOT / "setup.py").read_text())
        lists = {n.targets[0].id: ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign)}
        call = next(n.value for n in tree.body if isinstance(n, ast.Expr))
        needed = next(ast.literal_eval(k.value) for k in call.keywords if k.arg == "install_requires")

        def split(specs):
            return {re.sub(r"\[\w+\]", "", s) for s in specs}

        assert split(needed) == set(doctor.NEEDED)
        for extra, packages in doctor.EXTRAS.items():
            assert split(lists[extra]) == set(packages)


WRONG = [
    (2, ["foo"], "no command 'foo'; longcompress has compress, ask"),
    (2, ["eval"], "a command is missing; longcompress eval has run, score"),
    (2, ["eval", "foo"], "no command 'foo'; longcompress eval has run, score"),
    (2, ["compress"], "needs FILES and --out; see longcompress compress --help"),
    (2, ["info", "HERE/video.mp4", "--media.rate_fps", "fast"], "--media.rate_fps must be float, got fast"),
    (
        2,
        ["info", "HERE/video.mp4", "--media.decode", "best"],
        "--media.decode must be one of exact, nonref, keyframe, got best; see",
    ),
    (2, ["info", "HERE/video.mp4", "--rate-fps", "8"], "did you mean --media.rate_fps?"),
    (2, ["info", "HERE/video.mp4", "--media.size_px", "8"], "changes must be fields of"),
    (2, ["info", "HERE/video.mp4", "--media.rate_fps", "0"], "rate_fps must be > 0, got 0"),
    (3, ["info", "HERE/video.mp4", "--config", "none.yaml"], "config: no file none.yaml"),
    (2, ["info", "HERE/video.mp4", "--config", "HERE/wrong.yaml"], "media.rate_fps must be float, got fast"),
    (2, ["info", "HERE/video.mp4", "--budget", "2"], "budget must be at least"),
    (2, ["info", "HERE/video.mp4", "--device", "cuda:77"], "--device cuda:77 can't be used"),
    (2, ["compress", "HERE/video.mp4", "--out", "HERE/x.mp4"], "--out must end in .lcm"),
    (2, ["compress", "HERE/video.mp4", "--out", "HERE/x.lcm", "--budget", "2"], "budget must be at least"),
    (
        2,
        ["compress", "HERE/video.mp4", "a.mp4", "--out", "HERE/x.lcm"],
        "--out must be a folder for 2 videos",
    ),
    (2, ["ask", "HERE/video.lcm", "what", "--budget", "9"], "--budget is for videos; the memory file"),
    (3, ["info", "HERE/none.mp4"], "no file "),
    (3, ["info", "HERE/model/config.json"], "config.json"),
    (3, ["info", "https://example.org/a.mp4"], "protocols must have 'https'"),
    (3, ["ask", "HERE/none.lcm", "what"], "no memory file"),
    (3, ["ask", "HERE/broken.lcm", "what"], "is not a whole memory file"),
    (4, ["compress", "HERE/video.mp4", "--out", "HERE/none/x.lcm"], "is no folder that can be written into"),
    (
        4,
        ["compress", "HERE/video.mp4", "--out", "HERE/video.mp4/x.lcm"],
        "is no folder that can be written into",
    ),
    (4, ["synthesize", "--out", "HERE/video.mp4/x"], "can't be written"),
]


@pytest.mark.parametrize(("code", "words", "message"), WRONG, ids=[" ".join(w) for _, w, _ in WRONG])
def test_what_is_wrong_is_one_line_and_a_code(run, here, code, words, message):
    (here / "wrong.yaml").write_text("media: {rate_fps: fast}")
    (here / "broken.lcm").write_bytes((here / "video.lcm").read_bytes()[:-9])
    got, out, err = run(
        *words, model=words[0] in ("info", "ask") or (words[0] == "compress" and len(words) > 1)
    )
    assert (got, out) == (code, ""), err
    assert message in err
    assert err.startswith("longcompress: error: ")
    assert err.count("\n") == 1


def test_no_command_grows_by_a_kernel_for_each_length(run, monkeypatch):
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")  # to be set back behind the test
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    run("models", model=False)
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64"


def test_a_model_that_is_not_there(run):
    code, _, err = run("info", "HERE/video.mp4", "--model", "none", model=False)
    assert code == 2
    assert "name must be one of" in err
    assert run("info", "HERE/video.mp4", "--model", "./none", model=False)[0] == 3


def test_a_package_that_is_not_there(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run("plot", "HERE/video.lcm", "--out", "HERE")
    assert code == 2
    assert 'pip install "matplotlib>=3.8"' in err


def test_debug_shows_where(run):
    with pytest.raises(Failed, match="no file"):
        run("info", "none.mp4", "--debug")


def test_warnings_are_one_line_each(run, monkeypatch):
    def doctor() -> None:
        """Warns."""
        warnings.warn("something\nodd", stacklevel=1)

    monkeypatch.setitem(cli.COMMANDS.commands, "doctor", doctor)
    code, out, err = run("doctor", model=False)
    assert (code, out, err) == (0, "", "longcompress: warning: something odd\n")


PIPED = """
import os, sys
from longcompress.cli.main import main
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 1)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_reader_that_had_enough_is_no_error(here, tmp_path):
    """As in `longcompress info ... | true`, in a process of its own: no bar, no warning, no trace either."""
    (tmp_path / "piped.py").write_text(PIPED)
    words = ["info", here / "video.mp4", "--model", here / "model"]
    assert ranks.run(tmp_path / "piped.py", *words, out=tmp_path / "log") == ([0], "")


def commands_of(group, *words):
    """The words of all commands."""
    for name, command in group.commands.items():
        yield from commands_of(command, *words, name) if isinstance(command, Group) else [(*words, name)]


@pytest.mark.parametrize("words", commands_of(cli.COMMANDS), ids=" ".join)
def test_help_has_a_short_usage_and_every_note(words, capsys):
    assert cli.main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: longcompress ") and text.splitlines()[1] == ""
    out = " ".join(text.split())
    for note in documented(find(words, cli.COMMANDS)[1]).values():
        assert note.replace("%%", "%").split(".")[0].split(";")[0][:30] in out
    if "--out OUT" in text.splitlines()[0]:  # what is needed comes first
        assert re.findall(r"^  (--[\w-]+)", text, re.M)[0] == "--out"


def test_groups_list_their_commands(capsys):
    assert cli.main(["bench", "--help"]) == 0
    out = capsys.readouterr().out
    assert "\n  kernels " in out and "\n  throughput " in out and "\n  report " in out


def test_config_lists_the_fields_that_can_change(run):
    code, out, _ = run("config", model=False)
    assert code == 0
    for field in ("--media.rate_fps", "--merge.schedule", "--segments.length_s", "--budget.allocation"):
        assert field in out
    assert "size_px" not in out


def test_models_lists_the_families(run):
    code, out, _ = run("models", model=False)
    assert code == 0 and "qwen3_vl" in out and "positions" in out
    code, out, _ = run("models", "--json", model=False)
    family = next(f for f in json.loads(out) if f["model_type"] == "qwen3_omni_moe_thinker")
    assert code == 0
    assert family["model_class"] == "Qwen3OmniMoeThinkerForConditionalGeneration"
    assert (family["time"], family["axes"], family["hears"], family["deepstack"]) == ("positions", 3, True, 3)


def test_nothing_to_do_is_help(capsys):
    assert cli.main([]) == 0
    assert "Exit codes:" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_the_module_is_the_command_and_starts_light(word):
    """--help and --version import neither torch nor transformers."""
    words = [sys.executable, "-X", "importtime", "-m", "longcompress", word]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    if word == "--version":
        assert done.stdout == f"longcompress {lc.__version__}\n"
    else:
        assert all(f"\n  {name} " in done.stdout for name in cli.COMMANDS.commands)
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "jsonargparse" in imported
    assert not {"torch", "transformers", "av", "matplotlib"} & imported
