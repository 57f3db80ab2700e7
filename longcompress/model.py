"""The parts joined: encoders, global memory, language model; saving, loading, LoRA."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from .compression.budget import Estimate, Flow, Shape, check_budget, check_duration, estimate
from .compression.global_memory import GlobalMemory
from .compression.state import MergeState
from .config import (
    AudioConfig,
    BudgetConfig,
    MediaConfig,
    MergeConfig,
    ModelConfig,
    SegmentConfig,
    load_config,
    to_dict,
)
from .encoders import AUDIO, AudioEncoder, BeatsEncoder, Encoder, VisionEncoder
from .encoders.checks import check_language, kind_of
from .files import replacing
from .llm import CausalLM
from .llm.calibrate import init_heads
from .llm.prompt import encode, mark_text
from .llm.tokenizer import load_tokenizer

CHANGEABLE = {
    name: tuple(f.name for f in fields(kind) if f.name not in fixed)
    for name, kind, fixed in (
        ("media", MediaConfig, ("size_px", "rate_hz")),
        ("segments", SegmentConfig, ()),
        ("merge", MergeConfig, ()),
        ("budget", BudgetConfig, ()),
    )
} | {"video": ("reuse_below",)}
"""Sections and fields of the config that `LongCompress.change` takes."""
ATTENTION = {
    "sdpa": "", "eager": "", "flex_attention": "", "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface", "flash_attention_4": "flash_attn.cute",
}  # fmt: skip
"""Values of an `attention` field, and the package that each needs besides torch."""
PARTS = {"video": "video", "audio": "audio", "speech": "speech"}
"""Streams, and what the encoder of each is called in the model, in its config and in a saved folder."""
OWN = ("global_memory.", "llm.project.", "llm.time.")  # parameters that a saved folder holds itself


class LongCompress(nn.Module):
    """A video language model that reads a fixed number of tokens.

    Args:
        config: all knobs.
        vision: the video encoder, or None.
        audio: the audio encoder, of Whisper or BEATs, or None.
        language model: the language model with its projectors; None: the model makes features and can't be
            asked.
        global_memory: None makes the one that config describes.
        folder: where it was loaded from; bases that begin with "./" are relative to it.
        speech: a second encoder of audio, or None.
    """

    llm: CausalLM

    def __init__(
        self,
        config: ModelConfig,
        video: VisionEncoder | None,
        audio: AudioEncoder | BeatsEncoder | None,
        llm: CausalLM | None,
        global_memory: GlobalMemory | None = None,
        folder: Path | None = None,
        speech: AudioEncoder | BeatsEncoder | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.video, self.audio, self.speech = video, audio, speech
        if not self.encoders:
            raise ValueError("vision or audio must be given: a model without encoders sees and hears nothing")
        self.global_memory = global_memory or make_global_memory(config, self.encoders)
        if llm is not None:
            self.llm = llm
        self.folder = folder

    def __getattr__(self, name: str) -> Any:
        if name == "llm" and "llm" not in self._modules:
            raise AttributeError(
                "language model: this model has encoders alone, which make features; load the "
                "whole model to ask or train"
            )
        return super().__getattr__(name)

    @property
    def encoders(self) -> dict[str, Encoder]:
        """Stream -> its encoder, of those there are."""
        found = {stream: getattr(self, part) for stream, part in PARTS.items()}
        return {stream: encoder for stream, encoder in found.items() if encoder is not None}

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams it takes in."""
        return tuple(self.encoders)

    @property
    def media(self) -> tuple[str, ...]:
        """What it takes in, of "video" and "audio"."""
        return tuple(dict.fromkeys(encoder.modality for encoder in self.encoders.values()))

    @property
    def device(self) -> torch.device:
        """Where its language model is; of encoders alone, where they are."""
        return next((self._modules.get("llm") or self).parameters()).device

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        quantization: Any = None,
    ) -> Self:
        """The model saved in a folder, or under a name on the hub.

        Args:
            name: folder with a config.json of this project, or a hub name.
            device: where to put it; None: the GPU if there is one.
            dtype: of encoders and language model ("auto": as saved); None: float32 on CPU, bfloat16 on a GPU.
            quantization: transformers' quantization_config for the language model.

        Raises:
            FileNotFoundError: if there is no such folder or no config.json in it.
        """
        folder = _folder_of(name)
        config = load_config(ModelConfig, folder / "config.json")
        model = cls.from_config(
            config, folder=folder, device=device, dtype=dtype, quantization=quantization, init=False
        )
        model.load_own(folder / "model.safetensors")
        if (folder / "adapter").is_dir():
            from peft import PeftModel

            model.llm.lm = PeftModel.from_pretrained(model.llm.lm, folder / "adapter")
            if quantization is None:
                model.llm.lm.to(next(model.llm.project.parameters()).device)
        return model.eval()

    @classmethod
    def from_config(
        cls,
        config: ModelConfig,
        *,
        folder: Path | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        quantization: Any = None,
        llm: bool = True,
        init: bool = True,
    ) -> Self:
        """A model that is still to be trained: encoders and language model from their bases, new projectors.

        Args:
            config: all knobs; a section whose base is "" has no encoder.
            folder: what bases that begin with "./" are relative to.
            device, dtype, quantization: as for `from_pretrained`.
            llm: with the language model; False: encoders alone, to make features with.
            init: initialise its own parameters (`llm.calibrate`); False: they are about to be loaded.
        """
        check_attention(config)
        if llm:
            llm_base = resolve(config.llm.base, folder)
            check_language(llm_base, kind_of(llm_base))  # before the encoders, which take their time
        target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if isinstance(dtype, str) and dtype != "auto":
            dtype = getattr(torch, dtype)
        kwargs = {"dtype": dtype or (torch.float32 if target.type == "cpu" else torch.bfloat16)}
        video = None
        if config.video.base:
            base = resolve(config.video.base, folder)
            video = VisionEncoder.load(config.video, base, config.media.size_px, **kwargs)
        audio, speech = (
            AUDIO[part.kind](part, resolve(part.base, folder), **kwargs) if part.base else None
            for part in (config.audio, config.speech)
        )
        if not llm:
            return cls(config, video, audio, None, folder=folder, speech=speech).to(target).eval()
        placed = (
            {} if quantization is None else {"quantization_config": quantization, "device_map": {"": target}}
        )
        tokenizer = load_tokenizer(llm_base)
        lm = AutoModelForCausalLM.from_pretrained(
            llm_base, attn_implementation=config.llm.attention, **kwargs, **placed
        )
        encoders = {"video": video, "audio": audio, "speech": speech}
        widths = {stream: encoder.width for stream, encoder in encoders.items() if encoder is not None}
        reader = CausalLM(lm, tokenizer, config.llm, widths)
        model = cls(config, video, audio, reader, folder=folder, speech=speech)
        for part in (*model.encoders.values(), model.global_memory, model.llm.project, model.llm.time):
            if part is not None:
                part.to(target)
        if quantization is None:
            model.llm.lm.to(target)
        if init:
            init_heads(model.llm, model.encoders, config.media)
        return model.eval()

    def save_pretrained(self, folder: str | Path, *, include_base: bool = False, **_: Any) -> None:
        """Write config.json, own parameters, LoRA adapter; with include_base also copies of encoders and LM.

        A base that is a path relative to the model's own folder ("./vision") is always copied.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        values = to_dict(self.config)
        parts = {name: (name, getattr(self, name)) for name in PARTS.values()} | {"llm": ("lm", None)}
        for kind, (name, encoder) in parts.items():
            base = values[kind]["base"]
            if base and (include_base or base.startswith("./")):
                if kind == "llm":
                    self._save_llm(folder / name)
                else:
                    encoder.save_pretrained(folder / name)
                values[kind]["base"] = f"./{name}"
        own = {k: v.contiguous() for k, v in self.state_dict().items() if k.startswith(OWN)}
        with replacing(folder / "model.safetensors") as part:
            save_file(own, part, metadata={"format": "pt"})
        if hasattr(self.llm.lm, "peft_config"):
            self.llm.lm.save_pretrained(folder / "adapter")
        with replacing(folder / "config.json") as part:
            part.write_text(json.dumps(values, indent=2) + "\n")

    def push_to_hub(self, name: str, **kwargs: Any) -> str:
        """Upload what `save_pretrained` writes to the hub under `name`; returns its address."""
        import tempfile

        from huggingface_hub import HfApi

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            api = HfApi()
            url = api.create_repo(name, exist_ok=True, private=kwargs.pop("private", None))
            api.upload_folder(repo_id=name, folder_path=folder, **kwargs)
        return str(url)

    def load_own(self, path: str | Path) -> None:
        """Load global memory, projectors and time from a safetensors file; every parameter must be there and
        fit."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"model: no file {path}; is the folder whole?")
        given = load_file(path)
        want = {k for k in self.state_dict() if k.startswith(OWN)}
        if set(given) != want:
            raise ValueError(
                f"{path} must hold exactly this model's own parameters; missing {sorted(want - set(given))}, "
                f"unknown {sorted(set(given) - want)}"
            )
        self.load_state_dict(given, strict=False)

    def change(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Other knobs from now on: section of the config -> changed fields, as {"media": {"rate_fps": 2}}.

        Weights stay, so only what the encoders and the global tokens don't depend on can change.

        Raises:
            ValueError: for a section or field that can't be changed, or is not there.
        """
        for section, values in changes.items():
            if section not in CHANGEABLE or set(values) - set(CHANGEABLE[section]):
                raise ValueError(
                    f"changes must be fields of {dict(CHANGEABLE)}, got {section!r}: {sorted(values)}"
                )
        sections = {name: replace(getattr(self.config, name), **values) for name, values in changes.items()}
        self.config = replace(self.config, **sections)
        if self.video is not None:
            self.video.config = self.config.video

    def check_budget(self, budget: int, streams: Iterable[str] | None = None) -> None:
        """ValueError unless `budget` has room for the global tokens and a token of each stream (None:
        all)."""
        names = list(self.streams if streams is None else streams)
        check_budget(budget, self.global_memory.num_tokens(names) + len(names))

    def merge_state(self, budget: int | None = None, *, keep_assignment: bool = False) -> MergeState:
        """An empty state that segments are merged into; see MergeState.

        Args:
            budget: tokens that it is kept for; None: as the config says.
            keep_assignment: remember where each raw token went.
        """
        config = self.config
        budget = config.budget.tokens if budget is None else budget
        return MergeState(config.merge, config.budget, self.global_memory, budget, keep_assignment)

    def add_lora(self, **options: Any) -> None:
        """Wrap the language model with a LoRA adapter; options are those of peft.LoraConfig."""
        from peft import LoraConfig, get_peft_model

        options = {"task_type": "CAUSAL_LM", "target_modules": "all-linear"} | options
        self.llm.lm = get_peft_model(self.llm.lm, LoraConfig(**options))

    def forward(self, **batch: Any) -> dict[str, Tensor]:
        """Loss (with labels) and logits of a batch that `llm.collate` made."""
        out: dict[str, Tensor] = self.llm(**batch)
        return out

    def estimate(
        self, duration_s: float, budget: int | None = None, *, video: bool = True, audio: bool = True
    ) -> Estimate:
        """What a video of this length will come to; see `budget.estimate`."""
        check_duration(duration_s)
        config = self.config
        length = (duration_s, config.media)
        flows = {
            name: Flow(encoder.num_tokens(*length), encoder.tokens_a_second(*length), encoder.width)
            for name, encoder in self.encoders.items()
            if (video if encoder.modality == "video" else audio)
        }
        patches = self.video.patches if self.video else 1
        shape = Shape(
            flows, frames=flows["video"].tokens // patches if "video" in flows else 0,
            global_tokens=self.global_memory.num_tokens(list(flows)),
            mark_tokens=len(encode(self.llm.tokenizer, mark_text(config.llm, duration_s))),
            context=self.llm.context,
        )  # fmt: skip
        budget = config.budget.tokens if budget is None else budget
        return estimate(duration_s, budget=budget, config=config, shape=shape)

    def identity(self) -> str:
        """A hash of what makes its tokens mean what they mean: encoders and global memory, not projectors
        or language model.

        Weights go in as bfloat16 and sampled, so that it is quick and the same in every dtype.
        """
        digest = hashlib.sha256()
        config = self.config
        used: dict[str, Any] = {
            "video": [config.video.layer, config.video.summary_layers, config.media.size_px]
            if self.video
            else None,
            "audio": _heard(config.audio) if self.audio else None,
            "memory": to_dict(config.memory),
        }
        # knobs that came later are named only where they are used, so that older memories still match
        if config.video.merge_per_layer and used["video"]:
            used["merge_per_layer"] = config.video.merge_per_layer
        if config.video.tokens != "patches" and used["video"]:
            used["tokens"] = config.video.tokens
        if config.video.summary_until is not None and used["video"]:
            used["summary_until"] = config.video.summary_until
        if self.speech:
            used["speech"] = _heard(config.speech)
        digest.update(json.dumps(used, sort_keys=True).encode())
        for part in (self.video, self.audio, self.speech, self.global_memory):
            for name, value in sorted((part.state_dict() if part is not None else {}).items()):
                flat = value.detach().flatten()
                at = torch.linspace(0, max(0, len(flat) - 1), min(64, len(flat))).long().to(flat.device)
                digest.update(f"{name}{tuple(value.shape)}".encode())
                digest.update(flat[at].to(torch.bfloat16).float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def _save_llm(self, folder: Path) -> None:
        lm = self.llm.lm
        if hasattr(lm, "peft_config"):  # what the adapter sits on, under its own names
            base = lm.get_base_model()
            state = {k.replace(".base_layer.", "."): v for k, v in base.state_dict().items()}
            base.save_pretrained(folder, state_dict={k: v for k, v in state.items() if "lora_" not in k})
        else:
            lm.save_pretrained(folder)
        self.llm.tokenizer.save_pretrained(folder)


def make_global_memory(config: ModelConfig, encoders: Mapping[str, Encoder]) -> GlobalMemory:
    """The global memory that `config` describes, for these encoders of streams."""
    widths = {stream: encoder.width for stream, encoder in encoders.items()}
    summaries = {stream: encoder.num_summaries for stream, encoder in encoders.items()}
    return GlobalMemory(config.memory, widths, summaries)


def check_attention(config: ModelConfig) -> None:
    """ValueError where a section of the config names an attention that is unknown or not installed.

    Names with a slash are kernels of the hub, which transformers fetches; they are left to it.
    """
    for section in (*PARTS.values(), "llm"):
        part = getattr(config, section)
        name = part.attention
        if not part.base or "/" in name:
            continue
        if name not in ATTENTION:
            raise ValueError(f"{section}.attention must be one of {sorted(ATTENTION)}, got {name!r}")
        package = ATTENTION[name]
        if package and find_spec(package.split(".")[0]) is None:
            raise ValueError(
                f"{section}.attention {name!r} needs the package {package}, which is not installed; install "
                f'it (pip install -e ".[flash]" on a machine with a GPU and its compiler), or use "sdpa"'
            )


def resolve(base: str, folder: Path | None) -> str:
    """A base as encoders take it: "./x" is looked for in `folder`, all else is left alone."""
    if not base.startswith("./"):
        return base
    path = (folder or Path()) / base
    if not path.exists():
        raise FileNotFoundError(
            f"base {base!r}: no folder {path}; a saved model needs the encoders and LM beside it"
        )
    return str(path)


def _heard(config: AudioConfig) -> list[Any]:
    """What the tokens of an audio encoder depend on beside its weights."""
    more = {"kind": config.kind, "pool_across": config.pool_across, "tail": config.tail}
    plain = AudioConfig()
    told = {name: value for name, value in more.items() if value != getattr(plain, name)}
    return [config.layer, config.pool, config.summary, *([told] if told else [])]


def _folder_of(name: str | Path) -> Path:
    if Path(name).is_dir():
        return Path(name)
    if isinstance(name, Path) or name.startswith((".", "/")) or name.count("/") != 1:
        raise FileNotFoundError(
            f"model: no folder {name}; give a preset's name, a folder, or a hub name owner/model"
        )
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name))
