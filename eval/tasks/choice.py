"""One of several options: Video-MME, MLVU, LVBench, LongVideoBench."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from ..metrics.choice import multiple_choice
from .answers import first_letter, letter_of
from .files import Record, is_lines, one_file, read_object, read_records, video_of, write_json
from .task import (
    DEFAULT,
    Answers,
    Example,
    How,
    IdsByQuestion,
    Prediction,
    Predictions,
    Scored,
    Task,
    answered,
    counted,
    members_of,
)  # fmt: skip

Parse: TypeAlias = Callable[[str, Example[str], How], str | None]

_LETTERED = re.compile(r"^\s*[(\[]?([A-Z])[)\].:]\s*")
_INLINE = re.compile(r"\n\s*\(([A-Z])\)\s*")
# MME-Benchmarks/Video-MME, README, "for academic research"; longvideobench/LongVideoBench, dataset class,
# CC BY-NC-SA 4.0; JUNJIE99/MLVU, videochat2/choice_bench.py, CC BY-NC-SA 4.0: a sentence or two of each.
VIDEO_MME = (
    "Select the best answer to the following multiple-choice question based on the video. Respond with only "
    "the letter (A, B, C, or D) of the correct option."
)
LONGVIDEOBENCH = "Answer with the option's letter from the given choices directly."
MLVU = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, select the "
    "best option that accurately addresses the question."
)


def listed(example: Example[str], form: str = "{}. {}") -> str:
    """The options with their letters, one a line."""
    return "\n".join(form.format(chr(ord("A") + i), option) for i, option in enumerate(example.options))


def ask_choice(example: Example[str]) -> str:
    """Our own question."""
    return f"{example.question}\n{listed(example)}\nAnswer with the letter of the right option only."


def ask_as_mlvu(example: Example[str]) -> str:
    """The question of MLVU's script."""
    options = listed(example, "({}) {}")
    return f"{MLVU}\nQuestion: {example.question}\nOptions:\n{options}\nOnly give the best option."


def choice_in(text: str, example: Example[str], how: How) -> str | None:
    """The option that an answer chooses."""
    return letter_of(text, example.options)


def choice_as_video_mme(text: str, example: Example[str], how: How) -> str | None:
    """For the paper the first capital letter of an option, wherever it stands; else as `choice_in`."""
    return first_letter(text, example.options) if how.compat == "paper" else choice_in(text, example, how)


def choice_as_mlvu(text: str, example: Example[str], how: How) -> str | None:
    """For the paper what stands before the first bracket, as it is; else as `choice_in`."""
    return text.partition(")")[0] if how.compat == "paper" else choice_in(text, example, how)


def choice_as_lvbench(text: str, example: Example[str], how: How) -> str | None:
    """For the paper the answer as it is; else as `choice_in`."""
    return text if how.compat == "paper" else choice_in(text, example, how)


def score_choices(
    examples: Sequence[Example[str]], predictions: Answers[str], how: How, *, skip_missing: bool = False
) -> Scored:
    """Accuracy, of all and by group: "accuracy/KIND/NAME" and "macro_accuracy/KIND".

    With `skip_missing` the paper's script leaves questions out that have no entry.
    """
    scored = counted(examples, predictions, how) if skip_missing else list(examples)
    metrics, each = multiple_choice(
        {example.id: example.truth for example in scored},
        {key: prediction.value for key, prediction in predictions.items()},
    )
    members = members_of(scored)
    for kind in dict.fromkeys(kind for kind, _ in members):
        means = []
        for name in sorted(name for other, name in members if other == kind):
            values = [each[key] for key in members[kind, name]]
            means.append(sum(values) / len(values))
            metrics |= {f"accuracy/{kind}/{name}": means[-1], f"num/{kind}/{name}": len(values)}
        metrics[f"macro_accuracy/{kind}"] = sum(means) / len(means)
    return Scored(metrics, {"accuracy": each})


