"""`longcompress bench cost`: device hours and price of many hours of video.

    longcompress bench throughput --cases stages --minutes 10 --model MODEL --out figures.csv
    longcompress bench cost --figures figures.csv --price 2.5
    longcompress bench cost --model MODEL --gpus '{"H100": 2.5, "L40S": 1.0}'
    longcompress bench cost --preset longvale --gpus '{"H100": 2.5}'

The first is measured on the device of the figures. The second is a prediction: the encoders' floating point
operations, counted, at a share of what a data sheet promises.
"""

import json as jsons
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ...encode import segments_of
from ...model import LongCompress
from ...presets import load
from ...types import Audio, Frames
from .features import Preset, random_model
from .rows import OURS, Row, grouped, load_rows

PEAK_TFLOPS = {"L4": 121.0, "A100": 312.0, "L40S": 362.0, "H100": 989.0, "H200": 989.0}
"""Dense bfloat16 of NVIDIA's data sheets, of the SXM form where there are several."""
ON_DEVICE = ("encode", "merge")  # stages; decoding is a processor's


@dataclass(frozen=True)
class Cost:
    """What a number of hours of video takes on a device.

    Attributes:
        device, basis: which, and how it is known.
        decode_hours: of the process that decodes; nan where unknown.
        device_hours: that encode and merge; of a prediction, encode.
        price: of those, in the currency of the price an hour; nan without one.
    """

    device: str
    basis: str
    decode_hours: float
    device_hours: float
    price: float


def bench_cost(
    *, figures: str | None = None, hours: float = 10_000.0, price: float = float("nan"), model: str = "tiny",
    preset: Preset | None = None, gpus: dict[str, float] | None = None, mfu: float = 0.3,
    seconds: float = 60.0, json: bool = False,
) -> None:  # fmt: skip
    """Print device hours and price of many hours of video, from measured stages, or predicted for GPUs.

    Args:
        figures: CSV file of `bench throughput` with the case stages; its longest video counts.
        hours: of video.
        price: of an hour of the device of the figures.
        model: preset, folder or hub name whose encoders' operations are counted, for a prediction.
        preset: count those of a published model's encoders, in its shapes, with random weights.
        gpus: name -> price an hour of the GPUs to predict for: L4, A100, L40S, H100, H200.
        mfu: share of a GPU's peak that the prediction takes for granted.
        seconds: of the video that is encoded here to count them; whole windows of its audio encoders count.
        json: one JSON object a line.
    """
    if not (hours > 0 and 0 < mfu <= 1 and seconds >= 1):
        raise ValueError(f"hours must be > 0, 0 < mfu <= 1 and seconds >= 1, got {hours}, {mfu}, {seconds}")
    if not figures and not gpus:
        raise ValueError("figures or gpus must be given: measured stages, or GPUs to predict for")
    costs = measured(load_rows(figures), hours, price) if figures else []
    if gpus:
        loaded = random_model(preset, "paper") if preset else load(model, device="cpu")
        costs += predicted(flops_per_second(loaded, seconds), gpus, hours, mfu)
    for cost in costs:
        is_predicted = math.isnan(cost.decode_hours)  # of the encoders alone
        work = "" if is_predicted else f"{cost.decode_hours:,.0f} h decoding, "
        work += f"{cost.device_hours:,.4g} h encoding" + ("" if is_predicted else " and merging")
        total = "" if math.isnan(cost.price) else f", price {cost.price:,.4g}"
        text = f"{cost.device}: {work}{total} ({cost.basis})"
        known = {name: value for name, value in vars(cost).items() if value == value}  # no nan
        print(jsons.dumps(known) if json else text)


def measured(rows: Sequence[Row], hours: float, price: float) -> list[Cost]:
    """A cost for each device, model and precision of the stages, from its longest video and first budget."""
    times = [row for row in rows if (row.suite, row.metric) == ("stages", "time") and not row.error]
    times = [row for row in times if row.provider in ("", OURS)]
    if not times:
        raise ValueError(
            "figures must have the case stages of `bench throughput`, got none; measure it first"
        )
    costs = []
    for (device, name, dtype), own in grouped(times, _subject).items():
        longest = max(row.x for row in own)
        stages: dict[str, Row] = {}
        for row in own:
            if row.x == longest:
                stages.setdefault(row.case, row)
        video_s = float(stages["decode"].settings["video_s"])
        share = {case: row.value / video_s for case, row in stages.items()}
        on_device = sum(value for case, value in share.items() if case.partition(" ")[0] in ON_DEVICE)
        basis = f"measured, {name} in {dtype}, {longest:g} minutes"
        costs.append(
            Cost(device, basis, hours * share["decode"], hours * on_device, hours * on_device * price)
        )
    return costs


def predicted(flops: float, gpus: dict[str, float], hours: float, mfu: float) -> list[Cost]:
    """A cost for each GPU, of encoders that take `flops` a second of video."""
    if unknown := sorted(set(gpus) - set(PEAK_TFLOPS)):
        raise ValueError(f"gpus must be some of {', '.join(PEAK_TFLOPS)}, got {unknown[0]!r}")
    costs = []
    for name, price in gpus.items():
        device_hours = hours * flops / (PEAK_TFLOPS[name] * 1e12 * mfu)
        basis = f"PREDICTED, not measured: {flops / 1e9:.3g} GFLOP a second of video, MFU {mfu:g}"
        costs.append(Cost(name, basis, float("nan"), device_hours, device_hours * price))
    return costs


@torch.no_grad()
def flops_per_second(model: LongCompress, seconds: float) -> float:
    """Floating point operations of the encoders in a second of video with audio: of matrix products,
    convolutions and attention, two a multiplication."""
    media = model.config.media
    num, step_s = max(1, round(seconds * media.rate_fps)), 1 / media.rate_fps
    pixels = torch.zeros(num, media.size_px, media.size_px, 3, dtype=torch.uint8)
    parts: list[Frames | Audio] = []
    if "video" in model.media:
        parts.append(Frames(pixels, torch.arange(num, dtype=torch.float64) * step_s, step_s))
    if "audio" in model.media:
        parts.append(Audio(torch.zeros(round(num * step_s * media.rate_hz)), 0.0))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        segments_of(model, parts, list(model.media))
    return counter.get_total_flops() / (num * step_s)


def _subject(row: Row) -> tuple[str, str, str]:
    return row.machine.get("device", ""), str(row.settings.get("model")), str(row.settings.get("dtype"))
