"""The text around a video and the order of its tokens: mark, tokens, mark, tokens, ... in time order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..compression.budget import mark_seconds
from ..config import LLMConfig
from ..types import CompressedVideo, Tokens

IGNORED = -100
VIDEO = "\ufffcfilm\ufffc"  # stands for the video while a chat template is applied
ANSWER = "\ufffcanswer {}\ufffc"  # and for an answer


@dataclass(frozen=True)
class Example:
    """A video with questions; each answer is learned (training), or to be generated (None).

    Attributes:
        video: what they are about.
        turns: (question, answer or None).
        dialogue: they follow one another in one conversation; else each sees the video only, as if asked
            alone.
    """

    video: CompressedVideo
    turns: Sequence[tuple[str, str | None]]
    dialogue: bool = False


@dataclass(frozen=True)
class Layout:
    """A video as prompt ids: text tokens >= 0, and a negative number where a token of stream i goes.

    Attributes:
        ids: the whole video; -(2 i + 1) is the next token of stream i, -(2 i + 2) its next global token.
        streams: stream -> Tokens in the order of their places.
        offsets: stream -> (K + 1,) int32 where the tokens of each mark begin; K = 0 without marks. Marks are
            those of every `mark_s` in which something starts, also where one text stands for several.
        mark_ids: (K, k) int64 text tokens of each mark, -1 where a mark has fewer.
        mark_s: (K,) float64 start of each mark.
        said_s: (k,) float64 start of those that stand in the prompt as text.
    """

    ids: list[int]
    streams: dict[str, Tokens]
    offsets: dict[str, Tensor]
    mark_ids: Tensor
    mark_s: Tensor
    said_s: Tensor


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text` alone, no special tokens added."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def mark_text(config: LLMConfig, start_s: float) -> str:
    """What a mark at start_s says."""
    whole = int(start_s)
    clock = f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return config.timestamp.format(start=whole, clock=clock, tens=whole // 10)


def around(tokenizer: Any, config: LLMConfig, question: str) -> tuple[list[int], list[int]]:
    """(ids before the video, ids between the video and the answer)."""
    head, (tail,) = conversation(tokenizer, config, [question])
    return head, tail


def conversation(
    tokenizer: Any, config: LLMConfig, questions: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """(ids before the video, ids before each answer) of questions that follow one another about one video.

    The text is the tokenizer's own template, applied to the whole, and lies in pieces: before the video,
    from it to the first answer, from the end token of an answer to the next answer. Spaces that it writes
    around an answer (Llama 2, Mistral) are left out, or are those it asks for an answer with: answers are
    learned as they are made. Without a template it is `LLMConfig.question` over and over.

    Raises:
        ValueError: for an empty question, or a template that drops, moves or rewrites turns.
    """
    if not all(question.strip() for question in questions):
        raise ValueError("question must not be empty; ask something, e.g. 'What happens first?'")
    said = [config.question.format(question=question) for question in questions]
    if not getattr(tokenizer, "chat_template", None):
        head = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        head += encode(tokenizer, config.system) if config.system else []
        return head, [encode(tokenizer, text) for text in said]
    before, first, *later = _pieces(_rendered(tokenizer, config, said), said)
    if later:
        opening, asked = _pieces(_rendered(tokenizer, config, said[:1]), said[:1])
        spaces = asked[len(asked.rstrip()) :]
        first, *later = [piece.rstrip() + spaces for piece in (first, *later)]
        if [before, first] != [opening, asked]:
            raise ValueError(
                "the tokenizer's chat template writes the first turn of a dialogue otherwise than one alone; "
                "it would be learned as it is never asked; set another one, or leave the system text empty"
            )
    return encode(tokenizer, before), [encode(tokenizer, first), *(_after_end(tokenizer, x) for x in later)]


def _rendered(tokenizer: Any, config: LLMConfig, said: Sequence[str]) -> str:
    """The template's text up to where the last answer begins."""
    messages = [{"role": "system", "content": config.system}] if config.system else []
    for number, text in enumerate(said):
        if number:
            messages.append({"role": "assistant", "content": ANSWER.format(number)})
        messages.append({"role": "user", "content": text if number else VIDEO + text})
    whole: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return whole


