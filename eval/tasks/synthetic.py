"""Synthetic videos with questions whose answers are known: needles, and synthetic QA.

There are no files to get. The reference of a run is its own header, which says what was synthesized.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean, median
from typing import Any, TypeAlias

import numpy as np

from ...synthetic import places, whole
from ...synthetic.needles import FIRST_SEED, haystack
from ...synthetic.questions import KINDS, SPAN_KINDS, ask, grade, read_spans
from ...synthetic.scenes import OBJECTS, SOUNDS, Scene, make_scene
from ..metrics.intervals import Interval, mean
from .answers import without_thoughts
from .files import one_file, read_text
from .forms import lines_file, read_spoken
from .task import DEFAULT, Answers, Example, How, Paths, Prediction, Scored, Synthesize, Task, groups_of

QA_SEED = 10_000_000  # of the first video of synthetic QA; training stays below
NUM_QUESTIONS = 6  # of each kind, about each video of synthetic QA

Reply: TypeAlias = tuple[Interval, ...] | str  # seconds, ends exclusive; words where no span is asked for


@dataclass(frozen=True)
class Synthetic:
    """Which videos are synthesized: their lengths, the number of each length, the number of the first."""

    minutes: tuple[float, ...] = (5.0, 15.0)
    num_videos: int = 3
    first_video: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "minutes", tuple(map(float, self.minutes)))
        if not all(length > 0 for length in self.minutes) or not self.minutes:
            raise ValueError(f"minutes must be lengths above 0, at least one, got {self.minutes}")
        if len(set(self.minutes)) < len(self.minutes):
            raise ValueError(f"minutes must be different lengths, got {self.minutes}")
        if self.num_videos < 1 or self.first_video < 0:
            got = f"{self.num_videos} and {self.first_video}"
            raise ValueError(f"num_videos must be at least 1 and first_video at least 0, got {got}")


def synthesize_all(
    task: str, synthesize: Synthesize, synthetic: Synthetic
) -> tuple[list[Example], dict[str, tuple[int, float]]]:
    """The examples of all videos, and the arguments of `synthesize` for each video, by its name."""
    examples: list[Example] = []
    videos: dict[str, tuple[int, float]] = {}
    for minutes in synthetic.minutes:
        for number in range(synthetic.first_video, synthetic.first_video + synthetic.num_videos):
            name = f"{task}-{minutes:g}min-{number}"
            videos[name] = number, 60 * minutes
            _, questions = synthesize(*videos[name])
            for i, example in enumerate(questions):
                groups = (*example.groups, ("minutes", f"{minutes:g}"))
                groups += tuple((f"{kind},minutes", f"{name},{minutes:g}") for kind, name in example.groups)
                examples.append(replace(example, id=f"{name}-{i}", video=name, groups=groups))
    return examples, videos


def examples_of(paths: Paths, *, task: str, synthesize: Synthesize) -> list[Example]:
    """The examples of a run, synthesized again, from its file, or {"synthetic": {"minutes", ...}}."""
    path = one_file(paths, "reference")
    first = read_text(path).partition("\n")[0]
    try:
        synthetic = Synthetic(**json.loads(first)["synthetic"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path}:1: must say which videos were synthesized, as a run\'s header does, {{"synthetic": '
            f'{{"minutes": [5], "num_videos": 3}}}}; got {first[:80]!r} ({type(error).__name__}: {error})'
        ) from error
    return synthesize_all(task, synthesize, synthetic)[0]


def synthesize_needles(number: int, seconds: float) -> tuple[Scene, list[Example]]:
    """A haystack and its needles."""
    scene, needles = haystack(FIRST_SEED + number, seconds)
    return scene, [
        Example(
            "", "", n.question.text, n.question, seconds, groups=(("kind", n.kind), ("depth", f"{n.depth:g}"))
        )
        for n in needles
    ]


def synthesize_qa(number: int, seconds: float) -> tuple[Scene, list[Example]]:
    """A video and the questions about it."""
    scene = make_scene(QA_SEED + number, seconds)
    return scene, _examples(scene, seconds, [7, number], KINDS)


def synthesize_whole(number: int, seconds: float) -> tuple[Scene, list[Example]]:
    """A video and questions about all of it."""
    scene = make_scene(QA_SEED + number, seconds)
    return scene, _examples(scene, seconds, [9, number], ("count", *whole.KINDS))


def _examples(scene: Scene, seconds: float, seed: list[int], kinds: Sequence[str]) -> list[Example]:
    examples, random = [], np.random.default_rng(seed)
    for kind in kinds:
        questions = ask(scene.events, seconds, num=NUM_QUESTIONS, generator=random, kinds={kind: 1.0})
        examples += [Example("", "", q.text, q, seconds, groups=(("kind", q.kind),)) for q in questions]
    return examples


def synthesize_places(
    number: int, seconds: float, kinds: Sequence[str] = ("when_seen", *places.KINDS)
) -> tuple[Scene, list[Example]]:
    """A video whose objects carry letters, and questions about when, where and what is written."""
    scene = make_scene(QA_SEED + number, seconds, letters=True)
    return scene, _examples(scene, seconds, [8, number], kinds)


synthesize_heard = partial(synthesize_places, kinds=("when_seen", *places.KINDS, "when_heard"))

_SPAN_FORM = "Answer with the first and the last whole second only, like this: 187 to 192."
_FORMS = {
    "while": "Answer with their names, a comma between, or: nothing.",
    "first_after": "Answer with its name only, or: nothing.",
    "count": "Answer with a number only.",
    **dict.fromkeys((*whole.KINDS, "left", "above"), "Answer with its name only."),
    "where": f"Answer with the row ({', '.join(places.ROWS)}) and the column ({', '.join(places.COLUMNS)}).",
    "letter": "Answer with the letter only.",
    "between": "Answer with each name and its first and last second, like this: red ball 3 to 7, bell 12 to "
    "14; or: nothing.",
}


def ask_explained(example: Example) -> str:
    """The question, what may be seen and heard, and the form of an answer, for models that do not know it."""
    world = f"Objects are {', '.join(OBJECTS)}; sounds are {', '.join(SOUNDS)}."
    return f"{world}\n{example.question}\n{_FORMS.get(example.truth.kind, _SPAN_FORM)}"


def reply_in(text: str, example: Example, how: How) -> Reply | None:
    """The spans that an answer names, or its words; None where it isn't of the form of an answer."""
    words = without_thoughts(text).strip().rstrip(".").lower()
    if not grade(example.truth, words)["parsed"]:
        return None
    return tuple(read_spans(words, example.truth.offset_s)) if example.truth.kind in SPAN_KINDS else words


