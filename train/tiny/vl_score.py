"""How well a stock model answers about unseen synthetic videos that nothing is merged in."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from ...compression.baselines import spend
from ...llm import CompressedVideo
from ...model import LongCompress
from ...synthetic import places
from ...synthetic.questions import ask, grade
from .clips import make_clips

FIRST_SEED = 11_500_000  # training stays below
SECONDS = (20.0, 40.0, 60.0)
KINDS = ("when_seen", *places.KINDS)
HEARD = "when_heard"


@torch.no_grad()
def score_answers(
    model: LongCompress, num_videos: int, *, seconds: Sequence[float] = SECONDS, kinds: Sequence[str] = (),
    questions: int = 4, first_seed: int = FIRST_SEED,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """By kind of question its mean score, the number of questions, and the share of the commonest answer.

    Each video, of `seconds` in turns, has at most `questions` of each kind; (): all that it can know.
    """
    kinds = kinds or (*KINDS, *[HEARD] * ("audio" in model.media))
    scores, answers = defaultdict(list), defaultdict(list)
    for number in range(num_videos):
        seed, length = first_seed + number, seconds[number % len(seconds)]
        (clip,) = make_clips(model, [seed], length, {"*": 1}, progress=False, letters=True)
        streams = spend("full", list(clip.segments), 0, model.config.budget)
        video = CompressedVideo(streams, {}, sum(map(len, streams.values())), clip.duration_s)
        asked = []
        for kind in kinds:
            generator = np.random.default_rng([first_seed, number])
            asked += ask(clip.events, clip.duration_s, num=questions, generator=generator, kinds=[kind])
        if asked:
            texts = model.llm.answer(model.llm.prefill(video), [q.text for q in asked], max_new_tokens=12)
            for question, text in zip(asked, texts, strict=True):
                scores[question.kind].append(grade(question, text)["score"])
                answers[question.kind].append(question.answer)
    return {kind: _summary(scores[kind], answers[kind]) for kind in kinds if scores[kind]}


def _summary(scores: list[float], answers: list[str]) -> dict[str, float]:
    commonest = max(answers.count(answer) for answer in set(answers)) / len(answers)
    return {"score": round(float(np.mean(scores)), 3), "n": len(scores), "commonest": round(commonest, 3)}
