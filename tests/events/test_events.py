"""Events from what models write, and to files."""

import csv
import errno
import html
import io
import json
import math
import os
import re
import stat
from itertools import pairwise

import numpy as np
import pysubs2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcompress.config_llm import LLMConfig
from longcompress.events.files import SUBTITLES, WRITERS, write_events
from longcompress.events.parse import join_events, parse_spans, to_percent, to_seconds
from longcompress.llm.prompt import timestamp_text
from longcompress.types import Event

some = settings(max_examples=80, derandomize=True, deadline=None)
seconds = st.floats(0, 500_000, allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text(
    "->\n \r\u2060,\"'&<;1:ü", max_size=12
)


@st.composite
def events(draw, time=seconds, text=texts):
    start_s, end_s = sorted((draw(time), draw(time)))
    return Event(start_s, end_s, draw(text))


def triples(items):
    return [(e.start_s, e.end_s, e.text) for e in items]


def written(items, format, **options):
    out = io.StringIO()
    write_events(items, out, format, **options)
    return out.getvalue()


class TestParse:
    @pytest.mark.parametrize(
        ("text", "start_s", "end_s"),
        [
            ("187 to 192", 187, 193),
            ("187\u2013192", 187, 193),
            ("187 - 192", 187, 193),
            ("192 to 187", 187, 193),
            ("from 12.5 s to 15 s", 12.5, 15),
            ("<12.5 seconds> - <15.0 seconds>", 12.5, 15),
            ("<00:12> to <00:15>", 12, 16),
            ("from 12 s to 15.25 s", 12, 15.25),
            ("12:31-12:38", 751, 759),
            ("1:02:03 to 1:02:10", 3723, 3731),
            ("from 101:00:00 to 101:00:10", 363600, 363611),
            ("00:00:12,500 --> 00:00:15,000", 12.5, 15),
            ("between 3 and 7 seconds", 3, 8),
            ("from about 3 to roughly 7 sec", 3, 8),
            ("2 to 3 minutes", 120, 180),
            ("from 2 min to 3", 120, 180),
            ("1 min 5 s to 2 min", 65, 120),
            ("1h2m3s - 1 hour, 2 minutes and 10 seconds", 3723, 3731),
            ("from second 12 to second 15", 12, 16),
            ("second12 - second15", 12, 16),
            ("starts at 3 s and ends at 7 s", 3, 8),
            ("start: 12:31, end: 12:40", 751, 761),
            ("start_time=12.0s, end_time=15.0s", 12, 15),
            ("[12, 15]", 12, 16),
            ("[12:31 - 12:38]", 751, 759),
            ("at 45 s", 45, 46),
            ("At the 45-second mark.", 45, 46),
            ("at 45.", 45, 46),
            ("at 45.5 s", 45.5, 46.5),
            ("around 12:31", 751, 752),
            ("45 s.", 45, 46),
        ],
    )
    def test_forms_of_one_span(self, text, start_s, end_s):
        for form in (text, text.upper(), f"- {text}", f"**{text}**"):
            (event,) = parse_spans(form)
            assert (event.start_s, event.end_s) == (start_s, end_s), form

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "nothing",
            "It is red.",
            "3",
            "There are 5 people.",
            "It lasts 5 seconds.",
            "turned at 45 degrees",
            "on 2024-05-12",
            "at 4:30 pm",
            "a 16:9 frame in 720p",
            "99% sure",
            "1.2.3",
            "{}",
            '{"answer": "no", "count": 3}',
            "[[[[",
            '{"start": NaN, "end": 3}',
            '{"start": -5, "end": -1}',
            '{"start": true, "end": true}',
            f"{'9' * 500} to {'9' * 500}",
        ],
    )
    def test_no_time_no_event(self, text):
        assert parse_spans(text) == []
        assert parse_spans(text, duration_s=100, percent=True) == []

    @pytest.mark.parametrize(
        ("text", "want"),
        [
            ("red ball 118 to 125, bell 130 to 133", ["red ball", "bell"]),
            ("The red ball appears from 3 to 7, and then the bell rings from 9 to 12.", None),
            ("The red ball appears from 3 to 7. The bell rings between 9 and 12.", None),
            ("From 3 to 7, the red ball appears. From 9 to 12, the bell rings.", None),
            ("From 3 to 7 the red ball appears, and from 9 to 12 the bell rings", None),
            (
                "This happens:\n1. **0:03 - 0:07**: the red ball appears\n2. 0:09-0:12 the bell rings\n",
                None,
            ),
            ("* [00:03] the red ball appears\n* [00:09] the bell rings", None),
            ('"red ball" (3 to 7), bell (9 to 12)', ["red ball", "bell"]),
            ("bell 3 to 7 and 9 to 12", ["bell", "bell"]),
            ("From 3 to 7 and from 9 to 12 the bell rings", ["the bell rings"] * 2),
            ("0:03 - 2 dogs bark. 0:09 - 3 dogs bark", ["2 dogs bark", "3 dogs bark"]),
            ("3 to 7, 9 to 12", ["", ""]),
            ("somebody walks in 3 to 7, ♪ 9 to 12", ["somebody walks in", "♪"]),
        ],
    )
    def test_words_belong_to_their_times(self, text, want):
        result = parse_spans(text)
        assert [e.start_s for e in result] == [3, 9] or result[0].start_s == 118
        got = [e.text.lower() for e in result]
        assert got == (want or ["the red ball appears", "the bell rings"])

    @pytest.mark.parametrize(
        "text",
        [
            '[{"start": 3, "end": 7, "text": "red ball"}, {"start": 9, "end": 12, "text": "bell"}]',
            '```json\n{"events": [{"event": "red ball", "timestamps": [3, 7]}, '
            '{"event": "bell", "timestamps": "9 to 12"}]}\n```',
            '{"red ball": [3, 7], "bell": "9 to 12"}',
            '{"red ball": [[3, 7]], "bell": {"start_s": "0:09", "end_s": "0:12"}}',
            '{"Start": 3, "End": 7, "Label": "red ball"}\n{"Start": 9, "End": 12, "Label": "bell"}',
            '[[3, 7, "red ball"], [9, 12, "bell"]]',
            '["red ball 3 to 7", "bell 9 to 12"]',
            "[{'start': 3, 'end': 7, 'text': 'red ball'}, {'start': 9, 'end': 12, 'text': 'bell'}]",
            '[{"start": 3, "end": 7, "text": "red ball"}, {"start": 9, "end": 12, "text": "bell"}, {"st',
        ],
    )
    def test_json(self, text):
        assert triples(parse_spans(text)) == [(3, 8, "red ball"), (9, 13, "bell")]

    def test_json_numbers_with_a_point_are_taken_as_they_are(self):
        assert triples(parse_spans('[[12.0, 15], {"timestamp": 20}]')) == [(12, 15, ""), (20, 21, "")]

    def test_last_second_left_out(self):
        assert triples(parse_spans("ball 187 to 192", inclusive=False)) == [(187, 192, "ball")]

    def test_cut_at_the_end_of_the_video(self):
        result = parse_spans("a 3 to 7, b 9 to 12, c 10 to 15, d 11 to 12", duration_s=10.5)
        assert triples(result) == [(3, 8, "a"), (9, 10.5, "b"), (10, 10.5, "c")]

    def test_a_looping_model_costs_little(self):
        for part in ("[", "[[1,", '{"a":', "12 ", "1:", "9", "at ", "start ", "1 h and ", "from about "):
            parse_spans(part * 5000)

    @some
    @given(st.text(max_size=60) | st.text('0123456789:.,-%toand atsm[]{}"\n', max_size=60), st.booleans())
    def test_any_text_is_read(self, text, percent):
        for event in parse_spans(text, duration_s=50, percent=percent):
            assert 0 <= event.start_s <= event.end_s <= 50


