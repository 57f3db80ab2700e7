"""`eval run --live` and `live calibrate`: a small random model with heads, synthetic videos of 24 s."""

import json
from dataclasses import replace

import pytest

from longcompress.cli import calibrate as cli
from longcompress.cli.main import main as command
from longcompress.config_live import LiveConfig, TriggerConfig
from longcompress.eval.metrics.bootstrap import intervals_of
from longcompress.eval.metrics.curves import curve_iou
from longcompress.eval.metrics.timely import Curve, Timeline, corpus_of
from longcompress.eval.runner.calibrate import choose, curves_of
from longcompress.eval.runner.live import LiveArms, run_live, stretches
from longcompress.eval.runner.run_file import RunConfig, read_run
from longcompress.eval.runner.score import score_files
from longcompress.eval.runner.sources import from_scenes
from longcompress.eval.tasks.synthetic import Synthetic
from longcompress.eval.tasks.synthetic_alerts import (
    TASK,
    TOLERANCE_S,
    Due,
    request_of,
    synthesize_alerts,
    synthesize_requests,
    tells,
)
from longcompress.eval.tasks.task import Example
from longcompress.synthetic.requests import KINDS
from longcompress.synthetic.scenes import OBJECTS, SOUNDS

from clips import make_clip
from models import with_heads

SOURCE = Synthetic(minutes=(0.4,), num_videos=1)
LIVE = LiveConfig(
    TriggerConfig("single", 0.5, ("relevance",), refractory_s=4.0), near_s=8, past=20, text_tokens=80,
    max_reply_tokens=3,
)  # fmt: skip
ARMS = LiveArms(("live", "recent", "segments", "random", "poll"), poll_s=6.0)


@pytest.fixture(scope="module")
def model():
    model = with_heads()
    model.config = replace(model.config, live=LIVE)
    return model


@pytest.fixture(scope="module")
def played(model, tmp_path_factory):
    """(summaries by arm, the first file) of a run over three requests."""
    out, config = tmp_path_factory.mktemp("live") / "run.jsonl", RunConfig(limit=3)
    summaries = run_live(from_scenes(TASK, SOURCE), model, out, config, ARMS, num_draws=20)
    return {summary["arm"]: summary for summary in summaries}, out


def lines_of(out, arm="live"):
    path = out if arm == "live" else out.with_name(f"{out.stem}.{arm}.jsonl")
    return read_run(path).lines


def test_due_moments_are_the_events_of_the_scene():
    scene, examples = synthesize_alerts(3, 120.0)
    for kind in ("seen", "heard"):
        some = [e for e in examples if ("kind", kind) in e.groups]
        assert len(some) == 4 and not some[-1].truth.moments and all(e.truth.moments for e in some[:-1])
        for example in some:
            name = next(n for n in (*OBJECTS, *SOUNDS) if f" {n} " in f"{example.question[:-1]} ")
            events = [e for e in scene.events if e.name == name]
            assert example.truth.moments == tuple((e.start_s, e.end_s) for e in events)
            assert name in request_of(example)
    assert tells("12 to 19", 10, 15) and not tells("12 to 19", 15, 20) and not tells("nothing", 0, 5)


def test_requests_are_of_all_other_kinds_and_one_pair_is_never_together():
    scene, examples = synthesize_requests(3, 120.0)
    asked = [example.truth.request for example in examples]
    assert {ask.kind for ask in asked} == set(KINDS) - {"seen", "heard"}
    pairs = [ask for ask in asked if ask.kind == "both"]
    assert len(pairs) > 1 and [bool(ask.moments) for ask in pairs] == [True] * (len(pairs) - 1) + [False]
    assert [request_of(example) for example in examples] == [ask.text for ask in asked]
    happened = asked[-1]
    assert [start_s for start_s, _ in happened.due] == [
        e.end_s for e in sorted(scene.events, key=lambda e: e.start_s)
    ]


def test_every_arm_is_played_and_scored(played):
    summaries, out = played
    assert list(summaries) == list(ARMS.arms)
    live = lines_of(out)
    for arm, summary in summaries.items():
        assert summary["num_answered"] == 3 and not summary["num_failed"]
        assert summary["metrics"]["num"] == 3 and summary["cost"]["real_time_factor"] > 0
        lines = lines_of(out, arm)
        for key, line in lines.items():
            times = [reply["time"] for reply in line["model_response_list"]]
            if arm == "segments":  # a question is answered at the step that begins there
                assert times == live[key]["segments_s"][: len(times)] and times
            elif arm == "random":
                assert len(times) <= len(live[key]["model_response_list"])
            elif arm == "poll":
                assert {time_s % 6 for time_s in times} <= {0.0}
    assert any(line["fired_s"] for line in live.values())
    assert [row["time"] for row in next(iter(live.values()))["debug_data"]] == [float(i) for i in range(24)]


