"""Training: the recipes of this project run on transformers' Trainer."""
