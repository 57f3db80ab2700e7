"""Evaluators give the numbers of MMDuet's own scripts (tests/golden/mmduet)."""

import json
from pathlib import Path

import numpy as np
import pytest

from longcompress.eval.metrics.answers import Judge, magqa
from longcompress.eval.metrics.curves import curve_iou
from longcompress.eval.metrics.dense import reply_segments
from longcompress.eval.metrics.highlights import clip_ratings, clip_scores, highlights

EVAL = json.loads((Path(__file__).parents[2] / "golden" / "mmduet" / "eval.json").read_text())


def curves(kind):
    """question_id -> (times, relevance of frames)."""
    return {
        p["question_id"]: (
            [f["time"] for f in p["debug_data"]],
            [f["relevance_score"] for f in p["debug_data"]],
        )
        for p in EVAL[kind]["pred"]
    }


@pytest.mark.parametrize(
    "row", EVAL["grounding"]["results"], ids=lambda r: "{smooth_window_size}-{threshold:.2f}".format(**r)
)
def test_grounding(row):
    spans = {item["question_id"]: item["timestamps"] for item in EVAL["grounding"]["reference"]}
    options = {"num_frames": row["smooth_window_size"], "threshold": row["threshold"]}
    ious = [curve_iou(*curve, spans[key], **options) for key, curve in curves("grounding").items()]
    got = [100 * np.mean(ious), *(100 * np.mean(np.array(ious) >= t) for t in (0.3, 0.5, 0.7))]
    assert got == pytest.approx(row["scores"], abs=1e-9)


@pytest.mark.parametrize("row", EVAL["highlights"]["results"], ids=lambda r: r["smooth_window_size"])
def test_highlights(row):
    rows = EVAL["highlights"]["reference"]
    reference = {
        g["qid"]: clip_ratings(g["duration"], g["relevant_clip_ids"], g["saliency_scores"]) for g in rows
    }
    ours = {k: clip_scores(*c, num_frames=row["smooth_window_size"]) for k, c in curves("highlights").items()}
    metrics, _ = highlights(reference, ours)
    for level in ("Fair", "Good", "VeryGood"):
        want = row["results"][f"HL-min-{level}"]
        assert round(100 * metrics[f"mAP@{level}"], 2) == pytest.approx(want["HL-mAP"], abs=1e-9)
        assert round(100 * metrics[f"HIT1@{level}"], 2) == pytest.approx(want["HL-Hit1"], abs=1e-9)


@pytest.mark.parametrize("name", EVAL["dense"]["replies"])
def test_replies_as_events(name):
    replies = [(time_s, text) for time_s, text in EVAL["dense"]["replies"][name]]
    want = [(*event["timestamp"], event["caption"]) for event in EVAL["dense"]["to_metric"][name]]
    assert reply_segments(replies, first_start_s=None) == want


@pytest.mark.parametrize(("compat", "printed"), [(None, "3,1"), ("paper", "2000,1")])
def test_answers_in_their_spans(compat, printed):
    """Their matrices as the judge, by the texts of answer and reply."""
    data, scores = EVAL["magqa"], {}
    reference = {
        g["question_id"]: [(*a["time"], a["content"]) for a in g["answer"]] for g in data["reference"]
    }
    replies = {
        p["question_id"]: [(t["time"], t["content"]) for t in p["model_response_list"] if t["role"] != "user"]
        for p in data["pred"]
    }
    for key, matrix in data["matrices"].items():
        for (_, _, right), row in zip(reference[key], matrix, strict=True):
            scores |= {
                (right, text): f"{score:g}" for (_, text), score in zip(replies[key], row, strict=True)
            }
    asked = []

    def judge(prompts):
        asked.extend(tuple(prompt.split(" | ")) for prompt in prompts)
        return [scores[pair] for pair in asked]

    questions = {g["question_id"]: g["conversation"][0]["content"] for g in data["reference"]}
    metrics, _ = magqa(
        reference, replies, questions, Judge("theirs", "{reference} | {answer}", judge), compat=compat
    )
    assert sorted(asked) == sorted(tuple(pair) for pair in data["asked"])
    mean, turns = data["analysis"][printed][1].split(" & ")[:2]
    assert round(metrics["in_span"], 2) == float(mean)
    assert f"{round(metrics['turns'], 2)}/{round(metrics['turns_distinct'], 2)}" == turns


def test_bad_curves():
    with pytest.raises(ValueError, match="score must be one of each of 2 frames, got 1"):
        curve_iou([0, 1], [0.5], [], num_frames=0, threshold=0.5)
    assert curve_iou([0, 1], [0.5, 0.5], [(0, 1)], num_frames=0, threshold=0.5) == 0.0
    assert curve_iou([], [], [], num_frames=0, threshold=0.5) == 0.0
