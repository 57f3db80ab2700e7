"""One of several options: Video-MME, MLVU, LVBench, LongVideoBench."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from ..metrics.choice import multiple_choice
from .answers import first_letter, letter_of
from .files import Record, is_lines, one_file, read_object, read_records, video_of, write_json
from .task import DEFAULT, Example, How, Predictions, Said, Scored, Task, asked

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
    examples: Sequence[Example[str]], said: Mapping[str, Said[str]], how: How, *, skip_missing: bool = False
) -> Scored:
    """Accuracy, of all and by group: "accuracy/KIND/NAME" and "macro_accuracy/KIND".

    Args:
        examples: with their groups, of which one kind may come several times.
        said: options chosen.
        how: for the papers `skip_missing` counts.
        skip_missing: the paper's script leaves questions out that have no entry.
    """
    kept = asked(examples, said, how) if skip_missing else list(examples)
    gold = {one.id: one.truth for one in kept}
    chosen = {key: one.value for key, one in said.items()}
    metrics = multiple_choice(gold, chosen)
    for kind in dict.fromkeys(kind for one in kept for kind, _ in one.groups):
        names = sorted({name for one in kept for other, name in one.groups if other == kind})
        means = []
        for name in names:
            some = {one.id: one.truth for one in kept if (kind, name) in one.groups}
            got = multiple_choice(some, chosen)
            metrics |= {f"accuracy/{kind}/{name}": got["accuracy"], f"num/{kind}/{name}": got["num"]}
            means.append(got["accuracy"])
        metrics[f"macro_accuracy/{kind}"] = sum(means) / len(means)
    each = {key: float(multiple_choice({key: right}, chosen)["accuracy"]) for key, right in gold.items()}
    return Scored(metrics, {"accuracy": each})


def _example(record: Record, key: str, video: str, letter: str, options: Sequence[str]) -> Example[str]:
    """An example, its letter checked."""
    plain = tuple(_LETTERED.sub("", option) if _in_order(options) else option for option in options)
    if len(letter) != 1 or not 0 <= ord(letter) - ord("A") < (len(plain) or 26):
        raise record.fault(f"the right answer must be the letter of one of {len(plain)} options", letter)
    return Example(key, video, record.text("question"), letter, options=plain)


def _in_order(options: Sequence[str]) -> bool:
    """True if each option begins with its own letter."""
    found = [_LETTERED.match(option) for option in options]
    return all(one is not None and one[1] == chr(ord("A") + i) for i, one in enumerate(found))


def _with(example: Example[str], duration_s: float | None, *groups: tuple[str, str]) -> Example[str]:
    return replace(example, duration_s=duration_s, groups=groups)


# --- Video-MME


def read_video_mme(paths: Sequence[Path]) -> list[Example[str]]:
    """The results template, videos with their questions, or a question a line with the data set's columns."""
    out = []
    for video in read_records(one_file(paths, "gold")):
        for record in video.records("questions") if video.has("questions") else [video]:
            options = record.texts("options", "choices")
            one = _example(
                record,
                record.name("question_id"),
                video.name("videoID", "video_id"),
                record.text("answer"),
                options,
            )
            kinds = {
                "length": ("duration", "duration_category"),
                "domain": ("domain", "video_category"),
                "sub_category": ("sub_category", "video_sub_category"),
            }
            groups = [(kind, video.text(*names)) for kind, names in kinds.items() if video.has(*names)]
            task = [("task", record.text("task_type"))] if record.has("task_type") else []
            out.append(_with(one, None, *groups, *task))
    return out


def read_video_mme_answers(
    paths: Sequence[Path], examples: Sequence[Example[str]], how: How
) -> Predictions[str]:
    """The results template with a "response" to each question; lines of {"question_id", "response"} too."""
    records = [
        one
        for video in read_records(one_file(paths, "pred"))
        for one in (video.records("questions") if video.has("questions") else [video])
    ]
    return _said(
        [(one.name("question_id", "id"), one.text("response", "pred", "answer")) for one in records if
         one.has("response", "pred") or not one.has("options", "choices")],
        examples, how, choice_as_video_mme,
    )  # fmt: skip


