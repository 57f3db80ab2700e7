"""Any causal language model of transformers reads a video: projectors, time, splice, loss, generation."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel, TextStreamer

from ..config_llm import LLMConfig
from ..encoders.stream import memory_hint
from ..threads import by_size
from ..types import CompressedVideo, stream_order
from .attention_interface import check_apart, masks
from .cache import fork, new_cache
from .heads import SPREAD, ScoreHeads
from .packing import has_state
from .projector import projector
from .prompt import (
    IGNORED,
    Example,
    Turns,
    collate,
    conversation,
    dialogue_of,
    encode,
    global_placeholder,
    lay_out,
    padded,
    padding_id,
    placeholder,
    timestamp_text,
    turn_ids,
)

SPELLING_NOISE = 0.5  # of the length of a token that is words: projected ones are never as clear


class TimeEmbedding(nn.Module):
    """Added to a video token: its timestamp, its first and last second after the timestamp, and log size.

    Seconds are the language model's own embeddings of the numbers, so that an answer can copy them. Random
    signs tell the last second from the first. A table learns the rest.

    Args:
        width: D of the language model.
        max_offset_s: number of seconds after a timestamp that have an embedding.
    """

    def __init__(self, width: int, max_offset_s: int) -> None:
        super().__init__()
        signs = torch.randint(0, 2, (1, width)).float() * 2 - 1
        self.gain = nn.Parameter(torch.cat([torch.ones(2, width), signs]))  # of timestamp, first, last
        self.table = nn.Parameter(torch.zeros(2, max_offset_s, width))
        self.size = nn.Parameter(torch.zeros(width))

    def forward(
        self, timestamp: Tensor, numbers: Tensor, first_s: Tensor, last_s: Tensor, size: Tensor
    ) -> Tensor:
        """(N, D) from embeddings of timestamps (N, D) and numbers (max_offset, D), seconds and sizes (N,)."""
        max_s = self.table.shape[1] - 1
        first, last = first_s.clamp(0, max_s).long(), last_s.clamp(0, max_s).long()
        added = self.gain[0] * timestamp + self.gain[1] * numbers[first] + self.gain[2] * numbers[last]
        return added + self.table[0, first] + self.table[1, last] + size.log2()[:, None] * self.size


class Prefix(NamedTuple):
    """The cache of a video's part of the prompt, its number of positions, and of a stock model its layout."""

    cache: Cache
    length: int
    layout: Any = None


