"""Tokens in words: the texts that are said of a token's time, as ids of the language model's tokenizer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...llm.prompt import encode, padded
from ...types import CompressedVideo, Event, Tokens
from ..records import Record
from .questions import SYMBOL

Ids = tuple[int, ...]
MAX_IDS = 32  # of a token's words


def text_ids(tokenizer: Any, text: str) -> Ids:
    """The ids of a text as in the middle of a sentence, without unknown ones."""
    return tuple(i for i in encode(tokenizer, f" {text.strip()}") if i != tokenizer.unk_token_id)


def whole_texts(record: Record) -> list[str]:
    """What is said of a whole video: its captions, or the answers of its dialogues without their times."""
    if any(map(str.strip, record.captions)):
        return list(record.captions)
    answers = [turn.text for turns in record.dialogues for turn in turns if turn.role == "assistant"]
    return [*record.captions, *(SYMBOL.sub("", answer) for answer in answers)]


def are_said_of(tokens: Tokens, events: Sequence[Event]) -> Tensor:
    """(N, E) bool: an event holds for more than half of a token's time."""
    starts = torch.tensor([e.start_s for e in events], dtype=torch.float64)
    ends = torch.tensor([e.end_s for e in events], dtype=torch.float64)
    start, end = tokens.start_s[:, None], tokens.end_s[:, None]
    return torch.minimum(end, ends) - torch.maximum(start, starts) > (end - start) / 2


def words_of(video: CompressedVideo, record: Record, tokenizer: Any) -> dict[str, Tensor]:
    """stream -> (N, k) int64 ids of the words that stand for each token, filled up with -1: of its events,
    without any of what is said of the whole video."""
    events = [text_ids(tokenizer, event.text) for event in record.events]
    whole = [i for text in whole_texts(record) for i in text_ids(tokenizer, text)]
    out = {}
    for name, tokens in video.streams.items():
        rows = are_said_of(tokens, record.events).tolist()
        of_each = [[i for ids, holds in zip(events, row, strict=True) if holds for i in ids] for row in rows]
        out[name] = padded([(ids or whole)[:MAX_IDS] for ids in of_each], -1)
    return out
