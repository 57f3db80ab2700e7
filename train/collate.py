"""Loaded samples become a batch of tensors; those that could not be used are listed in a file."""

import fcntl
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..llm import learned_places
from ..model import LongCompress
from .data.dataset import BadSample, Loaded


@dataclass(frozen=True)
class BadSampleList:
    """A JSONL file of samples that could not be used; any number of processes may append to it."""

    path: Path

    def append(self, number: int, bad: Sequence[BadSample]) -> None:
        """Add the bad samples of batch `number`: whole lines, whatever other processes write meanwhile."""
        lines = [{"batch": number, "key": sample.key, "reason": sample.reason} for sample in bad]
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        with open(self.path, "ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # one write may be split where a file system is slow
            while data:
                data = data[os.write(file.fileno(), data) :]

    def summary(self) -> str:
        """A line with the number of bad samples and of each reason; "" without any."""
        if not self.path.is_file():
            return ""
        lines = [json.loads(line) for line in self.path.read_text(encoding="utf8").splitlines()]
        reasons = Counter(line["reason"] for line in lines)
        counts = "; ".join(f"{num} x {reason}" for reason, num in reasons.most_common())
        return f"{self.path}: {len(lines)} samples were left out: {counts}"


class StageCollate:
    """Makes the batch of a step of one `Loaded`; runs in the worker processes.

    Args:
        model: whose language model reads the batch.
        row_tokens: of `CausalLM.collate`.
        bad_samples: list of what could not be used.
    """

    def __init__(self, model: LongCompress, row_tokens: int, bad_samples: BadSampleList) -> None:
        self.llm, self.row_tokens, self.bad_samples = model.llm, row_tokens, bad_samples
        self.rate_fps = model.config.media.rate_fps if model.video is not None else 0.0

    def __call__(self, items: Sequence[Loaded]) -> dict[str, Any]:
        """The arguments of the language model, and `about`, which `PartTrainer` takes out again.

        Raises:
            ValueError: no sample of the batch could be used.
        """
        (loaded,) = items
        if loaded.bad:
            self.bad_samples.append(loaded.number, loaded.bad)
        if not loaded.examples:
            raise ValueError(
                f"batch {loaded.number}: none of its samples could be used; {self.bad_samples.path} says why"
            )
        batch: dict[str, Any] = self.llm.collate(loaded.examples, row_tokens=self.row_tokens)
        batch["logits_to_keep"] = learned_places(batch["labels"])  # logits elsewhere would only take memory
        batch["about"] = {
            "keys": loaded.keys, "tokens": int(batch["attention_mask"].sum()), "video_s": loaded.video_s,
            "frames": loaded.video_s * self.rate_fps,
        }  # fmt: skip
        return batch
