"""Samples of a live session: what its language model reads at a moment, its heads' labels, and a reply."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...config_live import HEADS
from ...llm.causal import CausalLM, head_at, learned_places, with_loss
from ...llm.live import CausalParts, Part, join_parts, lay_out_live
from ...llm.prompt import IGNORED, encode, padded, padding_id
from ...types import CompressedVideo, Tokens


@dataclass(frozen=True)
class LiveSample:
    """The context at a moment.

    Attributes:
        past: what is read merged.
        rows: what follows it in order: tokens of a step by stream, or texts of users.
        labels: head -> label of each step: 0, 1 or IGNORED.
        request: what a reply is to.
        reply: what is said after the last step; None: nothing.
    """

    past: CompressedVideo | None
    rows: tuple[Mapping[str, Tokens] | str, ...]
    labels: Mapping[str, Sequence[int]]
    request: str = ""
    reply: str | None = None


class _Shared:
    """Parts that lay out a past and a step once for all samples of a batch that have it."""

    def __init__(self, parts: CausalParts) -> None:
        self._parts, self._known = parts, dict[Any, Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parts, name)

    def past(self, video: CompressedVideo | None) -> Part:
        part: Part = self._once((id(video),), lambda: self._parts.past(video))
        return part

    def step(
        self, streams: Mapping[str, Tokens], shown_s: float | None, before: Sequence[int], number: int
    ) -> tuple[Part, float | None]:
        key = (id(streams), shown_s, tuple(before), number)
        out: tuple[Part, float | None] = self._once(
            key, lambda: self._parts.step(streams, shown_s, before, number)
        )
        return out

    def _once(self, key: Any, lay_out: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = lay_out()
        return self._known[key]


def sample_parts(parts: Any, sample: LiveSample) -> list[Part]:
    """The parts of the prompt that a live session reads at the sample's moment."""
    rows: list[Mapping[str, Tokens] | list[int]] = []
    for row in sample.rows:
        if not isinstance(row, str):
            rows.append(row)
        elif rows and isinstance(rows[-1], list):  # texts that follow one another are read together
            rows[-1] = rows[-1] + parts.turn(row)
        else:
            rows.append(parts.turn(row))
    return lay_out_live(parts, sample.past, rows)


def collate_live(samples: Sequence[LiveSample], parts: CausalParts) -> dict[str, Tensor]:
    """A batch of B samples, for `LiveTask`.

    Returns:
        What `join_parts` gives; labels (B, L) int64, of replies; and for each head HEAD_labels (B, L), at the
        last token of a step.

    Raises:
        ValueError: a sample hasn't a label for each of its steps.
    """
    llm, rows, labels, shared = parts.llm, [], [], _Shared(parts)
    heads: dict[str, list[list[int]]] = {name: [] for name in HEADS}
    for sample in samples:
        laid = sample_parts(shared, sample)
        ends, at = [], 0  # of steps
        for part in laid:
            at += len(part.ids)
            if part.region == "near" and part.streams:
                ends.append(at - 1)
        ids: list[int] = []
        if sample.reply is not None:
            closing = parts.closing if sample.rows and not isinstance(sample.rows[-1], str) else []
            stands = [row for row in sample.rows if isinstance(row, str)][-1:] == [sample.request]
            ask = [*closing, *parts.ask(sample.request, stands)]
            ids = [*encode(llm.tokenizer, sample.reply), parts.end]
            laid.append(parts.text("answer", [*ask, *ids]))
        num = sum(len(part.ids) for part in laid)
        rows.append(laid)
        labels.append([IGNORED] * (num - len(ids)) + ids)
        for name in HEADS:
            row = [IGNORED] * num
            of_steps = sample.labels.get(name, [IGNORED] * len(ends))
            if len(of_steps) != len(ends):
                raise ValueError(f"labels[{name!r}] must be {len(ends)}, a label a step, got {len(of_steps)}")
            for end, label in zip(ends, of_steps, strict=True):
                row[end] = label
            heads[name].append(row)
    batch = join_parts(rows, llm.names, padding_id(llm.tokenizer))
    batch["labels"] = padded(labels, IGNORED)
    return batch | {f"{name}_labels": padded(of, IGNORED) for name, of in heads.items()}


class LiveTask(nn.Module):
    """A language model with heads, and its loss on samples of live sessions.

    Args:
        llm: with heads.
        positive: how often labels of 1 count.
        heads: weight of the heads' loss beside the replies'.

    Raises:
        ValueError: the model has no heads.
    """

    accepts_loss_kwargs = False  # a Trainer's question: losses of a step's parts are means, to be averaged

    def __init__(self, llm: CausalLM, positive: float = 1.0, heads: float = 1.0) -> None:
        super().__init__()
        if llm.heads is None:
            raise ValueError("llm must have heads, got none; set llm.heads in the model's config")
        self.llm, self.positive, self.weight = llm, positive, heads

    @property
    def config(self) -> Any:
        """The language model's own config."""
        return self.llm.config

    @property
    def _no_split_modules(self) -> list[str]:
        return self.llm._no_split_modules

    def forward(self, labels: Tensor, **batch: Tensor) -> dict[str, Any]:
        """{"loss": (), "reply_loss": (), "heads_loss": (), "scores": head -> (n,) at n steps with a label,
        "known": head -> (n,) their labels} of what `collate_live` or `collate_duets` made."""
        heads = self.llm.heads
        assert heads is not None
        of_heads = {name: batch.pop(f"{name}_labels") for name in HEADS}
        keep = learned_places(labels)
        # rows are filled up at the end: what is real never attends to that, and needs no mask
        with head_at(self.llm.lm, keep):
            out = self.llm.lm(inputs_embeds=self.llm.embed(batch), use_cache=False, output_hidden_states=True)
        reply = with_loss(out.logits, labels, keep)["loss"] if len(keep) else out.hidden_states[-1].sum() * 0
        where = torch.stack([of_heads[name] != IGNORED for name in HEADS]).any(0)
        hidden = out.hidden_states[-1][where]
        known = {name: of_heads[name][where] for name in HEADS}
        of_steps = heads.loss(hidden, known, self.positive)
        return {
            "loss": reply + self.weight * of_steps, "reply_loss": reply.detach(),
            "heads_loss": of_steps.detach(), "scores": heads.scores(hidden.detach()), "known": known,
        }  # fmt: skip
