"""A film taken through every stage, each alone with a clock, and found to give what `watch` and `ask` give.

Stages run one after another with nothing beside them: decode (the file read to its end, pictures and sound
kept), picture tower, sound tower (all that hear), merge (segments cut, closed and settled), projector (the
prompt laid out and embedded), prefill, generate (a fixed number of new tokens). Towers run once for all
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

from ..compress import Compressor
from ..encoders import Stream
from ..hold import Hold
from ..hosts.causal import Prefix
from ..hosts.prompt import Example
from ..media import probe, read
from ..memory import VideoMemory
from ..model import LongCompress
from ..segments import Segmenter
from ..session import KINDS_OF_MEDIA, media_of, watch
from ..types import Frames, Sound

OURS, WHOLE = "longcompress", "uncompressed"
SHARED = ("decode", "picture tower", "sound tower")  # the same whatever the budget
STAGES = (*SHARED, "merge", "projector", "prefill", "generate")
QUESTION = "When does the red ball appear?"
NEW_TOKENS = 32
LENGTH: dict[str, Any] = {
    "max_new_tokens": NEW_TOKENS,
    "min_new_tokens": NEW_TOKENS,
}  # of every answer, so that they compare
STRETCH_S = 60.0  # of film goes through a tower before its clock is read
QUESTION_ROOM = 64  # positions
LONGER_S = 2.0  # that a film may be than its header says
NO_MERGING = {"*": 1 << 30}


@dataclass(frozen=True)
class Way:
    """How a film is kept: merged down to a budget, or whole."""

    provider: str
    budget: int


@dataclass
class Clock:
    """Seconds by (stage, way), the device idle at both ends of each; way None: of all ways at once."""

    device: torch.device
    spent: dict[tuple[str, Way | None], float] = field(default_factory=dict)

    @contextmanager
    def on(self, stage: str, way: Way | None = None) -> Iterator[None]:
        """Add the time of what is done in here."""
        synchronize(self.device)
        begin = time.perf_counter()
        yield
        synchronize(self.device)
        self.spent[stage, way] = self.spent.get((stage, way), 0.0) + time.perf_counter() - begin


@dataclass(frozen=True)
class Run:
    """What came of a film.

    Attributes:
        memories: of each way.
        prompts: positions that the film takes in each way's prompt.
        answers: to QUESTION.
        duration_s: of the film.
        pictures: that were looked at.
        spent: seconds by (stage, way); way None where all share it.
    """

    memories: Mapping[Way, VideoMemory]
    prompts: Mapping[Way, int]
    answers: Mapping[Way, str]
    duration_s: float
    pictures: int
    spent: Mapping[tuple[str, Way | None], float]

    def seconds(self, stage: str, way: Way) -> float:
        """Seconds of a stage for one way, its part of what all share included."""
        return self.spent.get((stage, None), 0.0) + self.spent.get((stage, way), 0.0)


def ways_of(model: LongCompress, film: Path, budgets: Sequence[int]) -> list[Way]:
    """The budgets, and all raw tokens where the host has room for them; where it hasn't, that is printed."""
    ways = [Way(OURS, budget) for budget in budgets]
    duration_s = (probe(film).duration_s or 0.0) + LONGER_S
    with compressing(model, Way(WHOLE, 0)):
        whole = model.estimate(duration_s, 1 << 40)
    needed, has = whole.prompt_tokens + QUESTION_ROOM + NEW_TOKENS, whole.context
    if has is not None and needed > has:
        print(
            f"{film.name}: no figures of the uncompressed host: its {whole.raw_tokens:,} raw tokens need a "
            f"context of {needed:,} positions, it has {has:,}", flush=True,
        )  # fmt: skip
        return ways
    return [*ways, Way(WHOLE, whole.raw_tokens + whole.global_tokens)]


