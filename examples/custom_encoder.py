"""Put an encoder of your own into LongCompress: mean colours of a grid of patches, merged like other tokens.

    python examples/custom_encoder.py

An encoder is any torch module with these attributes and methods. `encode` gets at most `block` frames (or
samples of audio, with modality "audio") and `lookahead` more. Merging decides on `Encoded.metric`, which
must be a linear map of the features.
"""

from dataclasses import replace

import torch
from einops import rearrange, repeat
from torch import nn

import longcompress as lc
from longcompress.config import MediaConfig, MemoryConfig
from longcompress.llm import CausalLM
from longcompress.synthetic.scenes import make_scene, parts_of
from longcompress.types import Encoded, Frames, Tokens


class ColourEncoder(nn.Module):
    """Mean colours of a 4 x 4 grid, mixed into `width` channels."""

    modality = "video"  # what it takes in
    block, lookahead = 8, 0  # frames that are encoded at once, and frames behind them that it also sees
    frames_per_token = 1
    width, patches = 16, 16  # channels of a token, tokens of a frame
    num_summaries, means = 0, None  # no summaries for global tokens, no averaging over blocks

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randn(3, self.width, generator=generator))

    def num_tokens(self, duration_s: float, media: MediaConfig) -> int:
        """Raw tokens of a video: the estimate before decoding."""
        return media.num_frames(duration_s) * self.patches

    def encode(self, frames: Frames) -> Encoded:
        """The tokens of at most `block` frames, frame by frame."""
        pixels = rearrange(frames.pixels.float() / 255, "t h w c -> t c h w")
        colours = nn.functional.adaptive_avg_pool2d(pixels, (4, 4))
        x = rearrange(colours, "t c h w -> (t h w) c") @ self.weight
        start_s = repeat(frames.time_s, "t -> (t p)", p=self.patches)
        end_s = start_s + frames.step_s
        tokens = Tokens(x, torch.ones(len(x)), (start_s + end_s) / 2, start_s, end_s)
        return Encoded(tokens, metric=x, patches=self.patches)


def main(seconds: float = 60.0, budget: int = 100) -> lc.VideoMemory:
    """The compressed video. Its projector is new and must be trained first (see train_lora.py)."""
    tiny = lc.load("tiny")
    encoder = ColourEncoder()
    media = replace(tiny.config.media, audio=False)
    config = replace(tiny.config, name="colours", media=media, memory=MemoryConfig(kind="none"))
    llm = CausalLM(tiny.llm.lm, tiny.llm.tokenizer, config.llm, {"video": encoder.width})
    model = lc.LongCompress(config, encoder, None, llm)  # None: no audio encoder

    print(lc.estimate(model, seconds, budget))
    frames = [part for part in parts_of(make_scene(3, seconds), 1.0) if isinstance(part, Frames)]
    memory = lc.compress(model, frames, budget=budget, progress=False)
    tokens = memory.streams["video"]
    i = int(tokens.size.argmax())
    print(f"{memory.num_tokens} tokens. The largest stands for {int(tokens.size[i])} patches "
          f"from {tokens.start_s[i]:.0f} to {tokens.end_s[i]:.0f} s")  # fmt: skip
    return memory


if __name__ == "__main__":
    main()
