"""Shards become examples: read by ranges, compressed to the batch's budget, with sampled questions."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch.utils.data import IterableDataset

from ...compression.state import MergeState
from ...llm import CompressedVideo, Example
from ...llm.prompt import encode
from ...model import LongCompress
from ...types import Tokens
from ..records import Record, parse_record
from ..shards.index import Index
from ..shards.sample import Needs, Sample, read_sample, without
from .duet_samples import (
    REQUESTS,
    DuetExample,
    DuetKind,
    DuetOptions,
    check_model,
    duet_of,
    example_of,
    frames_of,
)
from .questions import TEMPLATES, Kind, Room, Times, Turns, shortened, turns_of
from .sampler import Batch, BatchSampler, enter_worker
from .words import words_of

NUM_SPARE = 16  # samples that are tried where none of a rank's own can be used


@dataclass(frozen=True)
class QuestionConfig:
    """Which questions are sampled about the videos of a stage.

    Attributes:
        kinds: weight of each kind of question, or of each kind of duet (`duet_samples`), never of both; a
            video without any of the sampled kind gets another.
        times: how answers' times are written.
        templates: kind -> forms of its question, instead of ours; {text}, {start} and {end} are filled in.
        max_questions: about a video.
        max_text_tokens: of a video's questions and answers together.
        format: "prompt": questions in the language model's prompt; "plain": answers alone (`Example.plain`).
        drop_stream: probability that a video of several streams loses one of them.
        duet: of kinds of duets; only `kinds` and `templates` have an effect on these besides.
    """

    kinds: dict[str, float] = field(default_factory=lambda: {"grounding": 1.0, "segment": 1.0, "dense": 0.5})
    times: Times = "seconds"
    max_questions: int = 8
    max_text_tokens: int = 512
    format: Literal["prompt", "plain"] = "prompt"
    drop_stream: float = 0.0
    templates: dict[str, list[str]] = field(default_factory=dict)
    duet: DuetOptions = field(default_factory=DuetOptions)

    @property
    def is_duet(self) -> bool:
        """Whether samples are duets."""
        return set(self.kinds) <= set(get_args(DuetKind))

    def __post_init__(self) -> None:
        unknown = not self.is_duet and sorted(set(self.kinds) - set(get_args(Kind)))
        if unknown or not any(weight > 0 for weight in self.kinds.values()):
            known, duets = (", ".join(get_args(kinds)) for kinds in (Kind, DuetKind))
            need = f"kinds must give a weight > 0 to some of {known}, or to some of {duets}"
            raise ValueError(f"{need}, got {self.kinds}")
        if set(self.templates) - {*TEMPLATES, *REQUESTS} or not all(self.templates.values()):
            known = ", ".join([*TEMPLATES, *REQUESTS])
            raise ValueError(f"templates must give forms to some of {known}, got {self.templates}")


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be used, and why."""

    key: str
    reason: str


@dataclass
class Loaded:
    """A rank's part of a batch, or of a part where gradients are accumulated."""

    number: int  # of the batch
    examples: list[Example] = field(default_factory=list)  # its videos with questions
    duets: list[DuetExample] = field(default_factory=list)  # or what is said while they play
    keys: list[str] = field(default_factory=list)
    bad: list[BadSample] = field(default_factory=list)  # what could not be used
    video_s: float = 0.0  # of all the videos
    dropped: int = 0  # turns and events that texts were shortened by, texts without a known token


