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
from .rows import Row
from .timer import DTYPES, relative_rms, timed

NUM_FRAMES = 16  # at least; whole blocks


@torch.no_grad()
def time_encoder(
    row: Row, base: str, size_px: int, pairs: Sequence[int], repeat: int, device: str
) -> Iterator[Row]:
    """Rows of the stock encoder (0 pairs a layer) and of merging encoders, which take turns."""
    dtype, block = DTYPES[row.settings["dtype"]], int(row.x)
    config = VisionConfig(layer=-1, summary_layers=1, batch_size=block)
    if base:
        stock = VisionEncoder.load(config, base, size_px, dtype=dtype).to(device)
    else:
        torch.manual_seed(0)
        stock = VisionEncoder(
            random_dinov2(size_px).to(device, dtype), config, size_px, IMAGENET_MEAN, IMAGENET_STD
        )
    num = block * max(1, -(-NUM_FRAMES // block))
    generator = torch.Generator("cpu").manual_seed(0)
    shape = (num, size_px, size_px, 3)
    batches = torch.randint(256, shape, generator=generator, dtype=torch.uint8, device="cpu").split(block)
    check_encoder(stock.encoder, stock.normal(batches[0]), -1)
    expected = encode(stock, batches)
    near, work = {}, {}
    for r in dict.fromkeys([0, *pairs]):
        encoder = VisionEncoder(stock.encoder, replace(config, merge_per_layer=r), size_px, *stock.norm)
        near[r] = fidelity(encode(encoder, batches), expected)
        work[r] = partial(encode, encoder, batches)
    about = row.settings | {"frames": num, "size_px": size_px, "base": base or "random"}
    for r, took in timed(work, repeat, device).items():
        name = f"encoder, {r} pairs a layer" if r else "encoder, stock"
        own = replace(row, case=name, provider="torch", settings=near[r] | about)
        yield own.figure([1e3 * run.wall_s for run in took], "time", "ms")
        yield own.figure([num / run.wall_s for run in took], "rate", "frames/s")


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
