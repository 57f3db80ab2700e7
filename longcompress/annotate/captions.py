"""The caption of an event, by any model: of ours, at an endpoint of OpenAI's protocol, or a function."""

import base64
import http.client
import io
import json
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any

import torch

from ..config import MediaConfig
from ..config_values import positive
from ..media import probe, read
from ..media.thumbnails import read_thumbnails, url_of
from ..model import LongCompress
from ..types import HALF, Audio
from ..videos import compress

PROMPT = "Describe what is seen and heard in this part of a video, in one or two sentences."
MAX_SIGNS = 4000  # of a caption; a longer one is a model that doesn't stop
MAX_REPLY = 16 << 20  # bytes of an endpoint's reply that are read
SILENT = ("timeout", "unreachable", "busy")  # kinds of error after which another try may help


@dataclass(frozen=True)
class Clip:
    """An event of a video, for whoever writes its caption.

    Attributes:
        video: path or URL.
        start_s, end_s: of the event, from the start of the file.
        speech: what is said in it, by subtitles; "" where nothing is known.
        before: caption of the event before; "" of the first.
        protocols: where the video may come from.
    """

    video: str
    start_s: float
    end_s: float
    speech: str = ""
    before: str = ""
    protocols: tuple[str, ...] = ("file",)

    def jpegs(self, num: int = 8, size_px: int = 448) -> list[bytes]:
        """`num` frames at most, from the middles of equal parts of the event; none of audio alone."""
        if not probe(self.video, protocols=self.protocols).has_video:
            return []
        step_s = (self.end_s - self.start_s) / num
        times = {self.start_s + (i + 0.5) * step_s: i for i in range(num)}
        frames = read_thumbnails(self.video, times, size_px, MediaConfig(), protocols=self.protocols)
        return [frame.jpeg for frame in frames]

    def wav(self, rate_hz: int = 16000) -> bytes:
        """The event's audio as a mono WAV file of 16 bits; nothing where there is none."""
        config, part = MediaConfig(video=False, rate_hz=rate_hz), (self.start_s, self.end_s)
        try:
            with read(self.video, config, part=part, protocols=self.protocols) as parts:
                samples = [piece.samples for piece in parts if isinstance(piece, Audio)]
        except ValueError:  # of a file that was read before, it says that there is none
            return b""
        out = io.BytesIO()
        with wave.open(out, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate_hz)
            file.writeframes((torch.cat(samples) * 32767).round().short().numpy().tobytes())
        return out.getvalue()


Captioner = Callable[[Clip], str]


class CaptionError(Exception):
    """No caption came of an event: `kind` is a word to count by, the message says more."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class EndpointDown(Exception):
    """An endpoint answered nothing, time after time: there is no use in going on."""


def caption_of(captioner: Captioner, clip: Clip) -> str:
    """A captioner's text in one line; CaptionError for what is no caption."""
    try:
        text = captioner(clip)
    except (ValueError, OSError) as error:
        raise CaptionError("failed", str(error)) from error
    if not isinstance(text, str):
        raise CaptionError("nonsense", f"a caption must be a text, got {type(text).__name__}")
    text = " ".join(text.split())
    if not any(sign.isalnum() for sign in text):
        raise CaptionError("empty", f"a caption must have a word, got {text!r:.60}")
    if HALF.search(text) or len(text) > MAX_SIGNS:
        raise CaptionError("nonsense", f"a caption must be at most {MAX_SIGNS} whole signs, got {text!r:.60}")
    return text


def prompt_of(clip: Clip, prompt: str) -> str:
    """The prompt, with what came before and what is said."""
    before = f"Before it: {clip.before}\n" if clip.before else ""
    speech = f"Said in it: {clip.speech}\n" if clip.speech else ""
    return before + speech + prompt


def model_captioner(model: LongCompress, prompt: str = PROMPT, budget: int | None = None) -> Captioner:
    """Captions by a model of ours, which compresses each event to its own memory."""

    def caption(clip: Clip) -> str:
        memory = compress(
            model, clip.video, budget=budget, progress=False, start_s=clip.start_s, end_s=clip.end_s,
            protocols=clip.protocols,
        )  # fmt: skip
        return memory.ask(prompt_of(clip, prompt)).text

    return caption


