"""Cases of `bench throughput`: the stages from a video to an answer, each alone, and all in a fresh process.

The stages are decode, one encoder a stream, merge, layout (the prompt), prefill (the projectors and the
language model) and answer (32 new tokens). They must give the memory and answer that `compress` and `ask`
give, or nothing is timed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...encode import segments_of
from ...llm import Example
from ...media.reader import probe, read
from ...memory import VideoMemory
from ...model import LongCompress
from ...presets import load
from ...types import Audio, Frames, Segment
from ...videos import compress
from .rows import OURS, UNCOMPRESSED, Row
from .timer import in_own_process, peaks_gb, stopwatch, timed

QUESTIONS = ("When does the red ball appear?", "When is the bell heard?")
NEW_TOKENS = 32
LENGTH: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}  # of each answer
QUESTION_TOKENS = 64  # room for a question
HEADER_ERROR_S = 2.0  # a video may be longer than its header says
NO_MERGING = {"*": 1 << 30}
Provider = tuple[str, int]  # OURS or UNCOMPRESSED, and the budget


def providers_of(model: LongCompress, video: Path, budgets: Sequence[int]) -> list[Provider]:
    """The budgets, and all raw tokens where the language model has room for them; else that is printed."""
    providers = [(OURS, budget) for budget in budgets]
    whole = uncompressed(model).estimate((probe(video).duration_s or 0.0) + HEADER_ERROR_S, 1 << 40)
    needed = whole.prompt_tokens + QUESTION_TOKENS + NEW_TOKENS
    if whole.context is not None and needed > whole.context:
        print(f"{video.name}: the uncompressed model is left out: its {whole.raw_tokens:,} raw tokens need a "
              f"context of {needed:,} positions, it has {whole.context:,}", flush=True)  # fmt: skip
        return providers
    return [*providers, (UNCOMPRESSED, whole.raw_tokens + whole.global_tokens)]


def uncompressed(model: LongCompress) -> LongCompress:
    """A model of the same encoders and language model that merges nothing."""
    config = replace(model.config, merge=replace(model.config.merge, tokens_per_segment=NO_MERGING))
    parts = (model.video, model.audio, model.llm, model.global_memory)
    return LongCompress(config, *parts, speech=model.speech).eval()


def decode(model: LongCompress, video: Path) -> tuple[list[Frames | Audio], list[str]]:
    """(the parts of a whole video, the kinds of media in it)."""
    config = replace(model.config.media, video="video" in model.media, audio="audio" in model.media)
    with read(video, config) as parts:
        return list(parts), [kind for kind in model.media if parts.streams is None or kind in parts.streams]


@torch.no_grad()
def merge(model: LongCompress, segments: Sequence[Segment], duration_s: float, budget: int) -> VideoMemory:
    """The memory of encoded segments."""
    state = model.merge_state(budget)
    for segment in segments:
        state.add(segment)
    return VideoMemory(replace(state.compress(), duration_s=duration_s), model)


def stage_rows(
    row: Row, model: LongCompress, video: Path, budgets: Sequence[int], repeat: int
) -> Iterator[Row]:
    """Seconds and rates of every stage, of `compress` in this process, and of a second question."""
    parts, kinds = decode(model, video)
    segments, duration_s = segments_of(model, parts, kinds)
    frames = sum(len(part) for part in parts if isinstance(part, Frames))
    settings = row.settings | {"video_s": round(duration_s, 2), "new_tokens": NEW_TOKENS}

    def figures(row: Row, work: dict[str, Callable[[], Any]], unit: str, count: float) -> Iterator[Row]:
        """The times of some stages, and the rates at which they handle `count` units."""
        for case, runs in timed(work, repeat, model.device, warm_up=0).items():
            yield row.figure((run.wall_s for run in runs), case=case)
            yield row.figure((count / run.wall_s for run in runs), "rate", unit, case=case)

    work: dict[str, Callable[[], Any]] = {"decode": partial(decode, model, video)}
    for kind in kinds:
        own = [part for part in parts if isinstance(part, Frames) == (kind == "video")]
        work[f"encode {kind}"] = partial(segments_of, model, own, [kind])
    yield from figures(replace(row, provider=OURS, settings=settings), work, "frames/s", frames)
    for name, budget in providers_of(model, video, budgets):
        chosen = model if name == OURS else uncompressed(model)
        merging = partial(merge, chosen, segments, duration_s, budget)
        memory = merging()
        check(chosen, video, (name, budget), memory)
        prefix = chosen.llm.prefill(memory.video)
        raw = sum(float(tokens.size.sum()) for tokens in memory.streams.values())
        about = {"budget": budget, "tokens": memory.num_tokens, "prompt": prefix.length}
        row = replace(row, provider=name, settings=settings | about)
        prefill = partial(chosen.llm.prefill, memory.video)
        answer = partial(chosen.llm.answer, prefix, QUESTIONS[1:], **LENGTH)
        whole = partial(compress, chosen, video, budget=budget, progress=False)
        yield from figures(row, {"merge": merging}, "tokens/s", raw)
        layout = partial(chosen.llm.sizes, Example(memory.video, [(QUESTIONS[0], None)]))
        yield from figures(row, {"layout": layout}, "tokens/s", memory.num_tokens)
        yield from figures(row, {"prefill": prefill}, "tokens/s", prefix.length)
        yield from figures(row, {"answer": answer}, "tokens/s", NEW_TOKENS)
        yield from figures(row, {"compress": whole}, "x real time", duration_s)


def check(model: LongCompress, video: Path, provider: Provider, memory: VideoMemory) -> None:
    """ValueError unless a memory of the stages, and its answer, are those of `compress` and `ask`."""
    where, budget = f"{video.name}, {provider[0]}, budget {provider[1]}", provider[1]
    expected = compress(model, video, budget=budget, progress=False)
    if different := differences(memory, expected):
        raise ValueError(f"{where}: the stages and compress give different {different}; nothing is timed")
    answer = model.llm.answer(model.llm.prefill(memory.video), QUESTIONS[:1], **LENGTH)[0]
    if answer != (asked := expected.ask(QUESTIONS[0], **LENGTH).text):
        raise ValueError(f"{where}: the stages answer {answer!r}, ask answers {asked!r}; nothing is timed")
    merged = sum(int((tokens.size != 1).sum()) for tokens in expected.streams.values())
    if provider[0] == UNCOMPRESSED and merged:
        raise ValueError(f"{where}: {merged} tokens were merged and none should be; nothing is timed")


def differences(memory: VideoMemory, other: VideoMemory) -> str:
    """Names of the tensors in which two memories differ, to the bit."""

    def tensors(memory: VideoMemory) -> dict[str, Tensor]:
        out = {f"{name}.globals": x for name, x in memory.globals.items()}
        for name, tokens in memory.streams.items():
            out |= {f"{name}.{key}": value for key, value in vars(tokens).items()}
        return out

    mine, theirs = tensors(memory), tensors(other)
    names = {n for n in mine.keys() & theirs.keys() if not torch.equal(mine[n], theirs[n])}
    return ", ".join(sorted(names | (mine.keys() ^ theirs.keys())))


def memory_rows(
    row: Row, how: dict[str, Any], video: Path, providers: Sequence[Provider], repeat: int
) -> Iterator[Row]:
    """Times and peaks of memory of fresh processes: start, load, compress, a first and a second answer."""
    for name, budget in providers:
        work = partial(in_own_process, compress_in_this_process, how, video, (name, budget))
        runs = [work(time.time()) for _ in range(repeat)]
        settings = row.settings | runs[0][1] | {"budget": budget, "new_tokens": NEW_TOKENS}
        own = replace(row, provider=name, settings=settings)
        for case, metric, unit in runs[0][0]:
            values = (figures[case, metric, unit] for figures, _ in runs)
            yield own.figure(values, metric, unit, case=case)


def compress_in_this_process(
    how: dict[str, Any], video: Path, provider: Provider, started_s: float
) -> tuple[dict[tuple[str, str, str], float], dict[str, Any]]:
    """((case, metric, unit) -> value of this process, which was started at `started_s`; settings)."""
    figures = {("start", "time", "s"): time.time() - started_s}
    lap = stopwatch(torch.device(how["device"]))

    def add(case: str) -> None:
        figures[case, "time", "s"] = lap()
        figures.update({(case, f"memory of the {of}", "GB"): gb for of, gb in peaks_gb(model.device).items()})

    model = load(**how)
    add("load")
    chosen = model if provider[0] == OURS else uncompressed(model)
    memory = compress(chosen, video, budget=provider[1], progress=False)
    add("compress")
    for case, question in zip(("first answer", "second answer"), QUESTIONS, strict=True):
        memory.ask(question, **LENGTH)
        add(case)
    figures["compress", "rate", "x real time"] = memory.duration_s / figures["compress", "time", "s"]
    return figures, {"tokens": memory.num_tokens, "video_s": memory.duration_s}
