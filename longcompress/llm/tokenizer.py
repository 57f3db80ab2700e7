"""The tokenizer of a language model, as its folder or the hub has it."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer


def load_tokenizer(base: str | Path) -> Any:
    """The tokenizer in a folder or of a hub name.

    Raises:
        ImportError: there is a tokenizer.model alone, as LLaMA's and Vicuna's have it, and a package that
            reads it is missing; transformers then asks for another one.
    """
    try:
        return AutoTokenizer.from_pretrained(base)
    except (ImportError, ValueError) as error:
        told = str(error).lower()
        if find_spec("sentencepiece") is None and ("sentencepiece" in told or "tiktoken" in told):
            raise ImportError(
                f"base {str(base)!r}: its tokenizer is a tokenizer.model without a tokenizer.json, which "
                "needs two packages to be read: pip install sentencepiece protobuf"
            ) from error
        raise
