"""Released weights of VTimeLLM, LongVALE-LLM, LongVLM and MMDuet put into a model of ours, stage after stage.

The order is the projects' own: what a stage learned besides its adapter is set, its adapter is merged into
the language model, then comes the next stage.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..encoders import VisionEncoder
from ..encoders.beats import listed
from ..llm.heads import SPREAD, looks_untrained
from ..model import OWN, LongCompress
from .files import Stage, read_stages

PROJECTORS = {"mm_projector": "video", "audio_mm_projector": "audio", "asr_mm_projector": "speech"}
"""Projector as released -> its stream."""
TABLE = "embed_tokens.weight"
VIDEO_WORDS = ("<vid_patch>", "<vid_start>", "<vid_end>")  # LongVLM adds them, in this order
NEAR = 0.05  # RMS by which the words that were there before may differ: they were frozen, but rounded
SAMPLED = 2048  # of these words
ROOTS = {"time": "llm.time.", "memory": "global_memory.", "heads": "llm.heads."}
"""Our parts that no released file has; MMDuet's may have the heads."""
HEADS = {
    "informative_head": "informative", "response_head": "informative",
    "relevance_head": "relevance", "related_head": "relevance",
}  # fmt: skip
"""Head as released, before and after MMDuet renamed it -> ours."""


def apply(
    model: LongCompress, weights: str | Path | Sequence[str | Path], *, init: Sequence[str] = ()
) -> None:
    """Set the projectors of a published model and merge adapters into its language model.

    Files: `mm_projector.bin` under any name; folders: with that file, or with an adapter as peft saves it
    and `non_lora_trainables.bin`. All files are read and their values checked before anything is set; an
    adapter is checked against the language model when its turn comes. A language model that was changed is
    saved with the model from then on.

    Args:
        model: with the encoders and the language model of its paper (`presets.load`).
        weights: of the stages, in their order.
        init: parts that keep their initial values, for training: projectors by stream, "time", "memory",
            "heads".

    Raises:
        ValueError: the model is another one, or quantized; entries without a place or of another shape, and
            parameters of our own that stay unset, are all listed.
    """
    roots = {stream: f"llm.project.{stream}." for stream in model.streams} | ROOTS
    if unknown := sorted(set(init) - set(roots)):
        raise ValueError(f"init must be some of {sorted(roots)}, got {unknown[0]!r}")
    if hasattr(model.llm.lm, "peft_config"):
        raise ValueError("model has an adapter that isn't merged; weights go into one without (merge_lora)")
    stages = read_stages(weights)
    if getattr(model.llm.lm, "hf_quantizer", None) is not None and any(stage.adapter for stage in stages):
        raise ValueError(
            "adapters are merged into the language model, which must not be quantized for it; load without "
            "quantization, save_pretrained, and load that folder with quantization"
        )
    homes = homes_of(model)
    done = {name for stage in stages for name in check_stage(stage, model, homes)}
    keep = tuple(roots[name] for name in init)
    own = [name for name in model.state_dict() if name.startswith(OWN)]
    if unset := sorted(name for name in own if name not in done and not name.startswith(keep)):
        if all(name.startswith(ROOTS["heads"]) for name in unset):
            raise ValueError(
                f"weights have no heads: {listed(unset)} stay unset. MMDuet's training code as published "
                "saves none, for its list of modules has other names; `longcompress weights show` prints "
                'what is there. Give another checkpoint, or name "heads" in `init` (--init heads)'
            )
        raise ValueError(
            f"weights leave {len(unset)} parameters unset: {listed(unset)}; give the stage that they were "
            "trained in too (mm_projector.bin comes first), or name their part in `init` "
            "(longcompress.checkpoints.apply.apply) if it is still to be trained"
        )
    if model.llm.heads is not None:
        warn_untrained(stages)
    for stage in tqdm(stages, desc="weights", unit="stage", disable=None):
        set_values(model, stage.values, homes)
        if stage.adapter:
            merge_adapter(model, stage)
    model.llm.untrained &= set(init)


