"""Named configurations as functions, and `load`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    ConvNextConfig,
    ConvNextModel,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .checkpoints.apply import apply
from .checkpoints.architectures import PUBLISHED, config_of
from .checkpoints.llava import FOLDERS, llava_parts
from .config import (
    AudioConfig,
    BudgetConfig,
    MediaConfig,
    MemoryConfig,
    MergeConfig,
    ModelConfig,
    SegmentConfig,
    VisionConfig,
)
from .config_live import POLLED, LiveConfig
from .config_llm import LLMConfig
from .encoders import AudioEncoder, PixelEncoder, VisionEncoder
from .encoders.families import FAMILIES
from .llm import CausalLM
from .llm.backbone import backbone_of, is_stock, read_config, stock_config
from .model import LongCompress
from .synthetic.questions import VOCABULARY
from .synthetic.scenes import COLOURS, SHAPES
from .synthetic.tokenizer import word_tokenizer

TINY = Path(__file__).parent / "weights" / "tiny"
TINY_VL, TINY_DUET = TINY.with_name("tiny-vl"), TINY.with_name("tiny-duet")


def tiny() -> ModelConfig:
    """The embedded model: 16 video tokens a second, one of audio, a small Llama; it knows the world of
    `scenes`.

    Raw it has 170 tokens every 10 s; a tenth of that (14 of frames, 3 of audio) is what it was trained
    around.
    """
    return ModelConfig(
        name="tiny",
        media=MediaConfig(size_px=64),
        video=VisionConfig(base="./video", layer=-1, summary_layers=1, attention="eager"),
        audio=AudioConfig(base="./audio", pool=20, summary=True),
        segments=SegmentConfig(length_s=10.0),
        merge=MergeConfig(tokens_per_segment={"video": 160, "*": 10}),
        memory=MemoryConfig(kind="mean"),
        budget=BudgetConfig(tokens=1024, stream_weights={"video": 14.0, "*": 3.0}),
        llm=LLMConfig(
            base="./lm", timestamp_s=10.0, min_timestamps=0, timestamp="{tens}:", max_offset_s=16,
            question="{question} answer", projector="mlp", numbers="mean", token_norm=0.0, time_norm=0.0,
            events="What happens between {start} and {end}?", events_window_s=10.0, max_new_tokens=160,
        ),
        live=LiveConfig(POLLED, poll="{request}", poll_yes="", poll_no="nothing"),  # it knows no yes
    )  # fmt: skip


def new_tiny(seed: int, *, width: int = 128, layers: int = 4) -> LongCompress:
    """An untrained `tiny`: ConvNeXt and Whisper encoders and a language model, small and random."""
    torch.manual_seed(seed)
    config = tiny()
    encoder = ConvNextModel(
        ConvNextConfig(
            patch_size=4, num_stages=3, hidden_sizes=[40, 80, 128], depths=[1, 1, 2], image_size=64,
            layer_scale_init_value=1.0,
        )
    )  # fmt: skip
    extractor = WhisperFeatureExtractor(feature_size=64, hop_length=400, chunk_length=10, n_fft=800)
    ears = WhisperEncoder(
        WhisperConfig(
            vocab_size=8, num_mel_bins=64, d_model=64, encoder_layers=2, encoder_attention_heads=2,
            encoder_ffn_dim=256, max_source_positions=200, decoder_layers=1, decoder_attention_heads=2,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
            architectures=["WhisperEncoder"],
        )
    )  # fmt: skip
    tokenizer = word_tokenizer([*VOCABULARY, "answer"], COLOURS, SHAPES, num_tens=1080)
    heads = width // 64
    lm = SmolLM3ForCausalLM(  # a Llama in which every other layer has no rotary positions: it finds a thing
        SmolLM3Config(  # as well far away as near
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width,
            num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
            no_rope_layers=[i % 2 for i in range(layers)],
            max_position_embeddings=16384, tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6}, initializer_range=0.08,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        )
    )  # fmt: skip
    with torch.no_grad():
        # words far apart against what an optimizer step moves; the head begins by copying them
        torch.nn.init.normal_(lm.get_input_embeddings().weight, std=0.5)
        lm.get_output_embeddings().weight.copy_(0.1 * lm.get_input_embeddings().weight)
    video = VisionEncoder(encoder, config.video, config.media.size_px)
    audio = AudioEncoder(ears, extractor, config.audio)
    llm = CausalLM(lm, tokenizer, config.llm, {"video": video.width, "audio": audio.width})
    assert llm.time is not None
    with torch.no_grad():  # so that a token is first of all what it shows: words find it from the start
        llm.time.gain.mul_(0.4)
    return LongCompress(config, video, audio, llm)


def pixels(device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> LongCompress:
    """Mean colours of patches as tokens, without encoder and language model: it finds the frames that
    `VideoMemory.messages` shows to another model."""
    config = ModelConfig(
        name="pixels", media=MediaConfig(audio=False), memory=MemoryConfig(kind="none"),
        merge=MergeConfig(tokens_per_segment={"*": 64}, representative="medoid", place="medoid"),
        budget=BudgetConfig(tokens=1024),
    )  # fmt: skip
    encoder = PixelEncoder(config.video, config.media.size_px)
    return LongCompress(config, encoder, None, None).to(device, dtype).eval()


PRESETS = {"tiny": TINY, "tiny-duet": TINY_DUET, "tiny-vl": TINY_VL}


def load(
    name: str | Path,
    *,
    base: Mapping[str, str] | None = None,
    variant: Mapping[str, Any] | None = None,
    weights: str | Path | Sequence[str | Path] | None = None,
    **options: Any,
) -> LongCompress:
    """A model by preset, folder or hub name.

    Args:
        name: "tiny"; "tiny-duet", which speaks by itself; "pixels", which makes tokens but can't answer; a
            published model ("longvlm", "vtimellm", "longvale", "mmduet"), whose projectors or heads are then
            still to be trained; a folder or hub name of a saved model, or of a stock video LLM (`families`).
        base: of a published model: "video", "audio", "speech", "llm" -> folder, file or hub name; of "mmduet"
            also "llava", the checkpoint that both its parts are in.
        variant: of a published model: arguments of its function in `published`, as {"mode": "ours"}.
        weights: of a published model: what its project released, files and folders of its stages in their
            order (`checkpoints.apply`, docs/checkpoints.md).
        options: those of `LongCompress.from_pretrained`.
    """
    if str(name) in PUBLISHED and not Path(name).exists():
        config = config_of(str(name), base, variant)
        parts = llava_parts(config)
        model = LongCompress.from_config(config, parts=parts, **options)
        if parts:  # they are in no folder of their own, so they are saved with the model
            inside = {part: replace(getattr(config, part), base=f"./{FOLDERS[part]}") for part in parts}
            model.config = replace(config, **inside)
        if weights is not None:
            apply(model, weights)
        return model
    if weights is not None:
        raise ValueError(
            f"weights are for published models, {sorted(PUBLISHED)}, got name {str(name)!r}; to a model that "
            "is loaded, longcompress.checkpoints.apply.apply puts them"
        )
    if base or variant:
        raise ValueError(
            f"base and variant are for published models, {sorted(PUBLISHED)}, got name {str(name)!r}, which "
            "has its own; change its config.json"
        )
    if str(name) == "pixels":
        return pixels(**options)
    if str(name) in PRESETS:
        return LongCompress.from_pretrained(PRESETS[str(name)], **options)
    if not Path(name).exists() and "/" not in str(name):
        raise ValueError(
            f"name must be one of {sorted([*PRESETS, 'pixels', *PUBLISHED])}, a folder, or a hub name "
            f"owner/model, got {name!r}"
        )
    if is_stock(name):
        return LongCompress.from_config(stock_config(read_config(name), str(name)), **options)
    return LongCompress.from_pretrained(name, **options)


@dataclass(frozen=True)
class FamilyInfo:
    """A family of stock video LLMs.

    Attributes:
        model_type: of its config.json.
        model_class: of transformers, or None: the installed version is too old for it.
        time: how seconds reach its language model: as text between tokens, by positions, or not at all.
        axes: of positions: 1, or 3 for time, row and column.
        hears: it takes audio.
        deepstack: sets of features that later layers take.
    """

    model_type: str
    model_class: str | None
    time: Literal["text", "positions", "none"]
    axes: int
    hears: bool
    deepstack: int


def families() -> list[FamilyInfo]:
    """The families of stock video LLMs that `load` and `from_transformers` take; docs/models.md says more."""
    return [
        FamilyInfo(
            name, MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.get(name), family.time,
            1 if family.positions == "plain" else 3, family.audio is not None, family.deepstack,
        )
        for name, family in FAMILIES.items()
    ]  # fmt: skip


def from_transformers(model: Any, processor: Any, **media: Any) -> LongCompress:
    """A stock video LLM that is loaded already, as a model of ours; it stays what it is.

    Args:
        model: of a class of transformers; see `families`.
        processor: its processor, or its tokenizer alone.
        media: changed fields of MediaConfig, such as size_px and rate_fps.
    """
    config = stock_config(model.config, getattr(model.config, "_name_or_path", "") or "./lm")
    config = replace(config, media=replace(config.media, **media))
    return LongCompress.from_backbone(backbone_of(model, processor), config)
