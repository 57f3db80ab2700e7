"""Duets of shards: what each kind calls for, and that the trainer's stage teaches both heads."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import longcompress as lc
from longcompress.config_live import HEADS
from longcompress.train.data.dataset import QuestionConfig
from longcompress.train.data.duet_samples import DuetOptions, collate_duets, duet_of, example_of
from longcompress.train.data.live_samples import LiveTask
from longcompress.train.records import Record, TimedTurn, read_records
from longcompress.train.shards import make as shards
from longcompress.train.signals import duet_signals_of
from longcompress.train.stages import train_stage
from longcompress.types import Event

import stages
import videos

GOLDEN = Path(__file__).parents[1] / "golden" / "mmduet"
TALK = (
    TimedTurn("user", "what", 1.0, 1.0, 1.0),
    TimedTurn("assistant", "a dog", 3.0, 2.0, 3.5),
    TimedTurn("user", "and now", 4.0, 4.0, 4.0),
    TimedTurn("assistant", "a cat", 8.0, 6.0, 8.5),
)
RECORD = Record(
    "v", "v.mp4", events=(Event(2.0, 5.0, "red"), Event(8.0, 9.0, "red")),
    duets=(TALK, tuple(turn for turn in TALK if turn.role == "assistant")),
)  # fmt: skip


def duet(kind, number=0, **options):
    generator = np.random.default_rng(number)
    return duet_of(RECORD, kind, generator, duration_s=12.0, rate_fps=2.0, options=DuetOptions(**options))


def times(labels, first):
    """Seconds of the frames that a label is 1 of."""
    return [(first + i) / 2 for i, label in enumerate(labels) if label == 1]


def test_each_kind_calls_for_what_it_is_about():
    halves = [2, 2.5, 3, 3.5, 4, 4.5, 8, 8.5]
    for number in range(9):
        alert = duet("alert", number)
        labels = alert.labels()
        assert times(labels["informative"], alert.first_frame) == [2, 2.5, 3, 3.5, 8, 8.5]
        assert times(labels["relevance"], alert.first_frame) == halves
        assert [turn.text for turn in alert.turns if turn.role == "assistant"] == ["red", "red"]
        quiet = duet("quiet", number)
        assert quiet.first_frame / 2 in (5, 9) and quiet.num_frames == 6
        assert set(map(tuple, quiet.labels().values())) == {(0,) * 6} and len(quiet.labels()) == 2
        assert not any(turn.role == "assistant" for turn in quiet.turns)
        talk = duet("magqa", number)
        assert [turn.text for turn in talk.turns if turn.text] == [turn.text for turn in TALK]
        assert times(talk.labels()["relevance"], talk.first_frame) == [2, 2.5, 3, 6, 6.5, 7, 7.5]
    ground = duet("ground").labels()
    assert set(ground) == {"relevance"} and times(ground["relevance"], 0) == halves
    assert set(duet("narrate").labels()) == {"informative", "relevance"}
    assert set(duet("narrate", published=True).labels()) == {"informative"}


def test_a_sample_ends_before_what_it_has_no_frames_for():
    for number in range(20):
        short = duet("alert", number, max_frames=6)
        assert short.num_frames <= 6 and len(short.labels()["informative"]) == short.num_frames
        onset = 4 - short.first_frame  # of the event, in frames
        assert short.labels()["informative"][:onset] == [0] * onset
        is_told = any(turn.role == "assistant" for turn in short.turns)
        assert is_told == (1 in short.labels()["informative"])


@pytest.mark.parametrize("wrong", [{"max_frames": 0}, {"silent": 1.5}, {"positive": 0.0}])
def test_options_out_of_range(wrong):
    with pytest.raises(ValueError, match=r"max_frames must be >= 1, positive > 0"):
        DuetOptions(**wrong)


@pytest.fixture(scope="module")
def base():
    return lc.load("mmduet", base={"llava": str(GOLDEN / "base")}, weights=GOLDEN / "adapter", device="cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, base):
    """Shards of a video of 4 s with both, by the tokens that a segment keeps."""
    where = tmp_path_factory.mktemp("duets")
    (where / "in").mkdir()
    videos.write(where / "in" / "v.mp4", videos.Video(audio_codec=None))
    turns = [{"role": "assistant", "text": "a bar", "time_s": 2.5, "start_s": 1.0, "end_s": 3.0}]
    events = [{"start_s": 1.0, "end_s": 3.0, "text": "a bar"}]
    (where / "in" / "v.json").write_text(json.dumps({"events": events, "duets": [turns]}))
    records, before = read_records(where / "in"), base.config.merge.tokens_per_segment
    for name, num in (("whole", 10**6), ("merged", 60)):
        base.change({"merge": {"tokens_per_segment": {"video": num}}})
        shards.make(records, where / name, base, progress=False)
        shards.pack(where / name, records, progress=False)
    base.change({"merge": {"tokens_per_segment": before}})
    return where


def test_a_stage_teaches_both_heads_and_replies(base, folders, tmp_path):
    recipe = stages.recipe_of("mmduet")
    assert (recipe.lr, recipe.epochs, recipe.min_videos, recipe.warmup) == (2e-5, 1, 64, 0.05)
    assert recipe.lora["r"] == 16 and recipe.questions.duet == DuetOptions(published=True)
    recipe = replace(
        recipe, shards=[str(folders / "whole")], min_videos=1, max_videos=1, epochs=0, steps=3, save_steps=3,
        log_steps=1, lr=1e-2, engine=stages.CPU,
        questions=QuestionConfig(kinds={"narrate": 1.0, "alert": 1.0}, duet=DuetOptions(positive=2.0)),
    )  # fmt: skip
    before = {n: p.detach().clone() for n, p in base.llm.named_parameters()}
    trained = train_stage(base, recipe, tmp_path / "out")
    saved = stages.weights(tmp_path / "out")
    assert {n.split(".")[1] for n in saved} == {"lm", "heads"} and len(stages.losses(tmp_path / "out")) == 3
    for name, value in saved.items():
        if "heads" in name:
            assert not torch.equal(value, before[name.removeprefix("llm.")])
    again = lc.load(trained, device="cpu")
    assert all(torch.equal(again.llm.get_parameter(n.removeprefix("llm.")), saved[n]) for n in saved)


def test_validation_says_whether_it_looks_at_the_frames(base, folders, tmp_path, capsys):
    recipe = replace(
        stages.recipe_of("mmduet"), shards=[str(folders / "whole")], eval_shards=[str(folders / "whole")],
        eval_steps=2, min_videos=1, max_videos=1, epochs=0, steps=2, log_steps=1, engine=stages.CPU,
        questions=QuestionConfig(kinds={"alert": 1.0}),
    )  # fmt: skip
    train_stage(base, recipe, tmp_path)
    lines = [line for line in stages.log_of(tmp_path) if "eval_loss" in line]
    assert [line["step"] for line in lines] == [2]
    assert {"eval_loss_heads", "eval_auc_informative", "eval_auc_relevance"} <= set(lines[0])
    assert "step 2: validation loss" in capsys.readouterr().out


def test_signals_of_duets_are_those_of_each_alone(base):
    generator, task = torch.Generator().manual_seed(0), LiveTask(base.llm.eval(), 2.0, 3.0)
    duets = []
    for number, kind in enumerate(("alert", "quiet", "narrate", "ground")):
        asked = duet(kind, number)
        frames = torch.randn(24 - number, base.video.patches, base.video.width, generator=generator)
        duets.append(example_of(asked, frames, DuetOptions(), np.random.default_rng(number)))
    got = duet_signals_of(base, task, duets, ["a", "b", "b", "c"])
    with torch.no_grad():
        own = [task(**collate_duets([duet], base.llm)) for duet in duets]
        other = []
        for duet_, of in zip(duets, (1, 3, 3, 0), strict=True):
            frames = torch.cat([duets[of].frames] * 30)[: len(duet_.frames)]
            other.append(float(task(**collate_duets([replace(duet_, frames=frames)], base.llm))["loss"]))
    losses = [float(out["loss"]) for out in own]
    assert got.own == pytest.approx(np.mean(losses)) and got.swapped == pytest.approx(np.mean(other))
    assert (got.answers, got.better) == (4, sum(a < b for a, b in zip(losses, other, strict=True)))
    assert got.kinds["heads"] == pytest.approx(np.mean([float(out["heads_loss"]) for out in own]))
    replies = [float(out["reply_loss"]) for i, out in enumerate(own) if i in (0, 2)]
    assert got.kinds["reply"] == pytest.approx(np.mean(replies))
    for head, auc in got.auc.items():
        score, label = (torch.cat([out[name][head] for out in own]) for name in ("scores", "known"))
        yes, no = (score[label == of].tolist() for of in (1, 0))
        pairs = [(a > b) + (a == b) / 2 for a in yes for b in no]
        assert auc == pytest.approx(np.mean(pairs)), head
    assert set(got.auc) == set(HEADS)


def test_what_cannot_be_learned_says_so(base, folders, tmp_path):
    recipe = replace(stages.recipe_of("mmduet"), min_videos=1, max_videos=1, epochs=0, engine=stages.CPU)
    merged = replace(recipe, shards=[str(folders / "merged")], on_error="stop")
    with pytest.raises(ValueError, match=r"needs all tokens of its frames.*--tokens-per-segment"):
        train_stage(base, merged, tmp_path / "a")
    whole = replace(recipe, shards=[str(folders / "whole")], on_error="stop")
    only = QuestionConfig(kinds={"magqa": 1.0})
    with pytest.raises(ValueError, match=r"its annotations have nothing of the kinds magqa"):
        train_stage(base, replace(whole, questions=only), tmp_path / "b")
    tiny = lc.load("tiny", device="cpu")
    with pytest.raises(ValueError, match=r"need a model like MMDuet"):
        train_stage(tiny, replace(whole, train=["lora"]), tmp_path / "d")
    with pytest.raises(ValueError, match=r"kinds must give a weight > 0 to some of .* or to some of narrate"):
        QuestionConfig(kinds={"narrate": 1.0, "dense": 1.0})
