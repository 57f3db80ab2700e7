"""Damage to bytes, JSON, YAML and safetensors, as a random generator says it: the same for the same seed."""

import json
import random
import re
import struct
from collections.abc import Callable
from typing import Any

import torch
import yaml
from safetensors.torch import load, save

from longcompress.memory import _hash

EXTREMES = [
    value.to_bytes(size, order)
    for size in (1, 2, 4, 8)
    for value in (0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1)
    for order in ("big", "little")
]
DEEP = 20_000  # brackets
Change = Callable[[random.Random, bytearray], None]


def damaged(rng: random.Random, data: bytes) -> bytes:
    """The bytes after one to four changes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        rng.choice(CHANGES)(rng, changed)
    return bytes(changed)


def _at(rng: random.Random, data: bytearray) -> int:
    """A place: half of them where headers lie, at the start or the end, or after a name of four letters."""
    size = len(data)
    where = rng.random()
    if where < 0.25:
        return rng.randrange(min(size, 512) or 1)
    if where < 0.35:
        return max(0, size - 1 - rng.randrange(min(size, 2048) or 1))
    if where < 0.6 and (names := [m.end() for m in re.finditer(rb"[A-Za-z]{4}", data)]):
        return min(size, rng.choice(names) + rng.randrange(-8, 17)) if size else 0
    return rng.randrange(size or 1)


def _length(rng: random.Random) -> int:
    return int(2 ** rng.uniform(0, 12))


def _flip(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        at = max(0, _at(rng, data))
        if at < len(data):
            data[at] ^= 1 << rng.randrange(8)


def _fill(rng: random.Random, data: bytearray) -> None:
    at, size = max(0, _at(rng, data)), _length(rng)
    stop = min(len(data), at + size)
    data[at:stop] = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))[: max(0, stop - at)]


def _extreme(rng: random.Random, data: bytearray) -> None:
    number = rng.choice(EXTREMES)
    at = max(0, _at(rng, data))
    data[at : at + len(number)] = number


def _cut(rng: random.Random, data: bytearray) -> None:
    del data[max(0, _at(rng, data)) :]


def _behead(rng: random.Random, data: bytearray) -> None:
    del data[: _length(rng)]


def _remove(rng: random.Random, data: bytearray) -> None:
    at = max(0, _at(rng, data))
    del data[at : at + _length(rng)]


def _insert(rng: random.Random, data: bytearray) -> None:
    at = max(0, _at(rng, data))
    data[at:at] = rng.randbytes(_length(rng))


def _repeat(rng: random.Random, data: bytearray) -> None:
    at, to = max(0, _at(rng, data)), max(0, _at(rng, data))
    data[to:to] = data[at : at + _length(rng)]


def _swap(rng: random.Random, data: bytearray) -> None:
    first, second = sorted((max(0, _at(rng, data)), max(0, _at(rng, data))))
    size = min(_length(rng), second - first, len(data) - second)
    if size > 0:
        a, b = data[first : first + size], data[second : second + size]
        data[first : first + size], data[second : second + size] = b, a


CHANGES: tuple[Change, ...] = (
    _flip, _flip, _fill, _extreme, _extreme, _cut, _behead, _remove, _insert, _repeat, _swap,
)  # fmt: skip

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, -0.5, 1e-300, 1e300, 10**30, -(10**30), 10**400, 2**31, 2**63, float("nan"),
    float("inf"), float("-inf"), "", "x", "0", "1e999", "nan", "\0", "\ud800", "../../x", "/", "x" * 5000,
    [], {}, [None], [[]], [1, 2], {"": None}, {"x": {"x": 1}}, [0, 10**30], [float("nan"), 1], "Ωß漢字",
    "1:30",
)  # fmt: skip


class Nested:
    """Brackets in brackets, deeper than any program goes."""


def damaged_value(rng: random.Random, value: Any) -> Any:
    """The lists and objects after one or two changes of a key, an item or a value."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 1, 2))):
        value = _damaged_tree(rng, value)
    return value


