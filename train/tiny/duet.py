"""Training of tiny-duet: a language model and two heads that say when to speak, on synthetic videos."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ...compression.global_memory import Mean
from ...compression.state import MergeState
from ...config_live import HEADS, LiveConfig, TriggerConfig
from ...llm import CausalLM
from ...llm.prompt import IGNORED
from ...model import LongCompress
from ...synthetic.questions import NOTHING
from ...synthetic.requests import KINDS, WORDS, Request, joint_labels, pairs_of, request
from ...synthetic.scenes import OBJECTS, SOUNDS, SceneEvent, clip_events
from ...synthetic.tokenizer import add_words
from ...types import CompressedVideo, Tokens
from ..data.live_samples import LiveSample
from ..data.sampler import stage_at
from .clips import choose, shift
from .live_clips import LiveClip

LIVE = LiveConfig(
    TriggerConfig("single", 0.95, ("informative",), release=True, refractory_s=2.0), near_s=10.0, past=128,
    text_tokens=128, max_reply_tokens=40, heads_of="all", nothing=NOTHING, nothing_at=0.1, late_s=3.0,
)  # fmt: skip


@dataclass(frozen=True)
class DuetMix:
    """Distribution of the samples of a training stage.

    Attributes:
        steps: optimizer steps.
        videos: videos a step.
        requests: samples of each video, each with a request of its own.
        clips: clips before the one in which near begins, sampled from these.
        pasts: tokens of the past where there is any, sampled from these; LiveConfig's should be among them.
        no_past: share of the videos that begin with near.
        near: steps of near, at most; LiveConfig.near_s and half of a segment are as many.
        learned_from: first of them whose labels are learned where there is a past: a live session reads as
            many when near moves on.
        kinds: weight of each kind of request; empty: all alike.
        present: share of the requests whose moments near has, if there is any.
        replies: share of the samples with such a moment that end with a reply to it.
        false_replies: share of the others that end with a reply that isn't due.
        waiting: share of the samples in which the last request comes in the midst of near.
        standing: requests that stand, sampled from these; only the last may come in the midst of near.
        replies_due: share of the replies in time that are to a request to which one is due; the rest are to
            any that stands, mostly "nothing".
        silent: share of the steps labelled 0 that is learned.
        offset_tens: half of the videos begin below so many tens of seconds, the rest at 0.
    """

    steps: int = 3000
    videos: int = 4
    requests: int = 4
    clips: tuple[int, ...] = (0, 0, 1, 2, 5)
    pasts: tuple[int, ...] = (64, 128, 128, 256)
    no_past: float = 0.25
    near: int = 15
    learned_from: int = 4
    kinds: dict[str, float] = field(default_factory=dict)
    present: float = 0.75
    replies: float = 0.6
    false_replies: float = 0.1
    waiting: float = 0.15
    standing: tuple[int, ...] = (1, 1, 1, 1, 1, 2)
    replies_due: float = 0.7
    silent: float = 1.0
    offset_tens: int = 360

    def __post_init__(self) -> None:
        if unknown := set(self.kinds) - set(KINDS):
            raise ValueError(f"duet.kinds must be of {KINDS}, got {sorted(unknown)}")
        if min(self.standing, default=0) < 1:
            raise ValueError(
                f"duet.standing must be numbers of at least 1, at least one, got {self.standing}"
            )
        if not 0 <= self.learned_from < self.near:
            raise ValueError(f"duet.learned_from must be in [0, near = {self.near}), got {self.learned_from}")


@dataclass(frozen=True)
class DuetConfig:
    """What a duet learns, and how it counts.

    Attributes:
        mixes: stages, one after the other.
        positive: how often a step that calls for a reply counts, against a step that doesn't.
        heads: weight of the heads' loss beside the replies'.
        rates: learning rates of parts other than the recipe's, such as {"heads": 0.004}.
        projectors: streams whose projectors learn too.
    """

    mixes: list[DuetMix] = field(default_factory=list)
    positive: float = 2.0
    heads: float = 2.0
    rates: dict[str, float] = field(default_factory=dict)
    projectors: tuple[str, ...] = ()


def with_heads(model: LongCompress) -> LongCompress:
    """A model like tiny with heads, the words of requests and a live config; it has the old model's parts."""
    old: Any = model.llm
    if old.heads is not None:
        return model
    config = replace(model.config, name="tiny-duet", llm=replace(model.config.llm, heads=True), live=LIVE)
    tokenizer = add_words(old.tokenizer, WORDS)
    known = old.lm.get_input_embeddings().weight.shape[0]
    old.lm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():  # words far apart, as new_tiny has them
        torch.nn.init.normal_(old.lm.get_input_embeddings().weight[known:], std=0.5)
        torch.nn.init.normal_(old.lm.get_output_embeddings().weight[known:], std=0.05)
    widths = {name: encoder.width for name, encoder in model.encoders.items()}
    llm = CausalLM(old.lm, tokenizer, config.llm, widths)
    llm.load_state_dict(old.state_dict(), strict=False)
    llm.untrained.clear()
    assert llm.heads is not None
    for head in llm.heads.parameters():
        head.data.mul_(0.1)
    parts: dict[str, Any] = {name: getattr(model, name) for name in ("video", "audio", "speech")}
    return LongCompress(config, **parts, llm=llm, global_memory=model.global_memory, folder=model.folder)


