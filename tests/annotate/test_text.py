"""Text of a video: in its memory and file, in the command, and through training shards."""

import json
import re

import numpy as np
import pytest

import longcompress as lc
from longcompress.cli.main import main
from longcompress.synthetic.scenes import make_scene, write_video
from longcompress.train.data.dataset import ExampleMaker, QuestionConfig
from longcompress.train.records import Record
from longcompress.train.shards.index import load_index
from longcompress.train.shards.make import make, pack
from longcompress.train.shards.sample import read_sample
from longcompress.types import Event

TEXTS = (Event(2.0, 3.0, "red ball"), Event(9.0, 10.0, "bell"))


@pytest.fixture(scope="module")
def model():
    return lc.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(make_scene(5, 12.0), tmp_path_factory.mktemp("v") / "v.mp4", size_px=64)


def test_a_memory_keeps_its_text_outside_the_budget(model, video, tmp_path):
    plain = lc.compress(model, video, budget=50, progress=False)
    memory = lc.compress(model, video, budget=50, progress=False, text=TEXTS)
    assert memory.num_tokens == plain.num_tokens == 50
    assert "text" not in plain.source and memory.source["text"].startswith("2 of 2 texts in the prompt, ")
    read = lc.load_memory(memory.save(tmp_path / "m.lcm"), model)
    assert read.video.text == TEXTS and read.source["text"] == memory.source["text"]
    long, short = (model.llm.prefill(m.video).length for m in (read, plain))
    assert long > short
    assert read.ask("when is the ball seen").text == memory.ask("when is the ball seen").text


def test_the_command_reads_subtitles_and_info_tells_of_them(video, tmp_path, capsys):
    (tmp_path / "s.srt").write_text("1\n00:00:02,000 --> 00:00:01,000\nred ball\n")
    out = str(tmp_path / "m.lcm")
    subtitles = str(tmp_path / "s.srt")
    words = ["compress", str(video), "--out", out, "--budget", "50", "--subtitles", subtitles]
    assert main(words) == 0
    assert "1 times ends before it starts: line 2: red ball" in capsys.readouterr().err
    assert main(["info", out]) == 0
    assert "1 of 1 texts in the prompt" in " ".join(capsys.readouterr().out.split())
    assert main(["info", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory"]["text"].startswith("1 of 1 texts")
    (tmp_path / "two.mp4").write_bytes(video.read_bytes())
    assert (
        main(
            [
                "compress",
                str(video),
                str(tmp_path / "two.mp4"),
                "--out",
                str(tmp_path),
                "--subtitles",
                "x.srt",
            ]
        )
        == 2
    )


def test_texts_over_their_limit_are_thinned_out_and_info_tells(video, tmp_path, capsys):
    cues = [f"00:{i:02}.000 --> 00:{i:02}.900\nred ball" for i in range(10)]
    (tmp_path / "s.vtt").write_text("WEBVTT\n\n" + "\n\n".join(cues))
    out, subtitles = str(tmp_path / "m.lcm"), str(tmp_path / "s.vtt")
    words = ["compress", str(video), "--out", out, "--budget", "50", "--subtitles", subtitles]
    assert main([*words, "--llm.text_tokens", "24"]) == 0
    capsys.readouterr()
    assert main(["info", out, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)["memory"]["text"]
    shown, used = map(
        int, re.match(r"(\d+) of 10 texts in the prompt, (\d+) of at most 24 tokens", content).groups()
    )
    assert 1 < shown < 10 and 12 < used <= 24  # it is filled


def test_training_shards_carry_the_text_into_the_prompt(model, video, tmp_path):
    records = [Record("v", str(video), events=(Event(1.0, 4.0, "red ball"),), text=TEXTS)]
    make(records, tmp_path, model, progress=False)
    pack(tmp_path, records, progress=False)
    index = load_index(tmp_path)
    maker = ExampleMaker(model, QuestionConfig(kinds={"dense": 1.0}), 0)
    example, _ = maker.example(read_sample(index.read(0), "v"), 40, np.random.default_rng(0))
    assert example.video.text == TEXTS and example.video.num_tokens == 40
