"""Any causal language model of transformers reads a video: projectors, time, splice, loss, generation."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel, TextStreamer

from ..config import LLMConfig
from ..types import CompressedVideo, stream_order
from .collate import collate
from .packing import branch_mask, check_apart, packed_logits, takes_lengths
from .prompt import IGNORED, Example, around, encode


def projector(kind: str, width: int, llm_width: int) -> nn.Module:
    """(N, C) -> (N, D) between a stream and the language model; see LLMConfig.projector."""
    if kind == "linear":
        return nn.Linear(width, llm_width)
    return nn.Sequential(nn.Linear(width, llm_width), nn.GELU(), nn.Linear(llm_width, llm_width))


class TimeEmbedding(nn.Module):
    """What is added to a video token: its mark, its first and last second after the mark, and log size.

    Seconds are written with the language model's own embeddings of the numbers, so that they can be copied
    into an answer; those of the last second with random signs, to be told apart. A table learns the rest.

    Args:
        width: D of the language model.
        max_offset_s: seconds that can be told apart.
    """

    def __init__(self, width: int, max_offset_s: int) -> None:
        super().__init__()
        signs = torch.randint(0, 2, (1, width)).float() * 2 - 1
        self.gain = nn.Parameter(torch.cat([torch.ones(2, width), signs]))  # of mark, first, last
        self.table = nn.Parameter(torch.zeros(2, max_offset_s, width))
        self.size = nn.Parameter(torch.zeros(width))

    def forward(self, mark: Tensor, numbers: Tensor, first_s: Tensor, last_s: Tensor, size: Tensor) -> Tensor:
        """(N, D) from the marks' embeddings (N, D), those of the numbers (max_offset, D), seconds and sizes
        (N,)."""
        most = self.table.shape[1] - 1
        first, last = first_s.clamp(0, most).long(), last_s.clamp(0, most).long()
        added = self.gain[0] * mark + self.gain[1] * numbers[first] + self.gain[2] * numbers[last]
        return added + self.table[0, first] + self.table[1, last] + size.log2()[:, None] * self.size


class CausalLM(nn.Module):
    """A causal language model and what lets it read videos.

    Args:
        lm: any AutoModelForCausalLM.
        tokenizer: its own.
        config: prompt, marks, time; kept as `settings`, for `config` is the language model's, as Trainer
            expects.
        widths: stream name -> C of its tokens.
    """

    def __init__(
        self, lm: PreTrainedModel, tokenizer: Any, config: LLMConfig, widths: dict[str, int]
    ) -> None:
        super().__init__()
        self.lm = lm
        self.tokenizer = tokenizer
        self.settings = config
        self.names = tuple(stream_order(widths))
        width = lm.get_input_embeddings().weight.shape[1]
        self.project = nn.ModuleDict({n: projector(config.projector, widths[n], width) for n in self.names})
        self.time = TimeEmbedding(width, config.max_offset_s) if config.time else None
        self._apart = False  # known to keep samples of a row apart
        if tokenizer.eos_token_id is None:
            raise ValueError("tokenizer must have an eos_token, it ends the answers; set one")

    @property
    def config(self) -> Any:
        """The language model's own config."""
        return self.lm.config

    @property
    def _no_split_modules(self) -> list[str]:
        """The layers that FSDP shards one by one, under the name that accelerate looks for."""
        lm = self.lm.get_base_model() if hasattr(self.lm, "peft_config") else self.lm
        return sorted(lm._no_split_modules or ())

    @property
    def context(self) -> int | None:
        """Positions the language model was made for, or None where its config does not say."""
        return getattr(self.lm.config, "max_position_embeddings", None)

    def collate(
        self, examples: Sequence[Example], *, left: bool = False, row_tokens: int = 0
    ) -> dict[str, Tensor]:
        """`batch.collate` with this language model's tokenizer and streams."""
        return collate(examples, self.tokenizer, self.settings, self.names, left=left, row_tokens=row_tokens)

    def embed(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, L, D) input embeddings, video tokens in their places."""
        table = self.lm.get_input_embeddings()
        ids = batch["input_ids"]
        out = table(ids.clamp_min(0))
        for i, name in enumerate(self.names):
            for place, rows in (
                (-(2 * i + 1), self._rows(name, batch, table)),
                (-(2 * i + 2), self._globals(name, batch)),
            ):
                where = ids == place
                num = 0 if rows is None else len(rows)
                if int(where.sum()) != num:
                    raise ValueError(
                        f"input_ids has {int(where.sum())} places for stream {name!r}, got {num} tokens"
                    )
                if rows is not None:
                    out = out.masked_scatter(where[..., None], rows.to(out.dtype))
        return out

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        branch: Tensor | None = None,
        sample: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        kept: Tensor | None = None,
        **streams: Tensor,
    ) -> dict[str, Tensor]:
        """Logits, and the loss: mean over the learned tokens (or their sum over num_items_in_batch).

        Args: what `collate` makes; all (B, L) int64 but the streams. kept (K,) int64 are the places whose
        logits are wanted, None for all; with labels, all that say a learned token must be among them.

        Returns:
            {"logits": (B, L, V) or (B, K, V)} and, with labels, "loss" ().

        Raises:
            ValueError: the language model can't keep branches, or samples of a row, apart.
        """
        x = self.embed({"input_ids": input_ids, **streams})
        logits = self._logits(x, attention_mask, position_ids, branch, sample, kept)
        out = {"logits": logits}
        if labels is not None:
            said, wanted = logits[:, :-1], labels[:, 1:]
            if kept is not None:
                said, wanted = logits, wanted[:, kept]
            learned = wanted != IGNORED
            total = nn.functional.cross_entropy(said[learned].float(), wanted[learned], reduction="sum")
            out["loss"] = total / (
                num_items_in_batch if num_items_in_batch is not None else learned.sum().clamp_min(1)
            )
        return out

    @torch.no_grad()
    def prefill(self, video: CompressedVideo) -> "Prefix":
        """The cache of everything before a question, filled once."""
        batch = self._to_device(self.collate([Example(video, [("?", None)])]))
        num = int((batch["branch"] == 0).sum())
        x = self.embed(batch)[:, :num]
        cache = DynamicCache(config=self.lm.config)
        if num:
            self.lm(inputs_embeds=x, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return Prefix(cache, num)

    @torch.no_grad()
    def answer(
        self,
        prefix: "Prefix",
        questions: Sequence[str],
        *,
        stream: Callable[[str], None] | None = None,
        max_new_tokens: int | None = None,
        **generate: Any,
    ) -> list[str]:
        """The text of an answer to each question about one video; greedy unless `generate` says otherwise."""
        tails = [around(self.tokenizer, self.settings, q)[1] for q in questions]
        longest = max(map(len, tails))
        fill = (
            self.tokenizer.pad_token_id
            if self.tokenizer.pad_token_id is not None
            else self.tokenizer.eos_token_id
        )
        ids = torch.tensor([[fill] * (longest - len(t)) + t for t in tails], device=self.lm.device)
        real = torch.tensor([[0] * (longest - len(t)) + [1] * len(t) for t in tails], device=self.lm.device)
        mask = torch.cat([real.new_ones(len(tails), prefix.length), real], 1)
        cache = copy.deepcopy(prefix.cache)
        if len(tails) > 1:
            cache.batch_repeat_interleave(len(tails))
        position = (prefix.length + real.cumsum(1) - 1).clamp_min(0)
        return self._generate(stream, max_new_tokens, generate, input_ids=ids, attention_mask=mask,
                              position_ids=position, past_key_values=cache)  # fmt: skip

    @torch.no_grad()
    def answer_each(
        self,
        videos: Sequence[CompressedVideo],
        questions: Sequence[str],
        *,
        max_new_tokens: int | None = None,
        **generate: Any,
    ) -> list[str]:
        """The text of an answer to a question about each video, all in one batch of unequal rows."""
        if len(videos) != len(questions):
            raise ValueError(f"questions must be as many as videos = {len(videos)}, got {len(questions)}")
        examples = [Example(f, [(q, None)]) for f, q in zip(videos, questions, strict=True)]
        batch = self._to_device(self.collate(examples, left=True))
        return self._generate(None, max_new_tokens, generate, inputs_embeds=self.embed(batch),
                              attention_mask=batch["attention_mask"])  # fmt: skip

    def _generate(
        self,
        stream: Callable[[str], None] | None,
        max_new_tokens: int | None,
        options: dict[str, Any],
        **inputs: Any,
    ) -> list[str]:
        options = {"do_sample": False} | options
        if stream is not None:
            options["streamer"] = _Say(self.tokenizer, stream)
        out = self.lm.generate(
            **inputs, **options, max_new_tokens=max_new_tokens or self.settings.max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
        )  # fmt: skip
        given = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        texts = self.tokenizer.batch_decode(out[:, given:], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _logits(
        self, x: Tensor, attention_mask: Tensor, position_ids: Tensor | None, branch: Tensor | None,
        sample: Tensor | None, kept: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """(B, L, V), or (B, K, V) of the places kept, of embeddings in which each token sees what it may."""
        mask = attention_mask
        if branch is not None and int(branch.max()) > 1:
            if takes_lengths(self.lm):
                raise ValueError(
                    "several questions about a video need a mask that flash attention doesn't take; "
                    "ask one a "
                    'video (asking.most=1), or set llm.attention to "sdpa"'
                )
            kind = x.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
            mask = branch_mask(branch, attention_mask, dtype, sample)
        elif sample is not None and position_ids is not None:
            if not self._apart:
                check_apart(self.lm, x)
                self._apart = True
            packed = packed_logits(self.lm, x, position_ids)
            return packed if kept is None else packed[:, kept]
        logits: Tensor = self.lm(
            inputs_embeds=x, attention_mask=mask, position_ids=position_ids, use_cache=False,
            logits_to_keep=0 if kept is None else kept,
        ).logits  # fmt: skip
        return logits

    def _rows(self, name: str, batch: dict[str, Tensor], table: nn.Module) -> Tensor | None:
        """(N, D) projected tokens of a stream with their time."""
        x = batch.get(f"{name}_x")
        if x is None:
            return None
        rows = self._project(name, x)
        if self.time is None:
            return rows
        mark_ids, offsets = batch["mark_ids"], batch[f"{name}_offsets"].long()
        marks = together(table, mark_ids, self.settings.numbers)  # (K, D)
        of = torch.arange(len(marks), device=x.device).repeat_interleave(offsets.diff(), output_size=len(x))
        start = batch["mark_s"][of]
        first = (batch[f"{name}_start_s"] - start + 1e-6).floor()
        last = (batch[f"{name}_end_s"] - start - 1e-6).ceil() - 1
        return rows + self.time(marks[of], self.numbers(), first, last, batch[f"{name}_size"])

    def _globals(self, name: str, batch: dict[str, Tensor]) -> Tensor | None:
        x = batch.get(f"{name}_globals")
        return None if x is None else self._project(name, x)

    def _project(self, name: str, x: Tensor) -> Tensor:
        return self.project[name](x.to(next(self.project[name].parameters()).dtype))

    def numbers(self) -> Tensor:
        """(max_offset, D) of 0, 1, 2, ...: `together` of the tokens that the tokenizer writes each with."""
        if not hasattr(self, "_number_ids"):
            decode = self.tokenizer.decode
            written = [encode(self.tokenizer, str(k)) for k in range(self.settings.max_offset_s)]
            digits = [[i for i in ids if any(map(str.isdigit, decode([i])))] for ids in written]
            longest = max(map(len, digits))
            self._number_ids = torch.tensor([d + [-1] * (longest - len(d)) for d in digits])
        table = self.lm.get_input_embeddings()
        return together(table, self._number_ids.to(self.lm.device), self.settings.numbers)

    def _to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: v.to(self.lm.device) for k, v in batch.items()}


class Prefix:
    """A video's part of the prompt, already read: the cache, and how many positions it has."""

    def __init__(self, cache: Cache, length: int) -> None:
        self.cache = cache
        self.length = length


