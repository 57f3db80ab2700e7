"""Two heads that say of a frame how informative it is, and how relevant to what was asked (MMDuet)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..config_live import HEADS
from .prompt import IGNORED

SPREAD = 0.02  # of initial weights, unless the language model's config has another


class ScoreHeads(nn.Module):
    """A linear layer (D -> 2) without bias for each of HEADS, read at the last token of a frame.

    Args:
        width: D of the language model.
        spread: standard deviation of the initial weights.
    """

    def __init__(self, width: int, spread: float) -> None:
        super().__init__()
        for name in HEADS:
            self.add_module(name, nn.Linear(width, 2, bias=False))
            nn.init.normal_(self.get_submodule(name).weight, std=spread)  # type: ignore[arg-type]

    def forward(self, hidden: Tensor) -> dict[str, Tensor]:
        """Head -> (N, 2) float32 logits of no and yes, of final hidden states (N, D)."""
        return {name: self.get_submodule(name)(hidden).float() for name in HEADS}

    def scores(self, hidden: Tensor) -> dict[str, Tensor]:
        """Head -> (N,) float32 probability of yes."""
        return {name: logits.softmax(-1)[..., 1] for name, logits in self(hidden).items()}

    def loss(self, hidden: Tensor, labels: Mapping[str, Tensor], positive: float = 1.0) -> Tensor:
        """Mean cross entropy over all labels (N,) of 0, 1 or IGNORED together; 0 where there are none. Labels
        of 1 count `positive` times."""
        logits = self(hidden)
        known = [(logits[name], labels[name]) for name in HEADS if name in labels]
        label = torch.cat([label for _, label in known]) if known else hidden.new_zeros(0, dtype=torch.long)
        each = nn.functional.cross_entropy(
            torch.cat([logits for logits, _ in known]) if known else hidden.new_zeros(0, 2), label,
            ignore_index=IGNORED, reduction="none",
        )  # fmt: skip
        weight = torch.where(label == 1, positive, 1.0) * (label != IGNORED)
        return (each * weight).sum() / weight.sum().clamp_min(min(1.0, positive))


def looks_untrained(weight: Tensor, spread: float = SPREAD) -> bool:
    """Whether a head (2, D) looks as it was initialised: as widely spread, its two rows alike in the mean."""
    weight = weight.detach().double()
    mean, width = weight.mean(1), weight.shape[1]
    rms = float(weight.square().mean().sqrt())
    return abs(rms / spread - 1) < 0.02 and float((mean[1] - mean[0]).abs()) < 3 * spread * (2 / width) ** 0.5