def function_captioner(name: str) -> Captioner:
    """The function at "module:name", which takes a Clip and returns its caption."""
    try:
        function = resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"captions {name!r} must name a function as module:function: {error}") from error
    if not callable(function):
        raise ValueError(f"captions {name!r} must be a function of a Clip, got {type(function).__name__}")
    return function


@dataclass
class Endpoint:
    """Captions by a server that speaks OpenAI's chat protocol, given frames, and audio if it takes that.

    Attributes:
        url: up to and with /v1.
        model: its name there.
        key: sent as a bearer token; "": none.
        prompt: see `prompt_of`.
        frames: of an event, size_px on their longer side.
        audio: send the event's audio too.
        timeout_s: without a byte from the server.
        tries: of a request, each after a longer wait, where the server is silent, busy or broken.
        max_failures: requests without any answer, one after the other, after which it is EndpointDown.
    """

    url: str
    model: str = ""
    key: str = field(default="", repr=False)
    prompt: str = PROMPT
    frames: int = 8
    size_px: int = 448
    audio: bool = False
    timeout_s: float = 120.0
    tries: int = 3
    max_failures: int = 3
    max_tokens: int = 256
    wait_s: float = 1.0
    _num_failures: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url must begin with http:// or https://, got {self.url!r}")
        positive(self, "frames", "size_px", "timeout_s", "tries", "max_failures", "max_tokens")

    def __call__(self, clip: Clip) -> str:
        """The caption; CaptionError, or EndpointDown."""
        body = json.dumps({
            "model": self.model, "max_tokens": self.max_tokens, "temperature": 0,
            "messages": [{"role": "user", "content": self._content(clip)}],
        }).encode()  # fmt: skip
        for number in range(self.tries):
            try:
                text = self._send(body)
            except CaptionError as failure:
                error = failure
                if error.kind not in SILENT:
                    break
                time.sleep(self.wait_s * 2**number if number < self.tries - 1 else 0)
            else:
                self._num_failures = 0
                return text
        self._num_failures = self._num_failures + 1 if error.kind in SILENT else 0
        if self._num_failures >= self.max_failures:
            raise EndpointDown(
                f"{self.url}: {self._num_failures} requests, one after the other, had no answer in "
                f"{self.tries} tries each, the last: {error}; start the server, and run the command again"
            )
        raise error

    def _send(self, body: bytes) -> str:
        """The text of the answer to a request."""
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                reply = response.read(MAX_REPLY)
        except urllib.error.HTTPError as error:
            kind = "busy" if error.code in (408, 429) or error.code >= 500 else "refused"
            raise CaptionError(kind, f"HTTP {error.code}: {error.read(200)!r}") from error
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            if isinstance(getattr(error, "reason", error), TimeoutError):
                raise CaptionError("timeout", f"no answer in {self.timeout_s:g} s") from error
            raise CaptionError("unreachable", repr(error)) from error
        try:
            return _text_of(json.loads(reply))
        except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
            raise CaptionError("nonsense", f"no answer of a chat: {reply[:80]!r}") from error

    def _content(self, clip: Clip) -> list[dict[str, Any]]:
        """Frames, audio and the prompt as parts of a message."""
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": url_of(jpeg)}}
            for jpeg in clip.jpegs(self.frames, self.size_px)
        ]
        if self.audio and (wav := clip.wav()):
            data = base64.b64encode(wav).decode()
            content.append({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
        return [*content, {"type": "text", "text": prompt_of(clip, self.prompt)}]


def _text_of(reply: Any) -> str:
    """The text of a reply; its content may be a list of parts."""
    content = reply["choices"][0]["message"]["content"]
    parts: Sequence[Any] = content if isinstance(content, list) else [{"text": content}]
    return "".join(part["text"] for part in parts)
