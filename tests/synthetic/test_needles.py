"""The haystack: each needle is there once, at its depth, and nothing near it could be taken for it."""

import json

import pytest

from longcompress.cli.main import main
from longcompress.eval.bench_needle import patches, read, search, table
from longcompress.eval.runner.locks import alone
from longcompress.plot import plot_depths
from longcompress.presets import load
from longcompress.synthetic.needles import DEPTHS, KINDS, LEAST_S, haystack
from longcompress.synthetic.questions import grade


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
            (one,) = [h for h in scene.events if h.name == named[0]]
            assert (one.start_s, one.end_s) == question.spans[0]
        elif needle.kind == "binding":
            shown = [h for h in scene.events if h.name in named and h.kind == "video"]
            played = [h for h in scene.events if h.name in named and h.kind == "audio"]
            both = [(a, b) for a in shown for b in played if a.start_s < b.end_s and b.start_s < a.end_s]
            assert len(both) == 1 and len(shown) == 2 and len(played) > 1
            span = max(h.start_s for h in both[0]), min(h.end_s for h in both[0])
            assert span == question.spans[0]
        else:
            (one,) = [h for h in scene.events if h.name == named[0]]
            later = sorted((h.start_s, h.name) for h in scene.of("audio") if h.start_s >= one.start_s)
            assert later[0][1] == question.answer and later[1][0] - later[0][0] > 1


def test_it_is_drawn_from_its_seed_and_videos_that_are_too_short_are_refused():
    assert haystack(7, 400) == haystack(7, 400) != haystack(8, 400)
    assert LEAST_S <= 300
    with pytest.raises(ValueError, match="must be >= 300 to keep needles apart, got 60"):
        haystack(0, 60)


def test_a_search_goes_on_where_it_was_and_without_audio_no_audio_is_found(tmp_path):
    model, out = load("tiny", device="cpu"), tmp_path / "lines.jsonl"
    one = search(model, out, minutes=[5], videos=1, budgets=[400, 600], progress=False)
    assert len(one) == 40 and len(read(out)) == 40
    before = out.read_bytes()
    assert search(model, out, minutes=[5], videos=1, budgets=[400], progress=False) == one
    assert out.read_bytes() == before
    mute = search(model, out, minutes=[5], videos=1, budgets=[600], audio=False, progress=False)
    rows = {(r["kind"], r["audio"]): r["mean"] for r in table(mute) if r["budget"] == 600}
    assert rows["video", True] >= 0.6 and rows["audio", True] >= 0.6
    assert rows["video", False] >= 0.6 and rows["audio", False] <= 0.2
    heat = patches([x for x in mute if x["audio"] and x["budget"] == 600], "video")
    assert set(heat) == {(5, i / DEPTHS) for i in range(DEPTHS)}
    assert plot_depths({"video": heat, "audio": {}}, tmp_path / "heat.png").stat().st_size > 3000


def test_a_search_that_was_killed_anywhere_goes_on_to_the_same_file(tmp_path, monkeypatch):
    from longcompress.eval import bench_needle

    def video(model, minutes, number, budgets, audio):
        return [
            {"minutes": minutes, "video": number, "audio": audio, "budget": b, "kind": k, "depth": i / DEPTHS,
             "score": 0.0, "answer": f"é{number}"}
            for b in budgets for i in range(DEPTHS) for k in KINDS
        ]  # fmt: skip

    monkeypatch.setattr(bench_needle, "_video", video)
    out, asked = tmp_path / "a.jsonl", {"minutes": [5.0], "videos": 2, "budgets": [9, 10], "progress": False}
    want = search(None, out, **asked)
    data = out.read_text()
    for cut in (0, 7, len(data) // 4, data.index("\n") + 1, len(data) // 2 + 3, len(data) - 1, len(data)):
        out.write_text(data[:cut])
        assert search(None, out, **asked) is not None
        assert sorted(out.read_text().splitlines()) == sorted(data.splitlines()), cut
        assert len(read(out)) == len(want)
    with alone(out), pytest.raises(ValueError, match=r"a.jsonl is being written by another run \(process"):
        search(None, out, **asked)


def test_lines_that_were_cut(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a":')
    assert read(path) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl, line 2 is no JSON"):
        read(path)
    with pytest.raises(ValueError, match="at least one kind with a patch"):
        plot_depths({"video": {}}, tmp_path / "none.png")


def test_the_command(tmp_path, capsys, monkeypatch):
    from longcompress.eval import bench_needle

    made = [
        {
            "minutes": 5.0,
            "budget": 9,
            "audio": True,
            "video": f,
            "kind": k,
            "depth": 0.2,
            "score": float(k == "audio"),
        }
        for f in range(3)
        for k in KINDS
    ]
    monkeypatch.setattr(bench_needle, "search", lambda *_, **__: made)
    words = ["--out", str(tmp_path / "o"), "--minutes", "[5]", "--video", str(tmp_path / "p.png")]
    assert main(["bench", "needle", *words]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["kind"], r["mean"], r["num"]) for r in rows] == [(k, float(k == "audio"), 3) for k in KINDS]
    assert (tmp_path / "p.png").is_file()
