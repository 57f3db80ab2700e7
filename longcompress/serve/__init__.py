"""An OpenAI-compatible server: videos are read once, and asked about many times."""
