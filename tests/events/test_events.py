"""Events to text and back, to files and back; what other tools and models write is read too."""

import errno
import io
import json
import math
import os
import re
import stat
from itertools import pairwise

import pysubs2
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from longcompress.events.files import formats, read_events, write_events
from longcompress.events.parse import join_events, parse_spans, to_percent, to_text
from longcompress.types import Event

EXACT, CUES = ("jsonl", "csv"), ("srt", "vtt")
READABLE = (*EXACT, *CUES, "edl")

some = settings(max_examples=80, derandomize=True, deadline=None)
seconds = st.floats(0, 500_000, allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text(
    "->\n \r\u2060,\"'&<;1:ü", max_size=12
)
words = st.text("abc xyzéß'♪", min_size=1, max_size=12).map(lambda t: " ".join(t.split()))


@st.composite
def events(draw, time=seconds, text=texts):
    start_s, end_s = sorted((draw(time), draw(time)))
    return Event(start_s, end_s, draw(text))


def triples(found):
    return [(e.start_s, e.end_s, e.text) for e in found]


def written(found, format, **options):
    out = io.StringIO()
    write_events(found, out, format, **options)
    return out.getvalue()


def reread(found, format, **options):
    return read_events(io.StringIO(written(found, format, **options)), format)


def with_plain_breaks(text):
    return text.replace("\r\n", "\n").replace("\r", "\n")


class TestParse:
    @pytest.mark.parametrize(
        ("text", "start_s", "end_s"),
        [
            ("187 to 192", 187, 193),
            ("187\u2013192", 187, 193),
            ("187 - 192", 187, 193),
            ("192 to 187", 187, 193),
            ("from 12.5 s to 15 s", 12.5, 15),
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
        found = parse_spans(text)
        assert [e.start_s for e in found] == [3, 9] or found[0].start_s == 118
        got = [e.text.lower() for e in found]
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
        found = parse_spans("a 3 to 7, b 9 to 12, c 10 to 15, d 11 to 12", duration_s=10.5)
        assert triples(found) == [(3, 8, "a"), (9, 10.5, "b"), (10, 10.5, "c")]

    def test_a_looping_model_costs_little(self):
        for part in ("[", "[[1,", '{"a":', "12 ", "1:", "9", "at ", "start ", "1 h and ", "from about "):
            parse_spans(part * 5000)

    @some
    @given(st.text(max_size=60) | st.text('0123456789:.,-%toand atsm[]{}"\n', max_size=60), st.booleans())
    def test_any_text_is_read(self, text, percent):
        for event in parse_spans(text, duration_s=50, percent=percent):
            assert 0 <= event.start_s <= event.end_s <= 50


class TestText:
    def test_as_llms_write(self):
        found = [Event(118.2, 126, "red  ball\n"), Event(130, 133.1, "bell"), Event(140, 140, "")]
        assert to_text(found) == "red ball 118 to 125, bell 130 to 133, 140 to 140"
        assert to_text([]) == ""

    @some
    @given(st.lists(events(seconds, words.filter(bool)), max_size=5))
    def test_inverse_of_the_parse(self, found):
        want = [
            (math.floor(e.start_s), max(math.floor(e.start_s) + 1, math.ceil(e.end_s)), e.text) for e in found
        ]
        assume(not any(e.text[0] in "'" and e.text[-1] in "'" for e in found))
        assert triples(parse_spans(to_text(found))) == want
        assert [e[:2] for e in triples(parse_spans(to_text([Event(e.start_s, e.end_s) for e in found])))] == [
            e[:2] for e in want
        ]


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
        found = [Event(5, 6, "b"), Event(0, 2, "a"), Event(3, 5, "a"), Event(5.5, 9, "a"), Event(1, 1.5, "a")]
        assert triples(join_events(found, 1)) == [(0, 9, "a"), (5, 6, "b")]
        assert triples(join_events(found, 0)) == [(0, 2, "a"), (3, 5, "a"), (5, 6, "b"), (5.5, 9, "a")]
        assert triples(join_events([Event(0, 1, "a"), Event(1, 2, "a")], 0)) == [(0, 2, "a")]

    @some
    @given(
        st.lists(events(st.integers(0, 30), st.sampled_from("ab")), max_size=8),
        st.integers(0, 3),
        st.randoms(),
    )
    def test_laws(self, found, gap_s, random):
        joined = join_events(found, gap_s)
        mixed = list(found)
        random.shuffle(mixed)
        assert join_events(mixed, gap_s) == joined == sorted(joined)
        assert join_events(joined, gap_s) == joined
        for text in "ab":
            same = [e for e in joined if e.text == text]
            assert all(b.start_s - a.end_s > gap_s for a, b in pairwise(same))
        for event in found:
            assert any(
                e.start_s <= event.start_s and event.end_s <= e.end_s and e.text == event.text for e in joined
            )

    @pytest.mark.parametrize("gap_s", [-1, math.nan])
    def test_gap(self, gap_s):
        with pytest.raises(ValueError, match=r"gap_s must be >= 0 seconds, got"):
            join_events([], gap_s)


class TestRoundTrip:
    @some
    @given(st.lists(events(), max_size=5))
    @pytest.mark.parametrize("format", EXACT)
    def test_exactly(self, format, found):
        assert triples(reread(found, format)) == triples(found)

    @some
    @given(st.lists(events(), max_size=5))
    @pytest.mark.parametrize("format", CUES)
    def test_to_the_millisecond(self, format, found):
        want = [
            (round(e.start_s * 1000) / 1000, round(e.end_s * 1000) / 1000, with_plain_breaks(e.text))
            for e in sorted(found, key=lambda e: e.start_s)
        ]
        again = reread(found, format)
        assert triples(again) == want
        assert written(again, format) == written(found, format)

    @some
    @given(st.lists(events(), max_size=5), st.sampled_from([24, 25.0, 24000 / 1001, 30000 / 1001, 59.94, 1]))
    def test_to_the_frame(self, found, rate_fps):
        again = reread(found, "edl", rate_fps=rate_fps)
        assert [e.text for e in again] == [with_plain_breaks(e.text) for e in found]
        for old, new in zip(found, again, strict=True):
            first = round(old.start_s * rate_fps)
            last = max(first + 1, round(old.end_s * rate_fps))
            assert (new.start_s, new.end_s) == (first / rate_fps, last / rate_fps)
        assert written(again, "edl", rate_fps=rate_fps) == written(found, "edl", rate_fps=rate_fps)

    @pytest.mark.parametrize("format", READABLE)
    def test_awkward_texts_and_long_videos(self, format, tmp_path):
        awkward = [
            "", "\n", "a\n\nb", " \n", "a --> b", "1\n00:00:01,000 --> 00:00:02,000\nx", "42", "a\n42",
            'say "hi", she\'s', "a;b\tc",
            "ünï 漢字 🙂", "<b>&amp; &lt; <i>x</i>", "NOTE x", "WEBVTT", "\u2060", "-\u2060->", "\ufeff",
            "\x85\u2028\x0b", "* COMMENT: x", "  edges  ", "001  AX V C",
        ]  # fmt: skip
        found = [Event(i * 17280.0, i * 17280.0 + 40000, text) for i, text in enumerate(awkward)]
        assert found[-1].end_s > 100 * 3600
        path = tmp_path / f"x.{format}"
        write_events(found, path, format)
        assert triples(read_events(path, format)) == triples(found)
        with path.open(encoding="utf-8") as stream:
            assert triples(read_events(stream, format)) == triples(found)

    @some
    @given(st.lists(st.floats(0, 1e5) | st.integers(0, 10_000_000).map(lambda n: n / 2000), min_size=2))
    def test_rounding_is_monotone(self, times):
        times.sort()
        for format in CUES:
            found = [Event(t, t, "x") for t in times]
            starts = [e.start_s for e in reread(found, format)]
            assert starts == sorted(starts)
            assert all(abs(a - b) <= 0.0005 + 1e-9 for a, b in zip(starts, times, strict=True))

    def test_rounding_is_half_to_even(self):
        assert "00:00:00,000 --> 00:00:00,002" in written([Event(0.0005, 0.0015, "x")], "srt")
        assert "00:00:59.999 --> 00:01:00.000" in written([Event(59.9985001, 59.9996, "x")], "vtt")

    @pytest.mark.parametrize("format", READABLE)
    def test_no_events(self, format):
        assert reread([], format) == []
        assert read_events(io.StringIO(""), format) == [] if format != "vtt" else True

    def test_cues_stand_in_order_and_may_overlap(self):
        found = [Event(5, 9, "b"), Event(1, 8, "a"), Event(1, 7, "c")]
        for format in CUES:
            assert [e.text for e in reread(found, format)] == ["a", "c", "b"]
        for format in (*EXACT, "edl"):
            assert [e.text for e in reread(found, format)] == ["b", "a", "c"]


class TestOracle:
    """pysubs2 reads what we write, and we read what it writes; it stops at 100 hours."""

    day = st.floats(0, 99 * 3600)
    plain = st.text("abc ,.'\"&;:ü漢1\n>-", min_size=1, max_size=20).map(str.strip).filter(bool)

    @some
    @given(st.lists(events(day, plain), min_size=1, max_size=4))
    @pytest.mark.parametrize("format", CUES)
    def test_it_reads_ours(self, format, found):
        subs = pysubs2.SSAFile.from_string(written(found, format), format_=format)
        assert len(subs) == len(found)
        for cue, event in zip(subs, sorted(found, key=lambda e: e.start_s), strict=True):
            assert (cue.start, cue.end) == (round(event.start_s * 1000), round(event.end_s * 1000))
            text = cue.plaintext.replace("\u2060", "")
            if format == "vtt":  # which it doesn't unescape
                text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
            assert text == event.text

    @some
    @given(
        st.lists(
            events(day, plain.filter(lambda t: not re.search(r"\n\s*\n|-->|[&<>]|\n\d+$", t))),
            min_size=1,
            max_size=4,
        )
    )
    @pytest.mark.parametrize("format", CUES)
    def test_we_read_its(self, format, found):
        subs = pysubs2.SSAFile()
        for event in found:
            text = event.text.replace("\n", "\\N")
            subs.append(pysubs2.SSAEvent(round(event.start_s * 1000), round(event.end_s * 1000), text))
        again = read_events(io.StringIO(subs.to_string(format)), format)
        assert sorted(triples(again)) == sorted((c.start / 1000, c.end / 1000, c.plaintext) for c in subs)


SRT = "1\n00:00:01,000 --> 00:00:02,500\nred ball\n\n2\n00:00:02,000 --> 00:00:04,000\ntwo\nlines\n"


class TestOthersFiles:
    want = ((1, 2.5, "red ball"), (2, 4, "two\nlines"))

    @pytest.mark.parametrize(
        "text",
        [
            SRT,
            SRT.replace(",", "."),
            SRT.replace("\n", "\r\n"),
            SRT.replace("\n", "\r"),
            "\ufeff" + SRT,
            SRT + "\n\n\n",
            "\n\n" + SRT,
            SRT.replace("\n1\n", "\n").removeprefix("1\n").replace("\n2\n", "\n"),
            SRT.replace("\n\n", "\n"),
            SRT.replace("\n\n", "\n \n\n"),
            SRT.replace("500", "500  X1:40 X2:600 Y1:20 Y2:50"),
            SRT.replace("00:00:0", "00:0"),
            SRT.replace(",000", ""),
            SRT.replace(" --> ", "-->"),
        ],
    )
    def test_srt(self, text):
        assert triples(read_events(io.StringIO(text, newline=""), "srt")) == list(self.want)

    def test_srt_with_blank_lines_in_a_text(self):
        text = "1\n00:00:01,000 --> 00:00:02,000\na\n\nb --> c\n\n2\n00:00:03,000 --> 00:00:04,000\n"
        assert triples(read_events(io.StringIO(text), "srt")) == [(1, 2, "a\n\nb --> c"), (3, 4, "")]

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_encodings(self, encoding, tmp_path):
        path = tmp_path / "a.srt"
        path.write_bytes(SRT.replace("ball", "bäll").encode(encoding))
        assert read_events(path, "srt")[0].text == "red bäll"
        assert read_events(str(path), "srt") == read_events(io.BytesIO(path.read_bytes()), "srt")

    def test_vtt(self):
        text = (
            "\ufeffWEBVTT - a title\nKind: captions\nLanguage: en\n\n"
            "NOTE\nnot --> this\n\nSTYLE\n::cue { color: red }\n\nREGION\nid:fred\n\n"
            "00:01.000 --> 00:02.500 align:start position:0%\n<v Ann><c.red>red</c> ball\n\n"
            "intro\n00:00:02,000 --> 00:00:04.000\ntwo\nlines\n\nno times here\n\n"
            "100:00:00.000 --> 100:00:01.000\n&lt;i&gt; &amp; <i>x</i><00:01.500>&nbsp;y"
        )
        for form in (text, text.replace("\n", "\r\n")):
            found = triples(read_events(io.StringIO(form, newline=""), "vtt"))
            assert found == [*self.want, (360000, 360001, "<i> & x\xa0y")]

    def test_csv(self):
        for text in (
            'start_s,end_s,text\n1,2.5,red ball\n2,4,"two\nlines"\n',
            '\ufeffid;Text;Start;End\r\n\r\n1;red ball;1;2,5\r\n2;"two\nlines";0:02;0:04\r\n',
            'start\tend\tscore\ttext\n00:00:01.000\t00:00:02.500\t3\tred ball\n2\t4\t3\t"two\nlines"',
        ):
            assert triples(read_events(io.StringIO(text, newline=""), "csv")) == list(self.want)

    def test_jsonl(self):
        text = (
            '{"start_s": 1, "end_s": 2.5, "text": "red ball", "x": 1}\r\n\r\n{"end_s": 4e0, "start_s": 2}\r\n'
        )
        found = read_events(io.StringIO("\ufeff" + text, newline=""), "jsonl")
        assert triples(found) == [(1, 2.5, "red ball"), (2, 4, "")]

    def test_edl(self):
        text = (
            "TITLE: CUT\r\nFCM: NON-DROP FRAME\r\n\r\n"
            "001  TAPE1    V     C        00:00:01:00 00:00:02:15 01:00:00:00 01:00:01:15 \r\n"
            "* FROM CLIP NAME:  red ball\r\n"
            "M2   TAPE1    024.0 00:00:01:00\r\n"
            "002  TAPE1    AA/V  D    010 00:00:02:00 00:00:04:00 01:00:01:15 01:00:03:15\r\n"
            "* COMMENT: two\r\n* COMMENT: lines\r\n"
        )
        found = triples(read_events(io.StringIO(text, newline=""), "edl", rate_fps=30))
        assert found == list(self.want)

    def test_edl_with_drop_frame(self):
        line = "001  AX V C {0} {1} {0} {1}\n"
        for text, rate_fps in (
            ("FCM: DROP FRAME\n" + line.format("00:10:00:00", "01:00:00:00"), 30000 / 1001),
            (line.format("00:10:00;00", "01:00:00;00"), 25.0),
            ("FCM: DROP FRAME\n" + line.format("00:10:00:00", "01:00:00:00"), 60000 / 1001),
        ):
            ((start_s, end_s, _),) = triples(read_events(io.StringIO(text), "edl", rate_fps=rate_fps))
            assert (start_s, end_s) == pytest.approx((600, 3600), abs=0.005)
        (event,) = read_events(io.StringIO(line.format("00:00:59;29", "00:01:00;02")), "edl")
        assert (event.end_s - event.start_s) * 30000 / 1001 == pytest.approx(1)


class TestWhatIsWritten:
    def test_jsonl(self):
        (line,) = written([Event(1, 2.5, "bäll\n")], "jsonl").splitlines()
        assert json.loads(line) == {"version": 1, "start_s": 1.0, "end_s": 2.5, "text": "bäll\n"}
        assert "bäll" in line

    def test_edl(self):
        assert written([Event(1, 3, "a"), Event(2, 2, "b\nc")], "edl", rate_fps=24, title="my\nfilm") == (
            "TITLE: my video\nFCM: NON-DROP FRAME\n\n"
            "001  AX       V     C        00:00:01:00 00:00:03:00 00:00:00:00 00:00:02:00\n"
            "* RATE_FPS: 24.0\n* FROM CLIP NAME: my video\n* COMMENT: a\n"
            "002  AX       V     C        00:00:02:00 00:00:02:01 00:00:02:00 00:00:02:01\n"
            "* FROM CLIP NAME: my video\n* COMMENT: b\n* COMMENT: c\n"
        )

    def test_chapters(self):
        found = [
            Event(60, 61, "b\nell"), Event(12.9, 15, "ball"), Event(15, 16, "ball"), Event(20, 30, "dog"),
            Event(25, 30, ""), Event(3723, 3800, "end"),
        ]  # fmt: skip
        assert (
            written(found, "chapters", title="Video")
            == "0:00 Video\n0:12 ball, dog\n1:00 b ell\n1:02:03 end\n"
        )
        assert (
            written([*found[1:], Event(3, 4, "first")], "chapters")
            == "0:00 first\n0:12 ball, dog\n1:02:03 end\n"
        )
        assert written([], "chapters") == "0:00 Events\n"

    @some
    @given(st.lists(events(), max_size=6))
    def test_chapters_are_as_youtube_wants_them(self, found):
        starts = []
        for line in written(found, "chapters").removesuffix("\n").split("\n"):
            clock, name = line.split(" ", 1)
            assert name
            hours, minutes, rest = (int(field) for field in f"0:{clock}".split(":")[-3:])
            starts.append(3600 * hours + 60 * minutes + rest)
        assert starts[0] == 0
        assert all(b - a >= 10 for a, b in pairwise(starts))

    def test_names_of_formats(self):
        assert formats() == ("jsonl", "srt", "vtt", "csv", "edl", "chapters")


class TestPaths:
    def test_a_full_disk_leaves_what_was_there(self, tmp_path, monkeypatch):
        def full(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        path = tmp_path / "a.srt"
        path.write_text("old")
        monkeypatch.setattr(os, "fsync", full)
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

    def test_a_file_is_replaced_and_nothing_stays_beside_it(self, tmp_path):
        path = tmp_path / "a.jsonl"
        for text in ("long" * 100, "x"):
            write_events([Event(0, 1, text)], str(path), "jsonl")
            assert [e.text for e in read_events(path, "jsonl")] == [text]
        assert os.listdir(tmp_path) == ["a.jsonl"]

    def test_a_link_stays_one(self, tmp_path):
        (tmp_path / "link").symlink_to("a.srt")
        write_events([Event(0, 1, "x")], tmp_path / "link", "srt")
        assert (tmp_path / "link").is_symlink()
        assert read_events(tmp_path / "a.srt", "srt") == [Event(0, 1, "x")]

    def test_a_device_stays_one(self):
        assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
        write_events([Event(0, 1, "x")], os.devnull, "srt")
        assert stat.S_ISCHR(os.stat(os.devnull).st_mode)

    def test_no_such_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"none\.srt"):
            read_events(tmp_path / "none.srt", "srt")
        with pytest.raises(FileNotFoundError):
            write_events([], tmp_path / "none" / "a.srt", "srt")


class TestErrors:
    @pytest.mark.parametrize(
        ("format", "text", "message"),
        [
            ("jsonl", "\n{", r"jsonl line 2: needs \{\"version\": 1, .* got '\{'"),
            ("jsonl", "[1, 2]", r"jsonl line 1: needs .* got '\[1, 2\]'"),
            (
                "jsonl",
                '{"version": 2, "start_s": 1, "end_s": 2}',
                r"jsonl line 1: needs \{\"version\": 1, .* 2",
            ),
            ("jsonl", '{"start_s": true, "end_s": 2}', "jsonl line 1: needs .*start_s"),
            ("jsonl", '{"start_s": 1, "end_s": 2, "text": 3}', 'jsonl line 1: needs .*"text": string'),
            (
                "jsonl",
                '{"start_s": 3, "end_s": 2}',
                r"jsonl line 1: needs 0 <= start <= end seconds, got 3\.0 to 2",
            ),
            ("jsonl", '{"start_s": 3, "end_s": NaN}', r"jsonl line 1: needs 0 <= start <= end seconds"),
            (
                "jsonl",
                '{"start_s": 3, "end_s": 1' + "0" * 400 + "}",
                "jsonl line 1: needs 0 <= start <= end seconds",
            ),
            ("jsonl", "[" * 100_000, "jsonl line 1: needs"),
            ("srt", "hello\nworld", r"srt line 1: needs cues with HH:MM:SS,mmm .* got 'hello'"),
            (
                "srt",
                "1\n00:00:01,000 --> oops\nx",
                r"srt line 2: needs HH:MM:SS\.mmm --> HH:MM:SS\.mmm, got '00",
            ),
            ("srt", "00:00:01,000 --> 12", r"srt line 1: needs HH:MM:SS\.mmm"),
            (
                "srt",
                "00:00:03,000 --> 00:00:01,000",
                r"srt line 1: needs 0 <= start <= end seconds, got 3\.0 to 1\.0",
            ),
            ("vtt", SRT, "vtt line 1: needs WEBVTT, got '1'"),
            (
                "vtt",
                "WEBVTT\n\n\na\n00:01 --> \nx",
                r"vtt line 5: needs HH:MM:SS\.mmm --> HH:MM:SS\.mmm, got",
            ),
            ("csv", "a,b\n1,2", r"csv line 1: needs a header with start_s, end_s and text, got \['a', 'b'\]"),
            ("csv", "start,end,text\n1", r"csv line 2: needs 3 fields, got 1: \['1'\]"),
            ("csv", "start,end,text\n\n1,x,y", r"csv line 3: needs seconds or HH:MM:SS\.mmm, got 'x'"),
            (
                "csv",
                "start,end,text\n2,1,y",
                r"csv line 2: needs 0 <= start <= end seconds, got 2\.0 to 1\.0",
            ),
            ("csv", "start,end,text\n1,inf,y", r"csv line 2: needs 0 <= start <= end seconds"),
            (
                "csv",
                "start,end,text\n1,2," + "y" * 200_000,
                "csv line 2: needs rows of CSV, got field larger",
            ),
            ("edl", "hello", "edl line 1: needs a TITLE or edits, got 'hello'"),
            ("edl", "TITLE: x\n001 AX V C 00:00:01:00", "edl line 2: needs number, reel, track, C and four"),
            ("edl", f"1 AX V C 00:00:01:25 {3 * '00:00:02:00 '}", r"edl line 1: needs timecodes of 25 .*:25"),
            ("edl", f"1 AX V C 00:00:02:00 {3 * '00:00:01:00 '}", "edl line 1: needs 0 <= start"),
            ("edl", "TITLE: x\n* RATE_FPS: x", r"edl line 2: needs seconds or .* got 'x'"),
            ("edl", "TITLE: x\n* RATE_FPS: 0", "edl line 2: rate_fps must be"),
        ],
    )
    def test_files_that_are_not_what_they_should_be(self, format, text, message, tmp_path):
        path = tmp_path / "bad"
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"(?s)/bad: {message}"):
            read_events(path, format)

    @pytest.mark.parametrize("format", READABLE)
    def test_not_text(self, format):
        with pytest.raises(
            ValueError, match=rf"stream: {format} line 2: needs UTF-8 text .* got byte b'\\xe9'"
        ):
            read_events(io.BytesIO(b"WEBVTT\ncaf\xe9"), format)

    @pytest.mark.parametrize("format", formats())
    @pytest.mark.parametrize("event", [Event(-1, 2), Event(0, math.inf)])
    def test_times_that_no_file_has(self, format, event):
        with pytest.raises(ValueError, match=rf"{format}: event 1 needs finite times >= 0 seconds, got"):
            written([Event(0, 1), event], format)

    def test_half_a_character(self):
        with pytest.raises(ValueError, match="jsonl: event 0 needs a text without lone surrogates, got"):
            written([Event(0, 1, "a\udc00")], "jsonl")

    def test_unknown_formats(self):
        with pytest.raises(ValueError, match=r"format must be one of jsonl, srt, .*chapters, got 'ass'"):
            written([], "ass")
        with pytest.raises(ValueError, match=r"^format must be one of jsonl, srt, vtt, csv, edl, got 'ass'"):
            read_events(io.StringIO(""), "ass")
        with pytest.raises(
            ValueError, match="chapters can't be read, they have no ends; format must be one of"
        ):
            read_events(io.StringIO("0:00 x"), "chapters")

    @pytest.mark.parametrize("rate_fps", [0, -25, math.nan, math.inf])
    def test_rates(self, rate_fps):
        for call in (
            lambda: written([], "edl", rate_fps=rate_fps),
            lambda: read_events(io.StringIO(""), "edl", rate_fps=rate_fps),
        ):
            with pytest.raises(
                ValueError, match="rate_fps must be the video's frames a second, 1 to 999, got"
            ):
                call()
