"""Segments to a fixed number of tokens."""
