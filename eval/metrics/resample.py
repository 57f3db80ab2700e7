"""Corpus scores of captions over resampled videos, quickly: for `bootstrap.intervals_of`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .bleu import bleu_counts, bleu_of
from .bootstrap import Corpus
from .cider import SIGMA
from .intervals import FloatArray, IntArray
from .meteor import meteor
from .ngrams import LONGEST, Ngram, References, Words, ngrams
from .rouge import rouge_l
from .words import words


class Ciders:
    """CIDEr of items by the document frequencies of sampled documents; `video` is each document's place."""

    def __init__(
        self,
        hypotheses: Sequence[Words],
        references: Sequence[References],
        documents: Sequence[References],
        video: Sequence[int],
        num_videos: int,
    ) -> None:
        runs: dict[Ngram, int] = {}
        owners, had = [], []
        for at, some in zip(video, documents, strict=True):
            for run in {run for item in some for counts in ngrams(item) for run in counts}:
                owners.append(at)
                had.append(runs.setdefault(run, len(runs)))
        ours, theirs, both = _Rows(runs), _Rows(runs), _Rows(runs)
        gaps, items = [], []
        for item, (hypothesis, some) in enumerate(zip(hypotheses, references, strict=True)):
            counts = ngrams(hypothesis)
            for element in some:
                for mine, right in zip(counts, ngrams(element), strict=True):
                    ours.add({run: n * n for run, n in mine.items()})
                    theirs.add({run: n * n for run, n in right.items()})
                    both.add(
                        {run: min(n, right[run]) * right[run] for run, n in mine.items() if run in right}
                    )
                gaps.append(max(len(hypothesis) - 1, 0) - max(len(element) - 1, 0))
                items.append(item)
        self._owners, self._had = np.array(owners, np.int64), np.array(had, np.int64)
        self._videos = np.bincount(np.array(video, np.int64), minlength=num_videos).astype(np.float64)
        self._num_runs, self._num_items = len(runs), len(hypotheses)
        self._rows = [rows.packed() for rows in (ours, theirs, both)]
        self._items = np.array(items, np.int64)
        self._weight = np.exp(-(np.array(gaps, np.float64) ** 2) / (2 * SIGMA**2))
        self._num_references = np.bincount(self._items, minlength=self._num_items)

    def __call__(self, times: FloatArray) -> FloatArray:
        """(items,) CIDEr of each where each video's documents are there so often, (videos,)."""
        num_documents = np.bincount(self._had, times[self._owners], self._num_runs)
        log_num = np.log(max(float(times @ self._videos), 1.0))
        squared = (log_num - np.log(np.maximum(num_documents, 1.0))) ** 2
        ours, theirs, both = (
            np.bincount(rows, counts * squared[runs], LONGEST * len(self._items)).reshape(-1, LONGEST)
            for rows, runs, counts in self._rows
        )
        norms = np.sqrt(ours * theirs)
        alike = np.divide(both, norms, out=np.zeros(norms.shape), where=norms > 0).sum(1) / LONGEST
        summed = np.bincount(self._items, alike * self._weight, self._num_items)
        return 10 * summed / np.maximum(self._num_references, 1)


class _Rows:
    """Rows of counts by run, packed: of each number its row, its run's place and itself."""

    def __init__(self, places: dict[Ngram, int]) -> None:
        self._places, self._num = places, 0
        self._entries: list[tuple[int, int, int]] = []

    def add(self, row: Mapping[Ngram, int]) -> None:
        for run, count in row.items():
            self._entries.append((self._num, self._places.setdefault(run, len(self._places)), count))
        self._num += 1

    def packed(self) -> IntArray:
        """(3, n)"""
        return np.array(self._entries, np.int64).reshape(-1, 3).T


def caption_corpus(
    reference: Mapping[Any, Sequence[str]], predicted: Mapping[Any, str], video: Mapping[Any, Any]
) -> Corpus:
    """The scores of `captions.caption_scores` of resampled videos: CIDEr, BLEU-1 .. 4, ROUGE-L, METEOR."""
    videos = tuple(dict.fromkeys(video[key] for key in reference))
    place = {name: i for i, name in enumerate(videos)}
    at = np.array([place[video[key]] for key in reference], np.int64)
    hypotheses = [words(predicted.get(key, "")) for key in reference]
    references = [[words(text) for text in texts] for texts in reference.values()]
    ciders = Ciders(hypotheses, references, references, at.tolist(), len(videos))
    bleus = _summed(bleu_counts(hypotheses, references), at, len(videos))
    rouges = _summed(np.array(rouge_l(hypotheses, references))[:, None], at, len(videos))[:, 0]
    nums = np.bincount(at, minlength=len(videos)).astype(np.float64)
    program = meteor()
    if program is not None:
        counts, score_of = program.counts(hypotheses, references)
        meteors = _summed(counts, at, len(videos))

    def scores(times: FloatArray) -> dict[str, float | None]:
        num = float(times @ nums)
        if not num:
            return dict.fromkeys(("CIDEr", *(f"BLEU-{n}" for n in range(1, 5)), "ROUGE-L", "METEOR"))
        return {
            "CIDEr": float(ciders(times) @ times[at]) / num,
            **{f"BLEU-{n}": value for n, value in enumerate(bleu_of(times @ bleus), 1)},
            "ROUGE-L": float(times @ rouges) / num,
            "METEOR": score_of(times @ meteors) if program is not None else None,
        }

    return Corpus(videos, scores)


def _summed(rows: FloatArray, at: IntArray, num: int) -> FloatArray:
    """(num, k): the sums of (n, k) rows that belong to each."""
    out = np.zeros((num, rows.shape[1] if rows.ndim == 2 else 0))
    np.add.at(out, at, rows)
    return out