class ExampleMaker:
    """Examples of samples, whoever reads them: the same for a seed, a batch's number and a sample's key.

    Args:
        model: compresses the features; its encoders and segments must be those that made them. Not kept.
        questions: what is asked.
        seed: of the questions.
        text_steps: batches, the first ones, whose tokens are words (`CompressedVideo.words`).
    """

    def __init__(
        self, model: LongCompress, questions: QuestionConfig, seed: int, text_steps: int = 0
    ) -> None:
        self.questions, self.seed, self.text_steps = questions, seed, text_steps
        # what reads samples may be another process, and the model's own parameters on a GPU by then
        self.empty, self.tokenizer = copy.deepcopy(model.merge_state()), model.llm.tokenizer
        self.room = Room(model.llm.context, model.llm.sizes)
        self.widths = {name: encoder.width for name, encoder in model.encoders.items()}
        self.rate_fps = model.config.media.rate_fps
        if questions.is_duet:
            check_model(model.llm)

    def add(self, loaded: Loaded, key: str, sample: Sample, budget: int) -> None:
        """Add a sample's example to a part of a batch; ValueError as of `example`."""
        generator = np.random.default_rng([self.seed, loaded.number, *key.encode()])
        if self.questions.is_duet:
            loaded.duets.append(self.duet(sample, generator))
        else:
            example, num = self.example(sample, budget, generator, loaded.number < self.text_steps)
            loaded.examples.append(example)
            loaded.dropped += num
        loaded.keys.append(key)
        loaded.video_s += sample.features["duration_s"]

    def example(
        self, sample: Sample, budget: int, generator: np.random.Generator, in_words: bool = False
    ) -> tuple[Example, int]:
        """(a video compressed to `budget`, its tokens also in words if asked for, with questions, number of
        its texts that were left out); ValueError: its width is wrong, nothing can be asked about it, or it is
        longer than the context."""

        def size(turns: Turns) -> int:
            return sum(len(encode(self.tokenizer, text)) for turn in turns for text in turn)

        config, where = self.questions, sample.where
        state = sample.state(self.empty)
        names = state.streams
        if len(names) > 1 and generator.random() < config.drop_stream:
            state = without(state, names[int(generator.integers(len(names)))])
        video = self.compressed(state, where, budget)
        whole = record_of(sample)
        words = words_of(video, whole, self.tokenizer) if in_words else {}
        record, num_unknown = without_unknown(whole, self.tokenizer)
        video = replace(video, text=record.text, words=words)
        kinds = self.kinds(generator)
        for kind in kinds:
            turns = turns_of(
                record, cast(Kind, kind), generator, duration_s=sample.features["duration_s"],
                times=config.times, max_questions=config.max_questions, templates=config.templates,
            )  # fmt: skip
            if turns:
                short, num = shortened(turns, size, config.max_text_tokens)
                is_dialogue, is_plain = kind == "conversation", config.format == "plain"
                example, dropped = self.room.fitted(Example(video, short, is_dialogue, is_plain), where)
                return example, num + dropped + num_unknown
        unknown = f"; the tokenizer knows no token of {num_unknown} of its texts" if num_unknown else ""
        raise ValueError(
            f"{where}: nothing of the kinds {', '.join(sorted(kinds))} can be asked about it{unknown}"
        )

    def duet(self, sample: Sample, generator: np.random.Generator) -> DuetExample:
        """A duet with the frames of a video; ValueError: there is none, or frames were merged."""
        record, options = record_of(sample), self.questions.duet
        frames = frames_of(sample.state(self.empty), sample.where)
        duration_s = min(sample.features["duration_s"], len(frames) / self.rate_fps)
        for kind in (kinds := self.kinds(generator)):
            duet = duet_of(
                record, cast(DuetKind, kind), generator, duration_s=duration_s, rate_fps=self.rate_fps,
                options=options, requests=REQUESTS | self.questions.templates,
            )  # fmt: skip
            if duet is not None:
                return example_of(duet, frames, options, generator)
        raise ValueError(
            f"{sample.where}: its annotations have nothing of the kinds {', '.join(sorted(kinds))}"
        )

    def kinds(self, generator: np.random.Generator) -> list[str]:
        """All kinds in a random order by weight: the first that a record has something of is taken."""
        kinds = [k for k, weight in self.questions.kinds.items() if weight > 0]
        weights = np.array([self.questions.kinds[k] for k in kinds], float)
        order = generator.choice(len(kinds), size=len(kinds), replace=False, p=weights / weights.sum())
        return [kinds[i] for i in order]

    def compressed(self, state: MergeState, where: str, budget: int) -> CompressedVideo:
        """The video of a sample's state; ValueError for features that are not the model's."""
        video = state.compress(budget)
        if state.global_memory.query:
            held = {n: Tokens.join(group.tokens for _, group in state.groups(n)) for n in state.streams}
            inputs = {name: (tokens.x, tokens.size) for name, tokens in held.items()}
            video = replace(video, global_inputs=inputs)
        for name, tokens in video.streams.items():
            if tokens.x.shape[1] != self.widths.get(name):
                raise ValueError(
                    f"{where}: features of stream {name!r} are {tokens.x.shape[1]} wide, those of the model "
                    f"{self.widths.get(name)}; make them again"
                )
        for name, x in video.globals.items():
            if not bool(torch.isfinite(x).all()):
                raise ValueError(f"{where}: global tokens of stream {name!r} are not finite; make them again")
        return video