def homes_of(model: LongCompress) -> dict[str, str]:
    """Name of an entry without its wrappers -> parameter of the model that it belongs to."""
    names = [name for name, _ in model.llm.lm.named_parameters(remove_duplicate=False)]
    homes = {core(name): f"llm.lm.{name}" for name in names}
    for theirs, ours in PROJECTORS.items():
        if ours in model.llm.project:
            leaves = model.llm.project[ours].state_dict()
            homes |= {f"{theirs}.{leaf}": f"llm.project.{ours}.{leaf}" for leaf in leaves}
    if isinstance(model.video, VisionEncoder) and model.video.projector is not None:
        leaves = model.video.projector.layers.state_dict()
        homes |= {f"mm_projector.{leaf}": f"video.projector.layers.{leaf}" for leaf in leaves}
    if model.llm.heads is not None:
        homes |= {f"{theirs}.weight": f"llm.heads.{ours}.weight" for theirs, ours in HEADS.items()}
    return homes


def core(name: str) -> str:
    """An entry's name without its wrappers: peft's `base_model.model.model.a.bias` is `a.bias`, and so is
    `base_model.model.a.modules_to_save.default.bias`."""
    return re.sub(r"^(?:(?:base_model|model|module)\.)+", "", name).replace(".modules_to_save.default.", ".")


def warn_untrained(stages: Sequence[Stage]) -> None:
    """Warn of heads that look as they were before any training."""
    heads = {(s.path, n): v for s in stages for n, v in s.values.items() if core(n).split(".")[0] in HEADS}
    if names := [name for (_, name), value in heads.items() if looks_untrained(value)]:
        path = next(path for path, name in heads if name == names[0])
        warnings.warn(
            f"weights: {listed(names)} of {path} look untrained: spread as widely as initial weights are "
            f"({SPREAD}), no and yes alike. Their scores will say little; train them on your own data",
            stacklevel=3,
        )


def check_stage(stage: Stage, model: LongCompress, homes: Mapping[str, str]) -> set[str]:
    """Parameters that the values of a stage are of; ValueError unless each has a place that it fits."""
    if unknown := sorted(name for name in stage.values if core(name) not in homes):
        roots = {core(name).split(".")[0] for name in unknown}
        streams = sorted(stream for root, stream in PROJECTORS.items() if root in roots)
        hint = f"; they are of streams {streams}, this model has {model.streams}"
        raise ValueError(
            f"weights: {len(unknown)} of {len(stage.values)} entries of {stage.path} have no place in model "
            f"{model.config.name!r}: {listed(unknown)}{hint if streams else ''}"
        )
    wrong, place = [], dict[str, str]()
    for name, value in sorted(stage.values.items()):
        if (first := place.setdefault(homes[core(name)], name)) != name:
            wrong.append(f"{first} and {name} are the same parameter")
        want, got = tuple(model.get_parameter(homes[core(name)]).shape), tuple(value.shape)
        if core(name) == TABLE and got != want:
            check_words(model, value, stage.path)
        elif got != want:
            wrong.append(f"{name} is {got}, must be {want}")
        elif not torch.isfinite(value).all():
            wrong.append(f"{name} is not finite")
    if wrong:
        raise ValueError(
            f"weights: {stage.path} is of another model than {model.config.name!r} on base['language model'] "
            f"{model.config.llm.base!r}: {'; '.join(wrong)} (language model width x feature width)"
        )
    return {homes[core(name)] for name in stage.values}


@torch.no_grad()
def set_values(model: LongCompress, values: Mapping[str, Tensor], homes: Mapping[str, str]) -> None:
    """Copy checked entries to their places; words that LongVLM added are added first."""
    for name, value in values.items():
        home = homes[core(name)]
        parameter = model.get_parameter(home)
        if core(name) == TABLE and len(value) > len(parameter):
            add_words(model, value)
        else:
            parameter.copy_(value)
        if home.startswith("llm.lm."):
            keep_lm(model)
        if home.startswith("video."):  # likewise the encoder, whose projector it is
            model.config = replace(model.config, video=replace(model.config.video, base="./video"))


