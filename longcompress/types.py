"""The values that flow between stages. Times are float64 seconds from the start of the media, intervals
half-open."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

STREAMS = ("video", "audio", "speech")
"""The order of streams, wherever it matters: of tokens, prompts, files and tables. Never alphabetical."""

MAX_TIME_S = 1e8  # three years; times count from the start, those since 1970 are larger
HALF = re.compile("[\ud800-\udfff]")  # of a character, as a cut emoji leaves it


def stream_order(names: Iterable[str]) -> list[str]:
    """The names in the order of STREAMS, each once; ValueError for a name that is no stream."""
    names = set(names)
    if unknown := names - set(STREAMS):
        raise ValueError(f"streams must be of {STREAMS}, got {min(unknown)!r}")
    return [name for name in STREAMS if name in names]


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Frames:
    """Frames as the decoder gives them, in time order.

    Attributes:
        pixels: (T, H, W, 3) uint8 RGB.
        time_s: (T,) float64, the true time of each frame, rising.
        step_s: seconds from one wanted frame to the next, > 0; frame t stands for `[time_s, time_s +
            step_s)`.
    """

    pixels: Tensor
    time_s: Tensor
    step_s: float
    modality: ClassVar[str] = "video"

    def __post_init__(self) -> None:
        shape = tuple(self.pixels.shape)
        _need(len(shape) == 4 and shape[3] == 3, f"Frames.pixels must be (T, H, W, 3), got {shape}")
        _need(self.pixels.dtype == torch.uint8, f"Frames.pixels must be uint8, got {self.pixels.dtype}")
        _need(
            self.time_s.shape == self.pixels.shape[:1] and self.time_s.dtype == torch.float64,
            f"Frames.time_s must be (T,) = ({shape[0]},) float64, "
            f"got {tuple(self.time_s.shape)} {self.time_s.dtype}",
        )
        _need(self.step_s > 0, f"Frames.step_s must be > 0 seconds, got {self.step_s}")
        rising = torch.isfinite(self.time_s).all() and (self.time_s.diff() > 0).all()
        _need(bool(rising), f"Frames.time_s must be finite and rising, got {self.time_s.tolist()[:8]}")

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def __repr__(self) -> str:
        interval = f"{self.start_s:g} to {self.end_s:g} s" if len(self) else "none"
        return f"Frames({tuple(self.pixels.shape)}, {interval})"

    @property
    def start_s(self) -> float:
        """Time of the first frame."""
        return float(self.time_s[0])

    @property
    def end_s(self) -> float:
        """Time just after the last frame."""
        return float(self.time_s[-1]) + self.step_s

    def cut(self, start: int, stop: int) -> "Frames":
        """Frames `start` to `stop`."""
        return Frames(self.pixels[start:stop], self.time_s[start:stop], self.step_s)

    @classmethod
    def join(cls, parts: "Sequence[Frames]") -> "Frames":
        """One after the other, on the device of the first and with its step; at least one part is needed."""
        pixels, time_s = parts[0].pixels, parts[0].time_s
        return cls(
            torch.cat([part.pixels.to(pixels.device) for part in parts]),
            torch.cat([part.time_s.to(time_s.device) for part in parts]),
            parts[0].step_s,
        )


@dataclass(frozen=True)
class Audio:
    """A stretch of mono audio.

    Attributes:
        samples: (n,) float32 in [-1, 1].
        start_s: time of the first sample.
        rate_hz: samples a second, > 0.
    """

    samples: Tensor
    start_s: float
    rate_hz: int = 16000
    modality: ClassVar[str] = "audio"

    def __post_init__(self) -> None:
        _need(self.samples.dim() == 1, f"Audio.samples must be (n,), got {tuple(self.samples.shape)}")
        _need(self.samples.dtype == torch.float32, f"Audio.samples must be float32, got {self.samples.dtype}")
        _need(self.rate_hz > 0, f"Audio.rate_hz must be > 0, got {self.rate_hz}")
        _need(math.isfinite(self.start_s), f"Audio.start_s must be finite, got {self.start_s}")

    def __len__(self) -> int:
        return self.samples.shape[0]

    def __repr__(self) -> str:
        return f"Audio(({len(self)},), {self.start_s:g} to {self.end_s:g} s, {self.rate_hz} Hz)"

    @property
    def end_s(self) -> float:
        """Time just after the last sample."""
        return self.start_s + len(self) / self.rate_hz

    def cut(self, start: int, stop: int) -> "Audio":
        """Samples `start` to `stop`."""
        return Audio(self.samples[start:stop], self.start_s + start / self.rate_hz, self.rate_hz)

    @classmethod
    def join(cls, parts: "Sequence[Audio]") -> "Audio":
        """One after the other, on the device of the first; at least one part is needed."""
        samples = parts[0].samples
        joined = torch.cat([part.samples.to(samples.device) for part in parts])
        return cls(joined, parts[0].start_s, parts[0].rate_hz)


@dataclass(frozen=True)
class Tokens:
    """Tokens of one stream, each with what it stands for.

    Attributes:
        x: (N, C) features, any float dtype.
        size: (N,) float32, how many raw tokens each one stands for, > 0.
        time_s: (N,) float64, their mean time.
        start_s: (N,) float64.
        end_s: (N,) float64, > start_s.
        place: (N, 3) float64 where it is shown: its second, its row and its column in the frame's grid of
            patches. Row and column are 0 for audio; None: start_s, 0, 0.
    """

    x: Tensor
    size: Tensor
    time_s: Tensor
    start_s: Tensor
    end_s: Tensor
    place: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.place is None:
            place = torch.stack([self.start_s, *[torch.zeros_like(self.start_s)] * 2], -1)
            object.__setattr__(self, "place", place)
        _need(self.x.dim() == 2, f"Tokens.x must be (N, C), got {tuple(self.x.shape)}")
        want = self.x.shape[:1]
        for name in ("size", "time_s", "start_s", "end_s"):
            got = getattr(self, name).shape
            _need(got == want, f"Tokens.{name} must be (N,) = {tuple(want)} like x, got {tuple(got)}")
        _need(self.size.dtype == torch.float32, f"Tokens.size must be float32, got {self.size.dtype}")
        got = tuple(self.place.shape)
        _need(got == (*want, 3), f"Tokens.place must be (N, 3) with N = {want[0]} like x, got {got}")
        for name in ("time_s", "start_s", "end_s", "place"):
            got = getattr(self, name).dtype
            _need(got == torch.float64, f"Tokens.{name} must be float64, got {got}")

    def __len__(self) -> int:
        return self.x.shape[0]

    def __repr__(self) -> str:
        return f"Tokens({tuple(self.x.shape)} {self.x.dtype}, {float(self.size.sum()):g} raw)"

    @property
    def num_bytes(self) -> int:
        """Bytes of features, sizes, times and places."""
        return sum(getattr(self, f.name).nbytes for f in fields(self))

    def check(self, where: str) -> None:
        """ValueError for numbers that no video gives, as a damaged file has them."""
        times = torch.stack([self.time_s, self.start_s, self.end_s])
        is_in_order = bool((times.abs() <= MAX_TIME_S).all() and (self.end_s > self.start_s).all())
        _need(is_in_order, f"{where}: times must be finite, each end after its start")
        is_sized = bool((self.size.isfinite() & (self.size > 0)).all())
        _need(is_sized, f"{where}: sizes must be finite and > 0")
        is_placed = bool((self.place.abs() <= MAX_TIME_S).all())
        _need(is_placed, f"{where}: places must be finite")
        _need(bool(self.x.isfinite().all()), f"{where}: x is not finite")

    def take(self, index: Tensor | slice) -> Self:
        """The tokens at `index` (n,) int64, bool (N,) or a slice, in that order."""
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def later(self, by_s: float) -> Self:
        """The same tokens, at times and places later by `by_s`."""
        times = {name: getattr(self, name) + by_s for name in ("time_s", "start_s", "end_s")}
        return replace(self, place=self.place + self.place.new_tensor([by_s, 0, 0]), **times)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same tokens on `device`, x in `dtype`; sizes and times keep their own dtypes."""
        moved = {f.name: getattr(self, f.name).to(device=device) for f in fields(self)}
        moved["x"] = moved["x"].to(dtype=dtype)
        return type(self)(**moved)

    @classmethod
    def join(cls, parts: Iterable["Tokens"]) -> "Tokens":
        """One after the other; at least one part is needed (its width and device are the result's)."""
        parts = list(parts)
        _need(
            bool(parts), "Tokens.join needs at least one part, got none; make an empty one with Tokens.empty"
        )
        return cls(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)})

    @classmethod
    def empty(
        cls, width: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "Tokens":
        """No tokens, `width` channels wide."""
        time = torch.zeros(0, dtype=torch.float64, device=device)
        return cls(torch.zeros(0, width, device=device, dtype=dtype), time.float(), time, time, time)


@dataclass(frozen=True)
class Encoded:
    """What an encoder makes of a stretch of one stream.

    Attributes:
        tokens: N = T * patches tokens, those of one frame (or window) side by side, times rising.
        metric: (N, d) float32, a linear map of tokens.x on which merging is decided.
        summary: (T, E, C) class tokens of the last layers, or None.
        patches: tokens a frame (or window) has.
        reused: frames that took the features of the frame before (`reuse_below`);
            said once, of the block as it leaves the encoder.
    """

    tokens: Tokens
    metric: Tensor
    summary: Tensor | None = None
    patches: int = 1
    reused: int = 0

    def __post_init__(self) -> None:
        n = len(self.tokens)
        _need(
            self.metric.dim() == 2 and self.metric.shape[0] == n and self.metric.dtype == torch.float32,
            f"Encoded.metric must be (N, d) float32 with N = {n} like tokens, "
            f"got {tuple(self.metric.shape)} {self.metric.dtype}",
        )
        _need(
            self.patches >= 1 and n % self.patches == 0,
            f"Encoded.patches must divide N = {n} tokens, got {self.patches}",
        )
        if self.summary is not None:
            _need(
                self.summary.dim() == 3 and self.summary.shape[0] == n // self.patches,
                f"Encoded.summary must be (T, E, C), T = {n // self.patches}, "
                f"got {tuple(self.summary.shape)}",
            )

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, start: int, stop: int) -> "Encoded":
        """Frames (or windows) `start` to `stop`, with all their tokens."""
        part = slice(start * self.patches, stop * self.patches)
        summary = None if self.summary is None else self.summary[start:stop]
        return Encoded(self.tokens.take(part), self.metric[part], summary, self.patches)

    @classmethod
    def join(cls, parts: Iterable["Encoded"]) -> "Encoded":
        """One after the other; all parts must have the same patches, and all or none a summary."""
        parts = list(parts)
        _need(bool(parts), "Encoded.join needs at least one part, got none")
        _need(
            len({p.patches for p in parts}) == 1,
            f"Encoded.join: patches differ: {sorted({p.patches for p in parts})}",
        )
        summaries = [p.summary for p in parts if p.summary is not None]
        return cls(
            Tokens.join(p.tokens for p in parts),
            torch.cat([p.metric for p in parts]),
            torch.cat(summaries) if len(summaries) == len(parts) else None,
            parts[0].patches,
        )


