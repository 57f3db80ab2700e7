"""Section `attention` of the GPU report: rows with eight questions, by each backend of `branch_attention`."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, get_args

import torch
from torch import Tensor

from .kernels import normal
from .timer import peaks_gb, relative_rms, synchronize, timed

LENGTHS, CPU_LENGTHS = (9_000, 36_000), (300, 600)  # tokens
QUESTIONS, QUESTION = 8, 64  # and the tokens of each
LIMIT = 1e-2  # relative RMS from the reference
GPU = {"heads": 28, "key_heads": 4, "width": 128, "hidden": 896, "layers": 12, "dtype": torch.bfloat16}
CPU = {"heads": 4, "key_heads": 2, "width": 16, "hidden": 32, "layers": 1, "dtype": torch.float32}


def time_attention(out: Path, device: str) -> int:
    """Errors against the reference, speed and peak memory, and a LoRA step of each backend: attention.json;
    1 if one that can run here fails."""
    from ...llm.attention import Backend

    on_gpu, report = device.startswith("cuda"), {}
    shape, lengths = (GPU, LENGTHS) if on_gpu else (CPU, CPU_LENGTHS)
    for backend in get_args(Backend):
        figures: dict[str, Any] = {"state": "done"}
        try:
            figures["errors"] = _errors(backend, lengths[0], device, shape)
            figures["attention"] = [_speed(backend, length, device, shape) for length in lengths]
            figures["lora"] = [_lora_step(backend, length, device, shape) for length in lengths]
            if any(not error <= LIMIT for error in figures["errors"].values()):
                figures["state"] = f"failed: an error is above {LIMIT}"
        except (ImportError, NotImplementedError) as error:  # flex and xformers say so on a CPU
            figures["state"] = f"not measured: {str(error).strip().splitlines()[0]}"
        except (RuntimeError, ValueError) as error:  # memory that ends is one; the others are still measured
            figures["state"] = f"failed: {str(error).strip().splitlines()[0]}"
        report[backend] = figures
        (out / "attention.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf8")
        print(backend, json.dumps(figures), flush=True)
    return int(any(figures["state"].startswith("failed") for figures in report.values()))


def _row(length: int, num_questions: int = QUESTIONS) -> Tensor:
    """(1, L) branches of a row of about `length` tokens."""
    question = max(1, min(QUESTION, length // (2 * num_questions)))
    video = torch.zeros(1, length - num_questions * question, dtype=torch.int64)
    return torch.cat([video, torch.arange(1, num_questions + 1).repeat_interleave(question)[None]], 1)


def _work(backend: Any, length: int, device: str, shape: dict[str, Any]) -> Callable[[], dict[str, Tensor]]:
    """A forward and a backward pass in the shape's type, of the reference in float32."""
    from ...llm.attention import branch_attention
    from ...llm.branches import branch_layout

    branch = _row(length)
    layout = branch_layout(branch, torch.ones_like(branch))
    dtype = torch.float32 if backend is None else shape["dtype"]
    q, k, v, above = (
        normal(shape[heads] * length, shape["width"], seed, device)
        .reshape(1, shape[heads], length, -1)
        .to(shape["dtype"])
        .to(dtype)
        for seed, heads in enumerate(("heads", "key_heads", "key_heads", "heads"))
    )
    inputs = [x.requires_grad_() for x in (q, k, v)]

    def work() -> dict[str, Tensor]:
        y = branch_attention(q, k, v, layout, backend or "chunked")
        return dict(zip(("out", "dq", "dk", "dv"), (y, *torch.autograd.grad(y, inputs, above)), strict=True))

    return work


def _errors(backend: str, length: int, device: str, shape: dict[str, Any]) -> dict[str, float]:
    want = _work(None, length, device, shape)()
    return {name: relative_rms(x, want[name]) for name, x in _work(backend, length, device, shape)().items()}


def _speed(backend: str, length: int, device: str, shape: dict[str, Any]) -> dict[str, float]:
    work = _work(backend, length, device, shape)
    with _peak(device) as peak:
        runs = timed({"": work}, 3, device)[""]
    return {"tokens": length, "tokens_per_s": length / median(run.wall_s for run in runs)} | peak


def _lora_step(backend: Any, length: int, device: str, shape: dict[str, Any]) -> dict[str, Any]:
    """A step of a random language model, checkpointed, with one question and with eight."""
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from ...llm.attention_interface import masks

    hidden = shape["hidden"]
    config = Qwen2Config(
        vocab_size=512, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=shape["layers"],
        num_attention_heads=hidden // 16 if hidden < 64 else hidden // 64, num_key_value_heads=2,
        max_position_embeddings=1 << 16,
    )  # fmt: skip
    torch.manual_seed(0)
    lm: Any = Qwen2ForCausalLM(config).to(device, shape["dtype"])
    lm.gradient_checkpointing_enable({"use_reentrant": False})
    lm = get_peft_model(lm, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    learned = [p for p in lm.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned)
    figures: dict[str, Any] = {"tokens": length}
    for num in (1, QUESTIONS):
        branch = _row(length, num).to(device)
        inputs = masks(lm, torch.ones_like(branch), branch, None, backend)
        position = torch.arange(length, device=device)[None]
        x = normal(length, hidden, 5, device).to(shape["dtype"])[None].requires_grad_()

        def step(x: Tensor = x, position: Tensor = position, inputs: dict[str, Any] = inputs) -> None:
            tail = slice(-QUESTIONS * QUESTION, None)
            logits = lm(inputs_embeds=x, position_ids=position, use_cache=False, **inputs).logits[:, tail]
            logits.float().logsumexp(-1).mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        step()
        with _peak(device) as peak:
            runs = timed({"": step}, 1, device, warm_up=0)[""]
        figures[f"{num} questions"] = {"step_s": runs[0].wall_s} | peak
    return figures


@contextmanager
def _peak(device: str) -> Iterator[dict[str, float]]:
    """The peak of a GPU's memory inside, in GB; nothing of a CPU's, where other runs have left theirs."""
    peak: dict[str, float] = {}
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    yield peak
    if device.startswith("cuda"):
        synchronize(torch.device(device))
        peak["peak_gb"] = peaks_gb(torch.device(device))["GPU"]
