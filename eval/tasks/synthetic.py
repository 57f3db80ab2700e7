"""Videos drawn from seeds, and questions on them whose answers are known: needles, and the synthetic QA.

Nobody's videos, no files to get: the gold of a run is its own header, which says what was drawn.
"""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from longcompress.synthetic.questions import KINDS, SPAN_KINDS, Question, ask, grade, read_spans
from longcompress.synthetic.scenes import OBJECTS, SOUNDS, Scene, make_scene

from ...synthetic.needles import FIRST_SEED, haystack
from ..metrics.intervals import Interval, mean
from ..metrics.needles import heat_map
from .answers import without_thoughts
from .files import one_file, read_text, write_lines
from .spoken import read_spoken
from .task import DEFAULT, Draw, Example, How, Predictions, Said, Scored, Task

QA_SEED = 10_000_000  # of the first video; training stays below
QUESTIONS = 6  # of each kind, about each video of the synthetic QA

Reply: TypeAlias = tuple[Interval, ...] | str  # seconds, ends exclusive; words of what is no "when"


@dataclass(frozen=True)
class Drawn:
    """Which videos are drawn.

    Attributes:
        minutes: their lengths.
        videos: how many of each length.
        first_video: number of the first; videos of other numbers are other videos.
    """

    minutes: tuple[float, ...] = (5.0, 15.0)
    num_videos: int = 3
    first_video: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "minutes", tuple(float(one) for one in self.minutes))
        if not self.minutes or any(not one > 0 for one in self.minutes):
            raise ValueError(f"minutes must be lengths above 0, at least one, got {self.minutes}")
        if len(set(self.minutes)) < len(self.minutes):
            raise ValueError(f"minutes must be different lengths, got {self.minutes}")
        if self.num_videos < 1 or self.first_video < 0:
            raise ValueError(
                f"videos must be at least 1 and first_video at least 0, got {self.num_videos} and {self.first_video}"
            )


def draw_all(
    task: str, draw: Draw, drawn: Drawn
) -> tuple[list[Example[Question]], dict[str, tuple[int, float]]]:
    """The examples of all videos, and what `draw` makes each video of, by its name."""
    examples: list[Example[Question]] = []
    num_videos: dict[str, tuple[int, float]] = {}
    for minutes in drawn.minutes:
        for number in range(drawn.first_video, drawn.first_video + drawn.num_videos):
            name = f"{task}-{minutes:g}min-{number}"
            num_videos[name] = number, 60 * minutes
            _, asked = draw(*num_videos[name])
            for i, one in enumerate(asked):
                groups = (*one.groups, ("minutes", f"{minutes:g}"))
                groups += tuple((f"{kind},minutes", f"{group},{minutes:g}") for kind, group in one.groups)
                examples.append(replace(one, id=f"{name}-{i}", video=name, groups=groups))
    return examples, num_videos


def examples_of(paths: Sequence[Path], *, task: str, draw: Draw) -> list[Example[Question]]:
    """The examples of a run, drawn again: gold is its file, or {"drawn": {"minutes", "videos"}}."""
    path = one_file(paths, "gold")
    first = next(iter(read_text(path).split("\n")), "")
    try:
        value = json.loads(first)
        drawn = Drawn(**value["drawn"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path}:1: must say which videos were drawn, as a run\'s header does, {{"drawn": {{"minutes": '
            f'[5], "videos": 3}}}}; got {first[:80]!r} ({type(error).__name__}: {error})'
        ) from error
    return draw_all(task, draw, drawn)[0]


# --- what is drawn


def draw_needles(number: int, seconds: float) -> tuple[Scene, list[Example[Question]]]:
    """A haystack and its needles, as `longcompress bench needle` draws them."""
    scene, needles = haystack(FIRST_SEED + number, seconds)
    asked = []
    for one in needles:
        groups = ("kind", one.kind), ("depth", f"{one.depth:g}")
        asked.append(Example("", "", one.question.text, one.question, seconds, groups=groups))
    return scene, asked


def sample_qa(number: int, seconds: float) -> tuple[Scene, list[Example[Question]]]:
    """A video and the questions that `longcompress bench synthetic_qa` asks about it."""
    scene = make_scene(QA_SEED + number, seconds)
    random = np.random.default_rng([7, number])
    asked = [
        question
        for kind in KINDS
        for question in ask(scene.events, seconds, num=QUESTIONS, generator=random, kinds={kind: 1.0})
    ]
    return scene, [Example("", "", q.text, q, seconds, groups=(("kind", q.kind),)) for q in asked]


# --- what is asked and said


_FORMS = {
    "while": "Answer with their names, a comma between, or: nothing.",
    "first_after": "Answer with its name only, or: nothing.",
    "count": "Answer with a number only.",
    "between": "Answer with each name and its first and last second, like this: red ball 3 to 7, bell 12 to "
    "14; or: nothing.",
}


def ask_explained(example: Example[Question]) -> str:
    """The question, what may be seen and heard, and the form of an answer, for models that weren't told."""
    form = _FORMS.get(
        example.truth.kind, "Answer with the first and the last whole second only, like this: 187 to 192."
    )
    world = f"Objects are {', '.join(OBJECTS)}; sounds are {', '.join(SOUNDS)}."
    return f"{world}\n{example.question}\n{form}"


