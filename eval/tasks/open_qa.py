"""Free answers to questions: Music-AVQA, ActivityNet-QA, MSVD-QA, MSRVTT-QA."""

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from ..metrics.choice import exact_match, open_answers, plain
from ..metrics.judge import rating, replies, verdict
from .answers import without_thoughts
from .files import Record, one_file, read_records, video_of, write_json
from .judging import SYSTEM_ENDS
from .task import DEFAULT, Example, How, Predictions, Said, Scored, Task

JUDGE = (
    "Say whether an answer to a question about a video means the same as the right answer. Synonyms, other "
    "words and more detail are the same; something else, or against it, is not."
    f"{SYSTEM_ENDS}Question: {{question}}\nRight answer: {{gold}}\nAnswer: {{answer}}\n"
    "Reply with a dictionary and nothing else: {'pred': 'yes' or 'no', 'score': a whole number from 0, "
    "nothing in common, to 5, the same}."
)


def ask_short(example: Example[str]) -> str:
    """Our own question."""
    return f"{example.question}\nAnswer in a few words."


def answer_in(text: str, example: Example[str], how: How) -> str | None:
    """The words, None if there are none."""
    return without_thoughts(text).strip() or None


def score_answers(examples: Sequence[Example[str]], said: Mapping[str, Said[str]], how: How) -> Scored:
    """Exact match ("exact/..."), and with a judge accuracy and score from 0 to 5."""
    gold = {one.id: one.truth for one in examples}
    groups = {one.id: dict(one.groups)["task"] for one in examples if one.groups}
    told = {key: one.value or "" for key, one in said.items()}
    exact = exact_match(gold, told, groups=groups or None)
    metrics: dict[str, object] = {f"exact/{name}": value for name, value in exact.items()}
    each = {
        "exact/accuracy": {
            key: float(bool(plain(right)) and plain(told.get(key, "")) == plain(right))
            for key, right in gold.items()
        }
    }
    judge = how.judge(JUDGE)
    if judge is not None:
        questions = {one.id: one.question for one in examples}
        metrics |= open_answers(gold, told, questions, judge, groups=groups or None)
        due = [key for key in gold if told.get(key, "").strip()]
        again = dict(
            zip(due, replies(judge, [(questions[key], gold[key], told[key]) for key in due]), strict=True)
        )
        each["accuracy"] = {key: float(verdict(again.get(key, "")) is True) for key in gold}
        each["score"] = {key: rating(again.get(key, ""), 0, 5) or 0.0 for key in gold}
    return Scored(metrics, each)


# --- predictions: as Video-ChatGPT's inference writes them, or as its scripts read them


def read_answers(paths: Sequence[Path], examples: Sequence[Example[str]], how: How) -> Predictions[str]:
    """[{"id", "question", "answer", "pred"}], or [{"video_name", "Q", "A", "pred"}] by video and question.

    "answer" is the gold; what was said is "pred". Lines of our own have "id" and "answer" only.
    """
    ids: dict[tuple[str, str], list[str]] = {}
    for one in examples:
        ids.setdefault((one.video, _flat(one.question)), []).append(one.id)
    said: dict[str, Said[str]] = {}
    twice = []
    for record in read_records(one_file(paths, "pred")):
        if record.has("id", "question_id"):
            key = record.name("id", "question_id")
        else:
            video, question = video_of(record.name("video_name")), record.text("Q", "question")
            same = ids.get((video, _flat(question)), [])
            key = (same.pop(0) if len(same) > 1 else same[0]) if same else f"{video}: {question}"
        if key in said:
            twice.append(key)
            continue
        text = record.text("pred", "answer")
        said[key] = Said(text, without_thoughts(text).strip() or None)
    return Predictions(said, tuple(twice))


