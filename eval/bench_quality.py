"""What each way of merging keeps at equal tokens: `python -m longcompress.eval.bench_quality`.

Scores (ward, cosine), schedules (halves, quarters, eighths) and orders (cell-major, frame-major), with
k-means and average pooling beside them. The figure is the share of the features' variance that is lost when
every token is replaced by its group's mean; for drawn films also how often a rule still reads right, from the
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

from ..config import MediaConfig, VisionConfig
from ..kernels import Plan, plan, pool, unpool
from ..quiz import seconds as clock_of
from ..scenes import OBJECTS

WAYS = [
    (layout, score, share)
    for layout in ("frame", "cell")
    for score in ("cosine", "ward")
    for share in (0.5, 0.25, 0.125)
]


@dataclass(frozen=True)
class Features:
    """Pictures of a film through a tower.

    Attributes:
        x: (T, P, C) float32 features less their mean over the film.
        metric: (T, P, d) float32.
        segment: pictures a segment has.
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
        weight: (K + 1, C) the tower's own head: a logit for each of OBJECTS and one for none.
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
    """(S * n, C) the tokens of whole segments, pictures laid out frame- or cell-major."""
    whole = x[: len(x) // segment * segment].unflatten(0, (-1, segment))  # (S, T, P, C)
    return (whole.transpose(1, 2) if layout == "cell" else whole).flatten(0, 2)


def merged(film: Features, keep: int, layout: str, score: str, share: float) -> tuple[Plan, float]:
    """(plan, seconds it took) of every whole segment of a film."""
    metric = packed(film.metric, film.segment, layout)
    num = len(metric) // film.num_segments
    offsets = torch.arange(film.num_segments + 1, dtype=torch.int32) * num
    begin = time.perf_counter()
    made = plan(metric, offsets, keep, schedule=share, score=score, order="seat")  # type: ignore[arg-type]
    return made, time.perf_counter() - begin


def lost(x: Tensor, group: Tensor, num: int) -> float:
    """Share of the variance of x (N, C) that is lost when tokens are replaced by their group's mean."""
    ones = torch.ones(len(x))
    made = Plan(group.int(), ones, torch.bincount(group, minlength=num).float(), torch.tensor([0, num]).int())
    left = x - unpool(pool(x, made), made)
    return float(left.square().sum() / x.square().sum())


def k_means(film: Features, keep: int, rounds: int = 25) -> Tensor:
    """(N,) groups of whole segments by k-means on the metric, seeded by tokens drawn at random."""
    metric = packed(film.metric, film.segment, "cell")
    num = len(metric) // film.num_segments
    groups = []
    for s in range(film.num_segments):
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


def average_pooling(film: Features, side: int) -> Tensor:
    """(N,) groups (frame-major) that average each picture to side x side cells."""
    num_pictures, cells = film.num_segments * film.segment, film.x.shape[1]
    edge = round(cells**0.5)
    row = (torch.arange(edge) * side) // edge
    cell = (row[:, None] * side + row[None, :]).reshape(-1)
    return (torch.arange(num_pictures)[:, None] * side * side + cell).reshape(-1)


def compare(name: str, film: Features, keeps: list[int]) -> Iterator[dict[str, Any]]:
    """One row for every way and number of tokens a segment keeps."""
    cells = packed(film.x, film.segment, "cell")
    for keep in keeps:
        for layout, score, share in WAYS:
            made, seconds = merged(film, keep, layout, score, share)
            x = packed(film.x, film.segment, layout)
            yield {
                "film": name, "keep": keep, "way": f"{layout}-major, {score}, {share:g}",
                "lost": lost(x, made.group.long(), len(made.mass)), "ms": 1e3 * seconds / film.num_segments,
                **read_right(film, made.group.long(), layout),
            }  # fmt: skip
        begin = time.perf_counter()
        group = k_means(film, keep)
        seconds = time.perf_counter() - begin
        yield {
            "film": name, "keep": keep, "way": "k-means, 25 rounds",
            "lost": lost(cells, group, keep * film.num_segments), "ms": 1e3 * seconds / film.num_segments,
            **read_right(film, group, "cell"),
        }  # fmt: skip
        edge = round(film.x.shape[1] ** 0.5)
        fits = [k for k in range(1, edge + 1) if k * k * film.segment >= keep]
        side = fits[0] if fits else edge
        frames = packed(film.x, film.segment, "frame")
        group = average_pooling(film, side)
        yield {
            "film": name, "keep": side * side * film.segment, "way": f"average pooling, {side} x {side}",
            "lost": lost(frames, group, int(group.max()) + 1), "ms": 0.0, **read_right(film, group, "frame"),
        }  # fmt: skip


def read_right(film: Features, group: Tensor, layout: str) -> dict[str, float]:
    """{"read": share that the rule reads right}, or nothing without a rule."""
    if film.rule is None:
        return {}
    steps, cells = film.x.shape[:2]
    second = torch.arange(steps)[:, None, None].expand(-1, cells, 1)
    second = packed(second, film.segment, layout)[:, 0]
    return {"read": film.rule.share_right(packed(film.x, film.segment, layout), second, group)}


def drawn_film(model: Any, seed: int, seconds: int) -> Features:
    """Features of a drawn film through a model's own picture tower, with a rule if its folder has heads."""
    from ..media import fit_pixels
    from ..scenes import frames, make_scene

    scene = make_scene(seed, float(seconds))
    pixels = torch.from_numpy(frames(scene, np.arange(0.0, seconds)))
    film = features_of(model, fit_pixels(pixels, model.config.media))
    path = (model.folder or Path()) / "heads.safetensors"
    if not path.is_file():
        return film
    heads = load_file(path)
    shown = [h for h in scene.happenings if h.kind == "picture"]
    names = [h.name for h in shown]
    once = [(h.name, *clock_of(h)) for h in shown if names.count(h.name) == 1]
    rule = Rule(heads["picture.weight"], heads["picture.bias"], film.mean, once)
    return replace(film, rule=rule)


def file_film(model: Any, path: str | Path, seconds: int) -> Features:
    """Features of a film file through a model's own picture tower, or through a tower alone."""
    from ..media import read
    from ..types import Frames

    size_px = (model.vision if hasattr(model, "vision") else model).size_px
    with read(path, MediaConfig(size_px=size_px, sound=False)) as parts:
        pixels = torch.cat([p.pixels for p in parts if isinstance(p, Frames)])
    return features_of(model, pixels[:seconds])


def features_of(model: Any, pixels: Tensor, segment: int = 10) -> Features:
    """Features of pictures (T, H, W, 3) through a model's picture tower, less their mean."""
    tower = model.vision if hasattr(model, "vision") else model
    with torch.no_grad():
        x = torch.cat([tower.features(part)[0].float() for part in pixels.split(8)])
    mean = x.mean((0, 1))
    x = x - mean
    metric = tower.metric(x.flatten(0, 1)).view(*x.shape[:2], -1)
    return Features(x, metric, segment, mean)


def measure(
    model: str = "tiny", tower: str = "", layer: int = -3, size_px: int = 224, films: list[str] | None = None,
    seconds: int = 120, drawn: int = 3, keep: list[int] | None = None, out: str = "",
) -> None:  # fmt: skip
    """Print (and with --out write as JSON lines) what each way of merging loses.

    Args:
        model: whose picture tower, if no tower is named.
        tower: folder of a transformers vision tower.
        layer: which of its hidden states.
        size_px: side of the pictures it sees.
        films: files to try.
        seconds: at most so much of each film.
        drawn: drawn films to try (with a model).
        keep: tokens kept of 10 s; none: 8, 14 and 40 for drawn films, 30, 80, 160 and 320 for files.
        out: JSON lines go here too.
    """
    from ..encoders import VisionEncoder
    from ..presets import load

    given: Any = (
        VisionEncoder.load(VisionConfig(layer=layer), tower, size_px) if tower else load(model, device="cpu")
    )
    rows: list[dict[str, Any]] = []
    for k in range(0 if tower else drawn):
        rows += shown(compare(f"drawn {k}", drawn_film(given, 10_000_000 + k, seconds), keep or [8, 14, 40]))
    for path in films or []:
        film = file_film(given, path, seconds)
        rows += shown(compare(Path(path).name, film, keep or [30, 80, 160, 320]))
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
