"""All options, as frozen dataclasses that check themselves.

They are read from JSON and YAML, and unknown keys are refused.
"""

import math
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from .config_live import LiveConfig
from .config_llm import LLMConfig
from .config_values import positive

T = TypeVar("T")
FORMAT = 2  # of a model's config
MAX_MEDIA = {"rate_fps": 1000, "frames": 1_000_000, "threads": 1024}  # more than any video or machine has
# Endings of the containers that FFmpeg reads. What else a folder holds is named, not tried.
VIDEO_SUFFIXES = frozenset(f".{name}" for name in """
    3g2 3gp aac ac3 aiff amr apng asf avi divx dv f4v flac flv gif m1v m2ts m2v m4a m4v mka mkv mov mp2 mp3
    mp4 mpeg mpg mts mxf nut oga ogg ogm ogv opus rm rmvb ts vob wav webm wma wmv wtv y4m
""".split())  # fmt: skip  # noqa: SIM905


@dataclass(frozen=True)
class MediaConfig:
    """How a file is read.

    Attributes:
        rate_fps: sampled frames a second.
        frames: sampled frames of the whole video, evenly spread, instead of rate_fps; 0: by rate_fps. The
            video's end must be known: its packets are read once more before.
        frames_at: "ends" samples the first and the last frame too; "middles" samples the middle of each of
            `frames` equal parts, by frame numbers rounded as LongVLM's code does.
        size_px: frames are scaled to size_px x size_px.
        fit: "squash" ignores the aspect ratio; "crop" scales the shorter side and crops the centre; "pad"
            scales the longer side and fills the rest with black (MMDuet).
        scaling: "bilinear", or "bicubic" as processors of transformers do.
        decode: "exact" gives the frame shown at each sampled time. "nonref" and "keyframe" decode fewer
            frames and give their true times.
        rate_hz: samples of audio a second, mono.
        channels: of audio with several the "mix" or the "first"; in some recordings they cancel each other.
        video_track: number of the video track from 0, or its language as the file writes it ("eng"); "": the
            player's choice.
        audio_track: likewise of the audio track.
        video: read frames.
        audio: read audio.
        max_pixels: larger frames are refused.
        threads: decoder threads; 0: all cores, but one for frames of up to 300,000 pixels on two cores.
    """

    rate_fps: float = 1.0
    frames: int = 0
    frames_at: Literal["ends", "middles"] = "ends"
    size_px: int = 224
    fit: Literal["squash", "crop", "pad"] = "squash"
    scaling: Literal["bilinear", "bicubic"] = "bilinear"
    decode: Literal["exact", "nonref", "keyframe"] = "exact"
    rate_hz: int = 16000
    channels: Literal["mix", "first"] = "mix"
    video_track: str = ""
    audio_track: str = ""
    video: bool = True
    audio: bool = True
    max_pixels: int = 50_000_000
    threads: int = 0

    def __post_init__(self) -> None:
        positive(self, "rate_fps", "size_px", "rate_hz", "max_pixels")
        for name, limit in MAX_MEDIA.items():
            if getattr(self, name) > limit:
                raise ValueError(f"{name} must be at most {limit}, got {getattr(self, name)}")
        if self.threads < 0:
            raise ValueError(f"threads must be >= 0, got {self.threads}")
        if self.frames < 0 or self.frames == 1:
            raise ValueError(f"frames must be 0, or at least 2: the first and the last, got {self.frames}")

    def num_frames(self, duration_s: float) -> int:
        """Number of sampled frames of a video of this length."""
        return (self.frames or math.ceil(duration_s * self.rate_fps)) if duration_s > 0 else 0

    def frames_a_second(self, duration_s: float) -> float:
        """Sampled frames of a second of a video that lasts `duration_s`."""
        return self.frames / duration_s if self.frames and duration_s > 0 else self.rate_fps

    def frame_s(self, duration_s: float) -> float:
        """Seconds from one sampled frame to the next in a video that lasts `duration_s`."""
        return duration_s / self.frames if self.frames and duration_s > 0 else 1 / self.rate_fps


