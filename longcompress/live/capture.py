"""A source read in a thread of its own; what waits for the session has a bound."""

import threading
from collections import deque
from collections.abc import Iterator

from ..session_events import Dropped
from ..types import Audio, Frames


class Capture(Iterator[Frames | Audio | Dropped]):
    """Parts of a source in order. Where the session falls behind by more than `max_lag_s` of media:

    1. of the frames that wait all but the newest are dropped;
    2. at twice as much also audio that is older than `max_lag_s`.

    Each is told by a `Dropped`. Where nothing may be dropped (files), the source waits instead.

    Args:
        source: closed at the end.
        max_lag_s: see above; > 0.
        may_drop: see above.
    """

    def __init__(self, source: Iterator[Frames | Audio], max_lag_s: float, *, may_drop: bool) -> None:
        if not max_lag_s > 0:
            raise ValueError(f"max_lag_s must be > 0 seconds, got {max_lag_s}")
        self.max_lag_s, self.may_drop = max_lag_s, may_drop
        self._source = source
        self._waiting: deque[Frames | Audio] = deque()
        self._dropped: deque[Dropped] = deque()
        self._changed = threading.Condition()
        self._is_over = self._is_closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="longcompress-capture", daemon=True)
        self._thread.start()

    def __next__(self) -> Frames | Audio | Dropped:
        with self._changed:
            self._changed.wait_for(lambda: self._dropped or self._waiting or self._is_over or self._is_closed)
            if self._dropped:
                return self._dropped.popleft()
            if self._waiting and not self._is_closed:
                part = self._waiting.popleft()
                self._changed.notify_all()
                return part
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            raise StopIteration

    @property
    def lag_s(self) -> float:
        """Seconds of media that wait."""
        waiting = list(self._waiting)
        return max(part.end_s for part in waiting) - waiting[0].start_s if waiting else 0.0

    def close(self) -> None:
        """Nothing more comes; the thread ends with what it reads now."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _read(self) -> None:
        try:
            for part in self._source:
                with self._changed:
                    if not self.may_drop:
                        self._changed.wait_for(lambda: self._is_closed or self.lag_s < self.max_lag_s)
                    if self._is_closed:
                        break
                    self._waiting.append(part)
                    if self.may_drop and self.lag_s > self.max_lag_s:
                        self._lighten(self.lag_s)
                    self._changed.notify_all()
        except BaseException as error:  # raised again by `__next__`
            self._error = error
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _lighten(self, lag_s: float) -> None:
        """The ladder."""
        frames = [part for part in self._waiting if isinstance(part, Frames)][:-1]
        self._drop(frames, lag_s)
        if lag_s > 2 * self.max_lag_s:
            until_s = max(part.end_s for part in self._waiting) - self.max_lag_s
            old = [p for p in self._waiting if isinstance(p, Audio) and p.end_s < until_s]
            self._drop(old, lag_s)

    def _drop(self, parts: "list[Frames] | list[Audio]", lag_s: float) -> None:
        if not parts:
            return
        numbers = {id(part) for part in parts}
        self._waiting = deque(part for part in self._waiting if id(part) not in numbers)
        reason = f"behind by {lag_s:.1f} s"
        self._dropped.append(Dropped(parts[0].modality, parts[0].start_s, parts[-1].end_s, reason))
