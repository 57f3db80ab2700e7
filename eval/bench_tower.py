"""A vision encoder that merges patches in its layers against the stock encoder: `longcompress bench encoder`.

For each number of pairs a layer: frames a second, and how near the features stay to the stock encoder's. Both
run all layers (unless `layer` says otherwise), in the same blocks and taking turns. Nothing is timed unless
the encoder run part by part with no pairs gives the stock features.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..config import MediaConfig, VisionConfig
from ..encoders import VisionEncoder
from ..encoders.tome import check_encoder, random_dinov2
from ..encoders.vision import IMAGENET_MEAN, IMAGENET_STD
from ..types import Frames

BLOCK = 8  # frames a run of the encoder takes
SIZE_PX = 224
RANDOM = "a random encoder: its times hold for one of its size, its features say nothing of fidelity"


def measure(
    base: str = "", pairs: list[int] | None = None, video: str = "", frames: int = 16, repeat: int = 5,
    layer: int = -1, device: str = "cpu", dtype: str = "float32", threads: int = 2, json_lines: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    """Time it.

    Args:
        base: folder or hub name of a CLIP, SigLIP, DINOv2 or ViT encoder; none: a random DINOv2-small.
        pairs: values of merge_per_layer; none: 0 (the stock encoder), 2, 4 and 8.
        video: a video whose frames are taken, one a second; none: drawn ones, plainer than any video.
        frames: how many.
        repeat: runs of each after one to warm up; the median counts.
        layer: which hidden state; below -1 the stock encoder runs layers that merging leaves out.
        device: cpu or cuda.
        dtype: of the encoder.
        threads: of torch; more than are free make the many small steps of merging wait for each other.
        json_lines: print JSON lines instead of a table.
    """
    if min(frames, repeat) < 1:
        raise ValueError(f"frames and repeat must be >= 1, got {frames} and {repeat}")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    stock = stock_encoder(base, VisionConfig(layer=layer, summary_layers=1, batch_size=BLOCK), device, dtype)
    blocks = (video_frames(video, frames) if video else drawn_frames(frames)).split(BLOCK)
    note(f"{len(blocks)} blocks of at most {BLOCK} frames, {device}, {dtype}, {threads} threads", json_lines)
    if not base:
        note(RANDOM, json_lines)
    with torch.no_grad():
        check_encoder(stock.encoder, stock.normal(blocks[0]), layer)
        note("with no pairs the parts give the stock features", json_lines)
        encoders = {
            r: merging(stock, r) for r in dict.fromkeys([0, *([2, 4, 8] if pairs is None else pairs)])
        }
        want = features(stock, blocks)
        near = {r: fidelity(features(encoder, blocks), want) for r, encoder in encoders.items()}
        work = {r: partial(features, encoder, blocks) for r, encoder in encoders.items()}
        took = timed(work, repeat, json_lines)
    rows: list[dict[str, Any]] = []
    layers = range(stock.encoder.config.num_hidden_layers + 1)[layer]
    for r in encoders:
        low, middle, high = took[r]
        row: dict[str, Any] = {"merge_per_layer": r, "patches_left": patches_left(stock.patches, r, layers)}
        row |= {"frames_per_s": 1e3 * len(want[0]) / middle, "times_stock": took[0][1] / middle}
        row |= near[r] | {"fastest_ms": low, "median_ms": middle, "slowest_ms": high}
        row |= {"frames": len(want[0]), "layer": layer, "video": video, "base": base or "random"}
        row |= {"device": device, "dtype": dtype, "threads": threads, "torch": torch.__version__}
        rows.append(row)
    show(rows, json_lines)
    return rows


def stock_encoder(base: str, config: VisionConfig, device: str, dtype: str) -> VisionEncoder:
    """The encoder as it is."""
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"dtype must be one of torch's, such as float32 or bfloat16, got {dtype!r}")
    if base:
        return VisionEncoder.load(config, base, SIZE_PX, dtype=kind).to(device)
    encoder = random_dinov2(SIZE_PX).to(device, kind)
    return VisionEncoder(encoder, config, SIZE_PX, IMAGENET_MEAN, IMAGENET_STD)


def merging(stock: VisionEncoder, pairs: int) -> VisionEncoder:
    """The same weights, with so many pairs merged in each layer."""
    config = replace(stock.config, merge_per_layer=pairs)
    return VisionEncoder(stock.encoder, config, SIZE_PX, *stock.norm)


def drawn_frames(num: int) -> Tensor:
    """(num, SIZE_PX, SIZE_PX, 3) uint8 of a drawn scene, one a second."""
    from ..synthetic.scenes import frames, make_scene

    scene = make_scene(10_000_000, float(max(num, 20)))
    return torch.from_numpy(frames(scene, np.arange(0.0, num), size_px=SIZE_PX))


def video_frames(path: str, num: int) -> Tensor:
    """(at most num, SIZE_PX, SIZE_PX, 3) uint8: a video's first frames, one a second."""
    from ..media.reader import read

    found: list[Tensor] = []
    with read(Path(path), MediaConfig(size_px=SIZE_PX, audio=False)) as parts:
        for part in parts:
            if isinstance(part, Frames):
                found.append(part.pixels)
            if sum(map(len, found)) >= num:
                break
    return torch.cat(found)[:num]


