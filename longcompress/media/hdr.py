"""Decoded frames to RGB; HDR (PQ or HLG in BT.2020) to BT.709 with highlights rolled off.

As ffmpeg's `zscale=t=linear:npl=100,zscale=p=bt709,tonemap=hable,zscale=t=bt709` does it. Curves: SMPTE ST
2084 (PQ), ARIB STD-B67 (HLG) with the system gamma of a screen of 1,000 nits; J. Hable's tone curve.
"""

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

TRANSFERS = {16: "PQ", 18: "HLG"}  # by their numbers in ITU-T H.273
_PEAK = {"PQ": 100.0, "HLG": 10.0}  # in 100 nits
_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
_BRIGHT = 2.0  # luma from which colours fade to white


def scaled(
    frame: av.VideoFrame, scaler: VideoReformatter, width: int, height: int, scaling: str
) -> np.ndarray:
    """(height, width, 3) uint8 RGB of a decoded frame; `scaling` as of MediaConfig."""
    transfer = TRANSFERS.get(frame.color_trc)
    form, how = "rgb48le" if transfer else "rgb24", Interpolation[scaling.upper()]
    rgb = scaler.reformat(frame, width, height, form, interpolation=how, threads=1).to_ndarray()
    return tone_mapped(rgb, transfer) if transfer else rgb


def tone_mapped(pixels: np.ndarray, transfer: str) -> np.ndarray:
    """(H, W, 3) uint8 of pixels (H, W, 3) uint16 in the transfer function "PQ" or "HLG"."""
    code = pixels.astype(np.float32) / 65535
    light = _pq(code) if transfer == "PQ" else _hlg(code)
    light = np.maximum(light @ _TO_709.T, 0)  # (H, W, 3), 1 = 100 nits
    luma = (light @ _LUMA)[..., None]
    fade = np.maximum(luma - _BRIGHT, 1e-6) / np.maximum(luma, 1e-6)
    light += (luma - light) * np.where(luma > _BRIGHT, fade, 0)
    brightest = np.maximum(light.max(-1, keepdims=True), 1e-6)
    light *= _hable(brightest) / _hable(_PEAK[transfer]) / brightest
    light = light.clip(0, 1)
    code = np.where(light < 0.018, 4.5 * light, 1.099 * light**0.45 - 0.099)
    return (255 * code + 0.5).astype(np.uint8)


def _pq(code: np.ndarray) -> np.ndarray:
    root = code ** np.float32(1 / 78.84375)
    ratio = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
    return 100 * ratio ** np.float32(1 / 0.1593017578125)


def _hlg(code: np.ndarray) -> np.ndarray:
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)
    luma = scene @ np.array([0.2627, 0.678, 0.0593], np.float32)
    return 10 * scene * np.maximum(luma, 1e-6)[..., None] ** np.float32(0.2)


def _hable(x: np.ndarray | float) -> np.ndarray | float:
    return (x * (0.15 * x + 0.05) + 0.004) / (x * (0.15 * x + 0.5) + 0.06) - 0.02 / 0.3
