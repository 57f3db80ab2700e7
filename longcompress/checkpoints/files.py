"""Released checkpoints as they lie on disk: named tensors, and what each stage of a training left.

Nothing in them is ever run: torch files are read with weights_only, others are safetensors.
"""

import re
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..encoders.beats import BROKEN, listed

ARCHIVES = (".gz", ".tgz", ".tar", ".zip")
PLAIN = ("mm_projector.bin", "mm_projector.safetensors", "non_lora_trainables.bin")
ADAPTERS, ADAPTER_CONFIG = ("adapter_model.safetensors", "adapter_model.bin"), "adapter_config.json"
STAGE = (*PLAIN, ADAPTER_CONFIG)  # one of these makes a folder a stage
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes of safetensors' float types
MODELS = ("model*.safetensors", "pytorch_model*.bin", "*.index.json")


class TensorFile:
    """A torch or safetensors file of named float tensors, read one by one; it stays on disk until then.

    `shapes` and `num_bytes` have the shape and the size of each by name. A file whose name doesn't end in
    .safetensors is torch's.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no file {self.path}")
        if self.path.suffix in ARCHIVES:
            raise ValueError(f"{self.path} is an archive; unpack it and give what is in it")
        self._values: dict[str, Tensor] = {}
        self._file: Any = None
        if self.path.suffix == ".safetensors":
            try:
                self._file = safe_open(self.path, "pt")
            except SafetensorError as error:
                raise ValueError(f"{self.path} {_cut(self.path)}: {error}") from error
            slices = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118
            widths = {name: WIDTHS.get(part.get_dtype(), 0) for name, part in slices.items()}
            self.shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            self.num_bytes = {name: widths[name] * prod(shape) for name, shape in self.shapes.items()}
            wrong = [name for name, width in widths.items() if not width]
        else:
            self._values = _torch_values(self.path)
            self.shapes = {name: tuple(value.shape) for name, value in self._values.items()}
            self.num_bytes = {name: value.nbytes for name, value in self._values.items()}
            wrong = [name for name, value in self._values.items() if not value.is_floating_point()]
        if wrong:
            raise ValueError(f"{self.path} must hold float tensors, others are {listed(sorted(wrong))}")

    def get(self, name: str) -> Tensor:
        """A tensor, on the CPU."""
        return self._values[name] if self._file is None else self._file.get_tensor(name)

    def all(self) -> dict[str, Tensor]:
        """Name -> tensor, of all."""
        return {name: self.get(name) for name in self.shapes}


class Stage(NamedTuple):
    """Weights that a training stage saved in a file or folder."""

    path: Path
    values: dict[str, Tensor]  # what it learned besides adapters: projectors, embeddings
    adapter: dict[str, Tensor]  # of LoRA; empty where it has none


def read_stage(path: str | Path) -> Stage:
    """What lies in a file of projectors (`mm_projector.bin`), or in the folder of a stage: such a file, an
    adapter as peft saves it, and `non_lora_trainables.bin` beside it."""
    path = Path(path)
    if not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"weights: no file or folder {path}")
        return Stage(path, TensorFile(path).all(), {})
    values: dict[str, Tensor] = {}
    plain = [path / name for name in PLAIN if (path / name).is_file()]
    for file in plain:
        values |= TensorFile(file).all()
    adapters = [path / name for name in ADAPTERS if (path / name).is_file()]
    has_config = (path / ADAPTER_CONFIG).is_file()
    if has_config != bool(adapters):
        lacks = " or ".join(ADAPTERS) if has_config else ADAPTER_CONFIG
        raise FileNotFoundError(f"weights: the adapter in {path} lacks {lacks}; get the folder whole")
    if not plain and not adapters:
        raise ValueError(f"weights: {path} holds no stage of a training: {_instead(path)}")
    adapter = TensorFile(adapters[0]).all() if adapters else {}
    if adapters and not adapter:
        why = "so DeepSpeed's ZeRO-3 leaves it where parameters were not gathered"
        raise ValueError(f"weights: {adapters[0]} is empty ({why}); get the folder anew")
    return Stage(path, values, adapter)


def read_stages(weights: str | Path | Sequence[str | Path]) -> list[Stage]:
    """`read_stage` of each entry, in order; a single entry needs no list."""
    entries = [weights] if isinstance(weights, str | Path) else list(weights)
    if not entries:
        raise ValueError("weights must name at least one file or folder")
    paths = [Path(entry).resolve() for entry in entries]
    twice = [str(entry) for entry, path in zip(entries, paths, strict=True) if paths.count(path) > 1]
    if twice:
        raise ValueError(f"weights: {twice[0]} is there twice; each stage is applied once")
    return [read_stage(entry) for entry in entries]


def _torch_values(path: Path) -> dict[str, Tensor]:
    """Named tensors of a file that torch.save wrote, mapped into memory."""
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except BROKEN as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = (
            f"must hold tensors only, but its pickle asks for {code[1]}; nothing of it was run"
            if code
            else ""
        )
        raise ValueError(f"{path} {what or _cut(path)}") from error
    wrong = [type(values).__name__]
    if isinstance(values, dict):
        wrong = [f"{k}: {type(v).__name__}" for k, v in values.items() if not isinstance(v, Tensor)]
    if wrong:
        got = listed(sorted(wrong))
        raise ValueError(f"{path} must hold named tensors, got {got}; it is another kind of checkpoint")
    return {str(name): value for name, value in values.items()}


def _cut(path: Path) -> str:
    size_mb = path.stat().st_size / 1e6
    return f"({size_mb:.1f} MB) is cut off, or no file of tensors; get it again"


def _instead(folder: Path) -> str:
    """What a folder without a stage is, and what to do."""
    stages = [
        str(path) for path in sorted(folder.iterdir()) if any((path / name).is_file() for name in STAGE)
    ]
    if stages:
        return f"give the stages in it one by one, in their order: {stages}"
    if any(any(folder.glob(pattern)) for pattern in MODELS):
        return "it is a whole model; give a language model as base={'language model': folder}"
    return f"it has none of {', '.join(STAGE)}"
