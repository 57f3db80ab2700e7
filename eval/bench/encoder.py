"""Cases of `bench kernels`: a vision encoder whose layers merge patches, beside the stock encoder."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ...config import VisionConfig
from ...encoders import VisionEncoder
from ...encoders.tome import check_encoder, random_dinov2
from ...encoders.vision import IMAGENET_MEAN, IMAGENET_STD
from .rows import Job, Row, make_row
from .timer import DTYPES, relative_rms, timed

NUM_FRAMES = 16  # at least; whole blocks


def encoder_jobs(
    base: str, size_px: int, pairs: Sequence[int], blocks: Sequence[int], repeat: int, device: str, dtype: str
) -> Iterator[Job]:
    """A job for each size of blocks."""
    for block in blocks:
        run = partial(time_encoder, base, size_px, pairs, block, repeat, device, dtype)
        yield Job("kernels", "encoder", "stock and merging", "block", block, run, {"dtype": dtype})


@torch.no_grad()
def time_encoder(
    base: str, size_px: int, pairs: Sequence[int], block: int, repeat: int, device: str, dtype: str
) -> Iterator[Row]:
    """Rows of the stock encoder (0 pairs a layer) and of merging encoders, which take turns.

    Raises:
        ValueError: the encoder run part by part with no pairs doesn't give the stock features.
    """
    config = VisionConfig(layer=-1, summary_layers=1, batch_size=block)
    if base:
        stock = VisionEncoder.load(config, base, size_px, dtype=DTYPES[dtype]).to(device)
    else:
        torch.manual_seed(0)
        base_model = random_dinov2(size_px).to(device, DTYPES[dtype])
        stock = VisionEncoder(base_model, config, size_px, IMAGENET_MEAN, IMAGENET_STD)
    num = block * max(1, -(-NUM_FRAMES // block))
    generator = torch.Generator("cpu").manual_seed(0)
    frames = torch.randint(
        256, (num, size_px, size_px, 3), generator=generator, dtype=torch.uint8, device="cpu"
    )
    batches = frames.split(block)
    check_encoder(stock.encoder, stock.normal(batches[0]), -1)
    encoders = {r: VisionEncoder(stock.encoder, replace(config, merge_per_layer=r), size_px, *stock.norm)
                for r in dict.fromkeys([0, *pairs])}  # fmt: skip
    expected = encode(stock, batches)
    near = {r: fidelity(encode(encoder, batches), expected) for r, encoder in encoders.items()}
    work = {
        r: partial(lambda encoder, _: encode(encoder, batches), encoder) for r, encoder in encoders.items()
    }
    for r, took in timed(work, repeat, device).items():
        about = near[r] | {"dtype": dtype, "frames": num, "size_px": size_px, "base": base or "random"}
        name = f"encoder, {r} pairs a layer" if r else "encoder, stock"
        job = Job("kernels", name, "torch", "block", block, settings=about)
        yield make_row(job, [1e3 * run.wall_s for run in took], "time", "ms")
        yield make_row(job, [num / run.wall_s for run in took], "rate", "frames/s")


def encode(encoder: VisionEncoder, batches: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """((T, P, C) patches, (T, 1, C) class tokens or means) of all frames."""
    parts = [encoder.features(batch) for batch in batches]
    return torch.cat([x for x, _ in parts]), torch.cat([s for _, s in parts if s is not None])


def fidelity(result: tuple[Tensor, Tensor], stock: tuple[Tensor, Tensor]) -> dict[str, float]:
    """How near features are to those of the stock encoder.

    Where features share a large part the cosine is high for any two patches: `centred_cosine` is taken less
    the stock patches' mean. `relative_rms` is the RMS of the difference over that of the stock patches.
    """
    (x, summary), (y, token) = ([t.double() for t in pair] for pair in (result, stock))
    mean = y.mean((0, 1))
    return {
        "patch_cosine": float(cosine_similarity(x, y, dim=-1).mean()),
        "centred_cosine": float(cosine_similarity(x - mean, y - mean, dim=-1).mean()),
        "class_cosine": float(cosine_similarity(summary, token, dim=-1).mean()),
        "relative_rms": relative_rms(x, y),
    }
