"""Language models that read videos: project, splice into the prompt, loss, generate."""

from ..types import CompressedVideo
from .causal import CausalLM
from .prompt import Example, collate, learned_places, text_positions, video_positions
from .stock import StockLM

__all__ = [
    "CausalLM", "CompressedVideo", "Example", "StockLM", "collate", "learned_places", "text_positions",
    "video_positions",
]  # fmt: skip
