"""A small language model that knows videos only as text: `longcompress train reader --out FOLDER`.

Its language model has learned what questions ask from videos told in words; its projectors are fresh. What
stages of training must teach it is to see and to hear, which shows whether they can.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..presets import load, new_tiny
from .engine import Engine
from .text_films import NAMES, Spelled, TextMix, TextVideos
from .tiny.recipe import as_matcher
from .trainer import Run, run

FINDING = {"when_seen": 4.0, "when_heard": 2.0, "binding": 1.0}
ALL = {
    "when_seen": 4.0, "when_heard": 2.0, "binding": 3.0, "while": 0.5, "first_after": 0.5, "count": 0.5,
    "between": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class ReaderRecipe:
    """All of it.

    Attributes:
        seed: of weights and videos.
        encoders: preset, folder or hub name whose encoders the model gets.
        mixes: stages of its training.
        lr: highest learning rate.
        warmup: steps to it.
        decay: share of the steps, at the end, over which it falls.
        engine: where and how.
    """

    seed: int = 0
    encoders: str = "tiny"
    mixes: list[TextMix] = field(
        default_factory=lambda: [
            TextMix(300, 24, (20,), 8, FINDING),
            TextMix(300, 14, (60,), 10, FINDING),
            TextMix(1500, 12, (60, 120), 12, ALL),
        ]
    )
    lr: float = 2e-3
    warmup: int = 60
    decay: float = 0.3
    engine: Engine = field(default_factory=lambda: Engine(device="cpu", bf16=True, report=[]))


def train_reader(recipe: ReaderRecipe, out: str | Path) -> Path:
    """Train a reader on videos in words and save it, with fresh projectors, in out/model."""
    out = Path(out)
    torch.set_num_threads(recipe.engine.threads)
    model = new_tiny(recipe.seed)
    seeing = load(recipe.encoders, device="cpu")
    model.video, model.audio = seeing.video, seeing.audio
    fresh = dict(model.llm.project.items())
    table = model.llm.lm.get_input_embeddings()
    for stream, names in NAMES.items():
        model.llm.project[stream] = Spelled(table, model.llm.tokenizer, names)
    as_matcher(model)
    model.requires_grad_(False)
    model.llm.requires_grad_(True)

    def collate(items: list[Any]) -> dict[str, Tensor]:
        return model.llm.collate(items[0])

    steps = sum(mix.steps for mix in recipe.mixes)
    plan = Run(
        steps, 1, recipe.lr, recipe.warmup, recipe.decay, recipe.seed, save_every=250, muon=True,
        engine=recipe.engine,
    )  # fmt: skip
    run(model.llm, TextVideos(recipe.mixes, recipe.seed), collate, plan, out / "lm")
    for stream, part in fresh.items():  # these have learned nothing
        model.llm.project[stream] = part
    model.eval().save_pretrained(out / "model", include_base=True)
    return out / "model"
