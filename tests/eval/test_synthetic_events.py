"""`eval run synthetic_events`: lists of events of synthetic videos, from answers made up, graded by hand."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from longcompress.eval.runner import run as running
from longcompress.eval.runner.run_file import RunConfig
from longcompress.eval.runner.score import score_files
from longcompress.eval.tasks import TASKS
from longcompress.eval.tasks.synthetic import QA_SEED, Synthetic
from longcompress.eval.tasks.synthetic_events import Listing, listing_in, num_hits, score_listings, truth_of
from longcompress.eval.tasks.task import Answers, Example, How, Prediction
from longcompress.events.listing import EventList
from longcompress.synthetic.questions import is_clear
from longcompress.synthetic.scenes import OBJECTS, SOUNDS, Scene, SceneEvent, make_scene
from longcompress.types import Event

import models
from synthetic_runs import run_drawn


def scene_of(*spans):
    kinds = ["video" if name in OBJECTS else "audio" for _, _, name in spans]
    events = (SceneEvent(a, b, kind, name) for (a, b, name), kind in zip(spans, kinds, strict=True))
    return Scene(0, 60.0, tuple(events))


def scored(truth, listed):
    """The scores of one video."""
    example = Example("a", "v", "All events", Listing(tuple(truth)), 60.0)
    predictions = {} if listed is None else {"a": Prediction("", Listing(tuple(listed)))}
    return score_listings(Answers([example], predictions, How())).metrics


def test_the_truth_of_a_video():
    scene = scene_of((1, 5, "red ball"), (5, 9.5, "red ball"), (3, 8.25, "bell"), (20.6, 21.4, "hum"))
    assert not is_clear(scene.events[-1])  # too short for whole seconds
    assert truth_of(scene).events == ((1, 9.5, "red ball"), (3, 8.25, "bell"))
    whole = make_scene(QA_SEED + 3, 300.0)
    assert {(e.start_s, e.end_s, e.name) for e in whole.events} == set(truth_of(whole).events)


def test_hits_are_of_one_name_and_one_each():
    truth = [(0, 10, "bell"), (20, 30, "bell"), (0, 10, "red ball")]
    for listed, want in (
        ([], 0), (truth, 3), (truth[::-1], 3), (truth + truth, 3), ([(0, 10, "hum")], 0),
        ([(0, 5, "bell")], 1), ([(0, 4.9, "bell")], 0), ([(0, 20.1, "bell")], 0), ([(0, 6, "bell")] * 2, 1),
        ([(20, 25, "bell"), (0, 9, "bell")], 2),
    ):  # fmt: skip
        assert num_hits(truth, listed) == want, listed


def test_scores_by_hand():
    truth = [(0, 10, "bell"), (20, 30, "hum"), (0, 10, "red ball")]
    got = scored(truth, [(0, 10, "bell"), (40, 50, "hum"), (0, 9, "red ball"), (0, 10, "a dog")])
    assert (got["precision"], got["recall"], got["F1"]) == pytest.approx((1 / 2, 2 / 3, 4 / 7))
    assert (got["precision/heard"], got["recall/heard"], got["F1/heard"]) == (0.5, 0.5, 0.5)
    assert (got["precision/seen"], got["recall/seen"], got["F1/seen"]) == (1, 1, 1)
    assert (got["num"], got["num_true"], got["num_listed"]) == (1, 3, 4)
    for nothing in (None, []):
        got = scored(truth, nothing)
        assert got["F1"] == got["precision"] == got["recall"] == got["F1/seen"] == 0
    assert scored(truth, truth)["F1"] == 1 and "F1/seen" not in scored(truth[:2], truth[:2])
    assert scored([], truth)["precision"] == 0 and "recall" not in scored([], truth)


def test_answers_in_other_forms():
    example = Example("a", "v", "All events", Listing(()), 60.0)
    how = How(times="whole_seconds")
    for text, want in (
        ("From 3 to 7, bell.", [(3, 8, "bell")]), ("nothing", []), ("No idea.", None), ("", None),
        ('{"events": [{"start_s": 3.0, "end_s": 7.5, "text": "bell"}]}', [(3.0, 7.5, "bell")]),
        ('{"events": [], "counts": {"num_asked": 3, "x": 1}}', []),
    ):  # fmt: skip
        got = listing_in(text, example, how)
        assert (None if got is None else list(got.events)) == want, text
    assert got.counts == {"num_asked": 3}


def test_a_run_from_lists_to_scores(tmp_path, monkeypatch):
    listed = EventList([Event(1, 2, "bell")], 10, 2, 3, 4, (Event(0, 30, "from 5 to 7"),))
    lengths = []

    def list_events(max_new_tokens):
        lengths.append(max_new_tokens)
        return listed

    def encode(source, media, read, video, names):
        truth = [Event(*event) for event in source.examples[0].truth.events]
        right = replace(listed, events=truth)
        memory = SimpleNamespace(num_tokens=8, list_events=list_events)
        if video.endswith("-0"):
            memory = SimpleNamespace(num_tokens=8, list_events=lambda max_new_tokens: right)
        return [(name, running.Encoded(memory, 0.0)) for name in names]

    monkeypatch.setattr(running, "encoded", encode)
    out, synthetic = tmp_path / "a.jsonl", Synthetic(minutes=(5,), num_videos=2)
    config = RunConfig(budgets=("24",), max_new_tokens=7)
    summary = run_drawn("synthetic_events", synthetic, models.model(), out, config)
    metrics = summary["metrics"]
    assert metrics["F1"] == metrics["F1/minutes/5"] == 0.5 and lengths == [7]
    names = ("num_asked", "num_asked_again", "num_dropped", "num_joined", "num_without_time")
    assert [metrics[name] for name in names] == [20, 4, 6, 8, 2]
    assert json.loads(json.loads(out.read_text().splitlines()[2])["answer"])["unparsed"] == [
        str(listed.unparsed[0])
    ]
    assert summary["intervals"]["F1/seen"]["mean"] == metrics["F1/seen"]
    assert score_files("synthetic_events", [out], summary["predictions"], How())["metrics"] == metrics


def test_names_are_seen_or_heard():
    assert not set(OBJECTS) & set(SOUNDS) and TASKS["synthetic_events"].answer is not None