def write_video_mme(path: Path, examples: Sequence[Example[str]], said: Mapping[str, Said[str]]) -> None:
    """The results template."""
    videos: dict[str, dict[str, object]] = {}
    lists: dict[str, list[dict[str, object]]] = {}
    names = {"length": "duration", "domain": "domain", "sub_category": "sub_category"}
    for one in examples:
        groups = dict(one.groups)
        questions = lists.setdefault(one.video, [])
        video = {"video_id": one.id.rpartition("-")[0]} | {
            names[k]: v for k, v in groups.items() if k in names
        }
        videos.setdefault(one.video, video | {"questions": questions})
        if one.id in said:
            questions.append(
                {
                    "question_id": one.id,
                    "task_type": groups.get("task", ""),
                    "question": one.question,
                    "options": listed(one).split("\n"),
                    "answer": one.truth,
                    "response": said[one.id].text or said[one.id].value or "",
                }
            )
    write_json(path, [video for name, video in videos.items() if lists[name]])


# --- MLVU


def read_mlvu(paths: Sequence[Path]) -> list[Example[str]]:
    """The files of the tasks, 1_plotQA.json and so on: lists of questions with candidates and the right one.

    Questions without an id (those of the dev set) are TYPE_0, TYPE_1, ... in their order.
    """
    out = []
    seen: dict[str, int] = {}
    for record in (one for path in paths for one in read_records(path)):
        kind, candidates = record.text("question_type"), record.texts("candidates")
        right = record.text("answer")
        if right not in candidates:
            raise record.fault("'answer' must be one of 'candidates'", right)
        seen[kind] = seen.get(kind, -1) + 1
        key = record.name("question_id") if record.has("question_id") else f"{kind}_{seen[kind]}"
        letter = chr(ord("A") + candidates.index(right))
        one = Example(
            key, video_of(record.name("video")), record.text("question"), letter, options=tuple(candidates)
        )
        out.append(_with(one, record.maybe_number("duration"), ("task", kind)))
    return out


def read_mlvu_answers(paths: Sequence[Path], examples: Sequence[Example[str]], how: How) -> Predictions[str]:
    """[{"question_id", "question_type", "option"}], or the "res_list" that the dev set's scripts write."""
    if is_lines(one_file(paths, "pred")):
        records = read_records(paths[0])
        pairs = [(one.name("question_id", "id"), one.text("option", "pred", "answer")) for one in records]
        return _said(pairs, examples, how, choice_as_mlvu)
    ids: dict[tuple[str, str], list[str]] = {}
    for example in examples:
        ids.setdefault((example.video, " ".join(example.question.split())), []).append(example.id)
    pairs = []
    for one in read_object(paths[0])[0].records("res_list"):
        question = one.text("question").removeprefix("Question: ").partition("\nOptions:")[0]
        video = video_of(one.name("video", "video_path"))
        same = ids.get((video, " ".join(question.split())), [])
        pairs.append(
            (same.pop(0) if len(same) > 1 else same[0] if same else f"{video}: {question}", one.text("pred"))
        )
    return _said(pairs, examples, how, choice_as_mlvu)


def write_mlvu(path: Path, examples: Sequence[Example[str]], said: Mapping[str, Said[str]]) -> None:
    """The form of the test set's evaluation; an answer that could not be read has option ""."""
    write_json(
        path,
        [
            {
                "question_id": one.id,
                "question_type": dict(one.groups)["task"],
                "option": said[one.id].value or "",
            }
            for one in examples
            if one.id in said
        ],
    )


# --- LVBench


def read_lvbench(paths: Sequence[Path]) -> list[Example[str]]:
    """video_info.meta.jsonl: a video a line, its questions in "qa" with the options in their text."""
    out = []
    for video in read_records(one_file(paths, "gold")):
        info = video.within(video.value.get("video_info", {}), "video_info")
        minutes = info.maybe_number("duration_minutes")
        for record in video.records("qa"):
            question, *rest = _INLINE.split(record.text("question"))
            letters, options = rest[0::2], rest[1::2]
            if letters != [chr(ord("A") + i) for i in range(len(letters))]:
                raise record.fault(
                    "'question' must list its options as (A), (B), ...", record.get("question")
                )
            one = _example(record, record.name("uid"), video.name("key"), record.text("answer"), options)
            groups = [("task", name) for name in dict.fromkeys(record.texts("question_type"))]
            made = Example(
                one.id, one.video, question.strip(), one.truth, options=tuple(o.strip() for o in options)
            )
            out.append(_with(made, None if minutes is None else 60 * minutes, *groups))
    return out


