"""What a stock model gets from its own processor, and its logits: one side of "no merging = stock logits".

The processor classes are transformers' own, whole. Only their video processor and feature extractor, which
need torchvision or read files, are replaced: by the tensors that they would give for these frames and this
audio.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers
from einops import rearrange, repeat
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.video_utils import VideoMetadata

from helpers import normal

Tensors = dict[str, Any]

SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
    *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


class Part:
    """A part of a processor that gives always these tensors."""

    sampling_rate = 16000
    model_input_names: tuple[str, ...] = ()

    def __init__(self, tensors: Tensors, **fields: Any) -> None:
        self.tensors = tensors
        self.__dict__.update(fields)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensors:
        return dict(self.tensors)

    def fetch_audio(self, audio: Any, **kwargs: Any) -> Any:
        """The audio as it came: it is no address."""
        return audio


class Source(NamedTuple):
    """A family's processor class, its options, the tensors and fields of its video processor."""

    kind: str
    tensors: Callable[[PreTrainedModel, Tensor], Tensors]
    options: Callable[[PreTrainedModel], dict[str, Any]] = lambda model: {}
    fields: dict[str, Any] = {"merge_size": 2, "temporal_patch_size": 2}  # noqa: RUF012
    call: dict[str, Any] = {}  # noqa: RUF012


