"""Questions to any model behind an OpenAI-compatible endpoint, about a memory's key frames."""

import json
import os
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from . import common
from .common import Failed, VideoOptions

if TYPE_CHECKING:
    from ..memory import VideoMemory

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class EndpointOptions:
    """Another model that answers.

    Attributes:
        endpoint: URL of an OpenAI-compatible server, as http://127.0.0.1:8000/v1; its key is in
            LONGCOMPRESS_ENDPOINT_KEY. It gets frames of the memory (`compress --thumbnails`) as images.
        endpoint_model: the server's name of the model.
        frames: images that it gets.
        transcript: what is said in the video, a file of subtitles; else the memory's own text.
    """

    endpoint: str | None = None
    endpoint_model: str | None = None
    frames: int = 16
    transcript: str | None = None

    def __post_init__(self) -> None:
        if self.endpoint is None and self.endpoint_model is None:
            return
        if not (self.endpoint or "").startswith(("http://", "https://")) or not self.endpoint_model:
            raise ValueError(
                "--endpoint must be a URL of http or https, with --endpoint-model, got "
                f"{self.endpoint} and {self.endpoint_model}"
            )

    def messages(self, memory: "VideoMemory", question: str) -> list[dict[str, Any]]:
        """What the endpoint gets."""
        transcript = common.texts_of(self.transcript) if self.transcript else None
        return memory.messages(question, self.frames, transcript=transcript)

    def answer(self, messages: list[dict[str, Any]], max_new_tokens: int | None) -> str:
        """The endpoint's answer; Failed where there is none."""
        values: dict[str, Any] = {"model": self.endpoint_model, "messages": messages}
        values |= {} if max_new_tokens is None else {"max_tokens": max_new_tokens}
        key = os.environ.get("LONGCOMPRESS_ENDPOINT_KEY")
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        url = f"{str(self.endpoint).rstrip('/')}/chat/completions"
        request = Request(url, json.dumps(values).encode(), headers)
        try:
            with build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S) as response:
                text = json.load(response)["choices"][0]["message"]["content"]
        except HTTPError as error:
            reason = error.read(1000).decode(errors="replace")
            raise Failed(3, f"{url} answers {error.code}: {reason}") from error
        except (OSError, HTTPException) as error:
            raise Failed(3, f"{url} can't be reached: {error}; is it running?") from error
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise Failed(3, f"{url} gives no chat completion: {error!r}") from error
        return str(text)


class _NoRedirect(HTTPRedirectHandler):
    """The key goes to the endpoint alone."""

    def redirect_request(self, *_: Any) -> None:
        return None


def memory_for(source: str, to: EndpointOptions, options: VideoOptions) -> "VideoMemory":
    """The memory of a video or a memory file, with its frames; a file needs no model."""
    if not common.is_memory(source):
        return common.memory_of(source, options, thumbnails=to.frames, thumbnail_px=512)
    from ..memory import VideoMemory

    with common.reading():
        return VideoMemory.load(source)
