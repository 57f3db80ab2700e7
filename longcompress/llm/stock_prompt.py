"""A compressed video in the prompt of a stock video LLM: its text, and the position of every token.

L tokens of the prompt, P axes of positions (3 where the model has rotary positions of time, row and column),
N tokens of all streams.
"""

from collections.abc import Callable
from dataclasses import dataclass
from string import Formatter
from typing import Any

import torch
from torch import Tensor

from ..config import MediaConfig
from ..config_llm import LLMConfig, clock
from ..encoders.families import Family
from ..types import CompressedVideo, Tokens
from .prompt import IGNORED, Example, Turns, after_end, answer_ids, conversation_texts, encode, question_texts
from .texts import by_start, shown_texts

MICRO_S = 1e-6  # times that differ by less are equal


@dataclass(frozen=True)
class StockLayout:
    """A video in the prompt, through its last token.

    Attributes:
        ids: (L,) int64 text before the video, then text and placeholders.
        position: (P, L) int64, or float32 where the family's clock is.
        rows: stream -> (n,) int64 its tokens in the order of their placeholders.
        closing: text behind the last token.
        next_position: of the text that follows.
        shared_end: the second token that follows has the position of the first.
        media: what the chat template calls it, and writes for it; "text" and nothing without a video.
    """

    ids: Tensor
    position: Tensor
    rows: dict[str, Tensor]
    closing: str
    next_position: float
    shared_end: bool
    media: tuple[str, str]


@dataclass(frozen=True)
class _Order:
    """N tokens in the order of the prompt: stream number and row of each, and the run that each is in. A run
    is a placeholder in the text, and becomes as many as it has tokens."""

    stream: Tensor
    row: Tensor
    run: Tensor


