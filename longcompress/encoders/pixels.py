"""Patches of a frame as tokens, without a neural network: enough to find the frames that show a video."""

import torch
from einops import reduce
from torch import nn

from ..config import MediaConfig, VisionConfig
from ..types import Encoded, Frames
from .vision import frame_tokens

EDGE, CELLS = 8, 4  # patches of a frame a side, and means of a patch a side


class PixelEncoder(nn.Module):
    """Each token has the mean colours of 4 x 4 cells of a patch, from -0.5 to 0.5; 64 tokens a frame.

    Args:
        config: batch_size counts; the others have no effect.
        size_px: of frames, a multiple of 32.
    """

    modality = "video"
    frames_per_token = 1
    lookahead = 0
    means = None
    num_summaries = 0
    patches, width, grid = EDGE**2, 3 * CELLS**2, (EDGE, EDGE)

    def __init__(self, config: VisionConfig, size_px: int) -> None:
        super().__init__()
        if size_px % (EDGE * CELLS):
            raise ValueError(f"size_px must be a multiple of {EDGE * CELLS} for pixels, got {size_px}")
        self.config, self.size_px, self.block = config, size_px, config.batch_size
        self.grey = nn.Parameter(torch.full((3,), 0.5), requires_grad=False)

    def num_tokens(self, duration_s: float, media: MediaConfig) -> int:
        """Number of tokens of this much video."""
        return media.num_frames(duration_s) * self.patches

    def encode(self, frames: Frames) -> Encoded:
        """The tokens of frames of size_px x size_px."""
        colours = frames.pixels.to(self.grey.device).float() / 255 - self.grey.float()
        sides = {"r": EDGE, "c": EDGE, "a": CELLS, "b": CELLS}
        x = reduce(colours, "t (r a h) (c b w) k -> (t r c) (a b k)", "mean", **sides)
        end_s = frames.time_s + frames.step_s
        tokens = frame_tokens(x.to(self.grey.dtype), frames.time_s, end_s, self.grid)
        return Encoded(tokens, x, patches=self.patches)