@dataclass(frozen=True)
class Segment:
    """A closed stretch of video with what every stream has in it; streams with nothing in it are left out.

    Attributes:
        index: 0, 1, 2, ... in time order.
        start_s: where it begins.
        end_s: where it ends, > start_s.
        streams: stream name ("frame", "audio", ...) -> what its encoder made, in time order.
    """

    index: int
    start_s: float
    end_s: float
    streams: Mapping[str, Encoded] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _need(
            self.end_s > self.start_s, f"Segment.end_s must be > start_s = {self.start_s}, got {self.end_s}"
        )


@dataclass(frozen=True)
class CompressedVideo:
    """A video as a fixed number of tokens: what a language model reads.

    Attributes:
        streams: stream -> Tokens by time, in the order of STREAMS.
        globals: stream -> (E, C) float32 global tokens.
        budget: tokens that were asked for.
        duration_s: length of the video.
        assignment: stream -> (n_raw,) int32 the token that each raw token is in, raw tokens by frame and
            patch; empty unless asked for.
        text: what is said or written at a time; the prompt has it beside the tokens, outside the budget.
        global_inputs: stream -> (x (N, C), size (N,)) that learned global tokens are made of, to train them;
            empty otherwise.
        words: stream -> (N, k) int64 ids of the words that a language model reads in place of each token,
            filled up with -1, before it learns to see; empty otherwise.
    """

    streams: dict[str, Tokens]
    globals: dict[str, Tensor]
    budget: int
    duration_s: float = 0.0
    assignment: dict[str, Tensor] = field(default_factory=dict)
    text: "tuple[Event, ...]" = ()
    global_inputs: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    words: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Tokens in all: the budget, unless the video has fewer."""
        return sum(map(len, self.streams.values())) + sum(map(len, self.globals.values()))

    def to(self, device: torch.device | str) -> "CompressedVideo":
        """The same with streams and global tokens on `device`."""
        return replace(
            self,
            streams={name: tokens.to(device) for name, tokens in self.streams.items()},
            globals={name: tokens.to(device) for name, tokens in self.globals.items()},
        )


@dataclass(frozen=True, order=True)
class Event:
    """Something that happens.

    Attributes:
        start_s: where it begins, in seconds.
        end_s: where it ends (half-open), >= start_s.
        text: what happens.
    """

    start_s: float
    end_s: float
    text: str = ""

    def __post_init__(self) -> None:
        if not self.end_s >= self.start_s:
            raise ValueError(f"Event.end_s must be >= start_s = {self.start_s:g}, got {self.end_s:g}")

    def __str__(self) -> str:
        return f"{_clock(self.start_s)} - {_clock(self.end_s)}  {self.text}".rstrip()


@dataclass(frozen=True)
class Cite:
    """A token that an answer rests on: `stream`, its `index` in that stream, and the seconds it stands
    for."""

    stream: str
    index: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        text: as generated, special tokens left out.
        events: the stretches of time that the text names, in its order.
        cites: the tokens that overlap those events; empty where no time is named.
        coverage: stream -> seconds of the video, seconds read, seconds that its tokens stand for.
    """

    text: str
    events: tuple[Event, ...] = ()
    cites: tuple[Cite, ...] = ()
    coverage: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON line."""
        return {
            "text": self.text,
            "events": [asdict(event) for event in self.events],
            "cites": [asdict(cite) for cite in self.cites],
            "coverage": {name: dict(seconds) for name, seconds in self.coverage.items()},
        }


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds * 10), 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest / 10:04.1f}"
