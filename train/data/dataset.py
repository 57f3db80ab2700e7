"""Shards become examples: read by ranges, compressed to the batch's budget, asked about; bad ones are named."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch.utils.data import IterableDataset

from ...llm import Example, Video
from ...llm.prompt import encode
from ...model import LongCompress
from ..loaders import turn
from ..shards.sample import JSON, check_model, features_of, hold_of
from .questions import WORDING, Kind, Times, shortened, turns_of
from .records import parse_record
from .sampler import Batch, Mixture, batches
from .truncate import Room

SPARE = 16  # samples that are tried in place of a share none of whose own can be used


@dataclass(frozen=True)
class QuestionSampling:
    """What is asked about the videos of a stage.

    Attributes:
        kinds: weight of each kind of question; a video that has none of the kind drawn is asked another.
        times: how answers' times are written.
        wording: kind -> forms of its question, instead of ours; {text}, {start} and {end} are filled in.
        most: questions about a video at most.
        text_tokens: tokens of a video's questions and answers at most.
        drop: share of videos that lose one of their streams (where they have several).
    """

    kinds: dict[str, float] = field(default_factory=lambda: {"grounding": 1.0, "segment": 1.0, "dense": 0.5})
    times: Times = "seconds"
    most: int = 8
    text_tokens: int = 512
    drop: float = 0.0
    wording: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.kinds) - set(get_args(Kind)))
        if unknown or not any(weight > 0 for weight in self.kinds.values()):
            raise ValueError(
                f"kinds must give a weight > 0 to some of {', '.join(get_args(Kind))}, got {self.kinds}"
            )
        if set(self.wording) - set(WORDING) or not all(self.wording.values()):
            raise ValueError(f"wording must give forms to some of {', '.join(WORDING)}, got {self.wording}")


@dataclass(frozen=True)
class Bad:
    """A sample that could not be used: which, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Loaded:
    """A rank's part of a batch, or a share of it where gradients are accumulated.

    Attributes:
        number: of the batch.
        examples: its videos with questions.
        keys: of the videos.
        video_s: seconds that they last, all together.
        bad: samples that could not be used.
        dropped: turns and events that texts were shortened by.
    """

    number: int
    examples: list[Example]
    keys: list[str]
    video_s: float
    bad: list[Bad]
    dropped: int


