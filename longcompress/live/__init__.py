"""A running source played into a session: capture, log and replay, captions."""