class TestSeconds:
    @some
    @given(events(seconds))
    def test_inverse_of_the_parse(self, event):
        first, last = to_seconds(event.start_s, event.end_s)
        (again,) = parse_spans(f"{first} to {last}")
        assert (again.start_s, again.end_s) == (first, last + 1)
        assert first == math.floor(event.start_s) and last + 1 == max(first + 1, math.ceil(event.end_s))


class TestPercent:
    @pytest.mark.parametrize(
        ("text", "grounding", "dense"),
        [
            ("From 12 to 34.", (24, 68), (24, 70)),
            ("12 and 34", (24, 68), (24, 70)),
            ("from 00 to 99", (0, 198), (0, 200)),
            ('[{"event": "x", "timestamps": "from 05 to 10"}]', (10, 20), (10, 22)),
            ("5% to 10%", (10, 20), (10, 22)),
        ],
    )
    def test_both_ways_they_score(self, text, grounding, dense):
        for inclusive, want in ((None, grounding), (False, grounding), (True, dense)):
            (event,) = parse_spans(text, duration_s=200, percent=True, inclusive=inclusive)
            assert (event.start_s, event.end_s) == pytest.approx(want)

    def test_words(self):
        text = "From 10 to 22, a man jumps. From 23 to 40, he falls."
        want = [(10, 22, "a man jumps"), (23, 40, "he falls")]
        assert triples(parse_spans(text, duration_s=100, percent=True)) == want

    def test_times_are_no_shares(self):
        for text in ("12:31 to 12:40", "12 s to 15 s", "from 120 to 130", "from 1.5 to 2.5"):
            assert parse_spans(text, duration_s=200, percent=True) == []

    def test_their_rounding(self):
        assert to_percent(Event(5, 11.2), 50) == (10, 22)
        assert to_percent(Event(0.5, 1.5), 100) == (0, 2)
        assert to_percent(Event(-3, 300), 100) == (0, 99)

    @given(st.integers(0, 99), st.integers(0, 99), st.floats(0.1, 1e5))
    @some
    def test_round_trip(self, a, b, duration_s):
        (event,) = parse_spans(f"from {a:02d} to {b:02d}", duration_s=duration_s, percent=True)
        assert to_percent(event, duration_s) == (min(a, b), max(a, b))

    @pytest.mark.parametrize("duration_s", [None, 0, -1, math.nan, math.inf])
    def test_needs_the_length(self, duration_s):
        with pytest.raises(ValueError, match=r"duration_s must be the video's seconds, > 0, to read shares"):
            parse_spans("from 12 to 34", duration_s=duration_s, percent=True)
        if duration_s is not None:
            with pytest.raises(ValueError, match=r"duration_s must be the video's seconds, > 0, got"):
                to_percent(Event(0, 1), duration_s)

    def test_a_negative_length(self):
        with pytest.raises(ValueError, match=r"duration_s must be >= 0 seconds, got -1"):
            parse_spans("12 to 34", duration_s=-1)


