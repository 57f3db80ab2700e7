"""A language model and its difference from another, made here of random numbers: their sum by value."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import longcompress as lc
from longcompress.checkpoints import delta as module
from longcompress.checkpoints.delta import added, apply_delta, read_folder
from longcompress.cli.main import main

from models import language_model, tokenizer

WORDS = ("model.embed_tokens.weight", "lm_head.weight")
BUFFER = "model.layers.0.self_attn.rotary_emb.inv_freq"


def write(folder, state, config=None, files=1, safe=False):
    """A model folder: one file or several with their index."""
    folder.mkdir()
    save, name, end = (save_file, "model", "safetensors") if safe else (torch.save, "pytorch_model", "bin")
    names = sorted(state)
    if files == 1:
        save(dict(state), folder / f"{name}.{end}")
    else:
        where = {n: f"{name}-{i % files + 1:05d}-of-{files:05d}.{end}" for i, n in enumerate(names)}
        for file in set(where.values()):
            save({n: state[n] for n in names if where[n] == file}, folder / file)
        (folder / f"{name}.{end}.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "config.json").write_text(json.dumps(config or language_model().config.to_dict()))
    return folder


def new_checkpoint(tmp_path, *, more=3, dtype=torch.float16, **how):
    """(base folder, delta folder, state of the base, state of the delta), as LLaVA published them."""
    state = {n: v.to(dtype) for n, v in language_model().state_dict().items()}
    torch.manual_seed(2)
    change = {n: 0.05 * torch.randn(v.shape).to(dtype) * v.std() for n, v in state.items() if "norm" not in n}
    change |= {n: torch.full_like(v, 0.25) for n, v in state.items() if "norm" in n}
    for name in WORDS:
        change[name] = torch.cat([change[name], torch.randn(more, 32).to(dtype)])
    projector = {
        f"model.mm_projector.{k}": torch.randn(s).to(dtype) for k, s in (("weight", (32, 16)), ("bias", 32))
    }
    config = language_model().config.to_dict() | {"architectures": ["LLaMAForCausalLM"]}
    base = write(tmp_path / "base", state | {BUFFER: torch.rand(4)}, config, **how)
    messages = config | {"model_type": "llava", "vocab_size": 99 + more, "mm_hidden_size": 16}
    delta = write(tmp_path / "delta", change | projector | {BUFFER: torch.rand(4)}, messages, **how)
    words = tokenizer()
    words.add_tokens([f"<im_{i}>" for i in range(more)], special_tokens=True)
    words.save_pretrained(delta)
    return base, delta, state, change


def by_hand(state, change):
    """base + delta, the base added to the first rows."""
    want = {}
    for name, value in change.items():
        want[name] = value.double()
        want[name][: len(state[name])] += state[name].double()
    return {name: value.to(change[name].dtype) for name, value in want.items()}


@pytest.mark.parametrize("how", [{}, {"files": 2}, {"safe": True}, {"files": 3, "safe": True}], ids=str)
def test_the_sum_loads_and_every_value_is_base_plus_delta(tmp_path, how):
    base, delta, state, change = new_checkpoint(tmp_path, **how)
    done = apply_delta(base, delta, tmp_path / "out", shard_bytes=8192, progress=False)
    assert done.tensors == len(state) and done.grown == dict.fromkeys(WORDS, 3)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    lm, result = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float16, output_loading_info=True
    )
    assert type(lm) is LlamaForCausalLM and not result["missing_keys"] and not result["unexpected_keys"]
    want = by_hand(state, change)
    for name, value in lm.state_dict().items():
        assert torch.equal(value, want[name]), name
    projector = load_file(done.projector)
    present = read_folder(delta, "delta")
    assert set(projector) == {"model.mm_projector.weight", "model.mm_projector.bias"}
    assert all(torch.equal(value, present[name]) for name, value in projector.items())


def test_longvlm_loads_on_the_sum_with_llavas_projector(tmp_path):
    """What its paper begins with: language model and projector out of one delta."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    base, delta, state, change = new_checkpoint(tmp_path, dtype=torch.float32)
    done = apply_delta(base, delta, tmp_path / "out", progress=False)
    eyes = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=6, num_attention_heads=2, image_size=224,
        patch_size=112,
    )  # fmt: skip
    CLIPVisionModel(eyes).save_pretrained(tmp_path / "eyes")
    parts = {"video": str(tmp_path / "eyes"), "llm": str(done.folder)}
    model = lc.load("longvlm", base=parts, weights=done.projector, device="cpu")
    weight = read_folder(delta, "delta")["model.mm_projector.weight"]
    assert torch.equal(model.llm.project["video"].weight, weight)
    assert len(model.llm.tokenizer) == 102 and model.llm.lm.lm_head.out_features == 102
    assert torch.equal(model.llm.lm.lm_head.weight, by_hand(state, change)["lm_head.weight"])


