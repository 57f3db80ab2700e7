"""A language model that was published as its difference from another: base + delta, tensor by tensor.

So LLaVA was (LongVLM's language model is LLaMA with LLaVA's delta): its licence let the difference be given
away, not the model. Only one shard of the result is in memory at a time.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ..encoders.beats import listed
from ..files import replacing
from .files import TensorFile

GROWS = ("model.embed_tokens.weight", "lm_head.weight")  # the delta may have more words than the base
PROJECTOR = "model.mm_projector."  # LLaVA's own, which the base never had
COMPUTED = "rotary_emb.inv_freq"  # older files list what is computed from the config
WHOLE = 0.5  # a difference whose RMS is more than so much of the base's is none
NUM_CHECKED = 4  # matrices that are compared for it
TOKENIZER = (
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja",
)  # fmt: skip


class Applied(NamedTuple):
    """Result of `apply_delta`."""

    folder: Path  # the language model, for base={"language model": folder}
    tensors: int  # number of its tensors
    grown: dict[str, int]  # tensor -> number of words that the base lacks
    projector: Path | None  # file of the delta's projector, for `weights`


class TensorFolder:
    """The tensors of a model folder, safetensors or torch, in one file or several.

    Args:
        folder: with model.safetensors, pytorch_model.bin, or one of their index files.
        what: what errors call it.
    """

    def __init__(self, folder: str | Path, what: str) -> None:
        self.folder, self.what = Path(folder), what
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{what}: no folder {folder}")
        self._open: TensorFile | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.num_bytes: dict[str, int] = {}
        self._file: dict[str, Path] = {}
        for path in self._files():
            self._open = TensorFile(path)
            self.shapes |= self._open.shapes
            self.num_bytes |= self._open.num_bytes
            self._file |= dict.fromkeys(self._open.shapes, path)

    def get(self, name: str) -> Tensor:
        """A tensor; one file is open at a time."""
        path = self._file[name]
        if self._open is None or self._open.path != path:
            self._open = TensorFile(path)
        return self._open.get(name)

    def _files(self) -> list[Path]:
        for name in ("model.safetensors", "pytorch_model.bin"):
            if (self.folder / f"{name}.index.json").is_file():
                index = read_json(self.folder / f"{name}.index.json")
                paths = [self.folder / str(file) for file in sorted(set(index["weight_map"].values()))]
                missing = sorted(path.name for path in paths if not path.is_file())
                if missing:
                    raise FileNotFoundError(f"{self.what}: {self.folder} lacks {listed(missing)}")
                return paths
            if (self.folder / name).is_file():
                return [self.folder / name]
        raw = any(self.folder.glob("consolidated.*.pth"))
        raise ValueError(
            f"{self.what}: {self.folder} has no model.safetensors and no pytorch_model.bin, nor an index of "
            + ("them; convert Meta's files to transformers' form first" if raw else "them")
        )


def apply_delta(
    base: str | Path, delta: str | Path, out: str | Path, *, shard_bytes: int = 1 << 30, progress: bool = True
) -> Applied:
    """Write base + delta as a folder that transformers loads: safetensors, config.json, the tokenizer.

    Where the delta has more words than the base, the base is added to the first ones, as LLaVA does it.
    The delta's projector goes to mm_projector.safetensors. Sums are taken in float32 and kept in the delta's
    dtype. config.json comes last: without it the folder is not whole.

    Args:
        base: folder of the language model, such as LLaMA-7B in transformers' form.
        delta: folder of the difference.
        out: a new or empty folder.
        shard_bytes: of a file at most (one tensor alone may pass it); about so much memory is needed.
        progress: show a bar.

    Raises:
        ValueError: the two don't fit, with all names; the delta is a whole model; a sum is not finite.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"out must be a new or empty folder, {out} has files in it")
    first, second = TensorFolder(base, "base"), TensorFolder(delta, "delta")
    config, tokenizer = config_of(first, second), tokenizer_of([second.folder, first.folder])
    names = check_fit(first.shapes, second.shapes)
    check_small(first, second, names)
    out.mkdir(parents=True, exist_ok=True)
    chunks = chunked(names, second.num_bytes, shard_bytes)
    weights: dict[str, str] = {}
    total = 0
    with tqdm(total=len(names), desc="delta", unit="tensor", disable=not progress) as bar:
        for number, chunk in enumerate(chunks, 1):
            sums = {}
            for name in chunk:
                sums[name] = added(name, first.get(name), second.get(name))
                total += sums[name].nbytes
                bar.update()
            file = f"model-{number:05d}-of-{len(chunks):05d}.safetensors"
            with replacing(out / file) as part:
                save_file(sums, part, metadata={"format": "pt"})
            weights |= dict.fromkeys(chunk, file)
    projector = None
    if values := {n: second.get(n).contiguous() for n in second.shapes if n.startswith(PROJECTOR)}:
        projector = out / "mm_projector.safetensors"
        save_file(values, projector, metadata={"format": "pt"})
    index = {"metadata": {"total_size": total}, "weight_map": weights}
    write_json(out / "model.safetensors.index.json", index)
    for path in tokenizer:
        shutil.copyfile(path, out / path.name)
    write_json(out / "config.json", config)
    grown = {n: second.shapes[n][0] - first.shapes[n][0] for n in names if n in GROWS}
    return Applied(out, len(names), {n: more for n, more in grown.items() if more}, projector)