class TestJoin:
    def test_same_text_near(self):
        result = [
            Event(5, 6, "b"),
            Event(0, 2, "a"),
            Event(3, 5, "a"),
            Event(5.5, 9, "a"),
            Event(1, 1.5, "a"),
        ]
        assert triples(join_events(result, 1)) == [(0, 9, "a"), (5, 6, "b")]
        assert triples(join_events(result, 0)) == [(0, 2, "a"), (3, 5, "a"), (5, 6, "b"), (5.5, 9, "a")]
        assert triples(join_events([Event(0, 1, "a"), Event(1, 2, "a")], 0)) == [(0, 2, "a")]

    @some
    @given(
        st.lists(events(st.integers(0, 30), st.sampled_from("ab")), max_size=8),
        st.integers(0, 3),
        st.randoms(),
    )
    def test_laws(self, items, gap_s, random):
        joined = join_events(items, gap_s)
        mixed = list(items)
        random.shuffle(mixed)
        assert join_events(mixed, gap_s) == joined == sorted(joined)
        assert join_events(joined, gap_s) == joined
        for text in "ab":
            same = [e for e in joined if e.text == text]
            assert all(b.start_s - a.end_s > gap_s for a, b in pairwise(same))
        for event in items:
            assert any(
                e.start_s <= event.start_s and event.end_s <= e.end_s and e.text == event.text for e in joined
            )

    @pytest.mark.parametrize("gap_s", [-1, math.nan])
    def test_gap(self, gap_s):
        with pytest.raises(ValueError, match=r"gap_s must be >= 0 seconds, got"):
            join_events([], gap_s)


def parsed(text, format):
    """Events of a subtitle file, by pysubs2."""
    cues = pysubs2.SSAFile.from_string(text, format_=format)
    return [
        (cue.start / 1000, cue.end / 1000, cue.text.replace("\\N", "\n").replace("\u2060", ""))
        for cue in cues
    ]


