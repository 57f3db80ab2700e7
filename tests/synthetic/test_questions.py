"""The truths of questions, read once more from the events in steps of 0.1 s; and the grading."""

import re
from collections import Counter

import numpy as np
import pytest

from longcompress.synthetic import questions as synthetic_qa
from longcompress.synthetic.questions import (
    KINDS,
    NOTHING,
    SPAN_KINDS,
    VOCABULARY,
    Question,
    ask,
    grade,
    printed_seconds,
)
from longcompress.synthetic.scenes import OBJECTS, SOUNDS, SceneEvent, clip_events, make_scene

STEP_S = 0.1


def video(seed: int, duration_s: float = 300.0) -> tuple[SceneEvent, ...]:
    return make_scene(seed, duration_s).events


def asked(seed: int, kinds=KINDS, num: int = 60, **how) -> list[Question]:
    return ask(video(seed), 300.0, num=num, generator=np.random.default_rng(seed), kinds=kinds, **how)


def on(events, name: str) -> np.ndarray:
    """Whether it is there at 0, 0.1, 0.2 ... s."""
    at = np.arange(0, 320, STEP_S)
    return np.any([(h.start_s <= at) & (at < h.end_s) for h in events if h.name == name] or [at < 0], axis=0)


def runs(there: np.ndarray) -> list[tuple[float, float]]:
    edges = np.flatnonzero(np.diff(np.r_[0, there.astype(int), 0])) * STEP_S
    return [(float(a), float(b)) for a, b in edges.reshape(-1, 2)]


def named(text: str) -> tuple[str, str]:
    """The object and the sound that a text names."""
    thing, noise = (
        next((n for n in names if re.search(rf"\b{n}\b", text)), "") for names in (OBJECTS, SOUNDS)
    )
    return thing, noise


def assert_is_span(question: Question, spans: list[tuple[float, float]]) -> None:
    assert len(spans) == 1
    assert np.abs(np.array(question.spans[0]) - spans[0]).max() <= STEP_S + 1e-6
    first, last = map(int, re.findall(r"\d+", question.answer))
    assert abs(first - spans[0][0]) <= 1 + STEP_S and abs(last + 1 - spans[0][1]) <= 1 + STEP_S


@pytest.mark.parametrize("seed", range(4))
def test_spans_are_true(seed):
    events = video(seed)
    for question in asked(seed, SPAN_KINDS):
        thing, noise = named(question.text)
        if question.kind == "when_seen":
            assert_is_span(question, runs(on(events, thing)))
        elif question.kind == "when_heard":
            assert_is_span(question, runs(on(events, noise)))
        else:
            seen, heard = on(events, thing), on(events, noise)
            assert_is_span(question, runs(seen & heard))
            assert (seen & heard).sum() * STEP_S >= 4 - STEP_S
            assert max(len(runs(seen)), len(runs(heard))) >= 2


@pytest.mark.parametrize("seed", range(4))
def test_names_and_counts_are_true(seed):
    events = video(seed)
    for question in asked(seed, ("while", "first_after", "count")):
        thing, noise = named(question.text)
        if question.kind == "count":
            assert int(question.answer) == len(runs(on(events, thing)))
        elif question.kind == "while":
            during = on(events, noise)
            first = {name: np.argmax(on(events, name) & during) for name in OBJECTS}
            common = {name: (on(events, name) & during).sum() * STEP_S for name in OBJECTS}
            there = [name for name in OBJECTS if common[name] > 0]
            assert len(runs(during)) == 1 and all(common[name] > 2 - 2 * STEP_S for name in there)
            said = () if question.answer == NOTHING else question.answer.split(", ")
            assert sorted(said) == sorted(there) and [first[n] for n in said] == sorted(
                first[n] for n in said
            )
        else:
            [(start_s, _)] = runs(on(events, thing))
            starts = sorted((a, name) for name in SOUNDS for a, _ in runs(on(events, name)) if a > start_s)
            assert question.answer == (starts[0][1] if starts else NOTHING)
            assert not starts or starts[0][0] - start_s >= 1 - 2 * STEP_S
            assert len(starts) < 2 or starts[1][0] - starts[0][0] >= 1.5 - 2 * STEP_S


