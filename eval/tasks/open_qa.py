"""Free answers to questions: Music-AVQA, ActivityNet-QA, MSVD-QA, MSRVTT-QA."""

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from ..metrics.choice import exact_match, open_answers
from .answers import words_of
from .examples import Answered, Answers, Example, Examples, Paths, Predictions
from .files import Record, one_file, read_records, video_of
from .forms import IdsByQuestion, each_record, json_file, predictions_of
from .judging import SYSTEM_ENDS
from .task import DEFAULT, How, Scored, Task

Right: TypeAlias = tuple[str, ...]  # right answers, at least one; a judge reads the first

JUDGE = (
    "Say whether an answer to a question about a video means the same as the right answer. Synonyms, other "
    "words and more detail are the same; something else, or against it, is not."
    f"{SYSTEM_ENDS}Question: {{question}}\nRight answer: {{reference}}\nAnswer: {{answer}}\n"
    "Reply with a dictionary and nothing else: {'pred': 'yes' or 'no', 'score': a whole number from 0, "
    "nothing in common, to 5, the same}."
)


def ask_short(example: Example[Right]) -> str:
    """Our own question."""
    return f"{example.question}\nAnswer in a few words."


def score_answers(examples: Examples[Right], predictions: Answers[str], how: How) -> Scored:
    """Exact match with any right answer ("exact/..."), and with a judge accuracy and score from 0 to 5.

    The judge reads the first right answer.
    """
    groups = {example.id: dict(example.groups)["task"] for example in examples if example.groups} or None
    predicted = {key: prediction.value or "" for key, prediction in predictions.items()}
    exact, matches = exact_match(
        {example.id: example.truth for example in examples}, predicted, groups=groups
    )
    metrics: dict[str, object] = {f"exact/{name}": value for name, value in exact.items()}
    each = {"exact/accuracy": matches}
    if judge := how.judge(JUDGE):
        questions = {example.id: example.question for example in examples}
        first = {example.id: example.truth[0] for example in examples}
        judged, of_each = open_answers(first, predicted, questions, judge, groups=groups)
        metrics, each = metrics | judged, each | of_each
    return Scored(metrics, each)


# --- predictions: as Video-ChatGPT's inference writes them, or as its scripts read them


def read_answers(paths: Paths, examples: Examples[Right], how: How) -> Predictions[str]:
    """[{"id", "question", "answer", "pred"}], or [{"video_name", "Q", "A", "pred"}] by video and question.

    "answer" is the reference, "pred" the prediction. Lines of our own have "id" and "answer" only.
    """
    ids = IdsByQuestion(examples)
    texts = []
    for record in read_records(one_file(paths, "pred")):
        if record.has("id", "question_id"):
            key = record.name("id", "question_id")
        else:
            key = ids.take(video_of(record.name("video_name")), record.text("Q", "question"))
        texts.append((key, record.text("pred", "answer")))
    return predictions_of(texts, examples, how, words_of)


@json_file
def write_answers(known: Answered[Right, str]) -> list[dict[str, str]]:
    """Both of Video-ChatGPT's forms at once: its inference writes fields that its scripts don't read."""
    return [
        {"id": example.id, "video_name": example.video, "question": example.question, "Q": example.question}
        | {"answer": example.truth[0], "A": example.truth[0], "pred": prediction.words}
        for example, prediction in known
    ]


# --- references


def read_qa(paths: Paths, *, video: str = "{}") -> list[Example[Right]]:
    """test_q.json and test_a.json, or one file of both; `video` makes a video's name of its number."""
    if len(paths) not in (1, 2):
        raise ValueError(f"--reference must be one file, or test_q.json and test_a.json, got {len(paths)}")
    labels = [record for path in paths[1:] for record in read_records(path)]
    answers = {record.name("question_id", "id"): record for record in labels}
    out = []
    for record in read_records(paths[0]):
        key = record.name("question_id", "id")
        answer = answers.get(key) if answers else record
        if answer is None:
            raise record.fault(f"needs an answer to it in {paths[1]}", key)
        named = record.has("video_name")
        name = video_of(record.name("video_name")) if named else video.format(record.name("video_id"))
        groups = (("task", answer.name("type")),) if answer.has("type") else ()
        right: Right = (answer.name("answer"),)
        out.append(Example(key, name, record.text("question"), right, groups=groups))
    return out


@each_record
def read_music(record: Record) -> Iterator[Example[Right]]:
    """avqa-test.json: templates with their <words>, answers under the name "anser"."""
    if record.value.get("question_deleted"):
        return
    kinds, words = (_python_list(record, name) for name in ("type", "templ_values"))
    template = record.text("question_content").strip()
    if template.count("<") > len(words):
        raise record.fault("'templ_values' must have a word for each <...> of 'question_content'", words)
    rest = iter(words)
    question = re.sub(r"<[^<>]*>", lambda match: next(rest), template)
    right, group = (record.name("anser", "answer"),), (("task", "/".join(kinds)),)
    key, video = record.name("question_id"), video_of(record.name("video_id"))
    yield Example(key, video, question, right, groups=group)


def _python_list(record: Record, name: str) -> list[str]:
    """A list of texts that is written as text."""
    written = record.get(name)
    try:
        value = ast.literal_eval(written) if isinstance(written, str) else written
    except (ValueError, SyntaxError):
        value = None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise record.fault(f"{name!r} must be a list of words, written as text", written)
    return value


MUSIC_AVQA = Task(
    about="questions on audio and frame of music; exact match by kind, a judge's accuracy",
    where="avqa-test.json of github.com/GeWu-Lab/MUSIC-AVQA",
    read=read_music,
    prompts={DEFAULT: ask_short, "bare": lambda example: example.question},
    parse=words_of,
    read_predictions=read_answers,
    write_predictions=write_answers,
    score=score_answers,
)
ACTIVITYNET_QA = replace(
    MUSIC_AVQA,
    about="questions on videos of 2 min; a judge's accuracy and score, exact match by kind",
    where="test_q.json and test_a.json of github.com/MILVLG/activitynet-qa, both after --reference",
    read=read_qa,
)
MSVD_QA = replace(
    ACTIVITYNET_QA,
    about="questions on videos of 10 s; a judge's accuracy and score, exact match",
    where="test_qa.json of github.com/xudejing/video-question-answering, or test_q.json and test_a.json",
    read=partial(read_qa, video="vid{}"),
)
MSRVTT_QA = replace(
    MSVD_QA,
    about="questions on videos of 15 s; a judge's accuracy and score, exact match",
    read=partial(read_qa, video="video{}"),
)
