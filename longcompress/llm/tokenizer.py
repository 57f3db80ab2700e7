"""The tokenizer of a language model, as its folder or the hub has it."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer


def load_tokenizer(base: str | Path) -> Any:
    """The tokenizer in a folder or of a hub name; ImportError if a package that it needs is missing."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    except (ImportError, ValueError) as error:
        text = str(error).lower()
        if find_spec("sentencepiece") is None and ("sentencepiece" in text or "tiktoken" in text):
            raise ImportError(
                f"base {str(base)!r}: its tokenizer is a tokenizer.model without a tokenizer.json, which "
                "needs two packages to be read: pip install sentencepiece protobuf"
            ) from error
        raise
    file = getattr(tokenizer, "vocab_file", None)
    if file and Path(file).name == "tokenizer.model" and not Path(file).with_name("tokenizer.json").exists():
        follow_sentencepiece(tokenizer, file)
    return tokenizer


def follow_sentencepiece(tokenizer: Any, file: str | Path) -> None:
    """Make a tokenizer that transformers made of a sentencepiece file do as sentencepiece does. Merges go by
    their scores; transformers (5.23) orders them by id, which merges runs of spaces in LLaMA's first instead
    of last."""
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer

    pieces = SentencePieceProcessor(model_file=str(file))
    score = {pieces.id_to_piece(i): pieces.get_score(i) for i in range(pieces.get_piece_size())}
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if merges := state["model"].get("merges"):
        merges.sort(key=lambda pair: -score.get("".join(pair), 0.0))
        if state["normalizer"] is None:  # a text, or one behind a special token, gets a space before its own
            state["normalizer"] = {"type": "Replace", "pattern": {"Regex": r"\A "}, "content": "  "}
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