class LiveVideos:
    """Batches of samples of spliced videos, stage after stage.

    Args:
        clips: to splice.
        empty: how tokens merge and a budget is allocated.
        mixes: what is sampled, stage by stage.
        seed: of it all.
    """

    def __init__(
        self, clips: Sequence[LiveClip], empty: MergeState, mixes: Sequence[DuetMix], seed: int
    ) -> None:
        self.clips, self.empty, self.mixes, self.seed = clips, empty, list(mixes), seed

    def batch(self, number: int) -> list[LiveSample]:
        """The samples of step `number`; a pure function of it and the seed."""
        mix, random = stage_at(self.mixes, number), np.random.default_rng([self.seed, number])
        out: list[LiveSample] = []
        for _ in range(mix.videos):
            video = self._video(mix, random)
            out += [_sample(video, mix, random) for _ in range(mix.requests)]
        return out

    def _video(self, mix: DuetMix, random: np.random.Generator) -> "Spliced":
        has_past = bool(random.random() >= mix.no_past)
        before = int(random.choice(mix.clips)) if has_past else 0
        clips = [self.clips[i] for i in random.integers(len(self.clips), size=before + 2)]
        tens = int(random.integers(mix.offset_tens)) if random.random() < 0.5 else 0
        # near begins at a segment's end, or the video at a segment's beginning
        closed = int(random.integers(has_past and not before, len(clips[before].chunks)))
        budget = int(random.choice(mix.pasts)) if has_past else 0
        return splice_live(clips, before, closed, self.empty, budget, mix.near, 10 * tens)


@dataclass(frozen=True)
class Spliced:
    """A video at a moment of a live session.

    Attributes:
        past: what is read merged.
        steps: of near.
        start: the second at which near begins.
        events: of all the video.
        offset_s: what is added to all times in tokens.
    """

    past: CompressedVideo | None
    steps: list[dict[str, Tokens]]
    start: int
    events: list[SceneEvent]
    offset_s: int


