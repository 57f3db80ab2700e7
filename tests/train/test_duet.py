"""Samples of MMDuet: turns, ids, labels and losses of its own loaders (tests/golden/mmduet)."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

import longcompress as lc
from longcompress.llm.duet import FRAME, Turn, pieces_of, script
from longcompress.llm.prompt import IGNORED
from longcompress.train.data.duet import Duet, dense, grounding, questions
from longcompress.train.data.duet_samples import DuetExample, collate_duets
from longcompress.train.data.live_samples import LiveTask
from longcompress.train.records import TimedTurn

GOLDEN = Path(__file__).parents[1] / "golden" / "mmduet"
TRAIN = json.loads((GOLDEN / "train.json").read_text())
PLACEHOLDER = 259  # theirs of a frame


@pytest.fixture(scope="module")
def model():
    return lc.load("mmduet", base={"llava": str(GOLDEN / "base")}, weights=GOLDEN / "adapter", device="cpu")


def timed(annotations):
    """Turns of annotations in their shape."""
    return [
        TimedTurn(
            a.get("role", "assistant"), a.get("text", a.get("content")), a["time"],
            *a.get("timespan", (a["time"],) * 2), a.get("learn", True),
        )
        for a in annotations
    ]  # fmt: skip


def request_of(sample):
    """The wording that their loader drew."""
    return sample["text_without_placeholders"].split("user\n")[1].split("<|im_end|>")[0]


def duet_of(sample):
    """Our sample of the same annotation."""
    kind, fps, options = sample["kind"], TRAIN["fps"], sample["options"]
    if kind == "dense":
        rows = [(video, a) for video, each in TRAIN["annotations"]["dense"].items() for a in each.values()]
        video, narrations = rows[sample["index"]]
        duet = dense(timed(narrations), request_of(sample), TRAIN["metadata"][video]["duration"], fps)
    else:
        row = TRAIN["annotations"][kind][sample["index"]]
        duration_s = TRAIN["metadata"][row["video_uid"]]["duration"]
        if kind == "magqa":
            duet = questions(timed(row["conversation"]), duration_s, fps)
        else:
            duet = grounding(row["timestamps"], request_of(sample), duration_s, fps)
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
    """As the trainer has them: a batch of a duet, and the task's loss."""
    sample = next(s for s in TRAIN["samples"] if all(s[k] == case[k] for k in ("kind", "index", "options")))
    duet = duet_of(sample)
    frames = load_file(GOLDEN / "frames.safetensors")["frame_tokens"][: duet.num_frames]
    batch = collate_duets([DuetExample(duet, frames, duet.labels(clip=False))], model.llm)
    assert batch.pop("attention_mask").all()
    model.llm.heads.requires_grad_(True).zero_grad()
    out = LiveTask(model.llm)(**batch)
    out["loss"].backward()
    assert float(out["loss"].detach()) == pytest.approx(case["loss"], rel=1e-5) and case["video_loss"] > 0
    assert float(out["reply_loss"]) == pytest.approx(case["lm_loss"], rel=1e-5)
    assert float(out["heads_loss"]) == pytest.approx(case["video_loss"], rel=1e-5)
    for head in ("informative", "relevance"):
        norm = float(model.llm.heads.get_submodule(head).weight.grad.norm())
        assert norm == pytest.approx(case[f"grad_norm_{head}"], rel=1e-4)


def test_labels_by_hand():
    """An event from 4 to 8 s, told at 7.5 s, at 2 frames a second: its middle is 6 s."""
    duet = dense([TimedTurn("assistant", "a", 7.5, 4, 8)], "tell", 20.0, 2.0)
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
        TimedTurn("user", "what", 2.2, 2.2, 2.2),
        TimedTurn("assistant", "too soon", 2.4, 2, 3),
        TimedTurn("user", "and", 3.0, 3.0, 3.0),
        TimedTurn("assistant", "a", 6.0, 3, 7, learn=False),
        TimedTurn("assistant", "never", 99.0, 98, 99),
    ]
    duet = questions(talk, 20.0, 2.0, waiting=3)
    assert [(t.role, t.text, t.num_frames) for t in duet.turns] == [
        ("stream", "", 3), ("user", "what", 0), ("stream", "", 1), ("user", "and", 0), ("stream", "", 6),
        ("assistant", "a", 0),
    ]  # fmt: skip
    assert duet.first_frame == 2 and duet.labels() == {"informative": [0, 0, 0, 0, 0, 0, 0, 1, 1, 1]}
    assert not duet.turns[-1].learned and questions(talk[1:], 20.0, 2.0) is None
    assert questions(talk, 1.0, 2.0) is None and questions([], 1.0, 2.0) is None
