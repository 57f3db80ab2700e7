"""Videos and questions become a batch: a sample a row, padded, or several short ones in a row."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..config import LLMConfig
from ..types import Tokens
from .packing import first_fit
from .prompt import IGNORED, Example, Layout, conversation, encode, lay_out

Row = dict[str, list[int]]


def collate(
    examples: Sequence[Example],
    tokenizer: Any,
    config: LLMConfig,
    names: Sequence[str],
    *,
    left: bool = False,
    row_tokens: int = 0,
) -> dict[str, Tensor]:
    """One batch of unequal videos and questions as a flat dict of tensors.

    Turns of one example lie behind one another after the video. Where they are no dialogue, `branch` keeps
    them from seeing each other; where several examples share a row, `sample` does, and positions begin anew
    with each.

    Args:
        examples: B of them.
        tokenizer: the language model's.
        config: the language model's.
        names: streams in the language model's order.
        left: pad on the left (generation of several rows); turns must then be one each, or a dialogue.
        row_tokens: an example goes into the first row in which it makes no more than so many, else into a
            new one; 0: a row each.

    Returns:
        input_ids, attention_mask, position_ids, branch (0 = video), labels: (rows, L) int64, input_ids
        negative where video tokens go; with row_tokens also sample, the example's number, -1 where there is
        none; mark_ids (K, k), mark_s (K,); and for each stream NAME: NAME_x (N, C), NAME_size, NAME_start_s,
        NAME_end_s (N,), NAME_offsets (K + 1,), NAME_globals (G, C), all in the order of the rows. K counts
        the marks of all videos.

    Raises:
        ValueError: for an empty batch or question, several turns or row_tokens with `left`, a dialogue whose
            template or answers can't be learned.
    """
    if not examples:
        raise ValueError("examples must hold at least one video, got none")
    if row_tokens < 0 or (row_tokens and left):
        raise ValueError(f"row_tokens must be >= 0, and 0 when padding on the left, got {row_tokens}")
    layouts, rows = [], []
    for example in examples:
        if not example.turns:
            raise ValueError("turns must hold at least one question a video, got none")
        if left and len(example.turns) != 1 and not example.dialogue:
            raise ValueError(f"turns must be one a video when padding on the left, got {len(example.turns)}")
        layouts.append(lay_out(example.video, tokenizer, config, names))
        rows.append(_row(example, layouts[-1], tokenizer, config))
    order = list(range(len(rows)))
    if row_tokens:
        shared = first_fit([len(row["input_ids"]) for row in rows], row_tokens)
        order = [i for row in shared for i in row]
        rows = [_behind(shared_row, rows) for shared_row in shared]
    batch = _padded(rows, tokenizer, left=left)
    return batch | _tokens([examples[i] for i in order], [layouts[i] for i in order], names)


def text_positions(
    turns: Sequence[tuple[str, str | None]], tokenizer: Any, config: LLMConfig, *, dialogue: bool
) -> int:
    """Positions that questions and answers take after a video: all of a dialogue, else the longest of
    them."""
    _, parts = _turns(turns, tokenizer, config, dialogue)
    lengths = [len(tail) + len(learned) for tail, learned in parts]
    return sum(lengths) if dialogue else max(lengths)


def video_positions(example: Example, tokenizer: Any, config: LLMConfig, names: Sequence[str]) -> int:
    """Positions that an example's video takes, with what is said before it."""
    head, _ = conversation(tokenizer, config, [example.turns[0][0]])
    return len(head) + len(lay_out(example.video, tokenizer, config, names).ids)


def _turns(
    turns: Sequence[tuple[str, str | None]], tokenizer: Any, config: LLMConfig, dialogue: bool
) -> tuple[list[int], list[tuple[list[int], list[int]]]]:
    """(ids before the video, (ids before the answer, the answer's and the end) of each turn)."""
    questions = [question for question, _ in turns]
    if dialogue:
        if any(answer is None for _, answer in turns[:-1]):
            raise ValueError("turns of a dialogue must have answers, only the last may be left to generate")
        head, tails = conversation(tokenizer, config, questions)
    else:
        each = [conversation(tokenizer, config, [question]) for question in questions]
        head, tails = each[0][0], [tail for _, (tail,) in each]
    learned = [[] if a is None else [*encode(tokenizer, a), tokenizer.eos_token_id] for _, a in turns]
    return head, list(zip(tails, learned, strict=True))


def _row(example: Example, layout: Layout, tokenizer: Any, config: LLMConfig) -> Row:
    """Ids, labels, positions and branches of one example; labels come from token spans, never from text."""
    head, turns = _turns(example.turns, tokenizer, config, example.dialogue)
    ids = head + layout.ids
    video = len(ids)
    labels, position, branch = [IGNORED] * video, list(range(video)), [0] * video
    for number, (tail, learned) in enumerate(turns):
        begin = len(ids) if example.dialogue else video
        ids += tail + learned
        labels += [IGNORED] * len(tail) + learned
        position += range(begin, begin + len(tail) + len(learned))
        branch += [1 if example.dialogue else number + 1] * (len(tail) + len(learned))
    return {
        "input_ids": ids, "labels": labels, "position_ids": position, "branch": branch,
        "attention_mask": [1] * len(ids),
    }  # fmt: skip


def _behind(numbers: Sequence[int], rows: Sequence[Row]) -> Row:
    """Examples laid one behind another, each with its number."""
    row = {key: [value for i in numbers for value in rows[i][key]] for key in rows[0]}
    return row | {"sample": [i for i in numbers for _ in rows[i]["input_ids"]]}


def _padded(rows: Sequence[Row], tokenizer: Any, *, left: bool) -> dict[str, Tensor]:
    """(rows, L) int64 of each key. Where rows are shared, padding has positions of its own from 0 on, as if
    it were another example: that is how transformers tells examples of a row apart."""
    length = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": tokenizer.pad_token_id or 0, "labels": IGNORED, "sample": -1}
    batch = {}
    for key in rows[0]:
        padded = []
        for row in rows:
            missing = length - len(row[key])
            shared = key == "position_ids" and "sample" in row
            pad = list(range(missing)) if shared else [fill.get(key, 0)] * missing
            padded.append(pad + row[key] if left else row[key] + pad)
        batch[key] = torch.tensor(padded)
    return batch


def _tokens(examples: Sequence[Example], layouts: list[Layout], names: Sequence[str]) -> dict[str, Tensor]:
    """The packed tokens of all videos, and their marks."""
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
        made = [e.video.globals[name] for e in examples if len(e.video.globals.get(name, ()))]
        if made:
            batch[f"{name}_globals"] = torch.cat(made)
    return batch


def learned_places(labels: Tensor) -> Tensor:
    """(K,) int64 places of a batch, labels (B, L), whose logits say a learned token in any row."""
    return (labels[:, 1:] != IGNORED).any(0).nonzero()[:, 0]