class TestSubtitles:
    """pysubs2 reads what we write."""

    plain = st.text("abc ,.'\"&;:ü漢1\n>-", min_size=1, max_size=20).map(str.strip).filter(bool)

    @some
    @given(st.lists(events(st.floats(0, 9 * 3600), plain), min_size=1, max_size=4))
    @pytest.mark.parametrize("format", SUBTITLES)
    def test_times_and_texts(self, format, items):
        tick = 100 if format == "ass" else 1000
        cues = parsed(written(items, format), format)
        for cue, event in zip(cues, sorted(items, key=lambda e: e.start_s), strict=True):
            assert cue[:2] == pytest.approx((event.start_s, event.end_s), abs=0.51 / tick + 0.0005)
            text = re.sub(r"\n\s*\n", "\n", event.text).replace("-->", "->")
            assert (html.unescape(cue[2]) if format == "vtt" else cue[2]) == text

    @pytest.mark.parametrize("format", SUBTITLES)
    def test_awkward_texts(self, format):
        awkward = [
            "a\n\nb", "a\r\nb", " a \n \n b", "a --> b", "{\\b1}x", "C:\\Name", 'say "hi"', "ünï 漢字 🙂",
            "&amp; &lt; x", "NOTE x", "WEBVTT", "* COMMENT: x",
        ]  # fmt: skip
        result = [Event(i, i + 40, text) for i, text in enumerate(awkward)]
        texts = [
            html.unescape(cue[2]) if format == "vtt" else cue[2]
            for cue in parsed(written(result, format), format)
        ]
        want = ["a\nb", "a\nb", "a \n b", "a -> b", "{\\b1}x", *awkward[5:]]
        if format == "ass":
            want[4] = "(\\b1)x"
        assert [text.strip() for text in texts] == want

    def test_words_that_are_written(self):
        assert written([Event(0.0005, 0.0015, "a\nb")], "srt") == "1\n00:00:00,000 --> 00:00:00,002\na\nb\n\n"
        assert written([Event(59.9985001, 59.9996, "<x>")], "vtt") == (
            "WEBVTT\n\n1\n00:00:59.999 --> 00:01:00.000\n&lt;x&gt;\n\n"
        )
        assert "Dialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,a\\Nb" in written(
            [Event(1, 2.5, "a\nb")], "ass"
        )

    @pytest.mark.parametrize("format", SUBTITLES)
    def test_cues_stand_in_order_and_may_overlap(self, format):
        result = [Event(5, 9, "b"), Event(1, 8, "a"), Event(1, 7, "c")]
        assert [cue[2] for cue in parsed(written(result, format), format)] == ["a", "c", "b"]
        assert parsed(written([], format), format) == []

    @pytest.mark.parametrize(("format", "hours"), SUBTITLES.items())
    def test_times_with_too_many_digits(self, format, hours):
        end_s = 3600 * hours
        assert parsed(written([Event(0, end_s - 1, "x")], format), format) == [(0, end_s - 1, "x")]
        with pytest.raises(
            ValueError, match=rf"{format}: event 0 must end before {hours} hours, got {end_s} s"
        ):
            written([Event(0, end_s, "x")], format)


class TestRows:
    @some
    @given(st.lists(events(), max_size=5))
    def test_jsonl_and_csv_are_exact_and_keep_the_order(self, items):
        rows = [json.loads(line) for line in written(items, "jsonl").split("\n")[:-1]]
        assert [(row["start_s"], row["end_s"], row["text"]) for row in rows] == triples(items)
        table = csv.DictReader(io.StringIO(written(items, "csv"), newline=""))
        assert [(float(r["start_s"]), float(r["end_s"]), r["text"]) for r in table] == triples(items)

    def test_jsonl(self):
        (line,) = written([Event(1, 2.5, "bäll\n")], "jsonl").splitlines()
        assert json.loads(line) == {"version": 1, "start_s": 1.0, "end_s": 2.5, "text": "bäll\n"}
        assert "bäll" in line

    def test_csv(self):
        assert written([Event(1, 2.5, 'a, "b"')], "csv") == '"start_s","end_s","text"\n1.0,2.5,"a, ""b"""\n'

    def test_edl(self):
        assert written([Event(1, 3, "a"), Event(2, 2, "b\nc")], "edl", rate_fps=24, title="my\nvideo") == (
            "TITLE: my video\nFCM: NON-DROP FRAME\n\n"
            "001  AX       V     C        00:00:01:00 00:00:03:00 00:00:00:00 00:00:02:00\n"
            "* RATE_FPS: 24.0\n* FROM CLIP NAME: my video\n* COMMENT: a\n"
            "002  AX       V     C        00:00:02:00 00:00:02:01 00:00:02:00 00:00:02:01\n"
            "* FROM CLIP NAME: my video\n* COMMENT: b\n* COMMENT: c\n"
        )

    @some
    @given(st.lists(events(), max_size=5), st.sampled_from([24, 25.0, 24000 / 1001, 30000 / 1001, 59.94, 1]))
    def test_edl_counts_frames(self, items, rate_fps):
        base, at = round(rate_fps), 0
        lines = [line for line in written(items, "edl", rate_fps=rate_fps).split("\n") if line[:3].isdigit()]
        for line, event in zip(lines, items, strict=True):
            hours, minutes, seconds, frames = np.array(
                [[int(part) for part in stamp.split(":")] for stamp in line.split()[-4:]]
            ).T
            first, last, start, end = ((hours * 60 + minutes) * 60 + seconds) * base + frames
            assert first == round(event.start_s * rate_fps)
            assert last == max(first + 1, round(event.end_s * rate_fps))
            assert (start, end) == (at, at + last - first)
            at = end


