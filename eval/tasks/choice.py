"""One of several options: Video-MME, MLVU, LVBench, LongVideoBench."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from string import ascii_uppercase
from typing import Any

from ..metrics.answers import by_group, multiple_choice
from .answers import first_letter, letter_of
from .files import Record, is_lines, one_file, read_object, read_records, video_of
from .forms import IdsByQuestion, Known, each_record, json_file
from .task import DEFAULT, Answers, Entries, Example, How, Parse, Paths, Prompt, Scored, Task, groups_of

_LETTERED = re.compile(r"^\s*[(\[]?([A-Z])[)\].:]\s*")
_INLINE = re.compile(r"\n\s*\(([A-Z])\)\s*")
# MME-Benchmarks/Video-MME, README, "for academic research"; longvideobench/LongVideoBench, dataset class,
# CC BY-NC-SA 4.0; JUNJIE99/MLVU, videochat2/choice_bench.py, CC BY-NC-SA 4.0: a sentence or two of each.
VIDEO_MME = (
    "Select the best answer to the following multiple-choice question based on the video. Respond with only "
    "the letter (A, B, C, or D) of the correct option.\n{}\n{}\nThe best answer is:"
)
LONGVIDEOBENCH = "Question: {}\n{}\nAnswer with the option's letter from the given choices directly."
MLVU = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, select the "
    "best option that accurately addresses the question.\nQuestion: {}\nOptions:\n{}\nOnly give the best "
    "option."
)


def listed(example: Example, form: str = "{}. {}") -> str:
    """The options with their letters, one a line."""
    return "\n".join(map(form.format, ascii_uppercase, example.options))


def choice_prompt(form: str, option: str = "{}. {}") -> Prompt:
    """A prompt with the question and the options in it."""
    return lambda example: form.format(example.question, listed(example, option))


ask_choice = choice_prompt("{}\n{}\nAnswer with the letter of the right option only.")


def choice_for_papers(script: Callable[[str, Sequence[str]], str | None]) -> Parse:
    """The option that an answer chooses; for the paper what its script finds in the answer."""
    return lambda text, example, how: (script if how.compat else letter_of)(text, example.options)


choice_in = choice_for_papers(letter_of)
choice_as_video_mme = choice_for_papers(first_letter)
choice_as_mlvu = choice_for_papers(lambda text, options: text.partition(")")[0])  # what is before a bracket
choice_as_lvbench = choice_for_papers(lambda text, options: text)


def score_choices(answers: Answers, *, skip_missing: bool = False) -> Scored:
    """Accuracy, of all and by group: "accuracy/KIND/NAME" and "macro_accuracy/KIND".

    With `skip_missing` the paper's script leaves questions out that have no entry.
    """
    scored = answers.counted if skip_missing else answers.examples
    metrics, each = multiple_choice({example.id: example.truth for example in scored}, answers.values())
    for kind, groups in groups_of(scored).items():
        metrics |= by_group(each, groups, kind)
    return Scored(metrics, {"accuracy": each})


def _letter(record: Record, letter: str, options: Sequence[str]) -> str:
    """The letter of the right option; ValueError if there is no such option."""
    if len(letter) != 1 or letter not in ascii_uppercase[: len(options) or None]:
        needed = f"the right answer must be the letter of one of {len(options)} options"
        raise record.fault(needed, letter)
    return letter


def _plain(options: Sequence[str]) -> tuple[str, ...]:
    """The options, without their letters if each begins with its own."""
    letters = [match[1] for option in options if (match := _LETTERED.match(option))]
    if letters == list(ascii_uppercase[: len(options)]):
        return tuple(_LETTERED.sub("", option) for option in options)
    return tuple(options)


# --- Video-MME


# Kind of group to what it is called in the results template, and in the data set's rows.
VIDEO_MME_KINDS = {
    "length": ("duration", "duration_category"),
    "domain": ("domain", "video_category"),
    "sub_category": ("sub_category", "video_sub_category"),
}


@each_record
def read_video_mme(video: Record) -> Iterator[Example]:
    """The results template, videos with their questions, or a question a line with the data set's columns."""
    kinds = VIDEO_MME_KINDS.items()
    groups = [(kind, video.text(*names)) for kind, names in kinds if video.has(*names)]
    for record in video.records("questions") if video.has("questions") else [video]:
        task = [("task", record.text("task_type"))] if record.has("task_type") else []
        key, name = record.name("question_id"), video.name("videoID", "video_id")
        options, answer = _plain(record.texts("options", "choices")), record.text("answer")
        question, right = record.text("question"), _letter(record, answer, options)
        yield Example(key, name, question, right, options=options, groups=(*groups, *task))


