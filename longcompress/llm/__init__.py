"""Language models that read videos: project, splice into the prompt, loss, generate."""

from .causal import CausalLM
from .collate import collate, learned_places, text_positions, video_positions
from .prompt import Example, Video

__all__ = ["CausalLM", "Example", "Video", "collate", "video_positions", "learned_places", "text_positions"]
