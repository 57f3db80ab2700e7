"""Annotating a folder: resume, records, LongVALE's JSON, filters, the report, the command."""

import json
from dataclasses import replace

import pytest

import longcompress as lc
from longcompress.annotate.boundaries import BoundaryConfig, merged
from longcompress.annotate.captions import CaptionError
from longcompress.annotate.make import Annotator, FilterConfig, annotate, finish
from longcompress.annotate.report import quality
from longcompress.cli.main import main
from longcompress.synthetic.scenes import make_scene, write_video
from longcompress.train.data.convert import convert
from longcompress.train.records import Record, faults, read_records
from longcompress.train.shards.make import make as make_shards
from longcompress.types import Event

from endpoints import chat, serving

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def model():
    return lc.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two videos."""
    where = tmp_path_factory.mktemp("in")
    for i in range(2):
        write_video(make_scene(40 + i, 24.0), where / f"v{i}.mp4", size_px=64)
    return where


def name_of(clip):
    return f"What happens from {clip.start_s:.2f} on."


def content_of(out):
    names = ("records.jsonl", "longvale.json", "report.json")
    parts = sorted(path.name for path in (out / "parts").iterdir() if path.name[0] != ".")
    return [(out / name).read_text() for name in names] + parts


@pytest.fixture(scope="module")
def whole(folder, model, tmp_path_factory):
    """The two videos in one run."""
    out = tmp_path_factory.mktemp("whole")
    records = read_records(folder)
    annotate(records, out, Annotator(model, name_of), **QUIET)
    return out, finish(out, records)


def test_records_cover_their_videos_and_can_be_trained_on(whole, folder, model, tmp_path):
    out, report = whole
    records = read_records(out / "records.jsonl")
    assert [record.key for record in records] == ["v0", "v1"] and not any(map(faults, records))
    for record in records:
        part = json.loads((out / "parts" / f"{record.key}.json").read_text())
        scenes, sounds = ([tuple(span) for span in part[name]] for name in ("scenes", "sounds"))
        spans = [(event.start_s, event.end_s) for event in record.events]
        assert spans == merged(scenes, [s for s in sounds if s[1] - s[0] <= 30])
        assert all(event.text == f"What happens from {event.start_s:.2f} on." for event in record.events)
    assert report["videos"] == {"annotated": 2, "filtered": 0, "failed": 0, "missing": 0}
    assert report["coverage"] == pytest.approx(1.0) and report["overlapping"] == report["duplicates"] == 0
    results = make_shards(records, tmp_path, None, kind="media", **QUIET)
    assert {result.status for result in results} == {"made"}


def test_longvale_json_is_read_back_as_the_same_events(whole, folder):
    out, _ = whole
    records, missing = convert(out / "longvale.json", "events", folder)
    assert not missing
    assert [r.events for r in records] == [r.events for r in read_records(out / "records.jsonl")]


def test_a_run_that_is_cut_anywhere_goes_on_and_ends_the_same(whole, folder, model, tmp_path):
    asked = []

    def cut(clip):
        asked.append(clip.start_s)
        if len(asked) % 3 == 0:
            raise KeyboardInterrupt
        return name_of(clip)

    records = read_records(folder)
    for _ in range(50):
        try:
            annotate(records, tmp_path, Annotator(model, cut), **QUIET)
            break
        except KeyboardInterrupt:
            continue
    finish(tmp_path, records)
    assert content_of(tmp_path) == content_of(whole[0])
    num = sum(len(record.events) for record in read_records(tmp_path / "records.jsonl"))
    assert len(asked) == num + (num - 1) // 2  # no caption was asked for twice, but those that were cut


def test_shares_together_are_the_same(whole, folder, model, tmp_path):
    records = read_records(folder)
    for i in (1, 0):
        annotate(records, tmp_path, Annotator(model, name_of), share=(i, 2), **QUIET)
    finish(tmp_path, records)
    assert content_of(tmp_path) == content_of(whole[0])


def test_a_second_master_on_a_folder_is_refused_and_the_first_goes_on(whole, folder, model, tmp_path):
    records, refusals = read_records(folder), []

    def captioner(clip):
        if not refusals:  # while the first works
            with pytest.raises(ValueError, match="another process makes this share") as error:
                annotate(records, tmp_path, Annotator(model, name_of), **QUIET)
            refusals.append(error)
        return name_of(clip)

    annotate(records, tmp_path, Annotator(model, captioner), **QUIET)
    finish(tmp_path, records)
    assert refusals and content_of(tmp_path) == content_of(whole[0])


def broken(clip):
    """Fails in the first second of a video."""
    if clip.start_s == 0:
        raise CaptionError("nonsense", "blah")
    return name_of(clip)


def test_a_missing_caption_is_named_and_only_it_is_asked_for_again(whole, folder, model, tmp_path):
    records = read_records(folder)
    results = annotate(records, tmp_path, Annotator(model, broken), **QUIET)
    assert [result.status for result in results] == ["failed"] * 2
    assert "have no caption (1 nonsense), the first: event 0 at 0 s: nonsense: blah" in results[0].reason
    assert finish(tmp_path, records)["videos"]["failed"] == 2
    asked = []
    annotator = Annotator(model, lambda clip: asked.append(clip.start_s) or name_of(clip))
    annotate(records, tmp_path, annotator, **QUIET)
    finish(tmp_path, records)
    assert asked == [0.0, 0.0] and content_of(tmp_path) == content_of(whole[0])


def test_a_missing_caption_may_cost_its_event_and_is_counted(whole, folder, model, tmp_path):
    records = read_records(folder)
    annotate(records, tmp_path, Annotator(model, broken, on_failure="drop"), **QUIET)
    report = finish(tmp_path, records)
    assert report["dropped_events"] == {"nonsense": 2} and report["coverage"] < 1
    full = read_records(whole[0] / "records.jsonl")
    assert [r.events for r in read_records(tmp_path / "records.jsonl")] == [r.events[1:] for r in full]


def test_events_that_a_record_has_stay_and_the_rest_of_it_too(folder, model, tmp_path):
    (record, _) = read_records(folder)
    record = replace(record, events=(Event(1.0, 2.0, "mine"),), captions=("All.",), source="s")
    annotate([record], tmp_path, Annotator(model, name_of), **QUIET)
    finish(tmp_path, [record])
    (got,) = read_records(tmp_path / "records.jsonl")
    assert (got.events, got.captions, got.source) == (record.events, ("All.",), "s")


def test_a_part_of_a_video_counts_from_its_start_and_is_captioned_where_it_lies(folder, model, tmp_path):
    clips = []
    record = Record("p", str(folder / "v0.mp4"), meta={"split": [8.0, 20.0]})
    annotate([record], tmp_path, Annotator(model, lambda c: clips.append(c) or name_of(c)), **QUIET)
    finish(tmp_path, [record])
    (got,) = read_records(tmp_path / "records.jsonl")
    assert got.part == (8.0, 20.0) and got.duration_s == 12.0
    assert [c.start_s - 8 for c in clips] == pytest.approx([e.start_s for e in got.events])
    assert clips[0].before == "" and clips[-1].before == name_of(clips[-2])


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        (FilterConfig(min_duration_s=31), "shorter than 31 s"),
        (FilterConfig(max_duration_s=20), "longer than 20 s"),
        (FilterConfig(min_height_px=360), "fewer than 360 lines"),
        (FilterConfig(max_still=-1), "more than -1 of it is still"),
    ],
)
def test_a_video_that_is_left_out_has_its_reason(folder, model, tmp_path, filters, reason):
    records = read_records(folder)
    annotate(records, tmp_path, Annotator(model, name_of, filters=filters), **QUIET)
    report = finish(tmp_path, records)
    assert report["filtered"] == {reason: 2} and report["videos"]["annotated"] == 0
    assert (tmp_path / "records.jsonl").read_text() == ""


def test_a_folder_that_was_begun_otherwise_is_refused(whole, folder, model):
    other = Annotator(model, name_of, BoundaryConfig(ratio=2.0))
    with pytest.raises(ValueError, match=r"was begun with ratio 3.0, got 2.0; take another folder"):
        annotate(read_records(folder), whole[0], other, **QUIET)


def test_quality_counts_what_is_covered_overlaps_and_repeats():
    events = (Event(0, 4, "A"), Event(2, 6, "a"), Event(8, 9, "B"), Event(8.5, 9, ""))
    got = quality(Record("k", "v.mp4", 10.0, events))
    assert got == {
        "duration_s": 10.0, "events": 4, "covered_s": 7.0, "coverage": 0.7, "overlapping": 2,
        "overlap_s": 2.5, "longest_gap_s": 2.0, "duplicates": 1, "empty": 1, "cues": 0,
    }  # fmt: skip


def test_the_command_counts_bad_videos_and_goes_on(folder, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.mp4").write_bytes((folder / "v0.mp4").read_bytes())
    (tmp_path / "in" / "bad.mp4").write_bytes(b"none")
    words = ["annotate", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--captions", "none"]
    assert main(words) == 3
    got = capsys.readouterr()
    assert "1 annotated, 0 filtered, 1 failed, 0 missing" in got.out and "bad: " in got.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["failed"]) == ["bad"] and report["empty"] == report["events"] > 0


def test_the_command_asks_an_endpoint_and_ends_where_it_stays_down(folder, tmp_path, capsys):
    words = ["annotate", str(folder), "--out", str(tmp_path), "--frames", "1", "--tries", "1"]
    with serving(lambda number, body: chat("A dog.") if number < 1 else (503, b"")) as (url, requests):
        assert main([*words, "--captions", url, "--served-model", "q"]) == 3
        assert "3 requests, one after the other, had no answer" in capsys.readouterr().err
        assert len(requests) == 4 and {request["model"] for request in requests} == {"q"}
    with serving(lambda number, body: chat("A cat.")) as (url, _):
        assert main([*words, "--captions", url, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [video["events"] for video in report["by_video"].values()] == [3, 1]
    assert report["repeated"] == {"a cat.": 3} and report["duplicates"] == 1


def test_subtitles_become_the_records_text_and_reach_the_captioner(folder, model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in ("v0.mp4", "v1.mp4"):
        (tmp_path / "in" / name).write_bytes((folder / name).read_bytes())
    cues = ["1\n00:00:02,000 --> 00:00:03,000\nLook!", "2\n00:00:0x --> ?\nGone"]
    cues.append("3\n02:00:00,000 --> 02:00:01,000\nEnd")
    (tmp_path / "in" / "v0.srt").write_text("\n\n".join(cues))
    (tmp_path / "in" / "v1.srt").write_bytes(b"none")
    clips = []
    records = read_records(tmp_path / "in")  # a subtitle file is no stranger there
    annotator = Annotator(model, lambda clip: clips.append(clip) or name_of(clip))
    annotate(records, tmp_path / "out", annotator, **QUIET)
    report = finish(tmp_path / "out", records)
    first, second = read_records(tmp_path / "out" / "records.jsonl")
    assert first.text == (Event(2.0, 3.0, "Look!"),) and second.text == ()
    assert not faults(first)
    assert [c.speech for c in clips if c.start_s <= 2 < c.end_s and "v0" in c.video] == ["Look!"]
    assert report["cues"] == 1
    gap = {"an hour or more after the text before": 1}
    assert report["text_faults"] == {"can't be read": 1, "outside": 1, "times can't be read": 1} | gap
    assert "Gone" in str(report["text_places"]["v0"]) and "End" in str(report["text_places"]["v0"])
    filters = FilterConfig(max_speech=0.01)
    annotate(records, tmp_path / "two", Annotator(model, None, filters=filters), **QUIET)
    assert finish(tmp_path / "two", records)["filtered"] == {"more than 0.01 of it is speech": 1}
