"""What models say, read: spans, events, letters."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcompress.eval.tasks import TASKS
from longcompress.eval.tasks.answers import events_of, first_letter, letter_of, span_of
from longcompress.eval.tasks.task import Answers, Example, How, Prediction

VIDEO = Example("v_0", "v", "a dog runs", (0.0, 1.0), 200.0)
SECONDS, HUNDREDTHS, WHOLE = How(), How(times="hundredths"), How(times="whole_seconds")
PAPER = How(times="hundredths", compat="paper")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("From 12.0 to 15.5 seconds.", (12, 15.5)),
        ("12 - 15", (12, 15)),
        ("It happens from 1:05 to 1:10.", (65, 70)),
        ("0:01:05 - 1:00:10", (65, 3610)),
        ('```json\n{"start": 3, "end": 7.5}\n```', (3, 7.5)),
        ("[3.0, 7.5]", (3, 7.5)),
        ("The dog starts at 3 s and ends at 7 s", (3, 7)),
        ("<think>maybe 1 to 2</think>From 5 to 6.", (5, 6)),
        ("From 300 to 400 seconds", (300, 400)),  # beyond the video: wrong, but read
        ("from 5.0 to 5.0", (5, 5)),
        ("I can't tell.", None),
        ("", None),
    ],
)
def test_spans_in_seconds(text, want):
    got = span_of(text, VIDEO, SECONDS)
    assert got == (want and pytest.approx(want))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("187 to 192", (187, 193)),
        ("From 12 to 15 seconds.", (12, 16)),
        ("7 to 7", (7, 8)),
        ("1:05 to 1:10", (65, 71)),
        ("12.0 to 15.5", (12, 15.5)),  # a point in time is no second
        ("[3, 7]", (3, 8)),
        ("", None),
    ],
)
def test_spans_in_whole_seconds_include_the_last(text, want):
    assert span_of(text, VIDEO, WHOLE) == want
    events = events_of(text, VIDEO, WHOLE)
    assert (events and events[0][:2]) == want
    video = Example("v_0", "v", "a dog", (187.0, 193.0), 200.0)
    for task in ("charades-sta", "activitynet-grounding", "longvale-tvg"):
        benchmark = TASKS[task]
        assert benchmark.times["whole-seconds"] == "whole_seconds" and "187 to 192" in benchmark.prompts[
            "whole-seconds"
        ](video)
        predictions = {"v_0": Prediction("", benchmark.parse("187 to 192", video, WHOLE))}
        assert benchmark.score(Answers([video], predictions, WHOLE)).metrics["mIoU"] == 1.0


@pytest.mark.parametrize("text", ["From 10 to 25.", "during frames 10 to 25", "10 and 25: from 10 to 25"])
@pytest.mark.parametrize("how", [HUNDREDTHS, PAPER], ids=["ours", "paper"])
def test_hundredths_of_a_query_end_where_they_say(text, how):
    assert span_of(text, VIDEO, how) == pytest.approx((20, 50))


def test_the_paper_reads_only_two_digits_and_does_not_turn_ends_round():
    assert span_of("From 5 to 25.", VIDEO, PAPER) is None
    assert span_of("From 5 to 25.", VIDEO, HUNDREDTHS) == pytest.approx((10, 50))
    assert span_of("From 50 to 25.", VIDEO, PAPER) == pytest.approx((100, 50))
    assert span_of("From 50 to 25.", VIDEO, HUNDREDTHS) == pytest.approx((50, 100))


def test_hundredths_of_an_event_include_the_last():
    lines = "From 00 to 09, a dog runs.\nFrom 10 to 99, it sleeps."
    want = ((0, 20), (20, 200))
    for how in (HUNDREDTHS, PAPER):
        got = events_of(lines, VIDEO, how)
        assert [event[:2] for event in got] == [pytest.approx(span) for span in want]
    assert [event[2] for event in events_of(lines, VIDEO, PAPER)] == ["a dog runs.", "it sleeps."]
    assert events_of(lines, VIDEO, HUNDREDTHS, last_included=False)[0][:2] == pytest.approx((0, 18))


def test_vtimellms_json_and_its_loops():
    text = (
        '[{"event": "A dog runs.", "timestamps": "from 00 to 09"}, {"event": "A dog runs.", "timestamps": '
        '"from 10 to 19"}, {"event": "A dog runs.", "timestamps": "from 40 to 49"}]'
    )
    got = events_of(text, VIDEO, PAPER)
    assert got == ((0.0, 40.0, "A dog runs."), (80.0, 100.0, "A dog runs."))
    assert len(events_of(text, VIDEO, HUNDREDTHS)) == 3
    assert events_of("[not json]", VIDEO, PAPER) == () == events_of('["a"]', VIDEO, PAPER)
    assert events_of("From 00 to 09, [music] plays.", VIDEO, PAPER) == ((0.0, 20.0, "[music] plays."),)
    assert events_of("nothing", VIDEO, HUNDREDTHS) is None


def test_hundredths_need_the_videos_length():
    video = Example("v_0", "v", "", None)
    with pytest.raises(ValueError, match=r"hundredths need the length of 'v', got None; give --durations"):
        span_of("From 10 to 25.", video, HUNDREDTHS)
    assert span_of("From 10 to 25.", video, SECONDS) == (10, 25)


OPTIONS = ("A red ball", "blue", "dark blue", "None of these")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("A", "A"), ("b", "B"), ("(C)", "C"), ("D.", "D"), ("B) blue", "B"), ("C: dark blue", "C"),
        ("[A]", "A"), ("**B**", "B"), ("Answer: D", "D"), ("answer is (b)", "B"), ("The answer is C.", "C"),
        ("The correct option is **A**: a red ball", "A"), ("Option B", "B"), ("\\boxed{C}", "C"),
        ('{"answer": "B"}', "B"), ("{'answer': 'd', 'why': 'A is wrong'}", "D"), ("\\boxed{\\text{B}}", "B"),
        ("I first thought the answer is A, but the answer is B.", "B"), ("Best option:(C", "C"),
        ("<think>A? B? The answer is A.</think> D", "D"), ("It must be B because of the colour", "B"),
        ("a red ball", "A"), ("It is dark blue.", "C"), ("blue", "B"), ("The ball is blue", "B"),
        ("A red ball is thrown", "A"), ("A dog", None), ("B or C", None), ("", None), ("nothing", None),
        ("The answer is a dog.", None), ("Answer: A red ball", "A"), ("answer: blue", "B"),
        ("Answer is a", "A"), ("The answer is dark blue", "C"), ("E", None), ("Ich weiß nicht", None),
        ("B\nbecause", "B"), ("D - none", "D"),
    ],
)  # fmt: skip
def test_letters(text, want):
    assert letter_of(text, OPTIONS) == want


def test_words_go_before_a_letter_that_is_an_article():
    assert letter_of("Answer: A dog", ("cat", "a dog")) == "B"
    assert letter_of("The answer is a dog", ("cat", "the dog", "a dog")) == "C"


def test_the_papers_first_capital():
    assert first_letter("The best answer is B", OPTIONS) == "B"
    assert first_letter("Because of C", OPTIONS) == "B"  # the quirk
    assert first_letter("Best answer: C", OPTIONS) == "B"  # and the slip
    assert first_letter("no idea", OPTIONS) is None


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=60))
def test_any_answer_can_be_read(text):
    assert letter_of(text, OPTIONS) in (None, *"ABCD")
    assert letter_of(text, ("one",)) in (None, "A")
    for how in (SECONDS, HUNDREDTHS, PAPER):
        span_of(text, VIDEO, how)
        events_of(text, VIDEO, how)
