"""Published models from videos on: features of own videos, the papers' stages on them, answers, scores."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import longcompress as lc
from longcompress.checkpoints.architectures import encoders_of
from longcompress.cli.main import main
from longcompress.compression.state import MergeState
from longcompress.encoders import Stream
from longcompress.llm import Example
from longcompress.media.reader import read
from longcompress.train.imports import npy as arrays
from longcompress.train.shards.index import load_index
from longcompress.train.shards.sample import read_sample
from longcompress.train.stages import train_stage
from longcompress.types import Audio

import stages
from models import published
from stages import recipe_of
from videos import Video, write

pytestmark = pytest.mark.slow

VIDEOS = {
    "both.mp4": Video(), "silent.webm": Video(codec="libvpx-vp9", audio_codec=None),
    "heard.mkv": Video(codec=None),
    "short.avi": Video(codec="mpeg4", audio_codec="pcm_s16le", stamps=range(0, 160, 40), audio_s=0.03),
}  # fmt: skip
STREAMS = {
    "both": {"video": 100, "audio": 1, "speech": 1}, "silent": {"video": 100},
    "heard": {"audio": 1, "speech": 1}, "short": {"video": 100, "speech": 1},
}  # fmt: skip
SPAN = {"<s0>": 1.0, "<e0>": 2.0}


@pytest.fixture(autouse=True)
def one_thread():
    """Many small steps: threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """A folder with encoders and a language model, videos, and a file that is none."""
    folder = tmp_path_factory.mktemp("published")
    published(folder / "base")
    (folder / "in").mkdir()
    for name, video in VIDEOS.items():
        write(folder / "in" / name, video)
    (folder / "in" / "broken.mp4").write_bytes((folder / "in" / "both.mp4").read_bytes()[:3000])
    return folder


def parts_of(name, where):
    """The bases that a published model takes."""
    names = ("video", "audio", "speech", "llm") if name == "longvale" else ("video", "llm")
    return {part: str(where / "base" / part) for part in names}


def flags_of(name, where):
    """The same, as they are typed."""
    return [
        "--preset",
        name,
        *(w for part, path in parts_of(name, where).items() for w in (f"--base.{part}", path)),
    ]


def features(folder):
    """Key -> stream -> number of tokens."""
    return {entry.key: dict(entry.tokens) for entry in load_index(folder).entries}


def test_any_container_becomes_shards_and_broken_ones_are_named(where, tmp_path, capsys):
    words = ["shards", "make", str(where / "in"), "--out", str(tmp_path), *flags_of("longvale", where)]
    assert main(words) == 3
    assert "broken: " in capsys.readouterr().err
    assert features(tmp_path) == STREAMS
    assert "no readable index" in (tmp_path / "manifest.jsonl").read_text()
    index = load_index(tmp_path)
    model = lc.load("longvale", base=parts_of("longvale", where), device="cpu")
    assert index.features["identity"] == model.identity()
    number = [entry.key for entry in index.entries].index("both")
    chunks = read_sample(index.read(number), "both").chunks
    with read(where / "in" / "both.mp4", model.config.media) as parts:
        heard = [part for part in parts if isinstance(part, Audio)]
    for name in ("audio", "speech"):  # what the encoder says of the whole audio at once
        stream = Stream(model.encoders[name])
        whole = Audio(torch.cat([part.samples for part in heard]), heard[0].start_s)
        want = torch.cat([e.tokens.x for e in stream.push(whole) + stream.flush()])
        torch.testing.assert_close(chunks[0].groups[name].tokens.x, want.bfloat16().float())


