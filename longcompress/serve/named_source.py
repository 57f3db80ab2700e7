"""Cameras and streams that the server reads for live sessions: the operator names them, and clients know the
names alone."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from ..config import MediaConfig
from ..media.live import KINDS, kind_of, live_source, name_of
from ..media.thumbnails import to_jpeg, url_of
from ..types import Audio, Frames

log = logging.getLogger(__name__)


class NamedSource:
    """Reads a source in a thread of its own, until it ends or `stop`. Made in an event loop.

    Args:
        name: of the source, for clients.
        source: what `live_source` takes; a file is played at its speed.
        config: rates, size and tracks.
        take: called in the loop with each part; the next is read when it is done.

    Attributes:
        opened: the media that come, of "video" and "audio"; or the error.
        ended: its end: None, or the error.
    """

    def __init__(
        self, name: str, source: str, config: MediaConfig,
        take: Callable[[Frames | Audio], Coroutine[Any, Any, None]],
    ) -> None:  # fmt: skip
        self.name, self._source, self._config, self._take = name, source, config, take
        self._loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[list[str]] = self._loop.create_future()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._is_stopped = False
        threading.Thread(target=self._read, name="longcompress-source", daemon=True).start()

    def stop(self) -> None:
        """Read no more than what is read now."""
        self._is_stopped = True

    def _read(self) -> None:
        kind = kind_of(self._source, tuple(KINDS))
        parts = live_source(
            self._source, self._config, protocols=(kind,), speed=0.0 if KINDS[kind].is_live else 1.0,
            on_open=lambda media: self._give(self.opened, media), on_warning=log.warning,
        )  # fmt: skip
        try:
            for part in parts:
                if self._is_stopped:
                    break
                asyncio.run_coroutine_threadsafe(self._take(part), self._loop).result()
            self._give(self.ended, None)
        except (OSError, ValueError) as error:
            log.warning("source %s: %s", self.name, error)
            self._fail(str(error))
        except Exception:  # whatever it is, who waits for the source has to hear of it
            log.exception("source %s failed", self.name)
            self._fail(f"source {self.name} failed; the server's log says why")

    def _fail(self, message: str) -> None:
        """Tell it with the source's name in the place of its address."""
        for address in (self._source, name_of(self._source)):
            message = message.replace(address, self.name)
        for future in (self.opened, self.ended):
            self._give(future, ValueError(message[:300]))

    def _give(self, future: "asyncio.Future[Any]", value: object) -> None:
        """Give a result, or an error, to who waits in the loop; the first one counts."""

        def give() -> None:
            if not future.done() and isinstance(value, Exception):
                future.set_exception(value)
                future.exception()  # nobody may wait for it
            elif not future.done():
                future.set_result(value)

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(give)


def data_url(frame: Frames) -> str:
    """A frame as a JPEG in a data URL."""
    high, wide = frame.pixels.shape[1:3]
    return url_of(to_jpeg(frame.pixels[0].numpy(), wide, high))
