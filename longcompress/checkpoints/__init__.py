"""The papers' architectures and their released weights."""
