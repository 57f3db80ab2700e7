"""Arrays in files of other projects: .npy, and pickles of one numpy array, of which nothing is ever run.

A pickle is a program. In place of the functions that it asks for by name it gets stand-ins that do nothing;
the array is put together by us from its bytes.
"""

import io
import math
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np

NPY = b"\x93NUMPY"  # what such a file begins with
FLOATS = {"f2": 2, "f4": 4, "f8": 8}  # types that features come in, and their bytes
ORDERS = {"<": "<", ">": ">", "=": "=", "|": "="}
MODULES = (
    "numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric",
    "_codecs",
)  # fmt: skip
NAMES = ("ndarray", "dtype", "_reconstruct", "_frombuffer", "encode")
BROKEN = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, OverflowError,
    MemoryError, RecursionError, struct.error,
)  # fmt: skip


def read_npy(path: str | Path) -> np.ndarray:
    """The float array of an .npy file."""
    path = Path(path)
    with path.open("rb") as file:
        magic = file.read(len(NPY))
    if magic.startswith(b"PK"):
        raise ValueError(f"{path} holds several arrays; give one .npy file for each video")
    if magic != NPY:
        raise ValueError(f"{path} is cut off, or no .npy file")
    try:
        array = np.load(path, mmap_mode="r")  # mapped: a false header can't ask for memory
    except (ValueError, EOFError) as error:
        if "object" in str(error).lower():
            raise ValueError(
                f"{path} holds Python objects, which are never read; save a float array"
            ) from error
        raise ValueError(f"{path} is cut off, or no .npy file: {error}") from error
    if array.dtype.kind != "f":
        raise ValueError(f"{path} must hold floats, got {array.dtype}")
    return np.array(array)


def read_pickle(path: str | Path) -> np.ndarray:
    """The float array of a pickle that holds one and nothing else, of protocols 2 to 5. Nothing is run."""
    path = Path(path)
    try:
        value = _Reader(io.BytesIO(path.read_bytes())).load()
    except _RefusedName as error:
        raise ValueError(
            f"{path} must hold a numpy array only, but its pickle asks for {error}; nothing of it was run"
        ) from error
    except BROKEN as error:
        raise ValueError(f"{path} is cut off, or no pickle of a numpy array: {error!r}") from error
    if not isinstance(value, _Value):
        raise ValueError(f"{path} must hold a numpy array, got {type(value).__name__}")
    try:
        return _array_of(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error


class _RefusedName(Exception):
    """A pickle asks for something other than an array."""


class _Value:
    """A dtype or an array as it is pickled: the function that makes it, its arguments, and its state."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple) -> None:
        self.name, self.arguments, self.state = name, arguments, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Function:
    """Stands for a function that a pickle asks for by name; called, it makes inert values only."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: Any) -> _Value | bytes:
        if self.name == "encode" and type(arguments[0]) is str and arguments[1:] == ("latin1",):
            return arguments[0].encode("latin1")  # how protocol 2 writes bytes
        if self.name not in ("dtype", "_reconstruct", "_frombuffer"):
            raise _RefusedName(f"a call of {self.name}")
        return _Value(self.name, arguments)


class _Reader(pickle._Unpickler):
    """The plain Python reader of pickles, which makes memory for no more than the file has."""

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for what an array is made with; all else is refused."""
        if module not in MODULES or name not in NAMES:
            raise _RefusedName(f"{module}.{name}")
        return _Function(name)

    def get_extension(self, code: int) -> None:
        """Refuse what a process has registered under a number."""
        raise _RefusedName(f"extension {code}")


def _array_of(value: _Value) -> np.ndarray:
    """The array, put together by us from its shape, its type and its bytes."""
    state = value.state
    if value.name == "_frombuffer" and len(value.arguments) == 4:
        data, dtype, shape, order = value.arguments
        state = (1, shape, dtype, order == "F", data)
    if type(state) is not tuple or len(state) != 5:
        raise ValueError("the pickle's array has no values")
    _, shape, dtype, by_column, data = state
    code = order = None
    if isinstance(dtype, _Value) and dtype.name == "dtype":
        code, order = dtype.arguments[0], "=" if dtype.state is None else dtype.state[1]
    if type(code) is not str or type(order) is not str or code not in FLOATS or order not in ORDERS:
        type_name = code if type(code) is str else type(code).__name__
        raise ValueError(f"the pickle's array must be of floats, got {type_name}; objects are never read")
    is_shape = type(shape) is tuple and all(type(n) is int and n >= 0 for n in shape)
    if not is_shape or not isinstance(data, bytes | bytearray):
        raise ValueError("the pickle's array has no shape, or no bytes")
    if math.prod(shape) * FLOATS[code] != len(data):
        raise ValueError(f"the pickle's array is {shape} {code}, but has {len(data)} bytes")
    flat = np.frombuffer(data, np.dtype(ORDERS[order] + code))
    return flat.reshape(shape, order="F" if by_column else "C").copy()
