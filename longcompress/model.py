"""The parts joined: encoders, global memory, language model; saving, loading, LoRA."""

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from .compression.estimate import Estimate, Flow, Shape, check_duration, estimate
from .compression.global_memory import GlobalMemory
from .compression.state import MergeState, check_budget
from .config import BudgetConfig, MediaConfig, MemoryConfig, MergeConfig, ModelConfig, SegmentConfig
from .config_live import LiveConfig
from .config_values import load_config
from .encoders import Encoder, PixelEncoder, StockAudio, StockVision, VisionEncoder, tokens_a_second
from .encoders.checks import Base, check_language, kind_of, load_whole
from .encoders.load import check_attention, dtype_of, is_relative, load_encoders, resolve
from .files import is_hub_name, replacing, usual_modes, write_json
from .llm import CausalLM, StockLM
from .llm.backbone import Backbone, load_backbone, quantization_config, take_apart
from .llm.calibrate import init_heads
from .llm.tokenizer import load_tokenizer
from .types import STREAMS

CHANGEABLE = {
    name: tuple(f.name for f in fields(kind) if f.name not in fixed)
    for name, kind, fixed in (
        ("media", MediaConfig, ("size_px", "rate_hz")),
        ("segments", SegmentConfig, ()),
        ("merge", MergeConfig, ()),
        ("budget", BudgetConfig, ()),
        ("memory", MemoryConfig, ("kind", "num_queries")),
        ("live", LiveConfig, ()),
    )
} | {"video": ("reuse_below",), "llm": ("text_tokens",)}
"""Sections and fields of the config that `LongCompress.change` takes."""
STOCK = {
    "media": ("size_px",),
    "video": ("batch_size", "metric_width", "metric", "merge_per_layer", "merge_layer_by"),
    "llm": (
        "timestamp_s", "timestamp_share", "min_timestamps", "system", "question", "events", "events_window_s",
        "max_new_tokens", "text_after", "clock_scale",
    ),
}  # fmt: skip
"""Those that it also takes of a stock model, whose own parameters depend on none of ours."""
OWN = ("global_memory.", "llm.project.", "llm.time.", "llm.heads.")  # parameters that a saved folder holds
UNTRAINED = "untrained"  # key in that file's header: streams whose projectors are as they were initialised
NO_EFFECT = ("base", "metric_width", "metric", "batch_size", "reuse_below", "attention")
"""Fields of an encoder's config that don't change what its tokens mean."""


