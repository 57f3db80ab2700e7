"""Path, URL, file object or arrays -> a bounded iterator of Frames and Audio with true times.

**One pass.** A thread reads the file once, in its own order, and decodes a few chunks ahead, so memory
doesn't grow with the length. Video beside audio decodes in a second thread; parts come in the same order.

**Time.** Seconds from the start of the media: the earlier of the first frame and the first sample by the
stamps in the file, also where only one of the two is wanted. A file whose frames begin at 0.12 s and
whose audio at 0 keeps its 0.12; one whose two tracks begin at 1.4 s is shifted to 0. Stamps are known to
half a tick of the file's clock (1 ms at most).

**Frames** are wanted at k / rate_fps, k = 0, 1, ... `decode` says which frame that is:

- `exact`: for every wanted instant the frame *shown* then (the latest with a stamp <= it).
  `Frames.time_s` is that instant, so the grid is regular. The first frame also stands for an instant less
  than a step before it. Instants after the last frame's end have no frame. Where the wanted step is long
  against the distance of key frames, groups of frames with no wanted instant are read, not decoded.
- `nonref`: frames that no other frame refers to are not decoded. An instant has at most one frame, the
  latest until then, and `time_s` is its own stamp.
- `keyframe`: likewise with key frames only. A fast preview.

`frames` wants this many frames instead, evenly from the first to the last. The times of these two come from
the file's packets, not from its header, so the file is opened twice. An instant whose frame can't be decoded
is missing, with a warning.

`frames.py` says how frames are scaled. Interlaced frames are taken as they are. Missing stamps are rebuilt,
repeated stamps left out, jumps of more than an hour ignored, with a warning.

**Audio** is mono at `rate_hz` and contiguous from `Audio.start_s`: gaps in the stamps over 50 ms are filled
with silence, overlaps are cut, and behind a gap over a minute audio begins anew with its own `start_s`.
"""

import math
import queue
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, Self

import av
import numpy as np
import torch

from ..config import MediaConfig
from ..types import Audio, Frames
from .audio import AudioTrack
from .demux import Container
from .frames import FrameSampler, fit_pixels
from .grid import Grid
from .probe import MediaInfo, probe

__all__ = ["MediaConfig", "MediaInfo", "Reading", "arrays", "fit_pixels", "probe", "read"]

Source = str | Path | BinaryIO | Frames | Audio | Iterable[Frames | Audio]
_QUEUE_CHUNKS = 8
_WAIT_S = 0.1
_JOIN_S = 5.0


def read(
    source: Source,
    config: MediaConfig | None = None,
    *,
    part: tuple[float, float] | None = None,
    times: Sequence[float] = (),
    protocols: Sequence[str] = ("file",),
    on_warning: Callable[[str], object] = warnings.warn,
) -> "Reading":
    """Frames and Audio of `source` in small chunks, in time order as near as the container gives them.

    Args:
        source: path, URL of an allowed protocol, binary file object, Frames, Audio or an iterable of them
            (`arrays` makes one of arrays).
        config: rates, sizes and tracks; the defaults if None.
        part: [start_s, end_s) of the media to read, as if it were all there is: times, and the instants of
            wanted frames, begin at 0 of it. The file is read from its beginning to the part's end, but only
            the frames that are needed are decoded.
        times: rising instants of wanted frames, instead of those of `config`; from the part's start.
        protocols: allowed ones: "file", "http", "https", "s3", "hf", ... (all but the first by fsspec).
        on_warning: called in the caller's thread for everything that could not be read.

    Returns:
        An iterator, also a context. Closing it ends its thread and frees the file.

    Raises:
        ValueError: nothing can be read, with file, track, time and remedy; later failures while iterating.
        OSError: the bytes can't be had; FileNotFoundError, IsADirectoryError, PermissionError among others.
    """
    config = config or MediaConfig()
    if not (config.video or config.audio):
        raise ValueError("MediaConfig: frames and audio are both off, nothing is left to read")
    if part is not None and not 0 <= part[0] < part[1]:
        raise ValueError(f"part must be (start_s, end_s) with 0 <= start_s < end_s, got {part}")
    if isinstance(source, Frames | Audio):
        source = [source]
    grid = Grid(config.rate_fps, times[0], len(times), 1 / config.rate_fps, tuple(times)) if times else None
    # Arrays are iterable too, but `open_handle` refuses them.
    is_single = isinstance(source, str | Path | bytes | np.ndarray | torch.Tensor) or hasattr(source, "read")
    if isinstance(source, Iterable) and not is_single:
        if config.frames and config.video and not isinstance(source, Sequence):
            raise ValueError(
                f"source must be a file or a list with frames = {config.frames}, which are spread over a "
                f"whole video, got {type(source).__name__}, whose end isn't known; set frames to 0 and use "
                "rate_fps"
            )
        return Reading(_from_values(source, config, part or (0.0, math.inf), grid))
    container = Container.open(source, config, protocols, part, grid)  # TypeError for other objects
    streams = tuple(name for name in ("video", "audio") if getattr(container, name) is not None)
    name, duration_s = container.name, container.duration_s  # before the thread owns the container
    return Reading(_DecodeAhead(container, on_warning), name, streams, duration_s)


def arrays(
    pixels: Any = None, rate_fps: float = 1.0, samples: Any = None, rate_hz: int = 16000
) -> list[Frames | Audio]:
    """A source for `read` made of arrays: frames and audio that both begin at 0.

    Args:
        pixels: (T, H, W, 3) uint8 RGB, numpy or torch; None for no frames.
        rate_fps: frames a second.
        samples: (n,) floats in [-1, 1], numpy or torch; None for no audio.
        rate_hz: samples a second.
    """
    values: list[Frames | Audio] = []
    if pixels is not None:
        pixels = torch.as_tensor(pixels)
        times = torch.arange(len(pixels), dtype=torch.float64) / rate_fps
        chunks = zip(pixels.split(16), times.split(16), strict=True)
        values += [Frames(chunk, time_s, 1.0 / rate_fps) for chunk, time_s in chunks]
    if samples is not None:
        parts = torch.as_tensor(samples).float().split(rate_hz)
        values += [Audio(part, float(second), rate_hz) for second, part in enumerate(parts)]
    return sorted(values, key=lambda value: value.start_s)


