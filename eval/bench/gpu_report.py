"""One report of a GPU in under ten minutes: `make gpu-report`, or

    python3 -m longcompress.eval.bench.gpu_report --out DIR

Every section runs in a process of its own with its own time limit, and leaves a log and its figures in DIR.
A section that fails leaves the others theirs. Needed: torch, Triton, transformers, pytest and pytest-xdist;
for the pipeline also av, jsonargparse and the ffmpeg command; for sharded training accelerate and webdataset,
and DeepSpeed where it is. ncu and compute-sanitizer are used where they are.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from .attention import time_attention
from .kernels import MERGES, bench_kernels, composed, make_inputs, normal
from .rows import machine_info
from .sharded import time_sharded
from .timer import DTYPES, synchronize, timed

MODULE = "longcompress.eval.bench.gpu_report"
LIMIT_S = 570.0  # of all sections together
OPERATIONS = ["copy", "metric", "pool", "medoid", "novelty", "attend", "plan", "merge"]


def device_facts(out: Path, device: str) -> int:
    """The device, the versions, and what copying and multiplying reach: device.json."""
    facts: dict[str, Any] = {"name": "cpu"} | machine_info(device)
    if device.startswith("cuda"):
        about = torch.cuda.get_device_properties(0)
        facts |= {"name": about.name, "capability": f"{about.major}.{about.minor}"}
        facts |= {"memory_gb": about.total_memory / 1e9, "l2_mb": about.L2_cache_size / 1e6}
        facts["multiprocessors"] = about.multi_processor_count
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem,power.limit", "--format=csv"]
        facts["nvidia_smi"] = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
    size, side = (1 << 31, 8192) if device.startswith("cuda") else (1 << 20, 64)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    a, b = (normal(side, side, seed, device).to(torch.bfloat16) for seed in (1, 2))
    took = timed({"copy": lambda: target.copy_(source), "product": lambda: a @ b}, 9, device)
    copy_s, product_s = (min(run.wall_s for run in took[name]) for name in ("copy", "product"))
    facts |= {"copy_tb_per_s": 2 * size / copy_s / 1e12, "bf16_tflops": 2 * side**3 / product_s / 1e12}
    return _write(out / "device.json", facts)


def interpreted_tests(out: Path, device: str) -> int:
    """The tests of the kernels, compiled, in eight processes: tests.log."""
    words = ["-q", "-n", "8", "tests/interpreted", "--durations", "15", "-p", "no:cacheprovider"]
    environment = os.environ | ({"LONGCOMPRESS_REQUIRE_GPU": "1"} if device.startswith("cuda") else {})
    return subprocess.run([sys.executable, "-m", "pytest", *words], env=environment).returncode


def profile_kernels(out: Path, device: str) -> int:
    """Microseconds and launches of every kernel of a whole merge: profile.json."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.startswith("cuda")
    report: dict[str, Any] = {}
    inputs = make_inputs(device, *((360, 2560, 1024) if on_gpu else (2, 96, 128)), "bf16")

    def merge_thrice(options: dict[str, Any]) -> None:
        for i in range(3):
            composed(inputs.x(i), inputs.offsets, options)
        synchronize(inputs.xs[0].device)

    for kind, options in MERGES.items():
        merge_thrice(options)
        with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as trace:
            merge_thrice(options)
        us_of = attrgetter("self_device_time_total" if on_gpu else "self_cpu_time_total")
        events = sorted((event for event in trace.key_averages() if us_of(event)), key=us_of, reverse=True)
        report[kind] = {
            "sum_us": sum(map(us_of, events)) / 3,
            "launches": sum(event.count for event in events) / 3,
            "kernels": [
                {"name": event.key[:90], "us": round(us_of(event) / 3, 1), "launches": event.count / 3}
                for event in events[:30]
            ],
        }
        _write(out / "profile.json", report)
    return 0


def time_kernels(out: Path, device: str, dtype: str, cases: list[str], repeat: int = 15) -> int:
    """`bench kernels`, with its figures in a CSV file of its own."""
    path = str(out / f"{dtype}-{cases[0].replace(' ', '_')}.csv")
    if device.startswith("cuda"):
        return bench_kernels(path, device, [dtype], cases, repeat=repeat)
    shape: dict[str, Any] = {"segments": 2, "tokens": 96, "channels": 128, "repeat": 1, "encoder_px": 28}
    return bench_kernels(path, device, [dtype], cases, pairs=[1], **shape)


def time_pipeline(out: Path, device: str) -> int:
    """From a synthetic hour of video to an answer by `tiny`, each step: pipeline.csv. Needs av and ffmpeg."""
    from .throughput import bench_throughput

    minutes = 60.0 if device.startswith("cuda") else 0.1
    return bench_throughput(
        str(out / "pipeline.csv"), ["stages"], minutes=[minutes], budgets=[256], repeat=1, device=device
    )


