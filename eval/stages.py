"""A video taken through every stage, each alone with a clock, and found to give what `compress` and `ask` give.

Stages run one after another with nothing beside them: decode (the file read to its end, frames and audio
kept), video encoder, audio encoder (all that hear), merge (segments cut, closed and compressed), projector (the
prompt laid out and embedded), prefill, generate (a fixed number of new tokens). Encoders run once for all
budgets.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..compression.merging import Compressor
from ..compression.segmenter import Segmenter
from ..compression.state import Hold
from ..encoders import Stream
from ..llm.causal import Prefix
from ..llm.prompt import Example
from ..media.reader import probe, read
from ..memory import VideoMemory
from ..model import LongCompress
from ..session import KINDS_OF_MEDIA, compress, media_of
from ..types import Audio, Frames

OURS, WHOLE = "longcompress", "uncompressed"
SHARED = ("decode", "video encoder", "audio encoder")  # the same whatever the budget
STAGES = (*SHARED, "merge", "projector", "prefill", "generate")
QUESTION = "When does the red ball appear?"
NEW_TOKENS = 32
LENGTH: dict[str, Any] = {
    "max_new_tokens": NEW_TOKENS,
    "min_new_tokens": NEW_TOKENS,
}  # of every answer, so that they compare
STRETCH_S = 60.0  # of video goes through an encoder before its clock is read
QUESTION_ROOM = 64  # positions
LONGER_S = 2.0  # that a video may be than its header says
NO_MERGING = {"*": 1 << 30}


@dataclass(frozen=True)
class Method:
    """How a video is kept: merged down to a budget, or whole."""

    provider: str
    budget: int


@dataclass
class Clock:
    """Seconds by (stage, way), the device idle at both ends of each; way None: of all ways at once."""

    device: torch.device
    spent: dict[tuple[str, Method | None], float] = field(default_factory=dict)

    @contextmanager
    def on(self, stage: str, method: Method | None = None) -> Iterator[None]:
        """Add the time of what is done in here."""
        synchronize(self.device)
        begin = time.perf_counter()
        yield
        synchronize(self.device)
        self.spent[stage, method] = self.spent.get((stage, method), 0.0) + time.perf_counter() - begin


@dataclass(frozen=True)
class Run:
    """What came of a video.

    Attributes:
        memories: of each way.
        prompts: positions that the video takes in each way's prompt.
        answers: to QUESTION.
        duration_s: of the video.
        frames: that were looked at.
        spent: seconds by (stage, way); way None where all share it.
    """

    memories: Mapping[Method, VideoMemory]
    prompts: Mapping[Method, int]
    answers: Mapping[Method, str]
    duration_s: float
    frames: int
    spent: Mapping[tuple[str, Method | None], float]

    def seconds(self, stage: str, method: Method) -> float:
        """Seconds of a stage for one way, its part of what all share included."""
        return self.spent.get((stage, None), 0.0) + self.spent.get((stage, method), 0.0)


def ways_of(model: LongCompress, video: Path, budgets: Sequence[int]) -> list[Method]:
    """The budgets, and all raw tokens where the language model has room for them; where it hasn't, that is printed."""
    methods = [Method(OURS, budget) for budget in budgets]
    duration_s = (probe(video).duration_s or 0.0) + LONGER_S
    with compressing(model, Method(WHOLE, 0)):
        whole = model.estimate(duration_s, 1 << 40)
    needed, has = whole.prompt_tokens + QUESTION_ROOM + NEW_TOKENS, whole.context
    if has is not None and needed > has:
        print(
            f"{video.name}: no figures of the uncompressed language model: its {whole.raw_tokens:,} raw tokens need a "
            f"context of {needed:,} positions, it has {has:,}", flush=True,
        )  # fmt: skip
        return methods
    return [*methods, Method(WHOLE, whole.raw_tokens + whole.global_tokens)]


def check(model: LongCompress, video: Path, methods: Sequence[Method]) -> Run:
    """A run through the stages that gives what `compress` and `ask` give; it is also the one to warm up.

    Raises:
        ValueError: it doesn't, or what should be whole was merged.
    """
    run = staged(model, video, methods)
    for method in methods:
        where = f"{video.name}, {method.provider}, budget {method.budget}"
        with compressing(model, method):
            compressed = compress(model, video, method.budget, progress=False)
        check_same(run.memories[method], compressed, where)
        answer = compressed.ask(QUESTION, **LENGTH).text
        if answer != run.answers[method]:
            raise ValueError(
                f"{where}: the stages answer {run.answers[method]!r}, ask answers {answer!r}; nothing is timed"
            )
        merged = sum(int((tokens.size != 1).sum()) for tokens in compressed.streams.values())
        if method.provider == WHOLE and merged:
            raise ValueError(f"{where}: {merged} tokens were merged and none should be; nothing is timed")
    return run


def check_same(got: VideoMemory, want: VideoMemory, where: str) -> None:
    """ValueError unless two memories are equal to the bit."""
    one, other = tensors_of(got), tensors_of(want)
    wrong = {n for n in one.keys() & other.keys() if not torch.equal(one[n], other[n])}
    wrong |= one.keys() ^ other.keys()
    if wrong:
        raise ValueError(
            f"{where}: the stages and watch give different {', '.join(sorted(wrong))}; nothing is timed"
        )


