"""A small model of a stock class, Qwen3-VL, for the synthetic world: tokenizer, parts, initialisation.

Its width is split: numbers and timestamps in NUMBERS, letters in GLYPHS, all other words in WORDS, and an
axis each for what is a timestamp, a token of frames, the start of a frame, a word, a number, and for row and
column.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from ...config import ModelConfig
from ...encoders.families import GREY
from ...llm.backbone import Backbone, stock_config
from ...model import LongCompress
from ...synthetic import places
from ...synthetic.questions import VOCABULARY
from ...synthetic.scenes import COLOURS, LETTERS, OBJECTS, SHAPES
from ...synthetic.tokenizer import SPACE, word_tokenizer

SIZE_PX, PATCH_PX, MERGE = 80, 8, 2
GRID = SIZE_PX // (PATCH_PX * MERGE)  # rows and columns of a frame's tokens
RATE_FPS = 1.0
TIMESTAMPS = 600  # seconds that have one
WIDTH, HEADS, HEAD_WIDTH = 192, 3, 64
TIMESTAMP_AXIS, FRAME_AXIS, START_AXIS, WORD_AXIS, NUMBER_AXIS, ROW_AXIS, COLUMN_AXIS = range(7)
TIME_PAIRS, ROW_PAIR, COLUMN_PAIR = (0, 3, 6), 1, 2  # fast rotary pairs of time, row, column
SLOW_PAIR, REST_PAIR = 12, 31  # from SLOW_PAIR on they hardly turn in a minute; one of them
GLYPHS, NUMBERS, WORDS = slice(8, 24), slice(24, 88), slice(88, WIDTH)
SPECIAL = tuple(
    f"<|{name}|>" for name in ("im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}"
    "{% if m['content'] is string %} {{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)


def new_model(seed: int) -> LongCompress:
    """`new_tiny_vl` as a model of ours."""
    lm, tokenizer = new_tiny_vl(seed)
    config: ModelConfig = stock_config(lm.config, "./lm")
    media = replace(config.media, size_px=SIZE_PX, rate_fps=RATE_FPS)
    config = replace(config, name="tiny_vl", media=media, llm=replace(config.llm, max_new_tokens=16))
    return LongCompress.from_backbone(Backbone(lm.eval(), tokenizer, GREY), config)


def new_tokenizer(special: tuple[str, ...] = ()) -> Any:
    """Words of the synthetic world, a token a timestamp, Qwen's special tokens, and others behind them."""
    words = [*VOCABULARY, *places.VOCABULARY, "user", "assistant", "system"]
    tokenizer = word_tokenizer(words, COLOURS, SHAPES, num_tens=TIMESTAMPS // 10, timestamps=TIMESTAMPS)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [*SPECIAL, *special], "eos_token": "<|im_end|>"}
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def new_tiny_vl(seed: int, *, layers: int = 4) -> tuple[Qwen3VLForConditionalGeneration, Any]:
    """An untrained Qwen3-VL of 5 million parameters, and its tokenizer. A frame has 5 x 5 tokens, two frames
    share theirs."""
    torch.manual_seed(seed)
    tokenizer = new_tokenizer()
    ids = ids_of(
        tokenizer, image_token="image_pad", video_token="video_pad", vision_start_token="vision_start",
        vision_end_token="vision_end",
    )  # fmt: skip
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 512,
            "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": HEADS,
            "head_dim": HEAD_WIDTH, "max_position_embeddings": 8192, "initializer_range": 0.05,
            "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e7, "mrope_section": [12, 10, 10],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 5, "hidden_size": 128, "intermediate_size": 512, "num_heads": 4, "patch_size": PATCH_PX,
            "spatial_merge_size": MERGE, "temporal_patch_size": 2, "out_hidden_size": WIDTH,
            "num_position_embeddings": (SIZE_PX // PATCH_PX) ** 2, "deepstack_visual_indexes": [1, 2, 3],
            "initializer_range": 0.05,
        },
        tie_word_embeddings=False, **ids,
    )  # fmt: skip
    lm = Qwen3VLForConditionalGeneration(config)
    end_as(lm, tokenizer)
    init_words(lm, tokenizer)
    init_reading(lm)
    return lm, tokenizer


