"""Does a model look at the video: the loss of its answers with their own video and with another's.

A model that has learned only the form of answers has the same loss with both. Tokens are of three kinds: time
(with a digit), format (in at least half of the answers, and the end), content (all others).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from ..config_live import HEADS
from ..llm import Example, learned_places
from ..llm.prompt import IGNORED
from ..model import LongCompress
from .data.duet_samples import DuetExample, collate_duets
from .data.live_samples import LiveTask

KINDS = ("format", "content", "time")
MIN_ANSWERS = 5  # fewer say nothing


@dataclass(frozen=True)
class Signals:
    """Losses of some answers.

    Attributes:
        own, swapped: mean loss of a token with the answer's video, with another; nan where there is none.
        better: answers whose own video has the lower loss.
        answers: number of them.
        kinds: kind -> mean loss of its tokens with the own video; kinds without tokens are left out.
        auc: head -> how often a frame that is labelled 1 has a higher score than one that is labelled 0, with
            the own video.
    """

    own: float
    swapped: float
    better: int
    answers: int
    kinds: dict[str, float]
    auc: dict[str, float] = field(default_factory=dict)

    @property
    def is_blind(self) -> bool:
        """Whether the own video is better no oftener than by chance: a sign test at 5 %, of one side."""
        limit = self.answers / 2 + 1.645 * self.answers**0.5 / 2
        return self.answers >= MIN_ANSWERS and self.swapped == self.swapped and self.better < limit

    def text(self) -> str:
        """In a line."""
        kinds = ", ".join(f"{kind} {loss:.3f}" for kind, loss in self.kinds.items())
        kinds += "".join(f", AUC {head} {auc:.3f}" for head, auc in self.auc.items())
        if self.swapped != self.swapped:
            return f"loss {self.own:.3f} ({kinds}); one video alone, none to swap it with"
        other = f"with another video {self.swapped:.3f}; own better in {self.better} of {self.answers}"
        return f"loss {self.own:.3f} ({kinds}), {other}"

    def log(self) -> dict[str, float]:
        """For a line of the log."""
        out = {"eval_loss": self.own, **{f"eval_loss_{kind}": loss for kind, loss in self.kinds.items()}}
        out |= {f"eval_auc_{head}": auc for head, auc in self.auc.items()}
        if self.swapped == self.swapped:
            out |= {"eval_swapped_loss": self.swapped, "eval_own_better": self.better / self.answers}
        return out


@torch.no_grad()
def signals_of(
    model: LongCompress, examples: Sequence[Example], keys: Sequence[str], *, batch: int = 8
) -> Signals:
    """Of a model that is in eval mode, on at least one example, `batch` of them at a time. The other video is
    that of the next example with another key."""
    loss, ids, answer = losses_of(model, examples, batch)
    swapped = torch.full_like(loss, torch.nan)
    if others := _others(keys):
        asked = [replace(e, video=examples[j].video) for e, j in zip(examples, others, strict=True)]
        swapped = losses_of(model, asked, batch)[0]
    num = int(answer.max()) + 1
    less = torch.zeros(num, dtype=torch.float64).index_add(0, answer, swapped - loss)  # (num,) of each answer
    kind = kinds_of(ids, answer, model.llm.tokenizer)
    kinds = {name: float(loss[kind == i].mean()) for i, name in enumerate(KINDS) if bool((kind == i).any())}
    return Signals(float(loss.mean()), float(swapped.mean()), int((less > 0).sum()), num, kinds)


@torch.no_grad()
def duet_signals_of(
    model: LongCompress, task: LiveTask, duets: Sequence[DuetExample], keys: Sequence[str]
) -> Signals:
    """Of a model that is in eval mode, on at least one duet: an answer is a duet, with the task's loss; kinds
    are replies and heads. The other video is that of the next duet with another key, from its beginning again
    where it ends first."""

    def measured(duet: DuetExample) -> dict[str, Any]:
        batch = {name: value.to(model.device) for name, value in collate_duets([duet], task.llm).items()}
        has = {"reply": bool((batch["labels"] != IGNORED).any())}
        out: dict[str, Any] = task(**batch)
        return out | {"has": has | {"heads": len(out["known"][HEADS[0]]) > 0}}

    own, kinds, auc = [measured(duet) for duet in duets], dict[str, float](), dict[str, float]()
    loss = [float(out["loss"]) for out in own]
    swapped = [
        float(measured(replace(duet, frames=other[torch.arange(len(duet.frames)) % len(other)]))["loss"])
        for duet, other in zip(duets, (duets[j].frames for j in _others(keys)), strict=False)
    ]
    for kind in ("reply", "heads"):
        if values := [float(out[f"{kind}_loss"]) for out in own if out["has"][kind]]:
            kinds[kind] = fmean(values)
    for head in HEADS:
        score, label = (torch.cat([out[name][head] for out in own]).cpu() for name in ("scores", "known"))
        yes, no = score[label == 1], score[label == 0].sort().values
        if len(yes) and len(no):
            below = torch.searchsorted(no, yes) + torch.searchsorted(no, yes, right=True)
            auc[head] = float(below.double().mean()) / 2 / len(no)
    better = sum(a < b for a, b in zip(loss, swapped, strict=False))
    mean = fmean(swapped) if swapped else math.nan
    return Signals(fmean(loss), mean, better, len(duets), kinds, auc)


def _others(keys: Sequence[str]) -> list[int]:
    """The next with another key, of each; none where all have the same."""
    num = len(keys)
    if len(set(keys)) < 2:
        return []
    return [next(j % num for j in range(i, i + num) if keys[j % num] != keys[i]) for i in range(num)]


def kinds_of(ids: Tensor, answer: Tensor, tokenizer: Any) -> Tensor:
    """(n,) int64 index in KINDS of learned tokens `ids` (n,), each of its answer (n,)."""
    has_digit = {i: any(map(str.isdigit, tokenizer.decode([i]))) for i in ids.unique().tolist()}
    words: dict[int, set[int]] = defaultdict(set)
    for number, token in zip(answer.tolist(), ids.tolist(), strict=True):
        words[number].add(token)
    # answers with times have another form than those without
    counts, sizes = {True: Counter[int](), False: Counter[int]()}, Counter[bool]()
    timed = {number: any(has_digit[i] for i in of) for number, of in words.items()}
    for number, of in words.items():
        counts[timed[number]].update(of)
        sizes[timed[number]] += 1

    def kind(number: int, token: int) -> int:
        if has_digit[token]:
            return KINDS.index("time")
        group = timed[number]
        is_form = sizes[group] >= MIN_ANSWERS and 2 * counts[group][token] >= sizes[group]
        return KINDS.index("format" if is_form or token == tokenizer.eos_token_id else "content")

    return torch.tensor([kind(n, i) for n, i in zip(answer.tolist(), ids.tolist(), strict=True)])


@torch.no_grad()
def losses_of(model: LongCompress, examples: Sequence[Example], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """(loss (n,) float64, id (n,), number of its answer (n,)) of each learned token, on the CPU; `size`
    examples at a time, of a model in eval mode."""
    parts, first = [], 0
    for at in range(0, len(examples), size):
        batch = {k: v.to(model.device) for k, v in model.llm.collate(examples[at : at + size]).items()}
        labels, branch = batch.pop("labels"), batch["branch"]
        places = learned_places(labels)
        logits = model.llm(**batch, logits_to_keep=places)["logits"]
        target = labels.flatten()[places + 1]
        loss = nn.functional.cross_entropy(logits.float(), target, reduction="none")
        row = places // labels.shape[1]
        of = (row * (int(branch.max()) + 1) + branch.flatten()[places + 1]).unique(return_inverse=True)[1]
        parts.append((loss.double().cpu(), target.cpu(), of.cpu() + first))
        first += int(of.max()) + 1
    loss, ids, answer = (torch.cat(part) for part in zip(*parts, strict=True))
    return loss, ids, answer
