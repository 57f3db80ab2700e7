"""Questions about a whole video, their truths counted once more from its events."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from longcompress.synthetic import places, questions, whole
from longcompress.synthetic.questions import ask, grade
from longcompress.synthetic.scenes import OBJECTS, SOUNDS, SceneEvent, make_scene

KNOWN = {"seen": set(OBJECTS), "heard": set(SOUNDS)}


def asked(events, kind: str, duration_s: float = 180.0, num: int = 9999):
    return ask(events, duration_s, num=num, generator=np.random.default_rng(3), kinds=[kind])


def sense_of(text: str) -> str:
    return "seen" if "seen" in text else "heard"


def starts(events) -> dict[str, dict[str, list[float]]]:
    """Sense -> name -> starts."""
    by_sense: dict[str, dict[str, list[float]]] = {"seen": defaultdict(list), "heard": defaultdict(list)}
    for event in events:
        by_sense["seen" if event.kind == "video" else "heard"][event.name].append(event.start_s)
    return by_sense


@pytest.mark.parametrize("seed", range(12))
def test_truths_are_those_of_the_events(seed):
    events = make_scene(seed, 180.0).events
    by_sense = starts(events)
    for question in asked(events, "first"):
        order = sorted((min(at), name) for name, at in by_sense[sense_of(question.text)].items())
        assert question.answer == order[0][1] and order[1][0] - order[0][0] >= 1
    for question in asked(events, "commonest"):
        (name, times), (_, fewer) = Counter(
            {name: len(at) for name, at in by_sense[sense_of(question.text)].items()}
        ).most_common(2)
        assert question.answer == name and times > fewer
    never = asked(events, "never")
    for question in never:
        named = by_sense[sense_of(question.text)]
        pair = question.text.removesuffix("?").partition(", the ")[2].split(" or the ")
        assert question.answer in pair and question.answer not in named
        assert {*pair} - {question.answer} <= {*named} and {*pair} <= KNOWN[sense_of(question.text)]
    for sense, named in by_sense.items():
        num = sum(sense_of(question.text) == sense for question in never)
        assert num == 2 * len(named) * (len(KNOWN[sense]) - len(named))


def test_what_is_not_clear_is_not_asked():
    def sound(start_s: float, name: str) -> SceneEvent:
        return SceneEvent(start_s, start_s + 4, "audio", name)

    near = [sound(10.0, "bell"), sound(10.5, "drum"), sound(30.0, "bell"), sound(40.0, "drum")]
    assert asked(near, "first") == asked(near, "commonest") == []
    apart = [*near, sound(5.0, "hum"), sound(60.0, "bell")]
    assert [(q.text, q.answer) for q in asked(apart, "first")] == [("What is heard first of all?", "hum")]
    assert [q.answer for q in asked(apart, "commonest")] == ["bell"]
    assert asked([], "never") == asked([sound(1.0, "bell")], "first") == []


def test_grades_and_kinds():
    (question,) = [q for q in asked(make_scene(3, 180.0).events, "commonest") if "heard" in q.text]
    assert grade(question, f"{question.answer.upper()}.")["score"] == 1.0
    other = next(name for name in SOUNDS if name != question.answer)
    assert grade(question, other) == {"parsed": True, "score": 0.0, "exact": False}
    assert not grade(question, "a zebra")["parsed"]
    assert not {*whole.KINDS} & {*questions.KINDS, *places.KINDS}