def ids_of(tokenizer: Any, **names: str) -> dict[str, int]:
    """Fields of a config for the special tokens of these names."""
    return {f"{field}_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for field, name in names.items()}


def end_as(lm: Any, tokenizer: Any) -> None:
    """Generate until the tokenizer's end."""
    lm.generation_config.eos_token_id = tokenizer.eos_token_id
    lm.generation_config.pad_token_id = tokenizer.pad_token_id


@torch.no_grad()
def init_words(lm: Any, tokenizer: Any) -> None:
    """Words far apart against what an optimizer step moves. A timestamp is its number, the second after, and
    itself; an object its colour, its shape, and itself: an encoder learns shapes for all colours at once."""
    table, ids = lm.get_input_embeddings().weight, tokenizer.get_vocab()
    numbers = [ids[str(digit)] for digit in range(10)] + [ids[SPACE]]
    numbers += [ids[f"{SPACE}{tens}"] for tens in range(1, TIMESTAMPS // 10)]
    stamps = torch.tensor([ids[f"{SPACE}<{second}>"] for second in range(TIMESTAMPS)])
    random = torch.randn_like(table) * 0.5
    table.zero_()
    table[:, WORDS] = random[:, WORDS]
    for rows in (torch.tensor(numbers), stamps):
        table[rows, WORDS] = 0.0
        table[rows, NUMBERS] = random[rows, NUMBERS]
    for name in OBJECTS:
        colour, shape = (ids[SPACE + word] for word in name.split())
        own = table[ids[SPACE + name.replace(" ", "_")], WORDS]
        own.copy_(0.63 * table[colour, WORDS] + 0.63 * table[shape, WORDS] + 0.45 * own)
    letters = torch.tensor([ids[SPACE + letter] for letter in LETTERS])
    table[letters, WORDS], table[letters, GLYPHS] = 0.0, 2 * random[letters, GLYPHS]
    tens = [ids[SPACE + (str(second // 10) if second >= 10 else "")] for second in range(TIMESTAMPS)]
    digits = [ids[str(second % 10)] for second in range(TIMESTAMPS)]
    table[stamps] += table[tens] + 0.7 * (table[digits] + table[digits[1:] + digits[:1]])
    table[:, WORD_AXIS] = 2.0
    table[torch.tensor(numbers), NUMBER_AXIS] = 2.0
    table[stamps, WORD_AXIS], table[stamps, TIMESTAMP_AXIS] = 0.0, 2.0
    special = torch.tensor([ids[name] for name in SPECIAL])
    table[special, WORD_AXIS] = 0.0
    table[ids["<|vision_start|>"], START_AXIS] = 4.0
    lm.get_output_embeddings().weight.copy_(0.1 * table)  # the head begins by copying words


def words_of(lm: Any, tokenizer: Any) -> tuple[Tensor, Tensor]:
    """Embeddings of the objects (objects, D) and the letters (letters, D), but for what makes them words."""
    table, ids = lm.get_input_embeddings().weight.detach().clone(), tokenizer.get_vocab()
    table[:, WORD_AXIS] = 0.0
    objects = [ids[SPACE + name.replace(" ", "_")] for name in OBJECTS]
    return table[objects], table[[ids[SPACE + letter] for letter in LETTERS]].clone()


@torch.no_grad()
def init_reading(lm: Any) -> None:
    """Begin where frames can be read: the heads of each layer start with a task, and all is trained.

    First layer: a token of frames takes over the number of its timestamp, its row, its column; a word the
    numbers before it. Second: a word takes over the numbers of the tokens that show it, and all else of those
    at its number; words exchange what they are. Third: they exchange both. Last: like attends to like.
    """
    layers = lm.model.language_model.layers
    for layer in layers:
        attention = layer.self_attn
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        attention.o_proj.weight.copy_(attention.v_proj.weight.t())
        for norm in (attention.q_norm, attention.k_norm):
            norm.weight.fill_(1.6)
        layer.mlp.down_proj.weight *= 0.1
    first, second, third = (Heads(layer.self_attn) for layer in layers[:3])
    first.timestamp(0)
    first.copy(0, NUMBERS, 0.25)
    first.frame_axis(1, ROW_PAIR, ROW_AXIS)
    first.frame_axis(2, COLUMN_PAIR, COLUMN_AXIS)
    second.alike(0)
    second.copy(0, NUMBERS, 1.5)
    second.alike(1, numbers=1.8)
    second.copy_rest(1)
    second.words(2)
    third.words(0)
    third.copy(0, NUMBERS, 3.0)
    third.words(1)
    third.copy_rest(1)
    third.alike(2, numbers=1.8)
    third.copy_rest(2)


class Heads:
    """The weights of an attention, head by head."""

    def __init__(self, attention: Any) -> None:
        self.base: float = attention.config.rope_parameters["rope_theta"]
        self.query, self.key, self.value, self.out = (
            getattr(attention, f"{name}_proj").weight for name in ("q", "k", "v", "o")
        )  # fmt: skip

    def rows(self, head: int) -> slice:
        return slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)

    def point(
        self, weight: Tensor, head: int, axis: int, pair: int, angle: float, length: float = 1.0
    ) -> None:
        """Make `axis` turn a rotary pair of a head to an angle."""
        row = head * HEAD_WIDTH + pair
        weight[row, axis] = length * math.cos(angle)
        weight[row + HEAD_WIDTH // 2, axis] = length * math.sin(angle)

    def turn(self, pair: int) -> float:
        """Radians a position."""
        return self.base ** (-2 * pair / HEAD_WIDTH)

    def quiet(self, head: int) -> None:
        for weight in (self.query, self.key):
            weight[self.rows(head)] *= 0.4

    def timestamp(self, head: int, before: int = 2) -> None:
        """Tokens of frames attend to their timestamp, `before` positions before."""
        self.quiet(head)
        for pair in TIME_PAIRS:
            self.point(self.query, head, FRAME_AXIS, pair, -before * self.turn(pair))
            self.point(self.key, head, TIMESTAMP_AXIS, pair, 0.0)
        # words copy the numbers before them; without any they attend to what has none
        self.point(self.query, head, WORD_AXIS, REST_PAIR, 0.0)
        self.point(self.key, head, NUMBER_AXIS, REST_PAIR, 0.0)
        self.point(self.key, head, START_AXIS, REST_PAIR, math.pi / 3)

    def frame_axis(self, head: int, place: int, axis: int) -> None:
        """Tokens of frames get a value on an axis that falls with their row or column: attention to the start
        of the frame, which falls so, against attention to the timestamp, which doesn't."""
        self.quiet(head)
        for pair in TIME_PAIRS:
            self.point(self.query, head, FRAME_AXIS, pair, -2 * self.turn(pair))
            self.point(self.key, head, TIMESTAMP_AXIS, pair, 0.0)
            self.point(self.key, head, START_AXIS, pair, -self.turn(pair))
        middle = GRID // 2 + 1  # positions from the start to the middle row or column
        self.point(self.query, head, FRAME_AXIS, place, math.pi / 2 - middle * self.turn(place))
        self.point(self.key, head, START_AXIS, place, 0.0)
        self.point(self.key, head, TIMESTAMP_AXIS, REST_PAIR, 0.0)
        rows = self.rows(head)
        self.value[rows], self.out[:, rows] = 0.0, 0.0
        self.value[rows.start, START_AXIS], self.value[rows.start, TIMESTAMP_AXIS] = 1.0, -1.0
        self.out[axis, rows.start] = 0.3

    def alike(self, head: int, numbers: float = 0.0) -> None:
        """Words attend to frames of the same words, and by weight numbers, however far away; without any, to
        the starts of frames."""
        rows, half = self.rows(head), HEAD_WIDTH // 2
        known = torch.zeros(WIDTH)
        known[WORDS], known[NUMBERS] = 1.0, numbers
        self.query[rows] *= known
        for start in (rows.start, rows.start + half):
            self.query[start : start + SLOW_PAIR] = 0.0
        self.key[rows] = self.query[rows]
        self.point(self.query, head, WORD_AXIS, REST_PAIR, 0.0, 0.6)
        self.point(self.key, head, WORD_AXIS, REST_PAIR, math.pi, 0.6)
        self.point(self.key, head, START_AXIS, REST_PAIR, math.pi / 3)

    def words(self, head: int) -> None:
        """Words attend to all words before them."""
        self.quiet(head)
        for pair in (REST_PAIR, REST_PAIR - 1):
            for weight in (self.query, self.key):
                self.point(weight, head, WORD_AXIS, pair, 0.0)

    def copy(self, head: int, part: slice, gain: float) -> None:
        """Copy a part of HEAD_WIDTH as it is."""
        rows = self.rows(head)
        self.value[rows], self.out[:, rows] = 0.0, 0.0
        self.value[rows, part], self.out[part, rows] = torch.eye(HEAD_WIDTH), gain * torch.eye(HEAD_WIDTH)

    def copy_rest(self, head: int) -> None:
        """Copy row, column and letters as they are, and a view of all words."""
        rows = self.rows(head)
        self.value[rows, : WORDS.start] = 0.0
        exact = (ROW_AXIS, COLUMN_AXIS, *range(GLYPHS.start, GLYPHS.stop))
        for row, axis in enumerate(exact, rows.start):
            self.value[row] = 0.0
            self.value[row, axis] = 1.0
        self.out[:, rows] = self.value[rows].t()
