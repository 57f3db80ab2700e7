"""Published models as configurations of this one: what the paper does, and what we do with its parts.

A model made of one has the encoders and the language model that the paper begins with, and projectors that
are still to be trained.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, get_args, get_type_hints

import torch

from ..config import (
    AudioConfig,
    BudgetConfig,
    MediaConfig,
    MemoryConfig,
    MergeConfig,
    ModelConfig,
    SegmentConfig,
    VisionConfig,
)
from ..config_live import LiveConfig
from ..config_llm import LLMConfig
from ..model import LongCompress
from .llava import llava_parts

CLIP, WHISPER, VICUNA = "openai/clip-vit-large-patch14", "openai/whisper-large-v2", "lmsys/vicuna-7b-v1.5"
BEATS = "BEATs_iter3_plus_AS20K.pt"
LLAVA = "lmms-lab/llava-onevision-qwen2-7b-ov"
PAPER_LIVE = LiveConfig(turns="released", max_frames=400, near_s=0, past=0, text_tokens=4096, step_tokens=0)
FRAMES = 100
WHOLE_S = 1e6  # a video is one segment: nothing is merged below the budget
SYSTEM = (  # what Vicuna 1.1 and 1.5 were tuned with; Vicuna's tokenizer has no chat template
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: "
)
# the prompt of LongVLM's inference scripts (long_vlm_v1 of ziplab/LongVLM, longvlm/video_conversation.py)
SYSTEM_LONGVLM = (
    "You are LongVLM, a large vision-language assistant. You are able to understand the video content that "
    "the user provides, and assist the user with a variety of tasks using natural language.Follow the "
    "instructions carefully and explain your answers in detail based on the provided video. USER: "
)
DENSE = (
    'Tell all events of this video in the order in which they happen, one a line, as "From xx to xx, event."'
)


def longvlm(
    mode: Literal["paper", "ours"] = "paper", *, local: Literal[300, 200] = 300,
    prompt: Literal["training", "inference"] = "training", chat: bool = False,
) -> ModelConfig:  # fmt: skip
    """LongVLM (Weng et al., ECCV 2024, arXiv 2404.03384): 305 tokens, of 100 frames. First 5 of the whole
    video, the class tokens of CLIP's last five layers as means over all frames; then 30 of each 10
    frames, into which the 2560 patches of the last layer but one are merged (ToMe on their mean head). One
    linear layer for all.

    On purpose otherwise: the tokens of a segment come by their mean time, not in ToMe's order; there are no
    tokens around the video that begin and end it; sums are in float32. The paper's LLaVA-7B is made of LLaMA
    and a delta: give its folder as base["language model"].

    Args:
        mode: as for `vtimellm`; then segments of 10 s are merged our way, to 320 tokens at least.
        local: tokens of the segments; 200 are what the released script's schedule gives.
        prompt: "training": Vicuna's system text, as LongVLM was trained with; "inference": the one that its
            inference scripts use, which differs.
        chat: as for `vtimellm`.
    """
    pairs = [1280, 640, 320, 160, 80, 40, 10] if local == 300 else [2880, 1440, 720, 360, 180, 90, 40]
    plain = vtimellm(chat=chat)
    config = replace(
        plain, name="longvlm",
        media=MediaConfig(frames=FRAMES, frames_at="middles"),
        video=VisionConfig(base=CLIP, summary_layers=5, summary_until=-1, batch_size=10),  # a segment
        segments=SegmentConfig(cut="frames", frames=10),
        merge=MergeConfig(pairs, "cosine", "reference", "frame", {"video": local // 10}),
        memory=MemoryConfig(kind="mean"),
        budget=BudgetConfig(tokens=local + 5, allocation="even"),
        llm=replace(
            plain.llm, time_format="seconds", events=LLMConfig().events,
            system=SYSTEM_LONGVLM if prompt == "inference" and not chat else plain.llm.system,
        ),
    )  # fmt: skip
    return config if mode == "paper" else _ours(config, mode)


def vtimellm(mode: Literal["paper", "ours"] = "paper", *, chat: bool = False) -> ModelConfig:
    """VTimeLLM (Huang et al., CVPR 2024, arXiv 2311.18445): 100 tokens, CLIP's projected class token of 100
    frames, one linear layer, Vicuna; times are two digits, hundredths of the video.

    On purpose otherwise: frames are scaled bilinearly by the decoder, not bicubically. They lie evenly in
    time; VTimeLLM's lie evenly by number, which is the same at a constant rate.

    Args:
        mode: "paper"; or "ours": any length at a frame a second, time marks between the tokens, seconds.
        chat: the language model has a chat template of its own, which is used; else Vicuna's prompt is.
    """
    config = ModelConfig(
        name="vtimellm",
        media=MediaConfig(frames=FRAMES, fit="crop"),
        video=VisionConfig(base=CLIP, tokens="class", batch_size=20),  # 5 blocks are the 100
        segments=SegmentConfig(length_s=WHOLE_S),
        merge=MergeConfig(0.25, tokens_per_segment={"*": 1_000_000}),
        memory=MemoryConfig(kind="none"),
        budget=BudgetConfig(tokens=2048, allocation="even"),
        llm=LLMConfig(
            base=VICUNA, order="blocks", time=False, time_format="hundredths", events=DENSE,
            max_new_tokens=1024, token_norm=0.0,
            system="" if chat else SYSTEM, question="\n{question}" if chat else "\n{question} ASSISTANT:",
            next_question="" if chat else "USER: {question} ASSISTANT:",
        ),
    )  # fmt: skip
    return config if mode == "paper" else _ours(config, mode)


def longvale(
    mode: Literal["paper", "ours"] = "paper",
    *,
    tail: Literal["kept", "released"] = "kept",
    chat: bool = False,
) -> ModelConfig:
    """LongVALE-LLM (Geng et al., CVPR 2025, arXiv 2411.19772): VTimeLLM's 100 tokens, then one of BEATs for
    each 5.12 s of audio, then one of Whisper's encoder for each 5.12 s; a linear layer for each.

    For 5.12, 30, 60, 200, 235 and 600 s these are 102, 112, 124, 180, 192 and 336 tokens; as released 106,
    111, 123, 180, 192 and 334. Streams that a video hasn't are left out. On purpose otherwise: as for
    VTimeLLM; and with tail "kept" the last window and the last mean are of the sound there is, neither
    padded nor left out.

    Args:
        mode: as for `vtimellm`.
        tail: what is counted at the end, see AudioConfig.
        chat: as for `vtimellm`.
    """
    config = replace(
        vtimellm(chat=chat), name="longvale", audio=AudioConfig(base=BEATS, kind="beats", tail=tail),
        speech=AudioConfig(base=WHISPER, pool=256, pool_across=True, tail=tail),
    )  # fmt: skip
    return config if mode == "paper" else _ours(config, mode)


def mmduet(mode: Literal["paper", "ours"] = "paper") -> ModelConfig:
    """MMDuet (Wang et al., 2024, arXiv 2411.17991): LLaVA-OneVision, 49 tokens a frame at 2 frames/s, and two
    heads that say of each frame how informative it is, and how relevant to what was asked. It answers when
    they say so.

    On purpose otherwise: frames are those of their true times, scaled by the decoder.

    Args:
        mode: "paper": as their inference script, not as in training, for 400 frames. "ours": as trained.
    """
    if mode not in ("paper", "ours"):
        raise ValueError(f'mode must be "paper" or "ours", got {mode!r}')
    return ModelConfig(
        name="mmduet",
        media=MediaConfig(rate_fps=2.0, size_px=384, fit="pad", audio=False),
        video=VisionConfig(base=LLAVA, layer=-1, tokens="projected", batch_size=1),  # live: a frame at once
        memory=MemoryConfig(kind="none"),
        llm=LLMConfig(
            base=LLAVA, projector="none", heads=True, order="blocks", time=False, token_norm=0.0,
            system="You are a helpful assistant.", question="\n{question}", max_new_tokens=200,
        ),
        live=PAPER_LIVE if mode == "paper" else LiveConfig(),
    )  # fmt: skip


def _ours(config: ModelConfig, mode: str) -> ModelConfig:
    """The same parts for videos of any length: frames by rate, time marks, seconds."""
    if mode != "ours":
        raise ValueError(f'mode must be "paper" or "ours", got {mode!r}')
    plain = LLMConfig()
    return replace(
        config,
        media=replace(config.media, frames=0), segments=SegmentConfig(), merge=MergeConfig(),
        video=replace(config.video, batch_size=VisionConfig().batch_size),
        budget=BudgetConfig(),
        llm=replace(
            config.llm, order="time", time=True, time_format="seconds", events=plain.events,
            token_norm=plain.token_norm,
        ),
    )  # fmt: skip


PUBLISHED: dict[str, Callable[..., ModelConfig]] = {
    function.__name__: function for function in (longvlm, vtimellm, longvale, mmduet)
}


def config_of(
    name: str, base: Mapping[str, str] | None = None, variant: Mapping[str, Any] | None = None
) -> ModelConfig:
    """The configuration of a published model; `base` is part -> folder, file or hub name. Of MMDuet "llava"
    is both parts."""
    if name not in PUBLISHED:
        raise ValueError(f"preset must be one of {sorted(PUBLISHED)}, got {name!r}")
    hints = get_type_hints(PUBLISHED[name])
    allowed = {key: get_args(hint) or (False, True) for key, hint in hints.items() if key != "return"}
    for key, value in (variant or {}).items():
        if key not in allowed:
            raise ValueError(f"variant of {name} must be of {list(allowed)}, got {key!r}")
        if value not in allowed[key]:
            raise ValueError(f"variant {key} of {name} must be one of {list(allowed[key])}, got {value!r}")
    config = PUBLISHED[name](**(variant or {}))
    parts = [part for part in ("video", "audio", "speech", "llm") if getattr(config, part).base]
    base = dict(base or {})
    if name == "mmduet" and "llava" in base:
        base = dict.fromkeys(parts, base.pop("llava")) | base
    for part, path in base.items():
        if part not in parts:
            parts = ["llava", *parts] if name == "mmduet" else parts
            raise ValueError(f"base must be of parts of {config.name}, which are {parts}, got {part!r}")
        config = replace(config, **{part: replace(getattr(config, part), base=path)})
    return config


def encoders_of(
    name: str, *, base: Mapping[str, str] | None = None, variant: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None, dtype: torch.dtype | str | None = None,
) -> LongCompress:  # fmt: skip
    """A published model without its language model: it makes the features that the whole one trains on."""
    config = config_of(name, base, variant)
    return LongCompress.from_config(config, device=device, dtype=dtype, llm=False, parts=llava_parts(config))
