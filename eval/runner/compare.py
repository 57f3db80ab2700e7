"""The same tokens, other ways: one model, one video, one question, and tokens that were chosen otherwise.

Each video is read and encoded once. Every way and number of tokens then has a run of its own
(`eval.run_file`), so that any two can be compared by `longcompress eval pairs`, and a comparison that was
killed goes on.
"""

import math
import time
import zlib
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from longcompress.compression.baselines import METHODS, only, segments_of, spend
from longcompress.compression.merging import Compressor, GlobalMemory
from longcompress.compression.state import Hold
from longcompress.config import MemoryConfig
from longcompress.memory import VideoMemory
from longcompress.model import LongCompress
from longcompress.session import KINDS_OF_MEDIA, media_of
from longcompress.types import Segment

from ..tasks.task import Example, How, Said
from .ask import QuestionSampling, answered, by_video, unread, worth
from .locks import alone
from .run import JUDGED, header_of, summarise
from .run_file import RunConfig, begin, line_of, summary_of
from .score import task_of
from .sources import Source

OURS = ("even", "novelty", "no-memory", "no-audio")
ALL = "all"  # tokens of what isn't compressed
NAMES = (*METHODS, *OURS)
ENDLESS = 1 << 40  # tokens


@dataclass(frozen=True)
class Arm:
    """One way at one number of tokens.

    Attributes:
        way: one of NAMES.
        tokens: "4096", "10%" of a video's raw ones, or ALL for "full".
    """

    method: str
    tokens: str

    @property
    def file(self) -> str:
        """The name of its run."""
        return f"{self.method}_{self.tokens.replace('%', 'pc')}.jsonl"


@dataclass(frozen=True)
class CompareConfig:
    """What is compared.

    Attributes:
        tokens: each "4096", or "10%" of a video's raw tokens.
        ways: some of NAMES: those of `methods.METHODS`; and ours: a budget spread evenly, by novelty, evenly
            without global tokens, evenly without audio.
        prompt: name of the task's prompt.
        max_new_tokens: longest answer; None: as the model's config says.
        limit: only so many examples, the first.
        only: kinds of groups of examples to the names that are kept, {"kind": ["binding"]}.
        seed: of what is drawn.
    """

    tokens: tuple[str, ...] = ("3%", "5%", "10%", "20%", "40%")
    methods: tuple[str, ...] = NAMES
    prompt: str = "default"
    max_new_tokens: int | None = None
    limit: int | None = None
    only: Mapping[str, Sequence[str]] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := [method for method in self.methods if method not in NAMES]:
            raise ValueError(f"ways must be of {', '.join(NAMES)}, got {unknown[0]!r}")
        for one in self.tokens:
            number = one.removesuffix("%")
            try:
                fits = 0 < float(number) < math.inf and (one.endswith("%") or number.isdigit())
            except ValueError:
                fits = False
            if not fits:
                raise ValueError(f"tokens must be numbers, or shares such as 10%, got {one!r}")
        for name in ("methods", "tokens"):
            some: tuple[str, ...] = getattr(self, name)
            if twice := [one for one in some if some.count(one) > 1]:
                raise ValueError(f"{name} must be different, got {twice[0]!r} twice")

    @property
    def arms(self) -> list[Arm]:
        """All ways at all numbers of tokens."""
        whole = [Arm("full", ALL)] if "full" in self.methods else []
        return whole + [Arm(method, n) for n in self.tokens for method in self.methods if method != "full"]


def compare(
    source: Source, model: LongCompress, folder: str | Path, config: CompareConfig, how: How
) -> list[Arm]:
    """Ask every example of every arm; runs in `folder` are begun, or gone on with.

    Args:
        source: what is asked about, and the videos.
        model: what compresses and answers, greedily.
        folder: gets a file for each arm.
        config: what is compared.
        how: how answers are read.

    Raises:
        ValueError: a run was begun with something else; another process writes there; a model without the
            streams that a way needs; a prompt that the task hasn't, or a task that scores no example by
            itself.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    examples = kept(source.examples, config)
    question_sampling = QuestionSampling(
        task_of(source.task), config.prompt, config.max_new_tokens, how, source.task in JUDGED
    )
    _check(source.task, question_sampling, examples)
    if "no-audio" in config.methods and media_of(model) != ("video", "audio"):
        raise ValueError(f"way no-audio needs a model that sees and hears, this one takes {media_of(model)}")
    pins = header_of(source, model, RunConfig(prompt=config.prompt, limit=config.limit,
                                              max_new_tokens=config.max_new_tokens), how)  # fmt: skip
    only = {name: list(some) for name, some in (config.only or {}).items()}
    pins |= {"num_examples": len(examples), "only": only, "seed": config.seed}
    with alone(folder / "compare"):
        done = {
            arm: begin(folder / arm.file, {**pins, "method": arm.method, "budget": arm.tokens}).lines
            for arm in config.arms
        }
        for video, asked in tqdm(by_video(examples).items(), desc=source.task, unit="video", disable=None):
            todo = [arm for arm in config.arms if any(one.id not in done[arm] for one in asked)]
            if not todo:
                continue
            with ExitStack() as stack:
                files = {arm: stack.enter_context((folder / arm.file).open("ab")) for arm in todo}
                for arm, line in _ask_video(
                    source, model, question_sampling, config.seed, video, asked, todo, done
                ):
                    files[arm].write(line_of(line))
                    files[arm].flush()
        for arm in config.arms:  # what `eval pairs` compares
            if summary_of(folder / arm.file) is None:
                summarise(source.task, examples, folder / arm.file, how)
    return config.arms


def _check(name: str, question_sampling: QuestionSampling, examples: Sequence[Example[Any]]) -> None:
    """ValueError, before hours of work, for what can't be asked or told."""
    known = question_sampling.task.prompts
    if question_sampling.prompt not in known:
        raise ValueError(
            f"prompt must be one of {', '.join(known)} of {name}, got {question_sampling.prompt!r}"
        )
    if examples and worth(question_sampling, examples[0], Said("", None)) is None:
        raise ValueError(
            f"task must be one that scores each example, {name} doesn't without a judge or a corpus; use "
            "`longcompress eval run` and `eval score`"
        )