def read_by_id(
    paths: Sequence[Path], examples: Sequence[Example[str]], how: How, *, parse: Parse = choice_in
) -> Predictions[str]:
    """{id: answer}, the answer a letter, words, or the number of an option from 0; or lines of our own."""
    path = one_file(paths, "pred")
    if is_lines(path):
        pairs = [(one.name("id", "uid"), one.text("pred", "answer")) for one in read_records(path)]
        return _said(pairs, examples, how, parse)
    whole, twice = read_object(path)
    pairs = []
    for key, value in whole.value.items():
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 26:
            value = chr(ord("A") + value)
        if not isinstance(value, str):
            raise whole.fault(f"{key!r} must be a letter, words, or the number of an option from 0", value)
        pairs.append((key, value))
    read = _said(pairs, examples, how, parse)
    return Predictions(read.said, tuple(key for key in twice if key in read.said))


def write_by_id(path: Path, examples: Sequence[Example[str]], said: Mapping[str, Said[str]]) -> None:
    """{id: letter}; an answer that could not be read is ""."""
    write_json(path, {one.id: said[one.id].value or "" for one in examples if one.id in said})


# --- LongVideoBench


def read_longvideobench(paths: Sequence[Path]) -> list[Example[str]]:
    """lvb_val.json: a list of questions with "candidates" and "correct_choice", from 0."""
    out = []
    for record in read_records(one_file(paths, "gold")):
        candidates = record.texts("candidates")
        if not record.has("correct_choice"):
            raise record.fault(
                "needs 'correct_choice'; the test set has none, its answers are scored by the leaderboard",
                sorted(record.value),
            )
        number = record.number("correct_choice")
        letter = chr(ord("A") + int(number)) if 0 <= number < 26 else "?"
        one = _example(
            record, record.name("id"), video_of(record.name("video_path", "video_id")), letter, candidates
        )
        kinds = {"length": "duration_group", "task": "question_category", "topic": "topic_category"}
        groups = [(kind, record.name(name)) for kind, name in kinds.items() if record.has(name)]
        out.append(_with(one, record.maybe_number("duration"), *groups))
    return out


def _said(
    pairs: Sequence[tuple[str, str]], examples: Sequence[Example[str]], how: How, parse: Parse = choice_in
) -> Predictions[str]:
    """Answers by id, read."""
    known = {one.id: one for one in examples}
    said: dict[str, Said[str]] = {}
    twice = []
    for key, text in pairs:
        if key in said:
            twice.append(key)
        else:
            said[key] = Said(text, parse(text, known[key], how) if key in known else None)
    return Predictions(said, tuple(twice))


def _skipping(examples: Sequence[Example[str]], said: Mapping[str, Said[str]], how: How) -> Scored:
    return score_choices(examples, said, how, skip_missing=True)


def _prompts(name: str, prompt: Callable[[Example[str]], str]) -> dict[str, Callable[[Example[str]], str]]:
    return {DEFAULT: ask_choice, name: prompt}


VIDEO_MME_TASK = Task(
    about="four options, 900 videos of 11 s to 1 h; accuracy by length, domain, task",
    where="output_test_template.json of github.com/MME-Benchmarks/Video-MME, or the rows of "
    "huggingface.co/datasets/lmms-lab/Video-MME as JSON lines",
    read=read_video_mme,
    prompts=_prompts("video-mme", lambda e: f"{VIDEO_MME}\n{e.question}\n{listed(e)}\nThe best answer is:"),
    parse=choice_as_video_mme,
    read_predictions=read_video_mme_answers,
    write_predictions=write_video_mme,
    score=_skipping,
)

MLVU_TASK = Task(
    about="options, videos of 3 min to 2 h; accuracy by task, and their mean (M-Avg: macro_accuracy/task)",
    where="MLVU/json/*.json of huggingface.co/datasets/MLVU/MVLU (CC BY-NC-SA 4.0), several after --gold",
    read=read_mlvu,
    prompts=_prompts(
        "mlvu",
        lambda e: (
            f"{MLVU}\nQuestion: {e.question}\nOptions:\n{listed(e, '({}) {}')}\nOnly give the best option."
        ),
    ),
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
    score=_skipping,
)

LONGVIDEOBENCH_TASK = Task(
    about="up to five options, videos up to an hour; accuracy by length and category",
    where="lvb_val.json of huggingface.co/datasets/longvideobench/LongVideoBench (CC BY-NC-SA 4.0)",
    read=read_longvideobench,
    prompts=_prompts("longvideobench", lambda e: f"Question: {e.question}\n{listed(e)}\n{LONGVIDEOBENCH}"),
    parse=choice_in,
    read_predictions=read_by_id,
    write_predictions=write_by_id,
    score=score_choices,
)