def read_video_mme_answers(paths: Paths, examples: Sequence[Example], how: How) -> Entries:
    """The results template with a "response" to each question; lines of {"question_id", "response"} too."""
    for video in read_records(one_file(paths, "pred")):
        for record in video.records("questions") if video.has("questions") else [video]:
            if record.has("response", "pred") or not record.has("options", "choices"):
                yield record.name("question_id", "id"), record.text("response", "pred", "answer")


@json_file
def write_video_mme(known: Known) -> list[dict[str, Any]]:
    """The results template."""
    videos: dict[str, dict[str, Any]] = {}
    for example, prediction in known:
        groups = dict(example.groups)
        about = {"video_id": example.id.rpartition("-")[0]}
        about |= {VIDEO_MME_KINDS[kind][0]: name for kind, name in groups.items() if kind != "task"}
        questions = videos.setdefault(example.video, about | {"questions": []})["questions"]
        question: dict[str, Any] = {"question_id": example.id, "task_type": groups.get("task", "")}
        question |= {"question": example.question, "options": listed(example).split("\n")}
        questions.append(question | {"answer": example.truth, "response": prediction.words})
    return list(videos.values())


# --- MLVU


def read_mlvu(paths: Paths) -> Iterator[Example]:
    """The files of the tasks, 1_plotQA.json and so on: lists of questions with candidates and the right one.

    Questions without an id (those of the dev set) are TYPE_0, TYPE_1, ... in their order.
    """
    numbers = Counter[str]()
    for record in (record for path in paths for record in read_records(path)):
        kind, candidates = record.text("question_type"), record.texts("candidates")
        right = record.text("answer")
        if right not in candidates:
            raise record.fault("'answer' must be one of 'candidates'", right)
        key = record.name("question_id") if record.has("question_id") else f"{kind}_{numbers[kind]}"
        numbers[kind] += 1
        video, letter = video_of(record.name("video")), ascii_uppercase[candidates.index(right)]
        duration_s, groups = record.maybe_number("duration"), (("task", kind),)
        question, options = record.text("question"), tuple(candidates)
        yield Example(key, video, question, letter, duration_s, options=options, groups=groups)


def read_mlvu_answers(paths: Paths, examples: Sequence[Example], how: How) -> Entries:
    """[{"question_id", "question_type", "option"}], or the "res_list" that the dev set's scripts write."""
    if is_lines(one_file(paths, "pred")):
        for record in read_records(paths[0]):
            yield record.name("question_id", "id"), record.text("option", "pred", "answer")
        return
    ids = IdsByQuestion(examples)
    for record in read_object(paths[0]).records("res_list"):
        question = record.text("question").removeprefix("Question: ").partition("\nOptions:")[0]
        yield ids.take(video_of(record.name("video", "video_path")), question), record.text("pred")


@json_file
def write_mlvu(known: Known) -> list[dict[str, str]]:
    """The form of the test set's evaluation; an answer that could not be read has option ""."""
    return [
        {"question_id": e.id, "question_type": dict(e.groups)["task"], "option": prediction.value or ""}
        for e, prediction in known
    ]


# --- LVBench


@each_record
def read_lvbench(video: Record) -> Iterator[Example]:
    """video_info.meta.jsonl: a video a line, its questions in "qa" with the options in their text."""
    info = video.within(video.value.get("video_info", {}), "video_info")
    minutes = info.maybe_number("duration_minutes")
    duration_s = None if minutes is None else 60 * minutes
    for record in video.records("qa"):
        question, *rest = _INLINE.split(record.text("question"))
        letters, options = rest[0::2], tuple(option.strip() for option in rest[1::2])
        if letters != list(ascii_uppercase[: len(letters)]):
            raise record.fault("'question' must list its options as (A), (B), ...", record.get("question"))
        groups = tuple(("task", name) for name in dict.fromkeys(record.texts("question_type")))
        key, name, right = record.name("uid"), video.name("key"), record.text("answer")
        right = _letter(record, right, options)
        yield Example(key, name, question.strip(), right, duration_s, options=options, groups=groups)


