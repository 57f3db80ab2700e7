"""The text around a film and the order of its tokens: mark, tokens, mark, tokens, ... in time order, as one
batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..budget import mark_seconds
from ..config import HostConfig
from ..types import Tokens

IGNORED = -100
FILM = "\ufffcfilm\ufffc"  # stands for the film while a chat template is applied


@dataclass(frozen=True)
class Film:
    """A settled memory, as a host reads it.

    Attributes:
        streams: stream name -> Tokens.
        globals: stream name -> (E, C) float32.
        budget: what the marks' number is bound by.
    """

    streams: dict[str, Tokens]
    globals: dict[str, Tensor]
    budget: int


@dataclass(frozen=True)
class Example:
    """A film with questions; each answer is learned (training), or to be generated (None).

    Attributes:
        film: what they are about.
        turns: (question, answer or None); they don't see one another.
    """

    film: Film
    turns: Sequence[tuple[str, str | None]]


@dataclass(frozen=True)
class Layout:
    """A film as prompt ids: text tokens >= 0, and a negative number where a token of stream i goes.

    Attributes:
        ids: the whole film; -(2 i + 1) is the next token of stream i, -(2 i + 2) its next global token.
        streams: stream -> Tokens in the order of their places.
        offsets: stream -> (K + 1,) int32 where the tokens of each mark begin.
        mark_ids: (K, k) int64 text tokens of each mark, -1 where a mark has fewer.
        mark_s: (K,) float64 start of each mark.
    """

    ids: list[int]
    streams: dict[str, Tokens]
    offsets: dict[str, Tensor]
    mark_ids: Tensor
    mark_s: Tensor


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text` alone, no special tokens added."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def mark_text(config: HostConfig, start_s: float) -> str:
    """What a mark at start_s says."""
    whole = int(start_s)
    clock = f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return config.mark.format(start=whole, clock=clock, tens=whole // 10)


def around(tokenizer: Any, config: HostConfig, question: str) -> tuple[list[int], list[int]]:
    """(ids before the film, ids between the film and the answer)."""
    if not question.strip():
        raise ValueError("question must not be empty; ask something, e.g. 'What happens first?'")
    said = config.question.format(question=question)
    if getattr(tokenizer, "chat_template", None):
        messages = [{"role": "system", "content": config.system}] if config.system else []
        messages.append({"role": "user", "content": FILM + said})
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        head, found, tail = text.partition(FILM)
        if not found:
            raise ValueError("the tokenizer's chat_template drops the user's content; set another one")
        return encode(tokenizer, head), encode(tokenizer, tail)
    head = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    return head + (encode(tokenizer, config.system) if config.system else []), encode(tokenizer, said)


def lay_out(film: Film, tokenizer: Any, config: HostConfig, names: Sequence[str]) -> Layout:
    """The film's tokens in the order of the prompt: global ones first, then mark by mark, stream beside
    stream."""
    unknown = sorted(set(film.streams) - set(names))
    if unknown:
        raise ValueError(f"film has stream {unknown[0]!r}, this model reads {tuple(names)}")
    ids: list[int] = []
    for i, name in enumerate(names):
        ids += [-(2 * i + 2)] * len(film.globals.get(name, ()))
    held = {n: t for n, t in film.streams.items() if len(t)}
    if not held:
        return Layout(ids, {}, {}, torch.zeros(0, 1, dtype=torch.int64), torch.zeros(0, dtype=torch.float64))
    first_s = min(float(t.start_s.min()) for t in held.values())
    last_s = max(float(t.end_s.max()) for t in held.values())
    num_text = len(encode(tokenizer, mark_text(config, last_s)))
    step = mark_seconds(last_s - first_s, config.mark_s, film.budget, num_text)
    number = {n: (t.start_s / step + 1e-9).floor().long() for n, t in held.items()}
    marks = torch.cat(list(number.values())).unique().cpu()  # sorted
    texts = [encode(tokenizer, mark_text(config, float(m) * step)) for m in marks.tolist()]
    streams, offsets, counts = {}, {}, {}
    for name, tokens in held.items():
        order = number[name].argsort(stable=True)  # tokens come by time_s; a mark's stay so
        streams[name] = tokens.take(order)
        counts[name] = torch.bincount(
            torch.searchsorted(marks, number[name].cpu()), minlength=len(marks)
        ).tolist()
        offsets[name] = torch.tensor([0, *counts[name]]).cumsum(0).int()
    for k, text in enumerate(texts):
        ids += text
        for i, name in enumerate(names):
            if name in counts:
                ids += [-(2 * i + 1)] * counts[name][k]
    longest = max(len(t) for t in texts)
    mark_ids = torch.tensor([t + [-1] * (longest - len(t)) for t in texts])
    return Layout(ids, streams, offsets, mark_ids, marks.double() * step)


def collate(
    examples: Sequence[Example],
    tokenizer: Any,
    config: HostConfig,
    names: Sequence[str],
    *,
    left: bool = False,
) -> dict[str, Tensor]:
    """One batch of unequal films and questions as a flat dict of tensors.

    Several turns of one example lie behind one another after the film; `branch` keeps them from seeing each
    other.

    Args:
        examples: B of them.
        tokenizer: the host's.
        config: the host's.
        names: streams in the host's order.
        left: pad on the left (generation of several rows); turns must then be one each.

    Returns:
        input_ids, attention_mask, position_ids, branch (0 = film), labels: (B, L) int64, input_ids negative
        where
        film tokens go; mark_ids (K, k), mark_s (K,); and for each stream NAME: NAME_x (N, C), NAME_size,
        NAME_start_s,
        NAME_end_s (N,), NAME_offsets (K + 1,), NAME_globals (G, C). K counts the marks of all films.

    Raises:
        ValueError: for an empty batch or question, or several turns with `left`.
    """
    if not examples:
        raise ValueError("examples must hold at least one film, got none")
    rows = []
    layouts = []
    for example in examples:
        if not example.turns:
            raise ValueError("turns must hold at least one question a film, got none")
        if left and len(example.turns) != 1:
            raise ValueError(f"turns must be one a film when padding on the left, got {len(example.turns)}")
        layout = lay_out(example.film, tokenizer, config, names)
        layouts.append(layout)
        rows.append(_row(example, layout, tokenizer, config))
    length = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": tokenizer.pad_token_id or 0, "labels": IGNORED}
    batch = {}
    for key in rows[0]:
        padded = []
        for row in rows:
            pad = [fill.get(key, 0)] * (length - len(row[key]))
            padded.append(pad + row[key] if left else row[key] + pad)
        batch[key] = torch.tensor(padded)
    return batch | _tokens(examples, layouts, names)


def _row(example: Example, layout: Layout, tokenizer: Any, config: HostConfig) -> dict[str, list[int]]:
    """Ids, labels, positions and branches of one example; labels come from token spans, never from text."""
    ids: list[int] = []
    labels: list[int] = []
    position: list[int] = []
    branch: list[int] = []
    for turn, (question, answer) in enumerate(example.turns):
        head, tail = around(tokenizer, config, question)
        if turn == 0:
            ids = head + layout.ids
            labels, position, branch = [IGNORED] * len(ids), list(range(len(ids))), [0] * len(ids)
            film = len(ids)
        learned = [] if answer is None else [*encode(tokenizer, answer), tokenizer.eos_token_id]
        ids += tail + learned
        labels += [IGNORED] * len(tail) + learned
        position += range(film, film + len(tail) + len(learned))
        branch += [turn + 1] * (len(tail) + len(learned))
    return {
        "input_ids": ids, "labels": labels, "position_ids": position, "branch": branch,
        "attention_mask": [1] * len(ids),
    }  # fmt: skip


def _tokens(examples: Sequence[Example], layouts: list[Layout], names: Sequence[str]) -> dict[str, Tensor]:
    """The packed tokens of all films, and their marks."""
    longest = max(layout.mark_ids.shape[1] for layout in layouts)
    marks = [
        torch.nn.functional.pad(m, (0, longest - m.shape[1]), value=-1) for m in (y.mark_ids for y in layouts)
    ]
    batch = {"mark_ids": torch.cat(marks), "mark_s": torch.cat([y.mark_s for y in layouts])}
    for name in names:
        parts = [y.streams[name] for y in layouts if name in y.streams]
        if parts:
            tokens = Tokens.join(parts)
            batch |= {f"{name}_{f}": getattr(tokens, f) for f in ("x", "size", "start_s", "end_s")}
            offsets, first = [torch.zeros(1, dtype=torch.int32)], 0
            for y in layouts:
                count = len(y.mark_s)
                own = y.offsets[name][1:] if name in y.streams else torch.zeros(count, dtype=torch.int32)
                offsets.append(own + first)
                first += len(y.streams[name]) if name in y.streams else 0
            batch[f"{name}_offsets"] = torch.cat(offsets)
        made = [e.film.globals[name] for e in examples if len(e.film.globals.get(name, ()))]
        if made:
            batch[f"{name}_globals"] = torch.cat(made)
    return batch
