"""A language model that was published as its difference from another: base + delta, tensor by tensor.

So LLaVA was (LongVLM's language model is LLaMA with LLaVA's delta): its licence let the difference be given
away, not the model. Only one shard of the result is in memory at a time.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ..encoders.beats import listed
from ..files import parse_json, replacing, write_json
from .files import chunked, read_tensors

GROWS = ("model.embed_tokens.weight", "lm_head.weight")  # the delta may have more words than the base
PROJECTOR = "model.mm_projector."  # LLaVA's own, which the base never had
COMPUTED = "rotary_emb.inv_freq"  # older files list what is computed from the config
WHOLE = 0.5  # a difference whose RMS is more than so much of the base's is none
NUM_CHECKED = 4  # matrices that are compared for it
TOKENIZER = (
    "tokenizer.model", "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip


class Applied(NamedTuple):
    """Result of `apply_delta`."""

    folder: Path  # the language model, for base={"language model": folder}
    tensors: int  # number of its tensors
    grown: dict[str, int]  # tensor -> number of words that the base lacks
    projector: Path | None  # file of the delta's projector, for `weights`


def read_folder(folder: Path, what: str) -> dict[str, Tensor]:
    """The tensors of a model folder, mapped, of safetensors or torch files; errors call it `what`."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{what}: no folder {folder}")
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / f"{name}.index.json").is_file():
            files = sorted(set(read_json(folder / f"{name}.index.json")["weight_map"].values()))
            if missing := [file for file in files if not (folder / file).is_file()]:
                raise FileNotFoundError(f"{what}: {folder} lacks {listed(missing)}")
            return {k: v for file in files for k, v in read_tensors(folder / file).items()}
        if (folder / name).is_file():
            return read_tensors(folder / name)
    need = "no model.safetensors and no pytorch_model.bin, nor an index of them"
    if any(folder.glob("consolidated.*.pth")):
        need += "; convert Meta's files to transformers' form first"
    raise ValueError(f"{what}: {folder} has {need}")


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
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"out must be a new or empty folder, {out} has files in it")
    base, delta = Path(base), Path(delta)
    first, second = read_folder(base, "base"), read_folder(delta, "delta")
    config, tokenizer = config_of(base, second), tokenizer_of([delta, base])
    names = check_fit(first, second)
    check_small(first, second, names, delta)
    out.mkdir(parents=True, exist_ok=True)
    sizes = {name: second[name].nbytes for name in names}
    projector = None
    if values := {n: x.contiguous() for n, x in second.items() if n.startswith(PROJECTOR)}:
        projector = out / "mm_projector.safetensors"
        save_file(values, projector, metadata={"format": "pt"})
    for path in tokenizer:
        shutil.copyfile(path, out / path.name)
    write_model(
        out, config, sizes, lambda name: added(name, first[name], second[name]),
        shard_bytes=shard_bytes, progress=progress,
    )  # fmt: skip
    grown = {n: len(second[n]) - len(first[n]) for n in GROWS if n in names}
    return Applied(out, len(names), {n: more for n, more in grown.items() if more}, projector)


def write_model(
    out: Path, config: Mapping[str, Any], sizes: Mapping[str, int], value: Callable[[str], Tensor], *,
    shard_bytes: int, progress: bool,
) -> None:  # fmt: skip
    """Write a model as transformers loads it, a shard in memory at a time; config.json comes last.

    Args:
        out: an existing folder.
        config: for config.json.
        sizes: name -> bytes of each tensor.
        value: gives the tensor of a name.
        shard_bytes, progress: as for `apply_delta`.
    """
    names = list(sizes)
    chunks = [[names[i] for i in chunk] for chunk in chunked(list(sizes.values()), shard_bytes)]
    weights: dict[str, str] = {}
    for number, chunk in enumerate(tqdm(chunks, desc=out.name, unit="file", disable=not progress), 1):
        file = f"model-{number:05d}-of-{len(chunks):05d}.safetensors"
        with replacing(out / file) as part:
            save_file({name: value(name) for name in chunk}, part, metadata={"format": "pt"})
        weights |= dict.fromkeys(chunk, file)
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weights}
    write_json(out / "model.safetensors.index.json", index, indent=2)
    write_json(out / "config.json", config, indent=2)


def check_fit(base: Mapping[str, Tensor], delta: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors to add; ValueError unless each one of the two has its other."""
    ours = {n for n in base if not n.endswith(COMPUTED)}
    theirs = {n for n in delta if not n.endswith(COMPUTED) and not n.startswith(PROJECTOR)}
    extra, missing = sorted(theirs - ours), sorted(ours - theirs)
    if extra or missing:
        raise ValueError(
            f"the delta is of another model than the base: {len(extra)} of its tensors have no base: "
            f"{listed(extra)}; {len(missing)} of the base have no delta: {listed(missing)}"
        )
    wrong = []
    for name in sorted(ours):
        own, other = tuple(base[name].shape), tuple(delta[name].shape)
        if own != other and not (name in GROWS and own[1:] == other[1:] and own[0] < other[0]):
            wrong.append(f"{name} is {other}, the base's {own}")
    if wrong:
        raise ValueError(f"the delta is of a model of another size than the base: {listed(wrong)}")
    return sorted(ours)


def check_small(
    base: Mapping[str, Tensor], delta: Mapping[str, Tensor], names: Sequence[str], folder: Path
) -> None:
    """ValueError where what is given as delta, of `folder`, is a model itself."""
    matrices = [n for n in names if base[n].shape == delta[n].shape and base[n].dim() == 2][:NUM_CHECKED]
    rms = [[float(x[n].float().square().mean().sqrt()) for x in (base, delta)] for n in matrices]
    if rms and all(change > WHOLE * whole for whole, change in rms):
        whole, change = rms[0]
        raise ValueError(
            f"delta: {folder} is a whole model, not a difference: its {matrices[0]} has an RMS of "
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


def config_of(base: Path, delta: Mapping[str, Tensor]) -> dict[str, Any]:
    """config.json of the sum: the base's, with the delta's number of words."""
    config = read_json(base / "config.json")
    if config.get("model_type") == "llama":
        config["architectures"] = ["LlamaForCausalLM"]  # the first conversions spell it otherwise
    words = [len(delta[n]) for n in GROWS if n in delta]
    return config | ({"vocab_size": words[0]} if words else {})


def tokenizer_of(folders: Sequence[Path]) -> list[Path]:
    """The tokenizer's files of the first folder that has one."""
    for folder in folders:
        paths = [folder / name for name in TOKENIZER if (folder / name).is_file()]
        if any(path.name in TOKENIZER[:3] for path in paths):
            return paths
    raise FileNotFoundError(f"neither {' nor '.join(map(str, folders))} has {' or '.join(TOKENIZER[:2])}")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    values = parse_json(path.read_bytes(), str(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return values
