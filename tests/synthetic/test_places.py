"""Letters on objects; the truths of questions about places, read once more from the objects' paths."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from longcompress.synthetic import places, questions
from longcompress.synthetic.questions import ask, grade
from longcompress.synthetic.scenes import (
    LETTER_SIZE,
    LETTERS,
    OBJECTS,
    frames,
    letter_patches,
    make_scene,
    patches,
    position,
)


def asked(seed: int, kind: str, num: int = 99, **options):
    scene = make_scene(seed, 40.0, letters=True)
    generator = np.random.default_rng(seed)
    return scene, ask(scene.events, 40.0, num=num, generator=generator, kinds=[kind], **options)


def test_letters_change_nothing_else_of_a_scene():
    scene = make_scene(5, 40.0, letters=True)
    assert {event.letter for event in scene.events} > {""}
    plain = replace(scene, events=tuple(replace(event, letter="") for event in scene.events))
    assert plain == make_scene(5, 40.0)
    event = next(event for event in scene.events if event.letter)
    at = event.start_s + 0.5
    with_letter, without = frames(scene, at)[0].astype(int), frames(plain, at)[0].astype(int)
    changed = np.argwhere((with_letter != without).any(-1))
    assert 20 < len(changed) < 0.03 * 128 * 128
    carried = [e for e in scene.of("video") if e.letter and e.start_s <= at < e.end_s]
    middles = np.stack([position(e, np.array([at]))[0] * 128 for e in carried])  # x, y
    far = np.abs(changed[:, None, ::-1] + 0.5 - middles).max(-1).min(1)
    assert far.max() <= LETTER_SIZE * max(e.size for e in carried) * 64 + 1


def test_a_letter_is_in_patches_of_its_own_object():
    for seed in range(8):
        scene = make_scene(seed, 40.0, letters=True)
        times = np.arange(0, 40, 2.0)
        seen, read = patches(scene, times, grid=5), letter_patches(scene, times, grid=5)
        for t, time_s in enumerate(times.tolist()):
            shown = [e for e in scene.of("video") if e.start_s <= time_s < e.end_s]
            possible = {(OBJECTS.index(e.name), LETTERS.index(e.letter)) for e in shown if e.letter}
            pairs = set(zip(seen[t].ravel().tolist(), read[t].ravel().tolist(), strict=True))
            assert {b for _, b in pairs} <= {b for _, b in possible} | {len(LETTERS)}
            assert {p for p in pairs if p[1] < len(LETTERS) and p[0] < len(OBJECTS)} <= possible
            if len(shown) == 1 and shown[0].letter:
                assert (read[t] < len(LETTERS)).any()


@pytest.mark.parametrize("kind", places.KINDS)
def test_the_answers_are_true(kind):
    count = 0
    for seed in range(40):
        scene, all_asked = asked(seed, kind, offset_s=20)
        single = {e.name: e for e in scene.of("video")}
        for question in all_asked:
            names = [name for name in OBJECTS if name in question.text]
            events = [single[name] for name in names]
            if kind == "letter":
                assert question.answer == events[0].letter != ""
            elif kind == "where":
                second = int(re.findall(r"\d+", question.text)[0]) - 20
                x, y = position(events[0], np.array([second + 0.5]))[0].tolist()
                row, column = question.answer.split()
                assert places.ROWS.index(row) == (y > 0.4) + (y > 0.6)
                assert places.COLUMNS.index(column) == (x > 0.4) + (x > 0.6)
            else:
                times = np.arange(max(e.start_s for e in events), min(e.end_s for e in events), 0.1)
                axis = 0 if kind == "left" else 1
                best = min(events, key=lambda e: position(e, times)[:, axis].max())
                assert question.answer == best.name
                other = max(events, key=lambda e: position(e, times)[:, axis].max())
                assert (position(best, times)[:, axis] + 0.1 < position(other, times)[:, axis]).all()
            assert grade(question, question.answer) == {"parsed": True, "score": 1.0, "exact": True}
            assert grade(question, "nothing")["score"] == 0.0
            count += 1
    assert count > 30


def test_no_answer_is_common_and_names_stand_in_either_order():
    answers, first = Counter(), Counter()
    for seed in range(150):
        answers.update(q.answer for q in asked(seed, "where", 3)[1])
        for question in asked(seed, "left", 3)[1]:
            first[question.text.find(question.answer) < len(question.text) / 2 + 4] += 1
    assert len(answers) == 9 and max(answers.values()) < 0.25 * answers.total()
    assert 0.35 < first[True] / first.total() < 0.65


def test_the_usual_kinds_and_words_are_as_they_were():
    assert not {*places.KINDS} & {*questions.KINDS}
    assert not {*LETTERS} & {*questions.VOCABULARY}
    with pytest.raises(ValueError, match=r"kinds must be of \('when_seen', .*'letter'\), got \['nearest'\]"):
        ask((), 40.0, num=1, generator=np.random.default_rng(0), kinds=["nearest"])
