"""The one timer of all benchmarks, and work in processes of its own."""

import re
import resource
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

K = TypeVar("K")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def resident_mb(pid: int | None) -> float:
    """Memory of a process, None: this one, that is in RAM."""
    pages = int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


class Took(NamedTuple):
    """One timed run: seconds on the wall (of a GPU, by events), of all cores, and the returned value."""

    wall_s: float
    cpu_s: float
    result: Any


def timed(
    work: Mapping[K, Callable[[], Any]], repeat: int, device: str | torch.device, *, warm_up: int = 1,
    calls: int = 1, keep_results: bool = False,
) -> dict[K, list[Took]]:  # fmt: skip
    """Runs of each function. The functions take turns, and every second round goes backwards.

    Args:
        device: "cpu" or "cuda"; a GPU is idle at both ends of a run.
        warm_up: rounds before the timed ones.
        calls: calls in a run, whose time is divided by them (for work shorter than its launch).
        keep_results: keep the value of the last call of each run.
    """
    if repeat < 1:
        raise ValueError(f"repeat must be at least 1 run, got {repeat}")
    on_gpu = torch.device(device).type == "cuda"
    took: dict[K, list[Took]] = {name: [] for name in work}
    for number in range(-warm_up, repeat):
        for name in list(work)[:: -1 if number % 2 else 1]:
            run = _timed_run(work[name], calls, on_gpu)
            if number >= 0:
                took[name].append(run if keep_results else run._replace(result=None))
    return took


def _timed_run(work: Callable[[], Any], calls: int, on_gpu: bool) -> Took:
    if on_gpu:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
    cores, start_s = cpu_seconds(), time.perf_counter()
    for _ in range(calls):
        result = work()
    wall_s = time.perf_counter() - start_s
    if on_gpu:
        end.record()
        torch.cuda.synchronize()
        wall_s = start.elapsed_time(end) / 1e3
    return Took(wall_s / calls, (cpu_seconds() - cores) / calls, result)


def cpu_seconds() -> float:
    """Seconds that this process and its finished children used of all cores."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def stopwatch(device: torch.device) -> Callable[[], float]:
    """A function that waits for the device and returns the seconds since it was called last."""
    last_s = time.perf_counter()

    def lap() -> float:
        nonlocal last_s
        synchronize(device)
        start_s, last_s = last_s, time.perf_counter()
        return last_s - start_s

    return lap


def relative_rms(result: Tensor, expected: Tensor) -> float:
    """RMS of the difference over RMS of the expected values, in float64."""
    error = (result.double() - expected.double()).square().mean().sqrt()
    return float(error / expected.double().square().mean().sqrt().clamp_min(1e-300))


def synchronize(device: torch.device) -> None:
    """Wait for all work of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peaks_gb(device: torch.device) -> dict[str, float]:
    """Peak memory of this process until now, and of the GPU."""
    status = Path("/proc/self/status")  # Linux hands ru_maxrss on from the process that started this one
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    kib = int(peak[1]) if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peaks = {"process": kib * 1024 / 1e9}
    return peaks | ({"GPU": torch.cuda.max_memory_allocated(device) / 1e9} if device.type == "cuda" else {})


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The value of a module's function, called in a fresh process; ValueError if it failed."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except Exception as error:  # of any kind, a process that was killed among them
            why = f"{type(error).__name__}: {error}"
            raise ValueError(f"{function.__name__} failed in a process of its own: {why}") from error
