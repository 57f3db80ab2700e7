"""Commands about videos and memories: info, compress, ask, events, plot, synthesize, demo."""

import json
import os
import signal
import tempfile
from pathlib import Path

import pytest

from longcompress.cli.output import cited
from longcompress.memory import VideoMemory
from longcompress.session import Session
from longcompress.synthetic import scenes
from longcompress.train.shards.index import load_index
from longcompress.train.shards.sample import read_sample
from longcompress.types import Cite


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
