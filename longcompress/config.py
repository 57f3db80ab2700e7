"""The only knobs: frozen dataclasses that check themselves and round-trip to JSON and YAML. Unknown keys are
refused."""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")
FORMAT = 2  # of a model's config
FORMAT_1 = {
    "numbers": "mean",
    "token_norm": 0.0,
    "time_norm": 0.0,
}  # of the language model, when nothing said so


@dataclass(frozen=True)
class MediaConfig:
    """How a file is read.

    Attributes:
        rate_fps: frames wanted a second.
        frames: frames wanted of a video of any length instead, evenly spread, its first and its last among
            them; 0: by rate_fps. The video's end must be known: its packets are read once more before.
        frames_at: "ends" is that; "middles" takes the middle of each of so many equal stretches (LongVLM).
        size_px: frames come as size_px x size_px.
        fit: "squash" gives up the aspect ratio; "crop" brings the shorter side to size_px and cuts the
            centre.
        decode: "exact" gives the frame shown at each wanted instant; "nonref" and "keyframe" decode less
            and
            give the true time of every frame they give.
        rate_hz: samples of audio a second, mono.
        frames: read frames.
        audio: read audio.
        max_pixels: a frame with more is refused.
        threads: decoder threads; 0: all cores.
    """

    rate_fps: float = 1.0
    size_px: int = 224
    fit: Literal["squash", "crop"] = "squash"
    decode: Literal["exact", "nonref", "keyframe"] = "exact"
    rate_hz: int = 16000
    video: bool = True
    audio: bool = True
    max_pixels: int = 50_000_000
    threads: int = 0
    frames: int = 0
    frames_at: Literal["ends", "middles"] = "ends"

    def __post_init__(self) -> None:
        _positive(self, "rate_fps", "size_px", "rate_hz", "max_pixels")
        if self.frames < 0 or self.frames == 1:
            raise ValueError(f"frames must be 0, or at least 2: the first and the last, got {self.frames}")


@dataclass(frozen=True)
class VisionConfig:
    """The video encoder: any transformers vision model.

    Attributes:
        base: folder, hub name, or path relative to the model's own folder ("./vision"); "" for no frames.
        layer: index into its hidden states (-2: the last but one layer, as LLaVA takes).
        summary_layers: class tokens of so many last layers up to `layer` are kept for the global memory.
        summary_until: index of the hidden state up to which they are taken instead; None: `layer`.
        width: metric width; the metric is the mean over heads of this width.
        block: frames a run of the encoder takes, always.
        skip: mean absolute change of a frame (0 to 1) below which it takes the features of the one before,
            within a block; 0: never. Sessions count these frames (`stats`).
        merge_per_layer: pairs of patches that become one in every layer (ToMe) of a CLIP, SigLIP, DINOv2 or
            ViT encoder: faster, and features less exact, since each patch gets its group's; 0: none.
        attention: transformers' attn_implementation; "eager" or "sdpa" with merge_per_layer.
        tokens: "patches" of a hidden state; "class": one a frame, CLIP's class token after its projection,
            not normalised (VTimeLLM, LongVALE), for which `layer` says nothing.
    """

    base: str = ""
    layer: int = -2
    summary_layers: int = 0
    width: int = 64
    block: int = 8
    skip: float = 0.0
    merge_per_layer: int = 0
    attention: str = "sdpa"
    tokens: Literal["patches", "class"] = "patches"
    summary_until: int | None = None

    def __post_init__(self) -> None:
        _positive(self, "width", "block")
        if self.merge_per_layer < 0:
            raise ValueError(f"merge_per_layer must be >= 0 pairs, got {self.merge_per_layer}")
        for name in ("merge_per_layer", "summary_layers"):
            if self.tokens == "class" and getattr(self, name):
                raise ValueError(
                    f'{name} must be 0 with tokens "class", which are of the last layer alone, got '
                    f'{getattr(self, name)}; use tokens "patches"'
                )


@dataclass(frozen=True)
class AudioConfig:
    """An audio encoder: a Whisper encoder, or BEATs, whose tokens are the means of its windows of 5.12 s.

    Attributes:
        base: as in VisionConfig, for BEATs also a released .pt file; "" for none.
        layer: index into the hidden states of Whisper; BEATs gives its last.
        pool: positions of Whisper that are averaged to one token.
        width: metric width, as in VisionConfig.
        summary: keep the mean over each block as a global token.
        attention: transformers' attn_implementation; BEATs has its own.
        kind: of encoder.
        across: means of Whisper's positions run on over the ends of its blocks, so that pool need not divide
            a block (LongVALE: 256 of 1500, which are 5.12 s).
        tail: what is not a whole block at the end. "kept": tokens of what is heard, however short;
            "released": as LongVALE's scripts count. Those of Whisper let the silence behind the end count,
            and leave out what makes no whole mean; those of BEATs take silence for audio, and leave out a
            window that is not half full.
    """

    base: str = ""
    layer: int = -1
    pool: int = 25
    width: int = 64
    summary: bool = False
    attention: str = "sdpa"
    kind: Literal["whisper", "beats"] = "whisper"
    across: bool = False
    tail: Literal["kept", "released"] = "kept"

    def __post_init__(self) -> None:
        _positive(self, "pool", "width")
        if self.kind == "beats" and (self.across or self.layer != -1):
            raise ValueError(
                f'across and layer are for kind "whisper"; with "beats" they must be False and -1, got '
                f"{self.across} and {self.layer}"
            )