def splice_live(
    clips: Sequence[LiveClip], before: int, closed: int, empty: MergeState, budget: int, near: int,
    offset_s: int = 0,
) -> Spliced:  # fmt: skip
    """Clips one after the other.

    Args:
        clips: of the video.
        before: clips before the one in which near begins.
        closed: segments of that clip before near.
        empty: of what the past is merged.
        budget: tokens of the past; 0: the video begins with near.
        near: steps of near, at most.
        offset_s: added to all times in tokens.
    """
    starts = np.cumsum([0.0, *(clip.duration_s for clip in clips)]).tolist()
    here, state, steps, events = clips[before], empty.copy(), list[dict[str, Tokens]](), list[SceneEvent]()
    first = round(here.chunks[closed - 1].end_s) if closed else 0  # step of `here` with which near begins
    begin_s = 0.0 if budget else starts[before] + first  # where the video begins
    for number, (clip, start_s) in enumerate(zip(clips, starts, strict=False)):
        by_s = start_s - begin_s + offset_s
        num = len(clip.chunks) if number < before else closed if number == before else 0
        if budget and num:
            state.chunks += [shift(chunk, by_s) for chunk in clip.chunks[:num]]
            for name, mean in clip.memory[num - 1].items():
                old = state.memory.get(name)
                if old is not None:
                    mean = Mean(old.total + mean.total, old.count + mean.count)
                state.memory[name] = mean
        if number >= before:
            at = first if number == before else 0
            steps += clip.steps(at, min(clip.num_steps, at + near - len(steps)), by_s)
        events += [replace(e, start_s=e.start_s + start_s, end_s=e.end_s + start_s) for e in clip.events]
    past = state.compress(budget) if state.chunks else None
    start = round(starts[before]) + first - round(begin_s)
    return Spliced(past, steps, start, list(clip_events(events, begin_s, starts[-1])), offset_s)


def _sample(video: Spliced, mix: DuetMix, random: np.random.Generator) -> LiveSample:
    seconds = range(video.start, video.start + len(video.steps))
    num_standing = int(random.choice(mix.standing))
    asked = [_request(video.events, seconds, mix, random) for _ in range(num_standing)]
    first = mix.learned_from if video.start else 0  # step whose label is learned
    at = int(random.integers(1, len(seconds) // 2)) if random.random() < mix.waiting else 0
    first = first if asked[1:] else max(first, at)
    # the last request comes at step `at`
    standing = {k: asked if i >= at else asked[:-1] for i, k in enumerate(seconds)}
    due = {k: now for k in seconds[first:] if (now := [item for item in standing[k] if item.covered(k)])}
    num, reply, of = len(seconds), None, asked[-1]
    if due and random.random() < mix.replies:
        reply = [*due][int(random.integers(len(due)))]
        some = due[reply] if random.random() < mix.replies_due else standing[reply]
        of = some[int(random.integers(len(some)))]
    elif random.random() < mix.false_replies:
        reply = seconds[int(random.integers(first, len(seconds)))]
        of = standing[reply][int(random.integers(len(standing[reply])))]
    if reply is not None:
        num = reply - video.start + 1
    labels: dict[str, list[int]] = {name: [] for name in HEADS}
    for i, second in enumerate(seconds[:num]):
        for name, label in joint_labels(standing[second], second).items():
            is_learned = label is not None and i >= first and (label or random.random() < mix.silent)
            labels[name].append(int(label) if is_learned and label is not None else IGNORED)
    rows: tuple[Mapping[str, Tokens] | str, ...] = (
        *(item.text for item in asked[:-1]),
        *video.steps[: min(at, num)],
        *(item.text for item in asked[-1:] if at < num),
        *video.steps[at:num],
    )
    text = None if reply is None else of.reply(reply, video.offset_s)
    return LiveSample(video.past, rows, labels, of.text, text)


def _request(
    events: Sequence[SceneEvent], seconds: range, mix: DuetMix, random: np.random.Generator
) -> Request:
    """A request; with the share mix.present about what comes in these seconds, if anything does."""
    kinds = mix.kinds or dict.fromkeys(KINDS, 1.0)
    kind = str(choose(list(kinds), list(kinds.values()), random))
    form, now = int(random.integers(6)), bool(random.random() < mix.present)
    near = [e for e in events if e.start_s < seconds[-1] and e.end_s > seconds[0]]
    shown, played = ([e for e in near if e.kind == kind] for kind in ("video", "audio"))
    slots = {}
    for slot, some, known in (("seen", shown, OBJECTS), ("heard", played, SOUNDS)):
        pool = [e.name for e in some] if now and some else known
        slots[slot] = str(pool[int(random.integers(len(pool)))])
    if kind == "both" and now:  # a pair that comes together, if there is any
        pairs = pairs_of(near)
        if pairs and random.random() < 0.7:
            slots = dict(zip(("seen", "heard"), pairs[int(random.integers(len(pairs)))], strict=True))
    return request(kind, events, form=form, **slots)