def test_of_one_size_nothing_grows(tmp_path):
    base, delta, *_ = new_checkpoint(tmp_path, more=0)
    done = apply_delta(base, delta, tmp_path / "out", progress=False)
    assert done.grown == {}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "llama" and config["vocab_size"] == 99
    assert config["architectures"] == ["LlamaForCausalLM"]


def test_one_shard_is_held(tmp_path, monkeypatch):
    base, delta, *_ = new_checkpoint(tmp_path, files=3)
    held = []
    save = module.save_file
    monkeypatch.setattr(
        module, "save_file", lambda tensors, *a, **k: (held.append(tensors), save(tensors, *a, **k))
    )
    apply_delta(base, delta, tmp_path / "out", shard_bytes=8192, progress=False)
    sizes = [sum(v.nbytes for v in item.values()) for item in held]
    assert len(sizes) > 3 and all(
        size <= 8192 or len(item) == 1 for size, item in zip(sizes, held, strict=True)
    )


def test_the_command(tmp_path, capsys):
    base, delta, *_ = new_checkpoint(tmp_path)
    out = tmp_path / "out"
    words = ["weights", "delta", "--base", str(base), "--delta", str(delta), "--out", str(out)]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "21 tensors" in text and "3 words more" in text and "mm_projector.safetensors" in text
    assert main(words) == 2 and "has files in it" in capsys.readouterr().err


def test_files_that_do_not_fit_are_refused(tmp_path):
    base, delta, state, change = new_checkpoint(tmp_path)

    def refused(message, base_path=base, other=delta, kind=ValueError):
        with pytest.raises(kind, match=message):
            apply_delta(base_path, other, tmp_path / "out", progress=False)
        assert not (tmp_path / "out" / "config.json").exists()
        shutil.rmtree(tmp_path / "out", ignore_errors=True)

    refused("base: no folder", base_path=tmp_path / "gone", kind=FileNotFoundError)
    more = write(tmp_path / "more", change | {"model.video.x": torch.zeros(2, 2)})
    tokenizer().save_pretrained(more)
    refused(r"1 of its tensors have no base: model.video.x; 0 of the base have no delta: none", other=more)
    less = write(tmp_path / "less", {n: v for n, v in change.items() if n != "model.norm.weight"})
    tokenizer().save_pretrained(less)
    refused(r"0 of its .*; 1 of the base have no delta: model.norm.weight", other=less)
    wide = language_model().config.to_dict() | {"intermediate_size": 64}
    big = write(tmp_path / "big", LlamaForCausalLM(LlamaConfig(**wide)).state_dict(), wide)
    refused(r"of another size than the base: model.layers.0.mlp.down_proj.weight is \(32, 48\), the base's "
            r"\(32, 64\)", base_path=big)  # fmt: skip
    whole = write(tmp_path / "whole", state)
    tokenizer().save_pretrained(whole)
    refused("is a whole model, not a difference: its lm_head.weight has an RMS of", other=whole)
    nan = write(tmp_path / "nan", change | {"model.norm.weight": torch.full((32,), float("inf")).half()})
    tokenizer().save_pretrained(nan)
    refused("of model.norm.weight is not finite", other=nan)
    mute = write(tmp_path / "mute", change)
    refused("has tokenizer.model or tokenizer.json", other=mute, kind=FileNotFoundError)
    meta = tmp_path / "meta"
    meta.mkdir()
    (meta / "consolidated.00.pth").touch()
    refused("no model.safetensors .* convert Meta's files", base_path=meta)
    several = new_checkpoint(_folder(tmp_path / "several"), files=2)[0]
    failed = next(several.glob("pytorch_model-*.bin"))
    whole_file = failed.read_bytes()
    failed.write_bytes(whole_file[: len(whole_file) // 2])
    refused(f"{failed.name} .* is cut off", base_path=several)
    failed.unlink()
    refused(f"lacks {failed.name}", base_path=several, kind=FileNotFoundError)
    (base / "config.json").write_text("{")
    refused("config.json is no JSON")
    (base / "config.json").unlink()
    refused("no file .*config.json", kind=FileNotFoundError)


def _folder(path):
    path.mkdir()
    return path


def test_sums_are_rounded_once():
    base, delta = torch.tensor([1.0, 2048.0]).half(), torch.tensor([2**-11, 1.0]).half()
    assert torch.equal(added("x", base, delta), (base.double() + delta.double()).half())
    assert added("x", base.float(), delta).dtype == torch.float16