@dataclass(frozen=True)
class SegmentConfig:
    """Where the video is cut.

    Attributes:
        cut: "fixed" lengths, at "change" of the frame, or after so many "frames" (LongVLM), however long.
        length_s: length of a fixed segment, and the longest where cut at changes.
        shortest_s: the shortest segment where cut at changes.
        change: mean novelty of a frame (0 to 2) that begins a new segment.
        frames: of a segment, where cut after frames.
    """

    cut: Literal["fixed", "change", "frames"] = "fixed"
    length_s: float = 10.0
    shortest_s: float = 4.0
    change: float = 0.3
    frames: int = 10

    def __post_init__(self) -> None:
        _positive(self, "length_s", "shortest_s", "change", "frames")
        if self.shortest_s > self.length_s:
            raise ValueError(f"shortest_s must be <= length_s = {self.length_s}, got {self.shortest_s}")


@dataclass(frozen=True)
class MergeConfig:
    """How the tokens of a segment become fewer.

    Attributes:
        schedule: share of tokens that merge in a round, or pairs a round (published presets).
        score: "ward" or "cosine".
        order: "seat" or "reference" (ToMe's own).
        layout: frames lie "patch"-major (all times of a patch, then the next) or "frame"-major.
        detail: a closed segment keeps at least so many tokens of a stream, after full rounds. Also "*" for
            the rest.
    """

    schedule: float | list[int] = 0.25
    score: Literal["ward", "cosine"] = "ward"
    order: Literal["seat", "reference"] = "seat"
    layout: Literal["patch", "frame"] = "patch"
    detail: dict[str, int] = field(default_factory=lambda: {"video": 320, "*": 64})

    def detail_of(self, stream: str) -> int:
        """Tokens a closed segment keeps of `stream` at least."""
        return self.detail.get(stream, self.detail.get("*", 64))


@dataclass(frozen=True)
class MemoryConfig:
    """Global tokens.

    Attributes:
        kind: "none"; "mean": running mean of the encoder's summary (LongVLM); "learned": queries that attend
            over
            the closed tokens.
        slots: learned queries a stream has.
    """

    kind: Literal["none", "mean", "learned"] = "mean"
    slots: int = 4

    def __post_init__(self) -> None:
        _positive(self, "slots")


@dataclass(frozen=True)
class BudgetConfig:
    """How a budget is shared.

    Attributes:
        tokens: what a memory holds unless the user says otherwise.
        share: "even" over time, or by "novelty".
        split: relative share of each stream within a segment; "*" for the rest.
        hold: tokens kept on the way are at most this many times the budget.
    """

    tokens: int = 4096
    share: Literal["even", "novelty"] = "even"
    split: dict[str, float] = field(default_factory=lambda: {"video": 0.8, "*": 0.2})
    hold: float = 4.0

    def __post_init__(self) -> None:
        _positive(self, "tokens", "hold")

    def split_of(self, stream: str) -> float:
        """Relative share of `stream`."""
        return self.split.get(stream, self.split.get("*", 0.2))


