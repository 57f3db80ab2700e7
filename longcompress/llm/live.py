"""How a language model reads a running video: parts of a prompt, and a reader of them with a cache.

L tokens of a part, P axes of positions, D width of the language model, V vocabulary.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import Cache

from ..encoders.stream import memory_hint
from ..threads import threads_for
from ..types import CompressedVideo, Tokens
from .cache import Read, fork, new_cache
from .causal import CausalLM, head_at
from .duet import END, START, pieces_of
from .prompt import Example, conversation, encode, lay_out, packed_tokens, padded, timestamp_text
from .stock import StockLM
from .stock_prompt import StockPrompt

LATE_S = 359_999.0  # a time whose text is as long as any
FINE = 1 << 30  # tokens of a budget that has room for all timestamps
EMBEDDED = "embedded"  # the stream of a part whose embeddings are known


class Part(NamedTuple):
    """A part of the prompt.

    Attributes:
        region: "past" (with what the model reads before it), "turns", "near" or "answer".
        ids: (L,) int64 text tokens, and placeholders of video tokens.
        position: (P, L) of each, counted from the part's beginning.
        length: positions from its beginning to what follows.
        streams: what `llm.embed` takes of the video tokens, or of a stock model what goes into them.
        text: it all as text; "" until it is asked for.
    """

    region: str
    ids: Tensor
    position: Tensor
    length: float
    streams: dict[str, Tensor]
    text: str = ""


class LiveReader:
    """Reads parts one behind the other, each seeing all before.

    Args:
        llm: the language model.
        cache: of what was read before, or None.
        position: of what follows.
    """

    def __init__(self, llm: CausalLM | StockLM, cache: Cache | None = None, position: float = 0.0) -> None:
        self.llm, self.position = llm, position
        self.cache = new_cache(llm.config) if cache is None else cache

    @property
    def count(self) -> int:
        """Tokens that were read."""
        return int(self.cache.get_seq_length())

    def fork(self) -> "LiveReader":
        """A reader that goes on from here without touching this one; no data is copied."""
        return LiveReader(self.llm, fork(self.cache), self.position)

    @torch.no_grad()
    def read(self, parts: Sequence[Part]) -> Read:
        """Read parts in a single forward; hidden (0, D) of a model without heads."""
        llm = self.llm
        options = {"past_key_values": self.cache, "use_cache": True}
        with threads_for(llm), memory_hint("reading a step", "live.past or live.near_s"):
            if isinstance(llm, StockLM):
                with head_at(llm.base, slice(-1, None)):
                    out = llm.base(**llm.inputs(*self._joined(parts)), **options)
            else:
                x = torch.cat([embed(llm, part) for part in parts])
                has_heads = llm.heads is not None
                out = llm.lm(
                    inputs_embeds=x[None], output_hidden_states=has_heads, logits_to_keep=1, **options
                )
        self.position += sum(part.length for part in parts)
        logits = out.logits[0, -1].float()
        heads = getattr(llm, "heads", None)
        return Read(logits.new_zeros(0, 1) if heads is None else out.hidden_states[-1][0], logits)

    def _joined(self, parts: Sequence[Part]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """ids (1, L), positions (1, P, L) and streams of parts for a stock model."""
        starts = [self.position]
        for part in parts[:-1]:
            starts.append(starts[-1] + part.length)
        position = torch.cat([p.position + int(s) for p, s in zip(parts, starts, strict=True)], -1)
        x = [part.streams["video_x"] for part in parts if part.streams]
        streams = {"video_x": torch.cat(x), "video_counts": torch.tensor([sum(map(len, x))])} if x else {}
        return torch.cat([part.ids for part in parts])[None], position[None], streams


def embed(llm: CausalLM, part: Part) -> Tensor:
    """(L, D) input embeddings of a part."""
    if EMBEDDED in part.streams:
        return part.streams[EMBEDDED].to(llm.lm.device)
    batch = {"input_ids": part.ids[None], **part.streams}
    return llm.embed({name: value.to(llm.lm.device) for name, value in batch.items()})[0]


def sliced(llm: CausalLM | StockLM, part: Part, num: int) -> list[Part]:
    """A part as parts of at most `num` tokens that follow one another; 0: in one."""
    total, out = len(part.ids), list[Part]()
    if not 0 < num < total:
        return [part]
    if isinstance(llm, StockLM):
        key, rows = "video_x", part.ids == llm.prompt.placeholders[0]
    else:
        key, rows = EMBEDDED, torch.ones(total, dtype=torch.bool)
        part = part._replace(streams={EMBEDDED: embed(llm, part)})
    for start in range(0, total, num):
        stop, before = min(start + num, total), int(rows[:start].sum())
        x = part.streams[key][before : before + int(rows[start:stop].sum())] if part.streams else None
        # positions are counted from the beginning of the whole, so that only the last has a length
        length = part.length if stop == total else 0.0
        streams = {} if x is None or not len(x) else {key: x}
        ids, position = part.ids[start:stop], part.position[:, start:stop]
        out.append(Part(part.region, ids, position, length, streams))
    return out


class CausalParts:
    """Parts of the prompt of a causal model.

    With heads and a tokenizer of Qwen's kind they are MMDuet's turns, in which frames have a role of their
    own. Else all up to an answer is what a user says: the video, texts on lines of their own, the question.
    """

    def __init__(self, llm: CausalLM) -> None:
        self.llm, tokenizer = llm, llm.tokenizer
        has_turns = llm.heads is not None and {START, END} <= set(tokenizer.get_vocab())
        self.pieces = pieces_of(tokenizer) if has_turns else None
        self.end: int = self.pieces.end if self.pieces else tokenizer.eos_token_id
        self.ends, self.suppressed = [self.end], list[int]()
        self.opening = self.pieces.stream if self.pieces else []  # of frames
        self.closing = [self.end] if self.pieces else []
        text = timestamp_text(llm.settings, LATE_S) if llm.settings.order == "time" else ""
        self.step_tokens = len(encode(tokenizer, text)) if text else 0

    def text(self, region: str, ids: Sequence[int]) -> Part:
        """A part of text."""
        return _text(region, ids, 1)

    def past(self, video: CompressedVideo | None) -> Part:
        """What comes before steps: the system's text, and a merged video."""
        pieces, settings = self.pieces, self.llm.settings
        head = pieces.system if pieces else conversation(self.llm.tokenizer, settings, ["?"])[0]
        if video is None:
            return self.text("past", head)
        return self._part("past", [*head, *self.opening], video, self.closing)[0]

    def step(
        self, streams: Mapping[str, Tokens], shown_s: float | None, before: Sequence[int], number: int
    ) -> tuple[Part, float | None]:
        """(a step's tokens behind the ids `before`, the timestamp that is shown last), where the one before
        was shown at shown_s."""
        end_s = max(float(tokens.end_s.max()) for tokens in streams.values())
        video = CompressedVideo(dict(streams), {}, FINE, end_s)
        return self._part("near", before, video, [], shown_s)

    def turn(self, text: str) -> list[int]:
        """Ids of a user's turn; ValueError for an empty text."""
        if self.pieces:
            return self.pieces.user(text)
        return encode(self.llm.tokenizer, _line(text))

    def exchange(self, question: str | None, tokens: Sequence[int], text: str) -> list[int]:
        """Ids of an answer in the context, behind a question that isn't there yet, or of itself."""
        if not self.pieces:
            return encode(self.llm.tokenizer, _line(f"{question or ''} {text}".strip() or "-"))
        closing = [] if tokens[-1:] == [self.end] else [self.end]
        return [*(self.pieces.user(question) if question else []), *self.pieces.answer, *tokens, *closing]

    def ask(self, question: str, stands: bool) -> list[int]:
        """Ids between the video and an answer; where the question stands before the frames it isn't said
        again in MMDuet's turns."""
        if self.pieces:
            return [*([] if stands else self.pieces.user(question)), *self.pieces.answer]
        return conversation(self.llm.tokenizer, self.llm.settings, [question])[1][0]

    def _part(
        self, region: str, before: Sequence[int], video: CompressedVideo, after: Sequence[int],
        shown_s: float | None = None,
    ) -> tuple[Part, float | None]:  # fmt: skip
        llm = self.llm
        layout = lay_out(video, llm.tokenizer, llm.settings, llm.names)
        ids, shown = layout.ids, layout.shown_s.tolist()
        if shown and shown[0] == shown_s:
            ids = ids[len(encode(llm.tokenizer, timestamp_text(llm.settings, shown[0]))) :]
        streams = packed_tokens([Example(video, ())], [layout], llm.names)
        all_ids = torch.tensor([*before, *ids, *after])
        position = torch.arange(len(all_ids))[None]
        return Part(region, all_ids, position, float(len(all_ids)), streams), (shown or [shown_s])[-1]


