"""The share of the features' variance that each merging loses: `longcompress eval merge-quality`.

Scores (ward, cosine), schedules (halves, quarters, eighths) and orders (patch-major, frame-major) of ours,
the tree, cut in each segment or by height in all of them, SciPy's Ward linkage, k-means and pooling of
`baselines`. Of synthetic videos also how often a linear rule still reads from the merged tokens alone when an
object is seen.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from safetensors.torch import load_file
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from ...compression.baselines import Method, spend
from ...compression.merging import pool_tokens
from ...config import AudioConfig, BudgetConfig, MediaConfig, VisionConfig
from ...kernels import Plan, Tree, cut, plan, tree
from ...synthetic.questions import printed_seconds as clock_of
from ...synthetic.scenes import OBJECTS
from ...types import Audio, Encoded, Frames, Segment, Tokens
from ..metrics.intervals import tiou_matrix

FRAMES = 10  # of a segment
SEGMENT_S = 10  # of audio
SCHEDULES: tuple[float | str, ...] = (0.5, 0.25, 0.125)
GRID = (
    *product(("frame", "patch"), ("cosine", "ward"), SCHEDULES),
    *(("patch", "ward", schedule) for schedule in ("blocks", "tree")),
)
DEFAULT = "patch-major, ward, 0.25"
BASELINES: tuple[Method, ...] = ("kmeans", "pool")
Rule = tuple[Tensor, Tensor, list[tuple[str, int, int]]]  # weight, bias; objects with first and last second


def merge(
    parts: Sequence[Encoded], keep: int, layout: str, score: str, schedule: float | str
) -> dict[str, Tokens]:
    """{"frame": tokens} of segments of one length, each merged to `keep`."""
    tokens, metric = Tokens.join(part.tokens for part in parts), torch.cat([part.metric for part in parts])
    order = patch_major(parts) if layout == "patch" else torch.arange(len(tokens))
    offsets = torch.arange(len(parts) + 1, dtype=torch.int32) * len(parts[0])
    groups = plan(metric[order], offsets, keep, schedule=schedule, score=score, order="seat")  # type: ignore[arg-type]
    return {"video": pool_tokens(tokens.take(order), groups)}


def merge_by_height(parts: Sequence[Encoded], keep: int, forest: Tree) -> dict[str, Tokens]:
    """Likewise, patch-major, by one cut of all segments' trees."""
    tokens = Tokens.join(part.tokens for part in parts)
    planned = cut(forest, total=keep * len(parts), across=True)
    return {"video": pool_tokens(tokens.take(patch_major(parts)), planned)}


def merge_exactly(parts: Sequence[Encoded], keep: int) -> dict[str, Tokens]:
    """Likewise, by SciPy's Ward linkage of each whole segment."""
    merged = []
    for part in parts:
        group = fcluster(linkage(part.metric.double().numpy(), "ward"), keep, "maxclust") - 1
        num = np.bincount(group)
        planned = Plan(
            torch.from_numpy(group).int(), part.tokens.size, torch.from_numpy(num).float(),
            torch.tensor([0, len(num)], dtype=torch.int32),
        )  # fmt: skip
        merged.append(pool_tokens(part.tokens, planned))
    return {"video": Tokens.join(merged)}


def patch_major(parts: Sequence[Encoded]) -> Tensor:
    """(N,) order in which all times of a patch lie side by side, segment by segment."""
    num = sum(map(len, parts))
    return rearrange(torch.arange(num), "(s t p) -> (s p t)", s=len(parts), p=parts[0].patches)


def lost_variance(raw: Tokens, merged: Tokens, ends_s: Sequence[float] = ()) -> list[float]:
    """Share of the variance around the video's mean that the group means lack: of each segment that ends at
    ends_s, or of all."""
    mean, borders = raw.x.mean(0), torch.tensor(ends_s[:-1], dtype=torch.float64)
    squares = []
    for tokens in (merged, raw):
        segment = torch.bucketize(tokens.time_s.contiguous(), borders, right=True)
        part = tokens.size * (tokens.x - mean).square().sum(1)
        squares.append(torch.zeros(len(borders) + 1).index_add(0, segment, part))
    between, whole = squares
    return (1 - between / whole).tolist()


