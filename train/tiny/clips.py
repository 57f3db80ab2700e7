"""Videos to train the tiny model on, spliced from a cache of synthetic clips that are encoded once."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from ...compression.baselines import only, spend
from ...compression.global_memory import Mean
from ...compression.merging import Group
from ...compression.state import STATE_CLASSES, Chunk, MergeState
from ...encode import segments_of
from ...encoders import StockVision
from ...files import replacing
from ...llm import CompressedVideo, Example
from ...media import fit_pixels
from ...model import LongCompress
from ...serialize import pack, unpack
from ...synthetic.questions import KINDS, ask
from ...synthetic.scenes import OBJECTS, SOUNDS, SceneEvent, audio, clip_events, frames, make_scene
from ...types import Audio, Encoded, Frames, Segment
from ..data.sampler import stage_at
from ..shards.make import ENDLESS
from ..shards.sample import without
from .encoders import SCENE_PX, half

T = TypeVar("T")
NEAR_TENS = 60  # times that are learned first: all of three hours at once keep a model from learning any


@dataclass(frozen=True)
class Clip:
    """A short video."""

    chunks: list[Chunk]  # merged
    memory: dict[str, Mean]  # sums of its global tokens
    events: tuple[SceneEvent, ...]
    duration_s: float
    segments: tuple[Segment, ...] = ()  # raw, for the baselines


@dataclass(frozen=True)
class Mix:
    """Distribution of the videos of a training stage.

    Attributes:
        steps: optimizer steps of the stage.
        videos: videos a step at the shortest length; fewer of longer ones, by the root of their length.
        clips: clips of a video, sampled from these; below 1: that part of one clip's segments.
        questions: questions about each video.
        shares: tokens kept, as a share of the raw tokens, sampled from these.
        kinds: weight of each kind of question; empty: all alike.
        offset_tens: a quarter of the videos begin below this many tens of seconds, a quarter below
            NEAR_TENS of them, the rest at 0.
        methods: weight of each compression method, OURS or one of `baselines.METHODS`; empty: ours.
        unique_names: names that only one clip of each video has, so that questions have an answer.
        no_audio: share of the steps whose videos have no audio.
        no_globals: share of the videos without global tokens.
        weight: of this mix among those that a step is drawn from.
        others: mixes that a step may take instead of this one; their steps don't count.
    """

    steps: int
    videos: int
    clips: tuple[float, ...]
    questions: int
    shares: tuple[float, ...]
    kinds: dict[str, float]
    offset_tens: int = NEAR_TENS
    methods: dict[str, float] = field(default_factory=dict)
    unique_names: int = 0
    no_audio: float = 0.0
    no_globals: float = 0.0
    weight: float = 1.0
    others: list["Mix"] = field(default_factory=list)


CLIP_CLASSES = (*STATE_CLASSES, Clip, SceneEvent, Segment, Encoded)
OURS = "ours"
SILENT_KINDS = ("when_seen", "count")  # of questions that need no audio
UNMERGED = 5  # a step has this times fewer videos where nothing is merged


def save_clips(clips: Sequence[Any], path: Path, classes: Sequence[type] = CLIP_CLASSES) -> None:
    """Write clips, which are made of `classes`, as safetensors."""
    with replacing(path) as part:
        part.write_bytes(pack(clips, classes))


def load_clips(path: Path, classes: Sequence[type] = CLIP_CLASSES) -> list[Any]:
    """Read what `save_clips` wrote."""
    clips: list[Any] = unpack(path.read_bytes(), classes)
    return clips


def make_clips(
    model: LongCompress,
    seeds: Sequence[int],
    duration_s: float,
    detail: dict[str, int],
    *,
    progress: bool = True,
    **scenes: Any,
) -> list[Clip]:
    """Synthetic scenes of these seeds, encoded as `compress` would (but for the codec), held at `detail`
    tokens a segment (rounds nest, so smaller budgets compress the same). `scenes` are options of make_scene.

    Of a stock model raw features are kept in float16, and every second clip begins a frame later: a token of
    two frames begins at odd seconds too.
    """
    merge = replace(model.config.merge, tokens_per_segment=detail)
    rate_fps, clips = model.config.media.rate_fps, []
    is_stock = isinstance(model.video, StockVision)
    for seed in tqdm(seeds, desc="clips", unit="clip", disable=not progress):
        scene = make_scene(seed, duration_s, **scenes)
        time_s = np.arange(seed % 2 if is_stock else 0, duration_s, 1 / rate_fps)
        painted = frames(scene, time_s, size_px=SCENE_PX)
        pixels = fit_pixels(torch.from_numpy(painted), model.config.media) if is_stock else half(painted)
        parts: list[Frames | Audio] = [Frames(pixels, torch.from_numpy(time_s), 1 / rate_fps)]
        if "audio" in model.media:
            parts.append(Audio(torch.from_numpy(audio(scene, 0.0, duration_s)), 0.0))
        raw, _ = segments_of(model, parts)
        state = replace(model.merge_state(ENDLESS), merge=merge)
        for segment in raw:
            state.add(segment)
        memory = {name: value for name, value in state.memory.items() if isinstance(value, Mean)}
        events = tuple(event for event in scene.events if event.kind in model.media)
        raw = list(map(_halved, raw)) if is_stock else raw
        clips.append(Clip(state.chunks, memory, events, duration_s, tuple(raw)))
    return clips


def _halved(segment: Segment) -> Segment:
    """The segment with its features in float16."""
    streams = {
        name: replace(part, tokens=replace(part.tokens, x=part.tokens.x.half()))
        for name, part in segment.streams.items()
    }
    return replace(segment, streams=streams)


def splice(
    clips: Sequence[Clip], offset_s: float, empty: MergeState
) -> tuple[MergeState, list[SceneEvent], float]:
    """(state, events, duration) of clips one after the other; times in the state start at offset_s."""
    state, events, at = empty.copy(), [], 0.0
    for clip in clips:
        state.chunks += [shift(chunk, at + offset_s) for chunk in clip.chunks]
        for name, mean in clip.memory.items():
            before = state.memory.get(name)
            if isinstance(before, Mean):
                mean = Mean(before.total + mean.total, before.count + mean.count)
            state.memory[name] = mean
        events += [replace(h, start_s=h.start_s + at, end_s=h.end_s + at) for h in clip.events]
        at += clip.duration_s
    return state, events, at


def cut(clip: Clip, share: float, random: np.random.Generator) -> Clip:
    """`share` of a clip's segments, from a random one on; its global tokens stay those of the whole clip."""
    num = max(1, round(share * len(clip.chunks)))
    first = int(random.integers(len(clip.chunks) - num + 1))
    chunks = clip.chunks[first : first + num]
    start_s, end_s = chunks[0].start_s, chunks[-1].end_s
    inside = clip_events(clip.events, start_s, end_s)
    raw = raw_segments([replace(clip, segments=clip.segments[first : first + num])], -start_s)
    return Clip([shift(p, -start_s) for p in chunks], clip.memory, inside, end_s - start_s, tuple(raw))


