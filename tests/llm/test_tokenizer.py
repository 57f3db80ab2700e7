"""A tokenizer that can't be read is told by what it needs."""

import json

import pytest

from longcompress.llm import tokenizer as module
from longcompress.llm.tokenizer import load_tokenizer

from models import tokenizer


def test_a_folder_is_read(tmp_path):
    tokenizer().save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)("red ball")["input_ids"] == tokenizer()("red ball")["input_ids"]


def test_vicunas_file_alone_needs_a_package(tmp_path, monkeypatch):
    """Vicuna's folder has no tokenizer.json; without sentencepiece transformers asks for tiktoken, which
    wouldn't help."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 9}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    if module.find_spec("sentencepiece") is None:
        with pytest.raises(ImportError, match="pip install sentencepiece protobuf"):
            load_tokenizer(tmp_path)
    for message in ("`tiktoken` is required to read a `tiktoken` file", "SentencePieceExtractor requires"):

        def fails(_, message=message, **options):
            raise ValueError(message)

        monkeypatch.setattr(module.AutoTokenizer, "from_pretrained", fails)
        monkeypatch.setattr(module, "find_spec", lambda _: None)
        with pytest.raises(
            ImportError, match=r"a tokenizer\.model without a tokenizer\.json, which needs two"
        ):
            load_tokenizer(tmp_path)
    monkeypatch.setattr(module, "find_spec", lambda _: object())  # it is there: what else is wrong is told
    with pytest.raises(ValueError, match="SentencePieceExtractor requires"):
        load_tokenizer(tmp_path)
