"""An encoder of one's own: mean colours of a grid of patches, merged and kept like any other tokens.

    python examples/custom_encoder.py

An encoder says what it takes (`modality`, `block`, `look`) and gives (`width`, `patches`, `num_summaries`,
`means`), and has `encode`. Merging decides on `metric`, a linear map of the features.
"""

import torch
from einops import rearrange
from torch import nn

from longcompress.config import MediaConfig, MemoryConfig, ModelConfig
from longcompress.model import LongCompress
from longcompress.session import compress
from longcompress.synthetic.scenes import make_scene, parts_of
from longcompress.types import Encoded, Frames, Tokens


class ColourEncoder(nn.Module):
    """Mean colours of a GRID x GRID grid, in `width` channels."""

    modality, look, means, num_summaries, width, grid = "video", 0, None, 0, 16, 4
    patches, block = grid * grid, 8

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(3, self.width, generator=torch.Generator().manual_seed(0)))

    def encode(self, frames: Frames) -> Encoded:
        """The tokens of at most `block` frames."""
        pixels = rearrange(frames.pixels.float() / 255, "t h w c -> t c h w")
        colours = nn.functional.adaptive_avg_pool2d(pixels, self.grid)
        x = rearrange(colours, "t c h w -> (t h w) c") @ self.weight
        start_s = frames.time_s.repeat_interleave(self.patches)
        end_s = start_s + frames.step_s
        tokens = Tokens(x, torch.ones(len(x)), (start_s + end_s) / 2, start_s, end_s)
        return Encoded(tokens, x, patches=self.patches)


def main(seconds: float = 60.0, budget: int = 100) -> int:
    """Tokens of the compressed video."""
    config = ModelConfig(
        name="colours", media=MediaConfig(size_px=64, audio=False), memory=MemoryConfig(kind="none")
    )
    model = LongCompress(config, ColourEncoder(), None, None)  # no language model: it makes features
    parts = [part for part in parts_of(make_scene(3, seconds), 1.0) if isinstance(part, Frames)]
    memory = compress(model, parts, budget=budget, progress=False)
    tokens = memory.streams["video"]
    heaviest = int(tokens.size.argmax())
    print(f"{memory.num_tokens} tokens; the heaviest stands for {tokens.size[heaviest]:.0f} patches "
          f"from {tokens.start_s[heaviest]:.0f} to {tokens.end_s[heaviest]:.0f} s")  # fmt: skip
    return memory.num_tokens


if __name__ == "__main__":
    main()
