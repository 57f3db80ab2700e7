"""AVSD: the next answer of a dialogue about a video, with one right answer or several."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from ..metrics.captions import caption_scores
from ..metrics.choice import plain
from ..metrics.intervals import mean
from ..metrics.resample import caption_corpus
from .files import Record, is_lines, one_file, read_object, video_of, write_json
from .open_qa import answer_in, ask_short, read_answers, score_answers
from .task import DEFAULT, Example, How, Predictions, Said, Scored, Task

Right: TypeAlias = tuple[str, ...]  # right answers, at least one; a judge is told the first

UNDISCLOSED = "__UNDISCLOSED__"


def _plain_of(example: Example[Right]) -> Example[str]:
    return replace(example, truth=example.truth[0])  # type: ignore[arg-type, return-value]


def ask_in_dialogue(example: Example[Right]) -> str:
    """A question after the turns before it."""
    said = "\n".join(example.context)
    if not said:
        return ask_short(_plain_of(example))
    return f"{said}\n{example.question}\nAnswer in one sentence."


def answers_of(turn: Record) -> Right:
    """The right answers of a turn: a text, or as in the files "multiref" a list of texts."""
    if isinstance(turn.get("answer"), list):
        some = tuple(turn.texts("answer"))
        if not some:
            raise turn.fault("'answer' must have a text at least", some)
        return some
    return (turn.text("answer"),)


def read_dialogues(paths: Sequence[Path]) -> list[Example[Right]]:
    """DSTC's {"dialogs": [{"image_id", "dialog": [{"question", "answer"}]}]}: an example for each turn.

    Of a file that hides its last answers, further ones after --gold must disclose them: the labelled set, or
    only its last turns, each with one answer or several; all of them are right. Where answers of a dialogue
    are lists, as in the "multiref" files, only those turns are asked about.
    """
    if not paths:
        raise ValueError("--gold must be one file, or a hidden one and its labels, got 0")
    shown: dict[str, Right] = {}
    for path in paths[1:]:
        for dialogue in read_object(path)[0].records("dialogs"):
            video = video_of(dialogue.name("image_id"))
            shown[video] = shown.get(video, ()) + answers_of(dialogue.records("dialog")[-1])
    out = []
    for dialogue in read_object(paths[0])[0].records("dialogs"):
        video = video_of(dialogue.name("image_id"))
        turns = dialogue.records("dialog")
        asked = [i for i, one in enumerate(turns) if one.get("answer") == UNDISCLOSED]
        asked = asked or [i for i, one in enumerate(turns) if isinstance(one.get("answer"), list)]
        before: list[str] = []
        for number, turn in enumerate(turns):
            question, right = turn.text("question"), answers_of(turn)
            if right == (UNDISCLOSED,):
                if video not in shown:
                    raise turn.fault("the answer is hidden; give the labelled file after it", right[0])
                right = shown[video]
            if not asked or number in asked:
                out.append(Example(f"{video}_{number}", video, question, right, context=tuple(before)))
            before += [question, right[0]]
    return out


def read_turns(paths: Sequence[Path], examples: Sequence[Example[Right]], how: How) -> Predictions[str]:
    """DSTC's form with answers in place, whole dialogues or last turns; or a list as of `read_answers`."""
    if is_lines(one_file(paths, "pred")):
        return read_answers(paths, [_plain_of(one) for one in examples], how)
    last = {one.video: int(one.id.rpartition("_")[2]) for one in examples}
    known = {one.id for one in examples}
    said: dict[str, Said[str]] = {}
    twice = []
    num_other = 0
    for dialogue in read_object(paths[0])[0].records("dialogs"):
        video, turns = video_of(dialogue.name("image_id")), dialogue.records("dialog")
        first = last.get(video, 0) if len(turns) == 1 else 0
        for number, turn in enumerate(turns, first):
            key = f"{video}_{number}"
            text = answers_of(turn)[0]
            if video in last and key not in known:
                num_other += 1  # a turn of the dialogue that the gold doesn't ask about
            elif key in said:
                twice.append(key)
            else:
                said[key] = Said(text, text.strip() or None)
    return Predictions(said, tuple(twice), num_other)


def write_turns(path: Path, examples: Sequence[Example[Right]], said: Mapping[str, Said[str]]) -> None:
    """DSTC's form, with the turns that were asked."""
    dialogues: dict[str, list[dict[str, str]]] = {}
    for one in examples:
        before = zip(one.context[0::2], one.context[1::2], strict=True)
        turns = dialogues.setdefault(one.video, [{"question": q, "answer": a} for q, a in before])
        words = said[one.id].text or said[one.id].value or "" if one.id in said else ""
        turns.append({"question": one.question, "answer": words})
    asked = {one.video for one in examples if one.id in said}
    write_json(
        path,
        {"dialogs": [{"image_id": name, "dialog": dialogues[name]} for name in dialogues if name in asked]},
    )


def answer_to(text: str, example: Example[Right], how: How) -> str | None:
    """The words, None if there are none."""
    return answer_in(text, _plain_of(example), how)


def score_dialogue(examples: Sequence[Example[Right]], said: Mapping[str, Said[str]], how: How) -> Scored:
    """The captioning metrics over the corpus, as DSTC scores, and with a judge accuracy, as LongVALE does.

    Exact match is with any of the right answers; the judge is told the first.
    """
    scored = score_answers([_plain_of(one) for one in examples], said, how)
    told = {key: one.value or "" for key, one in said.items()}
    gold = {one.id: list(one.truth) for one in examples}
    videos = {one.id: one.video for one in examples}
    exact = {
        key: float(any(plain(one) and plain(one) == plain(told.get(key, "")) for one in some))
        for key, some in gold.items()
    }
    return Scored(
        caption_scores(gold, told, which_meteor=how.meteor)
        | scored.metrics
        | {"exact/accuracy": mean(list(exact.values()))},
        scored.each | {"exact/accuracy": exact},
        lambda: [caption_corpus(gold, told, videos, which_meteor=how.meteor)],
    )


AVSD = Task(
    about="the next answer of a dialogue about a video; a judge's accuracy, BLEU, METEOR, ROUGE-L, CIDEr",
    where="test_set4DSTC7-AVSD.json and its labels, one answer each or several (multiref), "
    "github.com/dialogtekgeek/AVSD-DSTC10_Official",
    read=read_dialogues,
    prompts={DEFAULT: ask_in_dialogue, "bare": lambda example: example.question},
    parse=answer_to,
    read_predictions=read_turns,
    write_predictions=write_turns,
    score=score_dialogue,
)
