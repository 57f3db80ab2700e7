"""Free answers to questions: Music-AVQA, ActivityNet-QA, MSVD-QA, MSRVTT-QA, and AVSD's in a dialogue."""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from ..metrics.answers import by_group, exact_match, open_answers
from ..metrics.captions import caption_scores
from .answers import words_of
from .files import Record, is_lines, json_text, one_file, read_object, read_records, video_of
from .forms import IdsByQuestion, Known, each_record, json_file
from .judging import SYSTEM_ENDS
from .task import DEFAULT, Answers, Entries, Example, How, Paths, Prediction, Scored, Task, groups_of

UNDISCLOSED = "__UNDISCLOSED__"  # in place of an answer of AVSD that is hidden
Right: TypeAlias = tuple[str, ...]  # right answers, at least one; a judge reads the first

JUDGE = (
    "Say whether an answer to a question about a video means the same as the right answer. Synonyms, other "
    "words and more detail are the same; something else, or against it, is not."
    f"{SYSTEM_ENDS}Question: {{question}}\nRight answer: {{reference}}\nAnswer: {{answer}}\n"
    "Reply with a dictionary and nothing else: {'pred': 'yes' or 'no', 'score': a whole number from 0, "
    "nothing in common, to 5, the same}."
)


def ask_short(example: Example) -> str:
    """Our own question."""
    return f"{example.question}\nAnswer in a few words."


def score_answers(answers: Answers) -> Scored:
    """Exact match with any right answer ("exact/..."), and with a judge accuracy and score from 0 to 5.

    The judge reads the first right answer.
    """
    groups = groups_of(answers.examples).get("task")
    predicted, references = answers.values(""), answers.column("truth")
    exact, matches = exact_match(references, predicted)
    exact |= by_group(matches, groups) if groups else {}
    metrics: dict[str, object] = {f"exact/{name}": value for name, value in exact.items()}
    each = {"exact/accuracy": matches}
    if judge := answers.how.judge(JUDGE):
        first = {key: truth[0] for key, truth in references.items()}
        judged, of_each = open_answers(first, predicted, answers.column("question"), judge)
        judged |= by_group(of_each["accuracy"], groups) if groups else {}
        metrics, each = metrics | judged, each | of_each
    return Scored(metrics, each)


# --- predictions: as Video-ChatGPT's inference writes them, or as its scripts read them


def read_answers(paths: Paths, examples: Sequence[Example], how: How) -> Entries:
    """[{"id", "question", "answer", "pred"}], or [{"video_name", "Q", "A", "pred"}] by video and question.

    "answer" is the reference, "pred" the prediction. Lines of our own have "id" and "answer" only.
    """
    ids = IdsByQuestion(examples)
    for record in read_records(one_file(paths, "pred")):
        if record.has("id", "question_id"):
            key = record.name("id", "question_id")
        else:
            key = ids.take(video_of(record.name("video_name")), record.text("Q", "question"))
        yield key, record.text("pred", "answer")


@json_file
def write_answers(known: Known) -> list[dict[str, str]]:
    """Both of Video-ChatGPT's forms at once: its inference writes fields that its scripts don't read."""
    return [
        {"id": example.id, "video_name": example.video, "question": example.question, "Q": example.question}
        | {"answer": example.truth[0], "A": example.truth[0], "pred": prediction.words}
        for example, prediction in known
    ]


# --- references


def read_qa(paths: Paths, *, video: str = "{}") -> Iterator[Example]:
    """test_q.json and test_a.json, or one file of both; `video` makes a video's name of its number."""
    if len(paths) not in (1, 2):
        raise ValueError(f"--reference must be one file, or test_q.json and test_a.json, got {len(paths)}")
    labels = [record for path in paths[1:] for record in read_records(path)]
    answers = {record.name("question_id", "id"): record for record in labels}
    for record in read_records(paths[0]):
        key = record.name("question_id", "id")
        answer = answers.get(key) if answers else record
        if answer is None:
            raise record.fault(f"needs an answer to it in {paths[1]}", key)
        named = record.has("video_name")
        name = video_of(record.name("video_name")) if named else video.format(record.name("video_id"))
        groups = (("task", answer.name("type")),) if answer.has("type") else ()
        right: Right = (answer.name("answer"),)
        yield Example(key, name, record.text("question"), right, groups=groups)


@each_record
def read_music(record: Record) -> Iterator[Example]:
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


# --- AVSD: the next answer of a dialogue about a video, with one right answer or several


def ask_in_dialogue(example: Example) -> str:
    """A question after the turns before it."""
    turns = "\n".join(example.context)
    return f"{turns}\n{example.question}\nAnswer in one sentence." if turns else ask_short(example)


def answers_of(turn: Record) -> Right:
    """The right answers of a turn: a text, or as in the files "multiref" a list of texts."""
    if not isinstance(turn.get("answer"), list):
        return (turn.text("answer"),)
    if not (answers := tuple(turn.texts("answer"))):
        raise turn.fault("'answer' must have a text at least", answers)
    return answers


