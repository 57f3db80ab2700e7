"""The two resizers, both to (size_px, size_px) by `MediaConfig.fit`; they don't give the same bits.

Decoded frames go through FFmpeg's scaler, which converts from YUV in the same pass. Frames that are pushed as
tensors go through torch, on their own device.
"""

from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation, VideoReformatter
from einops import rearrange
from torch import Tensor

from ..config import MediaConfig

_MAX_ASPECT = 8.0  # a frame this much longer than wide is cut before it is scaled


def fit_pixels(pixels: Tensor, config: MediaConfig) -> Tensor:
    """(T, size_px, size_px, 3) uint8 from pushed frames (T, H, W, 3) uint8."""
    size = config.size_px
    if pixels.shape[1:3] == (size, size):
        return pixels
    x = rearrange(pixels, "t h w c -> t c h w").float()
    if config.fit == "crop":
        side = min(x.shape[2:])
        top, left = (x.shape[2] - side) // 2, (x.shape[3] - side) // 2
        x = x[:, :, top : top + side, left : left + side]
    x = torch.nn.functional.interpolate(x, (size, size), mode="bilinear", antialias=True)
    return rearrange(x.round().clamp(0, 255).to(torch.uint8), "t c h w -> t h w c")


def fit_decoded(
    frame: av.VideoFrame, config: MediaConfig, pixel_aspect: float, scaler: VideoReformatter
) -> np.ndarray:
    """(size_px, size_px, 3) uint8 from a decoded frame, turned by its rotation flag."""
    size = config.size_px
    width, height = size, size
    turns = round(frame.rotation / 90) % 4
    if config.fit == "crop":
        aspect = frame.width / frame.height * pixel_aspect
        if not 1 / _MAX_ASPECT < aspect < _MAX_ASPECT:
            frame, aspect = _middle(frame), 1.0
        width, height = max(size, round(size * aspect)), max(size, round(size / aspect))
    pixels = scaler.reformat(
        frame, width=width, height=height, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1
    ).to_ndarray()  # (height, width, 3)
    top, left = (height - size) // 2, (width - size) // 2
    pixels = pixels[top : top + size, left : left + size]
    return np.ascontiguousarray(np.rot90(pixels, turns))


def _middle(frame: av.VideoFrame) -> av.VideoFrame:
    """The square in the middle of a very long or very tall frame."""
    side = min(frame.width, frame.height)
    top, left = (frame.height - side) // 2, (frame.width - side) // 2
    pixels = frame.to_ndarray(format="rgb24")[top : top + side, left : left + side]
    square: np.ndarray[Any, np.dtype[np.uint8]] = np.ascontiguousarray(pixels, dtype=np.uint8)
    return av.VideoFrame.from_ndarray(square, format="rgb24")