def _example(
    record: Record, key: str, video: str, question: str, letter: str, options: Sequence[str],
    groups: Sequence[tuple[str, str]], duration_s: float | None = None,
) -> Example[str]:  # fmt: skip
    """An example, its letter checked."""
    plain = tuple(_LETTERED.sub("", option) if _in_order(options) else option for option in options)
    if len(letter) != 1 or not 0 <= ord(letter) - ord("A") < (len(plain) or 26):
        raise record.fault(f"the right answer must be the letter of one of {len(plain)} options", letter)
    return Example(key, video, question, letter, duration_s, options=plain, groups=tuple(groups))


def _in_order(options: Sequence[str]) -> bool:
    """True if each option begins with its own letter."""
    matches = [_LETTERED.match(option) for option in options]
    return all(item is not None and item[1] == chr(ord("A") + i) for i, item in enumerate(matches))


# --- Video-MME


def read_video_mme(paths: Sequence[Path]) -> list[Example[str]]:
    """The results template, videos with their questions, or a question a line with the data set's columns."""
    kinds = {
        "length": ("duration", "duration_category"),
        "domain": ("domain", "video_category"),
        "sub_category": ("sub_category", "video_sub_category"),
    }
    out = []
    for video in read_records(one_file(paths, "reference")):
        groups = [(kind, video.text(*names)) for kind, names in kinds.items() if video.has(*names)]
        for record in _questions(video):
            task = [("task", record.text("task_type"))] if record.has("task_type") else []
            key, name = record.name("question_id"), video.name("videoID", "video_id")
            options, letter = record.texts("options", "choices"), record.text("answer")
            out.append(_example(record, key, name, record.text("question"), letter, options, groups + task))
    return out


def _questions(video: Record) -> list[Record]:
    return video.records("questions") if video.has("questions") else [video]


def read_video_mme_answers(
    paths: Sequence[Path], examples: Sequence[Example[str]], how: How
) -> Predictions[str]:
    """The results template with a "response" to each question; lines of {"question_id", "response"} too."""
    records = [record for video in read_records(one_file(paths, "pred")) for record in _questions(video)]
    pairs = [
        (record.name("question_id", "id"), record.text("response", "pred", "answer"))
        for record in records
        if record.has("response", "pred") or not record.has("options", "choices")
    ]
    return _predictions(pairs, examples, how, choice_as_video_mme)


def write_video_mme(
    folder: Path, examples: Sequence[Example[str]], predictions: Answers[str], how: How
) -> list[Path]:
    """The results template."""
    videos: dict[str, dict[str, Any]] = {}
    names = {"length": "duration", "domain": "domain", "sub_category": "sub_category"}
    for example, prediction in answered(examples, predictions):
        groups = dict(example.groups)
        about = {"video_id": example.id.rpartition("-")[0]}
        about |= {names[kind]: name for kind, name in groups.items() if kind in names}
        questions = videos.setdefault(example.video, about | {"questions": []})["questions"]
        questions.append({
            "question_id": example.id, "task_type": groups.get("task", ""), "question": example.question,
            "options": listed(example).split("\n"), "answer": example.truth,
            "response": prediction.words,
        })  # fmt: skip
    return [write_json(folder / "predictions.json", list(videos.values()))]


# --- MLVU


def read_mlvu(paths: Sequence[Path]) -> list[Example[str]]:
    """The files of the tasks, 1_plotQA.json and so on: lists of questions with candidates and the right one.

    Questions without an id (those of the dev set) are TYPE_0, TYPE_1, ... in their order.
    """
    out = []
    seen: dict[str, int] = {}
    for record in (record for path in paths for record in read_records(path)):
        kind, candidates = record.text("question_type"), record.texts("candidates")
        right = record.text("answer")
        if right not in candidates:
            raise record.fault("'answer' must be one of 'candidates'", right)
        seen[kind] = seen.get(kind, -1) + 1
        key = record.name("question_id") if record.has("question_id") else f"{kind}_{seen[kind]}"
        video, letter = video_of(record.name("video")), chr(ord("A") + candidates.index(right))
        options, duration_s = tuple(candidates), record.maybe_number("duration")
        example = Example(key, video, record.text("question"), letter, duration_s, options=options)
        out.append(replace(example, groups=(("task", kind),)))
    return out


