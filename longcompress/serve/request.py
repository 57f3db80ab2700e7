"""A chat completion's JSON, checked field by field, as what is asked for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..llm.prompt import Turns
from ..types import HALF
from .limits import Limits, refuse

NEUTRAL: dict[str, tuple[Any, ...]] = {  # fields without effect here -> the values that ask for none
    "n": (1,), "frequency_penalty": (0,), "presence_penalty": (0,), "logprobs": (False,), "store": (False,),
    "logit_bias": ({},), "tools": ([],), "tool_choice": ("none", "auto"), "stop": ([],), "audio": (),
    "modalities": (["text"],), "response_format": ({"type": "text"},), "top_logprobs": (), "functions": ([],),
    "service_tier": ("auto", "default"), "parallel_tool_calls": (True, False), "prediction": (),
}  # fmt: skip
LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key")  # the client's own notes
KINDS = {"video_url": "video", "image_url": "image", "input_audio": "audio", "file": "video"}
NUMBER = (int, float)
MAX_THUMBNAILS = 64


@dataclass(frozen=True)
class Part:
    """A medium of a request: "video", "image" or "audio"; its place, and a data URL, URL or id of a file."""

    kind: str
    param: str
    url: str


@dataclass(frozen=True)
class Generation:
    """How an answer is generated; questions of equal values share a batch."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class ChatRequest:
    """A chat completion that is asked for.

    Attributes:
        turns: (question, answer) of the dialogue; the last answer is None.
        parts: a video, audio, or images with or without audio.
        generation: of the answer.
        budget, rate_fps, start_s, end_s: as of `compress`; None: the model's own.
        evidence: give the tokens that the answer rests on.
        thumbnails: frames that the memory keeps as JPEGs.
        patches: the memory keeps which patches became one token.
        progress: give the seconds read while streaming.
        stream: give text as it is generated.
        usage: give the counts at the end of a stream.
    """

    turns: Turns
    parts: tuple[Part, ...]
    generation: Generation
    budget: int | None
    rate_fps: float | None
    start_s: float
    end_s: float
    evidence: bool
    thumbnails: int
    patches: bool
    progress: bool
    stream: bool
    usage: bool


def parse_chat(values: Any, model: str, limits: Limits) -> ChatRequest:
    """The request in a JSON value; ApiError for what can't be answered.

    Args:
        values: the JSON.
        model: the name of the model that answers.
        limits: of the server.
    """
    if not isinstance(values, dict):
        raise refuse("body", f"must be a JSON object, got {type(values).__name__}")
    fields = Fields(values, "")
    for name, neutral in NEUTRAL.items():
        value = fields.take(name, object)
        if value is not None and value not in neutral:
            raise refuse(name, f"is not supported as {value!r:.60}; leave it out", "unsupported_parameter")
    for name in LABELS:
        fields.take(name, object)
    named = fields.take("model", str, needed=True)
    if named != model:
        raise refuse("model", f"{named!r:.80} is not served, but {model!r} is", "model_not_found", 404)
    own = Fields(fields.take("longcompress", dict) or {}, "longcompress.")
    options = Fields(fields.take("stream_options", dict) or {}, "stream_options.")
    start_s, end_s = own.number("start_s", 0, math.inf) or 0.0, own.number("end_s", 0, math.inf)
    if end_s is not None and end_s <= start_s:
        raise refuse("longcompress.end_s", f"must be after start_s = {start_s:g}, got {end_s:g}")
    longest = fields.whole("max_completion_tokens", 1, limits.max_new_tokens)
    longest = longest or fields.whole("max_tokens", 1, limits.max_new_tokens)
    turns, parts = _dialogue(fields.take("messages", list, needed=True), limits)
    chat = ChatRequest(
        turns=turns, parts=parts,
        generation=Generation(
            longest or 0, fields.number("temperature", 0, 2) or 0.0, fields.number("top_p", 1e-6, 1) or 1.0,
            fields.whole("seed", -(1 << 63), (1 << 63) - 1),
        ),
        budget=own.whole("budget", 1, limits.max_budget),
        rate_fps=own.number("rate_fps", 1e-6, limits.max_rate_fps),
        start_s=start_s, end_s=math.inf if end_s is None else end_s,
        evidence=bool(own.take("evidence", bool)),
        thumbnails=own.whole("thumbnails", 0, MAX_THUMBNAILS) or 0, patches=bool(own.take("patches", bool)),
        progress=bool(own.take("progress", bool)),
        stream=bool(fields.take("stream", bool)), usage=bool(options.take("include_usage", bool)),
    )  # fmt: skip
    options.take("include_obfuscation", bool)
    for group in (fields, own, options):
        group.end()
    return chat


