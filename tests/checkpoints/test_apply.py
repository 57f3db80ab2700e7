"""Checkpoints in the layout that each project released, made here of random numbers: every value lands where
it belongs, by value; what is no such checkpoint is refused."""

import json
import os
import tarfile

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

import longcompress as lc
from longcompress.checkpoints.apply import VIDEO_WORDS, apply, core, merge_lora
from longcompress.checkpoints.files import read_stage, read_tensors
from longcompress.cli.main import main
from longcompress.llm.prompt import conversation

from models import hearing, language_model, listening, tokenizer

KINDS = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
    "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
RANK, ALPHA = 4, 8
PEFT = "base_model.model."  # before the language model's own names
WIDTHS = {"mm_projector": 8, "audio_mm_projector": 16, "asr_mm_projector": 8}
STREAMS = {"mm_projector": "video", "audio_mm_projector": "audio", "asr_mm_projector": "speech"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Folders of encoders and a language model, 32 wide."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(3)
    sizes = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 224, "patch_size": 112, "projection_dim": 8,
    }  # fmt: skip
    CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes)).save_pretrained(folder / "video")
    CLIPVisionModel(CLIPVisionConfig(**sizes | {"num_hidden_layers": 6})).save_pretrained(folder / "eyes")
    hearing().save_pretrained(folder / "audio")
    listening().save_pretrained(folder / "speech")
    language_model().save_pretrained(folder / "llm")
    tokenizer().save_pretrained(folder / "llm")
    return {name: str(folder / name) for name in ("video", "audio", "speech", "llm", "eyes")}


def load(name, base, weights=None, **options):
    parts = {
        part: base[part] for part in ("video", "audio", "speech", "llm")[: 4 if name == "longvale" else 1]
    }
    parts["llm"] = base["llm"]
    if name == "longvlm":
        parts["video"] = base["eyes"]
    return lc.load(name, base=parts, weights=weights, device="cpu", **options)


def linear(name, seed, *, wrapped, hidden=32):
    """The two entries of a projector."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(hidden, WIDTHS[name], generator=generator)
    return {
        f"{wrapped}{name}.weight": weight, f"{wrapped}{name}.bias": torch.randn(hidden, generator=generator),
    }  # fmt: skip


def stage_1(path, seed=1, **options):
    """`mm_projector.bin` as VTimeLLM's first stage writes it."""
    values = linear("mm_projector", seed, wrapped="model.", **options)
    torch.save(values, path)
    return values