class ShardData(IterableDataset[Loaded]):
    """A rank's parts of the batches, one after the other; workers take turns.

    Args:
        mixture: where samples come from.
        model: compresses them; its encoders must be the ones that made the features, its segments the same.
        asking: what is asked.
        seed, tokens, budgets, least, most, start: of `batches`.
        rank, world: which part.
        accumulate: shares that a rank's part comes in, one after the other.
        on_error: "quarantine" leaves a bad sample out and names it in `Loaded.bad`; "stop" raises.

    Raises:
        ValueError: features of other encoders or segments than the model's.
    """

    def __init__(
        self, mixture: Mixture, model: LongCompress, question_sampling: QuestionSampling, *, seed: int, tokens: int,
        budgets: Sequence[int], least: int = 1, most: int = 0, start: int = 0, rank: int = 0, world: int = 1,
        accumulate: int = 1,
        on_error: Literal["quarantine", "stop"] = "quarantine",
    ) -> None:  # fmt: skip
        self.mixture, self.question_sampling, self.on_error = mixture, question_sampling, on_error
        self.compressor, self.tokenizer = model.compressor, model.llm.tokenizer
        self.room = Room.of(model.llm)
        self.seed, self.tokens, self.budgets, self.least = seed, tokens, tuple(budgets), least
        self.most, self.start, self.rank, self.world, self.accumulate = most, start, rank, world, accumulate
        if not 0 <= rank < world or accumulate < 1 or least < world * accumulate:
            raise ValueError(
                f"rank must be in [0, {world}), accumulate >= 1 and least >= world x accumulate = "
                f"{world * accumulate}, got {rank}, {accumulate} and {least}"
            )
        for index in mixture.indexes:
            if not index.features:
                raise ValueError(f"{index.folder} holds media, not features; make them with --kind features")
            check_model(index.features, model, str(index.folder))

    def __iter__(self) -> Iterator[Loaded]:
        first, step = turn()
        torch.set_num_threads(1)
        plan = batches(
            self.mixture, seed=self.seed, tokens=self.tokens, budgets=self.budgets, least=self.least,
            most=self.most, start=self.start,
        )  # fmt: skip
        place = 0
        for batch in plan:
            for share in range(self.accumulate):
                if place % step == first:
                    yield self.load(batch, share)
                place += 1

    def load(self, batch: Batch, share: int = 0) -> Loaded:
        """A share of this rank's part of a batch; a pure function of it.

        Where none of its samples can be used, the next one of the same data set that can takes their place: a
        step waits for every rank.
        """
        examples: list[Example] = []
        keys: list[str] = []
        bad: list[Bad] = []
        dropped, video_s = 0, 0.0
        mine = list(batch.of_rank(self.rank + self.world * share, self.world * self.accumulate))
        which, last = mine[-1]
        size = len(self.mixture.indexes[which])
        spare = [(which, (last + 1 + i) % size) for i in range(min(SPARE, size - 1))]
        for place, (of, number) in enumerate([*mine, *spare]):
            if place >= len(mine) and examples:
                break
            index = self.mixture.indexes[of]
            entry = index.entries[number]
            draw = np.random.default_rng([self.seed, batch.number, of, number])
            try:
                members = index.read(number)
                example, gone = self.example(
                    members, f"{index.folder}: sample {entry.key!r}", batch.budget, draw
                )
            except (ValueError, OSError) as error:
                if self.on_error == "stop":
                    raise
                bad.append(Bad(entry.key, str(error)))
                continue
            examples.append(example)
            keys.append(entry.key)
            dropped += gone
            video_s += entry.duration_s
        return Loaded(batch.number, examples, keys, video_s, bad, dropped)

    def example(
        self, members: Mapping[str, bytes], where: str, budget: int, draw: np.random.Generator
    ) -> tuple[Example, int]:
        """(a video compressed to `budget` with questions, turns and events its text was shortened by).

        Raises:
            ValueError: it can't be read, nothing can be asked about it, or it is longer than the context.
        """
        told = features_of(members, where)
        hold = hold_of(members, where)
        names = hold.streams()
        if len(names) > 1 and draw.random() < self.question_sampling.drop:
            gone = names[int(draw.integers(len(names)))]
            for piece in hold.pieces:
                piece.groups.pop(gone, None)
            hold.memory.pop(gone, None)
        streams, globals_, _ = self.compressor.compress_to(hold, budget)
        given: dict[str, Any] = json.loads(members[JSON])
        fields = {k: v for k, v in given.items() if k != "features"} | {"video": given["key"]}
        record = parse_record(fields, Path(), where)
        kinds = [k for k, weight in self.question_sampling.kinds.items() if weight > 0]
        weights = np.array([self.question_sampling.kinds[k] for k in kinds], float)
        for at in draw.choice(len(kinds), size=len(kinds), replace=False, p=weights / weights.sum()):
            turns = turns_of(
                record, cast(Kind, kinds[at]), draw, duration_s=told["duration_s"], times=self.question_sampling.times,
                most=self.question_sampling.most, wording=self.question_sampling.wording,
            )  # fmt: skip
            if turns:
                kept = shortened(
                    turns, lambda t: len(encode(self.tokenizer, t)), self.question_sampling.text_tokens
                )
                dialogue = kinds[at] == "conversation"
                whole = Example(Video(streams, globals_, budget), kept.turns, dialogue)
                example, lost = self.room.fitted(whole, where)
                return example, kept.dropped + lost
        raise ValueError(f"{where}: nothing of the kinds {', '.join(kinds)} can be asked about it")


def counted(bad: Sequence[Bad]) -> str:
    """A line that names bad samples and how often each reason came."""
    reasons = Counter(one.reason for one in bad)
    return "; ".join(f"{num} x {reason}" for reason, num in reasons.most_common())
