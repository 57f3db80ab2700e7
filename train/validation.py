"""Validation while a model trains: signals on videos kept out of the training, answers beside references."""

import itertools
import json
from pathlib import Path
from typing import Any

import torch

from ..model import LongCompress
from .data.dataset import Loaded, ShardData
from .data.live_samples import LiveTask
from .signals import duet_signals_of, signals_of

ANSWERS = "answers.jsonl"


class Validation:
    """Batches of shards that aren't trained on; the same ones each time. All their samples must be usable.

    Of `num_answers` questions the answers go to `out`/answers.jsonl; only the process of rank 0 writes. Duets
    have the losses of `task`, and no answers.
    """

    def __init__(
        self, model: LongCompress, data: ShardData, *, num_batches: int, num_answers: int, out: Path,
        rank: int = 0, task: LiveTask | None = None,
    ) -> None:  # fmt: skip
        self.model, self.num_answers, self.path, self.rank = model, num_answers, out / ANSWERS, rank
        self.task = task
        self.batches: list[Loaded] = list(itertools.islice(iter(data), num_batches))
        for bad in (bad for loaded in self.batches for bad in loaded.bad):
            raise ValueError(f"eval_shards: sample {bad.key!r} can't be used: {bad.reason}")

    def __call__(self, step: int) -> dict[str, Any]:
        """The signals after a step, for the log; they and answers are printed, answers written."""
        training = self.model.llm.training
        self.model.llm.eval()
        try:
            examples = [example for loaded in self.batches for example in loaded.examples]
            keys = [key for loaded in self.batches for key in loaded.keys]
            if self.task is None:
                signals = signals_of(self.model, examples, keys)
            else:
                duets = [duet for loaded in self.batches for duet in loaded.duets]
                signals = duet_signals_of(self.model, self.task, duets, keys)
            answers = self.answers()
        finally:
            self.model.llm.train(training)
        if self.rank == 0:
            with open(self.path, "a", encoding="utf8") as file:
                for answer in answers:
                    file.write(json.dumps({"step": step} | answer, ensure_ascii=False) + "\n")
            print(f"step {step}: validation {signals.text()}")
            if signals.is_blind:
                print("  warning: it answers without looking at the video")
            for answer in answers:
                print(f"  {answer['key']}: {answer['question']}")
                print(f"    reference {answer['reference']}\n    answer    {answer['answer']}", flush=True)
        return signals.log()

    @torch.no_grad()
    def answers(self) -> list[dict[str, str]]:
        """key, question, reference and the model's answer of the first questions."""
        of_questions = (loaded for loaded in self.batches if loaded.examples)
        pairs = [pair for loaded in of_questions for pair in zip(loaded.keys, loaded.examples, strict=True)]
        answers = []
        for key, example in pairs[: self.num_answers]:
            question, reference = example.turns[0]
            (answer,) = self.model.llm.answer_each([example.video], [question])
            answers.append({"key": key, "question": question, "reference": reference or "", "answer": answer})
        return answers
