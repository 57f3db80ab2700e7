"""Videos kept out of a training: its loss on them, and answers beside the truth, while it runs."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..llm.prompt import IGNORED, Example
from ..model import LongCompress
from .data.dataset import Loaded, ShardData

ANSWERS = "answers.jsonl"


class HeldOut:
    """Examples of shards that aren't trained on; the same ones each time.

    Args:
        model: that is trained.
        data: their shards.
        batches: of these, so many are looked at.
        samples: questions that are answered.
        out: folder; answers go to answers.jsonl there.
        rank: of this process; only the first one writes.

    Raises:
        ValueError: one of the samples can't be used.
    """

    def __init__(
        self, model: LongCompress, data: ShardData, *, batches: int, samples: int, out: Path, rank: int = 0
    ) -> None:
        self.model, self.samples, self.path, self.rank = model, samples, out / ANSWERS, rank
        self.batches: list[Loaded] = list(itertools.islice(iter(data), batches))
        for loaded in self.batches:
            for bad in loaded.bad:
                raise ValueError(f"evaluate: sample {bad.key!r} can't be used: {bad.reason}")

    @torch.no_grad()
    def loss(self) -> float:
        """Mean loss of a learned token."""
        total = num = 0.0
        for loaded in self.batches:
            batch = self._moved(self.model.llm.collate(loaded.examples))
            learned = int((batch["labels"][:, 1:] != IGNORED).sum())
            total += float(self.model.llm(**batch)["loss"]) * learned
            num += learned
        return total / num

    def answers(self) -> list[dict[str, str]]:
        """key, question, truth and the model's answer of the first questions."""
        asked = [
            (key, example, question, truth)
            for loaded in self.batches
            for key, example in zip(loaded.keys, loaded.examples, strict=True)
            for question, truth in example.turns[:1]
        ][: self.samples]
        found = []
        for key, example, question, truth in asked:
            answer = self._answer(example, question)
            found.append({"key": key, "question": question, "truth": truth or "", "answer": answer})
        return found

    def look(self, step: int) -> dict[str, Any]:
        """The loss after a step; answers are printed and written."""
        training = self.model.llm.training
        self.model.llm.eval()
        try:
            loss, answers = self.loss(), self.answers()
        finally:
            self.model.llm.train(training)
        if self.rank == 0:
            with open(self.path, "a", encoding="utf8") as file:
                for one in answers:
                    file.write(json.dumps({"step": step} | one, ensure_ascii=False) + "\n")
            print(told(step, loss, answers), flush=True)
        return {"eval_loss": loss}

    def _answer(self, example: Example, question: str) -> str:
        (text,) = self.model.llm.answer_each([example.video], [question])
        return text

    def _moved(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: v.to(self.model.device) for k, v in batch.items()}


def told(step: int, loss: float, answers: Sequence[dict[str, str]]) -> str:
    """The loss and the answers as lines."""
    lines = [f"step {step}: loss {loss:.4f} on videos held out"]
    for one in answers:
        lines.append(f"  {one['key']}: {one['question']}")
        lines += [f"    truth  {one['truth']}", f"    answer {one['answer']}"]
    return "\n".join(lines)
