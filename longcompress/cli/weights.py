"""`longcompress weights`: what other projects released, as folders that everything else here reads."""

from typing import Any, Literal

from jsonargparse import auto_cli

from .common import bars, folder_of, reading, writing


def delta(*, base: str, delta: str, out: str, shard_mb: int = 1024) -> None:
    """Add a published difference to the language model it was taken from (LLaMA + LLaVA's, for LongVLM).

    Args:
        base: folder of the language model, in transformers' form.
        delta: folder of the difference.
        out: a new folder.
        shard_mb: a file of the result is closed before it passes this; about so much memory is needed.
    """
    from ..checkpoints.delta import apply_delta

    folder_of(out)
    done = apply_delta(base, delta, out, shard_bytes=shard_mb << 20, progress=bars())
    more = max(done.grown.values(), default=0)
    grown = f", {more} words more than the base" if more else ""
    print(f"{done.folder}: {done.tensors} tensors{grown}")
    if done.projector is not None:
        print(f"{done.projector}: the projector that came with the delta")


def apply(
    model: str,
    *,
    out: str,
    weights: list[str],
    base: dict[str, str] | None = None,
    variant: dict[str, Any] | None = None,
    fresh: list[str] | None = None,
    device: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
) -> None:
    """Put released weights into a published model and save it, to watch with and to train on.

    Args:
        model: longvlm, vtimellm or longvale.
        out: folder of the saved model.
        weights: files and folders of its stages in their order, '["mm_projector.bin", "stage2", "stage3"]'.
        base: '{"host": "vicuna-7b-v1.5", "vision": ..., "sound": ..., "speech": ...}', as far as they don't
            come from the hub.
        variant: '{"mode": "ours"}' and such.
        fresh: parts without weights, still to be trained: '["sound", "speech"]'.
        device: to do it on; a GPU if there is one.
        dtype: of what is saved; float32 on a CPU, bfloat16 on a GPU if not given.
    """
    from ..checkpoints.apply import apply as put
    from ..presets import load

    folder = folder_of(out)
    loaded = load(model, base=base, variant=variant, device=device, dtype=dtype)
    with reading():
        put(loaded, weights, init=fresh or ())
    with writing(folder):
        loaded.save_pretrained(folder)
    print(f"{folder}: {model} with {len(weights)} stages")


def main() -> int:
    """One of them with the flags of the command line; the exit code."""
    return auto_cli([delta, apply]) or 0
