"""Equal to the papers' running code: numbers that it gave, on small random weights (tests/golden/parity)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

import longcompress as lc
from longcompress.checkpoints.architectures import vtimellm
from longcompress.encoders.beats import Beats
from longcompress.encoders.fbank import beats_filters
from longcompress.eval.tasks.answers import events_of, span_of
from longcompress.eval.tasks.task import Example, How
from longcompress.llm import Example as Video
from longcompress.llm.prompt import conversation
from longcompress.llm.tokenizer import load_tokenizer
from longcompress.train.data.questions import Clock
from longcompress.types import CompressedVideo, Tokens

GOLDEN = Path(__file__).parents[1] / "golden" / "parity"
VTIMELLM = GOLDEN / "vtimellm"
EXPECTED = json.loads((VTIMELLM / "expected.json").read_text())
NUMBERS = np.load(VTIMELLM / "expected.npz")
STAGES = {"2": ("stage1", "stage2"), "23": ("stage1", "stage2", "stage3")}


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    """Legacy or not -> a folder of the language model."""
    folders = {}
    for legacy in (False, True):
        folders[legacy] = tmp_path_factory.mktemp("llm") / "llm"
        shutil.copytree(GOLDEN / "llm", folders[legacy])
        file = folders[legacy] / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"legacy": legacy}))
    return folders


@pytest.fixture(scope="module", params=STAGES)
def stage(request, llm, tmp_path_factory):
    """(its name, the model of their stages)."""
    sizes = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 224, "patch_size": 112, "projection_dim": 768,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("clip")
    CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes)).save_pretrained(folder)
    files = [VTIMELLM / "stage1" / "mm_projector.bin", *(VTIMELLM / s for s in STAGES[request.param][1:])]
    base = {"video": str(folder), "llm": str(llm[False])}
    return request.param, lc.load("vtimellm", base=base, weights=files, device="cpu", dtype="float32")


def video(name="v0", duration_s=50.0):
    x = torch.from_numpy(np.load(GOLDEN / "data" / "video" / f"{name}.npy")).float()
    x = x.reshape(-1, x.shape[-1])
    start_s = torch.arange(len(x), dtype=torch.float64) * duration_s / len(x)
    step_s = duration_s / len(x)
    tokens = Tokens(x, torch.ones(len(x)), start_s + step_s / 2, start_s, start_s + step_s)
    return CompressedVideo({"video": tokens}, {}, len(x), duration_s)


@pytest.mark.parametrize("legacy", [False, True])
def test_prompts_have_their_ids(llm, legacy):
    tokenizer, config = load_tokenizer(llm[legacy]), vtimellm().llm
    expected = json.loads((GOLDEN / "tokens" / "expected.json").read_text())
    other = []
    for question, want in zip(expected["questions"], expected[f"legacy_{legacy}".lower()], strict=True):
        before, (after,) = conversation(tokenizer, config, [question])
        if [*before, -200, *after] != want:
            other.append(question)
    assert not other


@pytest.mark.parametrize("stage", ["23"], indirect=True)  # their numbers are of all stages
def test_merged_weights_are_theirs(stage):
    _, model = stage
    state = model.llm.lm.state_dict() | {
        f"model.mm_projector.{k}": v for k, v in model.llm.project["video"].state_dict().items()
    }
    for key in (key for key in NUMBERS if key.startswith("weight/")):
        torch.testing.assert_close(
            state[key.removeprefix("weight/")], torch.from_numpy(NUMBERS[key]), rtol=0, atol=1e-6
        )


def test_logits_and_answers_are_theirs(stage):
    name, model = stage
    for i, (question, want) in enumerate(zip(EXPECTED["questions"], EXPECTED["stages"][name], strict=True)):
        before, (after,) = conversation(model.llm.tokenizer, model.config.llm, [question])
        assert [*before, -200, *after] == want["input_ids"]
        batch = model.llm.collate([Video(video(), [(question, None)])])
        with torch.no_grad():
            logits = model(**batch)["logits"][0]
        length = len(before) + 100 + len(after)
        logits = logits[-length:].numpy()
        np.testing.assert_allclose(logits[-1], NUMBERS[f"last_{name}_{i}"], atol=1e-4)
        np.testing.assert_allclose(logits[:, :8], NUMBERS[f"first8_{name}_{i}"], atol=1e-4)
        prefix = model.llm.prefill(video())
        answer = model.llm.answer(prefix, [question], max_new_tokens=16, do_sample=False)[0]
        known = model.llm.tokenizer.decode(want["answer_ids"], skip_special_tokens=True)
        assert answer.strip() == known.strip()


@pytest.mark.parametrize("stage", ["23"], indirect=True)
def test_captions_of_the_first_stage_have_their_ids_labels_and_loss(stage):
    _, model = stage
    entries = json.loads((GOLDEN / "data" / "captions.json").read_text())
    captions = {entry["id"]: entry["conversations"][1]["value"] for entry in entries}
    for want in EXPECTED["training"]["plain"]:
        turns = [("Tell me about it.", captions[want["id"]])]
        batch = model.llm.collate([Video(video(want["id"]), turns, plain=True)])
        at = want["input_ids"].index(-200)
        ids = batch["input_ids"][0].tolist()
        num = ids.count(-1)
        assert ids == [*want["input_ids"][:at], *[-1] * num, *want["input_ids"][at + 1 :]]
        assert batch["labels"][0].tolist() == [
            *want["labels"][:at], *[-100] * num, *want["labels"][at + 1 :]
        ]  # fmt: skip
        with torch.no_grad():
            assert float(model(**batch)["loss"]) == pytest.approx(want["loss"], abs=1e-4)


def dialogue(entry):
    """[(question, answer)] of a dialogue, its times in hundredths."""
    turns = entry["conversations"]
    texts = []
    for turn in turns:
        text = turn["value"].removeprefix("<video>\n")
        for mark, time_s in entry["meta"]["token"].items():
            text = text.replace(mark, Clock(entry["meta"]["duration"], "hundredths")(time_s))
        texts.append(text)
    return list(zip(texts[::2], texts[1::2], strict=True))


@pytest.mark.parametrize("stage", ["23"], indirect=True)
def test_dialogues_have_their_ids_labels_and_loss(stage):
    _, model = stage
    entries = {entry["id"]: entry for entry in json.loads((GOLDEN / "data" / "dialogues.json").read_text())}
    for want in EXPECTED["training"]["v1"]:
        example = Video(video(want["id"]), dialogue(entries[want["id"]]), dialogue=True)
        batch = model.llm.collate([example])
        labels = [label for label in batch["labels"][0].tolist() if label != -100]
        assert labels == [label for label in want["labels"] if label != -100]
        with torch.no_grad():
            assert float(model(**batch)["loss"]) == pytest.approx(want["loss"], abs=1e-4)


def test_spans_are_read_as_theirs():
    expected = json.loads((GOLDEN / "parse" / "expected.json").read_text())
    how = How(compat="paper", times="hundredths")
    for item in expected["grounding"]:
        example = Example("i", "v", "", None, duration_s=1.0)
        span = span_of(item["answer"], example, how)
        for (start, end), want in zip(expected["gts"], item["iou"], strict=True):
            inter = 0.0 if span is None else max(0.0, min(span[1], end) - max(span[0], start))
            union = 1.0 if span is None else max(span[1], end) - min(span[0], start)
            got = max(0, round(inter / union, 2)) if span else 0.0
            assert got == pytest.approx(want, abs=0.011), item["answer"]


def test_events_are_read_as_theirs():
    """Answers in either paper's form; each form as its own script reads it."""
    expected = json.loads((GOLDEN / "parse" / "expected.json").read_text())
    how = How(compat="paper", times="hundredths")
    example = Example("i", "v", "", None, duration_s=expected["duration"])
    for item in expected["dense"]:
        theirs = item["vtimellm"] or item["longvale"]
        got = events_of(item["answer"], example, how) or ()
        assert [text for _, _, text in got] == [str(event["sentence"]) for event in theirs], item["answer"]
        for (start_s, end_s, _), event in zip(got, theirs, strict=True):
            assert (start_s, end_s) == pytest.approx(tuple(event["timestamp"]), abs=1e-6)


def test_beats_is_theirs():
    numbers = np.load(GOLDEN / "beats" / "expected.npz")
    wave = torch.from_numpy(np.load(GOLDEN / "beats" / "wave_int16.npy")).float() / 32768
    beats = Beats.from_pretrained(GOLDEN / "beats" / "tiny.pt").eval()
    mel = beats_filters(wave[None])[0]
    for key in (key for key in numbers if key.startswith("patches_")):
        first, last = map(int, key.split("_")[1:])
        with torch.no_grad():
            got = beats(mel[None, first:last])[0]
        np.testing.assert_allclose(got.numpy(), numbers[key], atol=1e-4)
