"""The quality of annotations: how much of the videos they cover, overlaps, captions that repeat."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from ..memory import union_s
from ..train.records import Record, num_overlapping
from ..types import Event


def report_of(contents: Mapping[str, Mapping[str, Any]], records: Sequence[Record]) -> dict[str, Any]:
    """Figures of all videos and of each.

    Args:
        contents: key -> "status" of a video, and what its part says.
        records: of those that are annotated.
    """
    statuses = Counter(content["status"] for content in contents.values())
    reasons = Counter(c["filtered"] for c in contents.values() if c.get("filtered"))
    failures, text_faults = (
        sum((Counter(c.get(name, {})) for c in contents.values()), Counter[str]())
        for name in ("failures", "text_faults")
    )
    videos = {record.key: quality(record) for record in records}
    seconds = sum(video["duration_s"] for video in videos.values())
    texts = Counter(event.text.casefold() for r in records for event in r.events if event.text)
    total = {
        name: sum(video[name] for video in videos.values())
        for name in ("events", "covered_s", "overlapping", "overlap_s", "duplicates", "empty", "cues")
    }
    return {
        "videos": {name: statuses[name] for name in ("annotated", "filtered", "failed", "missing")},
        "filtered": dict(sorted(reasons.items())),
        "failed": {key: c["reason"] for key, c in contents.items() if c["status"] == "failed"},
        "dropped_events": dict(sorted(failures.items())),
        "text_faults": dict(sorted(text_faults.items())),
        "text_places": {key: c["text_places"] for key, c in contents.items() if c.get("text_places")},
        "transcribed": sum(bool(c.get("transcribed")) for c in contents.values()),
        "hours": seconds / 3600, **total,
        "coverage": total["covered_s"] / seconds if seconds else 0.0,
        "repeated": {text: num for text, num in texts.most_common(20) if num > 1},
        "by_video": videos,
    }  # fmt: skip


def quality(record: Record) -> dict[str, float]:
    """Figures of a record: "duplicates" are events whose caption an earlier event of the video has,
    "overlapping" those that begin before an earlier one has ended."""
    events, duration_s = record.events, record.duration_s or 0.0
    covered_s = seconds_of(events)
    texts = Counter(event.text.casefold() for event in events if event.text)
    return {
        "duration_s": duration_s, "events": len(events), "covered_s": covered_s,
        "coverage": covered_s / duration_s if duration_s else 0.0,
        "overlapping": num_overlapping(events),
        "overlap_s": sum(event.end_s - event.start_s for event in events) - covered_s,
        "longest_gap_s": max((b.start_s - a.end_s for a, b in pairwise(events)), default=0.0),
        "duplicates": sum(texts.values()) - len(texts),
        "empty": sum(not event.text for event in events), "cues": len(record.text),
    }  # fmt: skip


def seconds_of(events: Sequence[Event]) -> float:
    """Seconds that events cover together."""
    times = torch.tensor([[event.start_s, event.end_s] for event in events], dtype=torch.float64).view(-1, 2)
    return union_s(times[:, 0], times[:, 1])
