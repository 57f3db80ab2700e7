"""Videos and questions become ids and batches.

The text around a video comes from the tokenizer's template. A video is timestamp, tokens, timestamp, tokens,
... by time. In a batch each example has a padded row, or several short examples share a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..config_llm import LLMConfig, clock
from ..types import HALF, CompressedVideo, Tokens
from .packing import first_fit
from .texts import by_start, shown_texts

Turns = Sequence[tuple[str, str | None]]
IGNORED = -100
BASE_QUESTION = "\n{question}\n"  # a base model takes a line break for the end of a question
VIDEO = "\ufffcvideo\ufffc"  # stands for the video while a chat template is applied
ANSWER = "\ufffcanswer {}\ufffc"  # and for an answer


@dataclass(frozen=True)
class Example:
    """A video with questions; each answer is learned (training), or to be generated (None).

    Attributes:
        video: the video of all questions.
        turns: (question, answer or None).
        dialogue: the turns follow one another in a conversation; otherwise each sees only the video.
        plain: to learn answers alone, each between two line breaks, without question and prompt: the first
            stage of LLaVA and VTimeLLM.
    """

    video: CompressedVideo
    turns: Turns
    dialogue: bool = False
    plain: bool = False


@dataclass(frozen=True)
class Layout:
    """A video as prompt ids: text tokens >= 0, and negative placeholders of video tokens.

    A timestamp is a multiple of `LLMConfig.timestamp_s` in whose seconds a token starts. A text in the prompt
    may stand for several of them.

    Attributes:
        ids: the whole video; see `placeholder` and `global_placeholder`.
        streams: stream -> Tokens in the order of their placeholders.
        offsets: stream -> (K + 1,) int32 first token of each timestamp; K = 0 without timestamps.
        timestamp_ids: (K, k) int64 text tokens of each timestamp, padded with -1.
        timestamp_start_s: (K,) float64.
        shown_s: (k,) float64 start of those whose text is in the prompt.
        words: those of the video, in the order of the placeholders.
    """

    ids: list[int]
    streams: dict[str, Tokens]
    offsets: dict[str, Tensor]
    timestamp_ids: Tensor
    timestamp_start_s: Tensor
    shown_s: Tensor
    words: dict[str, Tensor]


def placeholder(stream: int) -> int:
    """The id in a prompt that stands for the next token of stream number `stream`: -1, -3, ..."""
    return -(2 * stream + 1)


def global_placeholder(stream: int) -> int:
    """The id in a prompt that stands for the next global token of stream number `stream`: -2, -4, ..."""
    return -(2 * stream + 2)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text` alone, no special tokens added; ValueError for half a character."""
    if HALF.search(text):
        raise ValueError(f"text must be whole characters, got {text!r:.60}; a cut emoji leaves half of one")
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def dialogue_of(question: str | Turns) -> Turns:
    """The turns of a dialogue, or of a question alone."""
    return [(question, None)] if isinstance(question, str) else question