class StockParts:
    """Parts of the prompt of a stock model: all up to an answer is what a user says.

    Raises:
        ValueError: the family's frames can't follow one another for ever.
    """

    def __init__(self, llm: StockLM) -> None:
        self.llm, family = llm, llm.family
        self.prompt: StockPrompt = llm.prompt
        self.axes = 1 if family.positions == "plain" else 3
        if not family.has_timestamps or family.positions == "clock" or family.token_types or family.opening:
            raise ValueError(
                f"live needs a model that writes a timestamp before each frame, as Qwen3-VL does, got "
                f"{type(llm.base).__name__}; ask its memory instead (Session.ask)"
            )
        ends = llm.lm.generation_config.eos_token_id
        self.end: int = llm.tokenizer.eos_token_id
        self.ends = [self.end] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        self.suppressed = self.prompt.placeholders
        self.opening, self.closing = list[int](), list[int]()
        place = torch.tensor([[LATE_S, 0.0, 0.0]], dtype=torch.float64)
        time_s = place[:, 0]
        late = Tokens(place[:, :1].float(), time_s.float() * 0 + 1, time_s, time_s, time_s + 1, place)
        self.step_tokens = len(self.prompt.step(late, 2).ids) - 1

    def text(self, region: str, ids: Sequence[int]) -> Part:
        """As of CausalParts, like all below."""
        return _text(region, ids, self.axes)

    def past(self, video: CompressedVideo | None) -> Part:
        head = self.text("past", self.prompt.ends("?")[0])
        if video is None:
            return head
        layout = self.prompt.lay_out(video)
        closing = self.text("past", encode(self.llm.tokenizer, layout.closing) if layout.closing else [])
        ids = torch.cat([layout.ids, closing.ids])
        position = torch.cat([layout.position, closing.position + int(layout.next_position)], -1)
        x = video.streams["video"].x[layout.rows["video"].to(video.streams["video"].x.device)]
        return Part("past", ids, position, layout.next_position + closing.length, {"video_x": x})

    def step(
        self, streams: Mapping[str, Tokens], shown_s: float | None, before: Sequence[int], number: int
    ) -> tuple[Part, float | None]:
        layout = self.prompt.step(streams["video"], number)
        x = {"video_x": streams["video"].x}
        return Part("near", layout.ids, layout.position, layout.next_position, x), None

    def turn(self, text: str) -> list[int]:
        self.prompt.check(text)
        return encode(self.llm.tokenizer, _line(text))

    def exchange(self, question: str | None, tokens: Sequence[int], text: str) -> list[int]:
        return encode(self.llm.tokenizer, _line(f"{question or ''} {text}".strip() or "-"))

    def ask(self, question: str, stands: bool) -> list[int]:
        return self.prompt.ends(question)[1]