def _damaged_tree(rng: random.Random, value: Any) -> Any:
    places: list[tuple[Any, Any]] = []

    def walk(tree: Any) -> None:
        if isinstance(tree, dict | list):
            for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
                places.append((tree, key))
                walk(tree[key])

    walk(value)
    if not places or rng.random() < 0.02:
        return rng.choice(VALUES)
    tree, key = rng.choice(places)
    what = rng.random()
    if what < 0.2:
        del tree[key]
    elif what < 0.25:
        tree[key] = Nested()
    elif what < 0.32 and isinstance(tree, dict):
        tree[rng.choice(("", "x", "é", "\ud800", f"{key}x"))] = tree.pop(key)
    elif what < 0.38 and isinstance(tree, list):
        tree.append(rng.choice(tree))
    elif what < 0.45 and isinstance(tree[key], int | float):
        tree[key] = rng.choice((-tree[key], tree[key] * 1e6, tree[key] / 1e6, str(tree[key]), [tree[key]]))
    else:
        tree[key] = rng.choice(VALUES)
    return value


def text_of(value: Any, as_yaml: bool = True) -> str:
    """JSON or YAML of a value, Nested written out."""
    mark = "nested nested"
    text = yaml.safe_dump(_marked(value, mark)) if as_yaml else json.dumps(_marked(value, mark))
    deep = "[" * DEEP + "]" * DEEP
    return text.replace(f'"{mark}"', deep).replace(mark, deep)


def _marked(value: Any, mark: str) -> Any:
    if isinstance(value, dict):
        return {key: _marked(item, mark) for key, item in value.items()}
    if isinstance(value, list):
        return [_marked(item, mark) for item in value]
    return mark if isinstance(value, Nested) else value


def damaged_json(rng: random.Random, data: bytes) -> bytes:
    """A JSON text whose values, or sometimes whose bytes, are damaged."""
    if rng.random() < 0.2:
        return damaged(rng, data)
    return text_of(damaged_value(rng, json.loads(data)), as_yaml=False).encode()


def damaged_tensors(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file: its bytes, its header's values, or a tensor's values, type or shape."""
    what = rng.random()
    if what < 0.2:
        return damaged(rng, data)
    size = struct.unpack("<Q", data[:8])[0]
    if what < 0.4:
        header = damaged_json(rng, data[8 : 8 + size])
        return struct.pack("<Q", len(header)) + header + data[8 + size :]
    return save(_damaged_tensors(rng, load(data)), _metadata(data))


def _metadata(data: bytes) -> dict[str, str] | None:
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]).get("__metadata__")


def _damaged_tensors(rng: random.Random, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = rng.choice(sorted(tensors))
    x, what = tensors[name], rng.randrange(7)
    if what == 0:
        del tensors[name]
    elif what == 1:
        tensors[f"{name}x"] = tensors.pop(name)
    elif what == 2:
        kinds = (torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool, torch.bfloat16)
        tensors[name] = x.to(rng.choice(kinds))
    elif what == 3:
        tensors[name] = rng.choice((x[:-1], x[:0], x[None], x.flatten()[:1].clone().reshape(()), x.flatten()))
    elif what == 4 and x.dim() > 1:
        tensors[name] = rng.choice((x.T, x[:, :-1], x[:, :0], torch.cat([x, x], 1)))
    else:
        flat = x.clone().flatten()
        if len(flat):
            numbers = (0.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e30, -1e30)
            if not x.is_floating_point():
                numbers = (0, 1, 127, 128, 255) if x.dtype == torch.uint8 else (0, -1, 1, 2**31 - 1, -(2**31))
            at = slice(None) if rng.random() < 0.2 else rng.randrange(len(flat))
            flat[at] = rng.choice(numbers)
        tensors[name] = flat.reshape(x.shape)
    return {name: value.contiguous() for name, value in tensors.items()}


def damaged_memory(rng: random.Random, data: bytes) -> bytes:
    """A memory file: as `damaged_tensors`, or with a hash that fits, or another header."""
    what = rng.random()
    if what < 0.35:
        return damaged_tensors(rng, data)
    metadata, tensors = _metadata(data), load(data)
    assert metadata is not None
    header = json.loads(metadata["longcompress"])
    if what < 0.65:
        tensors = _damaged_tensors(rng, tensors)
        header["sha256"] = _hash(tensors)
        text = json.dumps(header, sort_keys=True)
    else:
        text = text_of(damaged_value(rng, header), as_yaml=False)
    return save(tensors, {"longcompress": text})
