"""Video-ChatGPT's five: correctness, detail, context, time, consistency, each scored 0 to 5 by a judge."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..metrics.answers import rated_answers
from .answers import without_thoughts
from .files import json_text, read_records, video_of
from .forms import IdsByQuestion
from .judging import SYSTEM_ENDS
from .task import DEFAULT, Answers, Entries, Example, How, Paths, Prediction, Scored, Task

# What the files have in their names, to the fields of a question in them, and of an answer.
FIELDS = {
    "generic": (("Q",), ("pred",)),
    "temporal": (("Q",), ("pred",)),
    "consistency": (("Q1", "Q2"), ("pred1", "pred2")),
}
_CASE = (
    "{question}\nRight answer: {reference}\n{answer}\nReply with {'score': a whole number} and nothing else."
)
_RATE = "Rate from 0, not at all, to 5, entirely, how "
# Aspect to the file whose answers it rates, and what the judge is asked.
ASPECTS = {
    "correctness": ("generic", "far an answer about a video agrees in its facts with the right answer."),
    "detail": ("generic", "complete and how specific an answer about a video is, beside the right answer."),
    "context": ("generic", "well an answer about a video fits its main matter, as the right answer "
                           "tells it."),
    "temporal": ("temporal", "well an answer about a video keeps the order of events of the right answer."),
    "consistency": ("consistency", "well answers to two like questions about a video agree with the right "
                                   "one and each other."),
}  # fmt: skip


@dataclass(frozen=True)
class Right:
    """The right answer, and which file asks for it."""

    text: str
    kind: str
    second: str = ""  # the other question of a pair


def _kind(path: Path) -> str:
    kinds = [kind for kind in FIELDS if kind in path.name.lower()]
    if len(kinds) != 1:
        raise ValueError(
            f"{path}: which of Video-ChatGPT's files it is must show by its name, got {path.name!r}; have "
            f"one of {', '.join(FIELDS)} in it"
        )
    return kinds[0]


def read_questions(paths: Paths) -> Iterator[Example]:
    """generic_qa.json, temporal_qa.json ([{"Q", "A", "video_name"}]), consistency_qa.json ("Q1", "Q2")."""
    kinds = {_kind(path): path for path in paths}
    if not paths or len(kinds) < len(paths):
        got = [path.name for path in paths]
        raise ValueError(f"--reference must be different ones of {', '.join(FIELDS)}, got {got}")
    for kind, path in kinds.items():
        for number, record in enumerate(read_records(path)):
            video = video_of(record.name("video_name"))
            question, *second = (record.text(name) for name in FIELDS[kind][0])
            right = Right(record.text("A"), kind, *second)
            yield Example(f"{kind}_{number}", video, question, right, groups=(("file", kind),))


def ask_both(example: Example) -> str:
    """The question; of a pair both, to be answered one a line."""
    if example.truth.second:
        return f"{example.question}\n{example.truth.second}\nAnswer both questions, one line each."
    return example.question


def answers_in(text: str, example: Example, how: How) -> tuple[str, ...] | None:
    """The answer; of a pair of questions one a line."""
    words = without_thoughts(text).strip()
    if not example.truth.second:
        return (words,) if words else None
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return (lines[0], " ".join(lines[1:])) if len(lines) > 1 else None


def read_answers(paths: Paths, examples: Sequence[Example], how: How) -> Entries:
    """The reference's records with "pred", or "pred1" and "pred2", in files named like the reference's."""
    ids = IdsByQuestion(replace(e, video=f"{e.truth.kind} {e.video}") for e in examples)
    for path in paths:
        kind = _kind(path)
        (question, *_), names = FIELDS[kind]
        for record in read_records(path):
            key = ids.take(f"{kind} {video_of(record.name('video_name'))}", record.text(question))
            texts = tuple(record.text(name) for name in names)
            yield key, Prediction("\n".join(texts), texts if any(text.strip() for text in texts) else None)


def write_answers(answers: Answers) -> dict[str, str]:
    """A file for each kind that is asked about."""
    records: dict[str, list[dict[str, str]]] = {example.truth.kind: [] for example in answers.examples}
    for example, prediction in answers.known:
        right, (questions, fields) = example.truth, FIELDS[example.truth.kind]
        record = {"video_name": example.video, "A": right.text}
        record |= zip(questions, (example.question, right.second), strict=False)
        records[right.kind].append(record | dict(zip(fields, prediction.value or ("", ""), strict=False)))
    return {f"{kind}_pred.json": json_text(records[kind]) for kind in FIELDS if kind in records}


def score_answers(answers: Answers) -> Scored:
    """The score of each aspect whose file is there, and their mean.

    For the papers, questions without an entry are left out, and the judge reads the first question of a pair
    twice, as in their script.
    """
    metrics: dict[str, Any] = {}
    each: dict[str, dict[str, float]] = {}
    kinds = {example.truth.kind for example in answers.examples}
    for aspect, (kind, words) in ASPECTS.items():
        if kind not in kinds:
            continue
        scored = [example for example in answers.counted if example.truth.kind == kind]
        got, each[f"{aspect}/score"], _ = rated_answers(
            {example.id: example.truth.text for example in scored},
            {e.id: _text_of(answer.value or ()) for e, answer in answers.known if e.truth.kind == kind},
            {example.id: _question_of(example, answers.how) for example in scored},
            answers.how.required_judge("video-chatgpt", f"{_RATE}{words}{SYSTEM_ENDS}{_CASE}"),
        )
        metrics |= {f"{aspect}/{name}": value for name, value in got.items()}
    scores = [value for name, value in metrics.items() if name in each and value is not None]
    metrics["mean"] = sum(scores) / len(scores) if scores else None
    return Scored(metrics, each)


def _question_of(example: Example, how: How) -> str:
    if not example.truth.second:
        return f"Question: {example.question}"
    second = example.question if how.compat == "paper" else example.truth.second
    return f"Question 1: {example.question}\nQuestion 2: {second}"


def _text_of(texts: tuple[str, ...]) -> str:
    if len(texts) == 1:
        return f"Answer: {texts[0]}"
    return "\n".join(f"Answer to question {i}: {text}" for i, text in enumerate(texts, 1))


VIDEO_CHATGPT = Task(
    about="questions on 500 videos; a judge rates correctness, detail, context, time, consistency 0 to 5",
    where="generic_qa.json, temporal_qa.json, consistency_qa.json, linked from quantitative_evaluation/ of "
    "github.com/mbzuai-oryx/Video-ChatGPT",
    read=read_questions,
    prompts={DEFAULT: ask_both},
    parse=answers_in,
    entries=read_answers,
    write=write_answers,
    score=score_answers,
    needs_judge=True,
)
