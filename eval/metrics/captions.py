"""Captions against references, over a whole corpus: CIDEr, BLEU, ROUGE-L and METEOR.

Each is a sum over items that becomes a score at the end, or a mean: so are they quick over resampled videos.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_array

from .bootstrap import Corpus
from .intervals import FloatArray, Metrics, entry_counts
from .meteor import meteor, meteor_name
from .words import References, Words, words

Ngram = tuple[str, ...]
LONGEST = 4  # words of a run
BLEUS = tuple(f"BLEU-{n}" for n in range(1, LONGEST + 1))
# The captioning evaluator's guards against dividing by zero, which reach into the eighth digit.
_TINY, _SMALL = 1e-15, 1e-9
_SIGMA = 6.0  # of CIDEr's penalty for another length
_BETA = 1.2  # of ROUGE-L


def caption_scores(
    reference: Mapping[Any, Sequence[str]], predicted: Mapping[Any, str], video: Mapping[Any, Any]
) -> tuple[Metrics, Corpus]:
    """(scores of captions over the corpus, as the captioning evaluators do; the same of resampled videos).

    An item without a predicted caption scores like an empty caption. `video` is of each item.

    Returns:
        CIDEr, BLEU-1 .. 4, ROUGE-L and METEOR: None of no items, METEOR without its program. num_empty are
        predictions without a word.
    """
    videos = tuple(dict.fromkeys(video[key] for key in reference))
    place = {name: i for i, name in enumerate(videos)}
    at = np.array([place[video[key]] for key in reference], np.int64)
    hypotheses = [words(predicted.get(key, "")) for key in reference]
    references = [[words(text) for text in texts] for texts in reference.values()]

    def summed(rows: FloatArray) -> FloatArray:
        """(videos, k) sums of (items, k)."""
        out = np.zeros((len(videos), *rows.shape[1:]))
        np.add.at(out, at, rows)
        return out

    ciders = resampled_cider(hypotheses, references, references, at, len(videos))
    bleus, rouges = summed(bleu_counts(hypotheses, references)), summed(rouge_l(hypotheses, references))
    nums = summed(np.ones(len(at)))
    program = meteor() if len(at) else None
    if program:
        meteors = summed(program.counts(hypotheses, references))

    def scores(times: FloatArray) -> dict[str, float | None]:
        num = float(times @ nums)
        if not num:
            return dict.fromkeys(("CIDEr", *BLEUS, "ROUGE-L", "METEOR"))
        return {
            "CIDEr": float(ciders(times) @ times[at]) / num,
            **dict(zip(BLEUS, bleu_of(times @ bleus), strict=True)),
            "ROUGE-L": float(times @ rouges) / num,
            "METEOR": program.score(times @ meteors) if program else None,
        }

    corpus = Corpus(videos, scores)
    counts_of = entry_counts(
        reference, predicted, lambda text: not words(text), ("num_unanswered", "num_empty")
    )
    return {**corpus.whole(), "meteor": meteor_name(), "num": len(reference), **counts_of}, corpus


def ngrams(words: Words) -> list[Counter[Ngram]]:
    """How often each run of n words occurs, for n = 1 .. 4: what BLEU and CIDEr count."""
    return [Counter(zip(*(words[start:] for start in range(n)), strict=False)) for n in range(1, LONGEST + 1)]


def bleu(hypotheses: Sequence[Words], references: Sequence[References]) -> list[float]:
    """[BLEU-1, .., BLEU-4], each in [0, 1].

    BLEU-n is the geometric mean of the shares p_1 .. p_n times a penalty for being short. p_k is, over the
    whole corpus, the number of runs of k words of the hypotheses that are also in a reference of their item
    (each at most as often as in the reference that has it most often) over the number of runs of k words. The
    penalty is exp(1 - r / h) if the hypotheses have fewer words, h, than their references, r: of each item
    the reference counts whose length is closest, the shorter of two.

    No items, or none with a word: four zeros. BLEU-n is next to 0 as soon as no run of n words is right, and
    at most 0.032 where all hypotheses are shorter than n words: the evaluator's guards against dividing by
    zero.
    """
    return bleu_of(bleu_counts(hypotheses, references).sum(0))


def bleu_counts(hypotheses: Sequence[Words], references: Sequence[References]) -> FloatArray:
    """(items, 10) what BLEU is made of, to be summed: right runs of 1 .. 4 words, all runs of 1 .. 4 words,
    words of the hypothesis and of the reference that counts."""
    out = np.zeros((len(hypotheses), 2 * LONGEST + 2))
    for row, hypothesis, some in zip(out, hypotheses, references, strict=True):
        known = [Counter[Ngram]() for _ in range(LONGEST)]
        for item in some:
            known = [highest | counts for highest, counts in zip(known, ngrams(item), strict=True)]
        for n, (counts, highest) in enumerate(zip(ngrams(hypothesis), known, strict=True)):
            row[n], row[LONGEST + n] = (counts & highest).total(), counts.total()
        row[-2] = len(hypothesis)
        row[-1] = min((abs(len(element) - len(hypothesis)), len(element)) for element in some)[1]
    return out


def bleu_of(counts: FloatArray) -> list[float]:
    """[BLEU-1, .., BLEU-4] of (10,) summed `bleu_counts`."""
    num_words, num_expected = counts[-2:].tolist()
    if not num_words:
        return [0.0] * LONGEST
    ratio = (num_words + _TINY) / (num_expected + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    products = np.cumprod((counts[:LONGEST] + _TINY) / (counts[LONGEST:-2] + _SMALL))
    return [product ** (1 / n) * penalty for n, product in enumerate(products.tolist(), 1)]


def cider(hypotheses: Sequence[Words], references: Sequence[References]) -> list[float]:
    """CIDEr (the evaluators' CIDEr-D) of each item, in [0, 10]; of a corpus it is their mean.

    Each run of n words of a caption weighs (how often it is there) * log (items in all / items of which a
    reference has it). For n = 1 .. 4 the hypothesis is compared with a reference as by cosine, with its
    weight of a run cut to that of the reference; this is multiplied by exp(-d^2 / 72), d the difference of
    their lengths, and by 10; then comes the mean over n and over references.

    A corpus of one item knows no rare words: everything weighs log 1 = 0 and every score is 0.
    """
    return resampled_cider(hypotheses, references, references, [0] * len(references), 1)(np.ones(1)).tolist()


def resampled_cider(
    hypotheses: Sequence[Words],
    references: Sequence[References],
    documents: Sequence[References],
    video: Sequence[int] | np.ndarray,
    num_videos: int,
) -> Callable[[FloatArray], FloatArray]:
    """(videos,) how often each video is in a sample, to (items,) CIDEr by its document frequencies.

    These are of `documents`, each of which belongs to the video of that number.
    """
    places: defaultdict[Ngram, int] = defaultdict(lambda: len(places))
    has = [
        (at, places[run], 1)
        for at, some in zip(video, documents, strict=True)
        for run in dict.fromkeys(run for item in some for counts in ngrams(item) for run in counts)
    ]
    # A row for each reference and n: products of counts, which a run's squared weight multiplies.
    ours, theirs, both = [], [], []
    items: list[int] = []
    gaps: list[int] = []
    for item, (hypothesis, some) in enumerate(zip(hypotheses, references, strict=True)):
        for reference in some:
            for n, (mine, right) in enumerate(zip(ngrams(hypothesis), ngrams(reference), strict=True)):
                row = LONGEST * len(items) + n
                ours += [(row, places[run], num**2) for run, num in mine.items()]
                theirs += [(row, places[run], num**2) for run, num in right.items()]
                both += [(row, places[run], min(num, right[run]) * right[run]) for run, num in mine.items()]
            items.append(item)
            # The evaluator takes the number of runs of two words for the length.
            gaps.append(max(len(hypothesis) - 1, 0) - max(len(reference) - 1, 0))
    num_documents = np.bincount(np.asarray(video, np.int64), minlength=num_videos)
    documents_with = _sparse(has, num_videos, len(places))
    products = [_sparse(entries, LONGEST * len(items), len(places)) for entries in (ours, theirs, both)]
    owner, num_references = np.array(items, np.int64), np.bincount(items, minlength=len(hypotheses))
    penalty = np.exp(-(np.array(gaps, np.float64) ** 2) / (2 * _SIGMA**2))

    def ciders(times: FloatArray) -> FloatArray:
        log_num = np.log(max(float(times @ num_documents), 1.0))
        squared = (log_num - np.log(np.maximum(times @ documents_with, 1.0))) ** 2
        own, right, shared = ((rows @ squared).reshape(-1, LONGEST) for rows in products)
        norms = np.sqrt(own * right)
        alike = np.divide(shared, norms, out=np.zeros(norms.shape), where=norms > 0).mean(1)
        return 10 * np.bincount(owner, alike * penalty, len(hypotheses)) / np.maximum(num_references, 1)

    return ciders


def _sparse(entries: Sequence[tuple[int, int, int]], num_rows: int, num_columns: int) -> Any:
    row, column, value = np.array(entries, np.int64).reshape(-1, 3).T
    return coo_array((value, (row, column)), (num_rows, num_columns)).tocsr()


def rouge_l(hypotheses: Sequence[Words], references: Sequence[References]) -> FloatArray:
    """(items,) ROUGE-L, in [0, 1]; of a corpus it is their mean.

    With L the length of the longest common subsequence of hypothesis and reference, P is the greatest L /
    (words of the hypothesis) and R the greatest L / (words of the reference) over references, each by itself;
    the score is (1 + b^2) P R / (R + b^2 P) with b = 1.2. It is 0 without a common word, and for a
    hypothesis without words.
    """
    out = np.zeros(len(hypotheses))
    for i, (hypothesis, some) in enumerate(zip(hypotheses, references, strict=True)):
        lengths = [common_length(hypothesis, item) for item in some]
        if any(lengths):
            precision = max(lengths) / len(hypothesis)
            recall = max(length / len(item) for length, item in zip(lengths, some, strict=True) if item)
            out[i] = (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)
    return out


def common_length(a: Words, b: Words) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for i, other in enumerate(b, 1):
            diagonal, row[i] = row[i], diagonal + 1 if word == other else max(row[i], row[i - 1])
    return row[-1]
