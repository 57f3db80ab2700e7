"""The haystack: each needle is there once, at its depth, and nothing near it could be taken for it."""

import pytest

from longcompress.eval.runner.run import run
from longcompress.eval.runner.run_file import RunConfig
from longcompress.eval.runner.sources import from_scenes
from longcompress.eval.tasks.synthetic import Synthetic, depths_of
from longcompress.plot import plot_depths
from longcompress.presets import load
from longcompress.synthetic.needles import DEPTHS, KINDS, MIN_S, haystack
from longcompress.synthetic.questions import grade


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "minutes"), [(0, 5), (1, 5), (2, 20), (3, 180)])
def test_each_needle_is_there_once_at_its_depth(seed, minutes):
    scene, needles = haystack(seed, 60 * minutes)
    assert len(needles) == DEPTHS * len(KINDS)
    assert {(n.kind, n.depth) for n in needles} == {(k, i / DEPTHS) for k in KINDS for i in range(DEPTHS)}
    for needle in needles:
        question = needle.question
        assert grade(question, question.answer)["score"] == 1
        assert needle.depth <= needle.start_s / scene.duration_s <= needle.depth + 1 / DEPTHS
        words = f" {question.text.replace('?', '')} "
        named = [h.name for h in scene.events if f" {h.name} " in words]
        if needle.kind in ("video", "audio"):
            (event,) = [h for h in scene.events if h.name == named[0]]
            assert (event.start_s, event.end_s) == question.spans[0]
        elif needle.kind == "binding":
            shown = [h for h in scene.events if h.name in named and h.kind == "video"]
            played = [h for h in scene.events if h.name in named and h.kind == "audio"]
            both = [(a, b) for a in shown for b in played if a.start_s < b.end_s and b.start_s < a.end_s]
            assert len(both) == 1 and len(shown) == 2 and len(played) > 1
            span = max(h.start_s for h in both[0]), min(h.end_s for h in both[0])
            assert span == question.spans[0]
        else:
            (event,) = [h for h in scene.events if h.name == named[0]]
            later = sorted((h.start_s, h.name) for h in scene.of("audio") if h.start_s >= event.start_s)
            assert later[0][1] == question.answer and later[1][0] - later[0][0] > 1


def test_it_is_drawn_from_its_seed_and_videos_that_are_too_short_are_refused():
    assert haystack(7, 400) == haystack(7, 400) != haystack(8, 400)
    assert MIN_S <= 300
    with pytest.raises(ValueError, match="must be >= 300 to keep needles apart, got 60"):
        haystack(0, 60)


@pytest.mark.slow
def test_without_audio_no_audio_is_found(tmp_path):
    """Two budgets of one encoding, with audio and without."""
    model, synthetic = load("tiny", device="cpu"), Synthetic((5,), 1)
    recall = {}
    for streams in ("both", "video"):
        config = RunConfig(budgets=("400", "600"), media=streams)
        small, large = run(from_scenes("needle", synthetic), model, tmp_path / f"{streams}.jsonl", config)
        assert (small["header"]["budget"], large["header"]["budget"]) == ("400", "600")
        recall |= {(streams, kind): large["metrics"][f"recall/kind/{kind}"] for kind in KINDS}
    assert recall["both", "video"] >= 0.6 and recall["both", "audio"] >= 0.6
    assert recall["video", "video"] >= 0.6 and recall["video", "audio"] <= 0.2
    depths = depths_of(from_scenes("needle", synthetic).examples, large["each"]["recall"])
    assert set(depths["video"]) == {(5, i / DEPTHS) for i in range(DEPTHS)}
    assert plot_depths(depths, tmp_path / "heat.png").stat().st_size > 3000


def test_a_plot_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="at least one kind with a patch"):
        plot_depths({"video": {}}, tmp_path / "none.png")
