"""A stock video LLM of transformers reads merged tokens: its own prompt, text and positions around them.

Video tokens go in as `mm_encoder_outputs`, which transformers scatters into placeholders; nothing of it is
patched. Text up to the last video token doesn't depend on the question, so it is read once.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..config import MediaConfig
from ..config_llm import LLMConfig
from ..encoders.families import Family
from ..encoders.stream import memory_hint
from ..threads import by_size
from ..types import CompressedVideo
from .attention_interface import masks
from .cache import new_cache
from .causal import Prefix, behind, generate, head_at, with_loss
from .packing import has_state
from .prompt import IGNORED, Example, Turns, batch_of, check_batch, dialogue_of, padding_id
from .stock_prompt import StockPrompt


class StockLM(nn.Module):
    """The language model of a stock video LLM, which owns its encoders too.

    Args:
        lm: of a family's class.
        tokenizer: with its chat template.
        config: the attribute `settings`.
        family: its data.
        media: how frames are sampled.
        edge: rows or columns of a frame's tokens, the larger number.
    """

    def __init__(
        self, lm: Any, tokenizer: Any, config: LLMConfig, family: Family, media: MediaConfig, edge: int
    ) -> None:
        super().__init__()
        self.lm, self.tokenizer, self.settings, self.family = lm, tokenizer, config, family
        self.prompt = StockPrompt(lm, tokenizer, config, family, media, edge)
        self.names, self.backend = self.prompt.names, "auto"  # of branch_attention
        self.project, self.time = nn.ModuleDict(), None  # it has no parts of ours
        self.untrained: set[str] = set()

    @property
    def config(self) -> Any:
        """The model's own config."""
        return self.lm.config

    @property
    def base(self) -> Any:
        """The model without a LoRA adapter around it."""
        return self.lm.get_base_model() if hasattr(self.lm, "peft_config") else self.lm

    @property
    def _no_split_modules(self) -> list[str]:
        """The layers that FSDP shards one by one; accelerate reads this name."""
        return sorted(self.base._no_split_modules or ())

    @property
    def context(self) -> int | None:
        """Positions that the language model was trained for, or None if its config has no such number."""
        return getattr(self.lm.config.get_text_config(), "max_position_embeddings", None)

    @property
    def lora_modules(self) -> dict[str, str]:
        """Options of peft for the linear layers of the language model alone: encoders stay as they are."""
        decoder = self.base.get_decoder()
        prefix = next(name for name, module in self.base.named_modules() if module is decoder)
        linear = {n.split(".")[-1] for n, module in decoder.named_modules() if isinstance(module, nn.Linear)}
        # excluded too: of some models with experts peft keeps the last part of a name alone
        return {
            "target_modules": rf"{prefix}\..*\.({'|'.join(sorted(linear))})",
            "exclude_modules": rf"(?!{prefix}\.).*",
        }

    @property
    def sizes(self) -> Callable[[Example], tuple[int, Callable[[Turns], int]]]:
        """As of CausalLM."""
        return self.prompt.sizes

    def change(self, config: LLMConfig, media: MediaConfig, edge: int) -> None:
        """Other settings from now on."""
        self.settings = config
        self.prompt = StockPrompt(self.base, self.tokenizer, config, self.family, media, edge)

    def timestamp_tokens(self, duration_s: float) -> int:
        """Text tokens of a timestamp in a video of this length."""
        return self.prompt.timestamp_tokens(duration_s)

    def collate(
        self, examples: Sequence[Example], *, left: bool = False, row_tokens: int = 0
    ) -> dict[str, Tensor]:
        """One batch of unequal videos and questions as a flat dict of tensors.

        Args: as of `prompt.collate`.

        Returns:
            input_ids, attention_mask, branch (0 = video), labels: (rows, L) int64; position_ids (rows, P, L);
            with row_tokens also sample, the example's number or -1 at padding; for each stream NAME: NAME_x
            (N, C) in the order of the rows; video_counts tokens of each example.
        """
        check_batch(examples, left, row_tokens)
        if row_tokens and (has_state(self.lm) or self.family.token_types):
            raise ValueError(
                f"{type(self.base).__name__} lets a sample see the one before it in its row; set row_tokens "
                "to 0"
            )
        layouts, rows = zip(*(self.prompt.row(example) for example in examples), strict=True)
        fills = {"input_ids": padding_id(self.tokenizer), "labels": IGNORED}
        batch, order = batch_of(rows, fills, left=left, row_tokens=row_tokens)
        for name in self.names:
            at = [i for i in order if name in layouts[i].rows]
            if at:
                parts = [examples[i].video.streams[name].x[layouts[i].rows[name]] for i in at]
                batch[f"{name}_x"] = torch.cat(parts)
        batch["video_counts"] = torch.tensor([len(layouts[i].rows.get("video", ())) for i in order])
        return batch

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, labels: Tensor | None = None,
        branch: Tensor | None = None, sample: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None, logits_to_keep: Tensor | None = None,
        **streams: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """As of CausalLM; position_ids (B, P, L)."""
        inputs = self.inputs(input_ids, position_ids, streams) | {"use_cache": False}
        inputs |= masks(self.lm, attention_mask.to(self.lm.device), branch, sample, self.backend)
        with head_at(self.base, logits_to_keep):
            logits = self.lm(**inputs).logits
        return with_loss(logits, labels, logits_to_keep, num_items_in_batch)

    @torch.no_grad()
    @by_size
    def prefill(self, video: CompressedVideo) -> Prefix:
        """The cache of the prompt through the last token of the video, filled once."""
        layout = self.prompt.lay_out(video)
        if self.context is not None and layout.next_position > self.context:
            has_clock = self.family.positions == "clock"
            remedy = "lower llm.clock_scale" if has_clock else "compress to a smaller budget"
            warnings.warn(
                f"the video's positions end at {layout.next_position:,.0f}, past the {self.context:,} that "
                f"the language model was trained for; {remedy}",
                stacklevel=4,
            )
        x = {
            f"{n}_x": video.streams[n].x[rows.to(video.streams[n].x.device)]
            for n, rows in layout.rows.items()
        }
        x["video_counts"] = torch.tensor([len(layout.rows.get("video", ()))])
        inputs = self.inputs(layout.ids[None], layout.position[None], x)
        cache = new_cache(self.lm.config)
        hint = memory_hint("reading the video", "the budget, or load with quantization='4bit'")
        if len(layout.ids):
            with hint, head_at(self.base, slice(-1, None)):
                self.base(**inputs, past_key_values=cache, use_cache=True)
        return Prefix(cache, len(layout.ids), layout)

    @torch.no_grad()
    @by_size
    def answer(self, prefix: Prefix, questions: Sequence[str | Turns], **options: Any) -> list[str]:
        """The text of an answer to each question about one video, or at the end of each dialogue; options as
        `generate` has them. A model whose layers carry a state is asked one question after another."""
        if len(questions) > 1 and has_state(self.lm):
            return [text for question in questions for text in self.answer(prefix, [question], **options)]
        tails = [self.prompt.dialogue(prefix.layout, dialogue_of(question)) for question in questions]
        inputs, index = behind(prefix, tails, padding_id(self.tokenizer), self.lm.device)
        position = self._position(self.prompt.behind(prefix.layout, index))
        return self._generate(options, **(inputs | position))

    def answer_each(
        self, videos: Sequence[CompressedVideo], questions: Sequence[str | Turns], **options: Any
    ) -> list[str]:
        """Likewise of each video, one after the other."""
        if len(videos) != len(questions):
            raise ValueError(f"questions must be as many as videos = {len(videos)}, got {len(questions)}")
        pairs = zip(videos, questions, strict=True)
        return [self.answer(self.prefill(video), [question], **options)[0] for video, question in pairs]

    def _generate(self, options: dict[str, Any], **inputs: Any) -> list[str]:
        ends = self.lm.generation_config.eos_token_id  # may be several
        options = {"suppress_tokens": self.prompt.placeholders} | options
        if ends is not None:
            options = {"eos_token_id": ends} | options
        return generate(self.lm, self.tokenizer, self.settings, self.context, options, **inputs)

    def _position(self, position: Tensor) -> dict[str, Tensor]:
        """position (B, P, L) as forward takes it: (P, B, L), or (B, L) of one axis."""
        position = rearrange(position.to(self.lm.device), "b p l -> p b l")
        return {"position_ids": position[0] if len(position) == 1 else position}

    def inputs(self, ids: Tensor, position: Tensor, streams: dict[str, Tensor]) -> dict[str, Any]:
        """What the model's forward takes of ids (B, L), position (B, P, L) and the streams of a batch."""
        table, family = self.lm.get_input_embeddings(), self.family
        ids = ids.to(self.lm.device)
        inputs: dict[str, Any] = {"input_ids": ids} | self._position(position)
        if "video_x" in streams:
            width = table.weight.shape[1]
            x, *deep = streams["video_x"].to(ids.device, table.weight.dtype).split(width, -1)
            end = family.end_rows(self.base)
            if end is not None:  # behind the tokens of each video
                videos = x.split(streams["video_counts"].tolist())
                x = torch.cat([part for video in videos if len(video) for part in (video, end.to(x))])
            output = BaseModelOutputWithPooling(pooler_output=x[:, None] if family.as_tensor else [x])
            if deep:
                output.deepstack_features = [[part] for part in deep]
            inputs["mm_encoder_outputs"] = {family.key: output}
            if family.token_types:
                inputs["mm_token_type_ids"] = torch.where(ids == self.prompt.placeholders[0], 2, 0)
        if "audio_x" in streams:
            heard = ids == self.prompt.placeholders[1]
            x = table(inputs.pop("input_ids"))
            rows = streams["audio_x"].to(x)
            inputs["inputs_embeds"] = x.masked_scatter(rearrange(heard, "b l -> b l 1"), rows)
        return inputs
