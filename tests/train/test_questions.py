"""Questions made of a record: the answer is always what the record says, whatever is drawn."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcompress.events.parse import parse_spans
from longcompress.train.data.questions import CHOICE, LETTERS, Clock, shortened, turns_of
from longcompress.train.records import Record, Turn
from longcompress.types import Event

EVENTS = (
    Event(0.0, 4.0, "a dog runs in"),
    Event(3.0, 9.0, "a bell rings"),
    Event(20.0, 31.4, "a car leaves"),
    Event(40.0, 44.0, "a bell rings"),
)
RECORD = Record(
    "v", "v.mp4", 50.0, EVENTS,
    ((Turn("user", "When, <t0>?"), Turn("assistant", "From <t0> to <t1>.")),),
    ("A street.",), meta={"token": {"<t0>": 5.0, "<t1>": 11.2}},
)  # fmt: skip


def sampled(kind, seed=0, record=RECORD, **options):
    return turns_of(record, kind, np.random.default_rng(seed), duration_s=50.0, **options)


@pytest.mark.parametrize(
    ("time_s", "seconds", "hundredths"),
    [
        (0.0, "0", "00"),
        (5.0, "5", "10"),
        (11.2, "11", "22"),
        (49.9, "50", "99"),
        (50.0, "50", "99"),
        (0.2, "0", "00"),
    ],
)
def test_times_in_both_ways_of_writing(time_s, seconds, hundredths):
    assert Clock(50.0, "seconds")(time_s) == seconds
    assert Clock(50.0, "hundredths")(time_s) == hundredths


def test_hundredths_of_an_unknown_length_are_refused():
    assert Clock(0.0, "seconds")(3.0) == "3"
    with pytest.raises(ValueError, match="need the video's length"):
        Clock(0.0, "hundredths")(3.0)


@pytest.mark.parametrize("seed", range(8))
def test_grounding_asks_for_what_happens_once(seed):
    spans = {"a dog runs in": "From 0 to 3.", "a car leaves": "From 20 to 31."}
    turns = sampled("grounding", seed)
    assert len(turns) == 2
    for question, answer in turns:
        (text,) = [t for t in spans if t in question]
        assert answer == spans[text]


@given(st.floats(0, 900), st.floats(0.01, 100))
def test_answers_in_seconds_read_back_as_the_whole_seconds_of_the_event(start_s, length_s):
    event = Event(start_s, start_s + length_s, "a dog runs in")
    ((_, answer),) = turns_of(
        Record("v", "v.mp4", events=(event,)), "grounding", np.random.default_rng(0), duration_s=2000.0
    )
    (read,) = parse_spans(answer)
    assert read.start_s == math.floor(event.start_s)
    assert read.end_s == max(math.ceil(event.end_s), read.start_s + 1)


@pytest.mark.parametrize("seed", range(8))
def test_segment_captions_and_dense_ones(seed):
    by_span = {("0", "3"): "a dog runs in", ("3", "8"): "a bell rings", ("20", "31"): "a car leaves",
               ("40", "43"): "a bell rings"}  # fmt: skip
    for question, answer in sampled("segment", seed):
        assert by_span[tuple(re.findall(r"\d+", question))] == answer
    ((_, answer),) = sampled("dense", seed, times="hundredths")
    assert answer.split("\n")[2:] == ["From 40 to 63, a car leaves", "From 80 to 88, a bell rings"]


@pytest.mark.parametrize("seed", range(12))
def test_a_choice_has_one_right_answer(seed):
    texts = {("0", "3"): "a dog runs in", ("3", "8"): "a bell rings", ("20", "31"): "a car leaves",
             ("40", "43"): "a bell rings"}  # fmt: skip
    for question, answer in sampled("choice", seed):
        start, end = re.findall(r"from (\d+) to (\d+)", question)[0]
        options = dict(re.findall(r"\(([A-D])\) ([a-z ]+?)(?= \(|$)", question))
        assert options[answer] == texts[start, end] and len(set(options.values())) == len(options) > 1
        going_on = {e.text for e in EVENTS if e.start_s < float(end) and e.end_s > float(start)}
        assert going_on & set(options.values()) == {options[answer]}
    assert CHOICE.count("{") == 3 and len(LETTERS) == 4


def test_dialogues_with_their_times_written_out():
    assert sampled("conversation") == [("When, 5?", "From 5 to 11.")]
    assert sampled("conversation", times="hundredths") == [("When, 10?", "From 10 to 22.")]
    broken = Record("v", "v.mp4", dialogues=((Turn("user", "At <s7>?"), Turn("assistant", "Yes.")),))
    with pytest.raises(ValueError, match="'v': <s7> in its dialogue stands for no time"):
        sampled("conversation", record=broken)


def test_what_a_record_does_not_have_gives_no_question():
    empty = Record("v", "v.mp4")
    for kind in ("grounding", "segment", "dense", "choice", "conversation", "caption"):
        assert sampled(kind, record=empty) == []
    assert sampled("caption")[0][1] == "A street."


def test_the_same_draw_gives_the_same_questions_and_most_is_kept():
    for kind in ("grounding", "segment", "choice"):
        assert sampled(kind, 3) == sampled(kind, 3)
        assert len(sampled(kind, 3, max_questions=1)) <= 1


def words(turns):
    return sum(len(text.split()) for turn in turns for text in turn)


class TestShortened:
    def test_whole_turns_go_from_the_end(self):
        turns = [("a b", "c"), ("d e", "f g"), ("h", "i")]
        assert shortened(turns, words, 9) == (turns, 0)
        assert shortened(turns, words, 8) == (turns[:2], 1)
        assert shortened(turns, words, 3) == (turns[:1], 2)

    def test_then_whole_lines_of_the_answer(self):
        turns = [("q", "one two\nthree four\nfive")]
        assert shortened(turns, words, 5) == ([("q", "one two\nthree four")], 1)

    def test_what_can_not_fit_is_an_error(self):
        with pytest.raises(ValueError, match="a question of 4 tokens doesn't fit into 3"):
            shortened([("q w", "one two\nthree")], words, 3)

    @given(
        st.lists(st.tuples(st.text("ab ", min_size=1), st.text("ab \n", min_size=1)), max_size=5),
        st.integers(0, 30),
    )
    @settings(max_examples=60, deadline=None)
    def test_what_is_kept_fits_and_is_a_beginning(self, turns, max_tokens):
        try:
            cut, _ = shortened(turns, words, max_tokens)
        except ValueError:
            first = turns[0]
            assert words([(first[0], first[1].split("\n")[0])]) > max_tokens
            return
        assert words(cut) <= max_tokens
        for (q, a), (want_q, want_a) in zip(cut, turns, strict=False):
            assert q == want_q and want_a.startswith(a)


def test_dialogues_of_one_turn_are_asked_each_for_itself():
    pair = tuple((Turn("user", f"q{i}"), Turn("assistant", f"a{i}")) for i in range(5))
    long = (*pair[0], *pair[1])
    record = Record("v", "v.mp4", dialogues=(*pair, long))
    results = turns_of(record, "qa", np.random.default_rng(0), duration_s=9.0, max_questions=3)
    assert len(results) == 3 and set(results) < {(f"q{i}", f"a{i}") for i in range(5)}
    assert len(turns_of(record, "qa", np.random.default_rng(0), duration_s=9.0, max_questions=9)) == 5
    assert (
        turns_of(Record("v", "v.mp4", dialogues=(long,)), "qa", np.random.default_rng(0), duration_s=9.0)
        == []
    )