def test_requests_that_stand_together_share_a_session(model, tmp_path):
    """Each has its own curve and replies, and its share of the costs; all are played again for one."""
    arms, out = LiveArms(("live", "poll"), poll_s=6.0, together=True), tmp_path / "t.jsonl"
    source, config = from_scenes(TASK, SOURCE), RunConfig(limit=3)
    model.config = replace(model.config, live=replace(LIVE, heads_of="all"))
    live, polled = run_live(source, model, out, config, arms, num_draws=0)
    assert live["num_answered"] == polled["num_answered"] == 3 and live["header"]["together"]
    lines = list(lines_of(out).values())
    assert len({line["seconds"]["cpu"] for line in lines}) == 1
    assert all(line["debug_data"] == lines[0]["debug_data"] for line in lines) and lines[0]["fired_s"]
    before = out.read_text().splitlines()
    out.write_text("\n".join([before[0], before[2]]) + "\n")
    run_live(source, model, out, config, replace(arms, arms=("live",)), num_draws=0)
    model.config = replace(model.config, live=LIVE)
    again = out.read_text().splitlines()
    assert again[:2] == [before[0], before[2]] and len(again) == 4
    for old, new in ((before[1], again[2]), (before[3], again[3])):
        assert {**json.loads(old), "seconds": 0} == {**json.loads(new), "seconds": 0}
    with pytest.raises(ValueError, match=r"together needs scores about all requests .* leave out --together"):
        run_live(source, model, tmp_path / "last.jsonl", config, replace(arms, arms=("live",)))
    with pytest.raises(ValueError, match="are of a session for each request; leave out --together"):
        LiveArms(("live", "random"), together=True)


def test_scores_are_those_of_the_written_lines(played, tmp_path):
    summaries, out = played
    reference = tmp_path / "reference.json"
    reference.write_text(json.dumps({"synthetic": {"minutes": [0.4], "num_videos": 1}}) + "\n")
    report = score_files(TASK, [reference], summaries["live"]["predictions"], num_draws=0)
    examples, lines = from_scenes(TASK, SOURCE).examples, lines_of(out)
    timelines = {
        e.id: Timeline(
            e.truth.moments,
            [reply["time"] for reply in lines[e.id]["model_response_list"]] if e.id in lines else [],
            24.0,
        )
        for e in examples
    }
    corpus = corpus_of(timelines, {e.id: e.video for e in examples}, TOLERANCE_S)
    want = intervals_of(corpus, num_draws=2)
    for name in ("f1", "recall", "alarms_per_hour", "replies_per_minute"):
        assert report["metrics"][name] == pytest.approx(want[name]["mean"])
    assert report["num_missing"] == len(examples) - 3


def test_the_same_command_resumes(played, model):
    out = played[1]
    before = out.read_bytes()
    out.write_bytes(before[: before.rstrip().rfind(b"\n") + 20])  # the last line is torn
    run_live(from_scenes(TASK, SOURCE), model, out, RunConfig(limit=3), replace(ARMS, arms=("live",)))
    again = lines_of(out)
    first = [json.loads(x) for x in before.decode().splitlines()[1:]]
    assert [again[x["id"]]["debug_data"] for x in first] == [x["debug_data"] for x in first]
    with pytest.raises(ValueError, match="was started with"):
        run_live(from_scenes(TASK, SOURCE), model, out, RunConfig(limit=2), LiveArms())


def test_stretches_hold_all_media_of_their_time():
    frames, sound = make_clip(11.0)
    got = list(stretches(iter([frames, sound]), 4.0, ["video", "audio"]))
    assert len(got) == 3
    for number, parts in enumerate(got):
        for part in parts:
            assert 4 * number <= part.start_s and part.end_s <= 4 * number + 4 + 1e-9
    assert sum(len(p) for parts in got for p in parts) == len(frames) + len(sound)
    assert [len(parts) for parts in stretches(iter([frames.cut(9, 10)]), 4.0, ["video"])] == [0, 0, 1]


CURVES = {  # the score passes .6 two seconds into each event, and .4 in quiet
    f"v{n}-0": Curve({"relevance": [0.7 if 10 <= t < 13 else 0.4 * (t == 30) for t in range(60)]},
                     list(range(60)), [(9.5, 14.0)], 60.0)
    for n in range(4)
}  # fmt: skip
ASKED = [Example(key, key[:2], "?", Due(CURVES[key].due)) for key in CURVES]


@pytest.mark.parametrize("alarms", [None, 0.0])
def test_a_threshold_is_chosen_on_some_videos_and_tested_on_others(alarms):
    trigger = TriggerConfig("single", 0.1, ("relevance",), release=True)
    chosen, report = choose(trigger, ASKED, CURVES, max_alarms_per_hour=alarms, num_draws=20)
    assert 0.4 <= chosen.threshold < 0.7 and replace(chosen, threshold=0.1) == trigger
    assert report["num_chosen"] == report["num_tested"] == 2
    for name in ("chosen", "tested"):
        assert report[name]["f1"]["mean"] == 1.0 and report[name]["alarms_per_hour"]["mean"] == 0.0
    with pytest.raises(ValueError, match="calibration needs at least 2 videos"):
        choose(trigger, ASKED[:1], {ASKED[0].id: CURVES[ASKED[0].id]})


