"""Where events begin and end: changes of what is seen, changes of what is heard, and both merged.

The steps are those of LongVALE (Geng et al., arXiv 2411.19772, section 3), which never released its code: cut
at changes, stitch neighbours that are alike, then let an event last as long as the audio events in it. The
paper cuts scenes by PySceneDetect and stitches by embeddings of further networks. Here both take the merge
metric of a model's own encoder, as the segmenter does. P patches, d metric width, A blocks of audio.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ..encoders import Stream
from ..encoders.fbank import BANDS, RATE_HZ, mel_filters
from ..kernels import frame_novelty
from ..media import fit_pixels
from ..media import reader as media
from ..model import LongCompress
from ..threads import threads_for
from ..types import Audio, Encoded, Frames
from .detectors import Detector, detect_scenes

Span = tuple[float, float]  # start_s, end_s
NEAR_S = 1.0  # a change is compared with those nearer than this, and sides of a change in audio are as long
BLOCK = RATE_HZ // 4  # samples that share an audio row
NUM_BANDS = 16
DB = 10 / math.log(10)  # of a natural log of power
STILL = 1 / 255  # mean change of a pixel, of 1, below which a frame repeats the one before
FLOOR = 10.0  # log of a mel band, of noise at about -63 dB of full scale: all that is quieter is alike
SILENCE_DB = -60.0  # of full scale
QUIET = 0.1  # the quietest tenth of the audio is its background


@dataclass(frozen=True)
class BoundaryConfig:
    """How a video is cut into events.

    Attributes:
        detector: of scenes. "novelty": the model's own encoder. "content" or "adaptive": PySceneDetect's
            detectors with its thresholds, on all frames of a local file; nothing is stitched then.
        rate_fps: frames a second in which changes are searched.
        min_novelty: mean novelty of a frame (0 to 2) at a cut, and of a scene against the one before.
        ratio: times that a cut's novelty is the mean of the frames within a second around it.
        min_scene_s: a shorter scene is stitched to the neighbour that is more alike.
        min_delta_db: mean change of 16 mel bands, from the second before to the one after, at a cut of audio.
        min_sound_s: a shorter part of audio is stitched to the neighbour that is more alike.
        min_above_db: power of an audio event above that of the quietest tenth of the audio.
        max_sound_s: a longer audio event is background: it doesn't make an event longer.
    """

    detector: Detector = "novelty"
    rate_fps: float = 4.0
    min_novelty: float = 0.02
    ratio: float = 3.0
    min_scene_s: float = 2.0
    min_delta_db: float = 3.0
    min_sound_s: float = 1.0
    min_above_db: float = 3.0
    max_sound_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("rate_fps", "min_novelty", "ratio", "min_delta_db", "max_sound_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class Boundaries:
    """Scenes and audio events of a video, each in time order and disjoint.

    Attributes:
        scenes: of the whole video; none without frames.
        sounds: audio events.
        duration_s: of the video.
        still: share of frames that repeat the one before.
    """

    scenes: tuple[Span, ...]
    sounds: tuple[Span, ...]
    duration_s: float
    still: float = 0.0

    def events(self, max_sound_s: float = math.inf) -> list[Span]:
        """Both merged; audio events where there is no scene."""
        return merged(self.scenes, [s for s in self.sounds if s[1] - s[0] <= max_sound_s]) or [*self.sounds]


def merged(scenes: Iterable[Span], sounds: Sequence[Span]) -> list[Span]:
    """Events: each begins with a scene and lasts to the end of every audio event that overlaps the scene, so
    that none of these is cut. A scene that ends before the event is part of it; one that lasts longer begins
    where the event ends."""
    events: list[Span] = []
    until_s = -math.inf
    for first_s, last_s in scenes:
        start_s = max(first_s, until_s)
        if start_s < last_s:
            until_s = max([last_s, *(e for s, e in sounds if s < last_s and e > start_s)])
            events.append((start_s, until_s))
    return events


def find_boundaries(
    model: LongCompress, source: str, config: BoundaryConfig, *, part: Span | None = None,
    protocols: Sequence[str] = ("file",),
) -> Boundaries:  # fmt: skip
    """The boundaries of a video, or of a part of it, read once; ValueError or OSError for what can't be read.

    Args:
        model: its video encoder says what changes.
        source, part, protocols: as of `media.read`.
    """
    encoder = model.video
    options = replace(
        model.config.media, rate_fps=config.rate_fps, frames=0, rate_hz=RATE_HZ, audio=True,
        video=encoder is not None,
    )  # fmt: skip
    seen, heard = SceneCutter(config), SoundCutter(config)
    stream = None if encoder is None or config.detector != "novelty" else Stream(encoder)
    last: Tensor | None = None
    end_s, num_still, num_frames = 0.0, 0, 0
    with media.read(source, options, part=part, protocols=protocols) as parts:
        for piece in parts:
            end_s = max(end_s, piece.end_s)
            if isinstance(piece, Audio):
                heard.push(piece)
            else:
                pixels = fit_pixels(piece.pixels, options)
                known = pixels if last is None else torch.cat([last, pixels])
                num_still += int((known.float().diff(dim=0).abs().mean((1, 2, 3)) < 255 * STILL).sum())
                num_frames, last = num_frames + len(piece), pixels[-1:]
                if stream is None:
                    continue
                with threads_for(stream.encoder):
                    for encoded in stream.push(Frames(pixels, piece.time_s, piece.step_s)):
                        seen.push(encoded)
        end_s = min(end_s, parts.end_s)
    if stream is not None:
        with threads_for(stream.encoder):
            for encoded in stream.flush():
                seen.push(encoded)
    scenes, sounds = seen.finish(end_s), heard.finish(end_s)
    if config.detector != "novelty" and num_frames:
        cut = detect_scenes(source, config.detector, part)
        scenes = [(start_s, min(until_s, end_s)) for start_s, until_s in cut if start_s < end_s]
    if not scenes and not heard.num_rows:
        raise ValueError(f"{source}: neither a frame nor a sample could be read")
    return Boundaries(tuple(scenes), tuple(sounds), end_s, num_still / max(1, num_frames - 1))


@dataclass
class Stretch:
    """A stretch between two cuts: the sum of what its rows show, and their number."""

    start_s: float
    total: Tensor
    num: int

    @property
    def mean(self) -> Tensor:
        """Mean row."""
        return self.total / self.num


class SceneCutter:
    """Encoded frames in, scenes out. It holds two seconds of frames, and a mean frame for each scene."""

    def __init__(self, config: BoundaryConfig) -> None:
        self.config = config
        self.stretches: list[Stretch] = []
        self._waiting: deque[tuple[float, float, Tensor]] = deque()  # start_s, novelty, (P, d) metric
        self._before: deque[float] = deque()  # novelty of the frames that were decided last
        self._last: Tensor | None = None
        self._step_s = 0.0

    def push(self, encoded: Encoded) -> None:
        """Take in frames that follow those before."""
        tokens, patches = encoded.tokens, encoded.patches
        novelty = frame_novelty(encoded.metric, patches, self._last).view(-1, patches).mean(1)
        rows = encoded.metric.view(-1, patches, encoded.metric.shape[1])
        if self._last is None:
            novelty[0] = 0.0  # nothing is before the first
            self._step_s = float(tokens.end_s[0] - tokens.start_s[0])
        self._last = encoded.metric[-patches:]
        for row in zip(tokens.start_s[::patches].tolist(), novelty.tolist(), rows, strict=True):
            self._waiting.append(row)
            if len(self._waiting) > self._near:
                self._decide()

    def finish(self, end_s: float) -> list[Span]:
        """All scenes, until `end_s`."""
        while self._waiting:
            self._decide()
        return stitched(self.stretches, end_s, _novelty, self.config.min_novelty, self.config.min_scene_s)

    @property
    def _near(self) -> int:
        return max(1, round(NEAR_S / self._step_s))

    def _decide(self) -> None:
        """Whether the frame that waits longest begins a scene: it is a peak, far above those around it."""
        start_s, novelty, metric = self._waiting.popleft()
        around = [*self._before, *(value for _, value, _ in self._waiting)]
        mean = sum(around) / max(1, len(around))
        is_peak = novelty >= max(around, default=0.0) and novelty >= self.config.ratio * mean
        metric = metric.float().cpu()
        if not self.stretches:
            self.stretches.append(Stretch(start_s, metric.clone(), 1))
        elif is_peak and novelty > self.config.min_novelty:
            # the change came between two frames
            self.stretches.append(Stretch(start_s - self._step_s / 2, metric.clone(), 1))
        else:
            self.stretches[-1].total += metric
            self.stretches[-1].num += 1
        self._before.append(novelty)
        if len(self._before) > self._near:
            self._before.popleft()


class SoundCutter:
    """Audio in, audio events out. It holds a row of 16 mel bands for every quarter of a second.

    The change of bands is the change of all 16 MFCCs, which are a rotation of them.
    """

    def __init__(self, config: BoundaryConfig) -> None:
        self.config = config
        self._rows: list[Tensor] = []  # (NUM_BANDS + 1,) decibels, see `_bands`
        self._waiting = torch.zeros(0)

    @property
    def num_rows(self) -> int:
        """Blocks that came."""
        return len(self._rows)

    def push(self, part: Audio) -> None:
        """Take in audio at 16 kHz that follows what came before; a gap is silence."""
        first = round(part.start_s * RATE_HZ)
        num_missing = first - len(self._rows) * BLOCK - len(self._waiting)
        samples = torch.cat([self._waiting, torch.zeros(max(0, num_missing)), part.samples])
        blocks = samples.unfold(0, BLOCK, BLOCK) if len(samples) >= BLOCK else samples.new_zeros(0, BLOCK)
        self._waiting = samples[len(blocks) * BLOCK :]
        self._rows += _bands(blocks)

    def finish(self, end_s: float) -> list[Span]:
        """All audio events, until `end_s` at most."""
        if len(self._waiting) >= BLOCK // 2:
            self._rows += _bands(
                torch.nn.functional.pad(self._waiting, (0, BLOCK - len(self._waiting)))[None]
            )
        if not self._rows:
            return []
        rows = torch.stack(self._rows)  # (A, NUM_BANDS + 1)
        step_s, near = BLOCK / RATE_HZ, round(NEAR_S * RATE_HZ / BLOCK)
        sides = [(rows[max(0, i - near) : i], rows[i : i + near]) for i in range(1, len(rows))]
        delta = [0.0, *(_distance(before.mean(0), after.mean(0)) for before, after in sides)]
        peaks = [max(delta[max(0, i - near) : i + near + 1]) for i in range(len(rows))]
        changes = [i for i, d in enumerate(delta) if d == peaks[i] > self.config.min_delta_db]
        starts = [0, *(i for i in changes if i)]
        ends = [*starts[1:], len(rows)]
        stretches = [Stretch(a * step_s, rows[a:b].sum(0), b - a) for a, b in zip(starts, ends, strict=True)]
        end_s = min(end_s, len(rows) * step_s)
        spans = stitched(stretches, end_s, _distance, self.config.min_delta_db, self.config.min_sound_s)
        power = rows[:, NUM_BANDS]
        silence_db = max(SILENCE_DB, float(power.quantile(QUIET)) + self.config.min_above_db)
        parts = [power[round(a / step_s) : math.ceil(b / step_s)] for a, b in spans]
        return [span for span, part in zip(spans, parts, strict=True) if float(part.mean()) >= silence_db]


def stitched(
    stretches: Sequence[Stretch], end_s: float, difference: Callable[[Tensor, Tensor], float],
    min_difference: float, min_s: float,
) -> list[Span]:  # fmt: skip
    """The spans of stretches, of which the last ends at `end_s`: first any shorter than `min_s`, the shortest
    first, joins the neighbour that is more alike, then neighbours whose means differ by less than
    `min_difference` join, the most alike first."""
    left = list(stretches)
    apart = [difference(a.mean, b.mean) for a, b in pairwise(left)]  # of neighbours

    def join(i: int) -> None:
        """Stretches i and i + 1 become one."""
        first, second = left[i : i + 2]
        left[i : i + 2] = [Stretch(first.start_s, first.total + second.total, first.num + second.num)]
        del apart[i]
        for k in {i - 1, i} & set(range(len(apart))):
            apart[k] = difference(left[k].mean, left[k + 1].mean)

    while len(left) > 1:
        starts = [s.start_s for s in left]
        lengths = [b - a for a, b in pairwise([*starts, end_s])]
        shortest = lengths.index(min(lengths))
        if lengths[shortest] >= min_s - 1e-9:
            break
        join(min({shortest - 1, shortest} & set(range(len(apart))), key=lambda i: (apart[i], i)))
    while apart and min(apart) < min_difference:
        join(apart.index(min(apart)))
    return [(a, b) for a, b in pairwise([*(s.start_s for s in left), end_s]) if a < b]


def _bands(blocks: Tensor) -> list[Tensor]:
    """(NUM_BANDS + 1,) decibels of each block of (A, BLOCK): of mel bands, and of its power to full scale."""
    if not len(blocks):
        return []
    logs = mel_filters(blocks).clamp_min(FLOOR).mean(1)
    bands = logs.view(len(blocks), NUM_BANDS, BANDS // NUM_BANDS).mean(2)
    power = blocks.square().mean(1, keepdim=True).clamp_min(1e-12).log()
    return list(torch.cat([bands, power], 1) * DB)


def _novelty(a: Tensor, b: Tensor) -> float:
    """Mean novelty of a frame (P, d) after another."""
    return float(frame_novelty(b, len(b), a).mean())


def _distance(a: Tensor, b: Tensor) -> float:
    """Mean change of the mel bands, in decibels."""
    return float((a - b)[:NUM_BANDS].square().mean().sqrt())