def conversation(
    tokenizer: Any, config: LLMConfig, questions: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """(ids before the video, ids before each answer) of questions that follow one another about one video.

    The tokenizer's template is applied to the whole conversation. Its text is cut at the video and after the
    end token of each answer. Spaces that it writes around an answer (Llama 2, Mistral) are left out, or are
    those before the first answer: answers are learned as they are generated. Without a template,
    `LLMConfig.question` and `next_question` are, as they stand after an answer's end token.

    Raises:
        ValueError: for an empty question, or a template that drops, moves or rewrites turns.
    """
    own = config.question or ("{question}" if getattr(tokenizer, "chat_template", None) else BASE_QUESTION)
    texts = question_texts(own, questions)
    if not getattr(tokenizer, "chat_template", None):
        head = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        head += encode(tokenizer, config.system) if config.system else []
        form, end = config.next_question or own, tokenizer.eos_token or ""
        rest = [after_end(tokenizer, end + form.format(question=q)) for q in questions[1:]]
        return head, [encode(tokenizer, texts[0]), *rest]
    before, first, *later = conversation_texts(tokenizer, config, texts)
    return encode(tokenizer, before), [encode(tokenizer, first), *(after_end(tokenizer, x) for x in later)]


def question_texts(form: str, questions: Sequence[str]) -> list[str]:
    """The texts of users' turns of a form that ask these questions; ValueError for an empty question."""
    if not all(question.strip() for question in questions):
        raise ValueError("question must not be empty; ask something, e.g. 'What happens first?'")
    return [form.format(question=question) for question in questions]


def conversation_texts(
    tokenizer: Any, config: LLMConfig, texts: Sequence[str], media: tuple[str, str] | None = None
) -> list[str]:
    """The template's text before the video and before each answer, of users' turns `texts`.

    Args:
        media: "video" or "audio", and what the template writes for it; None: the template knows none, so the
            video stands before the first text.
    """
    before, first, *later = _cut(_rendered(tokenizer, config, texts, media), texts)
    if later:
        # the first turn must read as it does alone, which is how it is asked
        before_alone, alone = _cut(_rendered(tokenizer, config, texts[:1], media), texts[:1])
        spaces = alone[len(alone.rstrip()) :]
        first, *later = [text.rstrip() + spaces for text in (first, *later)]
        if [before, first] != [before_alone, alone]:
            raise ValueError(
                "the tokenizer's chat template writes the first turn of a dialogue otherwise than one alone; "
                "it would be learned as it is never asked; set another one, or leave the system text empty"
            )
    return [before, first, *later]


def _rendered(tokenizer: Any, config: LLMConfig, texts: Sequence[str], media: tuple[str, str] | None) -> str:
    """The template's text up to the start of the last answer, VIDEO in the place of the video."""
    turns = [("system", config.system)] if config.system else []
    for number, text in enumerate(texts):
        if number:
            turns.append(("assistant", ANSWER.format(number)))
        is_written = number or (media and media[1])  # by the template itself
        turns.append(("user", text if is_written else VIDEO + text))
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in turns]
    if media:  # templates of models that see take lists
        messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
        if media[1]:
            messages[bool(config.system)]["content"].insert(0, {"type": media[0]})
    text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return text.replace(media[1], VIDEO) if media and media[1] else text


def _cut(whole: str, texts: Sequence[str]) -> list[str]:
    """The text before the video, and before each answer."""
    parts, rest = [], whole
    for number in range(len(texts)):
        mark = ANSWER.format(number) if number else VIDEO
        part, match, rest = rest.partition(mark)
        if not match or whole.count(mark) > 1:
            what = f"answer {number} of a dialogue" if number else "the user's content"
            raise ValueError(f"the tokenizer's chat template drops, moves or repeats {what}; set another one")
        parts.append(part)
    parts.append(rest)
    for number, text in enumerate(texts):
        if len(texts) > 1 and text.strip() not in parts[number + 1]:
            raise ValueError(
                "the tokenizer's chat template drops, moves or rewrites "
                f"question {number + 1} of a dialogue; set another one"
            )
    return parts


def after_end(tokenizer: Any, text: str) -> list[int]:
    """Ids of the text behind an answer, less the template's end token: an answer has its own."""
    stripped = text.lstrip()
    if not tokenizer.eos_token or not stripped.startswith(tokenizer.eos_token):
        return encode(tokenizer, text)
    ids = encode(tokenizer, stripped)  # with the end token, which can change the tokens behind it
    if ids[0] == tokenizer.eos_token_id:
        return ids[1:]
    return encode(tokenizer, stripped[len(tokenizer.eos_token) :])


def padding_id(tokenizer: Any) -> int:
    """The id that fills rows up: the padding token, or the end token of a tokenizer without one."""
    pad: int | None = tokenizer.pad_token_id
    end: int = tokenizer.eos_token_id
    return end if pad is None else pad


