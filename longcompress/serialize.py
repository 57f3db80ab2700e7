"""Dataclasses, tensors and plain values as safetensors bytes, and back bit for bit; never pickle."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, TensorSpec, serialize, serialize_file
from safetensors.torch import load
from torch import Tensor

BLOCK = 64  # channels that share a scale
PLAN = "structure"  # the tensor that holds the JSON of everything but tensors


def pack(value: Any, kinds: Sequence[type]) -> bytes:
    """`value` as bytes.

    Args:
        value: None, bool, int, float, str, tensor, list, tuple (named ones too), dict with str keys, or a
            dataclass or named tuple of `kinds`, nested as one likes. Tensors may be on any device.
        kinds: the classes that may occur.

    Raises:
        TypeError: for anything else.
    """
    known: dict[int, tuple[int, Tensor]] = {}
    plan = json.dumps(_down(value, tuple(kinds), known))
    # saved memory is never shared, but a tensor that comes up twice is saved once
    tensors = {str(i): x.detach().cpu().contiguous().clone() for i, x in known.values()}
    tensors[PLAN] = torch.frombuffer(bytearray(plan.encode()), dtype=torch.uint8)
    return to_bytes(tensors)


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Contiguous tensors on the CPU as the bytes of a safetensors file."""
    return bytes(serialize(_specs(tensors)))


def write(tensors: Mapping[str, Tensor], path: str | Path, metadata: dict[str, str]) -> None:
    """A safetensors file of contiguous tensors on the CPU, with texts in its header."""
    serialize_file(_specs(tensors), path, metadata=metadata)


def unpack(data: bytes, kinds: Sequence[type], device: torch.device | str = "cpu") -> Any:
    """What `pack` was given, tensors on `device`.

    Raises:
        ValueError: if `data` is cut, altered in its structure, or holds a class that is not of `kinds`.
    """
    try:
        tensors = load(data)
        plan = json.loads(tensors.pop(PLAN).numpy().tobytes())
        return _up(plan, {kind.__name__: kind for kind in kinds}, tensors, torch.device(device))
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"data is not what pack wrote, or was cut ({error}); make it anew") from error


def _specs(tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """Where the bytes of each tensor are, for as long as it lives.

    safetensors' own functions for tensors leave 6 KB of ctypes types behind for every number of bytes that is
    new to the process, and a process that writes for days grows without end.
    """
    assert all(value.is_contiguous() and value.device.type == "cpu" for value in tensors.values())
    return {
        name: TensorSpec(
            dtype=str(value.dtype).removeprefix("torch."), shape=value.shape, data_ptr=value.data_ptr(),
            data_len=value.nbytes,
        )
        for name, value in tensors.items()
    }  # fmt: skip


def _down(value: Any, kinds: tuple[type, ...], tensors: dict[int, tuple[int, Tensor]]) -> Any:
    """A JSON value; tensors go to `tensors` by their id, and leave their number."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return {"tensor": str(tensors.setdefault(id(value), (len(tensors), value))[0])}
    if isinstance(value, kinds):
        named = {f.name: getattr(value, f.name) for f in fields(value)} if is_dataclass(value) else None
        items = value._asdict() if named is None else named  # type: ignore[attr-defined]
        return {"class": type(value).__name__, "of": {k: _down(v, kinds, tensors) for k, v in items.items()}}
    if isinstance(value, list):
        return [_down(v, kinds, tensors) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [_down(v, kinds, tensors) for v in value]}
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {"dict": {k: _down(v, kinds, tensors) for k, v in value.items()}}
    raise TypeError(f"value must be made of tensors, plain values and {kinds}, got {type(value)}")


def _up(plan: Any, kinds: dict[str, type], tensors: dict[str, Tensor], device: torch.device) -> Any:
    if isinstance(plan, list):
        return [_up(p, kinds, tensors, device) for p in plan]
    if not isinstance(plan, dict):
        return plan
    if "tensor" in plan:
        return tensors[plan["tensor"]].to(device)
    if "class" in plan:
        return kinds[plan["class"]](**{k: _up(v, kinds, tensors, device) for k, v in plan["of"].items()})
    if "tuple" in plan:
        return tuple(_up(p, kinds, tensors, device) for p in plan["tuple"])
    return {k: _up(v, kinds, tensors, device) for k, v in plan["dict"].items()}


def to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C) int8 and (N, C / 64) float32 scales of rows (N, C): 64 channels share a scale (all C where 64
    doesn't divide them)."""
    blocks = x.float().view(len(x), -1, BLOCK if x.shape[1] % BLOCK == 0 else x.shape[1])
    scale = blocks.abs().amax(-1).clamp_min(1e-30) / 127
    return (blocks / scale[..., None]).round().to(torch.int8).view(x.shape), scale


def from_int8(x: Tensor, scale: Tensor) -> Tensor:
    """(N, C) float32 of what `to_int8` gave; ValueError for shapes that don't fit."""
    if x.dim() != 2 or scale.dim() != 2 or len(x) != len(scale) or x.shape[1] % max(1, scale.shape[1]):
        raise ValueError(f"scales {tuple(scale.shape)} don't fit rows {tuple(x.shape)}")
    return (x.view(*scale.shape, -1).float() * scale[..., None]).view(x.shape)
