"""Events survive text and files; other readers read our subtitles."""

import io

import pysubs2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcompress.event_files import WRITERS, read_events, write_events
from longcompress.events import join_events, parse_spans, to_percent, to_text
from longcompress.types import Event

words = st.text(st.sampled_from("abc xyz,\"<&-'äß中\n"), max_size=12)
spans = st.tuples(st.integers(0, 400_000_000), st.integers(0, 100_000), words)
event_lists = st.lists(spans.map(lambda t: Event(t[0] / 1000, (t[0] + t[1]) / 1000, t[2])), max_size=6)
exact = settings(derandomize=True, max_examples=60, deadline=None)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("187 to 192", [Event(187, 193)]),
        ("from 12.5 s to 15.25 s", [Event(12.5, 15.25)]),
        ("It rings 12:31-12:38.", [Event(751, 759, "It rings")]),
        ("1:02:03 to 1:02:10", [Event(3723, 3731)]),
        ("between 3 and 7 seconds", [Event(3, 8)]),
        ("the bell is heard at 45 s", [Event(45, 46, "the bell is heard")]),
        ("187\u2013192", [Event(187, 193)]),
        ("192 to 187", [Event(187, 193)]),
        ("red ball 118 to 125, bell 130 to 133", [Event(118, 126, "red ball"), Event(130, 134, "bell")]),
        ('[{"start": 3, "end": 7.5, "caption": "a dog"}]', [Event(3, 7.5, "a dog")]),
        ("Sure: [[1, 2], [3.5, 4]]", [Event(1, 2), Event(3.5, 4)]),
        ("nothing", []),
        ("room 12 and a half", []),
        ("", []),
    ],
)
def test_spans_are_read_out_of_what_models_say(text, want):
    assert parse_spans(text) == want


def test_spans_are_cut_to_the_film():
    assert parse_spans("5 to 20, 30 to 40", duration_s=12.0) == [Event(5, 12)]


@exact
@given(st.lists(st.tuples(st.integers(0, 9999), st.integers(1, 500)), min_size=1, max_size=6))
def test_text_of_whole_seconds_comes_back(pairs):
    events = [Event(float(a), float(a + n), "red ball") for a, n in pairs]
    assert parse_spans(to_text(events)) == events


def test_shares_of_the_film():
    assert to_percent(Event(30.0, 60.0), 120.0) == (25, 50)
    assert to_percent(Event(0.0, 120.0), 120.0) == (0, 99)
    assert parse_spans("from 25 to 50", duration_s=120.0, percent=True) == [Event(30.0, 60.0)]


def test_events_that_touch_are_joined():
    got = join_events([Event(5, 9, "a"), Event(0, 4, "a"), Event(2, 3, "b"), Event(9.5, 12, "a")], 1.0)
    assert got == [Event(0, 12, "a"), Event(2, 3, "b")]
    assert join_events([Event(0, 4, "a"), Event(5.5, 9, "a")], 1.0) == [Event(0, 4, "a"), Event(5.5, 9, "a")]


@exact
@given(event_lists)
@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_exact_formats_come_back_whole(format, events):
    out = io.StringIO()
    write_events(events, out, format)
    assert read_events(io.StringIO(out.getvalue()), format) == events


@exact
@given(event_lists)
@pytest.mark.parametrize("format", ["srt", "vtt"])
def test_subtitles_come_back_and_others_read_them(format, events):
    out = io.StringIO()
    write_events(events, out, format)
    got = read_events(io.StringIO(out.getvalue()), format)
    assert [(e.start_s, e.end_s) for e in got] == [(e.start_s, e.end_s) for e in events]
    tidy = ["\n".join(line for line in (p.strip() for p in e.text.split("\n")) if line) for e in events]
    assert [e.text for e in got] == tidy
    if events and all(e.text.strip() for e in events):
        theirs = pysubs2.SSAFile.from_string(out.getvalue(), format_=format)
        assert [(s.start, s.end) for s in theirs] == [
            (round(e.start_s * 1000), round(e.end_s * 1000)) for e in sorted(events, key=lambda e: e.start_s)
        ] or len(theirs) == len(events)


def test_an_edl_comes_back_to_the_picture(tmp_path):
    events = [Event(1.0, 2.52, "red ball"), Event(3.04, 7.0, "bell, twice")]
    write_events(events, tmp_path / "x.edl", "edl", rate_fps=25.0)
    assert read_events(tmp_path / "x.edl", "edl", rate_fps=25.0) == events


def test_chapters_begin_at_zero():
    out = io.StringIO()
    write_events([Event(75.0, 80.0, "a"), Event(3700.0, 3800.0, "b")], out, "chapters")
    assert out.getvalue() == "0:00 start\n1:15 a\n1:01:40 b\n"


def test_files_of_others_are_read():
    srt = (
        "\ufeff1\r\n00:00:01,5 --> 00:00:02,000\r\nhello\r\nworld\r\n\r\n"
        "00:01:00.000 --> 00:01:01.000\r\nno number\r\n"
    )
    assert read_events(io.StringIO(srt), "srt") == [Event(1.5, 2, "hello\nworld"), Event(60, 61, "no number")]
    vtt = "WEBVTT\n\nNOTE a\nb\n\nSTYLE\n::cue {}\n\nid\n01:02.000 --> 01:03.000 align:start\na &lt;b&gt;\n"
    assert read_events(io.StringIO(vtt), "vtt") == [Event(62, 63, "a <b>")]


@pytest.mark.parametrize(
    ("format", "text", "message"),
    [
        ("jsonl", '{"start_s": 1}\n', "line 1: an object with start_s and end_s is needed"),
        ("jsonl", '\n{"version": 9, "start_s": 1, "end_s": 2}', "line 2: version 9 is newer"),
        ("vtt", "hello", "line 1: WEBVTT is needed"),
        ("srt", "1\nxx --> 00:00:02,000\na", "line 2: a time such as"),
        ("csv", "a,b\n1,2\n", "columns start_s and end_s are needed"),
        ("csv", "start_s,end_s\n1,x\n", "line 2: start_s and end_s must be seconds"),
        ("edl", "hello", "four time codes"),
        ("chapters", "0:00 a", "can only be written"),
        ("xml", "", "format must be one of"),
    ],
)
def test_bad_files_are_refused(format, text, message):
    with pytest.raises(ValueError, match=message):
        read_events(io.StringIO(text), format)


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="rate_fps must be > 0"):
        write_events([], tmp_path / "x", "edl", rate_fps=0)
    with pytest.raises(ValueError, match="duration_s must be given"):
        parse_spans("1 to 2", percent=True)
    with pytest.raises(ValueError, match="duration_s must be > 0"):
        to_percent(Event(0, 1), 0.0)


@pytest.mark.parametrize("format", sorted(WRITERS))
def test_nothing_half_written_is_left(format, tmp_path):
    target = tmp_path / "missing" / "x"
    with pytest.raises(FileNotFoundError):
        write_events([Event(0, 1, "a")], target, format)
    write_events([Event(0, 1, "a")], tmp_path / "x", format)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