@dataclass(frozen=True)
class VisionConfig:
    """The video encoder: any transformers vision model.

    Attributes:
        base: folder, hub name, or path relative to the model's own folder ("./vision"); "" for no frames.
        layer: index into its hidden states (-2: the last layer but one, as in LLaVA).
        summary_layers: number of last layers, up to `layer`, whose class tokens go to the global memory.
        summary_until: index of the last hidden state for summary_layers; None: `layer`.
        metric_width: width of the merge metric, which is the mean over heads of this width.
        metric: "heads": that. Of stock models also "random": a fixed random projection of the features, or
            "states": the mean over heads of the encoder's last states, before its projector.
        batch_size: frames of one run of the encoder, always.
        reuse_below: mean absolute change of a frame (0 to 1) below which it reuses the features of the
            frame before, within a batch; 0: never. Sessions count these frames (`stats`).
        merge_per_layer: pairs of a frame's patches that merge in every layer (ToMe) of a CLIP, SigLIP, DINOv2
            or ViT encoder, or of a stock model's (docs/models.md; as many in each window where it attends
            within windows); 0: none. It is faster, and features are less exact: each patch gets its group's.
        merge_layer_by: "pairs": the most similar of even and odd patches (ToMe); "tree": the cheapest merges
            of a layer's Ward tree.
        pool: squares of pool x pool patches are averaged to a token, after `layer`; not of stock models.
        attention: transformers' attn_implementation; "eager" or "sdpa" with merge_per_layer. Stock models
            attend by PyTorch's then, whatever llm.attention is.
        tokens: "patches" of a hidden state; "class": CLIP's class token after its projection, not
            normalised, one token a frame (VTimeLLM, LongVALE). `layer` has no effect on it. "projected":
            patches behind the projector that lies beside the encoder, their grid scaled down (MMDuet).
    """

    base: str = ""
    layer: int = -2
    summary_layers: int = 0
    summary_until: int | None = None
    metric_width: int = 64
    metric: Literal["heads", "random", "states"] = "heads"
    batch_size: int = 8
    reuse_below: float = 0.0
    merge_per_layer: int = 0
    merge_layer_by: Literal["pairs", "tree"] = "pairs"
    pool: int = 1
    attention: str = "sdpa"
    tokens: Literal["patches", "class", "projected"] = "patches"

    def __post_init__(self) -> None:
        positive(self, "metric_width", "batch_size", "pool")
        if self.merge_per_layer < 0:
            raise ValueError(f"merge_per_layer must be >= 0 pairs, got {self.merge_per_layer}")
        for name, need in (("merge_per_layer", 0), ("summary_layers", 0), ("pool", 1)):
            if self.tokens != "patches" and getattr(self, name) != need:
                raise ValueError(
                    f'{name} must be {need} with tokens "{self.tokens}", got {getattr(self, name)}; use '
                    'tokens "patches"'
                )


@dataclass(frozen=True)
class AudioConfig:
    """An audio encoder: a Whisper encoder, or BEATs, whose tokens are the means of its windows of 5.12 s.

    Attributes:
        base: as in VisionConfig, for BEATs also a released .pt file; "" for none.
        layer: index into the hidden states of Whisper; BEATs gives its last.
        pool: positions of Whisper that are averaged to a token.
        metric_width: as in VisionConfig.
        summary: keep the mean over each block as a global token.
        attention: transformers' attn_implementation; BEATs has its own.
        kind: of encoder.
        pool_across: means of Whisper's positions run across the ends of its blocks, so `pool` need not divide
            a block (LongVALE: 256 of 1500, which are 5.12 s).
        tail: how an incomplete block at the end is treated. "kept": it gives tokens, however short it is.
            "released": as LongVALE's scripts. For Whisper they count the silence after the end and drop an
            incomplete mean. For BEATs they pad with silence and drop a window that is less than half full.
    """

    base: str = ""
    layer: int = -1
    pool: int = 25
    metric_width: int = 64
    summary: bool = False
    attention: str = "sdpa"
    kind: Literal["whisper", "beats"] = "whisper"
    pool_across: bool = False
    tail: Literal["kept", "released"] = "kept"

    def __post_init__(self) -> None:
        positive(self, "pool", "metric_width")
        if self.kind == "beats" and (self.pool_across or self.layer != -1):
            raise ValueError(
                f'pool_across and layer are for kind "whisper"; with "beats" they must be False and -1, got '
                f"{self.pool_across} and {self.layer}"
            )


@dataclass(frozen=True)
class SegmentConfig:
    """Where the video is cut.

    Attributes:
        cut: at "fixed" lengths, at a "change" of the frame, or after a number of "frames" (LongVLM).
        length_s: length of a fixed segment, and the longest with cut "change".
        min_length_s: the shortest segment with cut "change".
        min_novelty: mean novelty of a frame (0 to 2) that starts a new segment.
        frames: number in a segment, with cut "frames".
    """

    cut: Literal["fixed", "change", "frames"] = "fixed"
    length_s: float = 10.0
    min_length_s: float = 4.0
    min_novelty: float = 0.3
    frames: int = 10

    def __post_init__(self) -> None:
        positive(self, "length_s", "min_length_s", "min_novelty", "frames")
        if self.min_length_s > self.length_s:
            raise ValueError(f"min_length_s must be <= length_s = {self.length_s}, got {self.min_length_s}")


