"""Videos of stock models: raw tokens of random frames and audio, as their encoders give them."""

from typing import Any

import torch
from torch import Tensor

from longcompress.config import MediaConfig
from longcompress.config_llm import LLMConfig
from longcompress.encoders.families import FAMILIES
from longcompress.llm import CompressedVideo, StockLM
from longcompress.types import Tokens

from stock_inputs import stock_pixels


def stock_lm(model: Any, tokenizer: Any, frame_s: float = 1.0, **settings: Any) -> StockLM:
    """The language model of ours, with a timestamp at every token in time, as its processor writes them."""
    family = FAMILIES[model.config.model_type]
    settings = {"kind": "stock", "time": False, "timestamp_s": 0.0, "timestamp_share": 1e6} | settings
    grid = family.grid(model, *stock_pixels(model, 1).shape[-2:])
    media = MediaConfig(rate_fps=1 / frame_s)
    return StockLM(model, tokenizer, LLMConfig(**settings), family, media, max(grid))


def raw_video(model: Any, pixels: Tensor, frame_s: float = 1.0) -> Tokens:
    """The tokens of frames (T, 3, H, W) that follow each other by frame_s, not merged."""
    family = FAMILIES[model.config.model_type]
    with torch.no_grad():
        x = family.features(model, pixels)
    grid, step, num = family.grid(model, *pixels.shape[-2:]), family.frames_per_token, len(pixels)
    first = torch.arange(0, num, step, dtype=torch.float64)
    last = (first + step - 1).clamp_max(num - 1)
    start_s, end_s = ((t * frame_s).repeat_interleave(grid[0] * grid[1]) for t in (first, last + 1))
    rows, columns = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
    place = torch.stack([start_s, *(at.flatten().repeat(len(first)).double() for at in (rows, columns))], -1)
    return Tokens(x, torch.ones(len(x)), (start_s + end_s) / 2, start_s, end_s, place)


def raw_audio(model: Any, mel: Tensor, mask: Tensor) -> Tokens:
    """The tokens of a mel (1, M, n) with its mask (1, n), not merged."""
    rate = FAMILIES[model.config.model_type].ids_per_s(model)
    with torch.no_grad():
        output = model.get_audio_features(mel, mask)
    x = output.last_hidden_state if output.pooler_output is None else output.pooler_output
    x = x.reshape(-1, x.shape[-1])
    start_s = torch.arange(len(x), dtype=torch.float64) / rate
    return Tokens(x, torch.ones(len(x)), start_s + 0.5 / rate, start_s, start_s + 1 / rate)


def video_of(**streams: Tokens) -> CompressedVideo:
    """These streams as a video that nothing was taken from."""
    end_s = max(float(tokens.end_s.max()) for tokens in streams.values())
    return CompressedVideo(streams, {}, sum(map(len, streams.values())), end_s)
