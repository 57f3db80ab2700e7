"""What each way of merging keeps at equal tokens: `python -m longcompress.eval.runner.merge_quality`.

Scores (ward, cosine), schedules (halves, quarters, eighths) and orders (patch-major, frame-major), with
k-means and average pooling beside them. The figure is the share of the features' variance that is lost when
every token is replaced by its group's mean; for drawn videos also how often a rule still reads right, from the
merged tokens alone, when an object is seen.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ...config import MediaConfig, VisionConfig
from ...kernels import Plan, plan, pool, unpool
from ...synthetic.questions import printed_seconds as clock_of
from ...synthetic.scenes import OBJECTS

METHODS = [
    (layout, score, share)
    for layout in ("frame", "patch")
    for score in ("cosine", "ward")
    for share in (0.5, 0.25, 0.125)
]


@dataclass(frozen=True)
class Features:
    """Frames of a video through an encoder.

    Attributes:
        x: (T, P, C) float32 features less their mean over the video.
        metric: (T, P, d) float32.
        segment: frames a segment has.
        mean: (C,) what was taken off the features.
        rule: reads what is seen when off merged tokens, where that is known.
    """

    x: Tensor
    metric: Tensor
    segment: int
    mean: Tensor
    rule: "Rule | None" = None

    @property
    def num_segments(self) -> int:
        return len(self.x) // self.segment


@dataclass(frozen=True)
class Rule:
    """A linear reader of merged tokens, and what it should find.

    Attributes:
        weight: (K + 1, C) the encoder's own head: a logit for each of OBJECTS and one for none.
        bias: (K + 1,) its bias.
        mean: (C,) what was taken off the features.
        seen: (name, first second, last second) of the objects that are seen once.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    seen: list[tuple[str, int, int]]

    def share_right(self, x: Tensor, second: Tensor, group: Tensor) -> float:
        """Share of `seen` that is found with an IoU of 0.5 or more.

        The span of an object is that of the heaviest unbroken run of groups that the head gives its name.

        Args:
            x: (N, C) tokens less their mean.
            second: (N,) int64 the second of each.
            group: (N,) int64 which group it is in.
        """
        num = int(group.max()) + 1
        mass = torch.bincount(group, minlength=num).float()
        mean = torch.zeros(num, x.shape[1]).index_add(0, group, x) / mass.clamp_min(1)[:, None]
        first = torch.full((num,), 1 << 30).scatter_reduce(0, group, second, "amin")
        last = torch.full((num,), -1).scatter_reduce(0, group, second, "amax")
        name = ((mean + self.mean) @ self.weight.t() + self.bias).argmax(1)
        right = 0
        for text, begin, end in self.seen:
            hit = ((name == OBJECTS.index(text)) & (mass > 0)).nonzero()[:, 0]
            runs: list[tuple[float, int, int]] = []
            for g in hit[first[hit].argsort()].tolist():
                heavy, a, b = mass[g].item(), int(first[g]), int(last[g])
                if runs and a <= runs[-1][2] + 1:
                    heavy, a, b = heavy + runs[-1][0], runs[-1][1], max(b, runs[-1][2])
                    runs.pop()
                runs.append((heavy, a, b))
            if runs:
                _, a, b = max(runs)
                common = max(0, min(b, end) - max(a, begin) + 1)
                right += common / (max(b, end) - min(a, begin) + 1) >= 0.5
        return right / max(1, len(self.seen))


