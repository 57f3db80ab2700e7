"""A video as a fixed number of tokens: ask it, list its events, keep it on disk."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor
from tqdm import tqdm

from .encoders import StockVision
from .events.listing import EventList, Window, list_events
from .events.parse import parse_spans
from .files import parse_json, replacing
from .llm.causal import Prefix
from .llm.messages import messages_of
from .llm.prompt import Example, Turns
from .media.thumbnails import MARKS, Thumbnail
from .model import LongCompress
from .serialize import from_int8, to_int8, write
from .types import MAX_TIME_S, Answer, Cite, CompressedVideo, Event, Tokens, stream_order

FORMAT = 3
HEADER: dict[str, type | tuple[type, ...]] = {  # its fields and their types
    "sha256": str, "source": dict, "budget": int, "duration_s": (int, float), "identity": str,
    "streams": list, "globals": list, "assignment": list, "thumbnails": list, "text": list,
}  # fmt: skip
SAMPLING = ("size_px", "rate_fps", "frames")  # of MediaConfig: a stock model's prompt tells times by them
FIELDS = ("x", "size", "time_s", "start_s", "end_s", "place")
WINDOW_BATCH = 8


@dataclass
class VideoMemory:
    """A compressed video with the model that answers about it, and where it came from.

    Attributes:
        video: its tokens.
        model: what answers; None: nothing can be asked.
        identity: of the encoders and the merging that made it.
        source: {"name", "num_bytes", "sha256", "read_s", "merge", "media"} as far as they are known: seconds
            of "video" and "audio" that were read, representative and place of merged tokens, fields of
            MediaConfig.
        stats: what compressing took, where that was in this process.
        thumbnails: frames of the heaviest video tokens, by time; empty unless asked for.
    """

    video: CompressedVideo
    model: LongCompress | None = field(default=None, repr=False)
    identity: str = ""
    source: dict[str, Any] = field(default_factory=dict)
    stats: dict[str, float] = field(default_factory=dict, repr=False)
    thumbnails: list[Thumbnail] = field(default_factory=list, repr=False)
    _prefix: Prefix | None = field(default=None, repr=False)
    _sizes: tuple[int, Callable[[Turns], int]] | None = field(default=None, repr=False)

    @property
    def streams(self) -> dict[str, Tokens]:
        """Stream -> its tokens, by time."""
        return self.video.streams

    @property
    def globals(self) -> dict[str, Tensor]:
        """Stream -> (E, C) float32 global tokens."""
        return self.video.globals

    @property
    def duration_s(self) -> float:
        """Length of the video."""
        return self.video.duration_s

    @property
    def budget(self) -> int:
        """Tokens that were asked for."""
        return self.video.budget

    @property
    def num_tokens(self) -> int:
        """Tokens in all: the budget, unless the video has fewer."""
        return self.video.num_tokens

    @property
    def coverage(self) -> dict[str, dict[str, float]]:
        """Stream -> seconds of the video ("duration_s"), seconds that were read of it ("read_s"; -1: unknown)
        and seconds that its tokens stand for ("represented_s")."""
        read_s = self.source.get("read_s", {})
        return {
            name: {
                "duration_s": self.duration_s,
                "read_s": min(read_s.get("video" if name == "video" else "audio", -1.0), self.duration_s),
                "represented_s": min(union_s(tokens.start_s, tokens.end_s), self.duration_s),
            }
            for name, tokens in self.streams.items()
        }

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
        options = {"stream": stream, "max_new_tokens": max_new_tokens} | generate
        return self.ask_all([question], **options)[0]

    def ask_all(self, questions: Sequence[str | Turns], **options: Any) -> list[Answer]:
        """The answers to several questions about the video, generated together. Spaces at the end of a
        question don't count. A question may be the last of a dialogue: [(question, answer), ..., (question,
        None)]."""
        if not questions:
            return []
        asked = [_rstripped(question) for question in questions]
        return [self._answer(t) for t in self._model().llm.answer(self._read(), asked, **options)]

    def events(self, *, window_s: float | None = None, progress: bool = False) -> list[Event]:
        """What happens, in time order: every window is asked about, events cut by window borders are joined.

        A warning tells of answers in which no time could be read; `list_events` has them.
        """
        listed = self.list_events(window_s=window_s, progress=progress)
        if listed.unparsed:
            warnings.warn(f"events: {listed}, the first: {listed.unparsed[0]!s:.200}", stacklevel=2)
        return listed.events

    def list_events(
        self, *, window_s: float | None = None, max_new_tokens: int | None = None, progress: bool = False
    ) -> EventList:
        """`events`, with counts of the windows asked and of what was done with their answers."""
        config = self._model().config.llm
        if config.time_format == "hundredths":
            text = self.ask(config.events, max_new_tokens=max_new_tokens).text
            events = parse_spans(text, duration_s=self.duration_s, percent=True, inclusive=True)
            return EventList(events, 1, unparsed=() if events else (Event(0.0, self.duration_s, text),))
        window_s = config.events_window_s if window_s is None else window_s
        if not window_s > 0:
            raise ValueError(f"window_s must be > 0 seconds, got {window_s}")

        def ask(windows: Sequence[Window]) -> list[str]:
            questions = [config.events.format(start=round(start), end=round(end)) for start, end in windows]
            batches = [questions[i : i + WINDOW_BATCH] for i in range(0, len(windows), WINDOW_BATCH)]
            bar = tqdm(batches, desc="events", unit="batch", disable=not progress)
            return [a.text for some in bar for a in self.ask_all(some, max_new_tokens=max_new_tokens)]

        ends = [float(tokens.end_s.max()) for tokens in self.streams.values() if len(tokens)]
        return list_events(ask, min(self.duration_s, max(ends, default=0.0)), window_s)

    def heaviest(self, num: int, step_s: float) -> dict[float, int]:
        """Second where it is shown -> index, of at most `num` video tokens that stand for the most raw ones;
        of those that lie within the same `step_s`, the heaviest."""
        tokens = self.streams.get("video")
        if tokens is None or not len(tokens):
            warnings.warn("the memory has no video token that a thumbnail could show", stacklevel=3)
            return {}
        shown: dict[int, tuple[float, int]] = {}
        seconds = tokens.place[:, 0].tolist()
        for index in tokens.size.argsort(descending=True, stable=True).tolist():
            shown.setdefault(int(seconds[index] / step_s + 1e-6), (seconds[index], index))
            if len(shown) == num:
                break
        return dict(shown.values())

    def thumbnails_of(self, answer: Answer, num: int = 3) -> list[Thumbnail]:
        """The thumbnails nearest to the events of an answer, one for each; where it names no time, the `num`
        of the heaviest tokens. In time order."""
        if not self.thumbnails:
            return []
        if answer.events:
            nearest = [min(self.thumbnails, key=partial(_distance_s, event)) for event in answer.events]
        else:
            sizes = self.streams["video"].size
            nearest = sorted(self.thumbnails, key=lambda t: -float(sizes[t.index]))[:num]
        return sorted(set(nearest), key=lambda t: t.time_s)

    def messages(
        self, question: str, frames: int = 16, *, transcript: Iterable[Event] | None = None
    ) -> list[dict[str, Any]]:
        """OpenAI's messages that ask any model that takes images about the video.

        Args:
            question: not empty.
            frames: thumbnails that it gets, those of the heaviest tokens, in time order.
            transcript: what is said, with its seconds; None: the text that the video was compressed with.

        Raises:
            ValueError: the memory has no thumbnails.
        """
        if frames < 1 or not self.thumbnails:
            raise ValueError(
                f"frames must be at least 1 of the memory's thumbnails, got {frames} of "
                f"{len(self.thumbnails)}; compress the video with thumbnails={max(frames, 16)}"
            )
        sizes = self.streams["video"].size
        shown = sorted(self.thumbnails, key=lambda t: -float(sizes[t.index]))[:frames]
        pairs = [(t.time_s, t.jpeg) for t in sorted(shown, key=lambda t: t.time_s)]
        transcript = self.video.text if transcript is None else transcript
        return messages_of(pairs, self.duration_s, question, transcript)

    def save(self, path: str | Path) -> Path:
        """Write a memory file (.lcm: safetensors with a JSON header); nothing half-written is left behind."""
        path = Path(path)
        dtype = "" if self.model is None else self.model.config.memory.dtype
        tensors = self._tensors(dtype)
        header = {
            "format": FORMAT, "sha256": _hash(tensors), "source": self.source, "budget": self.budget,
            "duration_s": self.duration_s, "identity": self.identity,
            "streams": list(self.streams), "globals": list(self.globals),
            "assignment": list(self.video.assignment),
            "thumbnails": [[t.time_s, t.index] for t in self.thumbnails],
            "text": [[event.start_s, event.end_s, event.text] for event in self.video.text],
        }  # fmt: skip
        try:
            with replacing(path) as part:
                write(tensors, part, {"longcompress": json.dumps(header, sort_keys=True)})
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
            ValueError: if it is cut, altered, of another format, or made by other encoders than `model` has.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"path: no memory file {path}; make one with `longcompress compress`")
        header = read_header(path)
        try:
            tensors = load(path.read_bytes())  # safe_open leaves two objects behind for each tensor it gives
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"path {path} is not a whole memory file ({error}); make it anew") from error
        if header["sha256"] != _hash(tensors):
            raise ValueError(
                f"path {path} was altered: its sha256 is not the one in its header; make it anew"
            )
        hint = "" if model is None else sampling_hint(header["source"], model)
        if model is not None and header["identity"] != model.identity():
            raise ValueError(
                f"path {path} was made by other encoders than model {model.config.name!r} has; "
                f"compress the video again with this model, or load the one that made it{hint}"
            )
        if model is not None and hint:
            raise ValueError(f"path {path} has other frames than model {model.config.name!r} takes{hint}")
        try:
            video = CompressedVideo(
                {n: _tokens(tensors, n) for n in stream_order(header["streams"])},
                {n: tensors[f"{n}.globals"] for n in stream_order(header["globals"])},
                header["budget"],
                header["duration_s"],
                {n: tensors[f"{n}.assignment"] for n in stream_order(header["assignment"])},
                tuple(Event(float(start), float(end), str(text)) for start, end, text in header["text"]),
            )
            _check(video, model)
            thumbnails = _thumbnails(tensors, header["thumbnails"], video)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"path {path} is no memory that can be read: {error}; make it anew") from error
        return cls(video, model, header["identity"], header["source"], thumbnails=thumbnails)

    def _tensors(self, dtype: str) -> dict[str, Tensor]:
        out = {f"{n}.{f}": getattr(t, f).cpu().contiguous() for n, t in self.streams.items() for f in FIELDS}
        for name in self.streams:
            x = out[f"{name}.x"]
            if dtype == "int8":
                out[f"{name}.x"], out[f"{name}.x_scale"] = to_int8(x)
            elif dtype:
                out[f"{name}.x"] = x.to(getattr(torch, dtype))
        out |= {f"{n}.globals": g.cpu().contiguous() for n, g in self.globals.items()}
        out |= {
            f"thumbnail.{number}": torch.frombuffer(bytearray(thumbnail.jpeg), dtype=torch.uint8)
            for number, thumbnail in enumerate(self.thumbnails)
        }
        return out | {f"{n}.assignment": a.cpu().contiguous() for n, a in self.video.assignment.items()}

    def _model(self) -> LongCompress:
        if self.model is None or not hasattr(self.model, "llm"):
            raise ValueError(
                "memory has no model to answer with; use longcompress.load_memory(path, model), or send its "
                "messages to another one"
            )
        return self.model

    def _read(self) -> Prefix:
        if self._prefix is None:
            self._prefix = self._model().llm.prefill(self.video.to(self._model().device))
        return self._prefix

    def _num_prompt(self, turns: Turns) -> tuple[int, int]:
        """(positions of the video with the text before it, positions of a dialogue after it)."""
        if self._sizes is None:  # the prompt of a long video takes longer to lay out than to ask
            self._sizes = self._model().llm.sizes(Example(self.video, turns, dialogue=True))
        num, size = self._sizes
        return num, size(turns)

    def _answer(self, text: str) -> Answer:
        percent = self._model().config.llm.time_format == "hundredths"
        events = tuple(parse_spans(text, duration_s=self.duration_s, percent=percent))
        cites = []
        for name, tokens in self.streams.items():
            hit = torch.zeros(len(tokens), dtype=torch.bool)
            for event in events:
                hit |= (tokens.start_s < event.end_s).cpu() & (tokens.end_s > event.start_s).cpu()
            start_s, end_s = tokens.start_s.tolist(), tokens.end_s.tolist()
            cites += [Cite(name, i, start_s[i], end_s[i]) for i in hit.nonzero()[:, 0].tolist()]
        return Answer(text, events, tuple(cites), self.coverage)


def union_s(start_s: Tensor, end_s: Tensor) -> float:
    """Seconds that intervals (N,) cover together."""
    order = start_s.argsort()
    start_s, end_s = start_s[order], end_s[order].cummax(0).values
    before = torch.cat([start_s[:1], end_s[:-1]])  # until when all before reach
    return float((end_s - torch.maximum(start_s, before)).clamp_min(0).sum())


def sampling(model: LongCompress) -> dict[str, Any]:
    """How a model's frames are sampled."""
    return {name: getattr(model.config.media, name) for name in SAMPLING}


