"""What a trained model knows of held-out shards: losses with the own and another video, answers, times."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longcompress import LongCompress
from longcompress.eval.metrics.bootstrap import interval
from longcompress.eval.metrics.intervals import tiou_matrix
from longcompress.events.parse import parse_spans
from longcompress.llm import Example
from longcompress.presets import load
from longcompress.train.data.dataset import Loaded, QuestionConfig, ShardData
from longcompress.train.data.sampler import BatchSampler
from longcompress.train.shards.index import load_index
from longcompress.train.signals import losses_of, signals_of

PHOTO_BUDGET, EVENT_BUDGET = 6, 48  # tokens of a video
WHAT, WHEN, TELL = "What is it?", "When: {text}", "What happens from {start} to {end}?"
SOUND = "The sound of "
BATCH = 16  # videos that are answered together

Span = tuple[float, float]


def loaded(model: LongCompress, shards: Path, budget: int, **questions: Any) -> Loaded:
    """All videos of a folder of shards with questions."""
    index = load_index(shards)
    sampler = BatchSampler([index], 0, 1 << 40, [budget], len(index), len(index))
    return next(iter(ShardData(sampler, model, QuestionConfig(**questions), on_error="stop")))


def open_model(folder: Path) -> LongCompress:
    """A model to ask."""
    torch.set_num_threads(1)
    return load(str(folder), device="cpu", dtype=torch.bfloat16).eval()


def signals(model: LongCompress, data: Loaded) -> dict[str, Any]:
    """Losses with the own video and with another."""
    got = signals_of(model, data.examples, data.keys)
    return asdict(got) | {"own_better": got.better / got.answers, "swapped_less_own": got.swapped - got.own}


def next_video(examples: Sequence[Example]) -> list[Example]:
    """The same questions about the next video."""
    return [replace(e, video=o.video) for e, o in zip(examples, [*examples[1:], examples[0]], strict=True)]


def photos(folder: Path, shards: Path) -> dict[str, Any]:
    """Of captions: losses, and how many answers are the caption word for word."""
    model = open_model(folder)
    data = loaded(model, shards, PHOTO_BUDGET, kinds={"caption": 1.0}, templates={"caption": [WHAT]})
    videos, answers = [example.video for example in data.examples], list[str]()
    for at in range(0, len(videos), BATCH):
        some = videos[at : at + BATCH]
        answers += model.llm.answer_each(some, [WHAT] * len(some))
    right = [example.turns[0][1] or "" for example in data.examples]
    exact = [a.strip() == r for a, r in zip(answers, right, strict=True)]
    other = [a.strip() == r for a, r in zip([*answers[1:], answers[0]], right, strict=True)]
    best = Counter(right).most_common(1)[0][1]
    return signals(model, data) | {
        "photos": len(right), "exact": float(np.mean(exact)), "exact_of_another": float(np.mean(other)),
        "exact_of_best_constant": best / len(right),
        "some": [f"{r} -> {a.strip()}" for r, a in list(zip(right, answers, strict=True))[:12]],
    }  # fmt: skip


def names(folder: Path, shards: Path) -> dict[str, Any]:
    """Of photos whose names were never trained: how often the right name is the likeliest of all of them.

    A name's log-likelihood is taken less its mean over all photos, so that no name is preferred as such.
    Intervals are over names.
    """
    model = open_model(folder)
    data = loaded(model, shards, PHOTO_BUDGET, kinds={"caption": 1.0}, templates={"caption": [WHAT]})
    right = [example.turns[0][1] or "" for example in data.examples]
    texts = sorted(set(right))
    asked = [replace(example, turns=[(WHAT, text) for text in texts]) for example in data.examples]
    loss, _, answer = losses_of(model, asked, 2)
    total = torch.zeros(len(asked) * len(texts), dtype=torch.float64).index_add(0, answer, loss)
    likely = -total.view(len(asked), len(texts))
    likely -= likely.mean(0)
    place = torch.tensor([texts.index(text) for text in right])[:, None]
    ranks = (likely > likely.gather(1, place)).sum(1).tolist()
    first, five = (
        interval({i: float(rank < n) for i, rank in enumerate(ranks)}, dict(enumerate(right))) for n in (1, 5)
    )
    return signals(model, data) | {
        "photos": len(right), "names": len(texts), "chance": 1 / len(texts),
        "top_1": {key: first[key] for key in ("mean", "low", "high")},
        "top_5": {key: five[key] for key in ("mean", "low", "high")},
        "ranks": list(zip(right, ranks, strict=True)),  # of the right name, 0: the likeliest
    }  # fmt: skip


def events(folder: Path, shards: Path) -> dict[str, Any]:
    """Of events: losses of times and of texts, and the times that are answered, also of another video."""
    model = open_model(folder)
    when = loaded(model, shards, EVENT_BUDGET, kinds={"grounding": 1.0}, templates={"grounding": [WHEN]})
    tell = loaded(model, shards, EVENT_BUDGET, kinds={"segment": 1.0}, templates={"segment": [TELL]})
    spans, other = answered(model, when.examples), answered(model, next_video(when.examples))
    true = {
        (i, question): span_of(answer or "")
        for i, example in enumerate(when.examples)
        for question, answer in example.turns
    }
    seen = {key: value for key, value in true.items() if SOUND not in key[1]}
    heard = {key: value for key, value in true.items() if SOUND in key[1]}
    return {
        "videos": len(when.examples), "when": signals(model, when), "tell": signals(model, tell),
        "all": recall(true, spans), "seen": recall(seen, spans), "heard": recall(heard, spans),
        "another_video": recall(true, other),
    }  # fmt: skip


def answered(model: LongCompress, examples: Sequence[Example]) -> dict[tuple[int, str], Span | None]:
    """(number of the example, question) -> the span that is answered, None where none can be read."""
    spans = {}
    for number, example in enumerate(examples):
        questions = [question for question, _ in example.turns]
        answers = model.llm.answer(model.llm.prefill(example.video), questions)
        for question, answer in zip(questions, answers, strict=True):
            spans[number, question] = span_of(answer)
    return spans


def span_of(text: str) -> Span | None:
    """[start, end) of an answer in whole seconds, of which the last is included."""
    events = parse_spans(text)
    return (events[0].start_s, events[0].end_s) if events else None


def recall(true: Mapping[tuple[int, str], Span | None], spans: Mapping[tuple[int, str], Span | None]) -> dict:
    """R@1 at IoU .3, .5 and .7 with intervals over videos, mean IoU, and those of the best constant."""

    def ious(answer: Mapping[tuple[int, str], Span | None]) -> dict[tuple[int, str], float]:
        return {
            key: 0.0 if answer[key] is None else float(tiou_matrix([answer[key]], [span])[0, 0])
            for key, span in true.items()
        }

    longest = int(max(span[1] for span in true.values() if span))
    constants = [(a, b) for a in range(longest) for b in range(a + 1, longest + 1)]
    truth = [span for span in true.values() if span]
    table = tiou_matrix(constants, truth)  # (constants, questions)
    got, videos = ious(spans), {key: key[0] for key in true}
    out: dict[str, Any] = {"questions": len(true), "mean_iou": float(np.mean(list(got.values())))}
    for threshold in (0.3, 0.5, 0.7):
        at = interval({key: float(iou >= threshold) for key, iou in got.items()}, videos)
        out[f"R@{threshold}"] = {name: at[name] for name in ("mean", "low", "high")} | {
            "constant": float((table >= threshold).mean(1).max())
        }
    return out
