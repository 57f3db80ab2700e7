"""What a client of a live connection sends, checked field by field: OpenAI's Realtime events, and binary
messages."""

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from string import Formatter
from typing import Any, Literal

from ..config_live import POLL, POLLED, LiveConfig
from ..files import parse_json
from ..model import LongCompress
from ..types import HALF, MAX_TIME_S, Audio, Frames
from .limits import ApiError, Limits, from_base64, refuse
from .request import NUMBER, Fields

HEAD = struct.Struct("<B7xd")  # of a binary message: its kind, its second (NaN: when it arrives)
FRAME, AUDIO = 1, 2
Bounds = Mapping[str, tuple[float, float]]  # lowest and highest value of a field
CONFIG: Bounds = {
    "near_s": (0.1, 600.0), "patience_s": (0.0, 5.0), "repetition_penalty": (0.1, 10.0),
    "past": (0, 1 << 20), "slice_tokens": (0, 1 << 20), "text_tokens": (0, 1 << 16),
    "step_tokens": (0, 1 << 16),
    "max_reply_tokens": (1, 1 << 16),
}  # fmt: skip
TRIGGER: Bounds = {
    "threshold": (0.0, 1e6), "refractory_s": (0.0, 1e6), "window": (1, 10_000), "warmup": (1, 10_000),
    "hold": (1, 10_000), "per_minute": (0, 6000),
}  # fmt: skip
RULES, REPLIES, OVERFLOWS = ("single", "sum", "zscore", "rise"), ("drop", "keep", "log"), ("drop", "wait")


@dataclass(frozen=True)
class Settings:
    """What a client can set of a session.

    Attributes:
        budget: tokens of the memory.
        rate_fps: frames a second; None: the model's own.
        media: what will come, of "video" and "audio".
        live: how the conversation goes.
        scores: send the scores of each step.
        overflow: what comes faster than it can be read is dropped, or the client has to wait.
    """

    budget: int
    rate_fps: float | None
    media: tuple[str, ...]
    live: LiveConfig
    scores: bool = False
    overflow: Literal["drop", "wait"] = "drop"


@dataclass(frozen=True)
class Op:
    """A thing that a client wants.

    Attributes:
        kind: "update", "frame", "audio", "request" (a text that stands), "question" (it waits for "respond"),
            "delete", "respond", "cancel", "source", "end" or "close".
        event_id: the client's name of it.
        item_id: of the item that it makes or takes away.
        data: a JPEG or PNG, or samples of 16 bits.
        part: a frame or audio of a named source, in the place of data.
        time_s: of the frame or the first sample; None: when it arrives.
        text: of the item; the name of the source; why it ends.
        values: of the update.
        is_memory: the answer comes from the memory, not from the live context.
        arrived_s: when it came, on the server's clock.
    """

    kind: str
    event_id: str | None = None
    item_id: str | None = None
    data: bytes = b""
    part: Frames | Audio | None = None
    time_s: float | None = None
    text: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    is_memory: bool = False
    arrived_s: float = 0.0


def default_settings(model: LongCompress, limits: Limits) -> Settings:
    """The model's own; where its trigger needs heads that it lacks, requests are polled."""
    live = model.config.live
    if getattr(model.llm, "heads", None) is None and POLL not in live.trigger.heads:
        live = replace(live, trigger=POLLED)
    longest, past = min(live.max_reply_tokens, limits.max_new_tokens), min(live.past, limits.max_budget)
    live = replace(live, max_reply_tokens=longest, past=past)
    return Settings(min(model.config.budget.tokens, limits.max_budget), None, model.media, live)


def parse_binary(data: bytes) -> Op:
    """A frame or audio in a binary message: HEAD, then a JPEG or PNG, or samples of 16 bits."""
    if len(data) <= HEAD.size:
        raise refuse("message", f"must have a head of {HEAD.size} bytes and data, got {len(data)} bytes")
    kind, time_s = HEAD.unpack_from(data)
    if kind not in (FRAME, AUDIO):
        raise refuse("message", f"must begin with {FRAME} (frame) or {AUDIO} (audio), got {kind}")
    at = None if math.isnan(time_s) else time_s
    if at is not None and not 0 <= at <= MAX_TIME_S:
        raise refuse("message", f"must have a second from 0 to {MAX_TIME_S:g}, or NaN, got {at}")
    op = Op("frame" if kind == FRAME else "audio", data=data[HEAD.size :], time_s=at)
    return op if kind == FRAME else _whole_samples(op, "message")


def event_id_of(values: Any) -> str | None:
    """The client's name of an event, where it has a sound one."""
    name = values.get("event_id") if isinstance(values, dict) else None
    return name[:64] if isinstance(name, str) else None


def parse_text(text: str) -> Any:
    """The JSON of a message; ApiError where it is none."""
    try:
        return parse_json(text, "the event")
    except ValueError as error:
        raise ApiError(str(error)[:300], "event", "invalid_json") from error


