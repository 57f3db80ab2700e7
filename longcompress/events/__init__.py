"""Events in text and in files."""
