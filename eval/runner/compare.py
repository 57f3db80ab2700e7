"""Baselines at equal token budgets: one model and one video, with tokens selected by several methods.

Each video is read and encoded once, for "stock" once more. Every method and budget then has a run of its own
(`eval.run_file`), so that any two can be compared by `longcompress eval pairs`, and a killed comparison
resumes.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ...compression.baselines import METHODS, only, spend
from ...compression.global_memory import GlobalMemory
from ...compression.state import MergeState
from ...config import MediaConfig
from ...encode import segments_of
from ...encoders import StockVision
from ...encoders.load import resolve
from ...llm.sampling import Sampling, sampling_of
from ...media.reader import Reading
from ...memory import VideoMemory
from ...model import LongCompress
from ...types import CompressedVideo
from ..tasks.task import Example, How, Prediction, Times
from .run import ENDLESS, Encoded, Questioner, encoded, header_of, run_all, summarise
from .run_file import RunConfig, alone, check_budgets, num_tokens, summary_of
from .sources import Source

OURS = ("ours", "even", "novelty", "rounds", "no-memory", "no-audio")
ROUNDS = 0.25  # merge.schedule of "rounds"
SHOWN = tuple(  # ours, by what a merged token shows: its row and its place
    f"{row}-{place}" for row in ("mean", "medoid") for place in ("mean", "medoid", "heaviest")
)[1:]
MEMORIES = ("memory-coarse", "memory-scales")  # ours, with other global tokens of the same features
ALL = "all"  # the budget without compression
STOCK = "stock"  # all tokens of the frames that a stock model's own processor would take
WHOLE = ("full", STOCK)  # methods without a budget
NAMES = (*METHODS, STOCK, *OURS)
SAMPLED = ("frames", "frames_at", "size_px")  # fields of MediaConfig


@dataclass(frozen=True)
class Arm:
    """A method (of NAMES) at a budget: "4096", "10%" of a video's raw tokens, or ALL for those of WHOLE."""

    method: str
    budget: str

    @property
    def name(self) -> str:
        """The stem of its run's file."""
        return f"{self.method}_{self.budget.replace('%', 'pc')}"


@dataclass(frozen=True)
class CompareConfig:
    """What is compared.

    Attributes:
        budgets: each "4096", or "10%" of a video's raw tokens.
        methods: some of NAMES: baselines, and ours: as the model is configured, with the budget allocated
            evenly or by novelty, merged in rounds of a quarter and allocated evenly, without global tokens,
            without audio. Or of SHOWN: ours with merge.representative and merge.place, as medoid-medoid. Or
            of MEMORIES: ours with memory.kind coarse or scales. None: all of NAMES that the model can do.
        prompt: name of the task's prompt, or a text with {question}.
        times: what numbers in answers are; None: as the prompt asks for them.
        max_new_tokens: longest answer; None: as the model's config says.
        limit: only the first examples, this many.
        only: groups of examples that are asked, KIND=NAME each, kind=binding kind=count; none: all.
        seed: of random methods.
    """

    budgets: tuple[str, ...] = ("3%", "5%", "10%", "20%", "40%")
    methods: tuple[str, ...] = ()
    prompt: str = "default"
    times: Times | None = None
    max_new_tokens: int | None = None
    limit: int | None = None
    only: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        known = (*NAMES, *MEMORIES, *SHOWN)
        if unknown := [method for method in self.methods if method not in known]:
            raise ValueError(f"methods must be of {', '.join(known)}, got {unknown[0]!r}")
        check_budgets(self.budgets)
        if wrong := [text for text in self.only if "=" not in text]:
            raise ValueError(f"only must be KIND=NAME, got {wrong[0]!r}")
        if twice := [method for method in self.methods if self.methods.count(method) > 1]:
            raise ValueError(f"methods must be different, got {twice[0]!r} twice")

    @property
    def groups(self) -> dict[str, list[str]]:
        """Kind to the names of `only`."""
        groups: dict[str, list[str]] = {}
        for kind, _, name in (text.partition("=") for text in self.only):
            groups.setdefault(kind, []).append(name)
        return groups

    @property
    def arms(self) -> list[Arm]:
        """All methods at all budgets."""
        whole = [Arm(method, ALL) for method in WHOLE if method in self.methods]
        return whole + [
            Arm(method, n) for n in self.budgets for method in self.methods if method not in WHOLE
        ]