def test_the_projects_own_files(where, tmp_path, capsys):
    words = [
        "shards",
        "export-npy",
        str(where / "in"),
        "--out",
        str(tmp_path / "all"),
        *flags_of("longvale", where),
    ]
    assert main(words) == 3
    assert "broken: " in capsys.readouterr().err
    result = {
        name: {path.stem: np.load(path) for path in sorted((tmp_path / "all" / name).glob("*.npy"))}
        for name in ("visual", "audio", "speech")
    }
    kinds = {"visual": ("video", np.float16, 8), "audio": ("audio", np.float32, 16)}
    kinds["speech"] = ("speech", np.float32, 8)
    for name, (stream, dtype, width) in kinds.items():
        want = {key: (num[stream], width) for key, num in STREAMS.items() if stream in num}
        assert {key: array.shape for key, array in result[name].items()} == want
        assert {array.dtype for array in result[name].values()} == {np.dtype(dtype)}
    model = encoders_of("longvale", base=parts_of("longvale", where), device="cpu")
    streams = lc.compress(model, where / "in" / "both.mp4", budget=2048, progress=False).streams
    assert np.array_equal(result["speech"]["both"], streams["speech"].x.numpy())
    assert np.array_equal(result["visual"]["both"], streams["video"].x.half().numpy())
    (tmp_path / "all" / "parts" / "heard.json").unlink()
    main(words)
    assert "1 made, 3 there already, 1 failed" in capsys.readouterr().out
    words = [
        "shards",
        "export-npy",
        str(where / "in"),
        "--out",
        str(tmp_path / "one"),
        *flags_of("vtimellm", where),
    ]
    assert main(words) == 3
    assert "heard: " in capsys.readouterr().err  # there is nothing to see in it
    assert {path.stem for path in (tmp_path / "one").glob("*.npy")} == {"both", "silent", "short"}
    again = np.load(tmp_path / "one" / "both.npy")
    assert np.array_equal(again, result["visual"]["both"])


