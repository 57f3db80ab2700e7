"""Arrays in files of other projects: .npy, and pickles of one numpy array, of which nothing is ever run.

A pickle is a program. Here it gets only the instructions that an array is written with, and in place of what
it asks for by name it is handed words that do nothing; the array is put together by us from its bytes.
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
INSTRUCTIONS = b"".join(
    (
        pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE,
        pickle.BUILD, pickle.MARK, pickle.TUPLE, pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2,
        pickle.TUPLE3, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1,
        pickle.BININT2, pickle.LONG1, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINBYTES,
        pickle.SHORT_BINBYTES, pickle.BINBYTES8, pickle.BYTEARRAY8, pickle.MEMOIZE, pickle.BINPUT,
        pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET,
    )
)  # fmt: skip
BROKEN = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, OverflowError,
    MemoryError, RecursionError, struct.error,
)  # fmt: skip


def read_npy(path: str | Path) -> np.ndarray:
    """The float array of an .npy file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is cut off, no .npy file, or holds objects or other than floats.
    """
    path = Path(path)
    with path.open("rb") as file:
        magic = file.read(len(NPY))
    if magic.startswith(b"PK"):
        raise ValueError(f"{path} holds several arrays; give one .npy file for each video")
    if magic != NPY:
        raise ValueError(f"{path} is cut off, or no .npy file")
    try:
        array = np.load(
            path, mmap_mode="r", allow_pickle=False
        )  # mapped: a lying header can't ask for memory
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
    """The float array of a pickle that holds one and nothing else, of protocols 2 to 5.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is cut off, holds something else, or asks for anything but an array; nothing of it is
            run.
    """
    path = Path(path)
    try:
        array = _Reader(io.BytesIO(path.read_bytes())).load()
    except _Asked as error:
        raise ValueError(
            f"{path} must hold a numpy array only, but its pickle asks for {error}; nothing of it was run"
        ) from error
    except BROKEN as error:
        raise ValueError(f"{path} is cut off, or no pickle of a numpy array: {error!r}") from error
    if not isinstance(array, _Array):
        raise ValueError(f"{path} must hold a numpy array, got {type(array).__name__}")
    try:
        return array.made()
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error


class _Asked(Exception):
    """A pickle asks for something."""


class _Word:
    """Stands for what a pickle asks for by name; called, it makes inert values only."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: Any) -> "_Array | _Type | bytes":
        if self.name == "dtype":
            return _Type(arguments[0])
        if self.name == "_reconstruct":
            return _Array()
        if self.name == "_frombuffer":
            data, kind, shape, order = arguments
            array = _Array()
            array.__setstate__((1, shape, kind, order == "F", data))
            return array
        if self.name == "encode" and type(arguments[0]) is str and arguments[1:] == ("latin1",):
            return arguments[0].encode("latin1")  # how protocol 2 writes bytes
        raise _Asked(f"a call of {self.name}")


class _Type:
    """A dtype as it is pickled."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]


class _Array:
    """An array as it is pickled."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: tuple | None = None

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def made(self) -> np.ndarray:
        """The array."""
        if type(self.state) is not tuple or len(self.state) != 5:
            raise ValueError("the pickle's array has no values")
        _, shape, kind, by_column, data = self.state
        code, order = (kind.code, kind.order) if isinstance(kind, _Type) else (None, None)
        if type(code) is not str or type(order) is not str or code not in FLOATS or order not in ORDERS:
            kind_name = code if type(code) is str else type(code).__name__
            raise ValueError(f"the pickle's array must be of floats, got {kind_name}; objects are never read")
        whole = type(shape) is tuple and all(type(n) is int and n >= 0 for n in shape)
        if not whole or not isinstance(data, bytes | bytearray):
            raise ValueError("the pickle's array has no shape, or no bytes")
        if math.prod(shape) * FLOATS[code] != len(data):
            raise ValueError(f"the pickle's array is {shape} {code}, but has {len(data)} bytes")
        flat = np.frombuffer(data, np.dtype(ORDERS[order] + code))
        return flat.reshape(shape, order="F" if by_column else "C").copy()


class _Reader(pickle._Unpickler):
    """The plain Python reader of pickles with the instructions of arrays alone."""

    dispatch = {code: pickle._Unpickler.dispatch[code] for code in INSTRUCTIONS}  # noqa: RUF012 - as it is there

    def find_class(self, module: str, name: str) -> Any:
        """A word for what an array is made with; all else is refused."""
        if module not in MODULES or name not in NAMES:
            raise _Asked(f"{module}.{name}")
        return _Word(name)
