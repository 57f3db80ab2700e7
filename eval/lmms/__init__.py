"""The lmms-eval plugin."""
