"""Videos in words: tokens that hold names instead of features, for a language model without projectors.

A language model trained on them knows questions and times, and no frame or audio. Projectors and LoRA must
then learn to see and to hear.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from longcompress.llm import CompressedVideo, Example
from longcompress.llm.prompt import encode
from longcompress.synthetic.questions import ask
from longcompress.synthetic.scenes import OBJECTS, SOUNDS, SceneEvent, make_scene
from longcompress.train.data.sampler import stage_at
from longcompress.types import Tokens

NAMES = {"video": OBJECTS, "audio": SOUNDS}
TOKENS = {"video": 14, "audio": 3}  # of ten seconds, about as many as a tenth of the raw ones
FAINT = 0.3  # share of the tokens that hold their name with less than its whole weight
SEGMENT_S = 10.0


@dataclass(frozen=True)
class TextMix:
    """Videos of a stage of the training on text.

    Attributes:
        steps: optimizer steps.
        videos: videos a step.
        seconds: lengths, one sampled for each step; multiples of 10.
        questions: about each video.
        kinds: weight of each kind of question.
        tens: videos begin at a random ten of seconds below this many.
    """

    steps: int
    videos: int
    seconds: tuple[int, ...]
    questions: int
    kinds: dict[str, float]
    tens: int = 60


class Spelled(nn.Module):
    """(N, K) weights of K names -> (N, D): the language model's own embeddings of their words.

    Args:
        table: the input embeddings.
        tokenizer: the language model's.
        names: K of them.
    """

    def __init__(self, table: nn.Embedding, tokenizer: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.table = table
        words = [encode(tokenizer, name) for name in names]
        longest = max(map(len, words))
        ids = torch.tensor([w + [-1] * (longest - len(w)) for w in words])
        self.ids: Tensor
        self.register_buffer("ids", ids, persistent=False)

    def forward(self, weights: Tensor) -> Tensor:
        """Twice the mean embedding of each name, by weight: a token says loudest what it shows."""
        words = self.table(self.ids.clamp_min(0)) * (self.ids >= 0)[..., None]
        means = words.sum(1) / (self.ids >= 0).sum(1, keepdim=True)
        return 2 * weights.to(means.dtype) @ means


class TextVideos:
    """Batches of videos in words with questions, stage after stage (the last one goes on).

    Args:
        mixes: the stages.
        seed: of everything random; scenes have numbers from (seed + 1) * 2_000_000 on.
    """

    def __init__(self, mixes: Sequence[TextMix], seed: int) -> None:
        self.mixes, self.seed = list(mixes), seed

    def batch(self, number: int) -> list[Example]:
        """The videos of step `number`; a pure function of it and the seed."""
        mix = stage_at(self.mixes, number)
        random = np.random.default_rng([self.seed, number])
        seconds = int(random.choice(mix.seconds))
        num = max(1, round(mix.videos * (min(mix.seconds) / seconds) ** 0.5))
        videos: list[Example] = []
        while len(videos) < num:
            scene = make_scene((self.seed + 1) * 2_000_000 + int(random.integers(1_000_000)), seconds)
            offset_s = 10 * int(random.integers(max(1, int(random.choice([1, mix.tens])) - seconds // 10)))
            questions = ask(
                scene.events, seconds, num=mix.questions, generator=random, kinds=mix.kinds,
                offset_s=offset_s, paraphrase=bool(random.random() < 0.5),
            )  # fmt: skip
            if questions:  # a video may have no question of the kinds asked for
                video = in_words(scene.events, seconds, offset_s, random)
                videos.append(Example(video, [(q.text, q.answer) for q in questions]))
        return videos


def in_words(
    events: Sequence[SceneEvent], duration_s: float, offset_s: int, random: np.random.Generator
) -> CompressedVideo:
    """A video as its compressed tokens would be, if encoders gave names: by segment, each event in one or
    two tokens, the others empty."""
    streams = {}
    for stream, names in NAMES.items():
        rows: list[tuple[float, float, int]] = []  # first and last second, name (-1: nothing)
        for start in np.arange(0, duration_s, SEGMENT_S):
            rows += _segment(stream, events, float(start), names, random)
        weights = torch.zeros(len(rows), len(names))
        for i, (_, _, which) in enumerate(rows):
            if which >= 0:
                weights[i, which] = random.uniform(0.4, 1) if random.random() < FAINT else 1.0
        start_s = torch.tensor([a for a, _, _ in rows], dtype=torch.float64) + offset_s
        end_s = torch.tensor([b for _, b, _ in rows], dtype=torch.float64) + offset_s
        size = (end_s - start_s).float()
        tokens = Tokens(weights, size, (start_s + end_s) / 2, start_s, end_s)
        streams[stream] = tokens.take(tokens.time_s.argsort(stable=True))
    num = sum(len(t) for t in streams.values())
    return CompressedVideo(streams, {}, num)


def _segment(
    stream: str, events: Sequence[SceneEvent], start_s: float, names: Sequence[str],
    random: np.random.Generator,
) -> list[tuple[float, float, int]]:  # fmt: skip
    """Tokens of ten seconds."""
    rows: list[tuple[float, float, int]] = []
    for event in events:
        if event.kind != stream:
            continue
        first = ceil(event.start_s) if stream == "video" else floor(event.start_s + 0.5)
        end = ceil(event.end_s) if stream == "video" else ceil(event.end_s - 0.5)
        first, end = max(first, int(start_s)), min(max(end, first + 1), int(start_s + SEGMENT_S))
        if first >= end:
            continue
        cuts = [first, end]
        if end - first > 1 and random.random() < 0.3:
            cuts.insert(1, int(random.integers(first + 1, end)))
        rows += [(float(a), float(b), names.index(event.name)) for a, b in pairwise(cuts)]
    while len(rows) < TOKENS[stream]:
        a = int(random.integers(int(start_s), int(start_s + SEGMENT_S)))
        b = int(random.integers(a + 1, int(start_s + SEGMENT_S) + 1))
        rows.append((float(a), float(b), -1))
    return rows
