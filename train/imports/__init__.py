"""Features that others made."""
