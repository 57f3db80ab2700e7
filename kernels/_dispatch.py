"""The rule for which code runs an operation: the Triton kernels in `gpu/` or the torch reference."""

import os
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NARROW = 128  # channels; rows of no more are pooled token by token, in float64 too
# Compute capability that the kernels need. A T4 (7.5) has too little shared memory for them.
MIN_CAPABILITY = (8, 0)

LIBRARIES: list[torch.library.Library] = []  # what operators are registered with, while it is kept

P = ParamSpec("P")
R = TypeVar("R")


def use_triton(op: str, x: Tensor) -> bool:
    """True where x can go to the Triton kernel of `op`: CUDA, or the CPU under Triton's interpreter.

    The environment variable LONGCOMPRESS_TRITON=0 sends everything to the torch reference.
    """
    times = op == "extremes" or (op == "pool" and x.shape[1] <= NARROW)
    precise = x.dtype == torch.float64 and times
    if os.environ.get("LONGCOMPRESS_TRITON") == "0" or not (x.dtype in TRITON_DTYPES or precise):
        return False
    if not (_is_capable(x.device.index) if x.is_cuda else os.environ.get("TRITON_INTERPRET") == "1"):
        return False
    return "triton" in sys.modules or find_spec("triton") is not None


def _is_capable(device_index: int) -> bool:
    """Whether the kernels fit this GPU; Python shows the warning once."""
    gpu = torch.cuda.get_device_properties(device_index)  # a constant to torch.compile
    if (gpu.major, gpu.minor) >= MIN_CAPABILITY:
        return True
    if not torch.compiler.is_compiling():
        warnings.warn(
            f"GPU {device_index} has compute capability {gpu.major}.{gpu.minor} and the Triton kernels need "
            f"{MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]}: torch runs in their place, more slowly",
            stacklevel=2,
        )
    return False


def on_its_device(launch: Callable[Concatenate[Tensor, P], R]) -> Callable[Concatenate[Tensor, P], R]:
    """`launch` with its first tensor's GPU as the current one: Triton launches on torch's current GPU."""

    @wraps(launch)
    def guarded(x: Tensor, /, *args: P.args, **options: P.kwargs) -> R:
        with torch.cuda.device_of(x):
            return launch(x, *args, **options)

    return guarded


def aligned(x: Tensor) -> Tensor:
    """x side by side from a multiple of 16 bytes on: Triton compiles a kernel again for what isn't."""
    x = x.contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


def operator(
    schema: str, fake: Callable[..., Any], *tags: torch.Tag
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes of a function an operator of torch, on the CPU too, where Triton may interpret.

    `schema` is "namespace::name(arguments) -> results"; `fake` makes empty results, for tracing.
    """
    namespace, _, rest = schema.partition("::")
    library = torch.library.Library(namespace, "FRAGMENT")
    LIBRARIES.append(library)

    def define(run: Callable[..., Any]) -> Callable[..., Any]:
        name = library.define(rest, tags=tags)
        for device in ("CPU", "CUDA"):
            library.impl(name, on_its_device(run), device)
        torch.library.register_fake(f"{namespace}::{name}", fake, lib=library)
        packet: Callable[..., Any] = getattr(getattr(torch.ops, namespace), name)
        return packet

    return define


def can_wait(x: Tensor) -> bool:
    """Whether x's values may be read now: not while a graph is compiled, or captured on its device."""
    if torch.compiler.is_compiling():
        return False
    if not x.is_cuda:
        return True
    with torch.cuda.device_of(x):  # the question is about the current device's stream
        return not torch.cuda.is_current_stream_capturing()


def one_device(**tensors: Tensor | None) -> None:
    """ValueError unless all these tensors are on one device."""
    devices = {name: t.device for name, t in tensors.items() if t is not None}
    if len(set(devices.values())) > 1:
        places = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"{' and '.join(devices)} must be on one device, got {places}")


def check_offsets(offsets: Tensor, num_tokens: int) -> list[int]:
    """offsets (S + 1,) as a list, or ValueError: it must rise from 0 to num_tokens."""
    if offsets.dim() != 1 or len(offsets) < 1 or offsets.is_floating_point():
        raise ValueError(f"offsets must be (S + 1,) integers, got {tuple(offsets.shape)} {offsets.dtype}")
    if not can_wait(offsets):
        raise ValueError(
            "offsets must be on the CPU while a CUDA graph is captured: they decide what is launched"
        )
    at: list[int] = offsets.tolist()
    if at[0] != 0 or at[-1] != num_tokens or any(a > b for a, b in pairwise(at)):
        raise ValueError(
            f"offsets must rise from 0 to N = {num_tokens}, got {at if len(at) < 9 else at[:4] + at[-4:]}"
        )
    return at