def read_by_id(paths: Paths, examples: Sequence[Example], how: How) -> Entries:
    """{id: answer}, the answer a letter, words, or the number of an option from 0; or lines of our own."""
    path = one_file(paths, "pred")
    if is_lines(path):
        for record in read_records(path):
            yield record.name("id", "uid"), record.text("pred", "answer")
        return
    whole = read_object(path)
    for key in whole.names():
        value = whole.value[key]
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 26:
            value = ascii_uppercase[value]
        if not isinstance(value, str):
            raise whole.fault(f"{key!r} must be a letter, words, or the number of an option from 0", value)
        yield key, value


# --- LongVideoBench


@each_record
def read_longvideobench(record: Record) -> Iterator[Example]:
    """lvb_val.json: a list of questions with "candidates" and "correct_choice", from 0."""
    kinds = {"length": "duration_group", "task": "question_category", "topic": "topic_category"}
    options = _plain(record.texts("candidates"))
    if not record.has("correct_choice"):
        needed = "needs 'correct_choice'; the test set has none, its answers are scored by the leaderboard"
        raise record.fault(needed, sorted(record.value))
    number = record.number("correct_choice")
    groups = tuple((kind, record.name(name)) for kind, name in kinds.items() if record.has(name))
    video, question = video_of(record.name("video_path", "video_id")), record.text("question")
    key, duration_s = record.name("id"), record.maybe_number("duration")
    right = _letter(record, ascii_uppercase[int(number)] if 0 <= number < 26 else "?", options)
    yield Example(key, video, question, right, duration_s, options=options, groups=groups)


LVBENCH_TASK = Task(
    about="four options, 103 videos of over an hour on average; accuracy by capability",
    where="video_info.meta.jsonl of huggingface.co/datasets/THUDM/LVBench (CC BY-NC-SA 4.0)",
    read=read_lvbench,
    prompts={DEFAULT: ask_choice},
    parse=choice_as_lvbench,
    entries=read_by_id,
    write=json_file(lambda known: {e.id: prediction.value or "" for e, prediction in known}),
    score=partial(score_choices, skip_missing=True),
)
TASKS = {
    "video-mme": replace(
        LVBENCH_TASK,
        about="four options, 900 videos of 11 s to 1 h; accuracy by length, domain, task",
        where="output_test_template.json of github.com/MME-Benchmarks/Video-MME, or the rows of "
        "huggingface.co/datasets/lmms-lab/Video-MME as JSON lines",
        read=read_video_mme,
        prompts={DEFAULT: ask_choice, "video-mme": choice_prompt(VIDEO_MME)},
        parse=choice_as_video_mme,
        entries=read_video_mme_answers,
        write=write_video_mme,
    ),
    "mlvu": Task(
        about="options, videos of 3 min to 2 h; accuracy by task, and their mean "
        "(M-Avg: macro_accuracy/task)",
        where="MLVU/json/*.json of huggingface.co/datasets/MLVU/MVLU (CC BY-NC-SA 4.0), several files",
        read=read_mlvu,
        prompts={DEFAULT: ask_choice, "mlvu": choice_prompt(MLVU, "({}) {}")},
        parse=choice_as_mlvu,
        entries=read_mlvu_answers,
        write=write_mlvu,
        score=score_choices,
    ),
    "lvbench": LVBENCH_TASK,
    "longvideobench": replace(
        LVBENCH_TASK,
        about="up to five options, videos up to an hour; accuracy by length and category",
        where="lvb_val.json of huggingface.co/datasets/longvideobench/LongVideoBench (CC BY-NC-SA 4.0)",
        read=read_longvideobench,
        prompts={DEFAULT: ask_choice, "longvideobench": choice_prompt(LONGVIDEOBENCH)},
        parse=choice_in,
        score=score_choices,
    ),
}