def kept(examples: Sequence[Example[Any]], config: CompareConfig) -> list[Example[Any]]:
    """The examples that are asked.

    Raises:
        ValueError: there are none.
    """
    wanted = config.only or {}
    some = [one for one in examples if all(dict(one.groups).get(k) in v for k, v in wanted.items())]
    if not some:
        known = sorted({f"{kind}={name}" for one in examples for kind, name in one.groups})
        raise ValueError(f"only must leave an example, got {dict(wanted)}; there are {', '.join(known)}")
    return some[: config.limit]


def _ask_video(
    source: Source, model: LongCompress, question_sampling: QuestionSampling, seed: int, video: str, asked: Sequence[Example[Any]],
    todo: Sequence[Arm], done: Mapping[Arm, Container[str]],
) -> Iterator[tuple[Arm, dict[str, Any]]]:  # fmt: skip
    """Lines of one video, arm by arm."""
    warned: list[str] = []
    begun = time.perf_counter()
    try:
        with source.open(video, model.config.media, warned.append) as parts:
            come = [kind for kind in media_of(model) if parts.streams is None or kind in parts.streams]
            segments, duration_s = segments_of(model, parts, come)
        if not segments:
            raise ValueError(f"{video} gave neither a frame nor a sample that could be read")
    except (OSError, ValueError) as error:
        for arm in todo:
            yield from ((arm, line) for line in unread(asked, done[arm], str(error)))
        return
    compress_s = time.perf_counter() - begun
    spending = Spending(model, segments, duration_s, seed + zlib.crc32(video.encode()))
    for arm in todo:
        try:
            memory = spending.memory(arm)
            _fits(model, memory)
        except ValueError as error:
            yield from ((arm, line) for line in unread(asked, done[arm], str(error)))
            continue
        yield from (
            (arm, line) for line in answered(question_sampling, memory, asked, done[arm], compress_s, warned)
        )


class Spending:
    """A video's raw segments, spent in any way.

    Args:
        model: whose compressor is ours.
        segments: of the video, raw.
        duration_s: its seconds.
        seed: of what is drawn.
    """

    def __init__(
        self, model: LongCompress, segments: Sequence[Segment], duration_s: float, seed: int
    ) -> None:
        self.model, self.segments, self.duration_s, self.seed = model, segments, duration_s, seed
        self.raw = sum(len(one) for part in segments for one in part.streams.values())
        self._held: dict[tuple[int, bool], Hold] = {}

    def budget(self, tokens: str) -> int:
        """How many tokens that is."""
        if tokens == ALL:
            return ENDLESS
        return round(float(tokens[:-1]) / 100 * self.raw) if tokens.endswith("%") else int(tokens)

    def memory(self, arm: Arm) -> VideoMemory:
        """The video's memory by this way.

        Raises:
            ValueError: the budget is too small; the video has nothing but audio, and way is no-audio.
        """
        ours, budget = self.model.compressor, self.budget(arm.tokens)
        hold = self._hold(budget, deaf=arm.method == "no-audio")
        if arm.method in OURS:
            share: Literal["even", "novelty"] = "novelty" if arm.method == "novelty" else "even"
            memory = ours.memory
            if arm.method == "no-memory":
                hold, memory = replace(hold, memory={}), GlobalMemory(MemoryConfig("none"), {}, {})
            spent = Compressor(ours.local.config, replace(ours.shares, allocation=share), memory)
            streams, globals_, _ = spent.compress_to(hold, budget)
        else:
            globals_ = ours.memory.read(hold.memory)
            taken = sum(map(len, globals_.values()))
            streams = spend(
                arm.method, self.segments, budget - taken, ours.shares, global_tokens=taken, seed=self.seed,  # type: ignore[arg-type]
            )  # fmt: skip
        num = sum(map(len, streams.values())) + sum(map(len, globals_.values()))
        return VideoMemory(
            streams, globals_, self.duration_s, max(num, min(budget, self.raw)),
            identity=self.model.identity(), model=self.model,
        )  # fmt: skip

    def _hold(self, budget: int, *, deaf: bool) -> Hold:
        if (budget, deaf) not in self._held:
            hold = Hold()
            for segment in self._seen() if deaf else self.segments:
                self.model.compressor.close(hold, segment, budget)
            self._held[budget, deaf] = hold
        return self._held[budget, deaf]

    def _seen(self) -> list[Segment]:
        """The segments less all that is heard."""
        encoders = self.model.encoders.items()
        seen = [name for name, encoder in encoders if KINDS_OF_MEDIA[encoder.takes] == "video"]
        if not (out := only(self.segments, seen)):
            raise ValueError("way no-audio: the video has no frame that could be read")
        return out


def _fits(model: LongCompress, memory: VideoMemory) -> None:
    """ValueError if the language model was not made for so many tokens."""
    context = model.llm.context
    if context is not None and memory.num_tokens >= context:
        raise ValueError(
            f"{memory.num_tokens} tokens are more than the {context} positions that the language model was "
            "made for; compare shorter videos, or leave this way out"
        )
