"""The model card of a trained model: parts, data sets, losses, recipe."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from ..model import LongCompress
from .shards.index import Index

PACKAGES = ("longcompress", "torch", "transformers", "peft")


def write_card(
    folder: Path, model: LongCompress, trained: Mapping[str, Sequence[nn.Parameter]],
    indexes: Sequence[Index], recipe: Mapping[str, Any], history: Sequence[Mapping[str, Any]],
) -> None:  # fmt: skip
    """Write folder/README.md of a saved model, the parameters `trained` by part, its recipe and its log."""
    config = model.config
    each = ", ".join(f"{part} ({sum(p.numel() for p in of):,})" for part, of in trained.items())
    front = {
        "library_name": "longcompress",
        "base_model": config.llm.base,
        "tags": ["video", "audio", "lora"],
    }
    lines = [
        "---", yaml.safe_dump(front, sort_keys=True).strip(), "---", "", f"# {config.name}", "",
        "Reads hours of video with audio as a fixed number of tokens.", "",
        "```python", "import longcompress as lc", "",
        'model = lc.load("this folder")', 'memory = lc.compress(model, "video.mp4", budget=1024)',
        'print(memory.ask("When does the door open?"))', "```", "",
        "## What it is", "",
        f"- language model: `{config.llm.base}`; frames: `{config.video.base or 'none'}`; "
        f"audio: `{config.audio.base or 'none'}`",
        f"- began as: `{recipe['model']}`",
        f"- learned: {each} parameters",
        "", "## What it learned from", "",
        "| data set | samples | hours |", "|---|---|---|",
    ]  # fmt: skip
    for index in indexes:
        hours = sum(entry.duration_s for entry in index.entries) / 3600
        name = str(index.folder).rstrip("/").rpartition("/")[2]
        lines.append(f"| {name} | {len(index):,} | {hours:.2f} |")
    if not indexes:
        lines.append("| samples of a pipeline of the caller's own | | |")
    lines += ["", "## How it went", ""]
    for name, field in (("loss", "loss"), ("validation loss", "eval_loss")):
        losses = [(line[field], line["step"]) for line in history if field in line]
        if losses:
            (before, first), (after, last) = losses[0], losses[-1]
            lines.append(f"- {name}: {before:.4f} at step {first}, {after:.4f} at {last}")
    lines += [
        "- nothing else was measured by the training; the licences of the base models and of the data hold",
        "", "## Recipe", "", "```yaml", yaml.safe_dump(dict(recipe), sort_keys=False).strip(), "```", "",
        ", ".join(f"{name} {_version(name)}" for name in PACKAGES), "",
    ]  # fmt: skip
    (folder / "README.md").write_text("\n".join(lines), encoding="utf8")


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return "from a checkout"
