"""A video as a fixed number of tokens: ask it, list its events, keep it on disk."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .events.parse import join_events, parse_spans
from .files import replacing
from .llm import Video
from .llm.causal import Prefix
from .model import LongCompress
from .types import Answer, Cite, Event, Tokens

FORMAT = 1
FIELDS = ("x", "size", "time_s", "start_s", "end_s")
WINDOWS_AT_ONCE = 8


@dataclass
class VideoMemory:
    """What is left of a video, ready for questions.

    Attributes:
        streams: "frame", "audio", ... -> Tokens, by time.
        globals: stream -> (E, C) float32.
        duration_s: length of the video.
        budget: tokens that were asked for.
        source: {"name", "num_bytes", "sha256"} as far as they are known.
        identity: of the encoders and compressor that made it.
        members: stream -> (n_raw,) int32 token of each raw one, by frame and patch; empty unless asked for.
        model: what answers.
        stats: what compressing took, where it was compressed in this process.
    """

    streams: dict[str, Tokens]
    globals: dict[str, Tensor]
    duration_s: float
    budget: int
    source: dict[str, Any] = field(default_factory=dict)
    identity: str = ""
    members: dict[str, Tensor] = field(default_factory=dict)
    model: LongCompress | None = field(default=None, repr=False)
    stats: dict[str, float] = field(default_factory=dict, repr=False)
    _prefix: Prefix | None = field(default=None, repr=False)

    @property
    def num_tokens(self) -> int:
        """Tokens in all: the budget, unless the video has fewer."""
        return sum(map(len, self.streams.values())) + sum(map(len, self.globals.values()))

    @property
    def video(self) -> Video:
        """What a language model reads, on the model's device."""
        device = self._model().device
        streams = {n: t.to(device) for n, t in self.streams.items()}
        return Video(streams, {n: g.to(device) for n, g in self.globals.items()}, self.budget)

    def ask(
        self,
        question: str,
        *,
        stream: Callable[[str], None] | None = None,
        max_new_tokens: int | None = None,
        **generate: Any,
    ) -> Answer:
        """The answer to a question about the video. The video is read once; further questions cost only
        themselves.

        Args:
            question: not empty.
            stream: called with pieces of the text as they are made.
            max_new_tokens: longest answer; None: as the model's config says.
            generate: options of transformers' generate, such as do_sample and temperature.
        """
        llm = self._model().llm
        text = llm.answer(self._read(), [question], stream=stream, max_new_tokens=max_new_tokens, **generate)[
            0
        ]
        return self._answer(text)

    def ask_all(self, questions: Sequence[str], **options: Any) -> list[Answer]:
        """The answers to several questions about the video, generated together."""
        return [self._answer(t) for t in self._model().llm.answer(self._read(), questions, **options)]

    def events(self, *, window_s: float | None = None, progress: bool = False) -> list[Event]:
        """What happens, in time order: every window is asked about, events cut by window borders are
        joined."""
        config = self._model().config.llm
        if config.time_format == "hundredths":
            said = self.ask(config.events).text
            return parse_spans(said, duration_s=self.duration_s, percent=True, inclusive=True)
        window_s = window_s or config.events_window_s
        starts = [float(s) for s in _steps(self.duration_s, window_s)]
        found: list[Event] = []
        batches: Iterable[list[float]] = (
            starts[i : i + WINDOWS_AT_ONCE] for i in range(0, len(starts), WINDOWS_AT_ONCE)
        )
        if progress:
            from tqdm import tqdm

            batches = tqdm(batches, total=-(-len(starts) // WINDOWS_AT_ONCE), desc="events", unit="batch")
        for batch in batches:
            ask = [config.events.format(start=round(s), end=round(s + window_s)) for s in batch]
            for answer in self.ask_all(ask):
                found += [e for e in answer.events if e.text and e.start_s < self.duration_s]
        return join_events(found, gap_s=1.0)

    def save(self, path: str | Path) -> Path:
        """Write a memory file (.lcm: safetensors with a JSON header); nothing half-written is left behind."""
        path = Path(path)
        tensors = self._tensors()
        header = {
            "format": FORMAT, "sha256": _hash(tensors), "source": self.source, "budget": self.budget,
            "duration_s": self.duration_s, "identity": self.identity,
            "streams": sorted(self.streams), "globals": sorted(self.globals), "members": sorted(self.members),
        }  # fmt: skip
        try:
            with replacing(path) as part:
                save_file(tensors, part, metadata={"longcompress": json.dumps(header, sort_keys=True)})
        except SafetensorError as error:
            raise OSError(
                f"path {path}: the memory could not be written: {error}; is the disk full?"
            ) from error
        return path

    @classmethod
    def load(cls, path: str | Path, model: LongCompress | None = None) -> "VideoMemory":
        """Read a memory file and check all of it.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is cut, altered, of a newer format, or made by other encoders than `model` has.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"path: no memory file {path}; make one with `longcompress compress`")
        try:
            with safe_open(path, "pt") as file:
                header = json.loads((file.metadata() or {}).get("longcompress", "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"path {path} is not a whole memory file ({error}); make it anew") from error
        if not isinstance(header, dict):
            raise ValueError(
                f"path {path} is a safetensors file but not a memory file; make one with `compress`"
            )
        if header["format"] > FORMAT:
            raise ValueError(
                f"path {path} has format {header['format']}, this version reads up to {FORMAT}; "
                f"upgrade longcompress"
            )
        if header["sha256"] != _hash(tensors):
            raise ValueError(
                f"path {path} was altered: its sha256 is not the one in its header; make it anew"
            )
        if model is not None and header["identity"] != model.identity():
            raise ValueError(
                f"path {path} was made by other encoders than model {model.config.name!r} has; "
                f"compress the video again with this model, or load the one that made it"
            )
        streams = {n: Tokens(*(tensors[f"{n}.{f}"] for f in FIELDS)) for n in header["streams"]}
        globals_ = {n: tensors[f"{n}.globals"] for n in header["globals"]}
        members = {n: tensors[f"{n}.members"] for n in header["members"]}
        return cls(
            streams, globals_, header["duration_s"], header["budget"], header["source"], header["identity"],
            members, model,
        )  # fmt: skip

    def _tensors(self) -> dict[str, Tensor]:
        out = {f"{n}.{f}": getattr(t, f).cpu().contiguous() for n, t in self.streams.items() for f in FIELDS}
        out |= {f"{n}.globals": g.cpu().contiguous() for n, g in self.globals.items()}
        return out | {f"{n}.members": m.cpu().contiguous() for n, m in self.members.items()}

    def _model(self) -> LongCompress:
        if self.model is None:
            raise ValueError("memory has no model to answer with; use longcompress.open(path, model)")
        return self.model

    def _read(self) -> Prefix:
        if self._prefix is None:
            self._prefix = self._model().llm.prefill(self.video)
        return self._prefix

    def _answer(self, text: str) -> Answer:
        percent = self._model().config.llm.time_format == "hundredths"
        events = tuple(parse_spans(text, duration_s=self.duration_s, percent=percent))
        cites = []
        for name, tokens in sorted(self.streams.items()):
            hit = torch.zeros(len(tokens), dtype=torch.bool)
            for event in events:
                hit |= (tokens.start_s < event.end_s).cpu() & (tokens.end_s > event.start_s).cpu()
            cites += [
                Cite(name, i, float(tokens.start_s[i]), float(tokens.end_s[i]))
                for i in hit.nonzero()[:, 0].tolist()
            ]
        return Answer(text, events, tuple(cites))


def ask_each(memories: Sequence[VideoMemory], questions: Sequence[str], **options: Any) -> list[Answer]:
    """One question about each of several videos of one model, answered in one batch."""
    if not memories:
        return []
    if len({id(m.model) for m in memories}) != 1:
        raise ValueError("memories must all have the same model to be asked in one batch")
    texts = memories[0]._model().llm.answer_each([m.video for m in memories], questions, **options)
    return [m._answer(t) for m, t in zip(memories, texts, strict=True)]


def _steps(duration_s: float, step_s: float) -> Iterator[float]:
    start_s = 0.0
    while start_s < max(duration_s, step_s * 1e-6):
        yield start_s
        start_s += step_s


def _hash(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()
