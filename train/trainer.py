"""transformers' Trainer, set up for this project's recipes."""

from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments


def run(
    module: nn.Module, data: Dataset[Any], collate: Any, *, steps: int, batch: int, lr: float, warmup: int,
    decay: float, out: Path, workers: int, seed: int,
    bf16: bool = False, save_every: int = 0,
) -> None:  # fmt: skip
    """transformers' Trainer over an endless data set, on the CPU in bfloat16 autocast."""
    falling = int(decay * steps)
    args = TrainingArguments(
        output_dir=str(out), max_steps=steps, per_device_train_batch_size=batch, learning_rate=lr,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={
            "num_decay_steps": falling,
            "num_stable_steps": max(0, steps - falling - warmup),
            "min_lr_ratio": 0.02,
        },
        warmup_steps=warmup, weight_decay=0.01, max_grad_norm=1.0, use_cpu=True, bf16=bf16, logging_steps=25,
        save_strategy="steps" if save_every else "no", save_steps=save_every or 1, save_total_limit=1, report_to=[], dataloader_num_workers=workers,
        dataloader_prefetch_factor=4 if workers else None, remove_unused_columns=False, seed=seed,
        label_names=["labels"], adam_beta2=0.98, accelerator_config={"dispatch_batches": False},
    )  # fmt: skip
    trainer = Trainer(model=module, args=args, train_dataset=data, data_collator=collate)
    trainer.train()