def test_curves_are_those_that_were_played(played):
    _, out = played
    examples, lines = from_scenes(TASK, SOURCE).examples, lines_of(out)
    curves = curves_of(examples, lines, ["relevance"])
    assert set(curves) == set(lines) and all(len(curve.times_s) == 24 for curve in curves.values())
    # the sweep of the session's own trigger gives the session's own firing, when it could reply
    for key, line in lines.items():
        could_s = curves[key].timeline(LIVE.trigger).replies_s
        assert could_s == [start_s + 1 for start_s in line["fired_s"]]
        assert {reply["time"] for reply in line["model_response_list"]} <= set(could_s)
    assert any(line["model_response_list"] for line in lines.values())
    with pytest.raises(ValueError, match=r"trigger.heads \['poll'\] have no score"):
        curves_of(examples, lines, ["poll"])
    with pytest.raises(ValueError, match="no video was played to its end"):
        curves_of(examples, {}, ["relevance"])


def test_a_threshold_is_printed_as_it_is(model, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    words = ["live", "calibrate", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "c.jsonl")]
    words += ["--minutes", "0.4", "--num-videos", "2", "--limit", "12"]
    assert command([*words, "--json"]) == 0
    chosen = json.loads(capsys.readouterr().out)["trigger"]["threshold"]
    assert round(chosen, 4) != chosen and command(words) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.split()[0] == "--live.trigger.threshold" and float(last.split()[1]) == chosen


def test_a_trigger_is_written_and_records_have_due_moments(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"name": "x", "live": {"past": 7}}))
    cli.write_trigger(path, TriggerConfig("single", 0.25, ("relevance",)))
    values = json.loads(path.read_text())
    assert values["live"]["trigger"]["threshold"] == 0.25 and values["live"]["past"] == 7
    events = [{"start_s": s, "end_s": s + 2, "text": text} for s, text in ((1, "a"), (5, "b"), (9, "a"))]
    records = tmp_path / "r.jsonl"
    records.write_text(
        json.dumps({"key": "v", "video": "v.mp4", "duration_s": 20.0, "events": events}) + "\n"
    )
    source = cli.from_records(str(records))
    assert [(e.question, e.truth.moments) for e in source.examples] == [
        (cli.REQUEST.format("a"), ((1.0, 3.0), (9.0, 11.0))), (cli.REQUEST.format("b"), ((5.0, 7.0),))
    ]  # fmt: skip
    records.write_text(json.dumps({"key": "v", "video": "v.mp4"}) + "\n")
    with pytest.raises(ValueError, match="must have records with events"):
        cli.from_records(str(records))


def test_charades_is_grounded_by_curves(tmp_path):
    reference, pred = tmp_path / "c.txt", tmp_path / "p.jsonl"
    reference.write_text("a 2 5##he sits\nb 0 1##she runs\n")
    scores = [0.1, 0.1, 0.8, 0.9, 0.9, 0.7, 0.1, 0.1]
    rows = [{"time": t, "relevance_score": s, "informative_score": 0.5} for t, s in enumerate(scores)]
    lines = [{"question_id": "a_0", "debug_data": rows}, {"question_id": "b_0", "debug_data": rows[:1]}]
    pred.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = score_files("charades-sta", [reference], [pred], num_draws=0)
    want = curve_iou(range(8), scores, [(2, 5)], num_frames=2, threshold=0.5)
    assert want > 0.5 and report["metrics"]["mIoU"] == pytest.approx(want / 2)
    assert report["metrics"]["R@0.5"] == 0.5 and report["metrics"]["num_unanswered"] == 0


@pytest.mark.parametrize(("words", "text"), [
    (["synthetic_qa", "--live", "--minutes", "1"], "task synthetic_qa has no request that stands; leave"),
    ([TASK, "--together", "--minutes", "1"], "--arms, --poll-s and --together are of live sessions; add"),
    ([TASK, "--live", "--arms", "random"], "take their times from live; add live"),
    ([TASK, "--live", "--arms", "one"], "arms must be some of"),
    ([TASK, "--live", "--poll-s", "0"], "poll_s must be > 0 seconds, got 0"),
    ([TASK, "--live", "--budgets", "24"], "leave out --budgets and --max-new-tokens"),
])  # fmt: skip
def test_errors_say_what_is_wrong(tmp_path, capsys, words, text):
    assert command(["eval", "run", *words, "--out", str(tmp_path / "a.jsonl")]) == 2
    assert text in capsys.readouterr().err