def padded(rows: Sequence[Sequence[int]], fill: int, *, left: bool = False) -> Tensor:
    """(len(rows), L) int64 of the rows, filled up to the longest."""
    length = max(map(len, rows))
    full = [[fill] * (length - len(r)) + [*r] if left else [*r] + [fill] * (length - len(r)) for r in rows]
    return torch.tensor(full, dtype=torch.int64).reshape(len(rows), length)


def timestamp_text(config: LLMConfig, start_s: float) -> str:
    """The text of a timestamp at start_s."""
    whole = int(start_s)
    return config.timestamp.format(start=whole, clock=clock(start_s), tens=whole // 10)


def lay_out(video: CompressedVideo, tokenizer: Any, config: LLMConfig, names: Sequence[str]) -> Layout:
    """The video's tokens in the order of the prompt.

    Global tokens come first. Then come timestamp by timestamp the streams side by side, or one stream after
    the other (`LLMConfig.order`). Texts follow their timestamp, or all tokens where there is none.
    """
    unknown = [name for name in video.streams if name not in names]
    if unknown:
        raise ValueError(f"video has stream {unknown[0]!r}, this model reads {tuple(names)}")
    ids: list[int] = []
    texts = shown_texts(video.text, tokenizer, config)[0] if video.text else []
    for i, name in enumerate(names):
        ids += [global_placeholder(i)] * len(video.globals.get(name, ()))
    streams = {name: tokens for name, tokens in video.streams.items() if len(tokens)}
    if not streams or config.order == "blocks":
        for i, name in enumerate(names):
            ids += [placeholder(i)] * len(streams.get(name, ()))
        empty = torch.zeros(0, dtype=torch.float64)
        offsets = dict.fromkeys(streams, torch.zeros(1, dtype=torch.int32))
        ids += encode(tokenizer, "".join(text for _, text in texts)) if texts else []
        return Layout(ids, streams, offsets, torch.zeros(0, 1, dtype=torch.int64), empty, empty, video.words)
    step_s = config.timestamp_s
    number = {name: (tokens.start_s / step_s + 1e-9).floor().long() for name, tokens in streams.items()}
    numbers = torch.cat(list(number.values())).unique().cpu()  # (K,) rising
    ordered, counts, words = {}, {}, {}
    for name, tokens in streams.items():
        by_timestamp = number[name].argsort(stable=True)  # then as they come
        ordered[name] = tokens.take(by_timestamp)
        if name in video.words:
            words[name] = video.words[name][by_timestamp]
        place = torch.searchsorted(numbers, number[name].cpu())
        counts[name] = torch.bincount(place, minlength=len(numbers))  # (K,)
    # a text for every `shown_step_s`, so that the texts fit the budget; timestamps of one text share it
    first_s = min(float(tokens.start_s.min()) for tokens in streams.values())
    last_s = max(float(tokens.end_s.max()) for tokens in streams.values())
    num_text = len(encode(tokenizer, timestamp_text(config, last_s)))
    shown_step_s = config.timestamp_step_s(last_s - first_s, video.budget, num_text)
    text_of = (numbers.double() * step_s / shown_step_s + 1e-9).floor()
    shown = text_of.unique()
    cues_of = by_start(texts, (shown * shown_step_s).tolist()) if texts else [""] * len(shown)
    for text, cues in zip(shown.tolist(), cues_of, strict=True):
        ids += encode(tokenizer, timestamp_text(config, text * shown_step_s))
        ids += encode(tokenizer, cues) if cues else []
        for i, name in enumerate(names):
            if name in counts:
                ids += [placeholder(i)] * int(counts[name][text_of == text].sum())
    offsets = {name: torch.nn.functional.pad(n.cumsum(0), (1, 0)).int() for name, n in counts.items()}
    start_s = numbers.double() * step_s
    stamps = [encode(tokenizer, timestamp_text(config, s)) for s in start_s.tolist()]
    return Layout(ids, ordered, offsets, padded(stamps, -1), start_s, shown * shown_step_s, words)


def check_batch(examples: Sequence[Example], left: bool, row_tokens: int) -> None:
    """ValueError for what no batch can be made of."""
    if not examples:
        raise ValueError("examples must hold at least one video, got none")
    if row_tokens < 0 or (row_tokens and left):
        raise ValueError(f"row_tokens must be >= 0, and 0 when padding on the left, got {row_tokens}")
    for example in examples:
        if not example.turns:
            raise ValueError("turns must hold at least one question a video, got none")
        if left and len(example.turns) != 1 and not example.dialogue:
            raise ValueError(f"turns must be one a video when padding on the left, got {len(example.turns)}")


def collate(
    examples: Sequence[Example], tokenizer: Any, config: LLMConfig, names: Sequence[str], *,
    left: bool = False, row_tokens: int = 0,
) -> dict[str, Tensor]:  # fmt: skip
    """One batch of unequal videos and questions as a flat dict of tensors.

    The turns of an example lie one behind the other after the video. Where they are no dialogue, `branch`
    keeps them from seeing each other. `sample` does the same for examples that share a row, each with
    positions from 0 on.

    Args:
        examples: B of them.
        tokenizer, config, names: of the language model; its streams in order.
        left: pad on the left (generation of several rows); an example must then be one turn or a dialogue.
        row_tokens: an example goes into the first row that has no more tokens with it, else into a new row;
            0: a row each.

    Returns:
        input_ids, attention_mask, position_ids, branch (0 = video), labels: (rows, L) int64, input_ids
        negative at video tokens; with row_tokens also sample, the example's number or -1 at padding;
        timestamp_ids (K, k), timestamp_start_s (K,), K timestamps of all videos; for each stream NAME: NAME_x
        (N, C), NAME_size, NAME_start_s, NAME_end_s (N,), NAME_offsets (K + 1,), NAME_globals (G, C); where
        learned ones are trained NAME_inputs (N, C), NAME_input_size (N,), NAME_input_counts (videos,); where
        tokens are words NAME_words (N, k). All are in the order of the rows.
    """
    check_batch(examples, left, row_tokens)
    layouts = [lay_out(example.video, tokenizer, config, names) for example in examples]
    rows = [_row(e, layout, tokenizer, config) for e, layout in zip(examples, layouts, strict=True)]
    fills = {"input_ids": padding_id(tokenizer), "labels": IGNORED}
    batch, order = batch_of(rows, fills, left=left, row_tokens=row_tokens)
    return batch | packed_tokens([examples[i] for i in order], [layouts[i] for i in order], names)


def batch_of(
    examples: Sequence[dict[str, Tensor]], fills: Mapping[str, int], *, left: bool, row_tokens: int
) -> tuple[dict[str, Tensor], list[int]]:
    """((rows, ..., L) tensors of each name, filled up to the longest; the order of the examples in them).

    Args:
        examples: name -> tensor (..., l), of them "input_ids" (l,) and "position_ids".
        fills: name -> what fills it up; 0 for others.
        left, row_tokens: as of `collate`. Of shared rows "sample" (rows, L) has the examples' numbers.
    """
    rows, order = list(examples), list(range(len(examples)))
    lengths = [len(example["input_ids"]) for example in examples]
    if row_tokens:
        shared = first_fit(lengths, row_tokens)
        order = [i for row in shared for i in row]
        rows = [{n: torch.cat([examples[i][n] for i in row], -1) for n in examples[0]} for row in shared]
        for row, numbers in zip(rows, shared, strict=True):
            row["sample"] = torch.cat([torch.full((lengths[i],), i) for i in numbers])
    fills, lengths = {"sample": -1, **fills}, [len(row["input_ids"]) for row in rows]
    sides = [(max(lengths) - num, 0) if left else (0, max(lengths) - num) for num in lengths]
    batch = {}
    for name in rows[0]:
        values = [pad(r[name], side, value=fills.get(name, 0)) for r, side in zip(rows, sides, strict=True)]
        batch[name] = torch.stack(values)
    if not left:  # rows without a mask are one sequence each, so their padding counts on
        for position, num in zip(batch["position_ids"], lengths, strict=True):
            more = 1 + torch.arange(position.shape[-1] - num)
            position[..., num:] = position[..., num - 1 : num] + more
    return batch, order


def turn_ids(
    turns: Turns, tokenizer: Any, config: LLMConfig, dialogue: bool
) -> tuple[list[int], list[tuple[list[int], list[int]]]]:
    """(ids before the video, (ids before the answer, the answer's and the end) of each turn)."""
    questions, answers = [question for question, _ in turns], answer_ids(turns, tokenizer, dialogue)
    if dialogue:
        head, tails = conversation(tokenizer, config, questions)
    else:
        each = [conversation(tokenizer, config, [question]) for question in questions]
        head, tails = each[0][0], [tail for _, (tail,) in each]
    return head, list(zip(tails, answers, strict=True))


def answer_ids(turns: Turns, tokenizer: Any, dialogue: bool) -> list[list[int]]:
    """Ids of each answer and its end; none of one to be generated, which may only be a dialogue's last."""
    if dialogue and any(answer is None for _, answer in turns[:-1]):
        raise ValueError("turns of a dialogue must have answers, only the last may be left to generate")
    return [[] if a is None else [*encode(tokenizer, a), tokenizer.eos_token_id] for _, a in turns]


def _plain_turns(turns: Turns, tokenizer: Any) -> tuple[list[int], list[tuple[list[int], list[int]]]]:
    """Likewise where there is no prompt; the line break behind an answer is learned as its end."""
    head = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    tail = encode(tokenizer, "\n")
    return head, [(tail, encode(tokenizer, f"\n{answer}\n")[len(tail) :]) for _, answer in turns]


def _row(example: Example, layout: Layout, tokenizer: Any, config: LLMConfig) -> dict[str, Tensor]:
    """(l,) ids, labels, positions, branches of an example; labels are cut from ids, not searched in text."""
    if example.plain:
        head, turns = _plain_turns(example.turns, tokenizer)
    else:
        head, turns = turn_ids(example.turns, tokenizer, config, example.dialogue)
    ids = head + layout.ids
    video = len(ids)
    labels, position, branch = [IGNORED] * video, list(range(video)), [0] * video
    for number, (tail, learned) in enumerate(turns):
        start = len(ids) if example.dialogue else video
        ids += tail + learned
        labels += [IGNORED] * len(tail) + learned
        position += range(start, start + len(tail) + len(learned))
        branch += [1 if example.dialogue else number + 1] * (len(tail) + len(learned))
    row = {
        "input_ids": ids, "labels": labels, "position_ids": position, "branch": branch,
        "attention_mask": [1] * len(ids),
    }  # fmt: skip
    return {name: torch.tensor(values) for name, values in row.items()}


def packed_tokens(
    examples: Sequence[Example], layouts: list[Layout], names: Sequence[str]
) -> dict[str, Tensor]:
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
        if words := [
            ids for layout in layouts if name in layout.words for ids in layout.words[name].tolist()
        ]:
            batch[f"{name}_words"] = padded(words, -1)
        tokens_of = [e.video.globals[name] for e in examples if len(e.video.globals.get(name, ()))]
        if tokens_of:
            batch[f"{name}_globals"] = torch.cat(tokens_of)
        if inputs := [e.video.global_inputs[name] for e in examples if name in e.video.global_inputs]:
            x, size = (torch.cat(parts) for parts in zip(*inputs, strict=True))
            counts = torch.tensor([len(x) for x, _ in inputs])
            batch |= {f"{name}_inputs": x, f"{name}_input_size": size, f"{name}_input_counts": counts}
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
