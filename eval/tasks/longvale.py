"""LongVALE: audio-visual events with speech; located (TVG), captioned with times (DVC), or by span (SC)."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from ...events.parse import to_percent
from ...types import Event
from ..metrics.captions import caption_scores
from .answers import words_of
from .dense import ACTIVITYNET_DENSE, DEFAULT_PROMPT
from .files import one_file
from .forms import read_spoken, sentence_id, write_spoken
from .grounding import ACTIVITYNET_GROUNDING, PROMPTS, TIMES, ask_as_paper, events_by_video
from .task import DEFAULT, Answers, Example, Paths, Scored, Task

WHERE = "longvale-annotations-eval.json of the data set at github.com/ttgeng233/LongVALE (CC BY-NC-SA 4.0)"
# ttgeng233/LongVALE, longvalellm/eval/eval.py, MIT; the spelling is theirs.
FIND = (
    "At which time interval can we find {} taking place in the video? "
    "Give the timestamps in the fromat: From xx to xx."
)
TELL = (  # after "<video>\\n" their script writes a space, but not in FIND
    " Could you please detail the events that took place during different time segments in the video? "
    "List the events in the format: From xx to xx, event1. \n From xx to xx, event2. \n ..."
)
TELL_OF = (
    " Can you describe what occurred from {:02d} to {:02d} in the video? Please give the event description "
    "directly."
)
ASK_OF = (
    "What happens in the video from {:g} to {:g} seconds? Describe what is seen, heard and said, in one "
    "sentence."
)


def read_spans(paths: Paths) -> Iterator[Example]:
    """An example for each event: what happens there?"""
    for video, (duration_s, events) in events_by_video(one_file(paths, "reference")).items():
        for i, (start_s, end_s, text) in enumerate(events):
            yield Example(sentence_id(video, i), video, "", text, duration_s, (start_s, end_s))


def ask_what_as_longvale(example: Example) -> str:
    """The question of LongVALE's script, in hundredths."""
    start_s, end_s = sorted(example.span_s or ())
    return TELL_OF.format(*to_percent(Event(start_s, end_s, ""), example.duration_s or 0.0))


def score_captions(answers: Answers) -> Scored:
    """BLEU, METEOR, ROUGE-L and CIDEr over the corpus; for the papers, of events that have an entry."""
    predicted = {key: prediction.value or prediction.text for key, prediction in answers.by_id.items()}
    reference = {example.id: [example.truth] for example in answers.counted}
    metrics, corpus = caption_scores(reference, predicted, answers.column("video"))
    return Scored(metrics, corpora=[corpus])


LONGVALE_TVG = replace(
    ACTIVITYNET_GROUNDING,
    about="when an audio-visual event happens; R@1 at IoU .3 .5 .7, mIoU",
    where=WHERE,
    prompts=PROMPTS | {"longvale": ask_as_paper(FIND)},
    times=TIMES | {"longvale": "hundredths"},
)

LONGVALE_DVC = replace(
    ACTIVITYNET_DENSE,
    about="all audio-visual events with times; SODA_c, CIDEr, METEOR",
    where=WHERE,
    prompts={DEFAULT: lambda example: DEFAULT_PROMPT, "longvale": lambda example: TELL},
    times={"longvale": "hundredths"},
    write=partial(write_spoken, task="captioning"),
)

LONGVALE_SC = Task(
    about="what happens in a given span; BLEU-4, METEOR, ROUGE-L, CIDEr over the corpus",
    where=WHERE,
    read=read_spans,
    prompts={DEFAULT: lambda example: ASK_OF.format(*example.span_s or ()), "longvale": ask_what_as_longvale},
    parse=words_of,
    entries=partial(read_spoken, task="seg_captioning", parse=words_of),
    write=partial(write_spoken, task="seg_captioning"),
    score=score_captions,
    uses_meteor=True,
)

TASKS = {"longvale-tvg": LONGVALE_TVG, "longvale-dvc": LONGVALE_DVC, "longvale-sc": LONGVALE_SC}
