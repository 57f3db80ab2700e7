"""Optimizers that transformers' Trainer doesn't bring."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class Joined(torch.optim.Optimizer):
    """Several optimizers as one, each with its own parameters; a scheduler scales all their rates."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__([p for o in parts for g in o.param_groups for p in g["params"]], {})
        self.parts = list(parts)
        self.param_groups = [g for o in parts for g in o.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """A step of each."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """State of each."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [g for o in self.parts for g in o.param_groups]


def with_muon(module: nn.Module, lr: float) -> Joined:
    """Muon (Jordan et al. 2024; scaled as Liu et al., arXiv 2502.16982) for the matrices of the layers, AdamW
    for all else that is trained."""
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    matrices = [n for n, p in trained.items() if p.dim() == 2 and "layers" in n.split(".")]
    rest = [p for n, p in trained.items() if n not in matrices]
    return Joined(
        [
            torch.optim.Muon(
                [trained[n] for n in matrices], lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.01),
        ]
    )
