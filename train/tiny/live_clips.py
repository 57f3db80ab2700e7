"""Synthetic clips as a live session reads them, encoded once, to splice videos of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ...compression.global_memory import Mean
from ...compression.state import STATE_CLASSES, Chunk
from ...live_steps import StepEncoder
from ...model import LongCompress
from ...synthetic.scenes import SceneEvent, audio, frames, make_scene
from ...types import Audio, Frames, Tokens
from ..shards.make import ENDLESS
from .encoders import SCENE_PX, half


@dataclass(frozen=True)
class LiveClip:
    """A short video.

    Attributes:
        tokens: stream -> its tokens as they are read step by step.
        counts: stream -> how many of them each step has.
        chunks: its segments, merged.
        memory: of each segment, sums of the global tokens from the clip's beginning to the segment's end.
        events: what is seen and heard.
        duration_s: length.
    """

    tokens: dict[str, Tokens]
    counts: dict[str, list[int]]
    chunks: list[Chunk]
    memory: list[dict[str, Mean]]
    events: tuple[SceneEvent, ...]
    duration_s: float

    @property
    def num_steps(self) -> int:
        """Steps in it."""
        return max(map(len, self.counts.values()))

    def steps(self, first: int, last: int, by_s: float) -> list[dict[str, Tokens]]:
        """Stream -> tokens of the steps first, ..., last - 1, at a time later by `by_s`."""
        out: list[dict[str, Tokens]] = [{} for _ in range(first, last)]
        for name, counts in self.counts.items():
            ends = np.cumsum([0, *counts]).tolist()
            tokens = self.tokens[name].take(slice(ends[first], ends[last])).later(by_s)
            for i, step in enumerate(out, first):
                if counts[i]:
                    step[name] = tokens.take(slice(ends[i] - ends[first], ends[i + 1] - ends[first]))
        return out


LIVE_CLIP_CLASSES = (*STATE_CLASSES, LiveClip, SceneEvent)


def make_live_clips(
    model: LongCompress, seeds: Sequence[int], duration_s: float, detail: dict[str, int], *,
    progress: bool = True, **scenes: Any,
) -> list[LiveClip]:  # fmt: skip
    """Clips of synthetic scenes.

    Args:
        model: what encodes.
        seeds: of the scenes.
        duration_s: of each; segments must end where it ends.
        detail: tokens that a segment is merged to, by stream.
        progress: show a bar.
        scenes: options of `make_scene`.

    Raises:
        ValueError: a segment would go on behind a clip's end.
    """
    length_s = model.config.segments.length_s
    if model.config.segments.cut != "fixed" or duration_s % length_s:
        raise ValueError(
            f"duration_s must be a multiple of segments.length_s = {length_s:g}, and segments.cut fixed, got "
            f"{duration_s:g} and {model.config.segments.cut}"
        )
    return [
        _clip(model, make_scene(seed, duration_s, **scenes), detail)
        for seed in tqdm(seeds, desc="clips", unit="clip", disable=not progress)
    ]


def _clip(model: LongCompress, scene: Any, detail: dict[str, int]) -> LiveClip:
    rate_fps = model.config.media.rate_fps
    time_s = np.arange(0, scene.duration_s, 1 / rate_fps)
    pixels = half(frames(scene, time_s, size_px=SCENE_PX))
    reader = StepEncoder(model, None, math.inf)
    reader.push(Frames(pixels, torch.from_numpy(time_s), 1 / rate_fps))
    reader.push(Audio(torch.from_numpy(audio(scene, 0.0, scene.duration_s)), 0.0))
    state = model.merge_state(ENDLESS)
    state.merge = replace(state.merge, tokens_per_segment=detail)
    rows, memory = list[dict[str, Tokens]](), list[dict[str, Mean]]()
    for segments, tokens in [*((read.segments, read.tokens) for read in reader.due()), reader.flush()]:
        for segment in segments:
            state.add(segment)
            memory.append({k: v for k, v in state.memory.items() if isinstance(v, Mean)})
        rows += [tokens] if tokens else []
    streams = [name for name in model.streams if any(name in row for row in rows)]
    events = tuple(event for event in scene.events if event.kind in model.media)
    return LiveClip(
        {name: Tokens.join([row[name] for row in rows if name in row]) for name in streams},
        {name: [len(row.get(name, ())) for row in rows] for name in streams},
        state.chunks, memory, events, scene.duration_s,
    )  # fmt: skip
