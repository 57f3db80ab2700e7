"""What a model said and scored while a video played, in MMDuet's lines.

{"question_id", "model_response_list": [{"time", "content", "role"}], "video_duration", "debug_data":
[{"time", "relevance_score", "informative_score"}]}; a polled model has "poll_score" there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..metrics.answers import Reply
from .files import Record

END = "_score"


@dataclass(frozen=True)
class Played:
    """Replies, each with its second or None; head -> scores of the steps that began at times_s; a length."""

    replies: tuple[Reply, ...]
    duration_s: float | None = None
    times_s: tuple[float, ...] = ()
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def relevance(self) -> tuple[float, ...]:
        """The curve of relevance, else the only one there is; none of no step."""
        curves = dict(self.scores)
        return curves.get("relevance") or next(iter(curves.values()), ())


def replies_of(record: Record) -> tuple[Reply, ...]:
    """What a model said in the course of a video; MMDuet's time -1 is no time."""
    out = []
    for entry in record.records("model_response_list"):
        if entry.get("role") == "assistant":
            time_s = entry.number("time")
            out.append((None if time_s < 0 else time_s, entry.text("content")))
    return tuple(out)


def played_in(record: Record) -> Played:
    """What a line says."""
    frames = record.records("debug_data") if record.has("debug_data") else []
    names = [name for name in (frames[0].value if frames else ()) if name.endswith(END)]
    return Played(
        replies_of(record) if record.has("model_response_list") else (),
        record.maybe_number("video_duration"),
        tuple(frame.number("time", "video_time") for frame in frames),
        {name.removesuffix(END): tuple(frame.number(name) for frame in frames) for name in names},
    )


def line_of(
    replies: Sequence[tuple[float, str]], times_s: Sequence[float], scores: Sequence[Mapping[str, float]],
    duration_s: float,
) -> dict[str, Any]:  # fmt: skip
    """A line, all but its id."""
    return {
        "model_response_list": [
            {"time": time_s, "content": text, "role": "assistant"} for time_s, text in replies
        ],
        "video_duration": duration_s,
        "debug_data": [
            {"time": time_s} | {name + END: value for name, value in row.items()}
            for time_s, row in zip(times_s, scores, strict=True)
        ],
    }
