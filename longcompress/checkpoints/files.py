"""Released checkpoints as they lie on disk: named tensors, and what each stage of a training left.

Nothing in them is ever run: torch files are read with weights_only, others are safetensors.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..encoders.beats import listed, read_plain

ARCHIVES = (".gz", ".tgz", ".tar", ".zip")
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
PLAIN = ("mm_projector.bin", "mm_projector.safetensors", "non_lora_trainables.bin")
ADAPTERS, ADAPTER_CONFIG = ("adapter_model.safetensors", "adapter_model.bin"), "adapter_config.json"
STAGE = (*PLAIN, ADAPTER_CONFIG)  # one of these makes a folder a stage
MODELS = ("model*.safetensors", "pytorch_model*.bin", "*.index.json")


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Name -> float tensor of a torch or .safetensors file, mapped: they stay on disk until they are used."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if path.suffix in ARCHIVES:
        raise ValueError(f"{path} is an archive; unpack it and give what is in it")
    try:
        values = load_file(path) if path.suffix == ".safetensors" else read_plain(path, mmap=True)
    except SafetensorError as error:
        raise cut_off(path, error) from error
    wrong = [type(values).__name__]
    if isinstance(values, dict):
        wrong = [f"{k}: {type(v).__name__}" for k, v in values.items() if not isinstance(v, Tensor)]
    if wrong:
        got = listed(sorted(wrong))
        raise ValueError(f"{path} must hold named tensors, got {got}; it is another kind of checkpoint")
    if wrong := sorted(str(name) for name, value in values.items() if not value.is_floating_point()):
        raise ValueError(f"{path} must hold float tensors, others are {listed(wrong)}")
    return {str(name): value for name, value in values.items()}


def tensor_files(path: str | Path) -> list[Path]:
    """The file of tensors that a path is, or those in that folder."""
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise FileNotFoundError(f"path: {path} has no file of tensors ({', '.join(SUFFIXES)})")
    return files


def headers(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (dtype, shape) of each tensor in a file, without its values."""
    if path.suffix != ".safetensors":
        values = read_tensors(path)
        return {k: (str(v.dtype).removeprefix("torch."), tuple(v.shape)) for k, v in sorted(values.items())}
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in sorted(file.keys())}
            return {name: (str(s.get_dtype()), tuple(s.get_shape())) for name, s in slices.items()}
    except SafetensorError as error:
        raise cut_off(path, error) from error


def cut_off(path: Path, error: Exception) -> ValueError:
    """The error for a broken safetensors file."""
    cut = f"({path.stat().st_size / 1e6:.1f} MB) is cut off, or no file of tensors; get it again"
    return ValueError(f"{path} {cut}: {error}")


def chunked(sizes: Sequence[int], max_bytes: int) -> list[list[int]]:
    """Neighbours, by number, whose sizes add up to at most `max_bytes`; a single one may exceed it."""
    chunks: list[list[int]] = []
    total = 0
    for number, size in enumerate(sizes):
        if not chunks or total + size > max_bytes:
            chunks.append([])
            total = 0
        chunks[-1].append(number)
        total += size
    return chunks


class Stage(NamedTuple):
    """Weights that a training stage saved in a file or folder."""

    path: Path
    values: dict[str, Tensor]  # what it learned besides adapters: projectors, embeddings, heads
    adapter: dict[str, Tensor]  # of LoRA; empty where it has none


def read_stage(path: str | Path) -> Stage:
    """What lies in a file of projectors, or in a folder: PLAIN ones, an adapter as peft saves it."""
    path = Path(path)
    if not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"weights: no file or folder {path}")
        return Stage(path, read_tensors(path), {})
    plain = [path / name for name in PLAIN if (path / name).is_file()]
    values = {name: value for file in plain for name, value in read_tensors(file).items()}
    adapters = [path / name for name in ADAPTERS if (path / name).is_file()]
    has_config = (path / ADAPTER_CONFIG).is_file()
    if has_config != bool(adapters):
        lacks = " or ".join(ADAPTERS) if has_config else ADAPTER_CONFIG
        raise FileNotFoundError(f"weights: the adapter in {path} lacks {lacks}; get the folder whole")
    if not plain and not adapters:
        raise ValueError(f"weights: {path} holds no stage of a training: {_instead(path)}")
    adapter = read_tensors(adapters[0]) if adapters else {}
    if adapters and not adapter:
        why = "so DeepSpeed's ZeRO-3 leaves it where parameters were not gathered"
        raise ValueError(f"weights: {adapters[0]} is empty ({why}); get the folder anew")
    # what peft saves whole (modules_to_save) lies among the matrices of the adapter
    whole = {name: value for name, value in adapter.items() if ".lora_" not in name}
    return Stage(path, values | whole, {n: v for n, v in adapter.items() if n not in whole})


def read_stages(weights: str | Path | Sequence[str | Path]) -> list[Stage]:
    """`read_stage` of each entry, in order; a single entry needs no list."""
    entries = [weights] if isinstance(weights, str | Path) else list(weights)
    if not entries:
        raise ValueError("weights must name at least one file or folder")
    paths = [Path(entry).resolve() for entry in entries]
    for entry, path in zip(entries, paths, strict=True):
        if paths.count(path) > 1:
            raise ValueError(f"weights: {entry} is there twice; each stage is applied once")
    return [read_stage(entry) for entry in entries]


def _instead(folder: Path) -> str:
    """What a folder without a stage is, and what to do."""
    paths = {path.parent for name in STAGE for path in folder.glob(f"*/{name}")}
    if paths:
        return f"give the stages in it one by one, in their order: {sorted(map(str, paths))}"
    if any(any(folder.glob(pattern)) for pattern in MODELS):
        return "it is a whole model; give a language model as base={'language model': folder}"
    return f"it has none of {', '.join(STAGE)}"