def write_answers(path: Path, examples: Sequence[Example[str]], said: Mapping[str, Said[str]]) -> None:
    """Both of Video-ChatGPT's forms at once: its inference writes fields that its scripts don't read."""
    write_json(
        path,
        [
            {
                "id": one.id,
                "video_name": one.video,
                "question": one.question,
                "Q": one.question,
                "answer": one.truth,
                "A": one.truth,
                "pred": said[one.id].text or said[one.id].value or "",
            }
            for one in examples
            if one.id in said
        ],
    )


def _flat(text: str) -> str:
    return " ".join(text.split())


# --- gold


def read_qa(paths: Sequence[Path], *, video: str = "{}") -> list[Example[str]]:
    """test_q.json and test_a.json, or one file of questions with their answers.

    Args:
        paths: one file or the two.
        video: a video's name from its number, of files that have "video_id".
    """
    if len(paths) not in (1, 2):
        raise ValueError(f"--gold must be one file, or test_q.json and test_a.json, got {len(paths)}")
    answers: dict[str, Record] = {}
    for path in paths[1:]:
        for record in read_records(path):
            answers[record.name("question_id", "id")] = record
    out = []
    for record in read_records(paths[0]):
        key = record.name("question_id", "id")
        answer = answers.get(key) if answers else record
        if answer is None:
            raise record.fault(f"needs an answer to it in {paths[1]}", key)
        name = (
            video_of(record.name("video_name"))
            if record.has("video_name")
            else video.format(record.name("video_id"))
        )
        groups = (("task", answer.name("type")),) if answer.has("type") else ()
        out.append(Example(key, name, record.text("question"), answer.name("answer"), groups=groups))
    return out


def read_music(paths: Sequence[Path]) -> list[Example[str]]:
    """avqa-test.json: templates with their <words>, answers under the name "anser"."""
    out = []
    for record in read_records(one_file(paths, "gold")):
        if record.value.get("question_deleted"):
            continue
        kinds, words = (_python_list(record, name) for name in ("type", "templ_values"))
        template = record.text("question_content").strip()
        if template.count("<") > len(words):
            raise record.fault("'templ_values' must have a word for each <...> of 'question_content'", words)
        rest = iter(words)
        question = re.sub(r"<[^<>]*>", lambda found, rest=rest: next(rest), template)  # type: ignore[misc]
        right = record.name("anser", "answer")
        group = (("task", "/".join(kinds)),)
        key, video = record.name("question_id"), video_of(record.name("video_id"))
        out.append(Example(key, video, question, right, groups=group))
    return out


def _python_list(record: Record, name: str) -> list[str]:
    """A list of texts that is written as text."""
    written = record.get(name)
    try:
        value = ast.literal_eval(written) if isinstance(written, str) else written
    except (ValueError, SyntaxError):
        value = None
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise record.fault(f"{name!r} must be a list of words, written as text", written)
    return value


def _task(about: str, where: str, read: Callable[[Sequence[Path]], list[Example[str]]]) -> Task[str, str]:
    return Task(
        about=about,
        where=where,
        read=read,
        prompts={DEFAULT: ask_short, "bare": lambda example: example.question},
        parse=answer_in,
        read_predictions=read_answers,
        write_predictions=write_answers,
        score=score_answers,
    )


MUSIC_AVQA = _task(
    "questions on audio and frame of music; exact match by kind, a judge's accuracy",
    "avqa-test.json of github.com/GeWu-Lab/MUSIC-AVQA",
    read_music,
)
ACTIVITYNET_QA = _task(
    "questions on videos of 2 min; a judge's accuracy and score, exact match by kind",
    "test_q.json and test_a.json of github.com/MILVLG/activitynet-qa, both after --gold",
    read_qa,
)
MSVD_QA = _task(
    "questions on videos of 10 s; a judge's accuracy and score, exact match",
    "test_qa.json of github.com/xudejing/video-question-answering, or test_q.json and test_a.json",
    partial(read_qa, video="vid{}"),
)
MSRVTT_QA = _task(
    "questions on videos of 15 s; a judge's accuracy and score, exact match",
    "test_qa.json of github.com/xudejing/video-question-answering, or test_q.json and test_a.json",
    partial(read_qa, video="video{}"),
)