class Reading(Iterator[Frames | Audio]):
    """An iterator over Frames and Audio that can be closed.

    Attributes:
        name: of the file; "arrays" for values.
        streams: modalities that will come, of "video" and "audio"; None if unknown.
        duration_s: the length in the header, true or not; None if unknown.
        reached_s: of a file, modality -> the time before which none of it comes any more.
    """

    def __init__(
        self, items: Iterator[Frames | Audio], name: str = "arrays", streams: tuple[str, ...] | None = None,
        duration_s: float | None = None,
    ) -> None:  # fmt: skip
        self._items = items
        self.name, self.streams, self.duration_s = name, streams, duration_s
        self.reached_s: dict[str, float] = {}

    def __next__(self) -> Frames | Audio:
        item = next(self._items)
        if isinstance(self._items, _DecodeAhead):
            self.reached_s = self._items.reached_s
        return item

    @property
    def end_s(self) -> float:
        """Where a file that was read through, and is still open, ends, or its part; infinite if unknown."""
        return self._items.container.end_s if isinstance(self._items, _DecodeAhead) else math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """End the thread and free the file; no further items come."""
        items, self._items = self._items, iter(())
        if isinstance(items, _DecodeAhead):
            items.close()


class _DecodeAhead(Iterator[Frames | Audio]):
    """The parts of a file, decoded in a thread a few chunks ahead; warnings come in the caller's thread."""

    def __init__(self, container: Container, on_warning: Callable[[str], object]) -> None:
        self.container = container
        self._on_warning = on_warning
        self._warnings: deque[str] = deque()
        self._stop = container.handle.stop
        self.reached_s: dict[str, float] = {}  # as of the item that was returned last
        self._queue: queue.Queue[tuple[Frames | Audio | BaseException | None, dict[str, float]]] = (
            queue.Queue(_QUEUE_CHUNKS)
        )
        # The thread knows the container, queue and warnings, not this object: dropping this object ends it.
        arguments = (container, self._queue, self._warnings)
        self._thread = threading.Thread(target=_decode, args=arguments, daemon=True)
        self._thread.name = "longcompress-media"
        self._thread.start()

    def __next__(self) -> Frames | Audio:
        while not self._stop.is_set():
            try:
                # a wait without end can't be interrupted everywhere
                item, self.reached_s = self._queue.get(timeout=_WAIT_S)
            except queue.Empty:
                continue
            if not isinstance(item, Frames | Audio):
                self.close()
            # The thread appends a warning before it puts the item that follows.
            while self._warnings:
                self._on_warning(self._warnings.popleft())
            if isinstance(item, Frames | Audio):
                return item
            if item is not None:
                raise item
        raise StopIteration

    def close(self) -> None:
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S)


def _decode(container: Container, out: "queue.Queue[Any]", warnings: deque[str]) -> None:
    """Put the parts of `container` into `out`, then None or the error; end soon after a stop."""

    def put(item: Any) -> None:
        while not container.handle.stop.is_set():
            try:
                return out.put((item, container.reached_s), timeout=_WAIT_S)
            except queue.Full:
                continue

    last: BaseException | None = None
    try:
        with closing(container.parts(warnings.append)) as parts:
            for item in parts:
                put(item)
                if container.handle.stop.is_set():
                    break
    except BaseException as error:  # raised again in the caller's thread
        last = error
    finally:
        container.close()
        put(last)


def _from_values(
    values: Iterable[Any], config: MediaConfig, part: tuple[float, float], grid: Grid | None
) -> Iterator[Frames | Audio]:
    """Frames and Audio at the wanted rate and size, as soon as they are complete: the source may be live."""
    start_s, length_s = part[0], part[1] - part[0]
    if grid is None and isinstance(values, Sequence):
        grid = _spread_grid(values, config, part)
    sampler = FrameSampler(config, "frames", length_s=length_s, grid=grid)
    audio = AudioTrack(config.rate_hz, -start_s, length_s, config.channels)
    for value in values:
        if isinstance(value, Frames):
            if config.video:
                for pixels, time in zip(value.pixels, value.time_s.tolist(), strict=True):
                    frame = av.VideoFrame.from_ndarray(pixels.contiguous().numpy(), format="rgb24")
                    yield from sampler.push(frame, time - start_s, value.step_s)
                yield from sampler.flush()
        elif isinstance(value, Audio):
            if config.audio and len(value):
                samples = av.AudioFrame.from_ndarray(value.samples.numpy()[None], format="flt", layout="mono")
                samples.sample_rate = value.rate_hz
                yield from audio.push(samples, value.start_s - start_s)
        else:
            raise TypeError(
                f"source must give Frames or Audio, got {type(value).__name__}; wrap arrays with arrays()"
            )
    yield from sampler.finish()
    yield from audio.finish()


def _spread_grid(values: Sequence[Any], config: MediaConfig, part: tuple[float, float]) -> Grid | None:
    """The instants of `MediaConfig.frames`; None if it is 0 or there are no frames."""
    frames = [value for value in values if isinstance(value, Frames)]
    times = [t - part[0] for f in frames for t in f.time_s.tolist() if part[0] <= t < part[1]]
    if not times or not config.frames:
        return None
    return Grid.spread(config, times[0], times[-1], frames[0].step_s)
