"""The example that compares forms of global tokens: all learn from the same shards and are asked the same."""

from pathlib import Path

import pytest
import torch

from longcompress.presets import load

import helpers

example = helpers.program(Path(__file__).parents[2] / "examples" / "global_memory" / "run.py")


@pytest.mark.slow
def test_forms_learn_from_the_same_shards_and_are_asked_the_same(tmp_path, monkeypatch):
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(example, "longcompress", lambda *words: ran.append(words))
    words = [
        "--out",
        str(tmp_path),
        "--videos",
        "8",
        "--minutes",
        "0.3",
        "--steps",
        "2",
        "--test-videos",
        "3",
    ]
    example.main([*words, "--forms", "none", "learned"])
    none, learned = (load(str(tmp_path / form / "model"), device="cpu") for form in ("none", "learned"))
    assert (none.config.memory.kind, learned.config.memory.kind) == ("none", "learned")
    new = example.with_memory(example.FORMS["learned"]).global_memory
    for name, query in learned.global_memory.query.items():
        assert query.shape == new.query[name].shape == (4, query.shape[1])
        assert not torch.equal(query, new.query[name])
    assert {n: v.shape for n, v in learned.llm.state_dict().items() if "project" in n} == {
        n: v.shape for n, v in none.llm.state_dict().items() if "project" in n
    }
    asked, pairs = ran[:2], ran[2:]
    assert [words[:3] for words in asked] == [("eval", "run", "synthetic_whole")] * 2
    assert [words[4] for words in asked] == [str(tmp_path / f / "model") for f in ("none", "learned")]
    assert asked[0][5:-1] == asked[1][5:-1] and "512" in asked[0] and "3" in asked[0]
    assert pairs == [
        ("eval", "pairs", f"{tmp_path}/learned.{budget}.jsonl", f"{tmp_path}/none.{budget}.jsonl")
        for budget in (64, 128, 256, 512)
    ]
    changed = [p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("*.safetensors"))]
    example.main([*words, "--forms", "none", "learned"])  # all is there
    assert [p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("*.safetensors"))] == changed
    assert ran[6:] == ran[:6]