def _pieces(whole: str, said: Sequence[str]) -> list[str]:
    """The text before the video, and before each answer."""
    pieces, rest = [], whole
    for number in range(len(said)):
        place = ANSWER.format(number) if number else VIDEO
        piece, found, rest = rest.partition(place)
        if not found or whole.count(place) > 1:
            what = f"answer {number} of a dialogue" if number else "the user's content"
            raise ValueError(f"the tokenizer's chat template drops, moves or repeats {what}; set another one")
        pieces.append(piece)
    pieces.append(rest)
    for number, text in enumerate(said):
        if len(said) > 1 and text.strip() not in pieces[number + 1]:
            raise ValueError(
                "the tokenizer's chat template drops, moves or rewrites "
                f"question {number + 1} of a dialogue; set another one"
            )
    return pieces


def _after_end(tokenizer: Any, piece: str) -> list[int]:
    """Ids of what follows an answer, less the end token that the template writes there: an answer has one."""
    end = tokenizer.eos_token
    if not piece.lstrip().startswith(end):
        return encode(tokenizer, piece)
    ids = encode(tokenizer, piece.lstrip())  # with it, for what comes first can be written otherwise
    return ids[1:] if ids[0] == tokenizer.eos_token_id else encode(tokenizer, piece.lstrip()[len(end) :])


def lay_out(video: CompressedVideo, tokenizer: Any, config: LLMConfig, names: Sequence[str]) -> Layout:
    """The video's tokens in the order of the prompt: global ones first, then mark by mark, stream beside
    stream; or stream after stream (`LLMConfig.order`)."""
    unknown = sorted(set(video.streams) - set(names))
    if unknown:
        raise ValueError(f"video has stream {unknown[0]!r}, this model reads {tuple(names)}")
    ids: list[int] = []
    for i, name in enumerate(names):
        ids += [-(2 * i + 2)] * len(video.globals.get(name, ()))
    held = {n: t for n, t in video.streams.items() if len(t)}
    if not held or config.order == "blocks":
        for i, name in enumerate(names):
            ids += [-(2 * i + 1)] * len(held.get(name, ()))
        none = torch.zeros(1, dtype=torch.int32)  # marks, and so tokens that belong to one
        marks = torch.zeros(0, 1, dtype=torch.int64)
        never = torch.zeros(0, dtype=torch.float64)
        return Layout(ids, held, dict.fromkeys(held, none), marks, never, never)
    first_s = min(float(t.start_s.min()) for t in held.values())
    last_s = max(float(t.end_s.max()) for t in held.values())
    num_text = len(encode(tokenizer, mark_text(config, last_s)))
    step = mark_seconds(last_s - first_s, config.timestamp_s, video.budget, num_text)
    fine = config.timestamp_s  # a token's own time is that of its own mark, said or not
    number = {n: (t.start_s / fine + 1e-9).floor().long() for n, t in held.items()}
    marks = torch.cat(list(number.values())).unique().cpu()  # sorted
    texts = [encode(tokenizer, mark_text(config, float(m) * fine)) for m in marks.tolist()]
    streams, offsets, counts = {}, {}, {}
    for name, tokens in held.items():
        order = number[name].argsort(stable=True)  # tokens come by time_s; a mark's stay so
        streams[name] = tokens.take(order)
        counts[name] = torch.bincount(
            torch.searchsorted(marks, number[name].cpu()), minlength=len(marks)
        ).tolist()
        offsets[name] = torch.tensor([0, *counts[name]]).cumsum(0).int()
    said = (marks.double() * fine / step + 1e-9).floor()  # several have one text in common
    shown = said.unique()
    for group in shown.tolist():
        of = (said == group).nonzero()[:, 0].tolist()
        ids += encode(tokenizer, mark_text(config, group * step))
        for i, name in enumerate(names):
            if name in counts:
                ids += [-(2 * i + 1)] * sum(counts[name][k] for k in of)
    longest = max(len(t) for t in texts)
    mark_ids = torch.tensor([t + [-1] * (longest - len(t)) for t in texts])
    return Layout(ids, streams, offsets, mark_ids, marks.double() * fine, shown * step)
