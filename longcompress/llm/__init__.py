"""Language models that read videos: project, splice into the prompt, loss, generate."""

from ..types import CompressedVideo
from .causal import CausalLM, learned_places
from .prompt import Example, collate
from .stock import StockLM

__all__ = [
    "CausalLM", "CompressedVideo", "Example", "StockLM", "collate", "learned_places",
]  # fmt: skip
