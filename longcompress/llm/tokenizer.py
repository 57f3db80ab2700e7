"""The tokenizer of a language model, as its folder or the hub has it."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer


def load_tokenizer(base: str | Path) -> Any:
    """The tokenizer in a folder or of a hub name; ImportError if a package that it needs is missing."""
    try:
        return AutoTokenizer.from_pretrained(base)
    except (ImportError, ValueError) as error:
        text = str(error).lower()
        if find_spec("sentencepiece") is None and ("sentencepiece" in text or "tiktoken" in text):
            raise ImportError(
                f"base {str(base)!r}: its tokenizer is a tokenizer.model without a tokenizer.json, which "
                "needs two packages to be read: pip install sentencepiece protobuf"
            ) from error
        raise