def check(model: LongCompress, film: Path, ways: Sequence[Way]) -> Run:
    """A run through the stages that gives what `watch` and `ask` give; it is also the one to warm up.

    Raises:
        ValueError: it doesn't, or what should be whole was merged.
    """
    run = staged(model, film, ways)
    for way in ways:
        where = f"{film.name}, {way.provider}, budget {way.budget}"
        with compressing(model, way):
            watched = watch(model, film, way.budget, progress=False)
        check_same(run.memories[way], watched, where)
        answer = watched.ask(QUESTION, **LENGTH).text
        if answer != run.answers[way]:
            raise ValueError(
                f"{where}: the stages answer {run.answers[way]!r}, ask answers {answer!r}; nothing is timed"
            )
        merged = sum(int((tokens.size != 1).sum()) for tokens in watched.streams.values())
        if way.provider == WHOLE and merged:
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
def staged(model: LongCompress, film: Path, ways: Sequence[Way]) -> Run:
    """A film through all stages, for all ways."""
    clock = Clock(model.device)
    kinds = media_of(model)
    config = replace(model.config.media, pictures="picture" in kinds, sound="sound" in kinds)
    with clock.on("decode"), read(film, config) as reading:
        parts = list(reading)
    come = kinds if reading.streams is None else reading.streams
    names = [n for n, tower in model.towers.items() if KINDS_OF_MEDIA[tower.takes] in come]
    holds = _held(model, parts, names, ways, clock)
    duration_s = max(ends_s(part) for part in parts)
    memories, prompts, answers = {}, {}, {}
    for way in ways:
        with clock.on("merge", way):
            streams, globals_, _ = compressor_of(model, way).settle(holds[way], way.budget)
        memories[way] = VideoMemory(streams, globals_, duration_s, way.budget, model=model)
        prompts[way], answers[way] = _answered(memories[way], way, clock)
    pictures = sum(len(part) for part in parts if isinstance(part, Frames))
    return Run(memories, prompts, answers, duration_s, pictures, clock.spent)


def _held(
    model: LongCompress, parts: list[Frames | Sound], names: list[str], ways: Sequence[Way], clock: Clock
) -> dict[Way, Hold]:
    """What each way holds in the end; the towers run once."""
    streams = {name: Stream(model.towers[name]) for name in names}
    segmenter = Segmenter(model.config.segments, tuple(names))
    compressors = {way: compressor_of(model, way) for way in ways}
    holds = {way: Hold() for way in ways}
    for stretch in [*stretches(parts), None]:
        closed = []
        for name in names:
            kind = model.towers[name].takes
            with clock.on(f"{KINDS_OF_MEDIA[kind]} tower"):
                if stretch is None:
                    encoded = streams[name].flush()
                else:
                    encoded = [e for p in stretch if isinstance(p, kind) for e in streams[name].push(p)]
            with clock.on("merge"):
                closed += [segment for e in encoded for segment in segmenter.push(name, e)]
        with clock.on("merge"):
            closed += segmenter.flush() if stretch is None else []
        for way in ways:
            with clock.on("merge", way):
                for segment in closed:
                    compressors[way].close(holds[way], segment, way.budget)
    return holds


def _answered(memory: VideoMemory, way: Way, clock: Clock) -> tuple[int, str]:
    """(positions of the film in the prompt, the answer): `CausalHost.prefill` in steps, then `answer`."""
    assert memory.model is not None
    host, device = memory.model.host, memory.model.device
    with clock.on("projector", way):
        batch = host.collate([Example(memory.film, [("?", None)])])
        batch = {name: value.to(device) for name, value in batch.items()}
        num = int((batch["branch"] == 0).sum())
        x = host.embed(batch)[:, :num]
    with clock.on("prefill", way):
        cache = host.lm(inputs_embeds=x, use_cache=True, logits_to_keep=1).past_key_values
    with clock.on("generate", way):
        answer = host.answer(Prefix(cache, num), [QUESTION], **LENGTH)[0]
    return num, answer


def stretches(parts: list[Frames | Sound]) -> Iterator[list[Frames | Sound]]:
    """The parts of a film, about a minute of it at a time."""
    first, until_s = 0, STRETCH_S
    for at, part in enumerate(parts):
        if ends_s(part) > until_s:
            yield parts[first : at + 1]
            first, until_s = at + 1, ends_s(part) + STRETCH_S
    yield parts[first:]


def ends_s(part: Frames | Sound) -> float:
    """Where a part of a film ends."""
    return part.end_s if isinstance(part, Sound) else float(part.time_s[-1]) + part.step_s


def compressor_of(model: LongCompress, way: Way) -> Compressor:
    """The model's own, or one that merges nothing."""
    if way.provider == OURS:
        return model.compressor
    merge = replace(model.config.merge, detail=NO_MERGING)
    return Compressor(merge, model.config.budget, model.compressor.memory)


@contextmanager
def compressing(model: LongCompress, way: Way) -> Iterator[None]:
    """The model with the compressor of this way."""
    compressor, config = model.compressor, model.config
    model.compressor = compressor_of(model, way)
    model.config = replace(config, merge=model.compressor.local.config)
    try:
        yield
    finally:
        model.compressor, model.config = compressor, config


def synchronize(device: torch.device) -> None:
    """Wait for all that was asked of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
