"""Language models that read films: project, splice into the prompt, loss, generate."""

from .batch import collate, film_positions, learned_places, text_positions
from .causal import CausalHost
from .prompt import Example, Film

__all__ = ["CausalHost", "Example", "Film", "collate", "film_positions", "learned_places", "text_positions"]