def features(encoder: VisionEncoder, blocks: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """((T, P, C) patches, (T, 1, C) class token or mean), on the encoder's device."""
    parts = [encoder.features(block) for block in blocks]
    return torch.cat([x for x, _ in parts]), torch.cat([s for _, s in parts if s is not None])


def fidelity(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor]) -> dict[str, float]:
    """How near features are to the stock ones.

    Where features share a large part the cosine is high for any two patches: `centred_cosine` is taken less
    the stock patches' mean. `relative_rms` is that of the difference over the stock patches' own.
    """
    (x, summary), (y, token) = ([t.double() for t in pair] for pair in (got, want))
    mean = y.mean((0, 1))
    return {
        "patch_cosine": float(cosine_similarity(x, y, dim=-1).mean()),
        "centred_cosine": float(cosine_similarity(x - mean, y - mean, dim=-1).mean()),
        "class_cosine": float(cosine_similarity(summary, token, dim=-1).mean()),
        "relative_rms": float((x - y).square().mean().sqrt() / y.square().mean().sqrt()),
    }


def patches_left(num: int, pairs: int, layers: int) -> int:
    """Patches of a frame after so many layers."""
    for _ in range(layers):
        num -= min(pairs, num // 2)
    return num


def timed(
    work: Mapping[int, Callable[[], tuple[Tensor, Tensor]]], repeat: int, quiet: bool
) -> dict[int, tuple[float, float, float]]:
    """(fastest, middle, slowest) milliseconds of each, taking turns, after one round to warm up."""
    took: dict[int, list[float]] = {r: [] for r in work}
    for number in range(repeat + 1):
        for r, run in work.items():
            begin = time.perf_counter()
            run()[1].sum().item()  # waits for the device
            took[r].append(1e3 * (time.perf_counter() - begin))
        note(f"round {number} of {repeat}{'' if number else ' (to warm up)'}", quiet)
    runs = {r: sorted(times[1:]) for r, times in took.items()}
    return {r: (times[0], times[len(times) // 2], times[-1]) for r, times in runs.items()}


def show(rows: list[dict[str, Any]], json_lines: bool) -> None:
    """Prints them."""
    if not json_lines:
        print("pairs  patches left  frames/s  times stock  patch cosine  centred  class cosine  relative RMS")
    for row in rows:
        text = (
            f"{row['merge_per_layer']:5d}  {row['patches_left']:12d}  {row['pictures_per_s']:10.2f}  "
            f"{row['times_stock']:10.2f}x  {row['patch_cosine']:12.4f}  {row['centred_cosine']:7.4f}  "
            f"{row['class_cosine']:12.4f}  {row['relative_rms']:12.4f}"
        )
        print(json.dumps(row) if json_lines else text, flush=True)


def note(text: str, quiet: bool) -> None:
    """A line of progress, where no JSON is wanted."""
    if not quiet:
        print(text, flush=True)


def main() -> None:
    """`measure` with the flags of the command line."""
    from jsonargparse import auto_cli

    auto_cli(measure)


if __name__ == "__main__":
    main()