def parse_event(values: Any, limits: Limits) -> list[Op]:
    """What an event asks for, in order; ApiError for what can't be done."""
    if not isinstance(values, dict):
        raise refuse("event", f"must be a JSON object, got {type(values).__name__}")
    event = Fields(values, "")
    event.take("event_id", str)
    kind = event.take("type", str, needed=True)
    if kind not in PARSERS:
        raise refuse("type", f"must be one of {', '.join(PARSERS)}, got {kind!r:.60}", "unknown_event")
    ops = PARSERS[kind](event, limits)
    event.end()
    return [replace(op, event_id=event_id_of(values)) for op in ops]


def changed(settings: Settings, values: Mapping[str, Any], limits: Limits) -> Settings:
    """The settings after the `longcompress` of a session.update; ApiError for what can't be set."""
    own = Fields(values, "session.longcompress.")
    media = own.take("media", list)
    if media is not None and not (media and all(m in ("video", "audio") for m in media)):
        raise refuse("session.longcompress.media", f'must be of "video" and "audio", got {media!r:.60}')
    trigger = Fields(own.take("trigger", dict) or {}, "session.longcompress.trigger.")
    heads = trigger.take("heads", list)
    poll = own.take("poll", str)
    if poll is not None:
        _check_poll(poll)
    try:
        changes = _numbers(trigger, TRIGGER) | {
            "rule": _choice(trigger, "rule", RULES), "release": trigger.take("release", bool),
            "heads": None if heads is None else tuple(map(str, heads)),
        }  # fmt: skip
        trigger.end()
        live = _numbers(own, CONFIG) | {
            "trigger": _replaced(settings.live.trigger, changes), "poll": poll,
            "poll_yes": _short(own, "poll_yes"), "poll_no": _short(own, "poll_no"),
            "replies": _choice(own, "replies", REPLIES),
        }  # fmt: skip
        config = _replaced(settings.live, live)
    except ValueError as error:
        raise ApiError(str(error)[:500], "session.longcompress") from error
    for name, limit in (("max_reply_tokens", limits.max_new_tokens), ("past", limits.max_budget)):
        if getattr(config, name) > limit:
            raise refuse(f"session.longcompress.{name}", f"must be at most {limit}")
    update = {
        "budget": own.whole("budget", 1, limits.max_budget),
        "rate_fps": own.number("rate_fps", 1e-2, limits.max_rate_fps),
        "media": None if media is None else tuple(dict.fromkeys(media)),
        "scores": own.take("scores", bool), "overflow": _choice(own, "overflow", OVERFLOWS),
    }  # fmt: skip
    own.end()
    return _replaced(replace(settings, live=config), update)


def _replaced(config: Any, changes: Mapping[str, Any]) -> Any:
    return replace(config, **{name: value for name, value in changes.items() if value is not None})


def _numbers(fields: Fields, bounds: Bounds) -> dict[str, Any]:
    """Those of these fields that are there."""
    return {
        name: fields.number(name, low, high, int if isinstance(low, int) else NUMBER)
        for name, (low, high) in bounds.items()
    }


def _choice(fields: Fields, name: str, choices: tuple[str, ...]) -> Any:
    value = fields.take(name, str)
    if value is not None and value not in choices:
        raise refuse(fields.prefix + name, f"must be one of {', '.join(choices)}, got {value!r:.60}")
    return value


def _short(fields: Fields, name: str) -> Any:
    value = fields.take(name, str)
    if value is not None and len(value) > 64:
        raise refuse(fields.prefix + name, f"must have at most 64 signs, got {len(value)}")
    return value


def _check_poll(poll: str) -> None:
    """ApiError for a poll that would write more than it says: {request:>999999999}."""
    try:
        has_form = any(spec or conversion for _, _, spec, conversion in Formatter().parse(poll))
    except ValueError as error:
        raise refuse("session.longcompress.poll", f"has braces that don't fit: {error}") from error
    if has_form or len(poll) > 2000:
        raise refuse("session.longcompress.poll", "must hold {request} as it is, in at most 2000 signs")


# --- events


def _update(event: Fields, limits: Limits) -> list[Op]:
    session = Fields(event.take("session", dict, needed=True), "session.")
    if (kind := session.take("type", str)) not in (None, "realtime"):
        raise refuse("session.type", f'must be "realtime", got {kind!r:.60}')
    for name in ("output_modalities", "modalities"):
        if session.take(name, list) not in (None, ["text"]):
            raise refuse(f"session.{name}", 'must be ["text"]: the model says nothing aloud')
    audio = Fields(session.take("audio", dict) or {}, "session.audio.")
    sent = Fields(audio.take("input", dict) or {}, "session.audio.input.")
    form = Fields(sent.take("format", dict) or {}, "session.audio.input.format.")
    if (kind := form.take("type", str)) not in (None, "audio/pcm"):
        raise refuse("session.audio.input.format.type", f'must be "audio/pcm", got {kind!r:.60}')
    rate_hz = form.take("rate", int)
    values = session.take("longcompress", dict) or {}
    for group in (session, audio, sent, form):
        group.end()
    return [Op("update", values={**values, **({} if rate_hz is None else {"rate_hz": rate_hz})})]


