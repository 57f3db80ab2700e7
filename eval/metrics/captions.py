"""Captions against references, over a whole corpus: CIDEr, BLEU, ROUGE-L and METEOR."""

from collections.abc import Mapping, Sequence
from typing import Any

from .bleu import bleu
from .cider import cider
from .intervals import entry_counts, mean
from .meteor import meteor, meteor_name
from .rouge import rouge_l
from .words import words


def caption_scores(reference: Mapping[Any, Sequence[str]], predicted: Mapping[Any, str]) -> dict[str, Any]:
    """CIDEr, BLEU-1 .. 4, ROUGE-L and METEOR of captions, over the corpus, as the captioning evaluators do.

    An item without a predicted caption scores like an empty caption.

    Each score is None of no items, METEOR without its program. num_empty are predictions without a word.
    """
    hypotheses = [words(predicted.get(key, "")) for key in reference]
    references = [[words(text) for text in texts] for texts in reference.values()]
    bleus = bleu(hypotheses, references) if references else [None] * 4
    program = meteor()
    return {
        "CIDEr": mean(cider(hypotheses, references)),
        **{f"BLEU-{n}": value for n, value in enumerate(bleus, 1)},
        "ROUGE-L": mean(rouge_l(hypotheses, references)),
        "METEOR": program(hypotheses, references)[0] if program and references else None,
        "meteor": meteor_name(),
        "num": len(reference),
        **entry_counts(reference, predicted, lambda text: not words(text), missing="num_unanswered"),
    }