def reply_in(text: str, example: Example[Question], how: How) -> Reply | None:
    """The spans that an answer names, or its words; None where it isn't of the form of an answer."""
    words = without_thoughts(text).strip().rstrip(".").lower()
    if not grade(example.truth, words)["parsed"]:
        return None
    if example.truth.kind in SPAN_KINDS:
        return tuple(read_spans(words, example.truth.offset_s))
    return words


def words_of(reply: Reply) -> str:
    """A reply as `synthetic_qa.grade` reads it."""
    if isinstance(reply, str):
        return reply
    return ", ".join(f"{start_s:.0f} to {end_s - 1:.0f}" for start_s, end_s in reply)


# --- what it is worth


def score_replies(
    examples: Sequence[Example[Question]], said: Mapping[str, Said[Reply]], how: How, *, name: str
) -> Scored:
    """Mean grade and error in time, of all and by group; what was not answered, or not read, is graded 0.

    The grade is that of `synthetic_qa.grade`: 1 for a span with an IoU of .5 or more (R@1 of one span), for just the
    right names or number; the F1 of a list. The error in time is the distance, in seconds, between the
    middle of the first span of an answer and the true one, of questions that are answered by a span and were.

    Args:
        examples: drawn ones.
        said: replies.
        how: nothing of it counts.
        name: what the mean grade is called.

    Returns:
        NAME, error_s, error_s_median, and each as METRIC/KIND/GROUP; num and num/KIND/GROUP; majority/KIND,
        the share that the commonest right answer alone would have, for kinds that no span answers.
    """
    grades: dict[str, float] = {}
    errors: dict[str, float] = {}
    for one in examples:
        reply = said[one.id].value if one.id in said else None
        grades[one.id] = 0.0 if reply is None else float(grade(one.truth, words_of(reply))["score"])
        if isinstance(reply, tuple) and reply:
            errors[one.id] = abs(sum(reply[0]) - sum(one.truth.spans[0])) / 2
    metrics: dict[str, Any] = {}
    for end, ids in _groups(examples):
        found = [errors[key] for key in ids if key in errors]
        metrics[f"{name}{end}"] = mean([grades[key] for key in ids])
        metrics[f"error_s{end}"] = mean(found)
        metrics[f"error_s_median{end}"] = statistics.median(found) if found else None
        metrics[f"num{end}"] = len(ids)
    answers: dict[str, list[str]] = {}
    for one in examples:
        if one.truth.kind not in SPAN_KINDS:
            answers.setdefault(one.truth.kind, []).append(one.truth.answer)
    for kind, some in answers.items():
        metrics[f"majority/{kind}"] = max(some.count(one) for one in set(some)) / len(some)
    return Scored(metrics, {name: grades, "error_s": errors})


def _groups(examples: Sequence[Example[Question]]) -> Iterator[tuple[str, list[str]]]:
    """The ids of all, as "", and of each group, as "/KIND/GROUP"."""
    yield "", [one.id for one in examples]
    members: dict[tuple[str, str], list[str]] = {}
    for one in examples:
        for pair in one.groups:
            members.setdefault(pair, []).append(one.id)
    order = list(dict.fromkeys(kind for kind, _ in members))
    for kind, group in sorted(members, key=lambda pair: order.index(pair[0])):
        yield f"/{kind}/{group}", members[kind, group]


def heat_of(
    examples: Sequence[Example[Question]], found: Mapping[str, float]
) -> dict[str, dict[tuple[float, float], float]]:
    """Kind of needle to (minutes, depth) to the share found: the heat map, as `plot.plot_depths` draws it."""
    groups = {one.id: dict(one.groups) for one in examples if one.id in found}
    minutes, depth = ({key: float(of[name]) for key, of in groups.items()} for name in ("minutes", "depth"))
    return {
        kind: heat_map({key: found[key] for key, of in groups.items() if of["kind"] == kind}, minutes, depth)
        for kind in dict.fromkeys(of["kind"] for of in groups.values())
    }


def read_replies(
    paths: Sequence[Path], examples: Sequence[Example[Question]], how: How
) -> Predictions[Reply]:
    """Lines {"id", "answer"}."""
    return read_spoken(paths, examples, how, task="drawn", parse=reply_in)


def write_replies(path: Path, examples: Sequence[Example[Question]], said: Mapping[str, Said[Reply]]) -> None:
    """Lines {"id", "answer"}."""
    write_lines(
        path,
        [
            {"id": one.id, "answer": said[one.id].text or words_of(said[one.id].value or "")}
            for one in examples
            if one.id in said
        ],
    )


def _task(task: str, draw: Draw, name: str, about: str) -> Task[Question, Reply]:
    return Task(
        about=about,
        where="drawn from seeds, see --minutes and --videos; gold of `eval score` is the run's own file",
        read=partial(examples_of, task=task, draw=draw),
        prompts={DEFAULT: lambda example: example.question, "explained": ask_explained},
        times=dict.fromkeys((DEFAULT, "explained"), "whole_seconds"),
        parse=reply_in,
        read_predictions=read_replies,
        write_predictions=write_replies,
        score=partial(score_replies, name=name),
        draw=draw,
    )


NEEDLE = _task(
    "needle",
    draw_needles,
    "found",
    "20 needles in a drawn video of 5 min to hours: an object, a sound, both at once, a sound that follows",
)
SYNTHETIC_QA = _task(
    "synthetic_qa",
    sample_qa,
    "score",
    "questions of seven kinds on drawn videos: when, while, count, first after, between",
)
