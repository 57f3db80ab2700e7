"""Videos without labels -> events with captions and times, as LongVALE's pipeline makes them."""
