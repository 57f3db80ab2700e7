"""`attend` through xformers. Its operators need a GPU; softmax under its own mask stands in for them."""

import pytest
import torch

from longcompress.kernels import attend

from helpers import assert_close, normal, offsets_of

fmha = pytest.importorskip("xformers.ops.fmha", reason="xformers has no wheel for this system")


def partial_of(layout: str):
    """What memory_efficient_attention_partial means, from the mask written out; its logs packed or padded."""

    def partial(query, key, value, mask, *, scale):
        assert query.shape[:1] == key.shape[:1] == (1,) and query.shape[2] == key.shape[2] == 1
        assert key.shape[3] % 8 == value.shape[3] % 8 == 0  # what the kernels ask for
        q, k, v = (t[0, :, 0].float() for t in (query, key, value))
        score = scale * q @ k.t() + mask.materialize((len(q), len(k)))
        out, summed = torch.softmax(score, 1) @ v, score.logsumexp(1)
        if layout == "padded":
            per = mask.q_seqinfo.max_seqlen
            summed = torch.nn.functional.pad(summed.view(-1, 1, per), (0, 3), value=float("inf"))
        else:
            summed = summed[None, None]
        return out[None, :, None].to(value.dtype), summed

    return partial


@pytest.fixture(params=["packed", "padded"])
def stood_in(request, monkeypatch):
    monkeypatch.setattr(fmha, "memory_efficient_attention_partial", partial_of(request.param))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lengths", [[9], [5, 0, 7], [3, 1, 4]], ids=str)
def test_it_reads_what_torch_reads(stood_in, lengths, dtype, biased):
    num = sum(lengths)
    query, x = normal(4, 16, seed=1).to(dtype), normal(num, 16, seed=2, dtype=dtype)
    bias = normal(num, seed=3).abs().log() if biased else None
    offsets = offsets_of(lengths)
    want = attend(query, x, offsets, bias=bias)
    got = attend(query, x, offsets, bias=bias, backend="xformers")
    limit = 1e-5 if dtype == torch.float32 else 6e-3  # it gives its answer in x's type
    assert_close("read", got.read(), want.read(), limit)
    assert_close("level", (got.max + got.sum.log()).exp(), (want.max + want.sum.log()).exp(), 1e-4)


def test_chunks_go_on_from_one_backend_to_the_other(stood_in):
    query, x = normal(3, 8, seed=4), normal(20, 8, seed=5)
    whole = attend(query, x, offsets_of([12, 8]))
    first = torch.cat([x[:5], x[12:14]])
    rest = torch.cat([x[5:12], x[14:]])
    for order in (("auto", "xformers"), ("xformers", "auto"), ("xformers", "xformers")):
        state = attend(query, first, offsets_of([5, 2]), backend=order[0])
        state = attend(query, rest, offsets_of([7, 6]), state=state, backend=order[1])
        assert_close("read", state.read(), whole.read(), 1e-5)


def test_nothing_read_stays_nothing(stood_in):
    state = attend(normal(2, 8, seed=6), torch.zeros(0, 8), offsets_of([0, 0]), backend="xformers")
    assert not state.read().any() and bool((state.max == -torch.inf).all())


def test_a_gradient_is_refused(stood_in):
    query = normal(2, 8, seed=7).requires_grad_()
    with pytest.raises(ValueError, match="has no gradient"):
        attend(query, normal(5, 8, seed=8), offsets_of([5]), backend="xformers")
    with torch.no_grad():
        attend(query, normal(5, 8, seed=8), offsets_of([5]), backend="xformers")


def test_what_it_cannot_run_is_said(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("here xformers may well run")
    with pytest.raises(ValueError, match="backend 'xformers' can't read these tensors: No operator found"):
        attend(normal(2, 8, seed=9), normal(5, 8, seed=10), offsets_of([5]), backend="xformers")
    monkeypatch.setitem(__import__("sys").modules, "xformers.ops.fmha", None)
    with pytest.raises(ImportError, match=r"pip install 'longcompress\[xformers\]'"):
        attend(normal(2, 8, seed=9), normal(5, 8, seed=10), offsets_of([5]), backend="xformers")
    with pytest.raises(ValueError, match="backend must be"):
        attend(normal(2, 8, seed=9), normal(5, 8, seed=10), offsets_of([5]), backend="flash")
