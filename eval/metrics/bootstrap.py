"""How sure a mean is: intervals by bootstrap, whole videos drawn at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from .intervals import FloatArray, mean

_CHUNK = 1 << 22  # numbers drawn at once


def interval(
    values: Mapping[Any, float],
    video: Mapping[Any, Any] | None = None,
    *,
    confidence: float = 0.95,
    num_draws: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """The mean of values and an interval around it, from draws of whole videos with replacement.

    Questions on one video rise and fall together; drawing them one by one would make the interval too small.
    Each draw takes as many videos as there are, with all their values, and its mean is over these values; the
    interval holds the middle `confidence` of the draws (percentiles).

    Args:
        values: one number an example.
        video: the video of each; each example is one of its own if not given.
        confidence: in (0, 1).
        num_draws: at least 1.
        seed: the same seed and input give the same numbers.

    Returns:
        mean, low, high, num, num_videos. Of one video low and high are None: it says nothing of others; of
        no values mean is None too.
    """
    sums, counts = _by_video(values, video)
    draws = _draws(sums, counts, confidence, num_draws, seed)
    low, high = _middle(draws, confidence)
    return {
        "mean": mean(list(values.values())),
        "low": low,
        "high": high,
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
    """`interval` of values minus other, example by example: which of two runs is better, and how surely.

    Both are drawn together, so what is hard for both falls out.

    Args:
        values: one number an example.
        other: of another run; the same examples.
        video: as in `interval`.
        confidence: as in `interval`.
        num_draws: as in `interval`.
        seed: as in `interval`.

    Returns:
        As `interval`, with share_above, the share of draws above 0, those at 0 counted half (None like low).

    Raises:
        ValueError: they are not of the same examples.
    """
    if values.keys() != other.keys():
        only, lacking = len(values.keys() - other.keys()), len(other.keys() - values.keys())
        raise ValueError(
            f"values and other must be of the same examples; {only} are only in values, {lacking} only in "
            "other: score both runs on the examples that both have"
        )
    gained = {key: value - other[key] for key, value in values.items()}
    out = interval(gained, video, confidence=confidence, num_draws=num_draws, seed=seed)
    draws = _draws(*_by_video(gained, video), confidence, num_draws, seed)
    above = float(np.mean(draws > 0) + np.mean(draws == 0) / 2) if len(draws) else None
    return out | {"share_above": above}


def interval_of(
    statistic: Callable[[Sequence[Any]], float],
    videos: Sequence[Any],
    *,
    confidence: float = 0.95,
    num_draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """`interval` of what is no mean of examples: a corpus score, a ratio.

    Args:
        statistic: videos, some of them several times, to a number.
        videos: all of them.
        confidence: as in `interval`.
        num_draws: how often `statistic` is asked.
        seed: as in `interval`.

    Returns:
        value (of all videos), low, high, num_videos; None as in `interval`.
    """
    _check(confidence, num_draws)
    rng = np.random.default_rng(seed)
    draws = np.zeros(0)
    if len(videos) > 1:
        places = rng.integers(len(videos), size=(num_draws, len(videos)))
        draws = np.array([statistic([videos[i] for i in row]) for row in places.tolist()])
    low, high = _middle(draws, confidence)
    return {
        "value": statistic(videos) if len(videos) else None,
        "low": low,
        "high": high,
        "num_videos": len(videos),
    }


@dataclass(frozen=True)
class Corpus:
    """Scores that are no mean over examples, in a form that is quickly computed again over drawn videos.

    Attributes:
        videos: what is drawn.
        scores: (videos,) float64, how often each is drawn, to the scores by name; None of nothing.
    """

    videos: tuple[Any, ...]
    scores: Callable[[FloatArray], Mapping[str, float | None]]


def intervals_of(
    corpus: Corpus,
    *,
    confidence: float = 0.95,
    num_draws: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, dict[str, Any]]:
    """`interval` of scores of a corpus, by name.

    Each draw takes as many videos as there are, with replacement, each with all its examples, and all scores
    are computed again over this corpus: one that is drawn twice is there twice, in CIDEr's document
    frequencies too.

    Args:
        corpus: its scores.
        confidence: as in `interval`.
        num_draws: how often the scores are computed.
        seed: as in `interval`.
        progress: show a bar.

    Returns:
        For each name mean (the score of all videos), low, high, num_videos. A draw in which a score is None
        does not count for it; low and high are None as in `interval`, and where no draw has one.
    """
    _check(confidence, num_draws)
    num = len(corpus.videos)
    whole = corpus.scores(np.ones(num))
    draws: dict[str, list[float]] = {name: [] for name in whole}
    if num > 1:
        rng = np.random.default_rng(seed)
        for _ in tqdm(range(num_draws), desc="intervals", unit="draw", disable=None if progress else True):
            times = rng.multinomial(num, np.full(num, 1 / num)).astype(np.float64)
            for name, value in corpus.scores(times).items():
                if value is not None:
                    draws[name].append(value)
    out = {}
    for name, value in whole.items():
        low, high = _middle(np.array(draws[name]), confidence)
        out[name] = {"mean": value, "low": low, "high": high, "num_videos": num}
    return out


def means_of(values: Mapping[str, Mapping[Any, float]], video: Mapping[Any, Any]) -> Corpus:
    """Means over examples as a corpus: many of them at once, of different examples each.

    Args:
        values: by name, one number an example.
        video: the video of each.
    """
    videos = tuple(dict.fromkeys(video[key] for some in values.values() for key in some))
    place = {one: i for i, one in enumerate(videos)}
    sums, counts = np.zeros((2, len(videos), len(values)))
    for column, some in enumerate(values.values()):
        at = [place[video[key]] for key in some]
        np.add.at(sums[:, column], at, list(some.values()))
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
    at = [place[key if video is None else video[key]] for key in values]
    numbers = np.array(list(values.values()), np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"values must be finite, got {numbers[~np.isfinite(numbers)][:3].tolist()}")
    if not at:
        return np.zeros(0), np.zeros(0)
    sums = np.bincount(at, numbers, len(place)).astype(np.float64)
    return sums, np.bincount(at, minlength=len(place)).astype(np.float64)


def _draws(sums: FloatArray, counts: FloatArray, confidence: float, num_draws: int, seed: int) -> FloatArray:
    """(num_draws,) the mean of each draw; (0,) of fewer than two videos."""
    _check(confidence, num_draws)
    num = len(sums)
    if num < 2:
        return np.zeros(0)
    rng = np.random.default_rng(seed)
    some = max(_CHUNK // num, 1)
    parts = []
    for start in range(0, num_draws, some):
        times = rng.multinomial(num, np.full(num, 1 / num), size=min(some, num_draws - start))
        parts.append((times @ sums) / (times @ counts))
    return np.concatenate(parts)


def _middle(draws: FloatArray, confidence: float) -> tuple[float | None, float | None]:
    if not len(draws):
        return None, None
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _check(confidence: float, num_draws: int) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if num_draws < 1:
        raise ValueError(f"num_draws must be at least 1, got {num_draws}")
