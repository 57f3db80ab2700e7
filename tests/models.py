"""Small random models of real classes, for tests."""

import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from longcompress.config import (
    AudioConfig,
    BudgetConfig,
    MediaConfig,
    MemoryConfig,
    MergeConfig,
    ModelConfig,
    SegmentConfig,
    VisionConfig,
)
from longcompress.config_llm import LLMConfig
from longcompress.encoders import AudioEncoder, BeatsEncoder, VisionEncoder
from longcompress.encoders.beats import Beats, BeatsConfig
from longcompress.llm import CausalLM, CompressedVideo
from longcompress.model import LongCompress
from longcompress.synthetic.tokenizer import word_tokenizer
from longcompress.types import Tokens

WORDS = [
    "when",
    "does",
    "the",
    "what",
    "is",
    "happens",
    "between",
    "and",
    "appear",
    "seen",
    "to",
    "from",
    "answer",
    "nothing",
]
WIDTHS = {"video": 32, "audio": 16}


def tokenizer():
    """A small word tokenizer."""
    return word_tokenizer(WORDS, ["red", "blue"], ["ball", "box"], num_tens=60)


def language_model(kind: str = "llama", vocabulary: int | None = None) -> PreTrainedModel:
    """A random causal language model, 32 wide."""
    torch.manual_seed(7)
    shape = {
        "vocab_size": vocabulary or len(tokenizer()), "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None,
    }  # fmt: skip
    model = {"llama": (LlamaForCausalLM, LlamaConfig), "qwen2": (Qwen2ForCausalLM, Qwen2Config)}[kind]
    return model[0](model[1](**shape)).eval()


def llm(kind: str = "llama", **options) -> CausalLM:
    """A language model of that language model with time embeddings that say something."""
    torch.manual_seed(5)
    own = {"timestamp_s": 10.0, "timestamp": "{tens}:", "question": "{question} answer", "max_offset_s": 16}
    config = LLMConfig(**{"max_new_tokens": 6, "min_timestamps": 0} | own | options)
    built = CausalLM(language_model(kind), tokenizer(), config, WIDTHS).eval()
    if built.time is not None:
        torch.nn.init.normal_(built.time.table, std=0.1)
        torch.nn.init.normal_(built.time.size, std=0.1)
    return built


def tokens(num: int, width: int, seed: int, duration_s: float = 60.0) -> Tokens:
    """Random tokens by time."""
    random = torch.Generator().manual_seed(seed)
    time_s = (torch.rand(num, generator=random, dtype=torch.float64) * (duration_s - 1)).sort().values
    start_s = time_s.floor()
    size = torch.randint(1, 9, (num,), generator=random).float()
    return Tokens(torch.randn(num, width, generator=random), size, time_s, start_s, start_s + 1)


def video(seed: int, frames: int = 20, sounds: int = 6, budget: int = 400) -> CompressedVideo:
    """Random tokens of both streams with two global ones."""
    streams = {"video": tokens(frames, 32, seed), "audio": tokens(sounds, 16, seed + 1)}
    globals_ = {"video": torch.randn(2, 32, generator=torch.Generator().manual_seed(seed))}
    return CompressedVideo(streams, globals_, budget)


def model(**changes) -> LongCompress:
    """A whole random model: CLIP encoder of 2 x 2 patches, Whisper encoder of 1 s windows, Llama."""
    torch.manual_seed(11)
    config = ModelConfig(
        name="test",
        media=MediaConfig(size_px=16),
        video=VisionConfig(base="./video", layer=-2, summary_layers=2, metric_width=8, batch_size=4),
        audio=AudioConfig(base="./audio", pool=5, metric_width=8, summary=True),
        segments=SegmentConfig(length_s=5.0),
        merge=MergeConfig(tokens_per_segment={"video": 12, "*": 5}),
        memory=MemoryConfig(kind="mean"),
        budget=BudgetConfig(tokens=64),
        llm=LLMConfig(
            base="./lm", timestamp_s=5.0, timestamp="{start}", question="{question} answer", max_offset_s=16,
            max_new_tokens=6, events="what happens between {start} and {end}",
        ),
    )  # fmt: skip
    config = ModelConfig(**{**config.__dict__, **changes})
    video = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=16,
            patch_size=8,
        )
    )  # fmt: skip
    audio = WhisperEncoder(
        WhisperConfig(
            vocab_size=8, num_mel_bins=16, d_model=16, encoder_layers=1, encoder_attention_heads=2,
            encoder_ffn_dim=32, max_source_positions=20, decoder_layers=1, decoder_attention_heads=2,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
            architectures=["WhisperEncoder"],
        )
    )  # fmt: skip
    extractor = WhisperFeatureExtractor(feature_size=16, hop_length=1600, chunk_length=4, n_fft=1600)
    eyes = VisionEncoder(video, config.video, 16)
    ears = AudioEncoder(audio, extractor, config.audio)
    reader = CausalLM(language_model(), tokenizer(), config.llm, {"video": eyes.width, "audio": ears.width})
    return LongCompress(config, eyes, ears, reader).eval()