class TestPaths:
    def test_a_full_disk_leaves_what_was_there(self, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        path = tmp_path / "a.srt"
        path.write_text("old")
        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            write_events([Event(0, 1, "x")], path, "srt")
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["a.srt"]

    def test_bad_events_leave_what_was_there(self, tmp_path):
        path = tmp_path / "a.srt"
        path.write_text("old")
        with pytest.raises(ValueError, match="surrogates"):
            write_events([Event(0, 1, "\ud800")], path, "srt")
        assert path.read_text() == "old"

    @pytest.mark.parametrize("format", WRITERS)
    def test_a_file_is_replaced_and_nothing_stays_beside_it(self, format, tmp_path):
        path = tmp_path / f"a.{format}"
        for text in ("long" * 100, "x"):
            write_events([Event(0, 1, text)], str(path), format)
            assert path.read_bytes().decode() == written([Event(0, 1, text)], format)
        assert os.listdir(tmp_path) == [path.name]

    def test_a_link_stays_one(self, tmp_path):
        (tmp_path / "link").symlink_to("a.srt")
        write_events([Event(0, 1, "x")], tmp_path / "link", "srt")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "a.srt").read_text().endswith("x\n\n")

    def test_a_device_stays_one(self):
        assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
        write_events([Event(0, 1, "x")], os.devnull, "srt")
        assert stat.S_ISCHR(os.stat(os.devnull).st_mode)

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            write_events([], tmp_path / "none" / "a.srt", "srt")


class TestErrors:
    @pytest.mark.parametrize("format", WRITERS)
    @pytest.mark.parametrize("event", [Event(-1, 2), Event(0, math.inf)])
    def test_times_that_no_file_has(self, format, event):
        with pytest.raises(ValueError, match=rf"{format}: event 1 needs finite times >= 0 seconds, got"):
            written([Event(0, 1), event], format)

    def test_an_event_that_ends_before_it_starts(self):
        with pytest.raises(ValueError, match=r"Event\.end_s must be >= start_s = 2, got 1"):
            Event(2, 1)

    def test_half_a_character(self):
        with pytest.raises(ValueError, match="jsonl: event 0 needs a text without lone surrogates, got"):
            written([Event(0, 1, "a\udc00")], "jsonl")

    def test_unknown_formats(self):
        with pytest.raises(ValueError, match=r"format must be one of jsonl, srt, .*edl, got 'chapters'"):
            written([], "chapters")

    @pytest.mark.parametrize("rate_fps", [0, -25, math.nan, math.inf])
    def test_rates(self, rate_fps):
        with pytest.raises(ValueError, match="rate_fps must be the video's frames a second, 1 to 999, got"):
            written([], "edl", rate_fps=rate_fps)


@pytest.mark.parametrize("start_s", [0, 9, 59, 60, 3599, 3600, 36_000])
def test_timestamps_of_the_prompt_are_read_back_in_seconds(start_s):
    """What a model copies from its prompt: `12s to 15s`."""
    first, last = (timestamp_text(LLMConfig(), s) for s in (start_s, start_s + 4))
    assert first == f"{start_s}s"
    (event,) = parse_spans(f"From {first} to {last}.")
    assert (event.start_s, event.end_s) == (start_s, start_s + 5)
