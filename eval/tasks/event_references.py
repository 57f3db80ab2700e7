"""Gold of ActivityNet Captions' shape, which Charades-STA and LongVALE share: videos, spans, sentences."""

from collections.abc import Sequence
from pathlib import Path

from ..metrics.intervals import Interval
from ..metrics.soda import Captioned
from .files import read_object
from .spoken import sentence_id
from .task import Example


def videos_of(path: Path) -> dict[str, tuple[float, tuple[Captioned, ...]]]:
    """Length and events of each video of {video: {"duration", "timestamps", "sentences"}}."""
    whole, twice = read_object(path)
    if twice:
        raise whole.fault("each video must be there once", twice)
    out = {}
    for video in whole.value:
        record = whole.within(whole.value[video], f"video {video!r}")
        spans, sentences = record.items("timestamps"), record.texts("sentences")
        if len(spans) != len(sentences):
            raise record.fault(
                "'timestamps' and 'sentences' must be as many", f"{len(spans)} and {len(sentences)}"
            )
        out[video] = (
            record.number("duration"),
            tuple(
                (*record.span(span, f"timestamps {i}"), sentence)
                for i, (span, sentence) in enumerate(zip(spans, sentences, strict=True), 1)
            ),
        )
    return out


def sentences_of(path: Path) -> list[Example[Interval]]:
    """An example for each sentence: where is it?"""
    return [
        Example(sentence_id(video, i), video, said.strip(), (start_s, end_s), duration_s)
        for video, (duration_s, events) in videos_of(path).items()
        for i, (start_s, end_s, said) in enumerate(events)
    ]


def whole_videos(paths: Sequence[Path]) -> list[Example[tuple[tuple[Captioned, ...], ...]]]:
    """An example for each video: what happens in it, by each annotator (one a file) who saw it."""
    each = [videos_of(path) for path in paths]
    videos = dict.fromkeys(video for records in each for video in records)
    return [
        Example(
            video,
            video,
            "",
            tuple(records[video][1] for records in each if video in records),
            next(records[video][0] for records in each if video in records),
        )
        for video in videos
    ]


def asked_sentence(sentence: str) -> str:
    """A sentence as both papers put it into a question: in small letters, without its full stop."""
    small = sentence.strip().lower()
    return small[:-1] if small.endswith(".") else small
