"""Shards: written, indexed, read."""
