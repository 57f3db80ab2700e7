"""Validation while a model trains: loss on videos kept out of the training, and answers beside references."""

import itertools
import json
from pathlib import Path
from typing import Any

import torch

from ..llm.prompt import IGNORED
from ..model import LongCompress
from .data.dataset import Loaded, ShardData

ANSWERS = "answers.jsonl"


class Validation:
    """Batches of shards that aren't trained on; the same ones each time. All their samples must be usable.

    Of `num_answers` questions the answers go to `out`/answers.jsonl; only the process of rank 0 writes.
    """

    def __init__(
        self, model: LongCompress, data: ShardData, *, num_batches: int, num_answers: int, out: Path,
        rank: int = 0,
    ) -> None:  # fmt: skip
        self.model, self.num_answers, self.path, self.rank = model, num_answers, out / ANSWERS, rank
        self.batches: list[Loaded] = list(itertools.islice(iter(data), num_batches))
        for bad in (bad for loaded in self.batches for bad in loaded.bad):
            raise ValueError(f"eval_shards: sample {bad.key!r} can't be used: {bad.reason}")

    def __call__(self, step: int) -> dict[str, Any]:
        """The loss after a step; answers are printed and written."""
        training = self.model.llm.training
        self.model.llm.eval()
        try:
            loss, answers = self.loss(), self.answers()
        finally:
            self.model.llm.train(training)
        if self.rank == 0:
            with open(self.path, "a", encoding="utf8") as file:
                for answer in answers:
                    file.write(json.dumps({"step": step} | answer, ensure_ascii=False) + "\n")
            print(f"step {step}: validation loss {loss:.4f}")
            for answer in answers:
                print(f"  {answer['key']}: {answer['question']}")
                print(f"    reference {answer['reference']}\n    answer    {answer['answer']}", flush=True)
        return {"eval_loss": loss}

    @torch.no_grad()
    def loss(self) -> float:
        """Mean loss of an answer's token."""
        total = num = 0.0
        for loaded in self.batches:
            batch = self.model.llm.collate(loaded.examples)
            batch = {k: v.to(self.model.device) for k, v in batch.items()}
            learned = int((batch["labels"][:, 1:] != IGNORED).sum())
            total += float(self.model.llm(**batch)["loss"]) * learned
            num += learned
        return total / num

    @torch.no_grad()
    def answers(self) -> list[dict[str, str]]:
        """key, question, reference and the model's answer of the first questions."""
        pairs = [pair for loaded in self.batches for pair in zip(loaded.keys, loaded.examples, strict=True)]
        answers = []
        for key, example in pairs[: self.num_answers]:
            question, reference = example.turns[0]
            (answer,) = self.model.llm.answer_each([example.video], [question])
            answers.append({"key": key, "question": question, "reference": reference or "", "answer": answer})
        return answers
