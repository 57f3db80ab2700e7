"""What several tests share: closeness by RMS ratio, equal videos, packs of segments, a merge in steps."""

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from longcompress.memory import VideoMemory
from longcompress.types import CompressedVideo, Tokens


def program(path: Path) -> ModuleType:
    """A Python file beside the package, as a module that is not in sys.modules: two run.py don't meet, and
    Ray's workers get its functions by value."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_close(name: str, got: Tensor | np.ndarray, want: Tensor | np.ndarray, rel: float) -> None:
    """Fails unless RMS(got - want) <= rel * RMS(want), with equal shapes and no value that is not finite."""
    a, b = _wide(got), _wide(want)
    assert a.shape == b.shape, f"{name}: shape {a.shape}, want {b.shape}"
    assert np.isfinite(a).all(), f"{name}: not finite at {np.argwhere(~np.isfinite(a))[:4].tolist()}"
    error = np.sqrt(np.mean((a - b) ** 2)) if a.size else 0.0
    scale = np.sqrt(np.mean(b**2)) if b.size else 0.0
    assert error <= rel * scale, (
        f"{name}: RMS of the error {error:.3e} over RMS {scale:.3e} is above {rel:.0e}"
    )


def assert_within(name: str, got: Tensor | np.ndarray, want: Tensor | np.ndarray, limit: float) -> None:
    """Fails unless no value of got is further than `limit` from want."""
    a, b = _wide(got), _wide(want)
    assert a.shape == b.shape, f"{name}: shape {a.shape}, want {b.shape}"
    error = np.abs(a - b).max(initial=0.0)
    assert error <= limit, (
        f"{name}: greatest difference {error:.3e} is above {limit:.0e}"
    )  # false for NaN too


def assert_same_video(got: CompressedVideo, want: CompressedVideo) -> None:
    """Fails unless two compressed videos are equal to the bit: streams, global tokens, assignment, budget."""
    assert (got.budget, got.duration_s) == (want.budget, want.duration_s)
    assert list(got.streams) == list(want.streams)
    for name, tokens in want.streams.items():
        for field in fields(Tokens):
            assert torch.equal(getattr(got.streams[name], field.name), getattr(tokens, field.name)), (
                name,
                field.name,
            )
    for item, other in ((got.globals, want.globals), (got.assignment, want.assignment)):
        assert item.keys() == other.keys()
        for name, tensor in other.items():
            assert torch.equal(item[name], tensor), name


def assert_same_memory(got: VideoMemory, want: VideoMemory) -> None:
    """Fails unless two memories are equal to the bit, and were made by the same encoders and merging."""
    assert got.identity == want.identity
    assert_same_video(got.video, want.video)


def offsets_of(lengths: Sequence[int]) -> Tensor:
    """(S + 1,) int32: where each of S segments of these lengths begins."""
    return torch.tensor([0, *np.cumsum(lengths, dtype=np.int64)], dtype=torch.int32)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers, the same on every run and device."""
    numbers = torch.randn(
        *shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float64, device="cpu"
    )
    return numbers.to(torch.get_default_device(), dtype)


