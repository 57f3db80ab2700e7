"""kernels/_dispatch.py: where an operation may run. Meta and stubs stand in for a GPU."""

from types import SimpleNamespace

import pytest
import torch

from longcompress.kernels import _dispatch, attend, head_mean, novelty, plan, pool, start_state

from helpers import normal, offsets_of


def test_each_operation_names_what_lies_where():
    x, far = normal(6, 8, seed=1), torch.zeros(6, device="meta")
    with pytest.raises(ValueError, match=r"must be on one device, got metric on cpu, weight on meta"):
        plan(x, offsets_of([6]), 2, weight=far)
    cpu_plan = plan(x, offsets_of([6]), 2)
    with pytest.raises(ValueError, match=r"got x on meta, group on cpu"):
        pool(x.to("meta"), cpu_plan)
    with pytest.raises(ValueError, match=r"got metric on cpu, previous on meta"):
        novelty(x, torch.zeros(6, dtype=torch.int32, device="meta"))
    query = normal(2, 8, seed=2)
    with pytest.raises(ValueError, match=r"got query on cpu, x on cpu, bias on meta"):
        attend(query, x, offsets_of([6]), bias=far)
    with pytest.raises(ValueError, match=r"max on meta"):
        attend(query, x, offsets_of([6]), state=start_state(1, 2, 8, device="meta"))


@pytest.fixture
def gpu(monkeypatch):
    """A stand-in for a tensor on cuda:1, where torch's current device is cuda:0; `.capability` may be set."""
    x = SimpleNamespace(
        is_cuda=True, device=SimpleNamespace(index=1), dtype=torch.float32, shape=(3, 4), capability=(9, 0),
        capturing=(), current=[0],
    )  # fmt: skip

    class Guard:
        def __init__(self, tensor):
            self.index = tensor.device.index

        def __enter__(self):
            x.current.append(self.index)

        def __exit__(self, *error):
            x.current.pop()

    def properties(index):
        return SimpleNamespace(major=x.capability[0], minor=x.capability[1])

    monkeypatch.setattr(torch.cuda, "device_of", Guard)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: x.current[-1] in x.capturing)
    monkeypatch.setattr(_dispatch, "find_spec", lambda name: object())
    return x


def test_what_launches_has_its_tensors_gpu_as_the_current_one(gpu):
    launch = _dispatch.on_its_device(lambda x, more, *, option: (gpu.current[-1], more, option))
    assert launch(gpu, 2, option=3) == (1, 2, 3)
    assert gpu.current == [0]


def test_whether_a_graph_is_captured_is_asked_of_the_tensors_gpu(gpu):
    assert _dispatch.can_wait(gpu)
    gpu.capturing = (0,)
    assert _dispatch.can_wait(gpu)
    gpu.capturing = (1,)
    assert not _dispatch.can_wait(gpu)
    assert _dispatch.can_wait(torch.zeros(1))


def test_a_gpu_the_kernels_do_not_fit_runs_torch_with_a_warning(gpu):
    for capability in ((8, 0), (9, 0), (12, 0)):
        gpu.capability = capability
        assert _dispatch.use_triton("plan", gpu)
    gpu.capability = (7, 5)
    with pytest.warns(UserWarning, match=r"GPU 1 has compute capability 7\.5 .* need 8\.0: torch runs"):
        assert not _dispatch.use_triton("plan", gpu)


def test_the_environment_turns_the_kernels_off(gpu, monkeypatch):
    assert _dispatch.use_triton("plan", gpu)
    monkeypatch.setenv("LONGCOMPRESS_TRITON", "0")
    assert not _dispatch.use_triton("plan", gpu)


def test_the_default_device_of_torch_does_not_matter():
    """With a GPU as the default, tables on the CPU made without a device would wait for it, or be refused."""
    lengths, keep = [40, 3, 0, 300], torch.tensor([7, 5, 1, 20])
    x, offsets, query = normal(343, 8, seed=3), offsets_of(lengths), normal(2, 8, seed=4)
    previous = torch.arange(343, dtype=torch.int32) - 1

    def everything():
        merged = plan(x, offsets, keep, order="reference")
        return [
            *merged, *plan(x, offsets, 9, schedule=[5, 2]), pool(x, merged), novelty(x, previous),
            head_mean(x, 4), *attend(query, x, offsets),
        ]  # fmt: skip

    want = everything()
    torch.set_default_device("meta")
    try:
        got = everything()
    finally:
        torch.set_default_device("cpu")
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
