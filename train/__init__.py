"""Training: the recipes of this project run on transformers' Trainer."""

from .shards.sample import decode

__all__ = ["decode"]
