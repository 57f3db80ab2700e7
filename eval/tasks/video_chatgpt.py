"""Video-ChatGPT's five: correctness, detail, context, time, consistency, each scored 0 to 5 by a judge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..metrics.choice import rated_and_each
from .answers import without_thoughts
from .files import Record, read_records, video_of, write_json
from .judging import SYSTEM_ENDS
from .task import DEFAULT, Example, How, Predictions, Said, Scored, Task, asked

KINDS = ("generic", "temporal", "consistency")  # files, by their names
_CASE = "{question}\nRight answer: {gold}\n{answer}\nReply with {{'score': a whole number}} and nothing else."
_RATE = "Rate from 0, not at all, to 5, entirely, "
# Aspect to the file whose answers it rates, and what the judge is asked.
ASPECTS = {
    "correctness": ("generic", "how far an answer about a video agrees in its facts with the right answer."),
    "detail": (
        "generic",
        "how complete and how specific an answer about a video is, beside the right answer.",
    ),
    "context": (
        "generic",
        "how well an answer about a video fits its main matter, as the right answer tells it.",
    ),
    "temporal": (
        "temporal",
        "how well an answer about a video keeps the order of events of the right answer.",
    ),
    "consistency": (
        "consistency",
        "how well answers to two like questions about a video agree with the right one and each other.",
    ),
}


@dataclass(frozen=True)
class Right:
    """The right answer, and which file asks for it."""

    text: str
    kind: str
    second: str = ""  # the other question of a pair


def judge_prompt(aspect: str) -> str:
    """What the judge is asked of an aspect."""
    return f"{_RATE}{ASPECTS[aspect][1]}{SYSTEM_ENDS}{_CASE}".replace("{{", "{").replace("}}", "}")


def _kind(path: Path) -> str:
    found = [kind for kind in KINDS if kind in path.name.lower()]
    if len(found) != 1:
        raise ValueError(
            f"{path}: which of Video-ChatGPT's files it is must show by its name, got {path.name!r}; have "
            f"one of {', '.join(KINDS)} in it"
        )
    return found[0]


def read_questions(paths: Sequence[Path]) -> list[Example[Right]]:
    """generic_qa.json, temporal_qa.json ([{"Q", "A", "video_name"}]), consistency_qa.json ("Q1", "Q2")."""
    if not paths or len({_kind(path) for path in paths}) < len(paths):
        raise ValueError(
            f"--gold must be different ones of {', '.join(KINDS)}, got {[p.name for p in paths]}"
        )
    out = []
    for path in paths:
        kind = _kind(path)
        for number, record in enumerate(read_records(path)):
            video = video_of(record.name("video_name"))
            second = record.text("Q2") if kind == "consistency" else ""
            question = record.text("Q1" if kind == "consistency" else "Q")
            right = Right(record.text("A"), kind, second)
            out.append(Example(f"{kind}_{number}", video, question, right, groups=(("file", kind),)))
    return out


def ask_both(example: Example[Right]) -> str:
    """The question; of a pair both, to be answered one a line."""
    if example.truth.second:
        return f"{example.question}\n{example.truth.second}\nAnswer both questions, one line each."
    return example.question


def answers_in(text: str, example: Example[Right], how: How) -> tuple[str, ...] | None:
    """The answer; of a pair of questions one a line."""
    words = without_thoughts(text).strip()
    if not example.truth.second:
        return (words,) if words else None
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return (lines[0], " ".join(lines[1:])) if len(lines) > 1 else None


def read_answers(
    paths: Sequence[Path], examples: Sequence[Example[Right]], how: How
) -> Predictions[tuple[str, ...]]:
    """The gold's records with "pred", or "pred1" and "pred2", in files named like the gold's."""
    ids: dict[tuple[str, str, str], list[str]] = {}
    for one in examples:
        ids.setdefault((one.truth.kind, one.video, " ".join(one.question.split())), []).append(one.id)
    said: dict[str, Said[tuple[str, ...]]] = {}
    twice = []
    for path in paths:
        kind = _kind(path)
        for record in read_records(path):
            video = video_of(record.name("video_name"))
            question = record.text("Q1" if kind == "consistency" else "Q")
            same = ids.get((kind, video, " ".join(question.split())), [])
            key = (same.pop(0) if len(same) > 1 else same[0]) if same else f"{kind} {video}: {question}"
            if key in said:
                twice.append(key)
            else:
                said[key] = _pred(record, kind)
    return Predictions(said, tuple(twice))


def _pred(record: Record, kind: str) -> Said[tuple[str, ...]]:
    texts = tuple(record.text(name) for name in (("pred1", "pred2") if kind == "consistency" else ("pred",)))
    return Said("\n".join(texts), texts if any(text.strip() for text in texts) else None)


def write_answers(
    path: Path, examples: Sequence[Example[Right]], said: Mapping[str, Said[tuple[str, ...]]]
) -> None:
    """One file, of the kind that its name says."""
    kind = _kind(path)
    out = []
    for one in examples:
        if one.truth.kind != kind or one.id not in said:
            continue
        texts = said[one.id].value
        if kind == "consistency":
            first, second = texts or ("", "")
            asked_of = {"Q1": one.question, "Q2": one.truth.second}
            out.append(
                {"video_name": one.video, **asked_of, "A": one.truth.text, "pred1": first, "pred2": second}
            )
        else:
            words = texts[0] if texts else ""
            out.append({"video_name": one.video, "Q": one.question, "A": one.truth.text, "pred": words})
    write_json(path, out)


def score_answers(
    examples: Sequence[Example[Right]], said: Mapping[str, Said[tuple[str, ...]]], how: How
) -> Scored:
    """The score of each aspect whose file is there, and their mean.

    For the papers, questions without an entry are left out, and the judge is told the first question of a
    pair twice, as their script does.
    """
    metrics: dict[str, object] = {}
    each: dict[str, dict[str, float]] = {}
    scores = []
    for aspect, (kind, _) in ASPECTS.items():
        kept = [one for one in asked(examples, said, how) if one.truth.kind == kind]
        if not any(one.truth.kind == kind for one in examples):
            continue
        judge = how.judge(judge_prompt(aspect))
        if judge is None:
            raise ValueError(
                "video-chatgpt is scored by a judge, got none; give --judge-url and --judge-model of an "
                "OpenAI-compatible endpoint"
            )
        got, values = rated_and_each(
            {one.id: one.truth.text for one in kept},
            {one.id: _told(said[one.id].value) for one in kept if one.id in said},
            {one.id: _asked_of(one, how) for one in kept},
            judge,
        )
        metrics |= {f"{aspect}/{name}": value for name, value in got.items()}
        each[f"{aspect}/score"] = values
        scores += [got["score"]] if got["score"] is not None else []
    metrics["mean"] = sum(scores) / len(scores) if scores else None
    return Scored(metrics, each)


def _asked_of(example: Example[Right], how: How) -> str:
    if not example.truth.second:
        return f"Question: {example.question}"
    second = example.question if how.compat == "paper" else example.truth.second
    return f"Question 1: {example.question}\nQuestion 2: {second}"


def _told(texts: tuple[str, ...] | None) -> str:
    if not texts:
        return ""
    if len(texts) == 1:
        return f"Answer: {texts[0]}" if texts[0].strip() else ""
    return "\n".join(f"Answer to question {i}: {text}" for i, text in enumerate(texts, 1))


VIDEO_CHATGPT = Task(
    about="questions on 500 videos; a judge rates correctness, detail, context, time, consistency 0 to 5",
    where="generic_qa.json, temporal_qa.json, consistency_qa.json, linked from quantitative_evaluation/ of "
    "github.com/mbzuai-oryx/Video-ChatGPT",
    read=read_questions,
    prompts={DEFAULT: ask_both},
    parse=answers_in,
    read_predictions=read_answers,
    write_predictions=write_answers,
    score=score_answers,
)
