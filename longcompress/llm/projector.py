"""Projectors: from tokens of a stream to embeddings of the language model."""

import torch
from torch import Tensor, nn


def projector(kind: str, width: int, llm_width: int) -> nn.Module:
    """(N, C) -> (N, D) between a stream and the language model; see LLMConfig.projector."""
    if kind == "none":
        if width != llm_width:
            raise ValueError(
                f'llm.projector "none" needs tokens as wide as the language model, {llm_width}, got {width}; '
                "encoder and language model must come out of the same checkpoint"
            )
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(width, llm_width)
    mlp = nn.Sequential(nn.Linear(width, llm_width), nn.GELU(), nn.Linear(llm_width, llm_width))
    if kind == "residual":
        zero(mlp[-1])
        return Residual(nn.Linear(width, llm_width), mlp)
    return mlp


@torch.no_grad()
def zero(layer: nn.Module) -> None:
    """Set all its parameters to 0."""
    for value in layer.parameters():
        value.zero_()


class Residual(nn.Module):
    """The sum of a linear map and an MLP."""

    def __init__(self, skip: nn.Linear, mlp: nn.Sequential) -> None:
        super().__init__()
        self.skip, self.mlp = skip, mlp

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) to (N, D)."""
        out: Tensor = self.skip(x) + self.mlp(x)
        return out
