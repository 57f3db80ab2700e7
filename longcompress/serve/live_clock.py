"""The seconds of frames and audio that come without any: those at which they come."""

from .live_request import Op

JITTER_S = 0.5  # audio that arrives so early or late follows what came before


class Clock:
    """Begins with the first that comes; `rate_hz` of audio in 16 bits."""

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self._began_s: float | None = None
        self._audio_end_s: float | None = None

    def second(self, op: Op, now_s: float) -> float:
        """Of a frame or of the first sample: the client's, or that at which it came."""
        is_audio = op.kind == "audio"
        length_s = len(op.data) / 2 / self.rate_hz if is_audio else 0.0
        if self._began_s is None:
            self._began_s = now_s - length_s - (op.time_s or 0.0)
        at_s = op.time_s
        if at_s is None:
            at_s = max(0.0, now_s - self._began_s - length_s)
            if is_audio and self._audio_end_s is not None and abs(at_s - self._audio_end_s) < JITTER_S:
                at_s = self._audio_end_s
        if is_audio:
            self._audio_end_s = at_s + length_s
        return at_s
