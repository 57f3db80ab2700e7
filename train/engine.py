"""Where and how a training runs: device, precision, sharding, and the packages that these need."""

import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate import PartialState
from torch import nn
from transformers import TrainingArguments

from ..files import parse_json
from ..llm.attention import PACKAGES, Backend
from ..model import LongCompress
from ..presets import load

Schedule = Literal["stable", "cosine"]
REPORTS = ("tensorboard", "wandb", "trackio", "mlflow")


@dataclass(frozen=True)
class Engine:
    """Device, precision and sharding of a training.

    Attributes:
        device: "cpu", "cuda", or "" for a GPU if there is one.
        threads: torch threads on the CPU.
        workers: loader processes a rank.
        bf16: autocast to bfloat16.
        checkpointing: gradient checkpointing: the language model's layers are computed a second time instead
            of kept.
        accumulate: parts that a rank's samples of a step are split into, one forward pass each.
        attention: of rows with several questions or samples (`llm.attention.branch_attention`); flex,
            xformers and flash need a GPU. "auto": what is installed; `longcompress doctor` names it.
        quantization: "" or, for QLoRA on a GPU, "4bit" (nf4) or "8bit" of bitsandbytes.
        fsdp: fields of accelerate's FSDP2 plugin, such as {"reshard_after_forward": true}; empty: no FSDP.
        deepspeed: a DeepSpeed config file without optimizer and scheduler, which are the recipe's; "": none.
        liger: Liger kernels in the language model.
        report: where the log goes besides the terminal: tensorboard, wandb, trackio, mlflow.
    """

    device: Literal["", "cpu", "cuda"] = ""
    threads: int = 1
    workers: int = 1
    bf16: bool = False
    checkpointing: bool = False
    accumulate: int = 1
    attention: Backend | Literal["auto"] = "auto"
    quantization: Literal["", "4bit", "8bit"] = ""
    fsdp: dict[str, Any] = field(default_factory=dict)
    deepspeed: str = ""
    liger: bool = False
    report: list[str] = field(default_factory=lambda: ["tensorboard"])

    def __post_init__(self) -> None:
        if self.accumulate < 1 or self.workers < 0 or self.threads < 1:
            raise ValueError(
                f"engine: accumulate and threads must be >= 1 and workers >= 0, got {self.accumulate}, "
                f"{self.threads} and {self.workers}"
            )
        if self.fsdp.get("version", 2) != 2:
            raise ValueError(f"engine.fsdp: version must be 2, got {self.fsdp['version']}")
        if self.fsdp and self.deepspeed:
            raise ValueError("engine: fsdp and deepspeed exclude each other; leave one of them out")
        if unknown := sorted(set(self.report) - set(REPORTS)):
            raise ValueError(f"engine: report must be some of {sorted(REPORTS)}, got {unknown[0]!r}")

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return self.device == "cuda" or (not self.device and torch.cuda.is_available())

    def check(self) -> None:
        """ValueError for what can't run here: no GPU, a package that isn't installed, no such file."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("engine.device is cuda, but torch finds no GPU here; use cpu")
        on_gpu_alone = self.attention not in ("auto", "chunked")
        for value, name in ((self.quantization, "quantization"), (on_gpu_alone, "attention")):
            if value and not self.on_gpu:
                raise ValueError(f"engine.{name} needs a GPU, this runs on the CPU; leave it out")
        options = {
            "bitsandbytes": self.quantization, "liger_kernel": self.liger, "deepspeed": self.deepspeed,
            **{package: self.attention == name for name, package in PACKAGES.items()},
        }  # fmt: skip
        for package in [*self.report, *(name for name, used in options.items() if used)]:
            if find_spec(package) is None:
                hint = f"pip install {package.replace('_', '-')}"
                if package == "tensorboard":
                    hint = "pip install \"longcompress[train]\", or engine.report '[]'"
                raise ValueError(f"engine needs the package {package}, which is not installed: {hint}")
        if self.deepspeed and not Path(self.deepspeed).is_file():
            raise FileNotFoundError(f"engine.deepspeed: no file {self.deepspeed}")
        if self.deepspeed:
            config = parse_json(Path(self.deepspeed).read_bytes(), self.deepspeed)
            if other := [name for name in ("optimizer", "scheduler") if name in config]:
                raise ValueError(
                    f"engine.deepspeed: {self.deepspeed} must leave {other[0]} to the recipe's lr, rates and "
                    "schedule; take it out"
                )
        if self.fsdp and self.place()[1] < 2:
            hint = "start it by `torchrun --nproc-per-node 2 -m longcompress train ...`, or leave it out"
            raise ValueError(f"engine.fsdp needs two processes or more, this is one; {hint}")

    def place(self) -> tuple[int, int]:
        """(rank, world) of this process among those that train together, as torchrun says."""
        state = PartialState(cpu=not self.on_gpu)
        return state.process_index, state.num_processes

    def load(self, name: str) -> LongCompress:
        """A model to train: its language model on this process's device, its encoders, which features have
        already passed, on the CPU."""
        self.check()
        if not self.on_gpu:
            return load(name, device="cpu", dtype=torch.bfloat16 if self.bf16 else None)
        options: dict[str, Any] = {}
        if self.quantization:
            from transformers import BitsAndBytesConfig

            four = self.quantization == "4bit"
            options["quantization"] = BitsAndBytesConfig(
                load_in_4bit=four, load_in_8bit=not four, bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16,
            )  # fmt: skip
        model = load(name, device=f"cuda:{os.environ.get('LOCAL_RANK', 0)}", **options)
        for part in (*model.encoders.values(), model.global_memory):
            part.to("cpu")
        return model

    def prepare(self, lm: nn.Module) -> None:
        """Checkpointing, k-bit training and Liger kernels in a language model, as they are asked for."""
        if self.liger:
            from liger_kernel.transformers import _apply_liger_kernel_to_instance

            _apply_liger_kernel_to_instance(model=lm)
        if self.quantization:
            from peft import prepare_model_for_kbit_training

            prepare_model_for_kbit_training(lm, use_gradient_checkpointing=False)
        if self.checkpointing:
            cast(Any, lm).gradient_checkpointing_enable({"use_reentrant": False})

    def arguments(
        self, out: Path, *, steps: int, lr: float, warmup: int = 0, schedule: Schedule = "stable",
        decay: float = 0.4, save_steps: int = 0, **options: Any,
    ) -> TrainingArguments:  # fmt: skip
        """Arguments of transformers' Trainer for a training on this engine, with checkpoints in `out`.

        `options` are other fields of TrainingArguments; the rest is as in `StageRecipe`.
        """
        sharded: dict[str, Any] = {}
        if self.fsdp:
            config = {"version": 2, "state_dict_type": "FULL_STATE_DICT"} | self.fsdp
            sharded = {"fsdp": True, "fsdp_config": config}
        if self.deepspeed:
            sharded = {"deepspeed": self.deepspeed}
        if "tensorboard" in self.report:
            os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(out / "log"))
        falls = {"num_decay_steps": int(decay * steps), "min_lr_ratio": 0.02}
        fixed = {"per_device_train_batch_size": 1, "weight_decay": 0.01, "logging_steps": 25}
        return TrainingArguments(
            output_dir=str(out), use_cpu=not self.on_gpu, bf16=self.bf16, report_to=self.report or "none",
            gradient_accumulation_steps=self.accumulate, dataloader_num_workers=self.workers,
            dataloader_prefetch_factor=4 if self.workers else None,
            accelerator_config={"dispatch_batches": False},  # batches are whole as they come
            max_steps=steps, learning_rate=lr, warmup_steps=warmup, max_grad_norm=1.0, adam_beta2=0.98,
            lr_scheduler_type="cosine" if schedule == "cosine" else "warmup_stable_decay",
            lr_scheduler_kwargs={} if schedule == "cosine" else falls,
            save_strategy="steps" if save_steps else "no", save_steps=save_steps or 1, save_total_limit=1,
            remove_unused_columns=False, label_names=["labels"], ignore_data_skip=True, **sharded,
            **fixed | options,
        )  # fmt: skip