def class_encoder() -> CLIPVisionModelWithProjection:
    """A random CLIP encoder for frames of 16 px whose projection is 8 wide."""
    torch.manual_seed(13)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=16,
        patch_size=8, projection_dim=8,
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config)


def hearing(**options) -> BeatsEncoder:
    """A random BEATs, 16 wide, with the released windows."""
    torch.manual_seed(17)
    sizes = BeatsConfig(
        patch_width=8, width=16, layers=1, heads=2, hidden_width=16, position_kernel=4, position_groups=2
    )
    encoder = Beats(sizes)
    for value in encoder.parameters():
        torch.nn.init.normal_(value, std=0.3)
    return BeatsEncoder(encoder, AudioConfig(base="./audio", kind="beats", metric_width=8, **options))


def listening(**options) -> AudioEncoder:
    """A random Whisper encoder, 8 wide, with the released windows: 1500 positions in 30 s."""
    torch.manual_seed(19)
    encoder = WhisperEncoder(
        WhisperConfig(
            vocab_size=8, num_mel_bins=8, d_model=8, encoder_layers=1, encoder_attention_heads=1,
            encoder_ffn_dim=8, decoder_layers=1, decoder_attention_heads=1, pad_token_id=0, bos_token_id=1,
            eos_token_id=2, decoder_start_token_id=1, architectures=["WhisperEncoder"],
        )
    )  # fmt: skip
    config = AudioConfig(
        **{"base": "./speech", "pool": 256, "metric_width": 8, "pool_across": True} | options
    )
    return AudioEncoder(encoder, WhisperFeatureExtractor(feature_size=8), config)


def three_streams(tail: str = "kept", **changes) -> LongCompress:
    """A whole random model of LongVALE's streams: class tokens, BEATs, Whisper; nothing is merged.

    As released the silence behind the end has tokens too: such a video is one segment.
    """
    ears, words = hearing(tail=tail), listening(tail=tail)
    config = ModelConfig(
        name="three",
        media=MediaConfig(size_px=16),
        video=VisionConfig(base="./video", tokens="class", metric_width=8, batch_size=4),
        audio=ears.config,
        speech=words.config,
        segments=SegmentConfig(length_s=10.0 if tail == "kept" else 1e6),
        memory=MemoryConfig(kind="none"),
        llm=LLMConfig(
            base="./lm", timestamp_s=10.0, timestamp="{start}", question="{question} answer", max_offset_s=16,
            max_new_tokens=6,
        ),
    )  # fmt: skip
    config = ModelConfig(**{**config.__dict__, **changes})
    eyes = VisionEncoder(class_encoder(), config.video, 16)
    widths = {"video": eyes.width, "audio": ears.width, "speech": words.width}
    torch.manual_seed(23)
    reader = CausalLM(language_model(), tokenizer(), config.llm, widths)
    return LongCompress(config, eyes, ears, reader, speech=words).eval()


def published(folder, patch: int = 112) -> dict[str, str]:
    """Folders of small random encoders, in the windows of the published models, and of a language model.

    Patches of `patch` px: 14 gives the 256 of ViT-L/14, which longvlm merges.
    """
    torch.manual_seed(3)
    clip = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=5, num_attention_heads=2, image_size=224,
        patch_size=patch, projection_dim=8,
    )  # fmt: skip
    CLIPVisionModelWithProjection(clip).save_pretrained(folder / "video")
    hearing().save_pretrained(folder / "audio")
    listening().save_pretrained(folder / "speech")
    language_model().save_pretrained(folder / "llm")
    tokenizer().save_pretrained(folder / "llm")
    return {name: str(folder / name) for name in ("video", "audio", "speech", "llm")}


def with_heads() -> LongCompress:
    """The model, with heads that score the steps of a live session."""
    return model(
        llm=LLMConfig(
            base="./lm", timestamp_s=5.0, timestamp="{start}", question="{question} answer", max_offset_s=16,
            max_new_tokens=6, heads=True,
        )
    )  # fmt: skip