def share_read(tokens: Tokens, rule: Rule) -> float:
    """Share of the objects whose time a linear reader of merged tokens gives with an IoU of 0.5 or more."""
    weight, bias, objects = rule
    name = (tokens.x @ weight.t() + bias).argmax(1)
    right = 0
    for text, start, end in objects:
        hits = tokens.take((name == OBJECTS.index(text)).nonzero()[:, 0])
        runs: list[tuple[float, int, int]] = []
        # Groups that touch in time are one run; the heaviest run is the answer.
        for i in hits.start_s.argsort().tolist():
            mass, first, last = float(hits.size[i]), int(hits.start_s[i]), int(hits.end_s[i]) - 1
            if runs and first <= runs[-1][2] + 1:
                before, first, until = runs.pop()
                mass, last = mass + before, max(last, until)
            runs.append((mass, first, last))
        if runs:
            _, first, last = max(runs)
            right += bool(tiou_matrix([(first, last + 1)], [(start, end + 1)])[0, 0] >= 0.5)
    return right / max(1, len(objects))


def compare(
    name: str, parts: Sequence[Encoded], keeps: Sequence[int], rule: Rule | None
) -> Iterator[dict[str, Any]]:
    """A row for every method and number of tokens a segment keeps, printed as it comes."""
    raw = Tokens.join(part.tokens for part in parts)
    segments = [
        Segment(i, float(part.tokens.start_s.min()), float(part.tokens.end_s.max()), {"video": part})
        for i, part in enumerate(parts)
    ]
    metric = torch.cat([part.metric for part in parts])[patch_major(parts)]
    forest = tree(metric, torch.arange(len(parts) + 1, dtype=torch.int32) * len(parts[0]))
    ends_s = [segment.end_s for segment in segments]
    for keep in keeps:
        methods: dict[str, Callable[[], Mapping[str, Tokens]]] = {
            f"{grid[0]}-major, {grid[1]}, {grid[2]}": partial(merge, parts, keep, *grid) for grid in GRID
        }
        methods["tree, all segments by height"] = partial(merge_by_height, parts, keep, forest)
        methods["exact Ward (SciPy)"] = partial(merge_exactly, parts, keep)
        methods |= {n: partial(spend, n, segments, keep * len(parts), BudgetConfig()) for n in BASELINES}
        for method, tokens_of in methods.items():
            start_s = time.perf_counter()
            tokens = tokens_of()["video"]
            ms = 1e3 * (time.perf_counter() - start_s) / len(parts)
            row = {"video": name, "keep": keep, "method": method, "num_tokens": len(tokens) / len(parts)}
            row |= {"lost_variance": lost_variance(raw, tokens)[0], "ms": ms}
            row["segments"] = lost_variance(raw, tokens, ends_s)
            row |= {"read": share_read(tokens, rule)} if rule else {}
            read = f"  read {row['read']:.2f}" if rule else ""
            figures = f"lost {row['lost_variance']:.3f}  {ms:8.1f} ms{read}"
            print(f"{name:12s} {keep:5d}  {method:30s} {figures}", flush=True)
            yield row


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Means over the segments of all videos, by method and tokens kept; and against DEFAULT, the largest
    share that a segment loses more."""
    losses: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        losses.setdefault((row["method"], row["keep"]), []).extend(row["segments"])
    keeps = sorted({keep for _, keep in losses})
    lines = [f"| mean of {len(losses[DEFAULT, keeps[0]])} segments | " + " | ".join(map(str, keeps)) + " |"]
    lines.append("|---|" + "---|" * len(keeps))
    for method in dict.fromkeys(method for method, _ in losses):
        cells = []
        for keep in keeps:
            here, before = np.array(losses[method, keep]), np.array(losses[DEFAULT, keep])
            less = 1 - here.mean() / before.mean()
            cells.append(f"{here.mean():.4f} ({-less:+.1%}, worst {(here - before).max():+.4f})")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parts_of(encoder: Any, pixels: Tensor) -> list[Encoded]:
    """Frames (T, H, W, 3), one a second, encoded as whole segments."""
    times = torch.arange(len(pixels), dtype=torch.float64)
    num = len(pixels) // FRAMES * FRAMES
    with torch.no_grad():
        halves = [
            encoder.encode(Frames(pixels[at : at + FRAMES // 2], times[at : at + FRAMES // 2], 1.0))
            for at in range(0, num, FRAMES // 2)  # an encoder takes less than a segment at once
        ]
    mean = torch.cat([half.metric for half in halves]).mean(0)  # cosine is of features around their mean
    halves = [replace(half, metric=half.metric - mean) for half in halves]
    return [Encoded.join(halves[at : at + 2]) for at in range(0, len(halves), 2)]


def audio_parts(encoder: Any, audio: Audio) -> list[Encoded]:
    """A track's tokens as whole segments of SEGMENT_S seconds."""
    with torch.no_grad():
        starts = range(0, len(audio), encoder.block)
        blocks = [encoder.encode(audio.cut(at, min(at + encoder.block, len(audio)))) for at in starts]
    encoded = Encoded.join(blocks)
    encoded = replace(encoded, metric=encoded.metric - encoded.metric.mean(0))
    num = round(SEGMENT_S * encoder.token_hz)
    return [encoded.rows(at, at + num) for at in range(0, len(encoded) - num + 1, num)]


