"""Confidence intervals by cluster bootstrap: whole videos are resampled, each with all its examples.

Questions about one video rise and fall together. Resampling them singly would make intervals too small.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from tqdm import tqdm

from .intervals import FloatArray, mean

_CHUNK = 1 << 22  # resampled numbers at a time


def interval(
    values: Mapping[Any, float],
    video: Mapping[Any, Any] | None = None,
    *,
    confidence: float = 0.95,
    num_draws: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """The mean of values and its percentile interval.

    Args:
        values: one number an example.
        video: the video of each; without it each example is a video of its own.
        confidence: in (0, 1).
        num_draws: at least 1.
        seed: the same seed and input give the same numbers.

    Returns:
        mean (None of no values), low, high (None with fewer than two videos), num, num_videos.
    """
    sums, counts = _by_video(values, video)
    draws = ratio_draws(sums, counts, num_draws, seed)
    return {
        "mean": mean(list(values.values())),
        **quantiles(draws, confidence),
        "num": len(values),
        "num_videos": len(sums),
    }


def difference(
    values: Mapping[Any, float],
    other: Mapping[Any, float],
    video: Mapping[Any, Any] | None = None,
    *,
    confidence: float = 0.95,
    num_draws: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """`interval` of values minus other, example by example: both are resampled together.

    Returns:
        As `interval`, with share_above: the share of draws above 0, draws at 0 counted half. None where low
        is None.

    Raises:
        ValueError: they are not of the same examples.
    """
    if values.keys() != other.keys():
        only, lacking = len(values.keys() - other.keys()), len(other.keys() - values.keys())
        raise ValueError(
            f"values and other must be of the same examples; {only} are only in values, {lacking} only in "
            "other: score both runs on the examples that both have"
        )
    gains = {key: value - other[key] for key, value in values.items()}
    draws = ratio_draws(*_by_video(gains, video), num_draws, seed)
    above = float(np.mean(draws > 0) + np.mean(draws == 0) / 2) if len(draws) else None
    out = interval(gains, video, confidence=confidence, num_draws=num_draws, seed=seed)
    return out | {"share_above": above}


def ratio_draws(top: FloatArray, bottom: FloatArray, num_draws: int, seed: int) -> FloatArray:
    """(num_draws,) sums of top (videos,) over sums of bottom, resampled, 0 where bottom is; (0,) of one
    video."""
    if num_draws < 1:
        raise ValueError(f"num_draws must be at least 1, got {num_draws}")
    if len(top) < 2:
        return np.zeros(0)

    def ratio(a: FloatArray, b: FloatArray, axis: int) -> FloatArray:
        above, below = np.asarray(a.sum(axis)), np.asarray(b.sum(axis))
        return np.divide(above, below, out=np.zeros(above.shape), where=below != 0)

    draws: FloatArray = stats.bootstrap(
        (top, bottom), ratio, paired=True, vectorized=True, method="percentile", n_resamples=num_draws,
        batch=max(1, _CHUNK // len(top)), rng=seed,
    ).bootstrap_distribution  # fmt: skip
    return draws


def quantiles(draws: FloatArray, confidence: float = 0.95) -> dict[str, float | None]:
    """{"low", "high"} of the middle `confidence` of draws; None of none."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if not len(draws):
        return {"low": None, "high": None}
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"low": float(low), "high": float(high)}


@dataclass(frozen=True)
class Corpus:
    """Scores that are no mean over examples, in a form that is quick to compute for resampled videos.

    `scores` takes (videos,) float64, how often each is in the sample, to the scores by name; None of nothing.
    """

    videos: tuple[Any, ...]
    scores: Callable[[FloatArray], Mapping[str, float | None]]


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
    whole = corpus.scores(np.ones(num))
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
    videos = tuple(dict.fromkeys(video[key] for numbers in values.values() for key in numbers))
    place = {name: i for i, name in enumerate(videos)}
    sums, counts = np.zeros((2, len(videos), len(values)))
    for column, numbers in enumerate(values.values()):
        at = [place[video[key]] for key in numbers]
        np.add.at(sums[:, column], at, list(numbers.values()))
        np.add.at(counts[:, column], at, 1)

    def scores(times: FloatArray) -> dict[str, float | None]:
        total, num = (times @ sums).tolist(), (times @ counts).tolist()
        return {name: a / b if b else None for name, a, b in zip(values, total, num, strict=True)}

    return Corpus(videos, scores)


def _by_video(values: Mapping[Any, float], video: Mapping[Any, Any] | None) -> tuple[FloatArray, FloatArray]:
    """Sum and number of the values of each video, in the order of their first."""
    place: dict[Any, int] = {}
    for key in values:
        if video is not None and key not in video:
            raise ValueError(f"video must name the video of each example, got none for {key!r}")
        place.setdefault(key if video is None else video[key], len(place))
    at = np.array([place[key if video is None else video[key]] for key in values], np.int64)
    numbers = np.array(list(values.values()), np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"values must be finite, got {numbers[~np.isfinite(numbers)][:3].tolist()}")
    sums = np.bincount(at, numbers, len(place)).astype(np.float64)
    return sums, np.bincount(at, minlength=len(place)).astype(np.float64)
