"""Confidence intervals by cluster bootstrap: whole videos are resampled, each with all its examples.

Questions about one video rise and fall together. Resampling them singly would make intervals too small.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from tqdm import tqdm

from .intervals import FloatArray, mean

CONFIDENCE = 0.95
_NUM_DRAWS = 10_000  # of a mean
_CHUNK = 1 << 22  # resampled numbers at a time


def interval(values: Mapping[Any, float], video: Mapping[Any, Any], *, seed: int = 0) -> dict[str, Any]:
    """The mean of values, one an example, and its 95 % percentile interval; `video` is of each example.

    Returns:
        mean (None of no values), low, high (None with fewer than two videos), num, num_videos; of differences
        share_above tells the share of draws above 0, draws at 0 counted half (None where low is None).
    """
    videos, sums, counts = by_video([values], video)
    draws = ratio_draws(sums[:, 0], counts[:, 0], _NUM_DRAWS, seed)
    above = float(np.mean(draws > 0) + np.mean(draws == 0) / 2) if len(draws) else None
    nums = {"num": len(values), "num_videos": len(videos)}
    return {"mean": mean(values.values()), **quantiles(draws), **nums, "share_above": above}


def ratio_draws(top: FloatArray, bottom: FloatArray, num_draws: int, seed: int) -> FloatArray:
    """(num_draws,) sums of top (videos,) over sums of bottom, resampled, 0 where bottom is; (0,) of one
    video."""
    if len(top) < 2:
        return np.zeros(0)

    def ratio(a: FloatArray, b: FloatArray, axis: int) -> FloatArray:
        above, below = np.asarray(a.sum(axis)), np.asarray(b.sum(axis))
        return np.divide(above, below, out=np.zeros(above.shape), where=below != 0)

    how: dict[str, Any] = {"paired": True, "vectorized": True, "method": "percentile", "rng": seed}
    batch = max(1, _CHUNK // len(top))
    sampled = stats.bootstrap((top, bottom), ratio, n_resamples=num_draws, batch=batch, **how)
    return sampled.bootstrap_distribution


def quantiles(draws: FloatArray) -> dict[str, float | None]:
    """{"low", "high"} of the middle 95 % of draws; None of none."""
    if not len(draws):
        return {"low": None, "high": None}
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"low": float(low), "high": float(high)}


@dataclass(frozen=True)
class Corpus:
    """Scores that are no mean over examples, in a form that is quick to compute for resampled videos.

    `scores` takes (videos,) float64, how often each is in the sample, to the scores by name; None of nothing.
    """

    videos: tuple[Any, ...]
    scores: Callable[[FloatArray], Mapping[str, float | None]]

    def whole(self) -> Mapping[str, float | None]:
        """The scores of all videos, each once."""
        return self.scores(np.ones(len(self.videos)))


def intervals_of(
    corpus: Corpus, *, num_draws: int = 1000, seed: int = 0, progress: bool = False
) -> dict[str, dict[str, Any]]:
    """`interval` of scores of a corpus, by name: all scores are computed again over each sample.

    Returns:
        For each name mean (the score of all videos), low, high, num_videos. A draw in which a score is None
        does not count for it.
    """
    if num_draws < 1:
        raise ValueError(f"num_draws must be at least 1, got {num_draws}")
    num = len(corpus.videos)
    whole = corpus.whole()
    draws: dict[str, list[float]] = {name: [] for name in whole}
    rng = np.random.default_rng(seed)
    rounds = range(num_draws if num > 1 else 0)
    for _ in tqdm(rounds, desc="intervals", unit="draw", disable=None if progress else True):
        times = rng.multinomial(num, np.full(num, 1 / num)).astype(np.float64)
        for name, value in corpus.scores(times).items():
            if value is not None:
                draws[name].append(value)
    return {
        name: {"mean": value, **quantiles(np.array(draws[name])), "num_videos": num}
        for name, value in whole.items()
    }


def means_of(values: Mapping[str, Mapping[Any, float]], video: Mapping[Any, Any]) -> Corpus:
    """Means over examples as a corpus, by name: many of them at once, of different examples each."""
    videos, sums, counts = by_video(list(values.values()), video)

    def scores(times: FloatArray) -> dict[str, float | None]:
        total, num = (times @ sums).tolist(), (times @ counts).tolist()
        return {name: a / b if b else None for name, a, b in zip(values, total, num, strict=True)}

    return Corpus(videos, scores)


def by_video(
    tables: Sequence[Mapping[Any, float]], video: Mapping[Any, Any]
) -> tuple[tuple[Any, ...], FloatArray, FloatArray]:
    """(videos in the order of their first value, (videos, tables) sums and numbers of their values)."""
    videos = tuple(dict.fromkeys(video[key] for values in tables for key in values))
    place = {name: i for i, name in enumerate(videos)}
    sums, counts = np.zeros((2, len(videos), len(tables)))
    for column, values in enumerate(tables):
        at = [place[video[key]] for key in values]
        np.add.at(sums[:, column], at, list(values.values()))
        np.add.at(counts[:, column], at, 1)
    return videos, sums, counts
