"""The encoders of stock video LLMs, as they are and with fewer patches: `longcompress bench stock`.

    longcompress bench stock --families qwen3_vl llava_onevision --pairs 8 16 --threads 1

A block of frames is encoded as it is, with pairs of patches that merge in each layer
(`video.merge_per_layer`), and where every second token shows what the one before does, without encoding it
again (`video.reuse_below`). The encoders are random, of transformers' own classes: times hold for their
sizes, and features say nothing of a trained encoder's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from ...config import VisionConfig
from ...encoders import StockVision
from ...encoders.random_stock import random_stock
from ...types import Frames
from .rows import Recorder, Row
from .timer import DTYPES, relative_rms, timed

KINDS = (
    "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm_ocr", "llava_onevision", "llava_next_video", "video_llama_3",
    "smolvlm", "internvl",
)  # fmt: skip


def bench_stock(
    out: str | None = None, families: list[str] | None = None, layers: int = 12, width: int = 768,
    size_px: int = 224, frames: int = 8, pairs: list[int] | None = None, repeat: int = 5,
    device: str | None = None, dtype: str | None = None, threads: int | None = None,
) -> int:  # fmt: skip
    """Time the encoders of stock video LLMs with and without merging inside; exit code 1 if a case failed.

    Args:
        out: CSV file of the figures; it is replaced.
        families: as `longcompress models` lists them; nine that differ if not given.
        layers, width: of the encoders.
        size_px: side of frames.
        frames: of a block, a multiple of 4.
        pairs: of patches that merge in each layer; 8 and 16 if not given.
        repeat: timed runs of each.
        device: "cpu" or "cuda"; the GPU if there is one.
        dtype: fp32, fp16 or bf16; fp32 on a CPU, bf16 on a GPU if not given.
        threads: of torch.
    """
    if frames % 4:
        raise ValueError(f"frames must be a multiple of 4, got {frames}")
    if threads:
        torch.set_num_threads(threads)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("bf16" if device.startswith("cuda") else "fp32")
    settings = {"layers": layers, "width": width, "frames": frames, "dtype": dtype}
    recorder = Recorder(out, device, ["stock"])
    for kind in families or KINDS:
        row = Row("stock", "encoder", kind, x_name="size_px", x=size_px, settings=settings)
        recorder.run(row, time_stock, pairs or [8, 16], repeat, device)
    return int(recorder.num_failed > 0)


@torch.no_grad()
def time_stock(row: Row, pairs: Sequence[int], repeat: int, device: str) -> Iterator[Row]:
    """Rows of an encoder as it is, merging inside, and reusing half of the frames; they take turns."""
    num, size_px = row.settings["frames"], int(row.x)
    lm, family = random_stock(row.provider, row.settings["layers"], row.settings["width"], size_px)
    lm = lm.to(device, DTYPES[row.settings["dtype"]])
    generator = torch.Generator("cpu").manual_seed(0)
    shape = (num // (2 * family.frames_per_token), family.frames_per_token, size_px, size_px, 3)
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8, device="cpu")
    pixels = pixels.repeat_interleave(2, 0).flatten(0, 1)
    block = Frames(pixels, torch.arange(num, dtype=torch.float64, device="cpu"), 1.0)
    config = VisionConfig(batch_size=num)
    cases = {"as it is": config}
    cases |= {f"{r} pairs a layer": replace(config, merge_per_layer=r) for r in pairs}
    cases["half of the frames reused"] = replace(config, reuse_below=1e-6)
    encoders = {name: StockVision(lm, family, case, size_px) for name, case in cases.items()}
    expected = encoders["as it is"].encode(block).tokens.x
    near = {name: relative_rms(e.encode(block).tokens.x, expected) for name, e in encoders.items()}
    work = {name: partial(encoder.encode, block) for name, encoder in encoders.items()}
    for name, took in timed(work, repeat, device).items():
        own = replace(row, case=name, settings=row.settings | {"relative_rms": near[name]})
        yield own.figure([1e3 * run.wall_s / num for run in took], "time", "ms/frame")
        if device == "cpu":
            yield own.figure([1e3 * run.cpu_s / num for run in took], "cores", "ms/frame of all cores")
