"""Language models that read films: project, splice into the prompt, loss, generate."""

from .causal import CausalHost
from .prompt import Example, Film, collate

__all__ = ["CausalHost", "Example", "Film", "collate"]
