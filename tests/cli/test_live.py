"""`longcompress live` on a small random model: a run with all its files, its replay, and its errors."""

import json
import math
import re

import pytest

from longcompress.cli import main as cli
from longcompress.cli.live import cue
from longcompress.events.subtitles import read_subtitles
from longcompress.synthetic.scenes import OBJECTS, make_scene, write_video

import models
from videos import Video, write

PATTERN = "lavfi:testsrc=size=64x64:rate=5:duration=6"
LIVE = [
    "--live.past", "20", "--live.near_s", "8", "--live.text_tokens", "60", "--live.max_reply_tokens", "9",
    "--live.trigger.rule", "single", "--live.trigger.threshold", "0.01", "--live.trigger.heads", "relevance",
    "--live.trigger.refractory_s", "2", "--budget", "40",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    models.with_heads().save_pretrained(folder / "model", include_base=True)
    return str(folder / "model")


def run(capsys, *words):
    code = cli.main([str(word) for word in words])
    return code, *capsys.readouterr()


def test_a_run_leaves_its_files_and_plays_again(capsys, model, tmp_path):
    out, vtt, log, plot = (tmp_path / name for name in ("a.jsonl", "a.vtt", "log", "a.png"))
    texts = ["--say", "when does the red ball appear", "what is seen", "--when", "0", "3"]
    code, text, err = run(
        capsys, "live", PATTERN, "--protocols", "lavfi", "--model", model, *LIVE, *texts, "--out", out,
        "--vtt", vtt, "--record", log, "--plot", plot,
    )  # fmt: skip
    assert code == 0 and "0:00:06 of media, 6 steps" in err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    kinds = [row["event"] for row in rows]
    assert kinds.count("Scored") == 6 and kinds.count("Asked") == 2 and "Reply" in kinds
    replies = [row for row in rows if row["event"] == "Reply" and not row["is_repeat"]]
    assert len(text.splitlines()) == len(replies)
    answers = [row["answer"]["text"] for row in replies]
    assert [e.text for e in read_subtitles(vtt).events] == [text for text in answers if text.split()]
    assert plot.read_bytes()[:4] == b"\x89PNG"
    code, text, _ = run(capsys, "live", "replay", log, "--check", "--model", model)
    assert (code, text) == (0, f"{log}: all events are the same\n")
    code, text, _ = run(capsys, "live", "replay", log, "--json", "--model", model)
    assert [json.loads(line) for line in text.splitlines()] == rows
    events = log / "events.jsonl"
    events.write_text(events.read_text().replace('"fired": true', '"fired": false', 1))
    code, text, err = run(capsys, "live", "replay", log, "--check", "--model", model)
    assert code == 1 and "1 events differ" in text and "was " in err


def test_a_file_ends_after_some_seconds(capsys, model, tmp_path):
    path = write(tmp_path / "video.mkv", Video())
    words = ["live", path, "--model", model, *LIVE, "--seconds", "2", "--json"]
    code, text, _ = run(capsys, *words)
    scored = [row for row in map(json.loads, text.splitlines()) if row["event"] == "Scored"]
    assert code == 0 and [row["time_s"] for row in scored] == [0.0, 1.0]


def test_without_a_model_the_shipped_duet_tells_of_what_is_named_and_of_nothing_else(capsys, tmp_path):
    """On an unseen video of 12 s. Times in answers are whole seconds of its first frame."""
    scene = make_scene(41_000_003, 12.0)
    event = max(scene.of("video"), key=lambda event: event.end_s - event.start_s)
    absent = next(name for name in OBJECTS if name not in {event.name for event in scene.events})
    path = write_video(scene, tmp_path / "video.mp4", rate_fps=2)
    replies = []
    for name in (event.name, absent):
        code, text, _ = run(capsys, "live", path, "--say", f"Tell me when the {name} appears.", "--json")
        assert code == 0
        replies.append([row for row in map(json.loads, text.splitlines()) if row["event"] == "Reply"])
    ((reply,), none) = replies
    assert not none and event.start_s <= reply["time_s"] <= event.start_s + 2
    assert reply["answer"]["text"] == f"{event.name} {math.ceil(event.start_s)}"


@pytest.mark.parametrize(("words", "code", "message"), [
    (["rtsp://ann:secret@cam/1"], 2, "source rtsp://cam/1 is of kind rtsp, allowed are file, stdin"),
    (["srt://cam/1"], 2, "source must be a path, - or of a kind in file"),
    (["nowhere.mp4"], 3, "there is none of this name"),
    (["v4l2:/dev/video99", "--protocols", "v4l2"], 3, "source v4l2:/dev/video99 can't be read"),
    ([PATTERN, "--say", "a", "b", "--when", "1"], 2, "--when must have a number for each --say, got 1 for 2"),
    ([PATTERN, "--say", "a", "--when", "-1"], 2, r"--when must be seconds >= 0, got \[-1"),
    ([PATTERN, "--plot", "a.gif", "--protocols", "lavfi"], 2, "path must end in one of .png"),
    ([PATTERN, "--out", "/nowhere/a.jsonl", "--protocols", "lavfi"], 4, "no folder that can be written"),
    ([PATTERN, "--seconds", "0"], 2, "--seconds must be > 0, got 0"),
    ([PATTERN, "--speed", "-1"], 2, "--speed must be >= 0, got -1"),
    ([PATTERN, "--protocols", "lavfi", "--live.near_s", "0"], 2, "near_s 0 keeps every step"),
    (["replay", "nowhere"], 3, "no log in nowhere"),
])  # fmt: skip
def test_errors_name_what_is_wrong(capsys, model, words, code, message):
    flags = [] if "--live.near_s" in words or words[0] == "replay" else LIVE
    got, _, err = run(capsys, "live", *words, "--model", model, *flags)
    assert got == code, err
    assert "secret" not in err
    assert re.search(message, err), err


def test_a_cue_is_escaped_and_has_its_time():
    assert cue(59.9996, "a").startswith("00:01:00.000 --> 00:01:02.000\n")
    assert cue(3725.5, "a <b> --> c & d") == ("01:02:05.500 --> 01:02:07.500\na &lt;b> --&gt; c &amp; d\n\n")
