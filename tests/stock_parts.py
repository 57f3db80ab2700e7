"""What the small stock models of the tests share: sizes, chat templates, a byte tokenizer, strong weights."""

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

Pair = tuple[PreTrainedModel, PreTrainedTokenizerFast]

TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32768, "vocab_size": 320,
}  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
INTERLEAVED = {"head_dim": 16, "rope_parameters": MROPE | {"mrope_interleaved": True}}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
LINEAR = {
    "head_dim": 16, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "rope_parameters": MROPE | {"mrope_interleaved": True, "partial_rotary_factor": 1.0},
}  # fmt: skip
PATCHES = {
    "depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "patch_size": 4,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 64,
}  # fmt: skip
DEEPSTACK = {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1, 2]}
WINDOWS = {"window_size": 16, "fullatt_block_indexes": [1, 3]}
VIT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
HEARING = {
    "num_mel_bins": 16, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "d_model": 32, "output_dim": 64,
}  # fmt: skip

QWEN_TOKENS = (
    "<|im_start|> <|vision_start|> <|vision_end|> <|image_pad|> <|video_pad|> <|audio_start|> <|audio_end|> "
    "<|audio_pad|> <think> </think>"
)
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
PARTS = (  # what stands for a message's content: a string, or a list of videos and texts
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}{% if c.type == 'video' %}"
    "VIDEO{% elif c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}FIRST{% endif %}"
    + "<|im_start|>{{ m.role }}\n"
    + PARTS
    + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\nLAST{% endif %}"
)
VICUNA = (
    "{% for m in messages %}{% if m.role == 'user' %}USER: "
    + PARTS
    + "{% elif m.role == 'assistant' %} ASSISTANT: "
    + PARTS
    + "{% else %}"
    + PARTS
    + " {% endif %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
GLM = (
    "[gMASK]<sop>\n{% for m in messages %}<|{{ m.role }}|>\n"
    + PARTS
    + "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SMOL = (
    "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}: "
    + PARTS
    + "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<|turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    + PARTS
    + "<turn|>\n{% endfor %}{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)


def byte_tokenizer(
    template: str,
    others: str = "",
    eos: str = "<|im_end|>",
    pad: str = "<|endoftext|>",
    bos: str = "",
    **attributes,
) -> PreTrainedTokenizerFast:
    """Every byte is a token (256), then the special ones; with `bos`, each text begins with it, as Llama's.

    Args:
        template: the chat template.
        others: special tokens, between blanks.
        attributes: special tokens that processors read from the tokenizer, by their names there.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    built = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens([pad, eos, *([bos] if bos else []), *others.split(), *attributes.values()])
    if bos:
        first = [(bos, built.token_to_id(bos))]
        built.post_processor = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A $B", first)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=built, eos_token=eos, pad_token=pad, bos_token=bos or None,
        additional_special_tokens=others.split(), extra_special_tokens=attributes, padding_side="left",
    )  # fmt: skip
    tokenizer.chat_template = template
    return tokenizer


def chatml(video: str, first: str = "", last: str = "", audio: str = "") -> str:
    """Qwen's template, in which a video is `video`, and audio `audio` where the model hears."""
    text = CHATML.replace("VIDEO", video).replace("FIRST", first).replace("LAST", last)
    heard = "{% elif c.type == 'audio' %}" + audio + "{% elif c.type == 'text' %}"
    return text.replace("{% elif c.type == 'text' %}", heard) if audio else text


def strengthen(model: PreTrainedModel) -> PreTrainedModel:
    """The model with weights large enough that frames and positions matter; new ones are nearly silent."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() >= 2:
                scale = 0.5 if "embed" in name else 1.4 / value.shape[-1] ** 0.5
                value.copy_(torch.randn(value.shape, generator=random) * scale)
            elif name.endswith("bias"):
                value.copy_(torch.randn(value.shape, generator=random) * 0.02)
    return model.eval()


def build(
    kind: str, tokenizer: PreTrainedTokenizerFast, tokens: dict[str, str], name: str = "", **config: Any
) -> Pair:
    """The model `{kind}ForConditionalGeneration` of `{kind}Config`, whose token ids are those of `tokens`.

    `name` is the model's where it isn't the configuration's.
    """
    ids = {field: tokenizer.convert_tokens_to_ids(token) for field, token in tokens.items()}
    settings = getattr(transformers, f"{kind}Config")(**config, **ids)
    with torch.random.fork_rng():
        torch.manual_seed(5)  # vectors that `strengthen` leaves as they are: norms, decays
        model = getattr(transformers, f"{name or kind}ForConditionalGeneration")(settings)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return strengthen(model), tokenizer


QWEN_VISION = {
    "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
}  # fmt: skip
QWEN_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


def qwen(kind: str, text: dict, vision: dict, first: str = "", last: str = "", **config: Any) -> Pair:
    """A Qwen-VL of that kind."""
    tokenizer = byte_tokenizer(chatml(QWEN_VIDEO, first, last), QWEN_TOKENS)
    return build(
        kind, tokenizer, QWEN_VISION, text_config=TEXT | text, vision_config=PATCHES | vision, **config
    )


def glm(kind: str, vision: dict | None = None, **text: Any) -> Pair:
    """A GLM-V of that kind."""
    named = "begin_of_image end_of_image begin_of_video end_of_video image video user assistant system"
    tokenizer = byte_tokenizer(
        GLM.replace("VIDEO", "<|begin_of_video|><|video|><|end_of_video|>"),
        "[gMASK] <sop> " + " ".join(f"<|{name}|>" for name in named.split()),
        eos="<|observation|>",
    )
    ids = {f"{name}_token_id": f"<|{name}|>" for name in ("image", "video")}
    ids |= {f"{name}_start_token_id": f"<|begin_of_{name}|>" for name in ("image", "video")}
    ids |= {f"{name}_end_token_id": f"<|end_of_{name}|>" for name in ("image", "video")}
    rope = MROPE | {"partial_rotary_factor": 1.0}
    return build(
        kind, tokenizer, ids, vision_config=PATCHES | {"depth": 3, "image_size": 32} | (vision or {}),
        text_config=TEXT | {"rope_parameters": rope, "pad_token_id": 0} | text,
    )  # fmt: skip


def gemma(kind: str, text: dict, vision: dict) -> Pair:
    """A Gemma of that kind, whose tokenizer begins every text, as its template does."""
    tokens = {
        "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>",
        "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
    }  # fmt: skip
    tokenizer = byte_tokenizer(
        GEMMA.replace("VIDEO", "\n\n<|video|>\n\n"), "<|video|> <|turn>", eos="<turn|>", pad="<pad>",
        bos="<bos>", **tokens,
    )  # fmt: skip
    layers = {
        "head_dim": 16, "global_head_dim": 16, "sliding_window": 512, "pad_token_id": 0, "eos_token_id": 1,
        "bos_token_id": 2, "layer_types": ["sliding_attention", "full_attention"] * 2,
    }  # fmt: skip
    ids = {f"{name}_token_id": f"<|{name}|>" for name in ("image", "video", "audio")}
    return build(
        kind, tokenizer, ids | {"boi_token_id": "<|image>", "eoi_token_id": "<image|>"},
        text_config=TEXT | layers | text, audio_config=None,
        vision_config={"patch_size": 4, "pooling_kernel_size": 2} | vision,
    )  # fmt: skip