Parts = CausalParts | StockParts


def parts_of(llm: CausalLM | StockLM) -> Parts:
    """What makes the parts of a language model's prompt."""
    return StockParts(llm) if isinstance(llm, StockLM) else CausalParts(llm)


def lay_out_live(
    parts: Parts, past: CompressedVideo | None, rows: Sequence[Mapping[str, Tokens] | list[int]]
) -> list[Part]:
    """The parts of a live context, as a session reads them one after the other.

    Args:
        parts: of the language model's prompt.
        past: what is read merged.
        rows: what follows in its order: a step's tokens by stream, or the ids of turns.
    """
    out, opening = [parts.past(past)], parts.opening
    shown_s, number, closing = None, 0, list[int]()
    for row in rows:
        if isinstance(row, list):
            out.append(parts.text("near" if number else "turns", [*closing, *row]))
            closing, opening = [], parts.opening
            continue
        part, shown_s = parts.step(row, shown_s, opening, number := number + 1)
        out.append(part)
        closing, opening = parts.closing, []
    return out


def join_parts(rows: Sequence[Sequence[Part]], names: Sequence[str], fill: int) -> dict[str, Tensor]:
    """What `CausalLM.embed` takes of several contexts at once: input_ids (len(rows), L), filled up at the
    end, and the streams `names` of all."""
    ids = padded([[i for part in row for i in part.ids.tolist()] for row in rows], fill)
    streams = [part.streams for row in rows for part in row if part.streams]
    stamps = [ids for s in streams for ids in s["timestamp_ids"].tolist()]
    out = {
        "input_ids": ids, "timestamp_ids": padded(stamps, -1),
        "timestamp_start_s": torch.cat([s["timestamp_start_s"] for s in streams]),
    }  # fmt: skip
    for name in names:
        for field in ("x", "size", "start_s", "end_s", "globals"):
            if values := [s[f"{name}_{field}"] for s in streams if f"{name}_{field}" in s]:
                out[f"{name}_{field}"] = torch.cat(values)
        # tokens of each timestamp; none where the part lacks the stream
        counts = [
            s[f"{name}_offsets"].diff() if f"{name}_offsets" in s else torch.zeros(len(s["timestamp_ids"]))
            for s in streams
        ]
        if f"{name}_x" in out:
            out[f"{name}_offsets"] = torch.nn.functional.pad(torch.cat(counts).cumsum(0), (1, 0)).int()
    return out


def as_text(parts: Parts, part: Part) -> str:
    """A part as text, video tokens by their number."""
    holders = set(parts.suppressed)
    shown, ids = "", list[int]()
    for i in [*part.ids.tolist(), None]:
        if i is not None and i >= 0 and i not in holders:
            ids.append(i)
            continue
        shown += str(parts.llm.tokenizer.decode(ids)) if ids else ""
        shown, ids = shown + ("" if i is None else "\ufffc"), []
    return re.sub("\ufffc+", lambda match: f"[{len(match[0])} tokens]", shown)


def _line(text: str) -> str:
    """A text on a line of its own; ValueError for an empty one."""
    if not text.strip():
        raise ValueError("text must not be empty; say what to tell of, e.g. 'Tell me when it rains.'")
    return f"\n{text}\n"


def _text(region: str, ids: Sequence[int], axes: int) -> Part:
    row = torch.tensor(list(ids), dtype=torch.int64)
    return Part(region, row, torch.arange(len(row)).expand(axes, -1), float(len(row)), {})
