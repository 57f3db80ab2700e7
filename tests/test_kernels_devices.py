"""Tensors on several devices are refused by name before anything runs; meta stands in for a GPU."""

import pytest
import torch

from longcompress.kernels import attend, novelty, plan, pool, start_state

from helpers import normal, offsets_of


def test_each_operation_names_what_lies_where():
    x, far = normal(6, 8, seed=1), torch.zeros(6, device="meta")
    with pytest.raises(ValueError, match=r"must be on one device, got metric on cpu, weight on meta"):
        plan(x, offsets_of([6]), 2, weight=far)
    made = plan(x, offsets_of([6]), 2)
    with pytest.raises(ValueError, match=r"got x on meta, group on cpu"):
        pool(x.to("meta"), made)
    with pytest.raises(ValueError, match=r"got metric on cpu, previous on meta"):
        novelty(x, torch.zeros(6, dtype=torch.int32, device="meta"))
    query = normal(2, 8, seed=2)
    with pytest.raises(ValueError, match=r"got query on cpu, x on cpu, bias on meta"):
        attend(query, x, offsets_of([6]), bias=far)
    with pytest.raises(ValueError, match=r"max on meta"):
        attend(query, x, offsets_of([6]), state=start_state(1, 2, 8, device="meta"))