class StockPrompt:
    """The prompt of a family's model.

    Args:
        lm: of a family's class; it isn't kept.
        tokenizer: with its chat template.
        config: system text, question, timestamps, positions.
        family: its data.
        media: how frames are sampled.
        edge: rows or columns of a frame's tokens, the larger number.
    """

    def __init__(
        self, lm: Any, tokenizer: Any, config: LLMConfig, family: Family, media: MediaConfig, edge: int
    ) -> None:
        self.tokenizer, self.config, self.family = tokenizer, config, family
        self.media, self.edge = media, edge
        self.per_s = family.ids_per_s(lm)
        self.num_end_rows = 0 if (end := family.end_rows(lm)) is None else len(end)
        self.names = ("video", "audio") if family.audio else ("video",)
        fields = [family.placeholder, *(["audio_token_id"] if family.audio else [])]
        self.placeholders: list[int] = [getattr(lm.config, field) for field in fields]
        names = [name for _, name, _, _ in Formatter().parse(family.video + family.step) if name]
        named = [name for name in names if name.endswith("_token_id")]
        self.tokens = {n: tokenizer.convert_ids_to_tokens(getattr(lm.config, n)) for n in named}
        self.video = family.video.format(**self.tokens)
        self.texts = [tokenizer.convert_ids_to_tokens(i) for i in self.placeholders]  # of placeholders
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                "the tokenizer of a stock model must have a chat template, got none; copy the checkpoint's "
                "chat_template.jinja or chat_template.json into its folder"
            )
        if family.audio:
            self.audio_ends = (
                getattr(tokenizer, "audio_bos_token", None) or family.audio.first,
                getattr(tokenizer, "audio_eos_token", None) or family.audio.last,
            )

    def token_s(self, duration_s: float) -> float:
        """Seconds of a video token before merging."""
        return self.media.frame_s(duration_s) * self.family.frames_per_token

    def timestamp_tokens(self, duration_s: float) -> int:
        """Text tokens of a timestamp at the end of a video of this length; 0 for a family without."""
        if not self.family.has_timestamps:
            return 0
        number = 1 + int(duration_s / self.token_s(duration_s)) if duration_s else 1
        text = self._step(duration_s, duration_s, number) + self.family.between
        return len(encode(self.tokenizer, text)) - 1

    def lay_out(self, video: CompressedVideo) -> StockLayout:
        """The video through its last token."""
        streams = {name: tokens for name, tokens in video.streams.items() if len(tokens)}
        if unknown := [name for name in streams if name not in self.names]:
            raise ValueError(f"video has stream {unknown[0]!r}, this model reads {self.names}")
        if not streams:  # a question of the language model alone
            ids, axes = torch.zeros(0, dtype=torch.int64), 1 if self.family.positions == "plain" else 3
            dtype = torch.float32 if self.family.float_clock else torch.int64
            return StockLayout(ids, torch.zeros(axes, 0, dtype=dtype), {}, "", 0.0, False, ("text", ""))
        text, order = self._text(video, streams)
        media = ("video", self.video)
        if "video" not in streams:
            media = ("audio", "".join((self.audio_ends[0], self.texts[1], self.audio_ends[1])))
        before, _ = conversation_texts(self.tokenizer, self.config, ["?"], media)
        last = max(
            text.rfind(placeholder) + len(placeholder) for placeholder in self.texts if placeholder in text
        )
        raw = torch.tensor(self._start(before) + encode(self.tokenizer, before + text[:last]))
        is_run = torch.isin(raw, torch.tensor(self.placeholders))
        counts = torch.bincount(order.run)
        if int(is_run.sum()) != len(counts):
            raise ValueError(
                f"the chat template must write {media[1]!r} once and no other placeholder, got "
                f"{int(is_run.sum()) - len(counts)} more"
            )
        counts[-1] += self.num_end_rows
        widths = torch.ones_like(raw).masked_scatter(is_run, counts)
        ids = raw.repeat_interleave(widths)
        place = self._places(order, streams, self.token_s(video.duration_s))
        position, following = self._positions(raw, is_run, widths, place, len(streams) > 1)
        rows = {name: order.row[order.stream == i] for i, name in enumerate(self.names) if name in streams}
        shared = len(streams) > 1 and self.family.audio is not None and self.family.audio.shared_ends
        return StockLayout(ids, position, rows, text[last:], following, shared, media)

    def tail(self, layout: StockLayout, question: str) -> list[int]:
        """Ids between the last token of a video and the answer."""
        return self._tail(layout, self.parts(layout, [question])[0])

    def dialogue(self, layout: StockLayout, turns: Turns) -> list[int]:
        """Ids between the last token of a video and the answer that ends a dialogue."""
        parts = self._turns(turns, layout, dialogue=True)
        return [i for part in parts for ids in part for i in ids]

    def parts(self, layout: StockLayout, questions: list[str]) -> list[str]:
        """The template's text behind the video, or without one all of it, up to each answer."""
        texts = self._questions(questions)
        before, first, *later = conversation_texts(self.tokenizer, self.config, texts, layout.media)
        return [first if len(layout.ids) else before + first, *later]

    def ends(self, question: str) -> tuple[list[int], list[int]]:
        """Ids before a video, and between it and the answer to a question."""
        media = ("video", self.video)
        texts = self._questions([question])
        before, behind = conversation_texts(self.tokenizer, self.config, texts, media)
        return self._start(before) + encode(self.tokenizer, before), encode(self.tokenizer, behind)

    def step(self, tokens: Tokens, number: int) -> StockLayout:
        """The tokens of step `number` (from 1) of a running video, behind those before; positions from 0."""
        family, token_s, start_s = self.family, self.token_s(0.0), tokens.place[:, 0].cpu()
        last_s = min(float(start_s.max()) + token_s, float(tokens.end_s.max())) - self.media.frame_s(0.0)
        text = family.between * (number > 1) + self._step(float(start_s.min()), last_s, number)
        raw = torch.tensor(encode(self.tokenizer, text))
        is_run = torch.isin(raw, torch.tensor(self.placeholders))
        widths = torch.where(is_run, len(tokens), 1)
        row = torch.arange(len(tokens))
        place = self._places(
            _Order(torch.zeros_like(row), row, torch.zeros_like(row)), {"video": tokens}, token_s
        )
        position, following = self._positions(raw, is_run, widths, place, False)
        ids = raw.repeat_interleave(widths)
        return StockLayout(ids, position, {"video": row}, "", following, False, ("video", self.video))

    def check(self, text: str) -> None:
        """ValueError for a text that holds the model's placeholders."""
        self._check(any(name in text for name in (self.video, *self.texts)))

    def behind(self, layout: StockLayout, index: Tensor) -> Tensor:
        """(..., P, l) positions of tokens that follow a video at index (..., l) from 0."""
        offset = (index - 1).clamp_min(0) if layout.shared_end else index
        position = (layout.next_position + offset).to(layout.position.dtype)
        return position[..., None, :].expand(*index.shape[:-1], len(layout.position), -1)

    def row(self, example: Example) -> tuple[StockLayout, dict[str, Tensor]]:
        """An example's layout; and its ids, labels, branches (l,) and positions (P, l)."""
        layout = self.lay_out(example.video)
        ids, position = [layout.ids], [layout.position]
        labels, branch = [torch.full_like(layout.ids, IGNORED)], [torch.zeros_like(layout.ids)]
        start = 0
        for number, (tail, answer) in enumerate(
            self._turns(example.turns, layout, example.dialogue, example.plain)
        ):
            tokens = torch.tensor(tail + answer)
            start = start if example.dialogue else 0
            ids.append(tokens)
            labels.append(torch.tensor([IGNORED] * len(tail) + answer))
            position.append(self.behind(layout, start + torch.arange(len(tokens))))
            branch.append(torch.full_like(tokens, 1 if example.dialogue else number + 1))
            start += len(tokens)
        row = {
            "input_ids": torch.cat(ids), "labels": torch.cat(labels), "branch": torch.cat(branch),
            "position_ids": torch.cat(position, 1),
        }  # fmt: skip
        return layout, row | {"attention_mask": torch.ones_like(row["input_ids"])}

    def sizes(self, example: Example) -> tuple[int, Callable[[Turns], int]]:
        """As `causal.sizes`."""
        layout = self.lay_out(example.video)

        def size(turns: Turns) -> int:
            parts = self._turns(turns, layout, example.dialogue, example.plain)
            lengths = [len(tail) + len(answer) for tail, answer in parts]
            return sum(lengths) if example.dialogue else max(lengths)

        return len(layout.ids), size

    def _turns(
        self, turns: Turns, layout: StockLayout, dialogue: bool, plain: bool = False
    ) -> list[tuple[list[int], list[int]]]:
        """(ids before the answer, the answer's and the end) of each turn."""
        questions, answers = [q for q, _ in turns], answer_ids(turns, self.tokenizer, dialogue and not plain)
        if plain:
            tails = [self._tail(layout, "\n") for _ in questions]
        elif dialogue:
            first, *later = self.parts(layout, questions)
            tails = [self._tail(layout, first), *(after_end(self.tokenizer, text) for text in later)]
        else:
            tails = [self.tail(layout, question) for question in questions]
        self._check(any(set(ids) & set(self.placeholders) for ids in answers))
        return list(zip(tails, answers, strict=True))

    def _tail(self, layout: StockLayout, text: str) -> list[int]:
        """Ids of what follows the last token; a special token before it keeps them as in the whole prompt."""
        if not len(layout.ids):
            return self._start(text) + encode(self.tokenizer, text)
        first, *ids = encode(self.tokenizer, self.closed(layout, text))
        assert first == self.placeholders[0]
        self._check(bool(set(ids) & set(self.placeholders)))
        return ids

    def closed(self, layout: StockLayout, text: str) -> str:
        """The last token's placeholder, what closes the video, and a text."""
        return self.texts[0] + layout.closing + text

    def _questions(self, questions: list[str]) -> list[str]:
        """The user's turns."""
        texts = question_texts(self.config.question or "{question}", questions)
        self._check(any(name in text for text in texts for name in (self.video, *self.texts)))
        return texts

    def _check(self, has_placeholder: bool) -> None:
        if has_placeholder:
            names = sorted({self.video, *self.texts})
            raise ValueError(
                f"questions and answers must not hold the model's placeholders {names}; leave them out"
            )

    def _start(self, text: str) -> list[int]:
        """The start token that the tokenizer puts before a text whose template has none."""
        bos = self.tokenizer.bos_token
        has_own = not bos or text.startswith(bos)
        ids = [] if has_own else list(self.tokenizer(text)["input_ids"][:1])
        return ids if ids == [self.tokenizer.bos_token_id] else []

    # --- text

    def _text(self, video: CompressedVideo, streams: dict[str, Tokens]) -> tuple[str, _Order]:
        """The whole text with a placeholder for each run, and the order of the tokens."""
        family = self.family
        texts, _ = shown_texts(video.text, self.tokenizer, self.config, (self.video, *self.texts))
        if "video" in streams and family.has_timestamps:
            return self._steps(video, streams["video"], texts)
        order = self._woven(streams)
        first = torch.cat([order.run.new_ones(1), order.run.diff()]) > 0
        body = "".join(self.texts[i] for i in order.stream[first].tolist())
        if "audio" in streams:
            body = self.audio_ends[0] + body + self.audio_ends[1]
        return family.opening + body + family.closing + "".join(text for _, text in texts), order

    def _woven(self, streams: dict[str, Tokens]) -> _Order:
        """Streams side by side: chunks of frames and then of their audio, or token by token by time."""
        names = [name for name in self.names if name in streams]
        when, stream, row = [], [], []
        chunk_s = self.family.audio.chunk_s if self.family.audio else 0.0
        for name in names:
            start_s = streams[name].place[:, 0].cpu()
            when.append((start_s / chunk_s + MICRO_S).floor() if chunk_s else (start_s / MICRO_S).round())
            stream.append(torch.full((len(start_s),), self.names.index(name)))
            row.append(torch.arange(len(start_s)))
        stream_of, row_of = torch.cat(stream), torch.cat(row)
        if len(names) > 1:  # rows of a stream and streams are in order already: a stable sort keeps them
            at = torch.cat(when).argsort(stable=True)
            stream_of, row_of = stream_of[at], row_of[at]
        change = torch.cat([torch.zeros(1, dtype=torch.int64), (stream_of.diff() != 0).long()])
        return _Order(stream_of, row_of, change.cumsum(0))

    def _steps(
        self, video: CompressedVideo, tokens: Tokens, texts: list[tuple[float, str]]
    ) -> tuple[str, _Order]:
        """Timestamps with their tokens, as many as fit the share of the budget that their text may have, each
        with the texts of its time behind it."""
        start_s, end_s = tokens.place[:, 0].cpu(), float(tokens.end_s.max())
        frame_s, token_s = self.media.frame_s(video.duration_s), self.token_s(video.duration_s)
        num_text = self.timestamp_tokens(end_s)
        step_s = self.config.timestamp_step_s(end_s - float(start_s.min()), video.budget, num_text, token_s)
        number = ((start_s - start_s.min()) / step_s + MICRO_S).floor()
        at = number.argsort(stable=True)
        run = torch.cat([torch.zeros(1, dtype=torch.int64), (number[at].diff() > 0).long()]).cumsum(0)
        num = int(run[-1]) + 1
        first = torch.full((num,), float("inf"), dtype=start_s.dtype).scatter_reduce(
            0, run, start_s[at], "amin"
        )
        last = torch.zeros_like(first).scatter_reduce(0, run, start_s[at], "amax")
        last = (last + token_s).clamp_max(end_s) - frame_s  # start of the last frame
        pairs = zip(first.tolist(), last.tolist(), strict=True)
        cues = by_start(texts, first.tolist())
        steps = [self._step(a, b, i + 1) + cues[i] for i, (a, b) in enumerate(pairs)]
        opening = self.family.opening
        if "{" in opening:
            opening = opening.format(words=_words(num), length=clock(video.duration_s))
        text = opening + self.family.between.join(steps) + self.family.closing
        return text, _Order(torch.zeros_like(at), at, run)

    def _step(self, start_s: float, last_s: float, number: int) -> str:
        """The text of timestamp `number`, whose frames begin at start_s to last_s."""
        whole = int(start_s)
        return self.family.step.format(
            x=self.texts[0], first=start_s, last=last_s, middle=(start_s + last_s) / 2, whole=whole,
            clock=f"{whole // 60:02d}:{whole % 60:02d}", number=number, **self.tokens,
        )  # fmt: skip

    # --- positions

    def _positions(
        self, raw: Tensor, is_run: Tensor, widths: Tensor, place: Tensor, is_woven: bool
    ) -> tuple[Tensor, float]:
        """((P, L) positions of widened ids, position of what follows), of tokens at place (3, N)."""
        kind = self.family.positions
        length = int(widths.sum())
        if kind == "plain":
            return torch.arange(length)[None], float(length)
        is_token = is_run.repeat_interleave(widths)
        if kind == "grid":
            advance = torch.where(is_run, self.edge, 1)
            base = (advance.cumsum(0) - advance).repeat_interleave(widths).double()
            position = base.expand(3, -1).clone()
            position[1:, is_token] += place[1:]
            return position.round().long(), float(advance.sum())
        num = int(is_run.nonzero()[0])  # text before; all after it is the video, but for tokens around audio
        position = torch.arange(length, dtype=torch.float64).expand(3, -1).clone()
        audio = self.family.audio
        start = float(num)
        if is_woven and audio is not None and audio.shared_ends:
            start -= 1
            position[:, num - 1] = start - 1
        position[:, is_token] = start + place
        following = float(position.max()) + 1
        if self.config.text_after == "grid" and not is_woven:
            following = start + self.edge
        return (position.float() if self.family.float_clock else position.round().long()), following

    def _places(self, order: _Order, streams: dict[str, Tokens], token_s: float) -> Tensor:
        """(3, N) time, row and column of the tokens in their order; whole numbers, but those of a float
        clock."""
        out = torch.zeros(3, len(order.row), dtype=torch.float64)
        per_s = self.per_s or 1 / token_s
        for i, name in enumerate(self.names):
            if name not in streams:
                continue
            here = order.stream == i
            second, row, column = streams[name].place.cpu()[order.row[here]].unbind(1)
            time = second * per_s * self.config.clock_scale
            time = time if self.family.float_clock else (time + MICRO_S).floor()
            out[0, here] = time
            out[1:, here] = time if name == "audio" else torch.stack([row, column]).round()
        return out


def _words(number: int) -> str:
    """A number in words, as the processor of SmolVLM writes it."""
    try:
        from num2words import num2words  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(
            "this model's prompt writes a number in words, as its processor does: pip install num2words"
        ) from error
    return str(num2words(number))