def words_of(reply: Reply) -> str:
    """A reply as `questions.grade` reads it."""
    if isinstance(reply, str):
        return reply
    return ", ".join(f"{start_s:.0f} to {end_s - 1:.0f}" for start_s, end_s in reply)


def score_replies(answers: Answers, *, name: str) -> Scored:
    """Mean grade and error in time, of all and by group; a missing or unreadable answer is graded 0.

    The grade is that of `questions.grade`: 1 for a span with an IoU of .5 or more (R@1), or for just the
    right names or number; the F1 of a list. The error in time is the distance, in seconds, between the middle
    of the first span of an answer and the true one, of answered questions about a span.

    Returns:
        NAME, error_s, error_s_median, and each as METRIC/KIND/GROUP; num and num/KIND/GROUP; majority/KIND,
        the share that the commonest right answer alone would have, for kinds that are not answered by one
        span.
    """
    grades: dict[str, float] = {}
    errors: dict[str, float] = {}
    right: dict[str, list[str]] = {}
    for example in answers.examples:
        reply = answers.by_id[example.id].value if example.id in answers.by_id else None
        grades[example.id] = 0.0 if reply is None else float(grade(example.truth, words_of(reply))["score"])
        if isinstance(reply, tuple):
            errors[example.id] = abs(sum(reply[0]) - sum(example.truth.spans[0])) / 2
        if example.truth.kind not in SPAN_KINDS:
            right.setdefault(example.truth.kind, []).append(example.truth.answer)
    groups = {"": [example.id for example in answers.examples]}  # all, then each group
    for kind, members in groups_of(answers.examples).items():
        groups |= {f"/{kind}/{name}": ids for name, ids in members.items()}
    metrics: dict[str, Any] = {}
    for end, ids in groups.items():
        known = [errors[key] for key in ids if key in errors]
        metrics[f"{name}{end}"] = mean([grades[key] for key in ids])
        metrics[f"error_s{end}"] = mean(known)
        metrics[f"error_s_median{end}"] = median(known) if known else None
        metrics[f"num{end}"] = len(ids)
    for kind, texts in right.items():
        metrics[f"majority/{kind}"] = max(map(texts.count, texts)) / len(texts)
    return Scored(metrics, {name: grades, "error_s": errors})


def depths_of(
    examples: Sequence[Example], score: Mapping[str, float]
) -> dict[str, dict[tuple[float, float], float]]:
    """Kind of needle to (minutes, depth) to the mean score, as `plot.plot_depths` draws it."""
    values: dict[str, dict[tuple[float, float], list[float]]] = {}
    for example in (example for example in examples if example.id in score):
        group = dict(example.groups)
        place = float(group["minutes"]), float(group["depth"])
        values.setdefault(group["kind"], {}).setdefault(place, []).append(score[example.id])

    return {
        kind: {place: fmean(some) for place, some in sorted(places.items())}
        for kind, places in values.items()
    }


def line_of(example: Example, prediction: Prediction) -> dict[str, str]:
    """A line {"id", "answer"}."""
    return {"id": example.id, "answer": prediction.text or words_of(prediction.value or "")}


def _task(task: str, synthesize: Synthesize, name: str, about: str) -> Task:
    return Task(
        about=about,
        where="synthesized from seeds (--minutes, --num-videos); reference of `eval score` is the run's file",
        read=partial(examples_of, task=task, synthesize=synthesize),
        prompts={DEFAULT: lambda example: example.question, "explained": ask_explained},
        times=dict.fromkeys((DEFAULT, "explained"), "whole_seconds"),
        parse=reply_in,
        entries=partial(read_spoken, task="synthetic", parse=reply_in),
        write=lines_file("predictions.jsonl", line_of),
        score=partial(score_replies, name=name),
        synthesize=synthesize,
    )


ABOUT_NEEDLE = (
    "20 needles in a synthetic video of 5 min to hours: an object, a sound, both at once, a sound that "
    "follows"
)
ABOUT_PLACES = "when, where, further left, higher and letters, on synthetic videos without audio"
ABOUT_HEARD = "as synthetic_places, with audio, and when a sound is heard"
ABOUT_WHOLE = "what comes first of all, most often, never, and how often, on synthetic videos"
ABOUT_QA = "questions of seven kinds on synthetic videos: when, while, count, first after, between"
TASKS = {
    "needle": _task("needle", synthesize_needles, "recall", ABOUT_NEEDLE),
    "synthetic_places": _task("synthetic_places", synthesize_places, "score", ABOUT_PLACES),
    "synthetic_places_heard": _task("synthetic_places_heard", synthesize_heard, "score", ABOUT_HEARD),
    "synthetic_qa": _task("synthetic_qa", synthesize_qa, "score", ABOUT_QA),
    "synthetic_whole": _task("synthetic_whole", synthesize_whole, "score", ABOUT_WHOLE),
}