def packed(x: Tensor, segment: int, layout: str) -> Tensor:
    """(S * n, C) the tokens of whole segments, frames laid out frame- or patch-major."""
    whole = x[: len(x) // segment * segment].unflatten(0, (-1, segment))  # (S, T, P, C)
    return (whole.transpose(1, 2) if layout == "patch" else whole).flatten(0, 2)


def merged(video: Features, keep: int, layout: str, score: str, share: float) -> tuple[Plan, float]:
    """(plan, seconds it took) of every whole segment of a video."""
    metric = packed(video.metric, video.segment, layout)
    num = len(metric) // video.num_segments
    offsets = torch.arange(video.num_segments + 1, dtype=torch.int32) * num
    begin = time.perf_counter()
    made = plan(metric, offsets, keep, schedule=share, score=score, order="seat")  # type: ignore[arg-type]
    return made, time.perf_counter() - begin


def lost(x: Tensor, group: Tensor, num: int) -> float:
    """Share of the variance of x (N, C) that is lost when tokens are replaced by their group's mean."""
    ones = torch.ones(len(x))
    made = Plan(group.int(), ones, torch.bincount(group, minlength=num).float(), torch.tensor([0, num]).int())
    left = x - unpool(pool(x, made), made)
    return float(left.square().sum() / x.square().sum())


def k_means(video: Features, keep: int, rounds: int = 25) -> Tensor:
    """(N,) groups of whole segments by k-means on the metric, seeded by tokens drawn at random."""
    metric = packed(video.metric, video.segment, "patch")
    num = len(metric) // video.num_segments
    groups = []
    for s in range(video.num_segments):
        x = metric[s * num : (s + 1) * num]
        draw = torch.Generator().manual_seed(0)
        centre = x[torch.randperm(num, generator=draw)[:keep]]
        for _ in range(rounds):
            nearest = torch.cdist(x, centre).argmin(1)
            count = torch.bincount(nearest, minlength=keep)[:, None]
            mean = torch.zeros_like(centre).index_add(0, nearest, x) / count.clamp_min(1)
            centre = torch.where(count > 0, mean, centre)
        groups.append(torch.cdist(x, centre).argmin(1) + s * keep)
    return torch.cat(groups)


def average_pooling(video: Features, side: int) -> Tensor:
    """(N,) groups (frame-major) that average each frame to side x side patches."""
    num_frames, patches = video.num_segments * video.segment, video.x.shape[1]
    edge = round(patches**0.5)
    row = (torch.arange(edge) * side) // edge
    patch = (row[:, None] * side + row[None, :]).reshape(-1)
    return (torch.arange(num_frames)[:, None] * side * side + patch).reshape(-1)


def compare(name: str, video: Features, keeps: list[int]) -> Iterator[dict[str, Any]]:
    """One row for every way and number of tokens a segment keeps."""
    patches = packed(video.x, video.segment, "patch")
    for keep in keeps:
        for layout, score, share in METHODS:
            made, seconds = merged(video, keep, layout, score, share)
            x = packed(video.x, video.segment, layout)
            yield {
                "video": name, "keep": keep, "method": f"{layout}-major, {score}, {share:g}",
                "lost": lost(x, made.group.long(), len(made.mass)), "ms": 1e3 * seconds / video.num_segments,
                **read_right(video, made.group.long(), layout),
            }  # fmt: skip
        begin = time.perf_counter()
        group = k_means(video, keep)
        seconds = time.perf_counter() - begin
        yield {
            "video": name, "keep": keep, "method": "k-means, 25 rounds",
            "lost": lost(patches, group, keep * video.num_segments), "ms": 1e3 * seconds / video.num_segments,
            **read_right(video, group, "patch"),
        }  # fmt: skip
        edge = round(video.x.shape[1] ** 0.5)
        fits = [k for k in range(1, edge + 1) if k * k * video.segment >= keep]
        side = fits[0] if fits else edge
        frames = packed(video.x, video.segment, "frame")
        group = average_pooling(video, side)
        yield {
            "video": name, "keep": side * side * video.segment, "method": f"average pooling, {side} x {side}",
            "lost": lost(frames, group, int(group.max()) + 1), "ms": 0.0, **read_right(video, group, "frame"),
        }  # fmt: skip


def read_right(video: Features, group: Tensor, layout: str) -> dict[str, float]:
    """{"read": share that the rule reads right}, or nothing without a rule."""
    if video.rule is None:
        return {}
    steps, patches = video.x.shape[:2]
    second = torch.arange(steps)[:, None, None].expand(-1, patches, 1)
    second = packed(second, video.segment, layout)[:, 0]
    return {"read": video.rule.share_right(packed(video.x, video.segment, layout), second, group)}


def drawn_video(model: Any, seed: int, seconds: int) -> Features:
    """Features of a drawn video through a model's own video encoder, with a rule if its folder has heads."""
    from ...media.reader import fit_pixels
    from ...synthetic.scenes import frames, make_scene

    scene = make_scene(seed, float(seconds))
    pixels = torch.from_numpy(frames(scene, np.arange(0.0, seconds)))
    video = features_of(model, fit_pixels(pixels, model.config.media))
    path = (model.folder or Path()) / "heads.safetensors"
    if not path.is_file():
        return video
    heads = load_file(path)
    shown = [h for h in scene.events if h.kind == "video"]
    names = [h.name for h in shown]
    once = [(h.name, *clock_of(h)) for h in shown if names.count(h.name) == 1]
    rule = Rule(heads["video.weight"], heads["video.bias"], video.mean, once)
    return replace(video, rule=rule)


def file_video(model: Any, path: str | Path, seconds: int) -> Features:
    """Features of a video file through a model's own video encoder, or through an encoder alone."""
    from ...media.reader import read
    from ...types import Frames

    size_px = (model.video if hasattr(model, "video") else model).size_px
    with read(path, MediaConfig(size_px=size_px, audio=False)) as parts:
        pixels = torch.cat([p.pixels for p in parts if isinstance(p, Frames)])
    return features_of(model, pixels[:seconds])


def features_of(model: Any, pixels: Tensor, segment: int = 10) -> Features:
    """Features of frames (T, H, W, 3) through a model's video encoder, less their mean."""
    encoder = model.video if hasattr(model, "video") else model
    with torch.no_grad():
        x = torch.cat([encoder.features(part)[0].float() for part in pixels.split(8)])
    mean = x.mean((0, 1))
    x = x - mean
    metric = encoder.metric(x.flatten(0, 1)).view(*x.shape[:2], -1)
    return Features(x, metric, segment, mean)


def measure(
    model: str = "tiny", encoder: str = "", layer: int = -3, size_px: int = 224, videos: list[str] | None = None,
    seconds: int = 120, drawn: int = 3, keep: list[int] | None = None, out: str = "",
) -> None:  # fmt: skip
    """Print (and with --out write as JSON lines) what each way of merging loses.

    Args:
        model: whose video encoder, if no encoder is named.
        encoder: folder of a transformers vision encoder.
        layer: which of its hidden states.
        size_px: side of the frames it sees.
        videos: files to try.
        seconds: at most so much of each video.
        drawn: drawn videos to try (with a model).
        keep: tokens kept of 10 s; none: 8, 14 and 40 for drawn videos, 30, 80, 160 and 320 for files.
        out: JSON lines go here too.
    """
    from ...encoders import VisionEncoder
    from ...presets import load

    given: Any = (
        VisionEncoder.load(VisionConfig(layer=layer), encoder, size_px)
        if encoder
        else load(model, device="cpu")
    )
    rows: list[dict[str, Any]] = []
    for k in range(0 if encoder else drawn):
        rows += shown(compare(f"drawn {k}", drawn_video(given, 10_000_000 + k, seconds), keep or [8, 14, 40]))
    for path in videos or []:
        video = file_video(given, path, seconds)
        rows += shown(compare(Path(path).name, video, keep or [30, 80, 160, 320]))
    if out:
        Path(out).write_text("".join(json.dumps(row) + "\n" for row in rows))


def shown(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same rows, each printed as it comes."""
    for row in rows:
        read = f"  read {row['read']:.2f}" if "read" in row else ""
        what = f"{row['film']:12s} {row['keep']:5d}  {row['way']:30s}"
        print(f"{what} lost {row['lost']:.3f}  {row['ms']:8.1f} ms{read}", flush=True)
        yield row


def main() -> None:
    """`measure` with the flags of the command line."""
    from jsonargparse import auto_cli

    auto_cli(measure)


if __name__ == "__main__":
    main()
