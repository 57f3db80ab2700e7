"""What is packed comes back bit for bit; what was cut or is unknown is refused."""

import ctypes
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save

from longcompress.serialize import pack, to_bytes, unpack, write


@dataclass(frozen=True)
class Box:
    value: Any
    name: str = "box"


class Pair(NamedTuple):
    left: Any
    right: Any


TENSORS = [
    torch.randn(3, 4),
    torch.randn(5, 2)[:, 1],
    torch.zeros(0, 7, dtype=torch.float64),
    torch.arange(4, dtype=torch.int32),
    torch.tensor(True),
    torch.randn(6).to(torch.bfloat16),
    torch.randint(0, 255, (2, 2, 3), dtype=torch.uint8),
]


@pytest.mark.parametrize("tensor", TENSORS, ids=lambda t: f"{t.dtype}{tuple(t.shape)}")
def test_tensors_come_back_bit_for_bit(tensor):
    back = unpack(pack([tensor, tensor], ()), ())
    assert all(b.dtype == tensor.dtype and torch.equal(b, tensor) for b in back)


def test_all_else_comes_back_as_it_was():
    value = {
        "a": [1, 2.5, None, True, "x", float("inf")], "b": (1, (2,)), "": {},
        "c": Box({"d": Pair(1, Box(()))}), "dict": {"tensor": "0", "class": "Box"}, "pi": 0.1 + 0.2,
    }  # fmt: skip
    assert unpack(pack(value, (Box, Pair)), (Box, Pair)) == value


def test_parts_of_one_memory_are_stored_apart():
    whole = torch.arange(10.0)
    data = pack([whole[:2], whole[1:3]], ())
    assert [t.tolist() for t in unpack(data, ())] == [[0, 1], [1, 2]] and len(data) < 400


def test_what_is_not_known_is_refused():
    with pytest.raises(TypeError, match="value must be made of"):
        pack(Box(1), ())
    with pytest.raises(TypeError, match="value must be made of"):
        pack({1: 2}, ())
    with pytest.raises(ValueError, match="not what pack wrote"):
        unpack(pack(Box(1), (Box,)), ())
    data = pack([torch.zeros(3)], ())
    for bad in (b"", data[:-3], data[:20], b"x" * 100):
        with pytest.raises(ValueError, match="not what pack wrote"):
            unpack(bad, ())


def test_files_are_those_of_safetensors_and_leave_nothing_in_the_process(tmp_path):
    """Each new number of bytes costs safetensors' own `save` 6 KB that stay."""
    named = {str(number): tensor.contiguous() for number, tensor in enumerate(TENSORS)}
    assert to_bytes(named) == save(named)
    write(named, tmp_path / "x", {"a": "b"})
    back = load_file(tmp_path / "x")
    assert back.keys() == named.keys() and all(torch.equal(back[name], named[name]) for name in named)
    num_types = len(ctypes._pointer_type_cache)
    for num in range(1000, 1050):
        to_bytes({"x": torch.zeros(num, dtype=torch.uint8)})
        write({"x": torch.zeros(num, dtype=torch.uint8)}, tmp_path / "x", {})
    assert len(ctypes._pointer_type_cache) == num_types