def read_mlvu_answers(paths: Sequence[Path], examples: Sequence[Example[str]], how: How) -> Predictions[str]:
    """[{"question_id", "question_type", "option"}], or the "res_list" that the dev set's scripts write."""
    if is_lines(one_file(paths, "pred")):
        records = read_records(paths[0])
        pairs = [(item.name("question_id", "id"), item.text("option", "pred", "answer")) for item in records]
        return _predictions(pairs, examples, how, choice_as_mlvu)
    ids = IdsByQuestion((example.video, example.question, example.id) for example in examples)
    pairs = []
    for record in read_object(paths[0])[0].records("res_list"):
        question = record.text("question").removeprefix("Question: ").partition("\nOptions:")[0]
        video = video_of(record.name("video", "video_path"))
        pairs.append((ids.take(video, question), record.text("pred")))
    return _predictions(pairs, examples, how, choice_as_mlvu)


def write_mlvu(
    folder: Path, examples: Sequence[Example[str]], predictions: Answers[str], how: How
) -> list[Path]:
    """The form of the test set's evaluation; an answer that could not be read has option ""."""
    options = [
        {"question_id": e.id, "question_type": dict(e.groups)["task"], "option": prediction.value or ""}
        for e, prediction in answered(examples, predictions)
    ]
    return [write_json(folder / "predictions.json", options)]


# --- LVBench


def read_lvbench(paths: Sequence[Path]) -> list[Example[str]]:
    """video_info.meta.jsonl: a video a line, its questions in "qa" with the options in their text."""
    out = []
    for video in read_records(one_file(paths, "reference")):
        info = video.within(video.value.get("video_info", {}), "video_info")
        minutes = info.maybe_number("duration_minutes")
        for record in video.records("qa"):
            question, *rest = _INLINE.split(record.text("question"))
            letters, options = rest[0::2], rest[1::2]
            if letters != [chr(ord("A") + i) for i in range(len(letters))]:
                needed = "'question' must list its options as (A), (B), ..."
                raise record.fault(needed, record.get("question"))
            groups = [("task", name) for name in dict.fromkeys(record.texts("question_type"))]
            example = _example(
                record, record.name("uid"), video.name("key"), question.strip(), record.text("answer"),
                options, groups, None if minutes is None else 60 * minutes,
            )  # fmt: skip
            out.append(replace(example, options=tuple(option.strip() for option in options)))
    return out


def read_by_id(
    paths: Sequence[Path], examples: Sequence[Example[str]], how: How, *, parse: Parse = choice_in
) -> Predictions[str]:
    """{id: answer}, the answer a letter, words, or the number of an option from 0; or lines of our own."""
    path = one_file(paths, "pred")
    if is_lines(path):
        pairs = [(record.name("id", "uid"), record.text("pred", "answer")) for record in read_records(path)]
        return _predictions(pairs, examples, how, parse)
    whole, twice = read_object(path)
    pairs = []
    for key, value in whole.value.items():
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 26:
            value = chr(ord("A") + value)
        if not isinstance(value, str):
            raise whole.fault(f"{key!r} must be a letter, words, or the number of an option from 0", value)
        pairs.append((key, value))
    out = _predictions(pairs, examples, how, parse)
    out.duplicates = [key for key in twice if key in out.by_id]
    return out


def write_by_id(
    folder: Path, examples: Sequence[Example[str]], predictions: Answers[str], how: How
) -> list[Path]:
    """{id: letter}; an answer that could not be read is ""."""
    letters = {example.id: prediction.value or "" for example, prediction in answered(examples, predictions)}
    return [write_json(folder / "predictions.json", letters)]