def dense(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The states of a language model's head in rows that lie side by side: PyTorch's bfloat16 on a CPU takes
    up to 200 times as long on a slice such as the last position of each row."""
    (x,) = args
    slow = x.device.type == "cpu" and x.dtype == torch.bfloat16
    return (x.clone(memory_format=torch.contiguous_format),) if slow else None


class CausalLM(nn.Module):
    """A causal language model with projectors and a time embedding for video tokens.

    Args:
        lm: any AutoModelForCausalLM.
        tokenizer: of the language model.
        config: prompt, timestamps, time; the attribute `settings`, for Trainer wants lm's own in `config`.
        widths: stream name -> C of its tokens.
    """

    def __init__(
        self, lm: PreTrainedModel, tokenizer: Any, config: LLMConfig, widths: dict[str, int]
    ) -> None:
        super().__init__()
        self.lm = lm
        lm.get_output_embeddings().register_forward_pre_hook(dense)
        self.tokenizer = tokenizer
        self.settings = config
        self.names = tuple(stream_order(widths))
        width = lm.get_input_embeddings().weight.shape[1]
        self.project = nn.ModuleDict({n: projector(config.projector, widths[n], width) for n in self.names})
        # streams whose projector is as it was initialised
        self.untrained = set() if config.projector == "none" else set(self.names)
        self.time = TimeEmbedding(width, config.max_offset_s) if config.time else None
        self.heads = (
            ScoreHeads(width, getattr(lm.config, "initializer_range", SPREAD)) if config.heads else None
        )
        self.memory: Any = None  # GlobalMemory while it is trained: it is the model's, not this module's
        self.backend, self._apart = "auto", False  # of branch_attention; whether check_apart passed
        if tokenizer.eos_token_id is None:
            raise ValueError("tokenizer must have an eos_token, it ends the answers; set one")

    @property
    def config(self) -> Any:
        """The language model's own config."""
        return self.lm.config

    @property
    def _no_split_modules(self) -> list[str]:
        """The layers that FSDP shards one by one; accelerate reads this name."""
        lm = self.lm.get_base_model() if hasattr(self.lm, "peft_config") else self.lm
        return sorted(lm._no_split_modules or ())

    @property
    def context(self) -> int | None:
        """Positions that the language model was trained for, or None if its config has no such number."""
        return getattr(self.lm.config, "max_position_embeddings", None)

    @property
    def sizes(self) -> Callable[[Example], tuple[int, Callable[[Turns], int]]]:
        """The function `sizes` with its tokenizer and streams: it holds no weights."""
        return partial(sizes, tokenizer=self.tokenizer, config=self.settings, names=self.names)

    def timestamp_tokens(self, duration_s: float) -> int:
        """Text tokens of a timestamp in a video of this length."""
        return len(encode(self.tokenizer, timestamp_text(self.settings, duration_s)))

    def collate(
        self, examples: Sequence[Example], *, left: bool = False, row_tokens: int = 0
    ) -> dict[str, Tensor]:
        """`collate` with this language model's tokenizer and streams."""
        return collate(examples, self.tokenizer, self.settings, self.names, left=left, row_tokens=row_tokens)

    def embed(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, L, D) input embeddings, video tokens in their places."""
        table = self.lm.get_input_embeddings()
        ids = batch["input_ids"]
        out = table(ids.clamp_min(0))
        for i, name in enumerate(self.names):
            for place, rows in (
                (placeholder(i), self._rows(name, batch, table)),
                (global_placeholder(i), self._project(name, self._globals(name, batch))),
            ):
                where = ids == place
                places, num = int(where.sum()), 0 if rows is None else len(rows)
                if places != num:
                    raise ValueError(f"input_ids has {places} places for stream {name!r}, got {num} tokens")
                if rows is not None:
                    out = out.masked_scatter(rearrange(where, "b l -> b l 1"), rows.to(out.dtype))
        return out

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None,
        position_ids: Tensor | None = None, branch: Tensor | None = None, sample: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None, logits_to_keep: Tensor | None = None,
        **streams: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Logits, and the loss: mean over the learned tokens (or their sum over num_items_in_batch).

        Args: those of `collate`, all (B, L) int64 but the streams. logits_to_keep: (N,) int64 places of the
        logits in all rows one after the other, None for all; with labels, those of `learned_places`.

        Returns:
            {"logits": (B, L, V) or (N, V)} and, with labels, "loss" ().
        """
        x = self.embed({"input_ids": input_ids, **streams})
        if sample is not None and not self._apart:
            check_apart(self.lm, x)
            self._apart = True
        with head_at(self.lm, logits_to_keep):
            logits = self.lm(
                inputs_embeds=x, position_ids=position_ids, use_cache=False,
                **masks(self.lm, attention_mask, branch, sample, self.backend),
            ).logits  # fmt: skip
        return with_loss(logits, labels, logits_to_keep, num_items_in_batch)

    @torch.no_grad()
    @by_size
    def prefill(self, video: CompressedVideo) -> Prefix:
        """The cache of the prompt up to the question, filled once."""
        batch = self._to_device(self.collate([Example(video, [("?", None)])]))
        num = int((batch["branch"] == 0).sum())
        x = self.embed(batch)[:, :num]
        cache = new_cache(self.lm.config)
        if num:
            with memory_hint("reading the video", "the budget, or load with a quantization"):
                self.lm(inputs_embeds=x, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return Prefix(cache, num)

    @torch.no_grad()
    @by_size
    def answer(self, prefix: Prefix, questions: Sequence[str | Turns], **options: Any) -> list[str]:
        """The text of an answer to each question about one video, or at the end of each dialogue; options as
        `generate` has them. A model whose layers carry a state is asked one question after another."""
        if len(questions) > 1 and has_state(self.lm):
            return [text for question in questions for text in self.answer(prefix, [question], **options)]
        dialogues = [turn_ids(dialogue_of(q), self.tokenizer, self.settings, True)[1] for q in questions]
        tails = [[i for part in parts for ids in part for i in ids] for parts in dialogues]
        inputs, index = behind(prefix, tails, padding_id(self.tokenizer), self.lm.device)
        return self._generate(options, position_ids=prefix.length + index, **inputs)

    @torch.no_grad()
    @by_size
    def answer_each(
        self, videos: Sequence[CompressedVideo], questions: Sequence[str | Turns], **options: Any
    ) -> list[str]:
        """Likewise of each video, all in one batch of unequal rows."""
        if len(videos) != len(questions):
            raise ValueError(f"questions must be as many as videos = {len(videos)}, got {len(questions)}")
        pairs = zip(videos, questions, strict=True)
        examples = [Example(video, dialogue_of(question), dialogue=True) for video, question in pairs]
        batch = self._to_device(self.collate(examples, left=True))
        inputs = {"inputs_embeds": self.embed(batch), "attention_mask": batch["attention_mask"]}
        return self._generate(options, **inputs)

    def _generate(self, options: dict[str, Any], **inputs: Any) -> list[str]:
        return generate(self.lm, self.tokenizer, self.settings, self.context, options, **inputs)

    def _rows(self, name: str, batch: dict[str, Tensor], table: nn.Module) -> Tensor | None:
        """(N, D) projected tokens of a stream with their time."""
        rows = self._project(name, batch.get(f"{name}_x"))
        if rows is not None and (words := batch.get(f"{name}_words")) is not None:
            # projectors get a gradient of zero: whatever trains them counts on one
            rows = spelled(table, words, self.settings.token_norm or 1.0) + 0 * rows
        if rows is None or self.time is None:
            return rows
        offsets = batch[f"{name}_offsets"].long()
        timestamps = together(table, batch["timestamp_ids"], self.settings.numbers)  # (K, D)
        number = torch.arange(len(timestamps), device=rows.device)
        of = number.repeat_interleave(offsets.diff(), output_size=len(rows))  # (N,) timestamp of each token
        start = batch["timestamp_start_s"][of]
        first = (batch[f"{name}_start_s"] - start + 1e-6).floor()
        last = (batch[f"{name}_end_s"] - start - 1e-6).ceil() - 1
        return rows + self.time(timestamps[of], self.numbers(), first, last, batch[f"{name}_size"])

    def _globals(self, name: str, batch: dict[str, Tensor]) -> Tensor | None:
        """(G, C) global tokens of a batch; made anew of their inputs where learned ones are trained."""
        x = batch.get(f"{name}_inputs")
        if self.memory is None or x is None:
            return batch.get(f"{name}_globals")
        counts = batch[f"{name}_input_counts"].tolist()
        out: Tensor = self.memory.attended(name, x, batch[f"{name}_input_size"], counts)
        return out

    def _project(self, name: str, x: Tensor | None) -> Tensor | None:
        weight = next(self.project[name].parameters(), self.lm.get_input_embeddings().weight)
        return None if x is None else self.project[name](x.to(weight.dtype))

    def numbers(self) -> Tensor:
        """(max_offset, D) embeddings of 0, 1, 2, ...: `together` of the tokens of each number."""
        if not hasattr(self, "_number_ids"):
            decode = self.tokenizer.decode
            written = [encode(self.tokenizer, str(k)) for k in range(self.settings.max_offset_s)]
            digits = [[i for i in ids if any(map(str.isdigit, decode([i])))] for ids in written]
            self._number_ids = padded(digits, -1)
        table = self.lm.get_input_embeddings()
        return together(table, self._number_ids.to(self.lm.device), self.settings.numbers)

    def _to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: v.to(self.lm.device) for k, v in batch.items()}


def behind(
    prefix: Prefix, tails: Sequence[Sequence[int]], padding: int, device: torch.device
) -> tuple[dict[str, Any], Tensor]:
    """What `generate` takes of the ids of B questions behind a video, all but their positions; and (B, l) the
    place of each id in its question."""
    ids = padded(tails, padding, left=True).to(device)
    real = padded([[1] * len(tail) for tail in tails], 0, left=True).to(device)
    mask = torch.cat([real.new_ones(len(tails), prefix.length), real], 1)
    cache = fork(prefix.cache)
    if len(tails) > 1:
        cache.batch_repeat_interleave(len(tails))
    inputs = {"input_ids": ids, "attention_mask": mask, "past_key_values": cache}
    return inputs, (real.cumsum(1) - 1).clamp_min(0)


@contextmanager
def head_at(lm: Any, places: Tensor | slice | None) -> Iterator[None]:
    """The forward of a language model makes logits (1, N, V) of these N places in its rows, one after the
    other; None: of all, which may not fit into memory. Not every class takes logits_to_keep, and what is
    learned in a row need not be in another."""
    if places is None:
        yield
        return
    head, own = lm.get_output_embeddings(), threading.get_ident()

    def cut(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        # a hook is seen by all threads that use the model
        return (args[0].flatten(0, 1)[None, places], *args[1:]) if threading.get_ident() == own else None

    handle = head.register_forward_pre_hook(cut)
    try:
        yield
    finally:
        handle.remove()


def with_loss(
    logits: Tensor,
    labels: Tensor | None,
    logits_to_keep: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
) -> dict[str, Tensor]:
    """{"logits": (B, L, V) or (N, V)} and, with labels (B, L), "loss" (): the mean over learned tokens, or
    their sum over num_items_in_batch. logits_to_keep: (N,), where logits are (1, N, V), as of `head_at`."""
    logits = logits if logits_to_keep is None else logits[0]
    if labels is None:
        return {"logits": logits}
    places = learned_places(labels)
    # the logits at a place predict the next token
    predicted = logits.flatten(0, 1)[places] if logits_to_keep is None else logits
    target = labels.flatten()[places + 1]
    total = nn.functional.cross_entropy(predicted.float(), target, reduction="sum")
    num = max(1, len(places)) if num_items_in_batch is None else num_items_in_batch
    return {"logits": logits, "loss": total / num}


@torch.no_grad()
def generate(
    lm: Any, tokenizer: Any, settings: LLMConfig, context: int | None, options: dict[str, Any], **inputs: Any
) -> list[str]:
    """Texts; greedy, and as long as the config has it, unless the options of transformers' generate say
    otherwise; `stream` among them is called with pieces of the text. They end where the context does.

    Raises:
        ValueError: for a prompt that fills the context.
    """
    options = {"do_sample": False} | options
    if (stream := options.pop("stream", None)) is not None:
        options["streamer"] = _Say(tokenizer, stream)
    if options.get("max_new_tokens") is None:
        options["max_new_tokens"] = settings.max_new_tokens
    num_positions = inputs["attention_mask"].shape[1]
    if context is not None:
        if num_positions >= context:
            raise ValueError(
                f"the prompt must have fewer positions than the language model's context of {context:,}, got "
                f"{num_positions:,} with the question; shorten the question, or compress to a smaller budget"
            )
        options["max_new_tokens"] = min(options["max_new_tokens"], context - num_positions)
    ends = {"pad_token_id": padding_id(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    out = lm.generate(**inputs, **(ends | options))
    num_prompt = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    texts = tokenizer.batch_decode(out[:, num_prompt:], skip_special_tokens=True)
    return [text.strip() for text in texts]


class _Say(TextStreamer):
    """Hands text to a function as it is generated."""

    def __init__(self, tokenizer: Any, say: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.say = say

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.say(text)


def sizes(
    example: Example, tokenizer: Any, config: LLMConfig, names: Sequence[str]
) -> tuple[int, Callable[[Turns], int]]:
    """(positions of an example's video with the text before it, positions of turns after it: the sum of a
    dialogue, else the longest)."""
    head, _ = conversation(tokenizer, config, [example.turns[0][0]])

    def size(turns: Turns) -> int:
        _, parts = turn_ids(turns, tokenizer, config, example.dialogue)
        lengths = [len(tail) + len(learned) for tail, learned in parts]
        return sum(lengths) if example.dialogue else max(lengths)

    return len(head) + len(lay_out(example.video, tokenizer, config, names).ids), size


def learned_places(labels: Tensor) -> Tensor:
    """(N,) int64 places whose logits predict a learned token of labels (B, L), in all rows one after the
    other: the token at place + 1."""
    return nn.functional.pad(labels[:, 1:] != IGNORED, (0, 1)).flatten().nonzero()[:, 0]


def together(table: nn.Module, ids: Tensor, how: Literal["places", "mean"]) -> Tensor:
    """(K, D) one embedding for each row of ids (K, k), entries below 0 left out; see LLMConfig.numbers.

    "places": the sum of the tokens' embeddings, each with the signs of its place, over the root of their
    number, so that the norm is that of a single token. The signs are Walsh functions: all + for the last
    token, orthogonal for any two places.
    """
    x = table(ids.clamp_min(0))  # (K, k, D)
    known = ids >= 0
    count = known.sum(1, keepdim=True).clamp_min(1).to(x.dtype)
    real = rearrange(known, "n k -> n k 1").to(x.dtype)
    if how == "mean":
        return reduce(x * real, "n k d -> n d", "sum") / count
    place = known.flip(1).cumsum(1).flip(1) - 1  # from the right
    signs = _walsh(ids.shape[1], x.shape[-1]).to(x)[place.clamp_min(0)]
    return reduce(x * signs * real, "n k d -> n d", "sum") / count.sqrt()


def spelled(table: nn.Module, words: Tensor, norm: float) -> Tensor:
    """(N, D) what stands for N tokens that are words (N, k), entries below 0 left out: their mean embedding
    less that of all, `norm` times as long as a word, and noise half as long; without words noise alone."""
    known = (words >= 0).any(1)
    x = together(table, words, "mean").float()
    x = torch.where(known[:, None], x - x[known].mean(0).nan_to_num(), 0)
    unit = norm * table(words[words >= 0]).float().norm(dim=1).mean().nan_to_num()
    noise = nn.functional.normalize(torch.randn_like(x), dim=1)
    return unit * (nn.functional.normalize(x, dim=1) + SPELLING_NOISE * noise)


def _walsh(num: int, width: int) -> Tensor:
    """(num, width) of 1 and -1."""
    both = torch.arange(num)[:, None] & torch.arange(width)
    bits = sum((both >> bit) & 1 for bit in range(max(num, 1).bit_length()))
    return (1 - 2 * (torch.as_tensor(bits) % 2)).float()