def dialogues(path: Path) -> list[tuple[str, list[Record]]]:
    """(video, turns) of DSTC's {"dialogs": [{"image_id", "dialog": [{"question", "answer"}]}]}."""
    records = read_object(path).records("dialogs")
    return [(video_of(record.name("image_id")), record.records("dialog")) for record in records]


def read_dialogues(paths: Paths) -> Iterator[Example]:
    """An example for each turn of DSTC's file.

    Of a file that hides its last answers, further files must disclose them: the labelled set, or only its
    last turns, each with one answer or several; all of them are right. Where answers of a dialogue
    are lists, as in the "multiref" files, only those turns are asked about.
    """
    if not paths:
        raise ValueError("--reference must be one file, or a hidden one and its labels, got 0")
    labels: dict[str, Right] = {}
    for path in paths[1:]:
        for video, turns in dialogues(path):
            labels[video] = labels.get(video, ()) + answers_of(turns[-1])
    for video, turns in dialogues(paths[0]):
        questions = [i for i, turn in enumerate(turns) if turn.get("answer") == UNDISCLOSED]
        questions = questions or [i for i, turn in enumerate(turns) if isinstance(turn.get("answer"), list)]
        before: list[str] = []
        for number, turn in enumerate(turns):
            question, right = turn.text("question"), answers_of(turn)
            if right == (UNDISCLOSED,):
                if video not in labels:
                    raise turn.fault("the answer is hidden; give the labelled file after it", right[0])
                right = labels[video]
            if not questions or number in questions:
                yield Example(f"{video}_{number}", video, question, right, context=tuple(before))
            before += [question, right[0]]


def read_turns(paths: Paths, examples: Sequence[Example], how: How) -> Entries:
    """DSTC's form with answers in place, whole dialogues or last turns; or a list as of `read_answers`."""
    if is_lines(one_file(paths, "pred")):
        yield from read_answers(paths, examples, how)
        return
    last = {example.video: int(example.id.rpartition("_")[2]) for example in examples}
    known = {example.id for example in examples}
    for video, turns in dialogues(paths[0]):
        first = last.get(video, 0) if len(turns) == 1 else 0
        for i, turn in enumerate(turns, first):
            text, key = answers_of(turn)[0], f"{video}_{i}"
            # A turn of a known dialogue may have no question in the reference.
            yield key if key in known or video not in last else None, Prediction(text, text.strip() or None)


def write_turns(answers: Answers) -> dict[str, str]:
    """DSTC's form, with the turns that were asked."""
    dialogues: dict[str, list[dict[str, str]]] = {}
    for example in answers.examples:
        before = zip(example.context[0::2], example.context[1::2], strict=True)
        turns = dialogues.setdefault(example.video, [{"question": q, "answer": a} for q, a in before])
        prediction = answers.by_id.get(example.id, Prediction("", None))
        turns.append({"question": example.question, "answer": prediction.words})
    known = {example.video for example, _ in answers.known}
    form = [{"image_id": name, "dialog": turns} for name, turns in dialogues.items() if name in known]
    return {"predictions.json": json_text({"dialogs": form})}


def score_dialogue(answers: Answers) -> Scored:
    """The captioning metrics over the corpus, as DSTC scores, with the metrics of open answers."""
    open_answers = score_answers(answers)
    metrics, corpus = caption_scores(answers.column("truth"), answers.values(""), answers.column("video"))
    return Scored(metrics | open_answers.metrics, open_answers.each, [corpus])


MUSIC_AVQA = Task(
    about="questions on audio and frame of music; exact match by kind, a judge's accuracy",
    where="avqa-test.json of github.com/GeWu-Lab/MUSIC-AVQA",
    read=read_music,
    prompts={DEFAULT: ask_short, "bare": lambda example: example.question},
    parse=words_of,
    entries=read_answers,
    write=write_answers,
    score=score_answers,
)
MSVD_QA = replace(
    MUSIC_AVQA,
    about="questions on videos of 10 s; a judge's accuracy and score, exact match",
    where="test_qa.json of github.com/xudejing/video-question-answering, or test_q.json and test_a.json",
    read=partial(read_qa, video="vid{}"),
)
TASKS = {
    "avsd": replace(
        MUSIC_AVQA,
        about="the next answer of a dialogue about a video; a judge's accuracy, BLEU, METEOR, ROUGE-L, CIDEr",
        where="test_set4DSTC7-AVSD.json and its labels, one answer each or several (multiref), "
        "github.com/dialogtekgeek/AVSD-DSTC10_Official",
        read=read_dialogues,
        prompts={DEFAULT: ask_in_dialogue, "bare": lambda example: example.question},
        entries=read_turns,
        write=write_turns,
        score=score_dialogue,
        uses_meteor=True,
    ),
    "music-avqa": MUSIC_AVQA,
    "activitynet-qa": replace(
        MUSIC_AVQA,
        about="questions on videos of 2 min; a judge's accuracy and score, exact match by kind",
        where="test_q.json and test_a.json of github.com/MILVLG/activitynet-qa, both after --reference",
        read=read_qa,
    ),
    "msvd-qa": MSVD_QA,
    "msrvtt-qa": replace(
        MSVD_QA, about=MSVD_QA.about.replace("10 s", "15 s"), read=partial(read_qa, video="video{}")
    ),
}