@dataclass(frozen=True)
class LLMConfig:
    """The language model.

    Attributes:
        base: as in VisionConfig.
        mark_s: seconds that one time mark covers, where marks fit into an eighth of the budget; otherwise a
            multiple.
        mark: text of a mark; {start} is its whole second, {clock} the same as h:mm:ss, {tens} its tens of
            seconds.
        projector: "linear" (LLaVA, LongVLM), or "mlp": linear, GELU, linear (LLaVA-1.5).
        time: add to each token embeddings of its mark, first and last second and size.
        max_offset_s: seconds after its mark that a token can tell apart.
        system: system prompt for chat templates; "": none.
        question: text of the user's turn; {question} is replaced. The video comes before it.
        events: question that `events()` asks of each window; {start} and {end} in whole seconds.
        events_window_s: length of such a window.
        times: numbers in answers are "seconds", or "hundredths" of the video, 00..99 as VTimeLLM writes them;
            then `events()` asks `events` once, of the whole video, as it stands.
        max_new_tokens: longest answer.
        attention: transformers' attn_implementation.
        order: "time": mark, tokens, mark, tokens, ..., streams side by side; "blocks": global tokens, then
            stream after stream (frame, audio, speech), without marks, as LongVLM, VTimeLLM and LongVALE
            lay them; needs time False.
        numbers: how a mark or a second that the tokenizer writes with several tokens becomes one embedding:
            "places", each of theirs with the signs of its place; or their "mean", in which 12 is 21, as in
            models saved before format 2. Of a single token both are that token's.
        token_norm: norm of video tokens behind fresh projectors, what all have in common apart, in norms of
            the language model's own embeddings; 0: projectors begin as torch begins them, as the papers' do.
        time_norm: likewise what time adds to each at first; 0: with gain 1.
    """

    base: str = ""
    mark_s: float = 10.0
    mark: str = "{clock}"
    projector: Literal["linear", "mlp"] = "linear"
    time: bool = True
    max_offset_s: int = 64
    system: str = ""
    question: str = "{question}"
    events: str = (
        "What happens between {start} and {end} seconds? Give each event with its first and last second."
    )
    events_window_s: float = 30.0
    max_new_tokens: int = 256
    attention: str = "sdpa"
    order: Literal["time", "blocks"] = "time"
    times: Literal["seconds", "hundredths"] = "seconds"
    numbers: Literal["places", "mean"] = "places"
    token_norm: float = 1.0
    time_norm: float = 0.4

    def __post_init__(self) -> None:
        _positive(self, "mark_s", "max_offset_s", "events_window_s", "max_new_tokens")
        for name in ("token_norm", "time_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0 norms of embeddings, got {getattr(self, name)}")
        if self.order == "blocks" and self.time:
            raise ValueError(
                'time must be False with order "blocks": without marks there is nothing to count seconds '
                'from; set llm.time to False, or llm.order to "time"'
            )


@dataclass(frozen=True)
class ModelConfig:
    """A whole model.

    Attributes:
        speech: a second audio encoder, whose stream is "speech" (LongVALE: `audio` is BEATs, `speech` Whisper).
        format: of the file; what was written as format 1 is read as it was meant then.
    """

    name: str = ""
    media: MediaConfig = field(default_factory=MediaConfig)
    video: VisionConfig = field(default_factory=VisionConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    speech: AudioConfig = field(default_factory=AudioConfig)
    segments: SegmentConfig = field(default_factory=SegmentConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    llm: LLMConfig = field(default_factory=LLMConfig)
    format: int = FORMAT


def to_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as plain values."""
    return dataclasses.asdict(config)


def from_dict(kind: type[T], values: dict[str, Any], *, where: str = "") -> T:
    """A config dataclass of `kind` from plain values.

    Raises:
        ValueError: for a key that `kind` does not have, or a value of another type, with its dotted name; for
            a model's config of a newer format.
    """
    if kind is ModelConfig:
        values = _of_this_format(values)
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"unknown key {where + unknown[0]!r}; {kind.__name__} has {sorted(hints)}")
    made = {k: _cast(hints[k], v, f"{where}{k}") for k, v in values.items()}
    return kind(**made)


def save_config(config: Any, path: str | Path) -> None:
    """Write `config` as JSON."""
    Path(path).write_text(json.dumps(to_dict(config), indent=2) + "\n")


def load_config(kind: type[T], path: str | Path) -> T:
    """Read a config of `kind` from a JSON or YAML file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"config: no file {path}")
    text = path.read_text()
    if path.suffix in (".yaml", ".yml"):
        import yaml

        values = yaml.safe_load(text)
    else:
        values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError(f"config: {path} must hold a mapping, got {type(values).__name__}")
    return from_dict(kind, values)


def _of_this_format(values: dict[str, Any]) -> dict[str, Any]:
    """Values of a model's config in which what an earlier format left unsaid is said."""
    given, llm = values.get("format", FORMAT), values.get("llm", {})
    if given == 1 and isinstance(llm, dict):
        return values | {"llm": FORMAT_1 | llm, "format": FORMAT}
    if isinstance(given, int) and given > FORMAT:
        raise ValueError(
            f"config has format {given}, this version reads up to {FORMAT}; upgrade longcompress"
        )
    return values


def _cast(hint: Any, value: Any, name: str) -> Any:
    """`value` as the type `hint` says, or ValueError."""
    if hint is Any:
        return value
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(typing.cast(type, hint), value, where=f"{name}.")
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            try:
                return _cast(option, value, name)
            except ValueError:
                continue
    elif origin is Literal:
        if value in typing.get_args(hint):
            return value
    elif origin is list and isinstance(value, list | tuple):
        return [_cast(typing.get_args(hint)[0], v, name) for v in value]
    elif origin is tuple and isinstance(value, list | tuple):  # tuple[T, ...]
        return tuple(_cast(typing.get_args(hint)[0], v, name) for v in value)
    elif origin is dict and isinstance(value, dict):
        of = typing.get_args(hint)[1]
        return {str(k): _cast(of, v, f"{name}.{k}") for k, v in value.items()}
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif (
        hint in (int, str, bool) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    ) or (hint is type(None) and value is None):
        return value
    raise ValueError(f"{name} must be {getattr(hint, '__name__', hint)}, got {value!r}")


def _positive(config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be > 0, got {getattr(config, name)}")
