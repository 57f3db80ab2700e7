"""`plan` as one operator of torch, for graphs that are compiled or exported.

How many groups it gives is known when it runs, not when it is traced.
"""

from typing import cast

import torch
from torch import Tensor

from .plan import Order, Precision, Score, plan

LIBRARY = torch.library.Library("longcompress_plan", "DEF")


def _plan(
    metric: Tensor, offsets: Tensor, keep: Tensor, weight: Tensor | None, share: float, pairs: list[int],
    score: str, order: str, precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    made = plan(
        metric, offsets, keep, weight=weight, schedule=pairs or share, score=cast(Score, score),
        order=cast(Order, order), precision=cast(Precision, precision),
    )  # fmt: skip
    group, given, mass, starts = made
    return group, given.clone(), mass, starts  # an operator's results are its own


LIBRARY.define(
    "plan(Tensor metric, Tensor offsets, Tensor keep, Tensor? weight, float share, int[] pairs, str score, "
    "str order, str precision) -> (Tensor, Tensor, Tensor, Tensor)"
)
for _device in ("CPU", "CUDA"):
    LIBRARY.impl("plan", _plan, _device)


@torch.library.register_fake("longcompress_plan::plan", lib=LIBRARY)
def _plan_fake(
    metric: Tensor, offsets: Tensor, keep: Tensor, weight: Tensor | None, share: float, pairs: list[int],
    score: str, order: str, precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    num = metric.shape[0]
    groups = torch.library.get_ctx().new_dynamic_size()
    return (
        metric.new_empty((num,), dtype=torch.int32), metric.new_empty((num,), dtype=torch.float32),
        metric.new_empty((groups,), dtype=torch.float32),
        metric.new_empty((offsets.shape[0],), dtype=torch.int32),
    )  # fmt: skip
