"""Frames to tokens: any transformers vision encoder (CLIP, SigLIP, DINOv2/v3, ViT, ConvNeXt, ...)."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn
from transformers import AutoModel, CLIPVisionModelWithProjection, PreTrainedModel

from ..config import MediaConfig, VisionConfig
from ..kernels import head_mean
from ..types import Encoded, Frames, Tokens
from .checks import Base, Part, check_vision, check_width, kind_of, load_whole
from .projector import Projector
from .tome import check_encoder, merged_states

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
# Published mean and deviation of each family, for folders without a preprocessor_config.json.
NORMS = {
    "clip_vision_model": (CLIP_MEAN, CLIP_STD),
    **dict.fromkeys(("siglip_vision_model", "siglip2_vision_model", "vit"), (HALF, HALF)),
    **dict.fromkeys(("dinov2", "dinov3_vit", "convnext"), (IMAGENET_MEAN, IMAGENET_STD)),
}


class VisionEncoder(nn.Module):
    """A vision encoder whose chosen layer's patch tokens, projected or not, or projected class token, are the
    video stream.

    It is a transformers vision model (not one with a text encoder beside it), for tokens "class" a
    CLIPVisionModelWithProjection. `mean` and `std` are (3,) of each colour (0 to 1).
    """

    modality = "video"
    frames_per_token = 1
    lookahead = 0
    means = None

    def __init__(
        self, encoder: PreTrainedModel, config: VisionConfig, size_px: int,
        mean: tuple[float, ...] = HALF, std: tuple[float, ...] = HALF, projector: Projector | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if config.tokens == "class" and not isinstance(encoder, CLIPVisionModelWithProjection):
            raise ValueError(
                'tokens "class" needs a CLIP encoder with its projection (CLIPVisionModelWithProjection), '
                f'got {type(encoder).__name__}; use tokens "patches"'
            )
        if config.metric != "heads":
            raise ValueError(
                f'video.metric must be "heads" for {type(encoder).__name__}, got {config.metric!r}'
            )
        self.encoder = encoder.eval().requires_grad_(False)
        self.projector = projector
        self.config, self.size_px, self.norm = config, size_px, (mean, std)
        self.block = config.batch_size
        with torch.no_grad():
            probe = torch.zeros(1, size_px, size_px, 3, dtype=torch.uint8, device=encoder.device)
            if config.merge_per_layer:
                check_encoder(encoder, self.normal(probe), config.layer)
            x, summary = self.features(probe)
        self.patches, self.width = x.shape[1], x.shape[2]
        edge = math.isqrt(self.patches)
        self.grid = (edge, edge) if edge * edge == self.patches else (1, self.patches)
        self.num_summaries = 0 if summary is None else summary.shape[1]
        check_width(config.metric_width, self.width)

    @classmethod
    def load(cls, config: VisionConfig, base: Base, size_px: int, **kwargs: Any) -> "VisionEncoder":
        """The encoder in a folder or on the hub; of a model with several encoders, its vision part."""
        known = kind_of(base)
        check_vision(base, known)
        norm = NORMS.get(getattr(known, "vision_config", known).model_type, (HALF, HALF))
        file = Path(str(base)) / "preprocessor_config.json"
        if file.is_file() and not isinstance(base, Part):
            values = json.loads(file.read_text())
            norm = (tuple(values.get("image_mean", norm[0])), tuple(values.get("image_std", norm[1])))
        if config.tokens == "class" and known.model_type not in ("clip", "clip_vision_model"):
            raise ValueError(
                f'base {str(base)!r}: tokens "class" needs a CLIP model, got one of type '
                f'{known.model_type!r}; use tokens "patches"'
            )
        projector = None
        if config.tokens == "projected":  # before the encoder, which takes its time
            projector = Projector.load(base, size_px // getattr(known, "vision_config", known).patch_size)
        kind = CLIPVisionModelWithProjection if config.tokens == "class" else AutoModel
        model = load_whole(kind, base, config.attention, **kwargs)
        if config.tokens != "class":
            model = getattr(model, "vision_model", model)
        return cls(model, config, size_px, *norm, projector and projector.to(model.dtype))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `load` reads."""
        self.encoder.save_pretrained(folder)
        if self.projector is not None:
            self.projector.save(folder)
        mean, std = self.norm
        norm = json.dumps({"image_mean": list(mean), "image_std": list(std)}, indent=2)
        (Path(folder) / "preprocessor_config.json").write_text(norm + "\n")

    def num_tokens(self, duration_s: float, media: MediaConfig) -> int:
        """Number of tokens of this much video."""
        return media.num_frames(duration_s) * self.patches

    @torch.no_grad()
    def encode(self, frames: Frames) -> Encoded:
        """The tokens of 1 to batch_size frames; the last one fills the batch, which is always full."""
        num = len(frames)
        encode, source = changed(frames.pixels, self.config.reuse_below)
        pixels = frames.pixels[encode]
        size = batch_size(len(encode), self.block, self.config.reuse_below)
        pixels = torch.cat([pixels, pixels[-1:].expand(size - len(encode), -1, -1, -1)])
        x, summary = self.features(pixels)
        source = source.to(x.device)
        x = rearrange(x[source], "t p c -> (t p) c")
        tokens = frame_tokens(x, frames.time_s, frames.time_s + frames.step_s, self.grid)
        summary = None if summary is None else summary[source]
        metric = head_mean(x, self.config.metric_width)
        return Encoded(tokens, metric, summary, self.patches, num - len(encode))

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """((T, P, C) patch tokens of the chosen layer, (T, E, C) class tokens of the last layers or None) of
        pixels (T, size_px, size_px, 3) uint8; with tokens "class" (T, 1, C) of the class token's projection;
        with "projected" those of the projector.

        Raises:
            ValueError: squares of `pool` patches don't fill the frame.
        """
        x, summary = self.patch_features(pixels)
        pool = self.config.pool
        if pool == 1:
            return x, summary
        edge = math.isqrt(x.shape[1])
        if edge * edge != x.shape[1] or edge % pool:
            raise ValueError(f"video.pool must divide the edge of the {edge} x {edge} patches, got {pool}")
        return reduce(x, "t (h a w b) c -> t (h w) c", "mean", h=edge // pool, a=pool, b=pool), summary

    def patch_features(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """`features` before their patches are averaged."""
        x = self.normal(pixels)
        config, num = self.config, self.config.summary_layers
        if config.tokens == "class":
            return self.encoder(pixel_values=x).image_embeds[:, None], None
        states: Sequence[Tensor] | Mapping[int, Tensor] = ()
        if not config.merge_per_layer:
            states = self.encoder(pixel_values=x, output_hidden_states=True).hidden_states
        # The chosen state, and the last state with a summary; negative indices count from the end.
        every = range(len(states) or self.encoder.config.num_hidden_layers + 1)
        at = every[config.layer]
        last = at if config.summary_until is None else every[config.summary_until]
        if config.merge_per_layer:
            needed = range(min(at, max(0, last + 1 - num)), max(at, last) + 1)
            states = merged_states(
                self.encoder, x, config.merge_per_layer, needed, by_tree=config.merge_layer_by == "tree"
            )
        chosen = states[at]
        if chosen.dim() == 4:  # convolutional: the mean of the patches stands in for a class token
            x = rearrange(chosen, "t c h w -> t (h w) c")
            return x, (x.mean(1, keepdim=True) if num else None)
        num_patches = (self.size_px // self.encoder.config.patch_size) ** 2
        first = chosen.shape[1] - num_patches  # class token, and registers where an encoder has them
        if self.projector is not None:
            return self.projector(chosen[:, first:]), None
        if not num:
            return chosen[:, first:], None
        if last + 1 < num:
            raise ValueError(
                f"summary_layers must be <= {last + 1}, the states up to layer {last}, got {num}"
            )
        summaries = [states[k] for k in range(last + 1 - num, last + 1)]
        return chosen[:, first:], torch.stack([s[:, 0] if first else s.mean(1) for s in summaries], 1)

    def normal(self, pixels: Tensor) -> Tensor:
        """(T, 3, H, W) normalised pixels in the encoder's dtype, from pixels (T, H, W, 3) uint8."""
        weight = next(self.encoder.parameters())
        x = rearrange(pixels.to(weight.device), "t h w c -> t c h w").to(weight.dtype).div_(255)
        mean, std = (torch.tensor(v, device=x.device, dtype=x.dtype)[:, None, None] for v in self.norm)
        return x.sub_(mean).div_(std)


def changed(pixels: Tensor, below: float) -> tuple[list[int], Tensor]:
    """Which of the frames (T, H, W, 3) uint8 to encode: the first, and every frame that differs by `below` or
    more from the frame encoded last (0 to 1, mean absolute difference). And (T,) int64, for each frame, its
    place among them: a frame between them takes the features of the encoded frame before it."""
    encode, places = [0], [0]
    for t in range(1, len(pixels)):
        difference = (pixels[encode[-1]].float() - pixels[t].float()).abs().mean() / 255 if below > 0 else 1
        if difference >= below:
            encode.append(t)
        places.append(len(encode) - 1)
    return encode, torch.tensor(places)


def batch_size(num: int, block: int, reuse_below: float) -> int:
    """Frames of the batch that `num` frames are encoded in: a full block, or, where frames reuse others, the
    next power of two, so that there are few shapes to compile."""
    return block if reuse_below <= 0 else 1 << (num - 1).bit_length()


def frame_tokens(x: Tensor, start_s: Tensor, end_s: Tensor, grid: tuple[int, int]) -> Tokens:
    """Raw tokens x (T P, C) of frames shown from start_s to end_s (T,), each a grid (rows, columns)."""
    patches = grid[0] * grid[1]
    start_s, end_s = (repeat(t.to(x.device), "t -> (t p)", p=patches) for t in (start_s, end_s))
    patch = torch.arange(len(x), device=x.device) % patches
    place = torch.stack([start_s, (patch // grid[1]).double(), (patch % grid[1]).double()], -1)
    return Tokens(x, torch.ones(len(x), device=x.device), (start_s + end_s) / 2, start_s, end_s, place)