def test_a_frame_that_is_missing_is_no_feature_of_theirs(where, tmp_path, monkeypatch):
    model = encoders_of("vtimellm", base=parts_of("vtimellm", where), device="cpu")
    whole = MergeState.compress

    def fewer(self, *budget):
        video = whole(self, *budget)
        return replace(video, streams={n: tokens.take(slice(1, None)) for n, tokens in video.streams.items()})

    monkeypatch.setattr(MergeState, "compress", fewer)
    record = arrays.Record("both", str(where / "in" / "both.mp4"))
    (built,) = arrays.make([record], tmp_path, model, progress=False)
    assert built.status == "failed" and "gave 99 frames of 100, which their code needs" in built.reason
    assert not list(tmp_path.glob("*.npy"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["make", "--base.video", "x"], "--base is of a published model; give --preset too"),
        (["make", "--preset", "vtimellm", "--model", "tiny"], "both say whose features; leave one out"),
        (["make", "--preset", "vtimellm", "--base.audio", "x"], "base must be of parts of vtimellm"),
        (["make", "--preset", "vtimellm", "--variant.tail", "x"], "variant of vtimellm must be of"),
        (["make", "--preset", "vtimellm", "--base.video", "/no"], "base '/no': no such folder"),
        (["export-npy", "--preset", "vtimellm", "--variant.mode", "ours", "--base.video", "VISION"],
         'variant mode must be "paper": their code wants 100 frames'),
        (["make", "--preset", "shortvlm"], "shortvlm"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(where, tmp_path, capsys, words, message):
    words = [str(where / "base" / "video") if word == "VISION" else word for word in words]
    code = main(["shards", words[0], str(where / "in"), "--out", str(tmp_path / "out"), *words[1:]])
    assert code in (2, 3) and message in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"model must be one of vtimellm, longvale, .* got 'longvlm'"):
        arrays.make([], tmp_path, encoders_of("longvlm", base=parts_of("longvlm", where), device="cpu"))


def dialogue(name, **meta):
    """A made-up entry in VTimeLLM's and LongVALE's shape."""
    turns = ("<video>\nWhen does the red ball appear?", "From <s0> to <e0>.", "What is seen?", "A blue box.")
    speakers = ("human", "gpt", "human", "gpt")
    conversations = [{"from": who, "value": text} for who, text in zip(speakers, turns, strict=True)]
    return {"id": name, "conversations": conversations, "meta": {"duration": 4.0, "token": SPAN} | meta}


def converted(where, rows, shape):
    """Records of made-up annotations, as `shards convert` writes them."""
    source, out = where / f"{shape}.json", where / f"{shape}.jsonl"
    source.write_text(json.dumps(rows))
    words = ["--format", shape, "--videos", str(where / "in"), "--out", str(out)]
    assert main(["shards", "convert", str(source), *words]) == 0
    return out


def shards_of(name, source, out, where):
    """Shards of the preset, made by the command."""
    assert main(["shards", "make", str(source), "--out", str(out), *flags_of(name, where)]) == 0
    return out


def small(name, folder, **changes):
    """A paper's recipe with other sizes: 4 videos a step instead of 128, a tiny language model's rates."""
    recipe = recipe_of(name)
    engine = replace(stages.CPU, accumulate=2, checkpointing=True)
    sizes = {"min_videos": 4, "max_videos": 4, "lr": 0.02, "log_steps": 1, "save_steps": 1000, "seed": 3}
    lora = recipe.lora | {"r": 4}
    return replace(recipe, shards=[str(folder)], engine=engine, lora=lora, **sizes | changes)


def trained(model, recipe, out):
    """Folder of the model after a stage whose loss falls."""
    folder = train_stage(model, recipe, out)
    losses = stages.losses(out)
    assert sum(losses[-3:]) < sum(losses[:3]), losses
    return folder


def same_logits(model, folder, video):
    """That what was saved reads a video as the model that was trained."""
    again = lc.load(folder, device="cpu")
    batches = [
        item.llm.collate([Example(lc.compress(item, video, progress=False).video, [("what", "a ball")])])
        for item in (model.eval(), again)
    ]
    with torch.no_grad():
        torch.testing.assert_close(again(**batches[1])["logits"], model(**batches[0])["logits"])
    return again


def answered(model, where, names):
    """That it answers about videos with what they have."""
    for name in names:
        memory = lc.compress(model, where / "in" / name, progress=False)
        assert isinstance(memory.ask("when does the ball appear").text, str)
        assert {stream: len(tokens) for stream, tokens in memory.streams.items()} == {
            stream: num for stream, num in STREAMS[Path(name).stem].items() if stream in model.streams
        }


@pytest.mark.slow
def test_vtimellm_from_videos_to_answers(where, tmp_path):
    (where / "captioned").mkdir()
    for name in ("v0", "v1"):
        write(where / "captioned" / f"{name}.mp4", Video(audio_codec=None))
        (where / "captioned" / f"{name}.json").write_text(
            json.dumps({"captions": ["a red ball and a blue box"]})
        )
    seen = shards_of("vtimellm", where / "captioned", tmp_path / "s1", where)
    rows = [dialogue("both"), dialogue("silent"), dialogue("both", split=[1.0, 3.0], duration=2.0)]
    asked = shards_of("vtimellm", converted(where, rows, "dialogues"), tmp_path / "s2", where)
    assert set(features(asked)) == {"both", "silent", "both_1_3"}
    torch.manual_seed(1)
    lc.load("vtimellm", base=parts_of("vtimellm", where), device="cpu").save_pretrained(tmp_path / "start")
    before = tmp_path / "start"
    for stage, folder in (("align", seen), ("boundary", asked), ("instruct", asked)):
        recipe = small(f"vtimellm_{stage}", folder, epochs=12, model=str(before))
        model = lc.load(before, device="cpu")
        before = trained(model, recipe, tmp_path / stage)
    assert (before / "adapter").is_dir()
    again = same_logits(model, before, where / "in" / "both.mp4")  # the merged adapter too
    answered(again, where, ["both.mp4", "silent.webm"])


@pytest.mark.slow
def test_longvale_from_videos_to_answers(where, tmp_path):
    silent = [dialogue("silent")]
    seen = shards_of("longvale", converted(where, silent, "dialogues"), tmp_path / "s1", where)
    rows = [dialogue("both"), dialogue("silent"), dialogue("heard")]
    asked = shards_of("longvale", converted(where, rows, "dialogues"), tmp_path / "s2", where)
    torch.manual_seed(1)
    lc.load("longvale", base=parts_of("longvale", where), device="cpu").save_pretrained(tmp_path / "start")
    before = tmp_path / "start"
    projectors = {}
    for stage, folder in (
        ("vtimellm_align", seen),
        ("longvale_boundary", asked),
        ("longvale_instruct", asked),
    ):
        recipe = small(stage, folder, epochs=12 if folder is asked else 32, model=str(before))
        if folder is seen:  # VTimeLLM's projector of frames, which LongVALE begins with
            recipe = replace(
                recipe, train=["projectors.video"], questions=recipe_of("longvale_boundary").questions
            )
        model = lc.load(before, device="cpu")
        before = trained(model, recipe, tmp_path / stage)
        projectors[stage] = {name: p.detach().clone() for name, p in model.llm.project.named_parameters()}
    changed = {
        stage: {n.split(".")[0] for n, p in now.items() if not p.equal(projectors["vtimellm_align"][n])}
        for stage, now in projectors.items()
    }
    assert changed["longvale_boundary"] == changed["longvale_instruct"] == {"audio", "speech"}
    again = same_logits(model, before, where / "in" / "both.mp4")
    answered(again, where, ["both.mp4", "silent.webm", "heard.mkv", "short.avi"])


@pytest.mark.slow
def test_longvlm_from_videos_to_answers(where, tmp_path):
    eyes = published(tmp_path / "eyes", patch=14)  # 256 patches, as many as are merged
    flags = ["--preset", "longvlm", "--base.video", eyes["video"]]
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "both.mp4", Video())
    asked = [{"q": "What is red?", "a": "The ball.", "video_id": "both"}]
    (tmp_path / "qa.json").write_text(json.dumps(asked))
    words = ["--format", "qa", "--videos", str(tmp_path / "in"), "--out", str(tmp_path / "qa.jsonl")]
    assert main(["shards", "convert", str(tmp_path / "qa.json"), *words]) == 0
    assert main(["shards", "make", str(tmp_path / "qa.jsonl"), "--out", str(tmp_path / "s"), *flags]) == 0
    assert features(tmp_path / "s") == {"both": {"video": 300}}
    torch.manual_seed(1)
    model = lc.load("longvlm", base={"video": eyes["video"], "llm": eyes["llm"]}, device="cpu")
    recipe = small(
        "longvlm",
        tmp_path / "s",
        epochs=32,
        questions=replace(recipe_of("longvlm").questions, max_questions=1),
    )
    folder = trained(model, recipe, tmp_path / "run")
    again = same_logits(model, folder, tmp_path / "in" / "both.mp4")
    memory = lc.compress(again, tmp_path / "in" / "both.mp4", progress=False)
    assert memory.num_tokens == 305 and isinstance(memory.ask("what is red").text, str)


