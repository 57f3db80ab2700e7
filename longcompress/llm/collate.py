"""Videos and questions become a batch: a padded row for each example, or several short examples in a row."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..config import LLMConfig
from ..types import Tokens
from .packing import first_fit
from .prompt import IGNORED, Example, Layout, conversation, encode, lay_out, padded, padding_id

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

    The turns of an example lie one behind the other after the video. Where they are no dialogue, `branch`
    keeps them from seeing each other. `sample` does the same for examples that share a row, each with
    positions from 0 on.

    Args:
        examples: B of them.
        tokenizer: the language model's.
        config: the language model's.
        names: streams in the language model's order.
        left: pad on the left (generation of several rows); an example must then be one turn or a dialogue.
        row_tokens: an example goes into the first row that has no more tokens with it, else into a new row;
            0: a row each.

    Returns:
        input_ids, attention_mask, position_ids, branch (0 = video), labels: (rows, L) int64, input_ids
        negative at video tokens; with row_tokens also sample, the example's number or -1 at padding;
        timestamp_ids (K, k), timestamp_start_s (K,), K timestamps of all videos; for each stream NAME: NAME_x
        (N, C), NAME_size, NAME_start_s, NAME_end_s (N,), NAME_offsets (K + 1,), NAME_globals (G, C), all in
        the order of the rows.
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
    """Positions that questions and answers take after a video: the sum of a dialogue, else the longest."""
    _, parts = _turns(turns, tokenizer, config, dialogue)
    lengths = [len(tail) + len(learned) for tail, learned in parts]
    return sum(lengths) if dialogue else max(lengths)


def video_positions(example: Example, tokenizer: Any, config: LLMConfig, names: Sequence[str]) -> int:
    """Positions that an example's video takes, with the text before it."""
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
    """Ids, labels, positions and branches of one example; labels are cut from ids, never searched in text."""
    head, turns = _turns(example.turns, tokenizer, config, example.dialogue)
    ids = head + layout.ids
    video = len(ids)
    labels, position, branch = [IGNORED] * video, list(range(video)), [0] * video
    for number, (tail, learned) in enumerate(turns):
        start = len(ids) if example.dialogue else video
        ids += tail + learned
        labels += [IGNORED] * len(tail) + learned
        position += range(start, start + len(tail) + len(learned))
        branch += [1 if example.dialogue else number + 1] * (len(tail) + len(learned))
    return {
        "input_ids": ids, "labels": labels, "position_ids": position, "branch": branch,
        "attention_mask": [1] * len(ids),
    }  # fmt: skip


def _behind(numbers: Sequence[int], rows: Sequence[Row]) -> Row:
    """Examples one behind the other in a row, each with its number."""
    row = {key: [value for i in numbers for value in rows[i][key]] for key in rows[0]}
    return row | {"sample": [i for i in numbers for _ in rows[i]["input_ids"]]}


def _padded(rows: Sequence[Row], tokenizer: Any, *, left: bool) -> dict[str, Tensor]:
    """(rows, L) int64 of each key."""
    fill = {"input_ids": padding_id(tokenizer), "labels": IGNORED, "sample": -1}
    batch = {key: padded([row[key] for row in rows], fill.get(key, 0), left=left) for key in rows[0]}
    if "sample" in batch:
        # transformers tells examples of a row apart by positions that start at 0: padding is one more example
        for position, row in zip(batch["position_ids"], rows, strict=True):
            num = len(row["position_ids"])
            position[num:] = torch.arange(len(position) - num)
    return batch


def _tokens(examples: Sequence[Example], layouts: list[Layout], names: Sequence[str]) -> dict[str, Tensor]:
    """The packed tokens of all videos, and their timestamps."""
    texts = [ids for layout in layouts for ids in layout.timestamp_ids.tolist()]
    batch = {
        "timestamp_ids": padded(texts, -1) if texts else layouts[0].timestamp_ids,
        "timestamp_start_s": torch.cat([layout.timestamp_start_s for layout in layouts]),
    }
    for name in names:
        parts = [layout.streams[name] for layout in layouts if name in layout.streams]
        if parts:
            tokens = Tokens.join(parts)
            batch |= {f"{name}_{f}": getattr(tokens, f) for f in ("x", "size", "start_s", "end_s")}
            batch[f"{name}_offsets"] = _joined_offsets(name, layouts)
        tokens_of = [e.video.globals[name] for e in examples if len(e.video.globals.get(name, ()))]
        if tokens_of:
            batch[f"{name}_globals"] = torch.cat(tokens_of)
    return batch


def _joined_offsets(name: str, layouts: Sequence[Layout]) -> Tensor:
    """(K + 1,) int32 offsets of a stream over the timestamps of all videos, also of videos without it."""
    offsets, first = [torch.zeros(1, dtype=torch.int32)], 0
    for layout in layouts:
        if name in layout.streams:
            offsets.append(layout.offsets[name][1:] + first)
            first += len(layout.streams[name])
        else:
            offsets.append(torch.full((len(layout.timestamp_start_s),), first, dtype=torch.int32))
    return torch.cat(offsets)


def learned_places(labels: Tensor) -> Tensor:
    """(K,) int64 places of labels (B, L) whose logits predict a learned token in any row."""
    return (labels[:, 1:] != IGNORED).any(0).nonzero()[:, 0]