def tensors_of(memory: VideoMemory) -> dict[str, Tensor]:
    """Name -> tensor of all that a memory holds."""
    held = {f"{n}.{f.name}": getattr(t, f.name) for n, t in memory.streams.items() for f in fields(t)}
    return held | {f"{name}.globals": x for name, x in memory.globals.items()}


@torch.no_grad()
def staged(model: LongCompress, video: Path, methods: Sequence[Method]) -> Run:
    """A video through all stages, for all ways."""
    clock = Clock(model.device)
    kinds = media_of(model)
    config = replace(model.config.media, video="video" in kinds, audio="audio" in kinds)
    with clock.on("decode"), read(video, config) as reading:
        parts = list(reading)
    come = kinds if reading.streams is None else reading.streams
    names = [n for n, encoder in model.encoders.items() if KINDS_OF_MEDIA[encoder.takes] in come]
    holds = _held(model, parts, names, methods, clock)
    duration_s = max(ends_s(part) for part in parts)
    memories, prompts, answers = {}, {}, {}
    for method in methods:
        with clock.on("merge", method):
            streams, globals_, _ = compressor_of(model, method).compress_to(holds[method], method.budget)
        memories[method] = VideoMemory(streams, globals_, duration_s, method.budget, model=model)
        prompts[method], answers[method] = _answered(memories[method], method, clock)
    frames = sum(len(part) for part in parts if isinstance(part, Frames))
    return Run(memories, prompts, answers, duration_s, frames, clock.spent)


def _held(
    model: LongCompress,
    parts: list[Frames | Audio],
    names: list[str],
    methods: Sequence[Method],
    clock: Clock,
) -> dict[Method, Hold]:
    """What each way holds in the end; the encoders run once."""
    streams = {name: Stream(model.encoders[name]) for name in names}
    segmenter = Segmenter(model.config.segments, tuple(names))
    compressors = {method: compressor_of(model, method) for method in methods}
    holds = {method: Hold() for method in methods}
    for stretch in [*stretches(parts), None]:
        closed = []
        for name in names:
            kind = model.encoders[name].takes
            with clock.on(f"{KINDS_OF_MEDIA[kind]} encoder"):
                if stretch is None:
                    encoded = streams[name].flush()
                else:
                    encoded = [e for p in stretch if isinstance(p, kind) for e in streams[name].push(p)]
            with clock.on("merge"):
                closed += [segment for e in encoded for segment in segmenter.push(name, e)]
        with clock.on("merge"):
            closed += segmenter.flush() if stretch is None else []
        for method in methods:
            with clock.on("merge", method):
                for segment in closed:
                    compressors[method].close(holds[method], segment, method.budget)
    return holds


def _answered(memory: VideoMemory, method: Method, clock: Clock) -> tuple[int, str]:
    """(positions of the video in the prompt, the answer): `CausalLM.prefill` in steps, then `answer`."""
    assert memory.model is not None
    llm, device = memory.model.llm, memory.model.device
    with clock.on("projector", method):
        batch = llm.collate([Example(memory.video, [("?", None)])])
        batch = {name: value.to(device) for name, value in batch.items()}
        num = int((batch["branch"] == 0).sum())
        x = llm.embed(batch)[:, :num]
    with clock.on("prefill", method):
        cache = llm.lm(inputs_embeds=x, use_cache=True, logits_to_keep=1).past_key_values
    with clock.on("generate", method):
        answer = llm.answer(Prefix(cache, num), [QUESTION], **LENGTH)[0]
    return num, answer


def stretches(parts: list[Frames | Audio]) -> Iterator[list[Frames | Audio]]:
    """The parts of a video, about a minute of it at a time."""
    first, until_s = 0, STRETCH_S
    for at, part in enumerate(parts):
        if ends_s(part) > until_s:
            yield parts[first : at + 1]
            first, until_s = at + 1, ends_s(part) + STRETCH_S
    yield parts[first:]


def ends_s(part: Frames | Audio) -> float:
    """Where a part of a video ends."""
    return part.end_s if isinstance(part, Audio) else float(part.time_s[-1]) + part.step_s


def compressor_of(model: LongCompress, method: Method) -> Compressor:
    """The model's own, or one that merges nothing."""
    if method.provider == OURS:
        return model.compressor
    merge = replace(model.config.merge, tokens_per_segment=NO_MERGING)
    return Compressor(merge, model.config.budget, model.compressor.memory)


@contextmanager
def compressing(model: LongCompress, method: Method) -> Iterator[None]:
    """The model with the compressor of this way."""
    compressor, config = model.compressor, model.config
    model.compressor = compressor_of(model, method)
    model.config = replace(config, merge=model.compressor.local.config)
    try:
        yield
    finally:
        model.compressor, model.config = compressor, config


def synchronize(device: torch.device) -> None:
    """Wait for all that was asked of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