class Fields:
    """The fields of a JSON object, each taken once."""

    def __init__(self, values: Any, prefix: str) -> None:
        if not isinstance(values, dict):
            raise refuse(prefix.rstrip("."), f"must be an object, got {values!r:.60}")
        self.values, self.prefix = dict(values), prefix

    def take(self, name: str, kind: type | tuple[type, ...], *, needed: bool = False) -> Any:
        """A field's value; None where it is null or missing."""
        value = self.values.pop(name, None)
        if value is None and needed:
            raise refuse(self.prefix + name, "is missing", "missing_required_parameter")
        is_wrong = not isinstance(value, kind) or (isinstance(value, bool) and kind not in (bool, object))
        if value is not None and is_wrong:
            kinds = kind if isinstance(kind, tuple) else (kind,)
            names = {"str": "a text", "dict": "an object", "list": "a list", "bool": "true or false"}
            needed_kind = names.get(kinds[-1].__name__, "a number" if len(kinds) > 1 else "a whole number")
            raise refuse(self.prefix + name, f"must be {needed_kind}, got {value!r:.60}", "invalid_type")
        return value

    def number(self, name: str, low: float, high: float, kind: Any = NUMBER) -> Any:
        """A number in [low, high], or None."""
        value = self.take(name, kind)
        if value is not None and not (low <= value <= high and value != math.inf):
            raise refuse(self.prefix + name, f"must be from {low:g} to {high:g}, got {value!r:.60}")
        return value

    def whole(self, name: str, low: int, high: int) -> Any:
        """A whole number in [low, high], or None."""
        return self.number(name, low, high, int)

    def end(self) -> None:
        """ApiError for a field that nobody took."""
        if self.values:
            raise refuse(f"{self.prefix}{next(iter(self.values))!s:.60}", "is no known field; leave it out")


def _dialogue(messages: list[Any], limits: Limits) -> tuple[Turns, tuple[Part, ...]]:
    """Turns and media of the messages. A system text stands before the first question: what comes before the
    video is the model's own."""
    if not messages:
        raise refuse("messages", "must hold a question about a video, got none")
    texts: list[tuple[str, str]] = []  # role and text; neighbours of a role are joined
    parts: list[Part] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        fields = Fields(message, f"{where}.")
        role = fields.take("role", str, needed=True)
        if role not in ("system", "developer", "user", "assistant"):
            raise refuse(f"{where}.role", f"must be system, user or assistant, got {role!r:.60}")
        role = "assistant" if role == "assistant" else "user"
        text, media = _content(fields.take("content", (list, str), needed=True), f"{where}.content")
        for name in ("name", "refusal", "annotations", "audio", "tool_calls", "function_call"):
            if fields.take(name, object) and name not in ("name", "annotations"):
                raise refuse(f"{where}.{name}", "is not supported; leave it out")
        fields.end()
        if media and role == "assistant":
            raise refuse(f"{where}.content", "must be text in a message of the assistant")
        parts += media
        if texts and texts[-1][0] == role:
            texts[-1] = role, "\n".join(filter(None, (texts[-1][1], text)))
        else:
            texts.append((role, text))
    if texts[0][0] != "user" or texts[-1][0] != "user":
        raise refuse("messages", "must begin and end with a message of the user")
    if sum(len(text) for _, text in texts) > limits.max_signs:
        raise refuse("messages", f"must have at most {limits.max_signs} signs of text")
    for role, text in texts:
        if not text.strip() and role == "user":
            raise refuse("messages", "must have a question in each message of the user")
        if HALF.search(text):
            raise refuse("messages", "must be whole characters; a cut emoji leaves half of one")
    answers = [text for role, text in texts if role == "assistant"]
    questions = [text for role, text in texts if role == "user"]
    return list(zip(questions, [*answers, None], strict=True)), _checked(parts, limits)


def _content(content: str | list[Any], where: str) -> tuple[str, list[Part]]:
    """The text and the media of a message."""
    if isinstance(content, str):
        return content, []
    texts, media = [], []
    for number, part in enumerate(content):
        here = f"{where}[{number}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", *KINDS):
            raise refuse(here, f"must have a type of text, {', '.join(KINDS)}, got {part!r:.60}")
        fields = Fields(part, f"{here}.")
        fields.take("type", str)
        inner = fields.take(kind, str if kind == "text" else dict, needed=True)
        fields.end()
        if kind == "text":
            texts.append(inner)
            continue
        own = Fields(inner, f"{here}.{kind}.")
        if kind == "input_audio":
            url = f"data:audio/{own.take('format', str) or 'wav'};base64,{own.take('data', str, needed=True)}"
        elif kind == "file":
            own.take("filename", str)
            data, url = own.take("file_data", str), own.take("file_id", str)
            if (data is None) == (url is None):
                raise refuse(f"{here}.file", "must have file_id or file_data, and not both")
            url = url or (data if data.startswith("data:") else f"data:;base64,{data}")
        else:
            url = own.take("url", str, needed=True)
            own.take("detail", str)
        own.end()
        media.append(Part(KINDS[kind], f"{here}.{kind}", url))
    return "\n".join(texts), media


def _checked(parts: list[Part], limits: Limits) -> tuple[Part, ...]:
    """The media, as far as they go together."""
    kinds = [part.kind for part in parts]
    num = {kind: kinds.count(kind) for kind in ("video", "image", "audio")}
    if not parts:
        raise refuse("messages", "must have a video_url, input_audio or image_url part, got text alone")
    if num["video"] > 1 or num["audio"] > 1 or (num["video"] and len(parts) > 1):
        raise refuse(
            parts[1].param,
            f"is a second medium: a request is about one video, one audio, or images with or without audio, "
            f"got {num['video']} videos, {num['audio']} audio and {num['image']} images; ask about each in a "
            "request of its own",
            "too_many_videos",
        )
    if num["image"] > limits.max_images:
        raise refuse("messages", f"must have at most {limits.max_images} images, got {num['image']}")
    return tuple(parts)
