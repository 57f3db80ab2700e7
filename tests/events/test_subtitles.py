"""Subtitles: what files hold, and what is wrong with them, counted and named; nothing is lost."""

import random

import pysubs2
import pytest

from longcompress.events.files import write_events
from longcompress.events.subtitles import Cues, read_subtitles
from longcompress.types import Event

SRT = (
    "1\n00:00:01,000 --> 00:00:02,500\nHello <i>there</i>\nfriend\n\n2\n00:00:03,000 --> 00:00:04,000\nBye\n"
)
TWO = [Event(1.0, 2.5, "Hello there friend"), Event(3.0, 4.0, "Bye")]


def read(tmp_path, content, suffix=".srt"):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_subtitles(path)


FINE = {
    "plain": SRT.encode(),
    "byte order mark": SRT.encode("utf-8-sig"),
    "utf-16": SRT.encode("utf-16"),
    "utf-16 of the other order": b"\xfe\xff" + SRT.encode("utf-16-be"),
    "windows": SRT.replace("\n", "\r\n").encode(),
    "old mac": SRT.replace("\n", "\r").encode(),
    "no blank line at the end": SRT.strip().encode(),
    "no numbers": SRT.replace("1\n00", "00").replace("2\n00", "00").encode(),
    "short digits": SRT.replace("00:00:01,000", "0:0:1,0").encode(),
    "points": SRT.replace(",", ".").encode(),
    "no blank line between": SRT.replace("friend\n\n", "friend\n").encode(),
}


@pytest.mark.parametrize("name", FINE)
def test_a_file_is_read_without_a_fault(tmp_path, name):
    cues = read(tmp_path, FINE[name])
    assert cues.events == TWO and not cues.faults


def test_vtt_is_read_without_its_header_names_comments_and_tags(tmp_path):
    text = (
        "WEBVTT - a title\n\nSTYLE\n::cue { color: red }\n\nNOTE a comment\nof two lines\n\nintro\n"
        "00:01.000 --> 00:02.500 align:start position:0%\n<v Bob>Hello <00:00:01.500><c>there</c>\nfriend\n\n"
        "NOTE another\n\n00:00:03.000 --> 00:00:04.000\nBye &amp; out\n"
    )
    cues = read(tmp_path, text, ".vtt")
    assert cues.events == [TWO[0], Event(3.0, 4.0, "Bye & out")] and not cues.faults


@pytest.mark.parametrize("format", ["srt", "vtt", "ass"])
def test_what_we_write_is_read_back(tmp_path, format):
    write_events(TWO, tmp_path / f"x.{format}", format)
    cues = read_subtitles(tmp_path / f"x.{format}")
    assert cues.events == TWO and not cues.faults


@pytest.mark.parametrize("seed", range(10))
def test_srt_is_read_as_pysubs2_reads_it(tmp_path, seed):
    rng = random.Random(seed)
    lines, at = [], 0
    for number in range(12):
        start, at = at + rng.randrange(9000), at + rng.randrange(9000, 20_000)
        stamps = (pysubs2.time.ms_to_str(ms, fractions=True).replace(".", ",") for ms in (start, at))
        lines.append(f"{number}\n0{' --> 0'.join(stamps)}\n{'word ' * rng.randrange(1, 5)}\n{rng.random()}\n")
    text = "\n".join(lines)
    lines = pysubs2.SSAFile.from_string(text).events
    want = [Event(c.start / 1000, c.end / 1000, " ".join(c.plaintext.split())) for c in lines]
    assert read(tmp_path, text).events == want


def test_another_encoding_is_read_and_counted(tmp_path):
    cues = read(tmp_path, "1\n00:00:01,000 --> 00:00:02,000\nÜber uns \u2013 ja\n".encode("cp1252"))
    assert cues.events == [Event(1.0, 2.0, "Über uns \u2013 ja")]
    assert cues.faults == {"not UTF-8": 1} and "read as Windows-1252" in cues.places[0]


@pytest.mark.parametrize("times", ["00:00:0x,000 --> 00:00:02,000", "00:00:01 -> soon", "--> 00:00:02,000"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_times_that_cannot_be_read_are_named_with_their_text_and_spoil_no_other_cue(tmp_path, times, at):
    blocks = SRT.rstrip().split("\n\n")
    blocks.insert(at, f"7\n{times}\nA word to keep")
    cues = read(tmp_path, "\n\n".join(blocks))
    assert cues.events == TWO and cues.faults == {"times can't be read": 1}
    assert times in cues.places[0] and "A word to keep" in cues.places[0]


def test_a_cue_that_ends_before_it_starts_keeps_its_text(tmp_path):
    cues = read(tmp_path, SRT.replace("00:00:02,500", "00:00:00,500"))
    assert cues.events == [Event(1.0, 2.0, TWO[0].text), TWO[1]]
    assert cues.faults == {"ends before it starts": 1} and "Hello there friend" in cues.places[0]


def test_a_blank_line_in_a_text_loses_nothing(tmp_path):
    cues = read(tmp_path, SRT.replace("\nfriend", "\n\nfriend"))
    assert cues.events == TWO and cues.faults == {"blank line in a text": 1}


def test_an_empty_cue_is_counted(tmp_path):
    cues = read(tmp_path, SRT + "\n3\n00:00:05,000 --> 00:00:06,000\n<i></i>\n")
    assert cues.events == TWO and cues.faults == {"empty": 1}


def test_overlaps_wrong_order_and_hour_long_gaps_are_counted_and_nothing_is_left_out():
    events = [Event(0, 5, "a"), Event(4, 6, "b"), Event(2, 3, "c"), Event(7200, 7201, "d")]
    cues = Cues(events).within(0.0, 8000.0)
    assert cues.events == [events[0], events[2], events[1], events[3]]
    assert cues.faults == {"overlaps": 1, "not in order": 1, "an hour or more after the text before": 1}
    assert "7200 to 7201 s: d" in cues.places[-1]


def test_a_part_has_its_cues_from_its_start_and_names_the_others():
    events = [Event(1, 2, "a"), Event(4, 5, "b"), Event(9, 12, "c"), Event(20, 21, "d")]
    cues = Cues(events).within(3.0, 10.0)
    assert cues.events == [Event(1, 2, "b"), Event(6, 7, "c")]
    assert cues.faults == {"outside": 2} and cues.places == ["outside: 1 to 2 s: a", "outside: 20 to 21 s: d"]


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe" * 40, b"WEBVTT\n\n", b"1\n--> \nword\n"])
def test_a_file_without_a_cue_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match="holds no cue with times and text"):
        read(tmp_path, content)


def test_another_format_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must hold subtitles that pysubs2 reads"):
        read(tmp_path, "nothing at all", ".ass")
