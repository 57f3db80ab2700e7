"""How `tiny` is trained."""