@dataclass(frozen=True)
class MergeConfig:
    """How the tokens of a segment are merged.

    Attributes:
        schedule: share of tokens that merge in a round, or pairs per round (published presets), or "tree":
            Ward's tree, cut where it must be (`kernels.tree`); "blocks": rounds inside of blocks, then whole.
        score: "ward" or "cosine".
        order: "seat" or "reference" (ToMe's own).
        layout: frames lie "patch"-major (all times of a patch, then the next patch) or "frame"-major.
        tokens_per_segment: stream -> tokens that a closed segment keeps at least, after full rounds; "*" for
            the other streams.
        representative: the row that a merged token shows: the "mean" of its raw tokens, or their "medoid":
            one of them, whose metric is nearest to the mean.
        place: its position: the "mean" of its raw tokens, that of the "medoid", or that of the "heaviest" of
            the tokens that merged last (of equals the nearest to the mean).
    """

    schedule: float | list[int] | Literal["tree", "blocks"] = "tree"
    score: Literal["ward", "cosine"] = "ward"
    order: Literal["seat", "reference"] = "seat"
    layout: Literal["patch", "frame"] = "patch"
    tokens_per_segment: dict[str, int] = field(default_factory=lambda: {"video": 320, "*": 64})
    representative: Literal["mean", "medoid"] = "mean"
    place: Literal["mean", "medoid", "heaviest"] = "mean"

    def __post_init__(self) -> None:
        if isinstance(self.schedule, list):
            is_known = bool(self.schedule) and all(pairs >= 1 for pairs in self.schedule)
        elif isinstance(self.schedule, float):
            is_known = 0 < self.schedule <= 0.5
        else:
            is_known = self.schedule in ("tree", "blocks")
        if self.schedule == "tree":
            if (self.score, self.order) != ("ward", "seat"):
                got = f"{self.score!r} and {self.order!r}"
                raise ValueError(f"schedule 'tree' needs score 'ward' and order 'seat', got {got}")
        elif not is_known:
            need = "a fraction in (0, 0.5], a list of pairs a round, 'tree' or 'blocks'"
            raise ValueError(f"schedule must be {need}, got {self.schedule}")
        if any(num < 1 for num in self.tokens_per_segment.values()):
            raise ValueError(
                f"tokens_per_segment must be >= 1 for each stream, got {self.tokens_per_segment}"
            )

    @property
    def needs_medoids(self) -> bool:
        """Whether a merged token is to remember a raw one."""
        return (self.representative, self.place) != ("mean", "mean")

    def min_tokens(self, stream: str) -> int:
        """Fewest tokens of `stream` that a closed segment keeps."""
        return self.tokens_per_segment.get(stream, self.tokens_per_segment.get("*", 64))


@dataclass(frozen=True)
class MemoryConfig:
    """Global tokens, and the memory file.

    Attributes:
        kind: "none": no other measured better; "mean": running mean of the encoder's summary (LongVLM);
            "learned": queries that attend over the tokens of closed segments; "coarse": these merged to a few
            by a tree over all segments; "scales": likewise to 1, 2, 4, ... tokens.
        num_queries: global tokens of a stream of kinds learned, coarse and scales.
        dtype: of the rows in a memory file: as the model made them (""), "bfloat16", or "int8" with a scale
            for every 64 channels of a row.
    """

    kind: Literal["none", "mean", "learned", "coarse", "scales"] = "none"
    num_queries: int = 4
    dtype: Literal["", "bfloat16", "int8"] = ""

    def __post_init__(self) -> None:
        positive(self, "num_queries")


@dataclass(frozen=True)
class BudgetConfig:
    """How a budget is allocated.

    Attributes:
        tokens: budget of a memory unless the user gives another.
        allocation: "even" over time, by "novelty", or by "height": within each stream where merging would
            cost most (a stream has about as many tokens as by "even").
        stream_weights: stream -> its relative weight within a segment; "*" for the other streams.
        buffer_ratio: tokens buffered while streaming are at most this many times the budget.
    """

    tokens: int = 4096
    allocation: Literal["even", "novelty", "height"] = "height"
    stream_weights: dict[str, float] = field(default_factory=lambda: {"video": 0.8, "*": 0.2})
    buffer_ratio: float = 4.0

    def __post_init__(self) -> None:
        positive(self, "tokens", "buffer_ratio")
        if not all(0 < weight < math.inf for weight in self.stream_weights.values()):
            raise ValueError(f"stream_weights must be > 0 for each stream, got {self.stream_weights}")

    def stream_weight(self, stream: str) -> float:
        """Relative weight of `stream`."""
        return self.stream_weights.get(stream, self.stream_weights.get("*", 0.2))


@dataclass(frozen=True)
class ModelConfig:
    """A whole model.

    Attributes:
        speech: a second audio encoder, whose stream is "speech" (LongVALE: `audio` is BEATs, `speech`
            Whisper).
        format: of the file.
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
    live: LiveConfig = field(default_factory=LiveConfig)
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format must be {FORMAT}, got {self.format}; upgrade longcompress")