def synthetic(model: Any, seed: int, seconds: int) -> tuple[list[Encoded], Rule | None]:
    """A synthetic video through a model's vision encoder, with a rule if the model's folder has heads."""
    from ...media.reader import fit_pixels
    from ...synthetic.scenes import frames, make_scene

    scene = make_scene(seed, float(seconds))
    pixels = torch.from_numpy(frames(scene, np.arange(0.0, seconds)))
    parts = parts_of(model.video, fit_pixels(pixels, model.config.media))
    path = (model.folder or Path()) / "heads.safetensors"
    if not path.is_file():
        return parts, None
    heads = load_file(path)
    events = [event for event in scene.events if event.kind == "video"]
    names = [event.name for event in events]
    once = [(event.name, *clock_of(event)) for event in events if names.count(event.name) == 1]
    return parts, (heads["video.weight"], heads["video.bias"], once)


def measure(
    model: str = "tiny", encoder: str = "", layer: int = -3, size_px: int = 224,
    files: list[str] | None = None, seconds: int = 120, num_synthetic: int = 3,
    keep: list[int] | None = None, audio: bool = False, pool: int = 5, out: str = "",
) -> None:  # fmt: skip
    """Print the share of the features' variance that each merging loses, and write it to --out.

    Args:
        model: whose vision encoder, if no encoder is named.
        encoder: folder of a transformers vision encoder, or with `audio` of a Whisper.
        layer: which of its hidden states.
        size_px: side of its frames.
        files: video files to try.
        seconds: read of each video at most.
        num_synthetic: synthetic videos to try (with a model).
        keep: tokens of a segment; none: 8, 14 and 40 for synthetic videos, 30, 80, 160 and 320 for files, 5,
            10, 20 and 40 for audio.
        audio: merge the files' audio; no synthetic videos then.
        pool: positions of the Whisper that are a token.
        out: JSON lines go here too.
    """
    from ...encoders import AudioEncoder, VisionEncoder
    from ...media.reader import read
    from ...presets import load

    if audio and not encoder:
        raise ValueError("encoder must name the folder of a Whisper where audio is set, got none")
    loaded = None if encoder else load(model, device="cpu")
    rows: list[dict[str, Any]] = []
    if audio:
        whisper = AudioEncoder.load(AudioConfig(pool=pool, layer=layer), encoder)
        for path in files or []:
            config = MediaConfig(video=False, rate_hz=whisper.rate_hz)
            with read(path, config) as media:
                track = Audio.join([part for part in media if isinstance(part, Audio)])
            parts = audio_parts(whisper, track.cut(0, min(len(track), seconds * whisper.rate_hz)))
            rows += compare(Path(path).name, parts, keep or [5, 10, 20, 40], None) if parts else []
    else:
        vision: Any = (
            loaded.video if loaded else VisionEncoder.load(VisionConfig(layer=layer), encoder, size_px)
        )
        for number in range(num_synthetic if loaded else 0):
            parts, rule = synthetic(loaded, 10_000_000 + number, seconds)
            rows += compare(f"synthetic {number}", parts, keep or [8, 14, 40], rule)
        for path in files or []:
            with read(path, MediaConfig(size_px=vision.size_px, audio=False)) as media:
                pixels = torch.cat([part.pixels for part in media if isinstance(part, Frames)])
            parts = parts_of(vision, pixels[:seconds])
            rows += compare(Path(path).name, parts, keep or [30, 80, 160, 320], None)
    print(summary(rows), flush=True)
    if out:
        Path(out).write_text("".join(json.dumps(row) + "\n" for row in rows))
