"""Memory files: types of their rows, and what part of a video they stand for."""

import gc
import json
import re
import sys
from dataclasses import replace

import pytest
import torch

import longcompress as lc
from longcompress.cli.main import main
from longcompress.memory import union_s
from longcompress.serialize import from_int8, to_int8
from longcompress.synthetic.scenes import make_scene, parts_of
from longcompress.types import Frames


@pytest.fixture(scope="module")
def memory():
    model = lc.load("tiny", device="cpu")
    return lc.compress(model, list(parts_of(make_scene(5, 60.0), 1.0)), budget=100, progress=False)


@pytest.mark.parametrize(
    "dtype, part, error", [("", 1.0, 0.0), ("bfloat16", 0.7, 2**-8), ("int8", 0.5, 1 / 127)]
)
def test_rows_in_fewer_bits_differ_by_their_last_bit(memory, tmp_path, dtype, part, error):
    model = memory.model
    whole = memory.save(tmp_path / "whole.lcm").stat().st_size
    model.change({"memory": {"dtype": dtype}})
    try:
        path = memory.save(tmp_path / "small.lcm")
        again = lc.load_memory(path, model)
    finally:
        model.change({"memory": {"dtype": ""}})
    assert path.stat().st_size <= part * whole + 1
    for name, tokens in memory.streams.items():
        x, other = tokens.x, again.streams[name].x.float()
        largest = x.view(len(x), -1, 64).abs().amax(-1, keepdim=True).expand(-1, -1, 64).reshape(x.shape)
        assert bool(((x - other).abs() <= error * largest).all())
        assert torch.equal(tokens.place, again.streams[name].place)
    assert again.ask("How often does the red ball appear?").text


def test_eight_bits_refuse_scales_of_other_rows():
    x, scale = to_int8(torch.randn(3, 128))
    assert scale.shape == (3, 2)
    with pytest.raises(ValueError, match=r"scales \(2, 2\) don't fit rows \(3, 128\)"):
        from_int8(x, scale[:2])


def test_coverage_tells_what_was_read_and_what_tokens_stand_for(memory):
    assert set(memory.coverage) == {"video", "audio"}
    for seconds in memory.coverage.values():
        assert seconds == {"duration_s": 60.0, "read_s": 60.0, "represented_s": 60.0}
    answer = memory.ask("How often does the red ball appear?")
    assert answer.coverage == memory.coverage and answer.to_json()["coverage"] == memory.coverage


def test_coverage_of_a_video_whose_frames_end_early():
    model = lc.load("tiny", device="cpu")
    parts = [
        p for p in parts_of(make_scene(5, 120.0), 1.0) if not (isinstance(p, Frames) and p.start_s >= 60)
    ]
    coverage = lc.compress(model, parts, budget=100, progress=False).coverage
    assert coverage["video"] == {"duration_s": 120.0, "read_s": 60.0, "represented_s": 60.0}
    assert coverage["audio"]["represented_s"] == 120.0


def test_loading_leaves_nothing_behind(memory, tmp_path):
    """A server loads memories for weeks."""
    path = memory.save(tmp_path / "a.lcm")

    def blocks(times):
        for _ in range(times):
            lc.load_memory(path, model=memory.model)
        gc.collect()
        return sys.getallocatedblocks()

    first = blocks(20)
    assert blocks(100) - first < 500  # other threads have some too


def test_coverage_stays_in_the_file(memory, tmp_path):
    path = replace(memory, _prefix=None).save(tmp_path / "a.lcm")
    assert lc.load_memory(path, memory.model).coverage == memory.coverage


def test_union_counts_every_second_once():
    start_s = torch.tensor([5.0, 0.0, 1.0, 20.0], dtype=torch.float64)
    end_s = torch.tensor([6.0, 4.0, 3.0, 21.5], dtype=torch.float64)
    assert union_s(start_s, end_s) == 4.0 + 1.0 + 1.5


def test_info_tells_the_coverage_of_a_memory_file(memory, tmp_path, capsys):
    path = replace(memory, _prefix=None).save(tmp_path / "a.lcm")
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    num = len(memory.streams["audio"])
    assert re.search(rf"audio +│ +{num} tokens, 0:01:00 read, 0:01:00 represented", out), out
    assert main(["info", str(path), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)["memory"]
    assert about["coverage"] == memory.coverage and about["tokens"] == memory.num_tokens
    path.write_bytes(path.read_bytes()[:-9])
    assert main(["info", str(path)]) == 3
    assert "a.lcm is not a whole memory file" in capsys.readouterr().err
