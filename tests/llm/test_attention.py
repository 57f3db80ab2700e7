"""`branch_attention`: every backend against the mask written out, and what each is handed."""

import pytest
import torch
from attention_cases import (
    CASES,
    Largest,
    dense,
    flex_from_mask,
    rows_of,
    run,
    seen_of,
    stand_in_flash,
    stand_in_xformers,
)

from longcompress.llm import attention, chunked
from longcompress.llm.attention import backend_for, block_mask, branch_attention
from longcompress.llm.branches import branch_layout

from helpers import assert_close

BACKENDS = ("chunked", "flex", "flash", "xformers", "xformers padded")


def inputs_of(rows, heads=4, key_heads=2, width=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(5)
    batch, length = rows.branch.shape
    shapes = [(batch, num, length, width) for num in (heads, key_heads, key_heads)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def layout_of(rows):
    return branch_layout(rows.branch, rows.mask, rows.sample)


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    monkeypatch.setattr(chunked, "BLOCK_SCORES", {"cpu": 1})  # blocks of 64 tokens
    monkeypatch.setattr(attention, "_flex_function", lambda device: flex_from_mask)
    name, _, padded = request.param.partition(" ")
    if name == "flash":
        stand_in_flash(monkeypatch)
    if name == "xformers":
        pytest.importorskip("xformers.ops.fmha", reason="xformers has no wheel for this system")
        stand_in_xformers(monkeypatch, bool(padded))
    return name


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_mask_written_out_in_outputs_and_gradients(name, heads, backend):
    rows = CASES[name]
    inputs, real, seen = inputs_of(rows, *heads), rows.mask.bool(), seen_of(rows)
    want = run(lambda q, k, v: dense(q, k, v, seen, 0.3), inputs, real)
    got = run(lambda q, k, v: branch_attention(q, k, v, layout_of(rows), backend, scale=0.3), inputs, real)
    for key, value in want.items():
        assert_close(key, got[key], value, 1e-5)


@pytest.mark.parametrize("window", [None, 2, 7, 100])
@pytest.mark.parametrize("softcap", [None, 0.8])
@pytest.mark.parametrize("name", ["packed", "rows"])
def test_windows_and_softcaps_are_kept_or_refused_by_name(name, softcap, window, backend):
    rows = CASES[name]
    inputs, real = inputs_of(rows), rows.mask.bool()

    def attend(q, k, v):
        return branch_attention(q, k, v, layout_of(rows), backend, softcap=softcap, window=window)

    if backend in ("flash", "xformers") and (softcap or window):
        with pytest.raises(ValueError, match=f'{backend!r} has no (softcap|sliding window).* use "flex"'):
            attend(*inputs)
        return
    seen = seen_of(rows, window)
    want = run(lambda q, k, v: dense(q, k, v, seen, q.shape[-1] ** -0.5, softcap), inputs, real)
    got = run(attend, inputs, real)
    for key, value in want.items():
        assert_close(key, got[key], value, 1e-5)


@pytest.mark.parametrize("name", ["branches", "rows"])
def test_bfloat16_is_near_what_float32_gives(name, backend):
    rows = CASES[name]
    inputs, real = inputs_of(rows, dtype=torch.bfloat16), rows.mask.bool()
    layout = layout_of(rows)
    want = run(
        lambda q, k, v: branch_attention(q, k, v, layout, "chunked"), [x.float() for x in inputs], real
    )
    if backend == "flex":  # its stand-in rounds every step
        return
    got = run(lambda q, k, v: branch_attention(q, k, v, layout, backend), inputs, real)
    assert got["out"].dtype == torch.bfloat16
    for key, value in want.items():
        assert_close(key, got[key].float(), value, 1e-2)


def test_gradients_are_the_slopes(monkeypatch):
    monkeypatch.setattr(chunked, "BLOCK_SCORES", {"cpu": 1})
    monkeypatch.setattr(chunked, "MIN_BLOCK", 4)
    rows = rows_of([[4, 2, 3], [2, 1]], [[3, 2]])
    inputs = [x.double().requires_grad_() for x in inputs_of(rows, 2, 1, 3)]
    for softcap, window in ((None, None), (0.7, 3)):

        def attend(q, k, v, softcap=softcap, window=window):
            out = branch_attention(q, k, v, layout_of(rows), "chunked", softcap=softcap, window=window)
            return out.transpose(1, 2)[rows.mask.bool()]

        assert torch.autograd.gradcheck(attend, inputs)


def test_flex_attention_itself_reads_the_block_mask():
    rows = CASES["rows"]
    inputs, real = inputs_of(rows, 4, 2, 16), rows.mask.bool()
    with torch.no_grad():  # on a CPU it has no backward pass
        got = branch_attention(*inputs, layout_of(rows), "flex").transpose(1, 2)[real]
    want = dense(*inputs, seen_of(rows), 0.25).transpose(1, 2)[real]
    assert_close("out", got, want, 1e-5)
    mask = block_mask(layout_of(CASES["branches"]), torch.device("cpu"))
    assert mask.kv_indices.numel() == mask.full_kv_indices.numel() == 4  # blocks of 128 x 128 of 192 tokens


@pytest.mark.parametrize("name", CASES)
def test_pairs_of_blocks_are_counted_as_they_are(name):
    rows, size = CASES[name], 24
    seen = seen_of(rows)
    layout = layout_of(rows)
    tables = layout.tables(torch.device("cpu"))
    assert tables.place.flatten().tolist() == list(range(rows.branch.numel()))
    counted, every = layout.pairs(size)
    for b in range(len(seen)):
        for i, of in enumerate(seen[b].split(size)):
            for j, block in enumerate(of.split(size, 1)):
                real = bool(rows.mask[b, i * size : (i + 1) * size].all())
                assert int(every[b, i, j]) == block.numel()
                assert int(counted[b, i, j]) == int(block.sum()) or not real


@pytest.mark.parametrize("name", ["chunked", "flex"])
def test_no_tensor_grows_with_the_square_of_the_length(name, monkeypatch):
    monkeypatch.setattr(chunked, "BLOCK_SCORES", {"cpu": 1 << 14})
    largest = []
    for scale in (1, 2):
        rows = rows_of([[500 * scale, *[6 * scale] * 4]])
        inputs = [x.requires_grad_() for x in inputs_of(rows, 4, 2, 8)]
        with Largest() as mode:
            layout = layout_of(rows)
            if name == "chunked":
                branch_attention(*inputs, layout, name).sum().backward()
            else:
                block_mask(layout, torch.device("cpu"))
        largest.append(mode.num)
    assert largest[1] <= 2.2 * largest[0] and largest[1] < 1000**2 / 20


def test_what_cannot_be_is_refused(monkeypatch):
    rows = CASES["question"]
    layout, (q, k, v) = layout_of(rows), inputs_of(rows)
    with pytest.raises(
        ValueError, match=r"layout is of 1 rows of 49 tokens, got q .*a model that adds tokens"
    ):
        branch_attention(q[:, :, 1:], k, v, layout)
    with pytest.raises(
        ValueError, match="backend must be auto or one of chunked, flex, xformers, flash, got 'x'"
    ):
        branch_attention(q, k, v, layout, "x")
    with pytest.raises(
        ValueError, match=r"each by its own number, the video first by 0; got stretches \[0, 1, 0\]"
    ):
        branch_layout(torch.tensor([[0, 1, 0]]), torch.ones(1, 3))
    monkeypatch.setattr(attention, "find_spec", lambda name: None)
    for name, package in (("flash", "flash-attn"), ("xformers", "xformers")):
        with pytest.raises(ImportError, match=f"{name!r} needs the package .*pip install {package}"):
            branch_attention(q, k, v, layout, name)


def test_auto_takes_what_is_there(monkeypatch):
    half = torch.bfloat16
    assert backend_for("cpu", half) == "chunked"
    for flash, triton, want in ((True, True, "flash"), (False, True, "flex"), (False, None, "chunked")):
        monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda flash=flash: flash)
        monkeypatch.setattr(attention, "find_spec", lambda name, triton=triton: triton)
        assert backend_for("cuda", half) == want
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(attention, "find_spec", lambda name: True)
    assert backend_for("cuda", torch.float32) == backend_for("cuda", half, bends=True) == "flex"
