"""Events of windows: nothing outside what was asked, joined only where both sides agree, all counted."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcompress.events.listing import BORDER_S, EventList, list_events
from longcompress.events.parse import parse_spans
from longcompress.types import Event


def listed(says, duration_s=30.0, window_s=10.0):
    """What comes of answers by window (start, end); windows without one answer "nothing"."""
    asked = []

    def ask(windows):
        asked.extend(windows)
        return [says.get(window, "nothing") for window in windows]

    return list_events(ask, duration_s, window_s), asked


def triples(events):
    return [(e.start_s, e.end_s, e.text) for e in events]


THREE = [(0, 10), (10, 20), (20, 30)]


def test_an_event_in_its_window():
    got, asked = listed({(10, 20): "bell 12 to 15"})
    assert (triples(got.events), asked) == ([(12, 16, "bell")], THREE)
    assert got == EventList([Event(12, 16, "bell")], 3)


@pytest.mark.parametrize("before", ["bell 5 to 9", "bell 5 to 8", "bell 5 to 14", "bell 2 to 25"])
@pytest.mark.parametrize("after", ["bell 10 to 14", "bell 11 to 14", "bell 5 to 14"])
def test_joined_where_both_name_it_at_the_border(before, after):
    got, asked = listed({(0, 10): before, (10, 20): after}, 20.0)
    (event,) = got.events
    assert (event.start_s, event.end_s) == (parse_spans(before)[0].start_s, 15)
    assert (got.num_joined, got.num_asked_again, got.num_dropped, asked) == (1, 0, 0, THREE[:2])


def test_joined_with_the_nearest_on_either_side():
    says = {(0, 10): "bell 9.1 to 9.2, bell 9.5 to 9.8", (10, 20): "bell 10.1 to 10.2, bell 10.5 to 14.0"}
    assert triples(listed(says, 20.0)[0].events) == [
        (9.1, 9.2, "bell"),
        (9.5, 10.2, "bell"),
        (10.5, 14, "bell"),
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [("bell 5 to 7", "bell 10 to 14"), ("bell 5 to 9", "bell 12 to 14"), ("bell 5 to 9", "hum 10 to 14")],
)
def test_not_joined_where_one_is_silent_at_the_border(before, after):
    got, asked = listed({(0, 10): before, (10, 20): after}, 20.0)
    assert got.num_joined == got.num_asked_again == 0 and len(asked) == 2
    assert sorted(got.events) == sorted(parse_spans(before) + parse_spans(after))


def test_never_across_a_window_that_was_silent():
    got, _ = listed({(0, 10): "bell 5 to 9", (20, 30): "bell 20 to 24"})
    assert triples(got.events) == [(5, 10, "bell"), (20, 25, "bell")]
    longer = "bell 3 to 24"  # as the embedded model names the whole of an event
    got, asked = listed({(0, 10): longer, (20, 30): longer})
    assert asked == [*THREE, (0, 20), (10, 30)] and got.num_asked_again == 2
    assert got.num_joined == 0 and all(e.end_s <= 10 or e.start_s >= 20 for e in got.events)


def test_a_disputed_border_is_asked_about_once_with_both_windows():
    got, asked = listed({(0, 10): "bell 7 to 13, hum 8 to 12", (0, 20): "bell 6 to 13, beep 9 to 12"}, 20.0)
    assert asked == [*THREE[:2], (0, 20)]
    # both agree on bell; nothing else knows of hum, 2 s of 5 in its window; beep was not asked for
    assert triples(got.events) == [(6, 14, "bell")]
    assert got == EventList(got.events, 2, num_asked_again=1, num_dropped=1, num_joined=1)


def test_a_part_that_no_other_answer_knows_stays_if_it_is_the_larger():
    got, _ = listed({(0, 10): "bell 2 to 13, hum 8 to 21"}, 20.0)
    assert (triples(got.events), got.num_dropped) == ([(2, 10, "bell")], 1)


def test_the_larger_window_is_cut_too():
    got, _ = listed({(10, 20): "bell 14 to 24", (10, 30): "bell 5 to 99"})
    assert triples(got.events) == [(10, 30, "bell")]


def test_spans_outside_and_without_words_are_dropped_and_counted():
    got, asked = listed({(0, 10): "bell 12 to 15, hum 3 to 4", (10, 20): "12 to 15", (20, 30): "hum 3 to 4"})
    assert triples(got.events) == [(3, 5, "hum")] and got.num_dropped == 3 and len(asked) == 3


def test_five_minutes_of_a_beep_of_fifteen_seconds():
    says = {(120, 150): "beep 0 to 299", (150, 180): "beep 154 to 168"}
    got, _ = listed(says, 300.0, 30.0)
    assert (triples(got.events), got.num_asked_again, got.num_dropped) == ([(154, 169, "beep")], 2, 1)


def test_an_answer_says_it_twice():
    got, _ = listed({(0, 10): "bell 2 to 5, bell 2 to 5, bell 3 to 7"}, 10.0)
    assert (triples(got.events), got.num_dropped) == ([(2, 8, "bell")], 0)


def test_answers_without_a_time_come_with_their_window():
    got, _ = listed({(0, 10): "Nothing happens.", (10, 20): "I see a bell.", (20, 30): ""})
    assert got.unparsed == (Event(10, 20, "I see a bell."), Event(20, 30, ""))
    assert str(got) == (
        "3 windows asked, 0 pairs of them again; spans: 0 joined, 0 dropped; 2 answers without a time"
    )


def test_the_last_window_ends_with_the_video():
    got, asked = listed({(20, 30): "bell 22 to 40"}, 25.0)
    assert (triples(got.events), asked) == ([(22, 25, "bell")], THREE)
    assert listed({}, 0.0)[0] == EventList([], 1)
    assert len(listed({}, 30.02)[1]) == 3  # audio often ends a little after the frames


spans = st.tuples(st.sampled_from(["bell", "hum"]), st.integers(0, 50), st.integers(0, 50))
texts = st.lists(spans, max_size=4).map(lambda some: ", ".join(f"{n} {a} to {b}" for n, a, b in some))


@settings(max_examples=200, deadline=None)
@given(st.lists(texts.map(lambda text: text or "nothing"), min_size=9, max_size=9), st.integers(31, 50))
def test_laws(answers, duration_s):
    windows = [(10 * i, 10 * i + 10) for i in range(5)]
    says = dict(zip([*windows, *((a, d) for (a, _), (_, d) in pairwise(windows))], answers, strict=True))
    got, asked = listed(says, float(duration_s))
    assert len(asked) == got.num_asked + got.num_asked_again and len(set(asked)) == len(asked)
    for event in got.events:
        assert 0 <= event.start_s < event.end_s <= duration_s
        # each second was named by an answer about a window with it, or is beside a border it was named at
        named = [
            (max(window[0], span.start_s), min(window[1], span.end_s))
            for window in asked
            for span in parse_spans(says[window])
            if span.text == event.text
        ]
        for second in range(int(event.start_s), int(event.end_s)):
            beside = BORDER_S if min(second % 10, 9 - second % 10) < BORDER_S else 0
            assert any(a - beside <= second < b + beside for a, b in named), (event, second)
    for text in ("bell", "hum"):
        same = [e for e in got.events if e.text == text]
        assert all(a.end_s < b.start_s for a, b in pairwise(same))
    assert sorted(got.events) == got.events and not got.unparsed


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["bell", "hum"]), st.integers(0, 48), st.integers(2, 30)), max_size=4)
)
def test_right_answers_give_the_events(some):
    truth = {}
    for name, start, length in some:  # one of a name: others could touch
        truth.setdefault(name, (start, min(start + length, 50)))

    def ask(windows):
        return [
            ", ".join(f"{n} {a} to {b - 1}" for n, (a, b) in truth.items() if a < end and b > start)
            or "nothing"
            for start, end in windows
        ]

    got = list_events(ask, 50.0, 10.0)
    assert triples(got.events) == sorted((a, b, n) for n, (a, b) in truth.items())
    assert got.num_dropped == got.num_asked_again == 0