def merge_once(out: Path, device: str, segments: int, tokens: int, channels: int) -> int:
    """Each merge of a few segments, for the tools that look into kernels."""
    inputs = make_inputs(device, segments, tokens, channels, "bf16")
    for options in MERGES.values():
        composed(inputs.x(0), inputs.offsets, options)
    synchronize(inputs.xs[0].device)
    return 0


def examine(out: Path, device: str, tool: str, words: list[str], work: str) -> int:
    """What a tool of CUDA says of the kernels, or that it isn't there."""
    if shutil.which(tool) is None or not device.startswith("cuda"):
        print(f"{tool} isn't installed, or there is no GPU")
        return 0
    own = [sys.executable, "-m", MODULE, "--out", str(out), "--device", device, "--section", work]
    words = [word.format(out=out) for word in words]
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # else no tool sees where arrays end
    return subprocess.run([tool, *words, *own], env=environment).returncode


PROFILE = [
    "--clock-control", "none", "-k", "regex:start|match|select|merge|tail|finish|means|head_mean", "-c", "40",
    "--set", "full", "-f", "-o", "{out}/ncu",
]  # fmt: skip
SANITIZERS = ("memcheck", "racecheck", "initcheck")

# Name of a section -> its time limit in seconds, and its function, which gets the folder and the device.
SECTIONS: dict[str, tuple[float, Callable[[Path, str], int]]] = {
    "device": (40, device_facts),
    "tests": (240, interpreted_tests),
    "segment": (60, partial(time_kernels, dtype="bf16", cases=["one segment"])),
    "profile": (60, profile_kernels),
    "attention": (110, time_attention),
    **{f"operations-{n}": (110, partial(time_kernels, dtype=n, cases=OPERATIONS)) for n in reversed(DTYPES)},
    "encoder": (90, partial(time_kernels, dtype="bf16", cases=["encoder"], repeat=5)),
    "pipeline": (110, time_pipeline),
    "sharded": (150, time_sharded),
    "ncu": (60, partial(examine, tool="ncu", words=PROFILE, work="large merge")),
    **{
        name: (60, partial(examine, tool="compute-sanitizer", words=["--tool", name], work="small merge"))
        for name in SANITIZERS
    },
}
# What those tools run.
WORK: dict[str, tuple[float, Callable[[Path, str], int]]] = {
    "large merge": (0, partial(merge_once, segments=36, tokens=2560, channels=1024)),
    "small merge": (0, partial(merge_once, segments=2, tokens=700, channels=192)),
}


def report(out: Path, device: str, names: list[str]) -> int:
    """Run sections one after another, and write what came of each to report.json as it comes."""
    out.mkdir(parents=True, exist_ok=True)
    report_start_s, results = time.monotonic(), {}
    for name in names:
        limit_s = min(SECTIONS[name][0], LIMIT_S - (time.monotonic() - report_start_s))
        own = [sys.executable, "-m", MODULE, "--out", str(out), "--device", device]
        start_s = time.monotonic()
        with open(out / f"{name}.log", "w", encoding="utf8") as log:
            try:
                limit_s = max(limit_s, 0.0)
                done = subprocess.run([*own, "--section", name], stdout=log, stderr=log, timeout=limit_s)
                state = "done" if done.returncode == 0 else f"failed with exit code {done.returncode}"
            except subprocess.TimeoutExpired:
                state = f"stopped after {limit_s:.0f} s"
        results[name] = {"state": state, "seconds": round(time.monotonic() - start_s, 1)}
        _write(out / "report.json", results)
        lines = (out / f"{name}.log").read_text(encoding="utf8").strip().splitlines()
        print(f"== {name}: {state}, {results[name]['seconds']} s", *lines[-40:], sep="\n", flush=True)
    return int(any(result["state"] != "done" for result in results.values()))


def _write(path: Path, values: Any) -> int:
    text = json.dumps(values, indent=1)
    path.write_text(text + "\n", encoding="utf8")
    if path.name != "report.json":
        print(text, flush=True)
    return 0


def main() -> int:
    """The command line; returns 1 if a section failed."""
    parser = argparse.ArgumentParser(description="A report of the GPU.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--device", default="cuda", help="cuda; cpu tries the report with small sizes")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--section", choices=SECTIONS | WORK, help=argparse.SUPPRESS)  # in this process
    words = parser.parse_args()
    if words.section:
        return (SECTIONS | WORK)[words.section][1](words.out, words.device)
    return report(words.out, words.device, words.sections)


if __name__ == "__main__":
    sys.exit(main())
