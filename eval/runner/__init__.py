"""Runs, scores and comparisons."""
