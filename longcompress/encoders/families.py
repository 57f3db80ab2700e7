"""What differs between stock video LLMs of transformers, as data and small functions.

A video is text with placeholders: `opening`, steps joined by `between`, `closing`. A step is the text of a
timestamp with {x} where its video tokens go. A family without timestamps has a single step for all tokens.
T frames of H x W pixels, N tokens, D width of the language model.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor

from .vision import CLIP_MEAN, CLIP_STD, HALF, IMAGENET_MEAN, IMAGENET_STD

CLIP, IMAGENET, GREY = (CLIP_MEAN, CLIP_STD), (IMAGENET_MEAN, IMAGENET_STD), (HALF, HALF)
ABOUT_PX = 448  # side of frames where a family takes any


@dataclass(frozen=True)
class AudioText:
    """How audio stands in the prompt of a family that hears.

    Attributes:
        first, last: tokens around the whole video where it has audio, unless the tokenizer names others as
            audio_bos_token and audio_eos_token.
        chunk_s: frames of this much time come before their audio; 0: token by token, by time.
        shared_ends: `first` has the position of the token before it, and the token after `last` that of it.
    """

    first: str
    last: str
    chunk_s: float
    shared_ends: bool


@dataclass(frozen=True)
class Family:
    """A family of stock video LLMs.

    Attributes:
        features: (model, (T, 3, H, W) normalised pixels) -> (N, D (1 + deepstack)) tokens by frame and patch.
        grid: (model, H, W) -> rows and columns of a frame's tokens.
        side: (model) -> pixels that H and W must be a multiple of, or, where `fixed`, must be.
        norm: published mean and deviation of pixels.
        video: what the chat template writes for a video; the text of the video takes its place. In this and
            in `step`, a name that ends in _token_id is the token that the config has under it.
        placeholder: field of the config with the id of the token that stands for a video token.
        key: of `mm_encoder_outputs`, by which video tokens go in.
        as_tensor: tokens go in as a tensor (N, 1, D), not as a list of (N, D).
        step: text of a timestamp: {first}, {middle}, {last} are times of its frames in seconds, {clock} is
            {first} as mm:ss, {whole} in whole seconds, {number} counts from 1.
        opening, between, closing: text around steps; {words}: number of steps in words, {length}: of the
            video, as h:mm:ss.
        positions: "plain": one axis. "grid": rows and columns from the base of each step. "clock": and time.
        ids_per_s: of "clock": (model) -> positions a second; None counts tokens in time.
        float_clock: its positions in time are not rounded.
        frames_per_token: frames that a token stands for.
        deepstack: sets of features that later layers take, beside the first in each row.
        fixed: frames have one size.
        fit: as of MediaConfig.
        end_rows: (model) -> (k, D) rows that the model puts behind a video, or None.
        token_types: forward wants to know which ids are of frames.
        layers: name of the encoder's layers in the model, between which patches of a frame can merge.
        readers: name of the modules that read states between layers.
        window: (model) -> side in pixels of the windows of its encoder's attention, where it has them.
        no_merging: why patches can't merge.
        audio: None: it doesn't hear.
    """

    features: Callable[[Any, Tensor], Tensor]
    grid: Callable[[Any, int, int], tuple[int, int]]
    side: Callable[[Any], int]
    norm: tuple[tuple[float, ...], tuple[float, ...]]
    video: str = "{video_token_id}"
    placeholder: str = "video_token_id"
    key: Literal["video", "image"] = "video"
    as_tensor: bool = False
    step: str = "{x}"
    opening: str = ""
    between: str = ""
    closing: str = ""
    positions: Literal["plain", "grid", "clock"] = "plain"
    ids_per_s: Callable[[Any], float | None] = lambda model: None
    float_clock: bool = False
    frames_per_token: int = 1
    deepstack: int = 0
    fixed: bool = False
    fit: Literal["squash", "crop"] = "squash"
    end_rows: Callable[[Any], Tensor | None] = lambda model: None
    token_types: bool = False
    layers: str = ""
    readers: str = ""
    window: Callable[[Any], int] | None = None
    no_merging: str = ""
    audio: AudioText | None = None

    @property
    def has_timestamps(self) -> bool:
        """Whether text stands between tokens."""
        return self.step != "{x}"

    @property
    def time(self) -> Literal["text", "positions", "none"]:
        """How seconds reach the language model."""
        if any(f"{{{name}" in self.step for name in ("first", "middle", "last", "clock", "whole")):
            return "text"
        return "none" if self.ids_per_s is Family.ids_per_s else "positions"

    def size_px(self, model: Any) -> int:
        """Side of frames unless the user sets another."""
        side = self.side(model)
        return side if self.fixed else max(1, ABOUT_PX // side) * side


def patchify(x: Tensor, patch: int, merge: int, frames: int, row: str = "c f ph pw") -> tuple[Tensor, Tensor]:
    """Qwen2-VL's rows of pixels (t h w, 3 * frames * patch^2), blocks of merge x merge patches side by side,
    and grid (1, 3) of t, h, w. The last of the frames (T, 3, H, W) fills up an incomplete group of `frames`.
    `row` is the order within a row: colours, frames, lines, columns.
    """
    if missing := -len(x) % frames:
        x = torch.cat([x, x[-1:].expand(missing, -1, -1, -1)])
    grid = torch.tensor([[len(x) // frames, x.shape[2] // patch, x.shape[3] // patch]], device=x.device)
    rows = rearrange(
        x, f"(t f) c (h mh ph) (w mw pw) -> (t h w mh mw) ({row})",
        f=frames, mh=merge, mw=merge, ph=patch, pw=patch,
    )  # fmt: skip
    return rows, grid


def flat(output: Any) -> Tensor:
    """(N, D (1 + deepstack)) of what a model's own `get_..._features` returns."""
    x = output.pooler_output
    x = x.flatten(0, -2) if isinstance(x, Tensor) else torch.cat([part.flatten(0, -2) for part in x])
    deep = [torch.cat(list(part)) for part in getattr(output, "deepstack_features", None) or ()]
    return torch.cat([x, *deep], -1)


