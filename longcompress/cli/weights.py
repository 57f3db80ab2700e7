"""`longcompress weights`: what other projects published, as folders that everything else here reads."""

from typing import Any, Literal

from ..checkpoints.apply import apply as put
from ..checkpoints.delta import apply_delta
from ..checkpoints.files import headers, tensor_files
from ..checkpoints.llava import split_llava
from ..presets import load
from .common import bars, folder_of, reading, writing


def delta(*, out: str, base: str, delta: str, shard_mb: int = 1024) -> None:
    """Add a published difference to the language model it was taken from (LLaMA + LLaVA's, for LongVLM).

    Args:
        out: a new folder.
        base: folder of the language model, in transformers' form.
        delta: folder of the difference.
        shard_mb: a file of the result is closed before it passes this; about as much memory is needed.
    """
    folder_of(out)
    result = apply_delta(base, delta, out, shard_bytes=shard_mb << 20, progress=bars())
    num_words = max(result.grown.values(), default=0)
    grown = f", {num_words} words more than the base" if num_words else ""
    print(f"{result.folder}: {result.tensors} tensors{grown}")
    if result.projector is not None:
        print(f"{result.projector}: the projector that came with the delta")


def split(folder: str, *, out: str, shard_mb: int = 1024) -> None:
    """Take LLaVA-OneVision apart, which MMDuet is based on: its vision encoder with the projector, and its
    language model.

    Args:
        folder: in lmms-lab's layout or llava-hf's.
        out: a new folder, for --base.llava.
        shard_mb: a file of the result is closed before it passes this; about as much memory is needed.
    """
    folder_of(out)
    result = split_llava(folder, out, shard_bytes=shard_mb << 20, progress=bars())
    print(f"{result.video} and {result.llm}: {result.tensors} tensors")


def show(path: str) -> None:
    """Print name, dtype and shape of each tensor in a file, or in the files of a folder.

    Args:
        path: a .safetensors or torch file, or a folder of them.
    """
    for file in tensor_files(path):
        for name, (dtype, shape) in headers(file).items():
            print(f"{name}  {dtype}  {list(shape)}")


def apply(
    model: str, *, out: str, weights: list[str], base: dict[str, str] | None = None,
    variant: dict[str, Any] | None = None, init: list[str] | None = None, device: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
) -> None:  # fmt: skip
    """Put published weights into a published model and save it, to compress with and to train on.

    Args:
        model: longvlm, vtimellm, longvale or mmduet.
        out: folder of the saved model.
        weights: files and folders of its stages in their order: mm_projector.bin stage2 stage3.
        base: its parts, where they don't come from the hub: --base.llm vicuna-7b-v1.5 --base.video FOLDER.
        variant: of the model, as --variant.mode ours.
        init: parts without weights, which stay newly initialised: audio speech heads.
        device: to do it on; a GPU if there is one.
        dtype: of the saved weights; float32 on a CPU, bfloat16 on a GPU if not given.
    """
    folder = folder_of(out)
    loaded = load(model, base=base, variant=variant, device=device, dtype=dtype)
    with reading():
        put(loaded, weights, init=init or ())
    with writing(folder):
        loaded.save_pretrained(folder)
    print(f"{folder}: {model} with {len(weights)} stages")