def check_fit(base: Mapping[str, tuple[int, ...]], delta: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Names of the tensors to add; ValueError unless each one of the two has its other."""
    ours = {n for n in base if not n.endswith(COMPUTED)}
    theirs = {n for n in delta if not n.endswith(COMPUTED) and not n.startswith(PROJECTOR)}
    extra, missing = sorted(theirs - ours), sorted(ours - theirs)
    if extra or missing:
        raise ValueError(
            f"the delta is of another model than the base: {len(extra)} of its tensors have no base: "
            f"{listed(extra)}; {len(missing)} of the base have no delta: {listed(missing)}"
        )
    unfit = [name for name in sorted(ours) if not fits(name, base[name], delta[name])]
    if unfit:
        wrong = [f"{name} is {delta[name]}, the base's {base[name]}" for name in unfit]
        raise ValueError(f"the delta is of a model of another size than the base: {listed(wrong)}")
    return sorted(ours)


def fits(name: str, base: tuple[int, ...], delta: tuple[int, ...]) -> bool:
    """Whether a tensor of the base can be added to the delta's, or to its first rows."""
    return base == delta or (name in GROWS and base[1:] == delta[1:] and base[0] < delta[0])


def check_small(base: TensorFolder, delta: TensorFolder, names: Sequence[str]) -> None:
    """ValueError where what is given as delta is a model itself."""
    matrices = [n for n in names if base.shapes[n] == delta.shapes[n] and len(base.shapes[n]) == 2]
    rms = [
        [float(of.get(name).float().square().mean().sqrt()) for of in (base, delta)]
        for name in matrices[:NUM_CHECKED]
    ]
    if rms and all(change > WHOLE * whole for whole, change in rms):
        whole, change = rms[0]
        raise ValueError(
            f"delta: {delta.folder} is a whole model, not a difference: its {matrices[0]} has an RMS of "
            f"{change:.3g} where the base's is {whole:.3g}; use it as it is"
        )


def added(name: str, base: Tensor, delta: Tensor) -> Tensor:
    """base + delta in the delta's dtype; the rows that the base has not are the delta's own."""
    total = delta.to(torch.float32, copy=True)
    total[: len(base)] += base
    total = total.to(delta.dtype)
    if not bool(torch.isfinite(total).all()):
        raise ValueError(f"base + delta of {name} is not finite in {delta.dtype}; one of the files is broken")
    return total


def config_of(base: TensorFolder, delta: TensorFolder) -> dict[str, Any]:
    """config.json of the sum: the base's, with the delta's number of words."""
    config = read_json(base.folder / "config.json")
    if config.get("model_type") == "llama":
        config["architectures"] = ["LlamaForCausalLM"]  # the first conversions spell it otherwise
    words = [delta.shapes[n][0] for n in GROWS if n in delta.shapes]
    return config | ({"vocab_size": words[0]} if words else {})


def chunked(names: Sequence[str], sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Neighbours whose sizes add up to at most `max_bytes`; a single tensor may exceed it."""
    chunks: list[list[str]] = []
    for name in names:
        if not chunks or sum(sizes[n] for n in chunks[-1]) + sizes[name] > max_bytes:
            chunks.append([])
        chunks[-1].append(name)
    return chunks


def tokenizer_of(folders: Sequence[Path]) -> list[Path]:
    """The tokenizer's files of the first folder that has one."""
    for folder in folders:
        paths = [folder / name for name in TOKENIZER if (folder / name).is_file()]
        if any(path.name in TOKENIZER[:2] for path in paths):
            return paths
    raise FileNotFoundError(f"neither {' nor '.join(map(str, folders))} has {' or '.join(TOKENIZER[:2])}")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        values = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return values


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf8")