@pytest.mark.parametrize("seed", range(4))
def test_between_is_true(seed):
    events = video(seed)
    questions = asked(seed, ("between",), num=20)
    assert len(questions) == 20
    for question in questions:
        start, end = map(int, re.findall(r"\d+", question.text))
        assert start % 10 == end % 10 == 0 and 10 <= end - start <= 30
        want = []
        for name in (*OBJECTS, *SOUNDS):
            for a, b in runs(on(events, name)):
                if min(b, end) - max(a, start) > 0.5:
                    want.append((name, a, b))
        items = [] if question.answer == NOTHING else question.answer.split(", ")
        assert len(items) == len(want)
        parts = [re.fullmatch(r"(.+) (\d+) to (\d+)", item).groups() for item in items]
        for name, first, last in parts:
            assert any(
                name == n and abs(int(first) - a) <= 1.1 and abs(int(last) + 1 - b) <= 1.1 for n, a, b in want
            )
        assert [int(first) for _, first, _ in parts] == sorted(int(first) for _, first, _ in parts)


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_seconds_are_the_ones_looked_at(kind):
    generator = np.random.default_rng(0)
    for start_s, length in generator.uniform((0, 2), (90, 20), (200, 2)):
        one = SceneEvent(start_s, start_s + length, kind, "red ball" if kind == "video" else "bell")
        at = np.arange(120.0)
        if kind == "video":
            there = (one.start_s <= at) & (at < one.end_s)
        else:
            there = np.minimum(at + 1, one.end_s) - np.maximum(at, one.start_s) > 0.5
        assert printed_seconds(one) == (np.flatnonzero(there)[0], np.flatnonzero(there)[-1])
        assert printed_seconds(one, offset_s=70) == (
            printed_seconds(one)[0] + 70,
            printed_seconds(one)[1] + 70,
        )
    assert printed_seconds(SceneEvent(5.2, 5.8, "video", "red ball")) == (6, 6)


def test_questions_are_distinct_and_repeatable():
    questions = asked(0, num=40)
    assert len({q.text for q in questions}) == len(questions) == 40
    assert questions == asked(0, num=40)
    assert {q.kind for q in questions} == set(KINDS)
    assert all(q.text.startswith(synthetic_qa.TEMPLATES[q.kind][0].split("{")[0]) for q in questions)
    assert len({q.text.split()[1] for q in asked(0, ("when_seen",), paraphrase=True)}) > 1
    assert {q.kind for q in asked(0, {"count": 1.0, "while": 0.0})} == {"count"}
    assert ask((), 30.0, num=3, generator=np.random.default_rng(0), kinds=("binding",)) == []


def test_counts_are_balanced():
    answers = Counter(q.answer for seed in range(40) for q in asked(seed, ("count",), num=1))
    assert answers.most_common(1)[0][1] <= 0.45 * answers.total()  # 0.25 to 0.4 expected


def test_offset_is_added_to_what_is_printed():
    for plain, later in zip(asked(5), asked(5, offset_s=250), strict=True):
        if plain.kind != "count":
            moved = re.sub(r"\d+", lambda number: str(int(number[0]) + 250), plain.text + plain.answer)
            assert moved == later.text + later.answer
        assert plain.spans == later.spans
        assert grade(later, later.answer)["score"] == 1
        if plain.kind in SPAN_KINDS:
            assert grade(later, plain.answer)["score"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_truth_is_perfect_and_garbage_is_not(seed):
    events = clip_events(video(seed), 33.3, 151.7)  # with pieces cut short
    questions = ask(events, 118.4, num=80, generator=np.random.default_rng(0), paraphrase=True)
    for question in questions:
        got = grade(question, question.answer)
        assert got["parsed"] and got["exact"] and got["score"] == 1, question
        assert grade(question, f" {question.answer}. ") == got
        for garbage in (
            "",
            "I don't know",
            "the to and between",
            "9 to 5" if question.kind != "count" else "x",
        ):
            got = grade(question, garbage)
            assert not got["parsed"] and got["score"] == 0 and not got["exact"], (question, garbage)


def test_grades_in_between():
    when = Question("when_heard", "When is the bell heard?", "10 to 19", ((10.0, 20.0),))
    assert grade(when, "15 - 19") == {"parsed": True, "score": 1.0, "exact": False, "iou": 0.5}
    assert grade(when, "16 to 19, or 30 to 31")["iou"] == pytest.approx(0.4)
    what = Question("while", "", "red ball, blue box", names=("red ball", "blue box"))
    assert grade(what, "blue box, red ball")["score"] == 1
    assert grade(what, "red ball") == {"parsed": True, "score": 0.0, "exact": False}
    between = Question(
        "between", "", "red ball 1 to 9, bell 5 to 8", ((1.0, 10.0), (5.0, 9.0)), ("red ball", "bell")
    )
    got = grade(between, "bell 5 to 7, red ball 30 to 40, hum 1 to 9")
    assert got["parsed"] and got["f1"] == got["score"] == pytest.approx(2 / 5)
    assert grade(between, "bell 5 to 8, bell 5 to 8")["f1"] == pytest.approx(2 / 4)
    assert grade(between, NOTHING) == {"parsed": True, "score": 0.0, "exact": False, "f1": 0.0}
    none = Question("between", "", NOTHING)
    assert grade(none, "Nothing.")["score"] == 1 and grade(none, "bell 5 to 8")["score"] == 0


def test_vocabulary_is_closed():
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    unit = re.compile("|".join(sorted(map(re.escape, VOCABULARY), key=len, reverse=True)) + r"|\d+")
    for seed in range(3):
        for question in asked(seed, num=100, paraphrase=True):
            for text in (question.text, question.answer):
                assert unit.sub("", text).strip() == "", text


def test_messages():
    with pytest.raises(ValueError, match=r"offset_s must be a multiple of 10, 0 or more, got 5"):
        asked(0, offset_s=5)
    with pytest.raises(ValueError, match=r"kinds must be of \('when_seen', .*got \['why'\]"):
        asked(0, ("why",))