def integers(low: int, high: int, *shape: int, seed: int) -> Tensor:
    """int64 numbers in [low, high), the same on every run and device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randint(low, high, shape, generator=generator, device="cpu").to(torch.get_default_device())


def drifting_patches(num_frames: int, num_patches: int, width: int, seed: int, still: float = 1e-4) -> Tensor:
    """(num_frames * num_patches, width) float64, frame by frame: patches that drift, a third by `still`."""
    rng = np.random.default_rng(seed)
    frame = rng.standard_normal((num_patches, width))
    speed = rng.choice([still, 0.05, 0.3], size=(num_patches, 1))
    frames = []
    for _ in range(num_frames):
        frames.append(frame)
        frame = frame + speed * rng.standard_normal(frame.shape)
    return torch.from_numpy(np.concatenate(frames)).to(torch.get_default_device())


class Merged(NamedTuple):
    """What `merge_step_by_step` is left with: N tokens in, M groups out."""

    x: np.ndarray  # (M, C) float64 means
    size: np.ndarray  # (M,) float64 summed weight
    group: np.ndarray  # (N,) int64 group of each token


def mean_over_heads(num_heads: int) -> Callable[[np.ndarray], np.ndarray]:
    """The metric of LongVLM: (n, C) features to (n, C / num_heads)."""
    return lambda x: x.reshape(len(x), num_heads, -1).mean(axis=1)


def merge_step_by_step(
    x: np.ndarray,
    *,
    keep: int = 1,
    weight: np.ndarray | None = None,
    schedule: float | Sequence[int] = 0.25,
    score: str = "ward",
    order: str = "seat",
    metric_of: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> Merged:
    """One segment merged round by round on the wide features x (N, C), in float64 and plain loops.

    Every round takes the metric of the features as they then are. The merge ends where a list of pairs does.
    """
    size = [1.0] * len(x) if weight is None else [float(w) for w in weight]
    rows = [np.asarray(row, np.float64) * (w > 0) for row, w in zip(x, size, strict=True)]
    members = [[i] for i in range(len(rows))]
    done = 0
    while len(rows) > keep:
        n = len(rows)
        if isinstance(schedule, float):
            expected = int(schedule * n)
        elif done < len(schedule):
            expected = schedule[done]
        else:
            break
        pairs = min(max(1, expected), n // 2, n - keep)
        metric = metric_of(np.stack(rows))
        best, partner = {}, {}
        for i in range(0, n, 2):
            if n == 1:
                break
            scores = _scores(metric, np.array(size), i, score)
            first = int(np.argmax(scores))  # numpy gives the first of equals
            best[i], partner[i] = scores[first], 2 * first + 1
        falling = sorted(best, key=lambda i: (-best[i], i))
        joins: dict[int, list[int]] = {j: [] for j in range(1, n, 2)}
        for i in sorted(falling[:pairs]):
            joins[partner[i]].append(i)
        alone = falling[pairs:]
        seats = [*alone, *joins] if order == "reference" else sorted([*alone, *joins])
        parts = [[i, *joins.get(i, [])] for i in seats]
        rows = [_mean([rows[i] for i in part], [size[i] for i in part]) for part in parts]
        size = [sum(size[i] for i in part) for part in parts]
        members = [[token for i in part for token in members[i]] for part in parts]
        done += 1
    group = np.full(len(x), -1)
    for number, tokens in enumerate(members):
        group[tokens] = number
    wide = np.stack(rows) if rows else np.zeros((0, np.asarray(x).shape[1]))
    return Merged(wide, np.array(size), group)


def _scores(metric: np.ndarray, size: np.ndarray, i: int, score: str) -> np.ndarray:
    """(floor(n / 2),) scores of seat i against each odd seat."""
    item, odd = metric[i], metric[1::2]
    if score == "ward":  # a weight of 0 loses nothing by a merge
        near, far = size[i], size[1::2]
        both = near + far
        return -np.where(both > 0, near * far / np.where(both > 0, both, 1), 0) * ((odd - item) ** 2).sum(
            axis=1
        )
    lengths = np.sqrt((item**2).sum()) * np.sqrt((odd**2).sum(axis=1))
    return np.where(lengths > 0, (odd * item).sum(axis=1) / np.where(lengths > 0, lengths, 1), -1.0)


def _mean(rows: list[np.ndarray], sizes: list[float]) -> np.ndarray:
    """Mean by weight: of one row the row itself, of rows that weigh nothing zero."""
    if len(rows) == 1 and sizes[0] > 0:
        return rows[0]
    total = sum(row * size for row, size in zip(rows, sizes, strict=True))
    return total / sum(sizes) if sum(sizes) > 0 else np.zeros_like(rows[0])


def _wide(x: Tensor | np.ndarray) -> np.ndarray:
    return x.detach().double().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x, np.float64)


def save_config(config: Any, path: str | Path) -> None:
    """Write a config dataclass as JSON, which is YAML too."""
    Path(path).write_text(json.dumps(asdict(config), indent=2))
