"""What is said in a video: windows of its audio, each to texts with times."""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ..config import MediaConfig
from ..events.subtitles import Cues
from ..llm.transcriber import Transcriber
from ..media import reader as media
from ..types import Audio

SILENCE = 1e-3  # of full scale; a window that is never above it isn't listened to
LEAD_S = 0.2  # of silence at most, at the start of a window
MAX_RATIO = 2.4  # of bytes of a text to its compressed ones: Whisper's measure of a model that repeats itself


def transcribe(
    transcriber: Transcriber, source: str, *, part: tuple[float, float] | None = None,
    protocols: Sequence[str] = ("file",),
) -> Cues:  # fmt: skip
    """The texts of a file with audio, or of a part of it from that part's start, read once.

    Raises what `media.read` raises.
    """
    transcript = Transcript(transcriber)
    config = MediaConfig(video=False, rate_hz=transcriber.rate_hz)
    with media.read(source, config, part=part, protocols=protocols) as pieces:
        for piece in pieces:
            if isinstance(piece, Audio):
                transcript.push(piece)
    return transcript.finish()


class Transcript:
    """Audio in, texts out. It holds a window of audio at most, and a piece of what came last."""

    def __init__(self, transcriber: Transcriber) -> None:
        self.transcriber, self.cues = transcriber, Cues()
        self._waiting = torch.zeros(0)
        self._first = 0  # number of the first sample that waits

    def push(self, piece: Audio) -> None:
        """Take in audio that follows what came before; a gap is silence."""
        first = round(piece.start_s * self.transcriber.rate_hz)
        while (missing := first - self._first - len(self._waiting)) > 0:
            self._add(torch.zeros(min(missing, self.transcriber.window)))
        self._add(piece.samples)

    def finish(self) -> Cues:
        """All texts."""
        while len(self._waiting):
            self._read()
        return self.cues

    def _add(self, samples: Tensor) -> None:
        self._waiting = torch.cat([self._waiting, samples])
        while len(self._waiting) >= self.transcriber.window:
            self._read()

    def _read(self) -> None:
        """A window, or as much of it as can be read without cutting a text. Silence before it is passed over:
        a Whisper writes no first time above a second."""
        samples, rate_hz = self._waiting[: self.transcriber.window], self.transcriber.rate_hz
        num = first = int((samples.abs() > SILENCE).float().argmax())
        if samples[first].abs() <= SILENCE:
            num = len(samples)
        elif first <= LEAD_S * rate_hz:
            events, done_s = self.transcriber.read(samples)
            num = min(len(samples), max(1, round(done_s * rate_hz)))
            start_s = self._first / rate_hz
            for event in events:
                times = (round(start_s + event.start_s, 3), round(start_s + event.end_s, 3))
                data, place = event.text.encode(), f"{times[0]:g} s"
                if len(data) > MAX_RATIO * len(zlib.compress(data)):
                    self.cues.fault("repeats itself", f"{place}: {event.text}")
                else:
                    has_word = any(sign.isalnum() for sign in event.text)
                    self.cues.add(*times, event.text if has_word else "", place)
        self._waiting, self._first = self._waiting[num:], self._first + num