def _item(event: Fields, limits: Limits) -> list[Op]:
    item = Fields(event.take("item", dict, needed=True), "item.")
    if (kind := item.take("type", str)) not in (None, "message"):
        raise refuse("item.type", f'must be "message", got {kind!r:.60}')
    if (role := item.take("role", str)) not in (None, "user"):
        raise refuse("item.role", f'must be "user", got {role!r:.60}')
    name = item.take("id", str)
    if name is not None and not 0 < len(name) <= 64:
        raise refuse("item.id", f"must have 1 to 64 signs, got {len(name)}")
    own = Fields(item.take("longcompress", dict) or {}, "item.longcompress.")
    time_s, reply = own.number("time_s", 0, MAX_TIME_S), _choice(own, "reply", ("may", "must"))
    content = item.take("content", list, needed=True)
    texts, frames = [], list[Op]()
    for number, part in enumerate(content):
        here = f"item.content[{number}]"
        fields = Fields(part, f"{here}.")
        kind = fields.take("type", str, needed=True)
        if kind == "input_text":
            texts.append(fields.take("text", str, needed=True))
        elif kind == "input_image":
            data = _image(fields.take("image_url", str, needed=True), f"{here}.image_url")
            fields.take("detail", str)
            frames.append(Op("frame", item_id=name or "", data=data, time_s=time_s))
        else:
            raise refuse(f"{here}.type", f"must be input_text or input_image, got {kind!r:.60}")
        fields.end()
    for group in (item, own):
        group.end()
    if len(frames) > 1 or not (frames or texts):
        raise refuse(
            "item.content", f"must be a text, or an image with or without a text, got {len(content)}"
        )
    if (text := "\n".join(texts)) or not frames:
        _check_text(text, limits)
        kind = "request" if reply == "may" else "question"
        return [*frames, Op(kind, item_id=name or "", text=text)]
    return frames


def _check_text(text: str, limits: Limits) -> None:
    if not text.strip() or len(text) > limits.max_signs or HALF.search(text):
        raise refuse(
            "item.content", f"must be 1 to {limits.max_signs} signs of text that are whole characters, "
            f"got {len(text)}"
        )  # fmt: skip


def _image(url: str, where: str) -> bytes:
    head, comma, data = url.partition(",")
    if not comma or not head.lower().startswith("data:image/") or not head.lower().endswith(";base64"):
        raise refuse(
            where, f"must be a data URL in base64, data:image/jpeg;base64,..., got {url!r:.40}; paths and "
            "addresses are never read", "url_not_allowed"
        )  # fmt: skip
    return from_base64(data, where)


def _whole_samples(op: Op, where: str) -> Op:
    if not op.data or len(op.data) % 2:
        raise refuse(where, f"must hold samples of 2 bytes each, got {len(op.data)} bytes")
    return op


def _audio(event: Fields, limits: Limits) -> list[Op]:
    own = Fields(event.take("longcompress", dict) or {}, "longcompress.")
    time_s = own.number("start_s", 0, MAX_TIME_S)
    own.end()
    data = from_base64(event.take("audio", str, needed=True), "audio")
    return [_whole_samples(Op("audio", data=data, time_s=time_s), "audio")]


def _respond(event: Fields, limits: Limits) -> list[Op]:
    response = Fields(event.take("response", dict) or {}, "response.")
    own = Fields(response.take("longcompress", dict) or {}, "response.longcompress.")
    is_memory = bool(own.take("memory", bool))
    for group in (response, own):
        group.end()
    return [Op("respond", is_memory=is_memory)]


def _cancel(event: Fields, limits: Limits) -> list[Op]:
    event.take("response_id", str)  # there is a single one at a time
    return [Op("cancel")]


def _source(event: Fields, limits: Limits) -> list[Op]:
    name = event.take("source", str, needed=True)
    if name not in limits.sources:
        known = ", ".join(limits.sources) or "this server has none"
        raise refuse("source", f"must be a source of the server's: {known}; got {name!r:.80}")
    return [Op("source", text=name)]


PARSERS: dict[str, Callable[[Fields, Limits], list[Op]]] = {
    "session.update": _update,
    "conversation.item.create": _item,
    "conversation.item.delete": lambda event, _: [
        Op("delete", item_id=event.take("item_id", str, needed=True))
    ],
    "input_audio_buffer.append": _audio,
    "response.create": _respond,
    "response.cancel": _cancel,
    "session.close": lambda *_: [Op("close")],
    "longcompress.source": _source,
}