# --- LongVideoBench


def read_longvideobench(paths: Sequence[Path]) -> list[Example[str]]:
    """lvb_val.json: a list of questions with "candidates" and "correct_choice", from 0."""
    kinds = {"length": "duration_group", "task": "question_category", "topic": "topic_category"}
    out = []
    for record in read_records(one_file(paths, "reference")):
        candidates = record.texts("candidates")
        if not record.has("correct_choice"):
            needed = (
                "needs 'correct_choice'; the test set has none, its answers are scored by the leaderboard"
            )
            raise record.fault(needed, sorted(record.value))
        number = record.number("correct_choice")
        letter = chr(ord("A") + int(number)) if 0 <= number < 26 else "?"
        groups = [(kind, record.name(name)) for kind, name in kinds.items() if record.has(name)]
        video, question = video_of(record.name("video_path", "video_id")), record.text("question")
        key, duration_s = record.name("id"), record.maybe_number("duration")
        out.append(_example(record, key, video, question, letter, candidates, groups, duration_s))
    return out


def _predictions(
    pairs: Sequence[tuple[str, str]], examples: Sequence[Example[str]], how: How, parse: Parse
) -> Predictions[str]:
    """Predictions of (id, answer) pairs."""
    known = {example.id: example for example in examples}
    out: Predictions[str] = Predictions()
    for key, text in pairs:
        if out.is_new(key):
            out.by_id[key] = Prediction(text, parse(text, known[key], how) if key in known else None)
    return out


VIDEO_MME_TASK = Task(
    about="four options, 900 videos of 11 s to 1 h; accuracy by length, domain, task",
    where="output_test_template.json of github.com/MME-Benchmarks/Video-MME, or the rows of "
    "huggingface.co/datasets/lmms-lab/Video-MME as JSON lines",
    read=read_video_mme,
    prompts={
        DEFAULT: ask_choice,
        "video-mme": lambda e: f"{VIDEO_MME}\n{e.question}\n{listed(e)}\nThe best answer is:",
    },
    parse=choice_as_video_mme,
    read_predictions=read_video_mme_answers,
    write_predictions=write_video_mme,
    score=partial(score_choices, skip_missing=True),
)

MLVU_TASK = Task(
    about="options, videos of 3 min to 2 h; accuracy by task, and their mean (M-Avg: macro_accuracy/task)",
    where="MLVU/json/*.json of huggingface.co/datasets/MLVU/MVLU (CC BY-NC-SA 4.0), several files",
    read=read_mlvu,
    prompts={DEFAULT: ask_choice, "mlvu": ask_as_mlvu},
    parse=choice_as_mlvu,
    read_predictions=read_mlvu_answers,
    write_predictions=write_mlvu,
    score=score_choices,
)

LVBENCH_TASK = Task(
    about="four options, 103 videos of over an hour on average; accuracy by capability",
    where="video_info.meta.jsonl of huggingface.co/datasets/THUDM/LVBench (CC BY-NC-SA 4.0)",
    read=read_lvbench,
    prompts={DEFAULT: ask_choice},
    parse=choice_as_lvbench,
    read_predictions=partial(read_by_id, parse=choice_as_lvbench),
    write_predictions=write_by_id,
    score=partial(score_choices, skip_missing=True),
)

LONGVIDEOBENCH_TASK = Task(
    about="up to five options, videos up to an hour; accuracy by length and category",
    where="lvb_val.json of huggingface.co/datasets/longvideobench/LongVideoBench (CC BY-NC-SA 4.0)",
    read=read_longvideobench,
    prompts={
        DEFAULT: ask_choice,
        "longvideobench": lambda e: f"Question: {e.question}\n{listed(e)}\n{LONGVIDEOBENCH}",
    },
    parse=choice_in,
    read_predictions=read_by_id,
    write_predictions=write_by_id,
    score=score_choices,
)