def compare(
    source: Source, model: LongCompress, folder: str | Path, config: CompareConfig, how: How
) -> list[Arm]:
    """Ask every example of every arm; each arm has a run in `folder`, which is started or resumed."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sampling = None
    try:
        sampling = stock_sampling(model)
    except (OSError, ValueError):
        if STOCK in config.methods:
            raise
    if not config.methods:
        able = {STOCK: sampling is not None, "no-audio": model.media == ("video", "audio")}
        config = replace(config, methods=tuple(name for name in NAMES if able.get(name, True)))
    examples = selected(source.examples, config)
    run_config = RunConfig(prompt=config.prompt, limit=config.limit, max_new_tokens=config.max_new_tokens)
    questioner = Questioner(source.task, examples, config.prompt, config.max_new_tokens, how)
    if questioner.score(examples[0], Prediction("", None)) is None:
        raise ValueError(
            f"task must be one that scores each example, {source.task} doesn't without a judge, a corpus or "
            "METEOR; use `longcompress eval run` and `eval score`"
        )
    if "no-audio" in config.methods and model.media != ("video", "audio"):
        raise ValueError(
            f"method no-audio needs a model that sees and hears, this one takes {model.media}; name the "
            "other methods"
        )
    pins = header_of(source, model, run_config, how)
    pins |= {"num_examples": len(examples), "only": config.groups, "seed": config.seed}
    arms = {arm.name: arm for arm in config.arms}
    runs = {
        name: (folder / f"{name}.jsonl", {**pins, "method": arm.method, "budget": arm.budget})
        for name, arm in arms.items()
    }
    stock = Arm(STOCK, ALL).name
    if sampling is not None and stock in runs:
        path, header = runs[stock]
        runs[stock] = path, {**header, "rate_fps": None, "size_px": None, "sampling": asdict(sampling)}

    def read(video: str, parts: Reading) -> Callable[[str], VideoMemory]:
        memory = raw_video(model, video, parts, config.seed)
        return lambda name: memory(arms[name])

    def encode(video: str, names: Sequence[str]) -> Iterator[tuple[str, Encoded]]:
        yield from encoded(source, model.config.media, read, video, [n for n in names if n != stock])
        if sampling is None or stock not in names:
            return
        try:
            media = sampled_media(source, model, sampling, video)
        except (OSError, ValueError) as error:
            yield stock, Encoded(str(error), 0.0)
            return
        before, changed = model.config.media, {name: getattr(media, name) for name in SAMPLED}
        model.change({"media": changed})
        try:  # its questions are asked before the generator goes on
            yield from encoded(source, media, read, video, [stock])
        finally:
            model.change({"media": {name: getattr(before, name) for name in SAMPLED}})

    with alone(folder / "compare"):
        run_all(questioner, runs, encode)
        for out, _ in runs.values():
            if summary_of(out) is None:
                summarise(questioner, out)
    return config.arms


def stock_sampling(model: LongCompress) -> Sampling:
    """How the processor of a stock model samples; ValueError for other models."""
    if not isinstance(model.video, StockVision):
        raise ValueError(f"method {STOCK} needs a stock video LLM, got {model.config.name!r}; leave it out")
    return sampling_of(resolve(model.config.llm.base, model.folder))


def sampled_media(source: Source, model: LongCompress, sampling: Sampling, video: str) -> MediaConfig:
    """The media config of a video as the stock model's processor would take it."""
    assert isinstance(model.video, StockVision)
    with source.open(video, model.config.media, lambda warning: None) as parts:
        duration_s = parts.duration_s
    if duration_s is None:
        raise ValueError(f"method {STOCK} needs the video's length, which its file does not say")
    side = model.video.family.side(model.video.model)
    return sampling.media(model.config.media, duration_s, *source.frame_size(video), side)