def patches_of(x: Tensor, patch: int, merge: int, step: int, row: str = "c s p q") -> Tensors:
    """Rows of pixels (T / step * H / patch * W / patch, C * step * patch^2), and their grid (1, 3).

    `merge` x `merge` rows of a token lie one behind the other; `row` is the order within a row.
    """
    whole = torch.cat([x, x[-1:].repeat(-len(x) % step, 1, 1, 1)])
    rows = rearrange(
        whole, f"(t s) c (h m p) (w n q) -> (t h w m n) ({row})", s=step, m=merge, n=merge, p=patch, q=patch
    )
    grid = torch.tensor([[len(whole) // step, x.shape[2] // patch, x.shape[3] // patch]])
    return {"pixel_values_videos": rows, "video_grid_thw": grid}


def merged_patches(model: PreTrainedModel, x: Tensor) -> Tensors:
    """Rows of pixels of the sizes that the model's vision encoder names."""
    vision = model.config.vision_config
    return patches_of(x, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)


def single_patches(model: PreTrainedModel, x: Tensor) -> Tensors:
    """Rows of single frames, channels last."""
    vision = model.config.vision_config
    return patches_of(x, vision.patch_size, vision.spatial_merge_size, 1, "p q c s")


def raster_patches(model: PreTrainedModel, x: Tensor) -> Tensors:
    """Rows of pairs of frames line by line, the first frame before the second."""
    vision = model.config.vision_config
    return patches_of(x, vision.patch_size, 1, vision.patch_temporal, "s c p q")


def chunked_patches(model: PreTrainedModel, x: Tensor) -> Tensors:
    """Qwen's rows, whose grid has a line for every four pairs of frames."""
    patches = merged_patches(model, x)
    (steps, height, width), chunk = patches["video_grid_thw"][0].tolist(), 4
    grid = [[min(chunk, steps - first), height, width] for first in range(0, steps, chunk)]
    return patches | {"video_grid_thw": torch.tensor(grid), "num_chunks_per_video": [len(grid)]}


def frames_of(model: PreTrainedModel, x: Tensor) -> Tensors:
    """Whole frames (1, T, 3, H, W)."""
    return {"pixel_values_videos": x[None]}


def smolvlm_frames(model: PreTrainedModel, x: Tensor) -> Tensors:
    """Whole frames with a mask in which nothing is padding."""
    return {
        "pixel_values": x[None],
        "pixel_attention_mask": torch.ones(1, len(x), *x.shape[2:], dtype=torch.long),
    }


def video_llama_3_patches(model: PreTrainedModel, x: Tensor) -> Tensors:
    """Rows of single frames, 2 x 2 of them a token, of which the frame difference drops none."""
    patches = patches_of(x, model.config.vision_config.patch_size, 2, 1)
    keep = torch.ones(int(patches["video_grid_thw"].prod()) // 4, dtype=torch.bool)
    return patches | {"video_merge_sizes": torch.tensor([2]), "video_compression_mask": keep}


def padded_patches(x: Tensor, p: int, pool: int) -> Tensors:
    """Rows of each frame, channels last, with their columns and rows, filled up as the real ones are."""
    padding = 24
    rows = rearrange(x, "t c (h p) (w q) -> t (h w) (p q c)", p=p, q=p)
    height, width = x.shape[2] // p, x.shape[3] // p
    columns = repeat(torch.arange(width), "w -> t (h w)", t=len(x), h=height)
    lines = repeat(torch.arange(height), "h -> t (h w)", t=len(x), w=width)
    places = torch.stack([columns, lines], -1)
    return {
        "pixel_values_videos": torch.cat([rows, rows.new_zeros(len(x), padding, rows.shape[2])], 1),
        "video_position_ids": torch.cat([places, places.new_full((len(x), padding, 2), -1)], 1),
        "num_frames_per_video": torch.tensor([len(x)]),
        "num_soft_tokens_per_video": [rows.shape[1] // pool**2],
    }


def gemma4_patches(model: PreTrainedModel, x: Tensor) -> Tensors:
    """Small patches, which the encoder pools."""
    vision = model.config.vision_config
    return padded_patches(x, vision.patch_size, vision.pooling_kernel_size)


def gemma4_cells(model: PreTrainedModel, x: Tensor) -> Tensors:
    """Patches as large as a token; this Gemma 4 has no encoder."""
    vision = model.config.vision_config
    return padded_patches(x, vision.patch_size * vision.pooling_kernel_size, 1)


def square_tokens(model: PreTrainedModel) -> dict[str, Any]:
    """How many patches a frame of SigLIP has."""
    vision = model.config.vision_config
    return {"num_image_tokens": (vision.image_size // vision.patch_size) ** 2}


def clip_patches(model: PreTrainedModel) -> dict[str, Any]:
    """The patch size of CLIP, which adds a class token."""
    return {
        "patch_size": model.config.vision_config.patch_size, "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }  # fmt: skip


OMNI = ("Qwen2_5Omni", "Qwen3OmniMoe")
SINGLE = {"merge_size": 2, "temporal_patch_size": 1}
TYPES = {"return_mm_token_type_ids": True}  # the model asks for what its processor leaves out by default
MUSE = {"merge_size": 2, "temporal_patch_size": 2, "frame_timestamp_format": "Time: {timestamp:.1f}s"}
QWEN3_VL = Source("Qwen3VL", merged_patches)
GLM4V = Source("Glm4v", merged_patches)
GEMMA4 = Source("Gemma4", gemma4_patches)
SOURCES: dict[str, Source] = {
    "qwen3_vl": QWEN3_VL,
    "qwen3_vl_moe": QWEN3_VL,
    "qwen3_5": QWEN3_VL,
    "qwen3_5_moe": QWEN3_VL,
    "qwen2_vl": Source("Qwen2VL", merged_patches),
    "qwen2_5_vl": Source("Qwen2_5_VL", merged_patches),
    "qwen2_5_omni": Source("Qwen2_5Omni", merged_patches),
    "qwen3_omni": Source("Qwen3OmniMoe", merged_patches),
    "glm4v": GLM4V,
    "glm4v_moe": GLM4V,
    "glm46v": Source("Glm46V", merged_patches),
    "llava_onevision": Source("LlavaOnevision", frames_of, square_tokens),
    "llava_next_video": Source("LlavaNextVideo", frames_of, clip_patches),
    "video_llava": Source("VideoLlava", frames_of, clip_patches),
    "video_llama_3": Source("VideoLlama3", video_llama_3_patches),
    "smolvlm": Source("SmolVLM", smolvlm_frames, lambda model: {"image_seq_len": model.model.image_seq_len}),
    "internvl": Source(
        "InternVL", frames_of, lambda model: {"image_seq_length": model.config.image_seq_length}
    ),
    "gemma4": GEMMA4,
    "gemma4_bidirectional": GEMMA4,
    "gemma4_unified": Source("Gemma4Unified", gemma4_cells),
    "hyperclovax_vision_v2": Source("HyperCLOVAXVisionV2", merged_patches),
    "cohere_compass": Source("CohereCompass", merged_patches),
    "cosmos3_omni": QWEN3_VL,
    "cosmos3_edge": Source(
        "Cosmos3Edge", single_patches, fields=SINGLE, call={"return_mm_token_type_ids": True}
    ),
    "lfm3_vl": Source("Lfm3Vl", merged_patches),
    "exaone4_5": Source("Exaone4_5_", merged_patches),
    "glm_ocr": Source("Glm46V", merged_patches),
    "muse_glimmer": Source("MuseGlimmer", raster_patches, fields=MUSE),
    "muse_spark": Source("MuseSpark", raster_patches, fields=MUSE),
    "minimax_m3_vl": Source("MiniMaxM3VL", chunked_patches),
    "glm5_next": Source("Glm5Next", merged_patches),
    "qwen4_exp": QWEN3_VL,
}


def processor(
    kind: str, tokenizer: PreTrainedTokenizerFast, parts: dict[str, Part], **options: Any
) -> transformers.ProcessorMixin:
    """The processor class of transformers with these parts in place of its own."""
    own = getattr(transformers, f"{kind}Processor")
    module = importlib.import_module(own.__module__)
    if kind == "SmolVLM" and module.num2words is None:  # without the package that writes numbers as words
        module.num2words = number_words
    kinds = type(own.__name__, (own,), {"check_argument_for_proper_class": lambda self, name, part: None})
    parts = {"tokenizer": tokenizer, **parts}
    return kinds(**{name: parts.get(name) for name in own.get_attributes()}, **options)


def number_words(number: int) -> str:
    """A number below 100 in words, as the package num2words writes it."""
    if number < len(SMALL):
        return SMALL[number]
    return TENS[number // 10 - 2] + (f"-{SMALL[number % 10]}" if number % 10 else "")


def stock_pixels(model: PreTrainedModel, frames: int, seed: int = 3) -> Tensor:
    """(T, 3, H, W) random frames of a size that the model takes: its own, or 32 x 48."""
    vision = model.config.vision_config
    size = None if hasattr(vision, "temporal_patch_size") else getattr(vision, "image_size", None)
    height, width = (32, 48) if size is None else (size, size) if isinstance(size, int) else size
    return normal(frames, 3, height, width, seed=seed)


def stock_mel(seconds: float, seed: int = 4) -> tuple[Tensor, Tensor]:
    """A mel (1, 16, n) of a hundred windows a second and its mask (1, n), with padding behind."""
    num, padding = round(seconds * 100), 37
    mask = torch.ones(1, num + padding, dtype=torch.long)
    mask[:, num:] = 0
    return normal(1, 16, num + padding, seed=seed), mask


def stock_inputs(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    pixels: Tensor,
    time_s: Tensor,
    step_s: float,
    question: str,
    audio: tuple[Tensor, Tensor] | None = None,
) -> Tensors:
    """What `model.forward` takes for one question about one video.

    Args:
        name: the family, a key of `SOURCES`.
        pixels: (T, 3, H, W) normalised frames of the size that the model takes.
        time_s: (T,) float64 their times.
        step_s: seconds from frame to frame.
        audio: mel (1, M, n) and its mask (1, n), of an omni model.
    """
    source = SOURCES[name]
    metadata = VideoMetadata(  # a frame's number over frames per second is its time
        total_num_frames=len(pixels) * step_s, fps=1.0, frames_indices=time_s.tolist(),
        duration=len(pixels) * step_s,
    )  # fmt: skip
    tensors = source.tensors(model, pixels) | {"video_metadata": [metadata]}
    # transformers 5.22 reads an Omni model's sizes of patches from the processor of stills
    parts = {"video_processor": Part(tensors, **source.fields), "image_processor": Part({}, **source.fields)}
    more: Tensors = dict(source.call)
    if source.kind in OMNI:
        more["fps"] = 1 / step_s
    if audio is not None:
        mel, mask = audio
        parts["feature_extractor"] = Part({"input_features": mel, "attention_mask": mask})
        more |= {"audio": [mel[0].numpy()]}
    message = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}
    text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    if tokenizer.bos_token and text.startswith(
        tokenizer.bos_token
    ):  # as processors do with their own template
        more["add_special_tokens"] = False
    call = processor(source.kind, tokenizer, parts, **source.options(model))
    if audio is not None and hasattr(call, "replace_multimodal_special_tokens"):  # transformers 5.22
        more["use_audio_in_video"] = True
    elif audio is not None:
        more |= {"load_audio_from_video": True, "audio_from_video_indices": [0]}
    videos = [[pixels]] if source.kind == "SmolVLM" else [pixels]  # transformers 5.19 counts those of a text
    inputs = dict(call(text=[text], videos=videos, return_tensors="pt", **more))
    return inputs | ({"use_audio_in_video": True} if audio is not None else {})


def stock_logits(*args: Any, **kwargs: Any) -> Tensor:
    """(L, V) logits of the stock model for `stock_inputs(*args, **kwargs)`."""
    model = args[1] if len(args) > 1 else kwargs["model"]
    with torch.no_grad():
        return model(**stock_inputs(*args, **kwargs), use_cache=False).logits[0]
