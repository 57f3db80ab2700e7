"""References of ActivityNet Captions' shape, which Charades-STA and LongVALE share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..metrics.intervals import Interval
from ..metrics.soda import Captioned
from .examples import Example, Paths
from .files import Record, one_file, read_object
from .spoken import sentence_id


def events_by_video(path: Path) -> dict[str, tuple[float, tuple[Captioned, ...]]]:
    """Length and events of each video of {video: {"duration", "timestamps", "sentences"}}."""
    whole, twice = read_object(path)
    if twice:
        raise whole.fault("each video must be there once", twice)
    out = {}
    for video in whole.value:
        record = whole.within(whole.value[video], f"video {video!r}")
        spans, sentences = record.spans("timestamps"), record.texts("sentences")
        if len(spans) != len(sentences):
            got = f"{len(spans)} and {len(sentences)}"
            raise record.fault("'timestamps' and 'sentences' must be as many", got)
        events = tuple((*span, text) for span, text in zip(spans, sentences, strict=True))
        out[video] = record.number("duration"), events
    return out


def timed_texts(record: Record, name: str, span: str, *texts: str) -> tuple[Captioned, ...]:
    """The events in a list of objects, of which `span` is the time and one of `texts` the text."""
    return tuple(
        (*event.span(event.get(span), repr(span)), event.text(*texts)) for event in record.records(name)
    )


def read_sentences(paths: Paths) -> list[Example[Interval]]:
    """An example for each sentence: where is it?"""
    return [
        Example(sentence_id(video, i), video, text.strip(), (start_s, end_s), duration_s)
        for video, (duration_s, events) in events_by_video(one_file(paths, "reference")).items()
        for i, (start_s, end_s, text) in enumerate(events)
    ]


def whole_videos(paths: Paths) -> list[Example[tuple[tuple[Captioned, ...], ...]]]:
    """An example for each video: its events, by each annotator (one a file)."""
    each = [events_by_video(path) for path in paths]
    out = []
    for video in dict.fromkeys(video for annotator in each for video in annotator):
        known = [annotator[video] for annotator in each if video in annotator]
        out.append(Example(video, video, "", tuple(events for _, events in known), known[0][0]))
    return out


def ask_as_paper(form: str) -> Callable[[Example[Any]], str]:
    """A prompt with the sentence as both papers put it in: in small letters, without its full stop."""
    return lambda example: form.format(example.question.strip().lower().removesuffix("."))
