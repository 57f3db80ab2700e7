"""AVSD: the next answer of a dialogue about a video, with one right answer or several."""

from dataclasses import replace
from pathlib import Path

from ..metrics.captions import caption_scores
from ..metrics.resample import caption_corpus
from .examples import Answers, Example, Examples, Paths, Predictions
from .files import Record, is_lines, one_file, read_object, video_of, write_json
from .forms import predictions_of
from .open_qa import MUSIC_AVQA, Right, ask_short, read_answers, score_answers
from .task import DEFAULT, How, Scored

UNDISCLOSED = "__UNDISCLOSED__"


def ask_in_dialogue(example: Example[Right]) -> str:
    """A question after the turns before it."""
    turns = "\n".join(example.context)
    return f"{turns}\n{example.question}\nAnswer in one sentence." if turns else ask_short(example)


def answers_of(turn: Record) -> Right:
    """The right answers of a turn: a text, or as in the files "multiref" a list of texts."""
    if isinstance(turn.get("answer"), list):
        answers = tuple(turn.texts("answer"))
        if not answers:
            raise turn.fault("'answer' must have a text at least", answers)
        return answers
    return (turn.text("answer"),)


def read_dialogues(paths: Paths) -> list[Example[Right]]:
    """DSTC's {"dialogs": [{"image_id", "dialog": [{"question", "answer"}]}]}: an example for each turn.

    Of a file that hides its last answers, further files must disclose them: the labelled set, or only its
    last turns, each with one answer or several; all of them are right. Where answers of a dialogue
    are lists, as in the "multiref" files, only those turns are asked about.
    """
    if not paths:
        raise ValueError("--reference must be one file, or a hidden one and its labels, got 0")
    labels: dict[str, Right] = {}
    for path in paths[1:]:
        for dialogue in read_object(path)[0].records("dialogs"):
            video = video_of(dialogue.name("image_id"))
            labels[video] = labels.get(video, ()) + answers_of(dialogue.records("dialog")[-1])
    out = []
    for dialogue in read_object(paths[0])[0].records("dialogs"):
        video = video_of(dialogue.name("image_id"))
        turns = dialogue.records("dialog")
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
                out.append(Example(f"{video}_{number}", video, question, right, context=tuple(before)))
            before += [question, right[0]]
    return out


def read_turns(paths: Paths, examples: Examples[Right], how: How) -> Predictions[str]:
    """DSTC's form with answers in place, whole dialogues or last turns; or a list as of `read_answers`."""
    if is_lines(one_file(paths, "pred")):
        return read_answers(paths, examples, how)
    last = {example.video: int(example.id.rpartition("_")[2]) for example in examples}
    known = {example.id for example in examples}
    texts = []
    for dialogue in read_object(paths[0])[0].records("dialogs"):
        video, turns = video_of(dialogue.name("image_id")), dialogue.records("dialog")
        first = last.get(video, 0) if len(turns) == 1 else 0
        texts += [(video, f"{video}_{i}", answers_of(turn)[0]) for i, turn in enumerate(turns, first)]
    # A turn of a known dialogue may have no question in the reference.
    asked = [(key, text) for video, key, text in texts if key in known or video not in last]
    out = predictions_of(asked, examples, how, lambda text, example, how: text.strip() or None)
    out.num_other = len(texts) - len(asked)
    return out


def write_turns(folder: Path, examples: Examples[Right], predictions: Answers[str], how: How) -> list[Path]:
    """DSTC's form, with the turns that were asked."""
    dialogues: dict[str, list[dict[str, str]]] = {}
    for example in examples:
        before = zip(example.context[0::2], example.context[1::2], strict=True)
        turns = dialogues.setdefault(example.video, [{"question": q, "answer": a} for q, a in before])
        words = predictions[example.id].words if example.id in predictions else ""
        turns.append({"question": example.question, "answer": words})
    known = {example.video for example in examples if example.id in predictions}
    form = [{"image_id": name, "dialog": turns} for name, turns in dialogues.items() if name in known]
    return [write_json(folder / "predictions.json", {"dialogs": form})]


def score_dialogue(examples: Examples[Right], predictions: Answers[str], how: How) -> Scored:
    """The captioning metrics over the corpus, as DSTC scores, with the metrics of open answers."""
    answers = score_answers(examples, predictions, how)
    predicted = {key: prediction.value or "" for key, prediction in predictions.items()}
    references = {example.id: list(example.truth) for example in examples}
    videos = {example.id: example.video for example in examples}
    return Scored(
        caption_scores(references, predicted) | answers.metrics,
        answers.each,
        lambda: [caption_corpus(references, predicted, videos)],
    )


AVSD = replace(
    MUSIC_AVQA,
    about="the next answer of a dialogue about a video; a judge's accuracy, BLEU, METEOR, ROUGE-L, CIDEr",
    where="test_set4DSTC7-AVSD.json and its labels, one answer each or several (multiref), "
    "github.com/dialogtekgeek/AVSD-DSTC10_Official",
    read=read_dialogues,
    prompts={DEFAULT: ask_in_dialogue, "bare": lambda example: example.question},
    read_predictions=read_turns,
    write_predictions=write_turns,
    score=score_dialogue,
    uses_meteor=True,
)