def merge_adapter(model: LongCompress, stage: Stage) -> None:
    """Merge the LoRA adapter of a stage into the language model: W + scale B A, as peft does it."""
    import peft

    where = f"weights: the adapter in {stage.path}"
    try:
        config = peft.PeftConfig.from_pretrained(str(stage.path))
        if config.peft_type != peft.PeftType.LORA:
            raise ValueError(f"its peft_type is {config.peft_type}")
        config.base_model_name_or_path = model.llm.lm.name_or_path  # it names a folder of its authors
        config.modules_to_save = None  # they are set by now
        lm = peft.get_peft_model(model.llm.lm, config)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{where} is no LoRA adapter for {type(model.llm.lm).__name__}: {error}") from error
    entries = peft.get_peft_model_state_dict(lm, save_embedding_layers=False)  # else it looks for the base
    want = {name: tuple(value.shape) for name, value in entries.items()}
    got = {name: tuple(value.shape) for name, value in stage.adapter.items()}
    missing, extra = sorted(set(want) - set(got)), sorted(set(got) - set(want))
    wrong = [f"{n} is {got[n]}, must be {want[n]}" for n in sorted(want) if n in got and got[n] != want[n]]
    if missing or extra or wrong:
        model.llm.lm = lm.unload()
        raise ValueError(
            f"{where} doesn't fit the language model; missing {len(missing)}: {listed(missing)}; without a "
            f"place {len(extra)}: {listed(extra)}; of another shape {len(wrong)}: {listed(wrong)}"
        )
    peft.set_peft_model_state_dict(lm, stage.adapter)
    model.llm.lm = lm
    merge_lora(model)


def merge_lora(model: LongCompress) -> None:
    """Merge the adapter of a model's language model into it; it is saved with the model from then on."""
    if not hasattr(model.llm.lm, "merge_and_unload"):
        raise ValueError(f"merge_lora: model {model.config.name!r} comes without an adapter")
    model.llm.lm = model.llm.lm.merge_and_unload(safe_merge=True)
    keep_lm(model)


def keep_lm(model: LongCompress) -> None:
    """The language model is no longer its base's: from now on it is saved with the model."""
    model.config = replace(model.config, llm=replace(model.config.llm, base="./lm"))


def check_words(model: LongCompress, table: Tensor, path: Path) -> None:
    """ValueError unless a table of embeddings is the language model's with LongVLM's words behind it."""
    own = model.llm.lm.get_input_embeddings().weight
    want = (len(own) + len(VIDEO_WORDS), own.shape[1])
    if tuple(table.shape) != want or len(model.llm.tokenizer) != len(own):
        raise ValueError(
            f"weights: {path}: {TABLE} is {tuple(table.shape)}, the language model's is {tuple(own.shape)} "
            f"with {len(model.llm.tokenizer)} words in its tokenizer; with LongVLM's {len(VIDEO_WORDS)} it "
            f"must be {want}; give as base['language model'] what it was trained on, LLaMA with LLaVA's delta"
        )
    if model.config.llm.order != "blocks" or getattr(model.llm.tokenizer, "chat_template", None):
        raise ValueError(
            f"weights: {path}: LongVLM's words go around the video in Vicuna's prompt, which needs order "
            "'blocks' and a tokenizer without a chat template; load longvlm in mode 'paper'"
        )
    sampled = torch.linspace(0, len(own) - 1, min(SAMPLED, len(own))).long()
    before, now = own.detach()[sampled.to(own.device)].cpu().double(), table[sampled].double()
    off = float((before - now).square().mean().sqrt() / before.square().mean().sqrt())
    if not off <= NEAR:
        raise ValueError(
            f"weights: {path}: the first {len(own)} words of {TABLE} differ from the language model's by "
            f"{off:.0%}; they were frozen, so base['language model'] is another model than it was trained on"
        )


def add_words(model: LongCompress, table: Tensor) -> None:
    """LongVLM's words with their embeddings, and the prompt with them around the video."""
    lm, tokenizer = model.llm.lm, model.llm.tokenizer
    before = len(lm.get_input_embeddings().weight)
    tokenizer.add_tokens(list(VIDEO_WORDS), special_tokens=True)
    lm.resize_token_embeddings(len(table), mean_resizing=False)
    lm.get_input_embeddings().weight[before:] = table[before:].to(lm.device, lm.dtype)
    if not lm.config.tie_word_embeddings:
        out = lm.get_output_embeddings().weight
        out[before:] = out[:before].mean(0)  # as they are made; they were not trained, nor saved
    llm = model.config.llm
    _, start, end = VIDEO_WORDS
    model.llm.settings = replace(llm, system=llm.system + start, question=end + llm.question)
    model.config = replace(model.config, llm=model.llm.settings)
