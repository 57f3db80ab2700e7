"""Cameras and streams that the server reads for live sessions: the operator names them, and clients know the
names alone."""

import asyncio
import base64
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from ..config import MediaConfig
from ..media.live import KINDS, kind_of, live_source, name_of
from ..media.thumbnails import to_jpeg
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
            on_open=lambda media: self._call(self._set, self.opened, media), on_warning=log.warning,
        )  # fmt: skip
        try:
            for part in parts:
                if self._is_stopped:
                    break
                asyncio.run_coroutine_threadsafe(self._take(part), self._loop).result()
            self._call(self._set, self.ended, None)
        except Exception as error:  # whatever it is, the client has to hear of it
            log.warning("source %s: %s", self.name, error)
            readable = ValueError(self._clean(str(error)))
            for future in (self.opened, self.ended):
                self._call(self._fail, future, readable)

    def _clean(self, text: str) -> str:
        """A message with the source's name in the place of its address."""
        for address in (self._source, name_of(self._source)):
            text = text.replace(address, self.name)
        return text[:300]

    def _call(self, *call: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(*call)

    @staticmethod
    def _set(future: "asyncio.Future[Any]", value: object) -> None:
        if not future.done():
            future.set_result(value)

    @staticmethod
    def _fail(future: "asyncio.Future[Any]", error: Exception) -> None:
        if not future.done():
            future.set_exception(error)
            future.exception()  # nobody may wait for it


def data_url(frame: Frames) -> str:
    """A frame as a JPEG in a data URL."""
    high, wide = frame.pixels.shape[1:3]
    jpeg = to_jpeg(frame.pixels[0].numpy(), wide, high)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
