"""When does it happen: Charades-STA, ActivityNet Captions, and the scorer that LongVALE shares."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..metrics.intervals import grounding
from ..metrics.soda import Captioned
from .answers import span_of
from .files import one_file, read_object, read_text
from .forms import question_prompt, read_spoken, sentence_id, write_spoken
from .task import DEFAULT, Answers, Example, Paths, Prompt, Scored, Task, Times

THRESHOLDS = (0.3, 0.5, 0.7)
# huangb23/VTimeLLM, vtimellm/eval/eval.py, CC BY-NC-ND 4.0: one sentence, quoted for comparison.
VTIMELLM = "During which frames can we see {}?"


def ask_as_paper(form: str) -> Prompt:
    """A prompt with the sentence as both papers put it in: in small letters, without its full stop."""
    return lambda example: form.format(example.question.strip().lower().removesuffix("."))


PROMPTS = {
    DEFAULT: question_prompt(
        "When does this happen in the video: {}? "
        "Answer with the start and the end in seconds, like this: From 12.0 to 15.5 seconds."
    ),
    # The words that our own language models are taught; the last second is included.
    "whole-seconds": question_prompt("When does this happen: {}? Answer like this: 187 to 192."),
}
TIMES: dict[str, Times] = {"whole-seconds": "whole_seconds"}


def score_spans(answers: Answers) -> Scored:
    """Recall at 1 and mean IoU; an answer that could not be read is IoU 0.

    For the papers: IoU rounded to two decimals, and sentences without an entry left out.
    """
    reference = {example.id: example.truth for example in answers.counted}
    is_paper = answers.how.compat == "paper"
    metrics, ious = grounding(reference, answers.values(), thresholds=THRESHOLDS, round_iou=is_paper)
    each = {"mIoU": ious}
    each |= {f"R@{t:g}": {key: float(iou >= t) for key, iou in ious.items()} for t in THRESHOLDS}
    return Scored(metrics, each)


def events_by_video(path: Path) -> dict[str, tuple[float, tuple[Captioned, ...]]]:
    """Length and events of each video of {video: {"duration", "timestamps", "sentences"}}."""
    whole = read_object(path)
    if whole.twice:
        raise whole.fault("each video must be there once", list(whole.twice))
    out = {}
    for video, value in whole.value.items():
        record = whole.within(value, f"video {video!r}")
        spans, sentences = record.spans("timestamps"), record.texts("sentences")
        if len(spans) != len(sentences):
            got = f"{len(spans)} and {len(sentences)}"
            raise record.fault("'timestamps' and 'sentences' must be as many", got)
        events = tuple((*span, text) for span, text in zip(spans, sentences, strict=True))
        out[video] = record.number("duration"), events
    return out


def read_sentences(paths: Paths) -> Iterator[Example]:
    """An example for each sentence: where is it?"""
    for video, (duration_s, events) in events_by_video(one_file(paths, "reference")).items():
        for i, (start_s, end_s, text) in enumerate(events):
            yield Example(sentence_id(video, i), video, text.strip(), (start_s, end_s), duration_s)


def read_charades(paths: Paths) -> Iterator[Example]:
    """Charades-STA's lines "VIDEO START END##sentence", or the JSON that VTimeLLM made of them."""
    path = one_file(paths, "reference")
    if path.suffix == ".json":
        yield from read_sentences(paths)
        return
    numbers = Counter[str]()
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        head, _, sentence = line.partition("##")
        try:
            video, start, end = head.split()
            span = float(start), float(end)
        except ValueError:
            span = None
        if span is None or not sentence.strip():
            raise ValueError(
                f"{path}:{number}: must be 'VIDEO START END##sentence' with seconds, got {line[:80]!r}"
            )
        yield Example(sentence_id(video, numbers[video]), video, sentence.strip(), span)
        numbers[video] += 1


CHARADES_STA = Task(
    about="when a sentence happens in a video of 30 s; R@1 at IoU .3 .5 .7, mIoU",
    where="charades_sta_test.txt of github.com/jiyanggao/TALL; videos of prior.allenai.org/projects/charades",
    read=read_charades,
    prompts=PROMPTS | {"vtimellm": ask_as_paper(VTIMELLM)},
    times=TIMES | {"vtimellm": "hundredths"},
    parse=span_of,
    entries=partial(read_spoken, task="grounding", parse=span_of),
    write=partial(write_spoken, task="grounding"),
    score=score_spans,
)

ACTIVITYNET_GROUNDING = replace(
    CHARADES_STA,
    about="when a sentence happens in a video of 2 min; R@1 at IoU .3 .5 .7, mIoU",
    where="val_1.json or val_2.json of ActivityNet Captions, cs.stanford.edu/people/ranjaykrishna/densevid",
    read=read_sentences,
)

TASKS = {"charades-sta": CHARADES_STA, "activitynet-grounding": ACTIVITYNET_GROUNDING}