REFERENCE = {
    name: {"duration": 4.0, "timestamps": [[0, 2], [1, 2]], "sentences": ["It is red.", "A ball appears."]}
    for name in ("both", "silent", "heard", "broken")
}


@pytest.mark.parametrize(
    ("task", "prompt", "preset"),
    [("longvale-tvg", "longvale", "longvale"), ("activitynet-grounding", "vtimellm", "vtimellm")],
)
def test_the_evaluation_asks_and_scores_them(where, tmp_path, monkeypatch, task, prompt, preset):
    torch.manual_seed(1)
    model = lc.load(preset, base=parts_of(preset, where), device="cpu")
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "reference.json").write_text(json.dumps(REFERENCE))
    out = tmp_path / "run.jsonl"
    words = [
        "eval",
        "run",
        task,
        "--reference",
        str(tmp_path / "reference.json"),
        "--videos",
        str(where / "in"),
    ]
    words += ["--model", str(tmp_path / "model"), "--prompt", prompt, "--device", "cpu"]

    def done(out, *more):
        assert main([*words, "--out", str(out), *more]) == 0
        header, *lines = (json.loads(line) for line in out.read_text().splitlines())
        return header, {line["id"]: line for line in lines}

    header, lines = done(out, "--max-new-tokens", "4")  # what a random model says
    failed = {line["video"] for line in lines.values() if "failed" in line}
    assert failed == {"broken"} | ({"heard"} if preset == "vtimellm" else set())
    assert (header["task"], header["prompt"], header["model"]) == (task, prompt, preset)
    assert {line["video"]: line["tokens"] for line in lines.values() if "failed" not in line} == {
        name: sum(num for stream, num in STREAMS[name].items() if stream in model.streams)
        for name in {"both", "silent", "heard"} - failed
    }
    llm = type(model.llm)
    monkeypatch.setattr(llm, "answer", lambda self, video, asked, **_: ["From 25 to 50."] * len(asked))
    _, lines = done(tmp_path / "told.jsonl")
    assert {tuple(line["value"]) for line in lines.values() if "failed" not in line} == {(1.0, 2.0)}
    summary = json.loads((tmp_path / "told.summary.json").read_text())
    num = summary["num_answered"]
    assert summary["unparsed"] == [] and num == 2 * (4 - len(failed))
    assert summary["metrics"]["mIoU"] == pytest.approx(0.75 * num / len(lines))  # IoU .5 and 1, lost 0
