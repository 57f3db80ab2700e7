"""LongVALE: events seen, heard and spoken; found (TVG), told with times (DVC), told of a span (SC)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from longcompress.events.parse import to_percent
from longcompress.types import Event

from ..metrics.captions import caption_scores
from ..metrics.intervals import Interval
from ..metrics.resample import caption_corpus
from .answers import events_of, without_thoughts
from .dense import DEFAULT_PROMPT, read_told, score_events
from .event_references import asked_sentence, sentences_of, videos_of, whole_videos
from .files import one_file
from .grounding import CHARADES_STA, PROMPTS, TIMES
from .spoken import read_spoken, say_events, sentence_id, write_spoken
from .task import DEFAULT, Example, How, Said, Scored, Task, asked, values

WHERE = "longvale-annotations-eval.json of the data set at github.com/ttgeng233/LongVALE (CC BY-NC-SA 4.0)"
# ttgeng233/LongVALE, longvalellm/eval/eval.py, MIT; the spelling is theirs.
FIND = (
    "At which time interval can we find {} taking place in the video? "
    "Give the timestamps in the fromat: From xx to xx."
)
TELL = (
    "Could you please detail the events that took place during different time segments in the video? "
    "List the events in the format: From xx to xx, event1. \n From xx to xx, event2. \n ..."
)
TELL_OF = (
    "Can you describe what occurred from {} to {} in the video? Please give the event description directly."
)


def ask_as_longvale(example: Example[Interval]) -> str:
    """The question of LongVALE's script; its answers are in hundredths."""
    return FIND.format(asked_sentence(example.question))


def read_spans(paths: Sequence[Path]) -> list[Example[str]]:
    """An example for each event: what happens there?"""
    return [
        Example(sentence_id(video, i), video, "", said, duration_s, (start_s, end_s))
        for video, (duration_s, events) in videos_of(one_file(paths, "gold")).items()
        for i, (start_s, end_s, said) in enumerate(events)
    ]


def ask_what(example: Example[str]) -> str:
    """Our own question."""
    assert example.span_s is not None
    start_s, end_s = example.span_s
    return (
        f"What happens in the video from {start_s:g} to {end_s:g} seconds? "
        "Describe what is seen, heard and said, in one sentence."
    )


def ask_what_as_longvale(example: Example[str]) -> str:
    """The question of LongVALE's script, in hundredths."""
    assert example.span_s is not None
    start_s, end_s = sorted(example.span_s)
    first, last = to_percent(Event(start_s, end_s, ""), example.duration_s or 0.0)
    return TELL_OF.format(f"{first:02d}", f"{last:02d}")


def caption_of(text: str, example: Example[str], how: How) -> str | None:
    """The words, None if there are none."""
    return without_thoughts(text).strip() or None


def score_captions(examples: Sequence[Example[str]], said: Mapping[str, Said[str]], how: How) -> Scored:
    """BLEU, METEOR, ROUGE-L and CIDEr over the corpus; for the papers, of events that have an entry."""
    kept = asked(examples, said, how)
    predicted = values(kept, said) | {key: one.text for key, one in said.items() if one.value is None}
    gold = {one.id: [one.truth] for one in kept}
    videos = {one.id: one.video for one in kept}
    return Scored(
        caption_scores(gold, predicted, which_meteor=how.meteor),
        corpora=lambda: [caption_corpus(gold, predicted, videos, which_meteor=how.meteor)],
    )


LONGVALE_TVG = replace(
    CHARADES_STA,
    about="when an audio-visual event happens; R@1 at IoU .3 .5 .7, mIoU",
    where=WHERE,
    read=lambda paths: sentences_of(one_file(paths, "gold")),
    prompts=PROMPTS | {"longvale": ask_as_longvale},
    times=TIMES | {"longvale": "hundredths"},
)

LONGVALE_DVC = Task(
    about="all audio-visual events with times; SODA_c, CIDEr, METEOR",
    where=WHERE,
    read=whole_videos,
    prompts={DEFAULT: lambda example: DEFAULT_PROMPT, "longvale": lambda example: TELL},
    times={"longvale": "hundredths"},
    parse=events_of,
    read_predictions=read_told,
    write_predictions=partial(write_spoken, task="captioning", say=say_events),
    score=score_events,
)

LONGVALE_SC = Task(
    about="what happens in a given span; BLEU-4, METEOR, ROUGE-L, CIDEr over the corpus",
    where=WHERE,
    read=read_spans,
    prompts={DEFAULT: ask_what, "longvale": ask_what_as_longvale},
    parse=caption_of,
    read_predictions=partial(read_spoken, task="seg_captioning", parse=caption_of),
    write_predictions=partial(write_spoken, task="seg_captioning", say=lambda said, example: said),
    score=score_captions,
)
