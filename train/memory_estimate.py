"""What a step of training will take: its memory, told from shorter steps before the long one is run."""

import ctypes
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..llm import Example, Video, learned_places
from ..model import LongCompress
from ..types import Tokens
from .callbacks import memory_gib
from .stages import StageRecipe, prepare

SHORT = (4, 2)  # the shorter steps have these parts of the tokens
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Prediction:
    """Memory of one step.

    Attributes:
        tokens: video tokens of the step.
        predicted_gib: its peak, told from the shorter steps by a line through them.
        measured_gib: its peak, where it was run; else None.
        step_s: seconds that it took; else None.
        shorter: (tokens, peak in GiB, seconds) of the shorter steps.
    """

    tokens: int
    predicted_gib: float
    measured_gib: float | None
    step_s: float | None
    shorter: list[tuple[int, float, float]]


def predict(
    model: LongCompress, recipe: StageRecipe, tokens: int, *, seconds: float, measure: bool = False
) -> Prediction:
    """The memory of a step on one video of `tokens` tokens: forward, backward and optimizer.

    Peaks are what torch allocated on a GPU, resident memory on a CPU (of what is in use: without glibc's
    store of freed memory, which a training adds). They grow with the tokens along a line as long as attention
    keeps no matrix of scores ("sdpa", flash); with "eager" they grow faster.

    Args:
        model: that is to be trained; its weights don't change.
        recipe: what is trained, precision, checkpointing.
        tokens: of the video.
        seconds: that it lasts.
        measure: also run the step itself.

    Raises:
        ValueError: tokens are too few to be told from shorter steps.
    """
    if tokens < 64 * SHORT[0]:
        raise ValueError(f"tokens must be >= {64 * SHORT[0]} to be told from shorter steps, got {tokens}")
    prepare(model, recipe)
    torch.set_num_threads(recipe.engine.threads)
    if model.device.type == "cpu":
        _give_back()
    step = _Step(model, recipe)
    step(tokens // SHORT[0], seconds)  # what is allocated once
    shorter = []
    for part in SHORT:
        peak, passed_s = step(tokens // part, seconds)
        shorter.append((tokens // part, peak, passed_s))
    (less, low, _), (more, high, _) = shorter
    predicted = high + (high - low) / (more - less) * (tokens - more)
    measured, step_s = step(tokens, seconds) if measure else (None, None)
    return Prediction(tokens, predicted, measured, step_s, shorter)


def told(found: Prediction) -> dict[str, Any]:
    """As JSON, with how far the prediction was off where the step was run."""
    out = asdict(found)
    if found.measured_gib:
        out["off"] = found.predicted_gib / found.measured_gib - 1
    return out


def synthetic(model: LongCompress, tokens: int, seconds: float) -> Example:
    """A video of random tokens, of all streams in their raw shares, with one question."""
    generator = torch.Generator().manual_seed(0)
    media = model.config.media
    rates = {name: encoder.tokens_a_second(seconds, media) for name, encoder in model.encoders.items()}
    streams = {}
    for name in model.streams:
        num = max(1, round(tokens * rates[name] / sum(rates.values())))
        first = next(part for part in model.llm.project[name].modules() if isinstance(part, nn.Linear))
        edges = torch.linspace(0, seconds, num + 1, dtype=torch.float64)
        start_s, end_s = edges[:-1], edges[1:]
        x = torch.randn(num, first.in_features, generator=generator)
        streams[name] = Tokens(x, torch.ones(num), (start_s + end_s) / 2, start_s, end_s)
    return Example(Video(streams, {}, tokens), [("When does it end?", "From 0 to 1.")])


class _Step:
    """A step of training on one video; the weights are put back."""

    def __init__(self, model: LongCompress, recipe: StageRecipe) -> None:
        self.model, self.recipe = model, recipe
        self.learned = [p for p in model.llm.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learned, lr=recipe.lr)
        model.llm.train()

    def __call__(self, tokens: int, seconds: float) -> tuple[float, float]:
        """(peak in GiB, seconds) of a step with so many video tokens."""
        device = self.model.device
        batch = self.model.llm.collate([synthetic(self.model, tokens, seconds)])
        batch |= {"kept": learned_places(batch["labels"])}
        batch = {k: v.to(device) for k, v in batch.items()}
        before = [p.detach().clone() for p in self.learned]
        _forget_peak(device)
        begin = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=self.recipe.engine.bf16):
            loss = self.model.llm(**batch)["loss"]
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        peak, passed_s = _peak_gib(device), time.perf_counter() - begin
        with torch.no_grad():
            for parameter, value in zip(self.learned, before, strict=True):
                parameter.copy_(value)
        return peak, passed_s


def _give_back() -> None:
    """Freed tensors go back to the system at once from now on: glibc would keep those of middle sizes."""
    if hasattr(ctypes.CDLL(None), "mallopt"):
        ctypes.CDLL(None).mallopt(-3, 1 << 18)  # M_MMAP_THRESHOLD; setting it also stops it from growing


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif not CLEAR.exists():
        raise ValueError("the memory of a step on a CPU is told on Linux only; use a GPU, or Linux")
    else:
        CLEAR.write_text("5")  # the kernel's own way to begin its high-water mark anew


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return memory_gib(device)
    (line,) = [x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM")]
    return int(line.split()[1]) / 2**20