class _Say(TextStreamer):
    """Hands text to a function as it is made."""

    def __init__(self, tokenizer: Any, say: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.say = say

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.say(text)


def together(table: nn.Module, ids: Tensor, how: Literal["places", "mean"]) -> Tensor:
    """(K, D) one embedding for each row of ids (K, k), entries below 0 left out; see LLMConfig.numbers.

    By places it is the sum of the tokens' own, each with the signs of its place, over the root of their
    number: as long as one of them. The signs are Walsh functions: all + for the last token, orthogonal for
    any two places.
    """
    x = table(ids.clamp_min(0))  # (K, k, D)
    known = ids >= 0
    count = known.sum(1, keepdim=True).clamp_min(1).to(x.dtype)
    if how == "mean":
        return (x * known.to(x.dtype)[..., None]).sum(1) / count
    place = known.flip(1).cumsum(1).flip(1) - 1  # from the right
    signs = _walsh(ids.shape[1], x.shape[-1]).to(x)[place.clamp_min(0)]
    return (x * signs * known.to(x.dtype)[..., None]).sum(1) / count.sqrt()


def _walsh(num: int, width: int) -> Tensor:
    """(num, width) of 1 and -1."""
    both = torch.arange(num)[:, None] & torch.arange(width)
    bits = sum((both >> bit) & 1 for bit in range(max(num, 1).bit_length()))
    return (1 - 2 * (torch.as_tensor(bits) % 2)).float()