def record_of(sample: Sample) -> Record:
    """The annotations of a sample."""
    return parse_record(sample.record | {"video": sample.record["key"]}, Path(), sample.where)


def without_unknown(record: Record, tokenizer: Any) -> tuple[Record, int]:
    """(the record without texts of which the tokenizer knows no token, how many those were): texts in another
    script, for a tokenizer without bytes."""

    def known(*texts: str) -> bool:
        ids = [encode(tokenizer, text) for text in texts]
        return not any(of and set(of) == {tokenizer.unk_token_id} for of in ids)

    parts: dict[str, Any] = {
        "events": tuple(event for event in record.events if known(event.text)),
        "captions": tuple(text for text in record.captions if known(text)),
        "dialogues": tuple(turns for turns in record.dialogues if known(*(turn.text for turn in turns))),
    }
    return replace(record, **parts), sum(len(getattr(record, name)) - len(of) for name, of in parts.items())


def check_features(indexes: Sequence[Index], model: LongCompress) -> None:
    """ValueError unless these shards hold features that the model can learn from."""
    needs = Needs.of(model)
    for index in indexes:
        if not index.features:
            raise ValueError(f"{index.folder} holds media, not features; make them with --kind features")
        needs.check(index.features, str(index.folder))


class ShardData(IterableDataset[Loaded]):
    """A rank's parts of the batches, one after the other; workers take turns.

    Args:
        batches: of all ranks.
        model: compresses the features; its encoders and segments must be those that made them.
        questions: what is asked.
        rank, world, accumulate: which part of each batch, in how many parts.
        text_steps: batches, the first ones, whose tokens are words.
        on_error: "quarantine" leaves a bad sample out and names it in `Loaded.bad`; "stop" raises.
    """

    def __init__(
        self, batches: BatchSampler, model: LongCompress, questions: QuestionConfig, *, rank: int = 0,
        world: int = 1, accumulate: int = 1, text_steps: int = 0,
        on_error: Literal["quarantine", "stop"] = "quarantine",
    ) -> None:  # fmt: skip
        self.batches, self.on_error = batches, on_error
        self.rank, self.world, self.accumulate = rank, world, accumulate
        self.examples = ExampleMaker(model, questions, batches.seed, text_steps)
        parts = world * accumulate  # batches are formed without knowing them; each must get a sample
        if batches.min_videos < parts:
            raise ValueError(
                f"min_videos must be at least ranks x accumulate = {world} x {accumulate} = {parts}, got "
                f"{batches.min_videos}"
            )
        check_features(batches.indexes, model)

    def __iter__(self) -> Iterator[Loaded]:
        worker, num_workers = enter_worker()
        place = 0
        for batch in self.batches:
            for part in range(self.accumulate):
                if place % num_workers == worker:
                    yield self.load(batch, part)
                place += 1

    def load(self, batch: Batch, part: int = 0) -> Loaded:
        """A part of this rank's samples of a batch; the same whoever loads it and when.

        A step waits for every rank, so each must bring a sample: where none of its own can be used, those
        that follow in the data set of the last are tried.
        """
        own = batch.of_rank(self.rank + self.world * part, self.world * self.accumulate)
        which, last = own[-1]
        size = len(self.batches.indexes[which])
        spare = [(which, (last + 1 + i) % size) for i in range(min(NUM_SPARE, size - 1))]
        loaded = Loaded(batch.number)
        for place, (which, number) in enumerate([*own, *spare]):
            if loaded.keys and place >= len(own):
                break
            index = self.batches.indexes[which]
            entry = index.entries[number]
            where = f"{index.folder}: sample {entry.key!r}"
            try:
                sample = read_sample(index.read(number), where)
                self.examples.add(loaded, entry.key, sample, batch.budget)
            except (ValueError, OSError) as error:
                if self.on_error == "stop":
                    raise
                loaded.bad.append(BadSample(entry.key, str(error)))
        return loaded