def lora(seed, lm=None):
    """The entries of an adapter on all seven kinds of matrices, by the names of peft 0.4."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for name, value in (lm or language_model()).named_parameters():
        if name.removesuffix(".weight").endswith(KINDS):
            at = PEFT + name.removesuffix(".weight")
            values[f"{at}.lora_A.weight"] = torch.randn(RANK, value.shape[1], generator=generator)
            values[f"{at}.lora_B.weight"] = torch.randn(value.shape[0], RANK, generator=generator)
    return values


def stage(folder, seed, *, non_lora=None, adapter=None, **changes):
    """The folder of a later stage as peft 0.4 and the projects write it; returns the adapter's entries."""
    folder.mkdir()
    config = {
        "base_model_name_or_path": "./checkpoints/vicuna-7b-v1.5", "bias": "none", "fan_in_fan_out": False,
        "inference_mode": True, "init_lora_weights": True, "layers_pattern": None,
        "layers_to_transform": None, "lora_alpha": ALPHA, "lora_dropout": 0.05, "modules_to_save": None,
        "peft_type": "LORA", "r": RANK, "revision": None, "task_type": "CAUSAL_LM",
        "target_modules": [kind.split(".")[1] for kind in KINDS],
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    values = lora(seed) if adapter is None else adapter
    torch.save(values, folder / "adapter_model.bin")
    torch.save(non_lora or {}, folder / "non_lora_trainables.bin")
    return values


def merged(*adapters):
    """The language model with adapters merged by hand: W + alpha / r x B A of each."""
    lm = language_model()
    state = lm.state_dict()
    for values in adapters:
        for name in state:
            at = PEFT + name.removesuffix(".weight")
            if f"{at}.lora_A.weight" in values:
                product = values[f"{at}.lora_B.weight"] @ values[f"{at}.lora_A.weight"]
                state[name] = state[name] + ALPHA / RANK * product
    lm.load_state_dict(state)
    return lm


def assert_lm(model, want):
    """The same parameters by name, and the same logits."""
    got = model.llm.lm.state_dict()
    assert set(got) == set(want.state_dict()) and not hasattr(model.llm.lm, "peft_config")
    for name, value in want.state_dict().items():
        assert torch.allclose(got[name], value, atol=1e-5), name
    ids = torch.tensor([[5, 9, 40, 7]])
    with torch.no_grad():
        assert torch.allclose(model.llm.lm(input_ids=ids).logits, want(input_ids=ids).logits, atol=1e-4)


def assert_projector(model, name, values):
    project = model.llm.project[STREAMS[name]]
    for leaf in ("weight", "bias"):
        (want,) = [v for k, v in values.items() if core(k) == f"{name}.{leaf}"]
        assert torch.equal(getattr(project, leaf), want)


def test_vtimellm_in_three_stages(base, tmp_path):
    """As `load_lora` of the project does it: projector, adapter merged, next adapter merged."""
    projector = stage_1(tmp_path / "mm_projector.bin")
    second, third = stage(tmp_path / "stage2", 2), stage(tmp_path / "stage3", 3)
    paths = [tmp_path / name for name in ("mm_projector.bin", "stage2", "stage3")]
    model = load("vtimellm", base, paths)
    assert_projector(model, "mm_projector", projector)
    assert_lm(model, merged(second, third))
    only = load("vtimellm", base, paths[:2])
    assert_lm(only, merged(second))
    model.save_pretrained(tmp_path / "saved")  # what was merged is in no base, so it is saved with the model
    again = lc.load(tmp_path / "saved", device="cpu")
    assert_projector(again, "mm_projector", projector)
    assert_lm(again, merged(second, third))


@pytest.mark.parametrize("wrapped", ["base_model.model.model.", "base_model.model.", ""])
def test_longvale_takes_the_last_stages_projectors_under_every_prefix(base, tmp_path, wrapped):
    projector = stage_1(tmp_path / "vtimellm_stage1_mm_projector.bin")
    heard = [
        linear("audio_mm_projector", seed, wrapped=wrapped)
        | linear("asr_mm_projector", seed + 1, wrapped=wrapped)
        for seed in (10, 20)
    ]
    adapters = [
        stage(tmp_path / name, seed, non_lora=values)
        for name, seed, values in (("bp", 2, heard[0]), ("it", 3, heard[1]))
    ]
    names = ("vtimellm_stage1_mm_projector.bin", "bp", "it")
    model = load("longvale", base, [str(tmp_path / name) for name in names])
    assert_projector(model, "mm_projector", projector)
    for name in ("audio_mm_projector", "asr_mm_projector"):
        assert_projector(model, name, heard[1])
    assert_lm(model, merged(*adapters))


def test_one_path_alone_and_a_folder_of_the_projector(base, tmp_path):
    (tmp_path / "stage1").mkdir()
    projector = stage_1(tmp_path / "stage1" / "mm_projector.bin")
    for weights in (tmp_path / "stage1", str(tmp_path / "stage1" / "mm_projector.bin")):
        model = load("vtimellm", base, weights)
        assert_projector(model, "mm_projector", projector)
        assert_lm(model, language_model())
        assert model.config.llm.base == base["llm"]  # it is still its base's


def test_an_adapter_of_todays_peft(base, tmp_path):
    stage_1(tmp_path / "p.bin")
    options = {"r": RANK, "lora_alpha": ALPHA, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    wrapped = get_peft_model(language_model(), LoraConfig(**options))
    torch.manual_seed(4)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    wrapped.save_pretrained(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    values = {k.replace(".default", ""): v.detach() for k, v in wrapped.named_parameters() if "lora_" in k}
    assert_lm(load("vtimellm", base, [tmp_path / "p.bin", tmp_path / "adapter"]), merged(values))


def test_values_of_the_language_model_beside_an_adapter(base, tmp_path):
    norm = torch.rand(32)
    stage_1(tmp_path / "p.bin")
    adapter = stage(tmp_path / "s", 2, non_lora={"base_model.model.model.norm.weight": norm})
    model = load("vtimellm", base, [tmp_path / "p.bin", tmp_path / "s"])
    want = merged(adapter)
    want.model.norm.weight.data.copy_(norm)
    assert_lm(model, want)


def test_half_precision_values_land_rounded(base, tmp_path):
    values = {name: value.half() for name, value in linear("mm_projector", 1, wrapped="model.").items()}
    save_file(values, tmp_path / "mm_projector.safetensors")
    model = load("vtimellm", base, tmp_path / "mm_projector.safetensors", dtype=torch.bfloat16)
    weight = model.llm.project["video"].weight
    assert torch.equal(weight, values["model.mm_projector.weight"].to(weight.dtype))


def test_what_is_still_to_be_trained_must_be_named(base, tmp_path):
    projector = stage_1(tmp_path / "p.bin")
    with pytest.raises(
        ValueError, match=r"leave 4 parameters unset: llm.project.audio.bias, .*speech.weight"
    ):
        load("longvale", base, tmp_path / "p.bin")
    model = load("longvale", base)
    before = model.llm.project["audio"].weight.clone()
    apply(model, tmp_path / "p.bin", init=["audio", "speech"])
    assert_projector(model, "mm_projector", projector)
    assert torch.equal(model.llm.project["audio"].weight, before)
    ours = load("vtimellm", base, variant={"mode": "ours"})
    with pytest.raises(ValueError, match=r"leave 3 parameters unset: llm.time.gain"):
        apply(ours, tmp_path / "p.bin")
    apply(ours, tmp_path / "p.bin", init=["time"])
    with pytest.raises(ValueError, match=r"init must be some of .*'video'.*, got 'smell'"):
        apply(ours, tmp_path / "p.bin", init=["smell"])


def test_longvlms_words_go_around_the_video(base, tmp_path):
    """Its file holds the whole table of embeddings. The last rows are words around the video."""
    lm = language_model()
    own = lm.get_input_embeddings().weight.detach()
    new = torch.randn(3, 32)
    projector = {"model.mm_projector.weight": torch.randn(32, 16), "model.mm_projector.bias": torch.randn(32)}
    torch.save(
        projector | {"model.embed_tokens.weight": torch.cat([own, new])}, tmp_path / "mm_projector.bin"
    )
    model = load("longvlm", base, tmp_path / "mm_projector.bin")
    assert_projector(model, "mm_projector", projector)
    table = model.llm.lm.get_input_embeddings().weight
    assert torch.equal(table, torch.cat([own, new]))
    head, out = lm.lm_head.weight, model.llm.lm.lm_head.weight
    assert torch.equal(out[:-3], head) and torch.allclose(out[-3:], head.mean(0).expand(3, -1))
    ids = model.llm.tokenizer.convert_tokens_to_ids(list(VIDEO_WORDS))
    assert ids == [len(own), len(own) + 1, len(own) + 2]
    before, (after,) = conversation(model.llm.tokenizer, model.llm.settings, ["what is the ball"])
    assert before[-1] == ids[1] and after[0] == ids[2]
    model.save_pretrained(tmp_path / "saved")
    again = lc.load(tmp_path / "saved", device="cpu")
    assert torch.equal(again.llm.lm.get_input_embeddings().weight, table)
    assert conversation(again.llm.tokenizer, again.llm.settings, ["what is the ball"]) == (before, [after])
    off = projector | {"model.embed_tokens.weight": torch.cat([own.roll(1), new])}
    torch.save(off, tmp_path / "mm_projector.bin")
    with pytest.raises(ValueError, match=r"first 99 words of embed_tokens.weight differ .* by \d+%"):
        load("longvlm", base, tmp_path / "mm_projector.bin")
    torch.save(projector | {"model.embed_tokens.weight": own[:50]}, tmp_path / "mm_projector.bin")
    with pytest.raises(ValueError, match=r"is \(50, 32\), the language model's is \(99, 32\) .* \(102, 32\)"):
        load("longvlm", base, tmp_path / "mm_projector.bin")


def test_a_merged_adapter_is_saved_whatever_the_base_is(base, tmp_path):
    model = load("vtimellm", base)
    model.add_lora(r=RANK, lora_alpha=ALPHA)
    for name, parameter in model.llm.lm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    ids = torch.tensor([[5, 9, 40, 7]])
    before = model.llm.lm(input_ids=ids).logits
    stage_1(tmp_path / "p.bin")
    with pytest.raises(ValueError, match="has an adapter that isn't merged"):
        apply(model, tmp_path / "p.bin")
    merge_lora(model)
    model.save_pretrained(tmp_path / "saved")
    again = lc.load(tmp_path / "saved", device="cpu")
    assert torch.allclose(again.llm.lm(input_ids=ids).logits, before, atol=1e-5)
    with pytest.raises(ValueError, match="comes without an adapter"):
        merge_lora(again)


def test_the_command_saves_a_model_to_train_on(base, tmp_path, capsys):
    projector = stage_1(tmp_path / "p.bin")
    adapter = stage(tmp_path / "stage2", 2)
    parts = {name: base[name] for name in ("video", "llm")}
    words = ["weights", "apply", "vtimellm", "--base", json.dumps(parts), "--out", str(tmp_path / "out")]
    words += ["--device", "cpu", "--weights", str(tmp_path / "p.bin"), str(tmp_path / "stage2")]
    assert main(words) == 0 and "vtimellm with 2 stages" in capsys.readouterr().out
    again = lc.load(tmp_path / "out", device="cpu")
    assert_projector(again, "mm_projector", projector)
    assert_lm(again, merged(adapter))
    assert main([*words[:-1], "gone"]) == 3 and "no file or folder gone" in capsys.readouterr().err


class Evil:
    """Runs a command when it is unpickled by a reader that doesn't mind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_code_in_a_pickle_is_refused_and_not_run(base, tmp_path):
    torch.save({"model.mm_projector.weight": Evil(tmp_path / "ran")}, tmp_path / "mm_projector.bin")
    with pytest.raises(ValueError, match=r"its pickle asks for (posix|nt|os)\.system; nothing of it was run"):
        load("vtimellm", base, tmp_path / "mm_projector.bin")
    stage_1(tmp_path / "p.bin")
    stage(tmp_path / "s", 2, adapter={"x": Evil(tmp_path / "ran")})
    with pytest.raises(ValueError, match=r"adapter_model\.bin must hold tensors and plain values only"):
        load("vtimellm", base, [tmp_path / "p.bin", tmp_path / "s"])
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """What is wrong with weights -> (the weights, what is said of them)."""
    tmp_path = tmp_path_factory.mktemp("bad")
    good = tmp_path / "good.bin"
    stage_1(good)
    cut = tmp_path / "cut.bin"
    cut.write_bytes(good.read_bytes()[:-200])
    save_file({"model.mm_projector.weight": torch.zeros(32, 8)}, tmp_path / "whole.safetensors")
    short = tmp_path / "short.safetensors"
    short.write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-10])
    torch.save({"cfg": {"a": 1}, "model": {"x": torch.zeros(2)}}, tmp_path / "beats.pt")
    torch.save({"model.mm_projector.weight": torch.zeros(2, 2, dtype=torch.int64)}, tmp_path / "whole.bin")
    torch.save(linear("mm_projector", 1, wrapped="model.", hidden=64), tmp_path / "13b.bin")
    torch.save({"model.mm_projector.weight": torch.zeros(32, 16)}, tmp_path / "clip.bin")
    torch.save({"mm_projector.weight": torch.full((32, 8), float("nan"))}, tmp_path / "nan.bin")
    torch.save(linear("audio_mm_projector", 1, wrapped=""), tmp_path / "audio.bin")
    torch.save({"model.layers.9.mlp.up_proj.weight": torch.zeros(48, 32)}, tmp_path / "deep.bin")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        tar.add(good, "good.bin")
    outer = tmp_path / "outer"
    outer.mkdir()
    stage(outer / "stage2", 2)
    (tmp_path / "model").mkdir()
    torch.save({}, tmp_path / "model" / "pytorch_model.bin")
    (tmp_path / "empty").mkdir()
    stage(tmp_path / "half", 2)
    (tmp_path / "half" / "adapter_model.bin").unlink()
    stage(tmp_path / "zero3", 2, adapter={"x": torch.zeros(0)})
    torch.save({}, tmp_path / "zero3" / "adapter_model.bin")
    stage(tmp_path / "ia3", 2, peft_type="IA3")
    less = lora(2)
    less.pop(next(iter(less)))
    stage(tmp_path / "less", 2, adapter=less)
    stage(
        tmp_path / "more", 2, adapter=lora(2) | {"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 32)}
    )
    stage(tmp_path / "rank", 2, r=8)
    stage(tmp_path / "chatglm", 2, target_modules=["query_key_value"])
    return {
        "none": ([], "must name at least one"),
        "absent": (tmp_path / "absent", "no file or folder .*absent"),
        "twice": ([good, tmp_path / "." / "good.bin"], "good.bin is there twice"),
        "cut": (cut, r"cut.bin .0.0 MB. is cut off or not what torch.save writes"),
        "short": (short, "short.safetensors .* is cut off"),
        "another kind": (tmp_path / "beats.pt", "must hold named tensors, got cfg: dict, model: dict"),
        "integers": (tmp_path / "whole.bin", "must hold float tensors, others are model.mm_projector.weight"),
        "13B": (tmp_path / "13b.bin", r"bias is \(64,\), must be .*weight is \(64, 8\), must be \(32"),
        "another width": (tmp_path / "clip.bin", r"mm_projector.weight is \(32, 16\), must be \(32, 8\)"),
        "not finite": (tmp_path / "nan.bin", "mm_projector.weight is not finite"),
        "another stream": (tmp_path / "audio.bin", r"2 of 2 entries .* no place .*streams \['audio'\], this"),
        "no place": ([good, tmp_path / "deep.bin"], "1 of 1 entries .*: model.layers.9.mlp.up_proj.weight"),
        "archive": (tmp_path / "x.tar.gz", "is an archive; unpack it"),
        "outer folder": (outer, "give the stages in it one by one, in their order: .*stage2"),
        "a whole model": (tmp_path / "model", "it is a whole model; give a language model as base"),
        "an empty folder": (tmp_path / "empty", "it has none of mm_projector.bin"),
        "half an adapter": (tmp_path / "half", "lacks adapter_model.safetensors or adapter_model.bin"),
        "an empty adapter": (tmp_path / "zero3", "adapter_model.bin is empty"),
        "no LoRA": ([good, tmp_path / "ia3"], "is no LoRA adapter"),
        "less": ([good, tmp_path / "less"], r"missing 1: base_model.*lora_A.weight; without a place 0: none"),
        "more": ([good, tmp_path / "more"], r"without a place 1: base_model.model.lm_head.lora_A.weight"),
        "rank": ([good, tmp_path / "rank"], r"of another shape 28: .* is \(4, 32\), must be \(8, 32\)"),
        "other targets": ([good, tmp_path / "chatglm"], "no LoRA adapter for LlamaForCausalLM: .*query_key"),
    }  # fmt: skip


CASES = (
    "none", "absent",
    "twice", "cut", "short", "another kind", "integers", "13B", "another width", "not finite",
    "another stream", "no place", "archive", "outer folder", "a whole model", "an empty folder",
    "half an adapter", "an empty adapter", "no LoRA", "less", "more", "rank", "other targets",
)  # fmt: skip


@pytest.fixture(scope="module")
def model(base):
    """One for weights that are refused."""
    return load("vtimellm", base)


@pytest.mark.parametrize("case", CASES)
def test_bad_weights_are_refused(bad, model, case):
    weights, message = bad[case]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        apply(model, weights)
    assert_lm(model, language_model())


def test_weights_are_for_published_models_that_are_not_quantized(base, tmp_path):
    with pytest.raises(ValueError, match=r"weights are for published models.*'tiny'.*checkpoints\.apply"):
        lc.load("tiny", weights=tmp_path)
    stage_1(tmp_path / "p.bin")
    stage(tmp_path / "s", 2)
    model = load("vtimellm", base)
    model.llm.lm.hf_quantizer = object()
    with pytest.raises(ValueError, match="must not be quantized for it; load without"):
        apply(model, [tmp_path / "p.bin", tmp_path / "s"])
    apply(model, tmp_path / "p.bin")  # a projector alone is no matter


def test_a_file_is_read_name_by_name(tmp_path):
    values = {"a": torch.randn(2, 3), "b": torch.randn(4).half()}
    torch.save(values, tmp_path / "x.bin")
    save_file(values, tmp_path / "x.safetensors")
    for name in ("x.bin", "x.safetensors"):
        got = read_tensors(tmp_path / name)
        assert set(got) == {"a", "b"} and all(torch.equal(got[key], value) for key, value in values.items())
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.bin"):
        read_tensors(tmp_path / "gone.bin")
    assert read_stage(tmp_path / "x.bin").adapter == {}
