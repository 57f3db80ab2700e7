"""Samples of MMDuet: turns, ids, labels and losses of its own loaders (tests/golden/mmduet)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import longcompress as lc
from longcompress.llm.causal import with_loss
from longcompress.llm.duet import FRAME, Turn, pieces_of, script
from longcompress.llm.prompt import IGNORED
from longcompress.train.data.duet import Duet, dense, grounding, questions

GOLDEN = Path(__file__).parents[1] / "golden" / "mmduet"
TRAIN = json.loads((GOLDEN / "train.json").read_text())
PLACEHOLDER = 259  # theirs of a frame


@pytest.fixture(scope="module")
def model():
    return lc.load("mmduet", base={"llava": str(GOLDEN / "base")}, weights=GOLDEN / "adapter", device="cpu")


def request_of(sample):
    """The wording that their loader drew."""
    return sample["text_without_placeholders"].split("user\n")[1].split("<|im_end|>")[0]


def duet_of(sample):
    """Our sample of the same annotation."""
    kind, fps, options = sample["kind"], TRAIN["fps"], sample["options"]
    if kind == "dense":
        rows = [(video, a) for video, each in TRAIN["annotations"]["dense"].items() for a in each.values()]
        video, narrations = rows[sample["index"]]
        duet = dense(narrations, request_of(sample), TRAIN["metadata"][video]["duration"], fps)
    else:
        row = TRAIN["annotations"][kind][sample["index"]]
        duration_s = TRAIN["metadata"][row["video_uid"]]["duration"]
        if kind == "magqa":
            duet = questions(row["conversation"], duration_s, fps)
        else:
            duet = grounding(row["timestamps"], request_of(sample), duration_s, fps, clip=False)
    return duet.limited(options.get("max_num_frames", 128))


@pytest.mark.parametrize("sample", TRAIN["samples"], ids=lambda s: f"{s['kind']}{s['index']}{s['options']}")
def test_samples_are_theirs(model, sample):
    duet = duet_of(sample)
    assert duet.num_frames == sample["num_frames"] and duet.first_frame == sample["first_frame"]
    labels = duet.labels(clip=False)
    assert labels == {head: sample[head] for head in ("informative", "relevance") if sample[head] is not None}
    ids, learned, ends = script(pieces_of(model.llm.tokenizer), duet.turns, 49)
    assert [PLACEHOLDER if i == FRAME else i for i in ids] == sample["input_ids"]
    at = [i for i, label in enumerate(learned) if label != IGNORED]
    assert [i - 1 for i in at] == sample["learned_at"] and [ids[i] for i in at] == sample["learned_ids"]
    for head in labels:
        assert ends == sample[f"{head}_at"]


@pytest.mark.parametrize("case", TRAIN["losses"], ids=range(len(TRAIN["losses"])))
def test_losses_are_theirs(model, case):
    sample = next(s for s in TRAIN["samples"] if all(s[k] == case[k] for k in ("kind", "index", "options")))
    duet = duet_of(sample)
    ids, learned, ends = script(pieces_of(model.llm.tokenizer), duet.turns, 49)
    ids = torch.tensor(ids)
    frames = load_file(GOLDEN / "frames.safetensors")["frame_tokens"]
    x = model.llm.lm.get_input_embeddings()(ids.clamp_min(0)).detach()
    x[ids == FRAME] = frames[: duet.num_frames].reshape(-1, 48)
    with torch.no_grad():
        out = model.llm.lm(inputs_embeds=x[None], output_hidden_states=True, use_cache=False)
    lm_loss = with_loss(out.logits, torch.tensor([learned]))["loss"]
    labels = {head: torch.tensor(values) for head, values in duet.labels(clip=False).items()}
    model.llm.heads.requires_grad_(True).zero_grad()
    loss = model.llm.heads.loss(out.hidden_states[-1][0, ends], labels)
    loss.backward()
    assert float(lm_loss) == pytest.approx(case["lm_loss"], rel=1e-5)
    assert float(loss.detach()) == pytest.approx(case["video_loss"], rel=1e-5) and case["video_loss"] > 0
    for head in ("informative", "relevance"):
        grad = model.llm.heads.get_submodule(head).weight.grad
        norm = 0.0 if grad is None else float(grad.norm())
        assert norm == pytest.approx(case[f"grad_norm_{head}"], rel=1e-4)


def test_labels_by_hand():
    """An event from 4 to 8 s, told at 7.5 s, at 2 frames a second: its middle is 6 s."""
    duet = dense([{"text": "a", "time": 7.5, "timespan": [4, 8]}], "tell", 20.0, 2.0)
    assert [turn.role for turn in duet.turns] == ["user", "stream", "assistant"]
    assert duet.labels() == {"informative": [0] * 11 + [1] * 4}
    spans = grounding([[1.0, 2.5], [2.0, 3.2]], "where", 4.2, 2.0)
    assert spans.labels() == {"relevance": [0, 0, 1, 1, 1, 1, 0, 0]}


def frames(num):
    return Turn("stream", num_frames=num)


def test_clipped_labels_stay_in_their_turn():
    turns = (
        Turn("stream", num_frames=3),
        Turn("assistant", "a", num_positive=5),
        Turn("stream", num_frames=2),
    )
    assert Duet(turns).labels() == {"informative": [1, 1, 1, 0, 0]}
    assert Duet(turns).labels(clip=False) == {"informative": [1, 1, 1, 1, 1]}  # and the last two are lost
    late = (
        Turn("stream", num_frames=2),
        Turn("assistant", "a", num_positive=-1),
        Turn("stream", num_frames=1),
    )
    assert Duet(late).labels() == {"informative": [0, 0, 0]}


def test_questions_by_hand():
    talk = [
        {"role": "user", "time": 2.2, "content": "what"},
        {"role": "assistant", "time": 2.4, "content": "too soon", "timespan": [2, 3]},
        {"role": "user", "time": 3.0, "content": "and"},
        {"role": "assistant", "time": 6.0, "content": "a", "timespan": [3, 7], "learn": False},
        {"role": "assistant", "time": 99.0, "content": "never", "timespan": [98, 99]},
    ]
    duet = questions(talk, 20.0, 2.0, waiting=3)
    assert [(t.role, t.text, t.num_frames) for t in duet.turns] == [
        ("stream", "", 3), ("user", "what", 0), ("stream", "", 1), ("user", "and", 0), ("stream", "", 6),
        ("assistant", "a", 0),
    ]  # fmt: skip
    assert duet.first_frame == 2 and duet.labels() == {"informative": [0, 0, 0, 0, 0, 0, 0, 1, 1, 1]}
    assert not duet.turns[-1].learned and questions(talk[1:], 20.0, 2.0) is None
    assert questions(talk, 1.0, 2.0) is None and questions([], 1.0, 2.0) is None
