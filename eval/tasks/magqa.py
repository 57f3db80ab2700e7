"""Shot2Story-MAGQA: a question whose several answers are due at several times, as MMDuet scores it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from ..metrics.magqa import Reply, magqa_and_each
from .answers import duration_of, events_of, line_events
from .dense import Events
from .files import Record, one_file, read_records, video_of, write_lines
from .judging import SYSTEM_ENDS
from .task import DEFAULT, Example, How, Predictions, Said, Scored, Task

Replies: TypeAlias = tuple[Reply, ...]

PROMPT = (
    "{} The answer may change in the course of the video. Give every answer, in order of time, one a line, "
    "each with its start and end in seconds, like this: From 12.0 to 15.5 seconds, the dog is jumping."
)
JUDGE = (
    "Rate how correct an answer to a question about a video is, given the right answer: 5 says the same and "
    "all of it, 4 nearly, 3 in part, 2 little of it or against it, 1 wrong or about something else."
    f"{SYSTEM_ENDS}Question: {{question}}\nRight answer: {{gold}}\nAnswer: {{answer}}\n"
    "Reply with one digit from 1 to 5 and nothing else."
)
# yellow-binary-tree/MMDuet, test/evaluate.py, MIT: the rubric of its LLaMA judge, without its six examples.
JUDGE_OF_MMDUET = (
    "You are an evaluator for a video question answering system. Your task is to rate the correctness of the "
    "predicted answers against the ground truth answers. Use the following scale to assign a score:\n"
    "- 5: Perfect match; the predicted answer is completely correct and contains all the relevant "
    "information.\n"
    "- 4: Mostly correct; the predicted answer is largely accurate but may have minor omissions or slight "
    "inaccuracies.\n"
    "- 3: Partially correct; the predicted answer has some correct information, but also contains "
    "significant inaccuracies or missing key points.\n"
    "- 2: Slightly correct; the predicted answer has only a few correct elements, but most of the "
    "information is incorrect or irrelevant, or the predicted answer conflicts with the ground truth "
    "answer.\n"
    "- 1: Incorrect; the predicted answer is entirely wrong or does not address the question at all."
    f"{SYSTEM_ENDS}Question: {{question}}\nGround Truth Answer: {{gold}}\nPredicted Answer: {{answer}}"
)


def read_questions(paths: Sequence[Path]) -> list[Example[Events]]:
    """MMDuet's test file: [{"question_id", "video", "conversation", "answer": [{"content", "time"}]}]."""
    out = []
    for record in read_records(one_file(paths, "gold")):
        turns = record.records("conversation")
        asked = next((turn for turn in turns if turn.get("role") == "user"), None)
        if asked is None:
            raise record.fault("'conversation' must have a turn of role 'user'", turns)
        answers = tuple(
            (*one.span(one.get("time"), "'time'"), one.text("content")) for one in record.records("answer")
        )
        key, video = record.name("question_id"), video_of(record.name("video"))
        out.append(Example(key, video, asked.text("content"), answers, record.maybe_number("video_duration")))
    return out


def replies_of(record: Record) -> Replies:
    """What a model said in the course of a video; MMDuet's time -1 is no time."""
    out = []
    for one in record.records("model_response_list"):
        if one.get("role") == "assistant":
            time_s = one.number("time")
            out.append((None if time_s < 0 else time_s, one.text("content")))
    return tuple(out)


def replies_in(text: str, example: Example[Events], how: How) -> Replies | None:
    """Events of an answer as replies in the middle of each; an answer without times is one without a time."""
    if how.compat == "paper" and how.times == "hundredths":
        duration_s = duration_of(example, "hundredths") or 0.0
        middles: Replies = tuple(
            ((start + end) / 200 * duration_s, said) for start, end, said in line_events(text)
        )
    else:
        events = events_of(text, example, how) or ()
        middles = tuple(((start_s + end_s) / 2, said) for start_s, end_s, said in events if said)
    if middles:
        return middles
    return ((None, text.strip()),) if text.strip() else None


def read_replies(
    paths: Sequence[Path], examples: Sequence[Example[Events]], how: How
) -> Predictions[Replies]:
    """MMDuet's lines: {"question_id", "model_response_list": [{"time", "content", "role"}]}.

    Lines of models that answer at the end have "model_response": [text] in place of the list.
    """
    known = {one.id: one for one in examples}
    said: dict[str, Said[Replies]] = {}
    twice = []
    for record in read_records(one_file(paths, "pred")):
        key = record.name("question_id", "id")
        if key in said:
            twice.append(key)
        elif record.has("model_response_list"):
            said[key] = Said("", replies_of(record))
        else:
            got = record.get("model_response", "answer")
            text = got[0] if isinstance(got, list) and len(got) == 1 else got
            if not isinstance(text, str):
                raise record.fault("'model_response' must be [text]", got)
            example = known.get(key)
            if example is not None and example.duration_s is None:
                example = replace(example, duration_s=record.maybe_number("video_duration"))
            said[key] = Said(text, replies_in(text, example, how) if example is not None else None)
    return Predictions(said, tuple(twice))


def write_replies(path: Path, examples: Sequence[Example[Events]], said: Mapping[str, Said[Replies]]) -> None:
    """MMDuet's lines."""
    write_lines(
        path,
        [
            {
                "question_id": int(one.id) if one.id.isdecimal() else one.id,
                "model_response_list": [
                    {"time": -1 if time_s is None else time_s, "content": text, "role": "assistant"}
                    for time_s, text in said[one.id].value or ()
                ],
            }
            for one in examples
            if one.id in said
        ],
    )


def score_replies(examples: Sequence[Example[Events]], said: Mapping[str, Said[Replies]], how: How) -> Scored:
    """The in-span score, by a judge."""
    judge = how.judge(JUDGE_OF_MMDUET if how.compat == "paper" else JUDGE)
    if judge is None:
        raise ValueError(
            "magqa is scored by a judge, got none; give --judge-url and --judge-model of an "
            "OpenAI-compatible endpoint"
        )
    gold = {one.id: list(one.truth) for one in examples}
    predicted = {key: one.value or () for key, one in said.items()}
    questions = {one.id: one.question for one in examples}
    metrics, each = magqa_and_each(gold, predicted, questions, judge, compat=how.compat)
    return Scored(metrics, {} if how.compat else {"in_span": each})  # the papers' is no mean of examples


MAGQA = Task(
    about="a question with several answers, each due at its time; in-span score 1 to 5 by a judge",
    where="the test file of Shot2Story-MAGQA-39k, linked from github.com/yellow-binary-tree/MMDuet",
    read=read_questions,
    prompts={DEFAULT: lambda example: PROMPT.format(example.question)},
    parse=replies_in,
    read_predictions=read_replies,
    write_predictions=write_replies,
    score=score_replies,
)
