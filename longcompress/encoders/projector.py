"""The projector that some vision encoders end in: LLaVA-OneVision's, with the pooling of MMDuet behind it."""

from pathlib import Path
from typing import Any

import torch
from einops import einsum, rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .checks import Base, Part

FILE, NAME = "mm_projector.safetensors", "mm_projector."
STRIDE = 4  # MMDuet's: 27 x 27 patches become 7 x 7 tokens
LAYERS = ("0.weight", "0.bias", "2.weight", "2.bias")


class Projector(nn.Module):
    """Linear, GELU, linear on patches, then their grid scaled down bilinearly.

    Scaling is W X W^T with two taps a row of W, so that only the rows and columns of patches that W reads go
    through the layers: 169 of 729.

    Args:
        width: C of the patches.
        out: D of the tokens.
        edge: patches in a row of the grid.
    """

    scale: Tensor
    used: Tensor

    def __init__(self, width: int, out: int, edge: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, out), nn.GELU(), nn.Linear(out, out))
        self.edge, small = edge, -(-edge // STRIDE)
        rows = nn.functional.interpolate(torch.eye(edge)[None], small, mode="linear")[0].T  # (small, edge)
        used = rows.any(0).nonzero()[:, 0]
        self.register_buffer("scale", rows[:, used], persistent=False)
        self.register_buffer("used", used, persistent=False)

    @classmethod
    def load(cls, base: Base, edge: int) -> "Projector":
        """The projector that lies beside the encoder in a folder, or in the same checkpoint."""
        path = Path(str(base)) / FILE
        values: Any = base.projector if isinstance(base, Part) else None
        if values is None:
            if not path.is_file():
                raise ValueError(
                    f'base {str(base)!r} has no {FILE}, so it is no encoder of tokens "projected"; '
                    "MMDuet's was tuned within LLaVA-OneVision, so that no other SigLIP will do: give "
                    "base={'llava': FOLDER} of llava-onevision-qwen2-7b-ov, or the folder `video` that "
                    "`longcompress weights split` makes of it"
                )
            try:
                values = {name.removeprefix(NAME): value for name, value in load_file(path).items()}
            except SafetensorError as error:
                raise ValueError(f"{path} is cut off or damaged ({error}); copy it again") from error
        shapes = {name: tuple(value.shape) for name, value in values.items()}
        width, out = shapes.get(LAYERS[0], (0, 0))[::-1]
        want = dict(zip(LAYERS, [(out, width), (out,), (out, out), (out,)], strict=True))
        if shapes != want:
            raise ValueError(f"base {str(base)!r}: its projector must be two layers, {LAYERS}, got {shapes}")
        projector = cls(width, out, edge)
        projector.layers.load_state_dict(dict(values))
        return projector.requires_grad_(False)

    def save(self, folder: str | Path) -> None:
        """Write the file that `load` reads."""
        values = {NAME + name: value.contiguous() for name, value in self.layers.state_dict().items()}
        save_file(values, Path(folder) / FILE, metadata={"format": "pt"})

    def forward(self, x: Tensor) -> Tensor:
        """(T, P, D) tokens of patches (T, edge * edge, C)."""
        grid = rearrange(x, "t (h w) c -> t h w c", h=self.edge)
        y = self.layers(grid[:, self.used][:, :, self.used])
        tokens = einsum(self.scale, self.scale, y, "r h, c w, t h w d -> t r c d")
        return rearrange(tokens, "t r c d -> t (r c) d")
