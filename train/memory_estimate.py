"""Memory of a training step, extrapolated from shorter steps before the long one is run."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..encoders import tokens_a_second
from ..heap import return_large_blocks
from ..llm import CompressedVideo, Example, learned_places
from ..model import LongCompress
from ..types import Tokens
from .stages import StageRecipe, prepare
from .trainer import memory_gib

SHORTER = (4, 2)  # the shorter steps have a fourth and a half of the tokens
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def estimate_memory(
    model: LongCompress, recipe: StageRecipe, tokens: int, *, seconds: float, measure: bool = False
) -> dict[str, Any]:
    """The memory of a step on one video of `tokens` tokens with the recipe's max_questions: forward, backward
    and optimizer.

    Peaks are what torch allocated on a GPU, resident memory on a CPU (memory in use: glibc's store of freed
    memory, which a training adds, is not counted). The peak is linear in the tokens, but for one question
    with llm.attention "eager", which keeps a matrix of scores.

    The model's weights don't change.

    Returns:
        tokens; estimated_gib, the peak on the line through those of the shorter steps; shorter, (tokens, peak
        in GiB, seconds) of these; with `measure`, which also runs the step, measured_gib and step_s of it,
        else None, and then error, which is relative.
    """
    minimum = 64 * SHORTER[0]
    if tokens < minimum:
        raise ValueError(f"tokens must be >= {minimum} to be estimated from shorter steps, got {tokens}")
    prepare(model, recipe)
    torch.set_num_threads(recipe.engine.threads)
    if model.device.type == "cpu":
        return_large_blocks()
    optimizer = torch.optim.AdamW([p for p in model.llm.parameters() if p.requires_grad], lr=recipe.lr)
    model.llm.train()
    example = partial(synthetic_example, model, seconds=seconds, num_questions=recipe.questions.max_questions)
    step = partial(_step, model, optimizer, recipe.engine.bf16)
    step(example(tokens // SHORTER[0]))  # what is allocated once
    shorter = [(tokens // part, *step(example(tokens // part))) for part in SHORTER]
    (tokens_a, peak_a, _), (tokens_b, peak_b, _) = shorter
    estimate = peak_b + (peak_b - peak_a) / (tokens_b - tokens_a) * (tokens - tokens_b)
    measured, step_s = step(example(tokens)) if measure else (None, None)
    out = {"tokens": tokens, "estimated_gib": estimate, "measured_gib": measured, "step_s": step_s}
    return out | {"shorter": shorter} | ({"error": estimate / measured - 1} if measured else {})


def synthetic_example(model: LongCompress, tokens: int, seconds: float, num_questions: int = 1) -> Example:
    """A video of random tokens, its streams in the proportion of their raw tokens, with questions."""
    generator = torch.Generator().manual_seed(0)
    media = model.config.media
    rates = {name: tokens_a_second(encoder, seconds, media) for name, encoder in model.encoders.items()}
    streams = {}
    for name in model.streams:
        num = max(1, round(tokens * rates[name] / sum(rates.values())))
        edges = torch.linspace(0, seconds, num + 1, dtype=torch.float64)
        start_s, end_s = edges[:-1], edges[1:]
        x = torch.randn(num, model.encoders[name].width, generator=generator)
        streams[name] = Tokens(x, torch.ones(num), (start_s + end_s) / 2, start_s, end_s)
    turns = [("When does it end?", "From 0 to 1.")] * num_questions
    return Example(CompressedVideo(streams, {}, tokens), turns)


def _step(
    model: LongCompress, optimizer: torch.optim.Optimizer, bf16: bool, example: Example
) -> tuple[float, float]:
    """(peak in GiB, seconds) of a step on an example; the weights are restored."""
    device, learned = model.device, optimizer.param_groups[0]["params"]
    batch = model.llm.collate([example])
    batch["logits_to_keep"] = learned_places(batch["labels"])
    batch = {k: v.to(device) for k, v in batch.items()}
    before = [p.detach().clone() for p in learned]
    _reset_peak(device)
    start_s = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        loss = model.llm(**batch)["loss"]
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    peak, passed_s = _peak_gib(device), time.perf_counter() - start_s
    with torch.no_grad():
        for parameter, value in zip(learned, before, strict=True):
            parameter.copy_(value)
    return peak, passed_s


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif not CLEAR.exists():
        raise ValueError("the memory of a step on a CPU can be estimated on Linux only; use a GPU, or Linux")
    else:
        CLEAR.write_text("5")  # the kernel resets its high-water mark


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return memory_gib(device)
    (line,) = [x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM")]
    return int(line.split()[1]) / 2**20
