"""Samples of shards for a model that speaks by itself: a record becomes a duet, its frames and duet a batch.

| kind | of | a reply is due |
|---|---|---|
| narrate | a duet without a user | where it tells |
| magqa | a duet with a user | where it answers |
| ground | an event's text | never: it is relevant in the event |
| alert | an event's text | in the first two seconds of it |
| quiet | likewise, while it is not so | never |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...compression.state import MergeState
from ...config_live import HEADS
from ...llm import CausalLM
from ...llm.duet import Turn, pieces_of, script
from ...llm.prompt import IGNORED, padded, padding_id
from ..records import Record
from .duet import MAX_WAITING, Duet, dense, grounding, questions

DuetKind = Literal["narrate", "magqa", "ground", "alert", "quiet"]
NUM_SECONDS = 2.0  # in which an alert is called for
REQUESTS: dict[str, Sequence[str]] = {
    "narrate": (
        "Please concisely narrate the video in real time.", "Please simply describe what do you see.",
        "Tell what happens as it happens.",
    ),
    "ground": ("When does this happen: {text}", "Which frames show this: {text}"),
    "alert": ("Tell me when this happens: {text}", "Say so when you see this: {text}"),
}  # fmt: skip
"""Kind -> forms of its request; {text} is filled in. Kind quiet has those of alert."""


@dataclass(frozen=True)
class DuetOptions:
    """How samples of duets are made and count.

    Attributes:
        max_frames: of a sample.
        published: a sample teaches one head, as MMDuet's do; else all but grounding teach both.
        positive: how often frames that call for a reply, or are relevant, count.
        heads: weight of the heads' loss beside the replies'.
        silent: share of the frames labelled 0 that is learned.
    """

    max_frames: int = 128
    published: bool = False
    positive: float = 1.0
    heads: float = 1.0
    silent: float = 1.0

    def __post_init__(self) -> None:
        if self.max_frames < 1 or self.positive <= 0 or self.heads < 0 or not 0 <= self.silent <= 1:
            raise ValueError(
                "max_frames must be >= 1, positive > 0, heads >= 0 and silent in [0, 1], got "
                f"{self.max_frames}, {self.positive:g}, {self.heads:g} and {self.silent:g}"
            )


@dataclass(frozen=True)
class DuetExample:
    """A duet with the tokens of its T frames.

    Attributes:
        duet: its turns.
        frames: (T, n, C) tokens of each.
        labels: head -> (T,) 0, 1 or IGNORED.
    """

    duet: Duet
    frames: Tensor
    labels: Mapping[str, Sequence[int]]


def duet_of(
    record: Record, kind: DuetKind, generator: np.random.Generator, *, duration_s: float, rate_fps: float,
    options: DuetOptions, requests: Mapping[str, Sequence[str]] = REQUESTS,
) -> Duet | None:  # fmt: skip
    """A duet about a record, of options.max_frames at most; None if it has nothing of that kind."""

    def choose(items: Sequence[Any]) -> Any:
        return items[int(generator.integers(len(items)))]

    both = not options.published
    if kind in ("narrate", "magqa"):
        is_talk = kind == "magqa"
        duets = [duet for duet in record.duets if duet and (duet[0].role == "user") == is_talk]
        if not duets:
            return None
        turns = choose(duets)
        if is_talk:
            waiting = int(generator.integers(MAX_WAITING + 1))
            duet = questions(turns, duration_s, rate_fps, waiting=waiting)
        else:
            duet = dense(turns, choose(requests["narrate"]), duration_s, rate_fps)
        if duet is not None and both:
            about = [(t.start_s, t.end_s) for t in turns if t.role == "assistant"]
            duet = duet.with_spans(about, rate_fps)
    else:
        events = [event for event in record.events if event.text.strip()]
        if not events:
            return None
        text = choose(events).text
        spans = sorted((event.start_s, event.end_s) for event in events if event.text == text)
        request = choose(requests["alert" if kind == "quiet" else kind]).format(text=text)
        if kind == "ground":
            duet = grounding(spans, request, duration_s, rate_fps)
        elif kind == "alert":
            duet = _alert(spans, request, text, duration_s, rate_fps, generator, options.max_frames)
        else:
            duet = _quiet(spans, request, duration_s, rate_fps)
    duet = None if duet is None else duet.limited(options.max_frames)
    return duet if duet is not None and duet.num_frames else None


def _alert(
    spans: Sequence[tuple[float, float]], request: str, text: str, duration_s: float, rate_fps: float,
    generator: np.random.Generator, max_frames: int,
) -> Duet | None:  # fmt: skip
    """A reply in the first seconds of each span; the first of them comes in the first half of the sample."""
    last = int(duration_s * rate_fps)  # frames in all
    onsets = [(ceil(start * rate_fps), ceil(end * rate_fps)) for start, end in spans]
    onsets = [(a, min(b, last)) for a, b in onsets if a < min(b, last)]
    if not onsets:
        return None
    first = at = max(0, onsets[0][0] - int(generator.integers(1, max(2, max_frames // 2))))
    turns = [Turn("user", request)]
    for onset, end in onsets:
        num = min(max(1, round(NUM_SECONDS * rate_fps)), end - onset)
        if onset + num - first > max_frames:
            last = max(at, onset)  # the sample ends before what it has no frames for
            break
        if onset >= at:
            reply = Turn("assistant", text, num_positive=num)
            turns += [Turn("stream", num_frames=onset + num - at), reply]
            at = onset + num
    if at < last:
        turns.append(Turn("stream", num_frames=last - at))
    return Duet(tuple(turns), first).with_spans(spans, rate_fps)


def _quiet(
    spans: Sequence[tuple[float, float]], request: str, duration_s: float, rate_fps: float
) -> Duet | None:
    """The longest stretch without the event."""
    stretches, at = list[tuple[int, int]](), 0
    for start_s, end_s in [*spans, (duration_s, duration_s)]:
        stretches.append((at, int(start_s * rate_fps)))
        at = max(at, ceil(end_s * rate_fps))
    first, last = max(stretches, key=lambda stretch: stretch[1] - stretch[0])
    if last <= first:
        return None
    turns = (Turn("user", request), Turn("stream", num_frames=last - first))
    return Duet(turns, first).with_spans(spans, rate_fps)


def frames_of(state: MergeState, where: str) -> Tensor:
    """(T, n, C) tokens of the frames of a state whose segments keep all of them.

    Raises:
        ValueError: there is no frame, or tokens were merged.
    """
    tokens = [group.tokens for _, group in state.groups("video")] if "video" in state.streams else []
    if not tokens:
        raise ValueError(f"{where}: a duet needs frames, got a video without")
    place = torch.cat([t.place for t in tokens]).numpy()  # (N, 3)
    num = len(np.unique(place[:, 0]))
    if bool((torch.cat([t.size for t in tokens]) != 1).any()) or len(place) % num:
        raise ValueError(
            f"{where}: a duet needs all tokens of its frames, got merged ones; make the shards with "
            "--tokens-per-segment '{\"video\": 1000000}'"
        )
    order = torch.from_numpy(np.lexsort(place.T[::-1]))
    return torch.cat([t.x for t in tokens])[order].reshape(num, len(place) // num, -1)


def example_of(
    duet: Duet, frames: Tensor, options: DuetOptions, generator: np.random.Generator
) -> DuetExample:
    """A duet with the frames of its video (T, n, C), from its first on; it ends where they do."""
    frames = frames[duet.first_frame : duet.first_frame + duet.num_frames]
    if len(frames) < duet.num_frames:
        duet = duet.limited(len(frames))
    labels = dict[str, list[int]]()
    for name, values in duet.labels().items():
        learned = generator.random(len(values)) < options.silent
        labels[name] = [v if v or ok else IGNORED for v, ok in zip(values, learned, strict=True)]
    return DuetExample(duet, frames, labels)


def check_model(llm: Any) -> None:
    """ValueError unless it reads duets as MMDuet does."""
    is_duet = isinstance(llm, CausalLM) and llm.heads is not None and llm.time is None
    if not is_duet or llm.names != ("video",):
        raise ValueError(
            "questions.kinds of duets need a model like MMDuet: with heads, of frames alone, without a time "
            "embedding; tiny_duet trains a model of ours"
        )
    pieces_of(llm.tokenizer)


def collate_duets(examples: Sequence[DuetExample], llm: CausalLM) -> dict[str, Tensor]:
    """A batch of B duets for `LiveTask`.

    Returns:
        input_ids, attention_mask, labels, and HEAD_labels at the last token of each frame: (B, L) int64;
        video_x (N, C).

    Raises:
        ValueError: a duet is longer than the language model's context.
    """
    pieces, rows, learned = pieces_of(llm.tokenizer), list[list[int]](), list[list[int]]()
    heads: dict[str, list[list[int]]] = {name: [] for name in HEADS}
    for example in examples:
        ids, labels, ends = script(pieces, example.duet.turns, example.frames.shape[1])
        if llm.context is not None and len(ids) > llm.context:
            raise ValueError(
                f"a duet of {len(example.frames)} frames takes {len(ids)} positions of the {llm.context} "
                "that the language model has; lower questions.duet.max_frames"
            )
        rows.append(ids)
        learned.append(labels)
        for name in HEADS:
            row = [IGNORED] * len(ids)
            for end, label in zip(ends, example.labels.get(name, [IGNORED] * len(ends)), strict=True):
                row[end] = label
            heads[name].append(row)
    batch = {
        "input_ids": padded(rows, padding_id(llm.tokenizer)), "labels": padded(learned, IGNORED),
        "attention_mask": padded([[1] * len(ids) for ids in rows], 0),
        "video_x": torch.cat([example.frames.flatten(0, 1) for example in examples]),
    }  # fmt: skip
    return batch | {f"{name}_labels": padded(of, IGNORED) for name, of in heads.items()}