def _vision(model: Any) -> Any:
    return model.config.vision_config


def _first(value: Any) -> int:
    """A size, or the first of two."""
    return int(value[0] if isinstance(value, list | tuple) else value)


def _image_side(model: Any) -> int:
    return _first(_vision(model).image_size)


def _side_of(field: str) -> Callable[[Any], int]:
    """Side of a token, of as many patches as the config has under `field`."""
    return lambda model: _first(_vision(model).patch_size) * int(getattr(_vision(model), field))


def num_patches(model: Any, height: int, width: int) -> int:
    """Patches of a frame inside the encoder."""
    patch = _first(_vision(model).patch_size)
    return (height // patch) * (width // patch)


def _square(count: Callable[[Any, int, int], float]) -> Callable[[Any, int, int], tuple[int, int]]:
    """A square grid of that many tokens."""
    return lambda model, h, w: (round(count(model, h, w) ** 0.5),) * 2


def _cells(side: Callable[[Any], int]) -> Callable[[Any, int, int], tuple[int, int]]:
    """A grid of a token for each side x side pixels."""
    return lambda model, h, w: (h // side(model), w // side(model))


# --- functions of families


def _patch_features(model: Any, x: Tensor, merge: int, frames: int, row: str = "c f ph pw") -> Tensor:
    patch = _first(_vision(model).patch_size)
    return flat(model.get_video_features(*patchify(x, patch, merge, frames, row)))


def _qwen_features(model: Any, x: Tensor) -> Tensor:
    v = _vision(model)
    return _patch_features(model, x, v.spatial_merge_size, _first(v.temporal_patch_size))


def _window(model: Any) -> int:
    return int(_vision(model).window_size)


def _onevision_grid(model: Any, height: int, width: int) -> tuple[int, int]:
    edge = (round(num_patches(model, height, width) ** 0.5) + 1) // 2  # pooled by 2 x 2, rounded up
    return edge, edge


def _llama3_features(model: Any, x: Tensor) -> Tensor:
    rows, grid = patchify(x, _vision(model).patch_size, 2, 1)
    return flat(model.model.get_video_features(rows, grid, torch.tensor([2], device=x.device)))


def _gemma4_features(model: Any, x: Tensor, patch: int) -> Tensor:
    rows = rearrange(x, "t c (h p) (w q) -> t (h w) (p q c)", p=patch, q=patch)
    across, down = torch.arange(x.shape[3] // patch), torch.arange(x.shape[2] // patch)
    place = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1).view(1, -1, 2).to(x.device)
    return flat(model.model.get_video_features(rows, place.expand(len(x), -1, -1), torch.tensor([len(x)])))


_qwen_side, _muse_side, _gemma4_side = map(
    _side_of, ("spatial_merge_size", "merge_size", "pooling_kernel_size")
)

QWEN2_VL = Family(
    features=_qwen_features, grid=_cells(_qwen_side), side=_qwen_side, norm=CLIP, positions="clock",
    frames_per_token=2, layers="model.visual.blocks",
)  # fmt: skip
QWEN3_5 = replace(
    QWEN2_VL, norm=GREY, positions="grid",
    step="<{middle:.1f} seconds>{vision_start_token_id}{x}{vision_end_token_id}",
)  # fmt: skip
QWEN3_VL = replace(QWEN3_5, deepstack=3, readers="model.visual.deepstack_merger_list")
OMNI_AUDIO = AudioText("<|audio_bos|>", "<|audio_eos|>", chunk_s=2.0, shared_ends=True)
QWEN2_5_OMNI = replace(
    QWEN2_VL, audio=OMNI_AUDIO, window=_window,
    ids_per_s=lambda model: model.config.position_id_per_seconds,
)  # fmt: skip
GLM4V = replace(
    QWEN2_VL, placeholder="image_token_id", positions="grid",
    step="<|begin_of_image|>{x}<|end_of_image|>{whole}",
)  # fmt: skip
GLM46V = replace(GLM4V, step="<|begin_of_image|>{x}<|end_of_image|>{first:.1f} seconds")
CLIP_VIDEO = Family(  # a CLIP encoder, frame by frame
    features=lambda model, x: flat(model.model.get_video_features(x[None])),
    grid=_square(lambda model, h, w: num_patches(model, h, w) / model.config.spatial_pool_stride**2),
    side=_image_side, norm=CLIP, fixed=True, fit="crop", layers="model.vision_tower.encoder.layers",
)  # fmt: skip
GEMMA4 = Family(
    features=lambda model, x: _gemma4_features(model, x, _vision(model).patch_size),
    grid=_cells(_gemma4_side), side=_gemma4_side, norm=((0.0,) * 3, (1.0,) * 3), token_types=True,
    layers="model.vision_tower.encoder.layers",
    step="{clock} {boi_token_id}{x}{eoi_token_id}", between=" ",
)  # fmt: skip
MUSE = Family(
    features=lambda model, x: _patch_features(model, x, 1, _vision(model).patch_temporal, "f c ph pw"),
    grid=_cells(_muse_side), side=_muse_side, norm=GREY, frames_per_token=2, opening="<|vid_start|>",
    step="Time: {first:.1f}s{x}", between="<|vid_frame_separator|>", closing="<|vid_end|>",
    layers="model.vision_tower.layers",
    window=lambda model: _vision(model).pos_emb_height * _vision(model).patch_size,
)  # fmt: skip

FAMILIES: dict[str, Family] = {
    "qwen2_vl": QWEN2_VL,
    "qwen2_5_vl": replace(
        QWEN2_VL, ids_per_s=lambda model: _vision(model).tokens_per_second, window=_window
    ),
    "qwen3_vl": QWEN3_VL,
    "qwen3_vl_moe": QWEN3_VL,
    "qwen3_5": QWEN3_5,
    "qwen3_5_moe": QWEN3_5,
    "qwen4_exp": QWEN3_5,
    "cosmos3_omni": QWEN3_VL,
    "cosmos3_edge": replace(
        QWEN3_5, frames_per_token=1, layers="model.visual.encoder.layers",
        features=lambda model, x: _patch_features(
            model, x, _vision(model).spatial_merge_size, 1, "ph pw c f"
        ),
        video="{vision_start_token_id}{video_token_id}{vision_end_token_id}",
    ),
    "cohere_compass": QWEN3_VL,
    "lfm3_vl": replace(
        QWEN3_5, positions="plain", no_merging="its encoder has convolutions over whole frames"
    ),
    "qwen2_5_omni_thinker": QWEN2_5_OMNI,
    "qwen3_omni_moe_thinker": replace(
        QWEN2_5_OMNI, norm=GREY, deepstack=3, float_clock=True,
        readers="model.visual.merger_list", window=None,
        audio=replace(OMNI_AUDIO, chunk_s=0.0, shared_ends=False),
    ),
    "glm4v": GLM4V,
    "glm4v_moe": GLM4V,
    "glm46v": GLM46V,
    "glm_ocr": GLM46V,
    "glm5_next": replace(GLM46V, positions="plain"),
    "llava_onevision": Family(
        features=lambda model, x: flat(model.model.get_video_features(x[None]))[:-1],
        end_rows=lambda model: model.model.image_newline[None],
        grid=_onevision_grid, side=_image_side, norm=GREY, as_tensor=True, fixed=True,
        layers="model.vision_tower.encoder.layers",
    ),
    "llava_next_video": CLIP_VIDEO,
    "video_llava": replace(
        CLIP_VIDEO, as_tensor=True, layers="model.video_tower.encoder.layers",
        grid=lambda model, h, w: (1, num_patches(model, h, w) + 1),  # and class
    ),
    "video_llama_3": Family(
        features=_llama3_features, grid=_cells(lambda model: 2 * _vision(model).patch_size),
        side=lambda model: 2 * int(_vision(model).patch_size), norm=GREY,
        layers="model.vision_model.encoder.layers",
        step="Time {first:.1f}s:{x}", between=",",
    ),
    "smolvlm": Family(
        features=lambda model, x: flat(model.model.get_image_features(x[None])),
        grid=_square(lambda model, h, w: num_patches(model, h, w) / model.config.scale_factor**2),
        side=_image_side, norm=GREY, video="<video>", placeholder="image_token_id",
        key="image", as_tensor=True, fixed=True, layers="model.vision_model.encoder.layers",
        opening="You are provided the following series of {words} frames from a {length} [H:MM:SS] video.\n",
        step="\nFrame from {clock}:<fake_token_around_image><global-img>{x}<fake_token_around_image>",
        closing="\n\n",
    ),
    "internvl": Family(
        features=lambda model, x: flat(model.model.get_image_features(x)),
        grid=_square(lambda model, h, w: num_patches(model, h, w) * model.config.downsample_ratio**2),
        side=_image_side, norm=IMAGENET, video="<video>", placeholder="image_token_id",
        key="image", as_tensor=True, fixed=True, layers="model.vision_tower.encoder.layer",
        step="Frame{number}: <img>{x}</img>", between="\n",
    ),
    "gemma4": GEMMA4,
    "gemma4_unified": replace(  # a token is a projected patch
        GEMMA4, features=lambda model, x: _gemma4_features(model, x, _gemma4_side(model)),
        no_merging="it has no encoder",
    ),
    "muse_glimmer": MUSE,
    "muse_spark": MUSE,
}  # fmt: skip
"""model_type of transformers -> its family. A family is here once its law is in tests/llm/test_stock.py."""