class LongCompress(nn.Module):
    """A video language model that reads a fixed number of tokens.

    The encoder of a stream is the attribute, the config section and the saved folder of the stream's name.

    Args:
        config: all knobs.
        video: the video encoder, or None.
        audio: the audio encoder, of Whisper or BEATs, or None.
        llm: the language model with its projectors; None: the model makes features and can't answer.
        global_memory: None makes the global memory of `config`.
        folder: where it was loaded from; bases that begin with "./" or "../" are relative to it.
        speech: a second audio encoder, or None.
    """

    llm: CausalLM | StockLM

    def __init__(
        self,
        config: ModelConfig,
        video: VisionEncoder | PixelEncoder | StockVision | None,
        audio: Encoder | None,
        llm: CausalLM | StockLM | None,
        global_memory: GlobalMemory | None = None,
        folder: Path | None = None,
        speech: Encoder | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.video, self.audio, self.speech = video, audio, speech
        if not self.encoders:
            raise ValueError("video, audio or speech must be given: a model without encoders reads no media")
        self.global_memory = global_memory or GlobalMemory(
            config.memory,
            {stream: encoder.width for stream, encoder in self.encoders.items()},
            {stream: encoder.num_summaries for stream, encoder in self.encoders.items()},
        )
        if llm is not None:
            self.llm = llm
        self.folder = folder
        # of encoders alone or not -> (what it depends on, the hash)
        self._identity: dict[str, tuple[Any, str]] = {}

    def __getattr__(self, name: str) -> Any:
        if name == "llm" and "llm" not in self._modules:
            raise AttributeError(
                "llm: this model has encoders only, which make features; load the whole model to ask or train"
            )
        return super().__getattr__(name)

    @property
    def encoders(self) -> dict[str, Encoder]:
        """Stream -> its encoder, in the order of STREAMS."""
        return {stream: part for stream in STREAMS if (part := getattr(self, stream)) is not None}

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that it reads."""
        return tuple(self.encoders)

    @property
    def media(self) -> tuple[str, ...]:
        """The media that it reads, of "video" and "audio"."""
        return tuple(dict.fromkeys(encoder.modality for encoder in self.encoders.values()))

    @property
    def device(self) -> torch.device:
        """The device of its language model, or without one of its encoders."""
        if isinstance(self.video, StockVision):
            device: torch.device = self.video.model.device
            return device
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
            quantization: of the language model: "4bit", "8bit", or transformers' quantization_config.

        Raises:
            FileNotFoundError: if there is no such folder or no config.json in it.
        """
        folder = folder_of(name)
        config = load_config(ModelConfig, folder / "config.json")
        model = cls.from_config(
            config, folder=folder, device=device, dtype=dtype, quantization=quantization, init=False
        )
        model.load_own(folder / "model.safetensors")
        if (folder / "adapter").is_dir():
            from peft import PeftModel

            model.llm.lm = PeftModel.from_pretrained(model.llm.lm, folder / "adapter")
            if quantization is None:
                model.llm.lm.to(model.device)
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
        parts: Mapping[str, Base] | None = None,
    ) -> Self:
        """An untrained model: encoders and language model from their bases, new projectors.

        Args:
            config: all knobs; a section whose base is "" has no encoder.
            folder: bases that begin with "./" or "../" are relative to it.
            device, dtype, quantization: as for `from_pretrained`.
            llm: with the language model; False: encoders only, to make features.
            init: initialise its own parameters (`llm.calibrate`); False: they will be loaded.
            parts: "video", "llm" -> what is loaded in place of the section's base.
        """
        check_attention(config)
        target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = dtype_of(dtype, target)
        if config.llm.kind == "stock":
            base = resolve(config.llm.base, folder)
            backbone = load_backbone(
                base, config.llm, device=target, dtype=dtype, quantization=quantization, llm=llm
            )
            return cls.from_backbone(backbone, config, folder=folder, llm=llm)
        inside = parts or {}
        base = resolve(inside.get("llm", config.llm.base), folder) if llm else ""
        if llm:
            check_language(base, kind_of(base))  # before the encoders, which take their time
        encoders: dict[str, Any] = load_encoders(config, folder, dtype, inside)
        if not llm:
            return cls(config, **encoders, llm=None, folder=folder).to(target).eval()
        options: dict[str, Any] = {"dtype": dtype}
        if quantization is not None:  # placed at once: a quantized model can't be moved
            quantization = quantization_config(quantization, ["lm_head"])
            options |= {"quantization_config": quantization, "device_map": {"": target}}
        tokenizer = load_tokenizer(str(base))
        lm = load_whole(AutoModelForCausalLM, base, config.llm.attention, **options)
        widths = {stream: encoder.width for stream, encoder in encoders.items() if encoder is not None}
        model = cls(config, **encoders, llm=CausalLM(lm, tokenizer, config.llm, widths), folder=folder)
        llm_parts = [model.llm.project, model.llm.time, model.llm.heads]
        own = [*model.encoders.values(), model.global_memory, *llm_parts]
        for part in own if quantization is not None else [model]:
            if part is not None:
                part.to(target)
        if init:
            assert isinstance(model.llm, CausalLM)
            init_heads(model.llm, model.encoders, config.media)
        return model.eval()

    @classmethod
    def from_backbone(
        cls, backbone: Backbone, config: ModelConfig, *, folder: Path | None = None, llm: bool = True
    ) -> Self:
        """A stock video LLM as a model of ours; see `from_config`."""
        video, audio, lm = take_apart(backbone, config)
        return cls(config, video, audio if config.media.audio else None, lm if llm else None, folder=folder)

    def save_pretrained(self, folder: str | Path, *, include_base: bool = False, **_: Any) -> None:
        """Write config.json, own parameters, LoRA adapter; with include_base also copies of encoders and LM.

        A base that is a path relative to the model's own folder ("./video") is always copied.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        values = asdict(self.config)
        for section in (*STREAMS, "llm"):
            base = values[section]["base"]
            if base and (include_base or is_relative(base)):
                name = "lm" if section == "llm" else section
                if section == "llm":
                    self._save_llm(folder / name)
                else:
                    encoder: Any = self.encoders[section]
                    encoder.save_pretrained(folder / name)
                values[section]["base"] = f"./{name}"
        own = {k: v.contiguous() for k, v in self.state_dict().items() if k.startswith(OWN)}
        with replacing(folder / "model.safetensors") as part:
            untrained = " ".join(sorted(self.llm.untrained))
            save_file(own, part, metadata={"format": "pt"} | ({UNTRAINED: untrained} if untrained else {}))
        if hasattr(self.llm.lm, "peft_config"):
            self.llm.lm.save_pretrained(folder / "adapter")
        write_json(folder / "config.json", values, indent=2)
        usual_modes(folder)

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
        """Load global memory, projectors and time from a safetensors file of exactly their parameters."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"model: no file {path}; is the folder whole?")
        try:
            with safe_open(path, "pt") as file:
                values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                untrained = set((file.metadata() or {}).get(UNTRAINED, "").split())
        except SafetensorError as error:
            raise ValueError(f"weights in {path} are cut or damaged ({error}); copy it again") from error
        want = {k: v.shape for k, v in self.state_dict().items() if k.startswith(OWN)}
        missing, unknown = sorted(want.keys() - values), sorted(values.keys() - want)
        other = sorted(k for k in want.keys() & values if values[k].shape != want[k])
        if missing or unknown or other:
            raise ValueError(
                f"{path} must hold exactly this model's own parameters; missing {missing}, "
                f"unknown {unknown}, of another shape {other}"
            )
        self.load_state_dict(values, strict=False)
        self.llm.untrained = untrained & set(self.llm.project)

    def change(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Change the config: section -> changed fields, as {"media": {"rate_fps": 2}}.

        Only fields that the weights don't depend on can change (CHANGEABLE, and STOCK of a stock model);
        others raise ValueError.
        """
        stock = isinstance(self.video, StockVision)
        known = {n: CHANGEABLE.get(n, ()) + (STOCK.get(n, ()) if stock else ()) for n in CHANGEABLE | STOCK}
        for section, values in changes.items():
            if section not in known or set(values) - set(known[section]):
                raise ValueError(f"changes must be fields of {known}, got {section!r}: {sorted(values)}")
        config = _changed(self.config, changes)
        if self.video is not None:
            if isinstance(self.video, StockVision):
                before_px = self.video.size_px
                self.video.set_size(config.media.size_px)
            try:
                self.video.config = config.video
            except ValueError:
                if isinstance(self.video, StockVision):
                    self.video.set_size(before_px)
                raise
        if "llm" in self._modules and isinstance(self.llm, StockLM):
            assert isinstance(self.video, StockVision)
            self.llm.change(config.llm, config.media, max(self.video.grid))
        elif "llm" in self._modules:
            self.llm.settings = config.llm
        self.config = config

    def twin(self, changes: Mapping[str, Mapping[str, Any]]) -> Self:
        """A model of the same weights with a changed config, as by `change`; this one stays as it is."""
        if "video" in changes or "size_px" in changes.get("media", {}):
            raise ValueError("changes of a twin must leave the encoders as they are: they are shared")
        twin = copy.copy(self)
        twin._modules = dict(self._modules)
        if "llm" in self._modules:
            twin.llm = copy.copy(self.llm)
        twin.change(changes)
        return twin

    def check_budget(self, budget: int, streams: Iterable[str] | None = None) -> None:
        """ValueError unless `budget` holds the global tokens and a token of each stream (None: all)."""
        names = list(self.streams if streams is None else streams)
        check_budget(budget, self.global_memory.num_tokens(names) + len(names))

    def merge_state(self, budget: int | None = None, *, keep_assignment: bool = False) -> MergeState:
        """An empty MergeState for a budget of tokens (None: the config's).

        Args:
            budget: the largest that the state can be compressed to.
            keep_assignment: keep which token each raw token went into.
        """
        config = self.config
        budget = config.budget.tokens if budget is None else budget
        return MergeState(config.merge, config.budget, self.global_memory, budget, keep_assignment)

    def add_lora(self, **options: Any) -> None:
        """Wrap the language model with a LoRA adapter; options are those of peft.LoraConfig."""
        from peft import LoraConfig, get_peft_model

        own = self.llm.lora_modules if isinstance(self.llm, StockLM) else {"target_modules": "all-linear"}
        options = {"task_type": "CAUSAL_LM"} | own | options
        self.llm.lm = get_peft_model(self.llm.lm, LoraConfig(**options))

    def forward(self, **batch: Any) -> dict[str, Tensor]:
        """Loss (with labels) and logits of a batch that `llm.collate` made."""
        out: dict[str, Tensor] = self.llm(**batch)
        return out

    def estimate(
        self, duration_s: float, budget: int | None = None, *, video: bool = True, audio: bool = True
    ) -> Estimate:
        """Tokens and bytes of a video of this length; see `estimate.estimate`."""
        check_duration(duration_s)
        config = self.config
        length = (duration_s, config.media)
        flows = {
            name: Flow(encoder.num_tokens(*length), tokens_a_second(encoder, *length), encoder.width)
            for name, encoder in self.encoders.items()
            if (video if encoder.modality == "video" else audio)
        }
        shape = Shape(flows, global_tokens=self.global_memory.num_tokens(list(flows)))
        if self.video is not None and "video" in flows and duration_s > 0:
            token_s = self.video.frames_per_token * config.media.frame_s(duration_s)
            shape = replace(shape, frames=config.media.num_frames(duration_s), token_s=token_s)
        if "llm" in self._modules:  # encoders alone make tokens, but no prompt
            num_text = self.llm.timestamp_tokens(duration_s)
            shape = replace(shape, timestamp_tokens=num_text, context=self.llm.context)
        budget = config.budget.tokens if budget is None else budget
        return estimate(duration_s, budget=budget, config=config, shape=shape)

    def identity(self, *, features: bool = False, encoders: bool = False) -> str:
        """A hash of what gives its tokens their meaning: config and weights of encoders and global memory.
        Of `features`, as shards hold them, without what makes global tokens out of them; of `encoders` alone
        without summaries too.

        Weights are sampled as bfloat16, so that the hash is quick and the same in every dtype. It is kept
        until the config or a weight changes: torch counts the changes of a tensor in `_version`.
        """
        config = self.config
        # global tokens are made of the features, whenever a budget is
        derived = encoders or (features and config.memory.kind != "mean")
        used: dict[str, Any] = {"memory": asdict(MemoryConfig("none") if derived else config.memory)}
        del used["memory"]["dtype"]
        for stream in self.encoders:
            fields_of = asdict(getattr(config, stream))
            used[stream] = {name: value for name, value in fields_of.items() if name not in NO_EFFECT}
        if self.video is not None:
            used["size_px"] = config.media.size_px
        if isinstance(self.video, StockVision):
            used["backbone"], used["norm"] = self.video.model.config.model_type, self.video.norm
        text = json.dumps(used, sort_keys=True)
        parts = [*self.encoders.values(), *([] if derived else [self.global_memory])]
        states = [getattr(part, "state", part.state_dict)() for part in parts]
        return self._hash(str(derived), text, [item for state in states for item in sorted(state.items())])

    def speaker(self) -> str:
        """A hash of the weights of the language model, its projectors and heads, sampled as by `identity`."""
        return self._hash("llm", "", sorted(self.llm.state_dict().items()))

    def _hash(self, name: str, text: str, values: list[tuple[str, Tensor]]) -> str:
        key = (text, tuple((v.data_ptr(), 0 if v.is_inference() else v._version) for _, v in values))
        if name not in self._identity or self._identity[name][0] != key:
            self._identity = self._identity | {name: (key, _digest(text, values))}
        return self._identity[name][1]

    def settings(self) -> str:
        """A hash of what decides, besides `identity` and a budget, which tokens a video gets."""
        config = self.config
        parts = {n: asdict(getattr(config, n)) for n in ("media", "segments", "merge", "budget")}
        parts["media"] = {
            name: v for name, v in parts["media"].items() if name not in ("threads", "max_pixels")
        }
        parts["budget"].pop("tokens")
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def _save_llm(self, folder: Path) -> None:
        lm = self.llm.lm
        if hasattr(lm, "peft_config"):  # what the adapter sits on, under its own names
            base = lm.get_base_model()
            state = {k.replace(".base_layer.", "."): v for k, v in base.state_dict().items()}
            base.save_pretrained(folder, state_dict={k: v for k, v in state.items() if "lora_" not in k})
        else:
            lm.save_pretrained(folder)
        self.llm.tokenizer.save_pretrained(folder)
        if isinstance(self.video, StockVision):
            if isinstance(self.audio, StockAudio):
                self.audio.extractor.save_pretrained(folder)
            norm = dict(zip(("image_mean", "image_std"), map(list, self.video.norm), strict=True))
            write_json(folder / "video_preprocessor_config.json", norm, indent=2)


def _changed(section: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass with other values, of those in it too."""
    new = dict(values)
    for name, value in values.items():
        old = getattr(section, name)
        if is_dataclass(old):
            new[name] = _changed(old, value)
        elif type(old) is tuple:
            new[name] = tuple(value)
    return replace(section, **new)


def _digest(text: str, values: Iterable[tuple[str, Tensor]]) -> str:
    """The hash of a text and of 64 numbers of each named tensor."""
    digest = hashlib.sha256(text.encode())
    for name, value in values:
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(spread(value).to(torch.bfloat16).float().cpu().numpy().tobytes())
    return digest.hexdigest()


def spread(value: Tensor) -> Tensor:
    """64 numbers of a tensor, or all of a smaller one, from the first to the last."""
    flat = value.detach().flatten()
    last = max(0, len(flat) - 1)
    # in float32 the last of over 16 million places rounds to one behind the end
    at = torch.linspace(0, last, min(64, len(flat))).long().clamp_max(last)
    return flat[at.to(flat.device)]


def folder_of(name: str | Path, what: str = "model") -> Path:
    """The folder that a name is, or that the hub has under it, downloaded; errors call it `what`."""
    if Path(name).is_dir():
        return Path(name)
    if not is_hub_name(name):
        raise FileNotFoundError(
            f"{what}: no folder {name}; give a preset's name, a folder, or a hub name owner/model"
        )
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(name)))