def selected(examples: Sequence[Example], config: CompareConfig) -> list[Example]:
    """The examples that are asked; ValueError if there are none."""
    only = config.groups
    some = [e for e in examples if all(dict(e.groups).get(kind) in names for kind, names in only.items())]
    if not some:
        known = sorted({f"{kind}={name}" for example in examples for kind, name in example.groups})
        raise ValueError(f"only must leave an example, got {only}; known are {', '.join(known)}")
    return some[: config.limit]


def raw_video(model: LongCompress, video: str, parts: Reading, seed: int) -> Callable[[Arm], VideoMemory]:
    """Encodes a video, and returns what makes its memory by any method; `seed` is of random methods.

    That raises ValueError if the budget, the context or the video is too small.
    """
    present = [kind for kind in model.media if parts.streams is None or kind in parts.streams]
    segments, duration_s = segments_of(model, parts, present)
    if not segments:
        raise ValueError(f"{video} gave neither a frame nor a sample that could be read")
    num_raw = sum(len(value) for part in segments for value in part.streams.values())

    @cache
    def state_of(budget: int, no_audio: bool, merge: tuple[tuple[str, Any], ...]) -> MergeState:
        some = segments
        if no_audio:
            encoders = model.encoders.items()
            some = only(some, [key for key, encoder in encoders if encoder.modality == "video"])
            if not some:
                raise ValueError("method no-audio: the video has no frame that could be read")
        state = model.merge_state(budget)
        state.merge = replace(state.merge, **dict(merge))
        for segment in some:
            state.add(segment)
        return state

    def memory(arm: Arm) -> VideoMemory:
        method: Any = arm.method
        budget = ENDLESS if arm.budget == ALL else num_tokens(arm.budget, num_raw)
        merge: tuple[tuple[str, Any], ...] = ()
        if method == "rounds":
            merge = (("schedule", ROUNDS),)
        elif method in SHOWN:
            row, place = method.split("-")
            merge = (("representative", row), ("place", place))
        state = state_of(budget, method == "no-audio", merge)
        if method == STOCK:
            method = "full"
        if method in (*OURS, *SHOWN, *MEMORIES):
            spread = {"even": "even", "novelty": "novelty", "rounds": "even"}.get(method)
            allocation: Any = state.allocation
            if spread is not None:
                allocation = replace(allocation, allocation=spread)
            if method == "no-memory" or method in MEMORIES:
                kind: Any = method.removeprefix("memory-") if method in MEMORIES else "none"
                widths = {name: encoder.width for name, encoder in model.encoders.items()}
                other = GlobalMemory(replace(model.config.memory, kind=kind), widths, {})
                state = replace(state, memory={}, global_memory=other)
            compressed = replace(state, allocation=allocation).compress(budget)
        else:
            globals_ = state.globals()
            num_global = sum(map(len, globals_.values()))
            options = {"global_tokens": num_global, "seed": seed + zlib.crc32(video.encode())}
            streams = spend(method, segments, budget - num_global, state.allocation, **options)
            compressed = CompressedVideo(streams, globals_, budget)
        num, context = compressed.num_tokens, model.llm.context
        if context is not None and num >= context:
            raise ValueError(
                f"{num} tokens are more than the {context} positions that the language model was made for; "
                "compare shorter videos, or leave this method out"
            )
        # uncompressed, timestamps are the model's own: they take what they take
        room = ENDLESS if arm.budget == ALL else max(num, min(budget, num_raw))
        compressed = replace(compressed, budget=room, duration_s=duration_s)
        return VideoMemory(compressed, model, model.identity())

    return memory