def sampling_hint(source: Mapping[str, Any], model: LongCompress) -> str:
    """What to change where a stock model takes other frames than a memory's source; "" where nothing is."""
    now = sampling(model)
    before = source.get("media", now)
    if before == now or not isinstance(model.video, StockVision):
        return ""
    return f"; its frames are of {before}, which model.change({{'media': ...}}) sets"


def read_header(path: Path) -> dict[str, Any]:
    """What a memory file says of itself; ValueError if it is none, cut, or of another format."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"path {path} is not a whole memory file ({error}); make it anew") from error
    header = parse_json(metadata.get("longcompress", "null"), f"path {path}: its header")
    if not isinstance(header, dict):
        raise ValueError(f"path {path} is a safetensors file but not a memory file; make one with `compress`")
    if header.get("format") != FORMAT:
        raise ValueError(
            f"path {path} has format {header.get('format')}, this version reads {FORMAT}; "
            f"make it anew with `longcompress compress`"
        )
    for name, kind in HEADER.items():
        if not isinstance(header.get(name), kind):
            raise ValueError(f"path {path}: {name} of its header is {header.get(name)!r}; make it anew")
    sampling = header["source"].get("media", {})
    if not (isinstance(sampling, dict) and all(type(value) in (int, float) for value in sampling.values())):
        raise ValueError(f"path {path}: media of its source must be numbers, got {sampling!r}; make it anew")
    if not isinstance(header["source"].get("name", ""), str):
        raise ValueError(f"path {path}: the name of its source must be a text; make it anew")
    read_s = header["source"].get("read_s", {})
    if not isinstance(read_s, dict) or not all(isinstance(value, int | float) for value in read_s.values()):
        raise ValueError(f"path {path}: read_s of its source must be seconds by medium; make it anew")
    return header


def _tokens(tensors: dict[str, Tensor], name: str) -> Tokens:
    """The tokens of a stream; those in 8 bits become float32."""
    x, *others = (tensors[f"{name}.{field}"] for field in FIELDS)
    return Tokens(from_int8(x, tensors[f"{name}.x_scale"]) if x.dtype == torch.int8 else x, *others)


def _thumbnails(tensors: dict[str, Tensor], header: list[Any], video: CompressedVideo) -> list[Thumbnail]:
    """The thumbnails in a file; ValueError for what can't be any."""
    num, out = len(video.streams.get("video", ())), []
    for number, (time_s, index) in enumerate(header):
        x = tensors[f"thumbnail.{number}"]
        jpeg = bytes(x.numpy()) if x.dtype == torch.uint8 and x.dim() == 1 else b""
        is_placed = isinstance(index, int) and 0 <= index < num and 0 <= time_s <= MAX_TIME_S
        if not (is_placed and jpeg.startswith(MARKS[0]) and jpeg.endswith(MARKS[1])):
            raise ValueError(f"thumbnail {number} must be a JPEG of one of {num} video tokens, with its time")
        out.append(Thumbnail(time_s, index, jpeg))
    return out