def raw_segments(clips: Sequence[Clip], offset_s: float) -> list[Segment]:
    """Raw segments of clips one after the other, times from offset_s on."""
    out: list[Segment] = []
    for clip in clips:
        out += [shift(segment, offset_s) for segment in clip.segments]
        offset_s += clip.duration_s
    return [replace(segment, index=i) for i, segment in enumerate(out)]


def shift(value: T, by_s: float) -> T:
    """A chunk, a segment or anything that has tokens, at a time later by `by_s`."""
    if isinstance(value, Group | Encoded):
        return replace(value, tokens=value.tokens.later(by_s))
    assert isinstance(value, Chunk | Segment)
    name = "groups" if isinstance(value, Chunk) else "streams"
    parts: Any = {stream: shift(part, by_s) for stream, part in getattr(value, name).items()}
    return replace(value, start_s=value.start_s + by_s, end_s=value.end_s + by_s, **{name: parts})


class Videos:
    """Batches of spliced videos with questions, stage after stage (the last one goes on).

    The state `empty` says how tokens merge and budgets are allocated; shares count from the `raw_a_second`
    tokens that a second of video has.
    """

    def __init__(
        self, clips: list[Clip], empty: MergeState, mixes: Sequence[Mix], seed: int, raw_a_second: float
    ) -> None:
        self.clips, self.empty, self.mixes, self.seed = clips, empty, list(mixes), seed
        self.raw_a_second = raw_a_second
        self._names = [{h.name for h in clip.events} for clip in clips]

    def batch(self, number: int) -> list[Example]:
        """The videos of step `number`; a pure function of it and the seed."""
        mix = stage_at(self.mixes, number)
        random = np.random.default_rng([self.seed, number])
        if mix.others:
            mix = choose([mix, *mix.others], [m.weight for m in (mix, *mix.others)], random)
        num_clips, share = float(random.choice(mix.clips)), float(random.choice(mix.shares))
        method = choose(list(mix.methods), list(mix.methods.values()), random) if mix.methods else OURS
        no_audio = random.random() < mix.no_audio
        num = mix.videos * (min(mix.clips) / num_clips) ** 0.5 / (UNMERGED if method == "full" else 1)
        # a video may have no question of the kinds asked for
        asked = (self._video(mix, num_clips, share, method, no_audio, random) for _ in count())
        return list(islice((video for video in asked if video.turns), max(1, round(num))))

    def _video(
        self, mix: Mix, num_clips: float, share: float, method: str, no_audio: bool,
        random: np.random.Generator,
    ) -> Example:  # fmt: skip
        clips = self.sample_clips(max(1, int(num_clips)), mix.unique_names, random)
        if num_clips < 1:
            clips = [cut(clips[0], num_clips, random)]
        length_s = sum(c.duration_s for c in clips)
        tens = random.choice([1, 1, min(NEAR_TENS, mix.offset_tens), mix.offset_tens])
        offset_s = 10 * int(random.integers(max(1, tens - int(length_s // 10) - 1)))
        state, events, duration_s = splice(clips, float(offset_s), self.empty)
        kinds: Any = mix.kinds or KINDS
        no_globals = random.random() < mix.no_globals
        if no_audio:
            state = without(state, "audio")
            events = [event for event in events if event.kind == "video"]
            kinds = {kind: mix.kinds.get(kind, 1.0) for kind in SILENT_KINDS}
        budget = max(8, round(share * self.raw_a_second * duration_s))
        if method == OURS:
            video = state.compress(budget)
        else:
            video = _by_baseline(method, state, raw_segments(clips, float(offset_s)), budget, random)
        if no_globals:
            video = replace(video, globals={})
        asked: dict[str, Any] = {"num": mix.questions, "paraphrase": bool(random.random() < 0.5)}
        questions = ask(events, duration_s, generator=random, kinds=kinds, offset_s=offset_s, **asked)
        return Example(video, [(q.text, q.answer) for q in questions])

    def sample_clips(self, num: int, unique_names: int, random: np.random.Generator) -> list[Clip]:
        """`num` clips; each of `unique_names` names, a third of them sounds, is in only one of them."""
        if not unique_names:
            return [self.clips[i] for i in random.integers(len(self.clips), size=num)]
        sounds = list(random.permutation(SOUNDS)[: unique_names // 3])
        names = {*sounds, *random.permutation(OBJECTS)[: unique_names - len(sounds)]}
        hay = [clip for clip, has in zip(self.clips, self._names, strict=True) if not has & names]
        if not hay:
            need = "unique_names must leave clips that have none of these names"
            raise ValueError(f"{need}, got {unique_names}; lower it")
        clips = [hay[i] for i in random.integers(len(hay), size=num)]
        for place, name in zip(random.permutation(num), sorted(names), strict=False):
            fits = [clip for clip, has in zip(self.clips, self._names, strict=True) if has & names == {name}]
            clips[place] = fits[int(random.integers(len(fits)))] if fits else clips[place]
        return clips


def _by_baseline(
    method: Any, state: MergeState, segments: list[Segment], budget: int, random: np.random.Generator
) -> CompressedVideo:
    """The tokens that a baseline keeps of raw segments, beside the global tokens of `state`."""
    segments = only(segments, list(state.streams))
    globals_ = state.globals()
    num = sum(map(len, globals_.values()))
    options = {"global_tokens": num, "seed": int(random.integers(1 << 31))}
    streams = spend(method, segments, budget - num, state.allocation, **options)
    return CompressedVideo(streams, globals_, max(budget, sum(map(len, streams.values()))))


def choose(items: Sequence[Any], weights: Sequence[float], random: np.random.Generator) -> Any:
    """An item, sampled by weight."""
    p = np.array(weights, dtype=float)
    return items[int(random.choice(len(items), p=p / p.sum()))]
