"""FSDP2 and DeepSpeed on this machine's GPUs, beside a single process: sharded.json of `make gpu-report`."""

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

KINDS = ("alone", "fsdp", "zero2", "zero3")
MAX_PROCESSES = 4  # a step has so many videos
APART = 0.1  # of the loss; in bfloat16 the order of sums decides its digits
COMMAND = [sys.executable, "-m", "longcompress"]


def time_sharded(out: Path, device: str) -> int:
    """Train `tiny` on synthetic shards by each engine: losses, seconds a step, GB of a process.

    What can't run here has its reason. Returns 1 where an engine failed, or learned other than one process.
    """
    on_gpu = device.startswith("cuda")
    num = min(torch.cuda.device_count(), MAX_PROCESSES) if on_gpu else 2
    shards, rows = out / "shards", dict[str, Any]()
    size = ["--num", "32", "--seconds", "60"] if on_gpu else ["--num", "8", "--seconds", "6"]
    code = subprocess.run([*COMMAND, "shards", "synthesize", "--out", str(shards), *size]).returncode
    if code:
        return code
    for kind in KINDS:
        if reason := _why_not(kind, num):
            rows[kind] = {"state": reason}
        else:
            start_s = time.monotonic()
            words = _words(kind, out, device, num, steps=20 if on_gpu else 2)
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
            more = {"CUDA_VISIBLE_DEVICES": visible} if on_gpu and kind == "alone" else {}
            code = subprocess.run(words, env=os.environ | more).returncode
            rows[kind] = {"state": f"failed with exit code {code}"} if code else _figures(out / kind)
            rows[kind] |= {"processes": 1 if kind == "alone" else num, "wall_s": time.monotonic() - start_s}
            if not code and (losses := rows["alone"].get("losses")):
                apart = max(abs(a - b) for a, b in zip(rows[kind]["losses"], losses, strict=True))
                rows[kind]["apart"] = apart
                if apart > APART:
                    rows[kind]["state"] = f"failed: its losses are above {APART} from those of one process"
        (out / "sharded.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf8")
        print(kind, rows[kind], flush=True)
    return int(any(row["state"].startswith("failed") for row in rows.values()))


def _why_not(kind: str, num: int) -> str:
    """Why an engine can't run with `num` processes; "" where it can."""
    if kind == "fsdp" and num < 2:
        return f"left out: FSDP needs two GPUs, this machine has {num}"
    if kind.startswith("zero") and find_spec("deepspeed") is None:
        return "left out: pip install deepspeed"
    return ""


def _words(kind: str, out: Path, device: str, num: int, steps: int) -> list[str]:
    """The command that trains by an engine."""
    recipe = [
        "train", "boundary", "--model", "tiny", "--shards", str(out / "shards"), "--out", str(out / kind),
        "--steps", str(steps), "--save-steps", str(steps), "--log-steps", "1", "--budgets", "64",
        "--min-videos", str(MAX_PROCESSES), "--engine.workers", "0",
    ]  # fmt: skip
    if not device.startswith("cuda"):
        recipe += ["--engine.device", device]
    if kind == "alone":
        return [*COMMAND, *recipe]
    engine = ["--engine.fsdp", '{"reshard_after_forward": true}']
    if kind != "fsdp":
        path = out / f"{kind}-engine.json"
        sizes = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
        stage = {"zero_optimization": {"stage": int(kind[-1])}, "zero_allow_untested_optimizer": True}
        path.write_text(json.dumps(dict.fromkeys(sizes, "auto") | stage | {"bf16": {"enabled": "auto"}}))
        engine = ["--engine.deepspeed", str(path)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num)]
    return [*torchrun, "-m", "longcompress", *recipe, *engine]


def _figures(out: Path) -> dict[str, Any]:
    """What the log of a run says, the first step left out of its rate."""
    (state,) = out.glob("checkpoint-*/trainer_state.json")
    lines = [line for line in json.loads(state.read_text())["log_history"] if "loss" in line]
    return {
        "state": "done",
        "losses": [line["loss"] for line in lines],
        "tokens_per_s": sum(line["tokens_per_s"] for line in lines[1:]) / max(1, len(lines) - 1),
        "memory_gib": max(line["memory_gib"] for line in lines),
    }