def _distance_s(event: Event, thumbnail: Thumbnail) -> float:
    """Seconds from a thumbnail to an event; 0 within it."""
    return max(event.start_s - thumbnail.time_s, thumbnail.time_s - event.end_s, 0.0)


def _check(video: CompressedVideo, model: LongCompress | None) -> None:
    """ValueError for numbers that no video gives, or tokens that the model can't read."""
    if not (video.budget > 0 and 0 <= video.duration_s <= MAX_TIME_S):
        raise ValueError(f"it has a budget of {video.budget} and lasts {video.duration_s} s")
    for name, tokens in video.streams.items():
        tokens.check(f"stream {name!r}")
    for name, numbers in video.assignment.items():
        if numbers.numel() and not 0 <= numbers.min() <= numbers.max() < len(video.streams.get(name, ())):
            raise ValueError(f"assignment of stream {name!r} must be numbers of its tokens")
    widths = None if model is None else {name: encoder.width for name, encoder in model.encoders.items()}
    for name, x in [*((n, t.x) for n, t in video.streams.items()), *video.globals.items()]:
        is_fine = x.dim() == 2 and bool(x.isfinite().all())
        if not is_fine or (widths is not None and x.shape[1] != widths.get(name)):
            raise ValueError(f"tokens of stream {name!r} must be finite, and as wide as the model's encoder")


def _rstripped(question: Any) -> str | Turns:
    """A question or a dialogue without spaces at the ends of questions; TypeError if it is neither."""
    if isinstance(question, str):
        return question.rstrip()
    pairs = question if isinstance(question, list | tuple) else [None]
    if not all(isinstance(p, list | tuple) and len(p) == 2 and isinstance(p[0], str) for p in pairs):
        raise TypeError(f"questions must be texts, or lists of (question, answer), got {question!r:.60}")
    return [(text.rstrip(), answer) for text, answer in question]


def ask_each(
    memories: Sequence[VideoMemory], questions: Sequence[str | Turns], **options: Any
) -> list[Answer]:
    """One question about each of several videos of one model, answered in one batch; a question may be the
    last of a dialogue, as for VideoMemory.ask_all."""
    if not memories:
        return []
    if len({id(m.model) for m in memories}) != 1:
        raise ValueError("memories must all have the same model to be asked in one batch")
    model = memories[0]._model()
    videos = [m.video.to(model.device) for m in memories]
    texts = model.llm.answer_each(videos, [_rstripped(q) for q in questions], **options)
    return [m._answer(t) for m, t in zip(memories, texts, strict=True)]


def _hash(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()
