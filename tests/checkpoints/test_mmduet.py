"""MMDuet by name: its base in either layout, its adapter under all names of its heads, tokens of frames equal
to those of its own code (tests/golden/mmduet)."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import longcompress as lc
from longcompress.checkpoints.apply import apply
from longcompress.checkpoints.architectures import encoders_of
from longcompress.checkpoints.llava import read_llava, split_llava
from longcompress.cli.main import main
from longcompress.llm.heads import looks_untrained

from videos import Video, write

GOLDEN = Path(__file__).parents[1] / "golden" / "mmduet"
BASE, ADAPTER = GOLDEN / "base", GOLDEN / "adapter"
STEM = "base_model.model."
OLD = {"informative_head": "response_head", "relevance_head": "related_head"}
HF = {  # lmms-lab's names -> those of llava-hf's files, and those that transformers saves
    "model.vision_tower.vision_tower.vision_model.": ("vision_tower.vision_model.", "model.vision_tower."),
    "model.mm_projector.0.": ("multi_modal_projector.linear_1.", "model.multi_modal_projector.linear_1."),
    "model.mm_projector.2.": ("multi_modal_projector.linear_2.", "model.multi_modal_projector.linear_2."),
    "model.image_newline": ("image_newline", "model.image_newline"),
    "lm_head.": ("language_model.lm_head.", "lm_head."),
    "model.": ("language_model.model.", "model.language_model."),
}
FRAMES = load_file(GOLDEN / "frames.safetensors")


def load(base=BASE, weights=ADAPTER, **options):
    return lc.load("mmduet", base={"llava": str(base)}, weights=weights, device="cpu", **options)


def pixels(num=28):
    """(num, 384, 384, 3) frames of the golden numbers."""
    low = FRAMES["low"][:num].permute(0, 2, 3, 1)
    return low.repeat_interleave(48, 1).repeat_interleave(48, 2).contiguous()


def adapter(folder, rename=lambda name: name, **changes):
    """A copy of the adapter with other names of tensors; a name of None is left out."""
    folder.mkdir()
    shutil.copy(ADAPTER / "adapter_config.json", folder)
    values = load_file(ADAPTER / "adapter_model.safetensors")
    values = {new: value for name, value in values.items() if (new := rename(name))}
    save_file(values | changes, folder / "adapter_model.safetensors")
    return folder


def old_names(name):
    for new, old in OLD.items():
        name = name.replace(new, old)
    return name


def wrapped(name):
    return name.replace("_head.weight", "_head.modules_to_save.default.weight")


def llava_hf(folder, layout, rows=0):
    """The base as llava-hf's files have it (layout 0), or transformers' own (1); more rows of words."""
    folder.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BASE / file, folder)
    own = json.loads((BASE / "config.json").read_text())
    text = {k: v for k, v in own.items() if not k.startswith("mm_")} | {"model_type": "qwen2"}
    vision = {"model_type": "siglip_vision_model", "num_attention_heads": 2, "image_size": 384}
    config = {"model_type": "llava_onevision", "text_config": text, "vision_config": vision}
    (folder / "config.json").write_text(json.dumps(config))
    values = {}
    for name, value in load_file(BASE / "model.safetensors").items():
        stem = next(stem for stem in HF if name.startswith(stem))
        if rows and value.shape[0] == own["vocab_size"]:
            value = torch.cat([value, torch.zeros(rows, value.shape[1])])
        values[HF[stem][layout] + name.removeprefix(stem)] = value
    save_file(values, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def model():
    return load()


def merged():
    """Parameters of the language model with the adapter merged by hand: W + alpha / r x B A."""
    base, values = load_file(BASE / "model.safetensors"), load_file(ADAPTER / "adapter_model.safetensors")
    for name in base:
        at = STEM + name.removesuffix(".weight")
        if f"{at}.lora_A.weight" in values:
            base[name] = base[name] + 2 * values[f"{at}.lora_B.weight"] @ values[f"{at}.lora_A.weight"]
    return base


def assert_same(model):
    """The language model, the projector and the heads by value."""
    want, values = merged(), load_file(ADAPTER / "adapter_model.safetensors")
    for name, value in model.llm.lm.state_dict().items():
        torch.testing.assert_close(value[: len(want[name])], want[name], atol=1e-6, rtol=1e-5)
    for leaf, value in model.video.projector.layers.state_dict().items():
        assert torch.equal(value, values[f"{STEM}model.mm_projector.{leaf}"])
    for name in ("informative", "relevance"):
        head = model.llm.heads.get_submodule(name).weight
        assert torch.equal(head, values[f"{STEM}{name}_head.weight"])


def test_tokens_of_frames_are_theirs(model):
    patches = model.video.encoder(
        pixel_values=model.video.normal(pixels(4)), output_hidden_states=True
    ).hidden_states[-1]
    assert (patches - FRAMES["tower_first4"]).abs().max() < 1e-5
    x, summary = model.video.features(pixels())
    assert summary is None and model.video.grid == (7, 7)
    assert (x - FRAMES["frame_tokens"]).abs().max() < 1e-5


def test_pooling_is_that_of_all_patches(model):
    """169 of 729 patches give what all of them give: projected, then scaled down bilinearly."""
    x = torch.randn(2, 729, 32)
    projector = model.video.projector
    grid = projector.layers(x).reshape(2, 27, 27, 48).permute(0, 3, 1, 2)
    want = torch.nn.functional.interpolate(grid, size=(7, 7), mode="bilinear").permute(0, 2, 3, 1)
    torch.testing.assert_close(projector(x), want.reshape(2, 49, 48), atol=1e-6, rtol=1e-5)
    assert len(projector.used) ** 2 == 169


@pytest.mark.parametrize("rename", [str, old_names, wrapped], ids=["new", "old", "wrapped"])
@pytest.mark.parametrize("listed", [list(OLD), list(OLD.values())], ids=["new list", "old list"])
def test_heads_under_each_name(tmp_path, rename, listed):
    folder = adapter(tmp_path / "adapter", rename)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["modules_to_save"] = ["connector", "mm_projector", *listed]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert_same(load(weights=[str(folder)]))


@pytest.mark.parametrize("rows", [0, 56])
@pytest.mark.parametrize("layout", [0, 1])
def test_llava_hf_as_base(tmp_path, layout, rows):
    """Its embeddings may have rows more, which no adapter touches."""
    model = load(llava_hf(tmp_path / "hf", layout, rows))
    assert_same(model)
    x, _ = model.video.features(pixels(3))
    assert (x - FRAMES["frame_tokens"][:3]).abs().max() < 1e-5


def test_split_gives_the_same_model(tmp_path, capsys):
    words = ["weights", "split", str(BASE), "--out", str(tmp_path / "ov")]
    assert main(words) == 0 and "80 tensors" in capsys.readouterr().out
    assert_same(load(tmp_path / "ov"))
    parts = {"video": str(tmp_path / "ov" / "video"), "llm": str(tmp_path / "ov" / "lm")}
    assert_same(lc.load("mmduet", base=parts, weights=ADAPTER, device="cpu"))
    small = split_llava(BASE, tmp_path / "small", shard_bytes=50_000, progress=False)
    assert len(list(small.llm.glob("*.safetensors"))) > 5  # a shard in memory at a time
    assert_same(load(tmp_path / "small"))
    with pytest.raises(ValueError, match="out must be a new or empty folder"):
        split_llava(BASE, tmp_path / "small")


def test_saved_and_loaded(model, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    again = lc.load(tmp_path / "saved", device="cpu")
    assert_same(again)
    assert again.identity() == model.identity()
    x, _ = again.video.features(pixels(2))
    assert (x - FRAMES["frame_tokens"][:2]).abs().max() < 1e-5


def test_a_base_alone_is_to_be_trained():
    model = load(weights=None)
    own = load_file(BASE / "model.safetensors")
    assert torch.equal(model.video.projector.layers[0].weight, own["model.mm_projector.0.weight"])
    assert model.config.video.base == "./video" and model.config.llm.base == "./lm"


def test_missing_heads_are_refused(tmp_path):
    folder = adapter(tmp_path / "released", lambda name: None if "_head" in name else name)
    with pytest.raises(
        ValueError, match=r"weights have no heads: .*`longcompress weights show`.*--init heads"
    ):
        load(weights=folder)
    model = load(weights=None)
    before = model.llm.heads.relevance.weight.clone()
    apply(model, folder, init=["heads"])
    assert torch.equal(model.llm.heads.relevance.weight, before)
    lacks = adapter(tmp_path / "half", lambda name: None if "relevance" in name else name)
    with pytest.raises(ValueError, match=r"weights have no heads: llm\.heads\.relevance\.weight stay unset"):
        load(weights=lacks)


def test_heads_under_two_names_are_refused(tmp_path):
    twice = adapter(tmp_path / "twice", **{f"{STEM}response_head.weight": torch.zeros(2, 48)})
    with pytest.raises(ValueError, match=r"informative_head.weight and .*response_head.weight are the same"):
        load(weights=twice)


def test_untrained_heads_are_told_of(tmp_path):
    torch.manual_seed(0)
    width = 3584
    initial = 0.02 * torch.randn(2, width)
    assert looks_untrained(initial)
    assert not looks_untrained(1.1 * initial)  # spread otherwise
    assert not looks_untrained(initial + torch.tensor([[-0.002], [0.002]]))  # yes differs from no
    wave = 0.02 * 2**0.5 * torch.sin(torch.arange(48) * 2 * torch.pi / 48)  # of RMS .02
    alike = adapter(
        tmp_path / "alike", **{f"{STEM}informative_head.weight": torch.stack([wave, wave.roll(9)])}
    )
    with pytest.warns(UserWarning, match=r"informative_head\.weight of .* look untrained"):
        load(weights=alike)


def test_show_prints_names_and_shapes(tmp_path, capsys):
    folder = adapter(tmp_path / "old", old_names)
    for path in (folder, folder / "adapter_model.safetensors"):
        assert main(["weights", "show", str(path)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert "base_model.model.response_head.weight  F32  [2, 48]" in lines and len(lines) == 48
    torch.save({"a.weight": torch.zeros(3, 2)}, tmp_path / "a.bin")
    assert main(["weights", "show", str(tmp_path / "a.bin")]) == 0
    assert capsys.readouterr().out == "a.weight  float32  [3, 2]\n"
    data = (folder / "adapter_model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    assert main(["weights", "show", str(tmp_path / "cut.safetensors")]) != 0
    assert "is cut off" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert main(["weights", "show", str(tmp_path / "none")]) == 3
    assert "has no file of tensors" in capsys.readouterr().err


def changed_base(folder, drop=(), **config):
    shutil.copytree(BASE, folder)
    values = load_file(BASE / "model.safetensors")
    save_file(
        {k: v for k, v in values.items() if not any(d in k for d in drop)}, folder / "model.safetensors"
    )
    own = json.loads((BASE / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(own | config))
    return folder


def test_bad_bases(tmp_path):
    with pytest.raises(FileNotFoundError, match="base '/nowhere': no such folder"):
        load("/nowhere")
    with pytest.raises(ValueError, match=r"must be LLaVA-OneVision on Qwen2 .*parts without tensors: video"):
        load(changed_base(tmp_path / "plain", ["vision_tower"]))
    with pytest.raises(ValueError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight; get it whole"):
        load(changed_base(tmp_path / "holes", ["layers.1.mlp.up_proj"]))
    with pytest.raises(ValueError, match=r"lacks model\.embed_tokens\.weight; get it whole"):
        load(changed_base(tmp_path / "table", ["embed_tokens"]))
    with pytest.raises(ValueError, match=r"lacks 12 of the model's parameters"):
        load(changed_base(tmp_path / "short", ["layers.2."]))
    with pytest.raises(ValueError, match="mm_spatial_pool_mode 'max', must be 'bilinear'"):
        read_llava(changed_base(tmp_path / "max", mm_spatial_pool_mode="max"))
    cut = changed_base(tmp_path / "cut")
    data = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="is cut off"):
        load(cut)


def test_another_siglip_is_refused(tmp_path):
    split = split_llava(BASE, tmp_path / "ov", progress=False)
    (split.video / "mm_projector.safetensors").unlink()
    parts = {"video": str(split.video), "llm": str(split.llm)}
    with pytest.raises(ValueError, match=r"tuned within LLaVA-OneVision, .* give base=\{'llava': FOLDER\}"):
        lc.load("mmduet", base=parts, device="cpu")
    save_file({"mm_projector.0.weight": torch.zeros(48, 32)}, split.video / "mm_projector.safetensors")
    with pytest.raises(ValueError, match="its projector must be two layers"):
        lc.load("mmduet", base=parts, device="cpu")


def test_an_adapter_of_another_width_is_refused(tmp_path):
    wide = adapter(tmp_path / "wide", **{f"{STEM}informative_head.weight": torch.zeros(2, 64)})
    with pytest.raises(
        ValueError, match=r"is of another model .*informative_head\.weight is \(2, 64\), must be"
    ):
        load(weights=wide)


def test_a_video_is_compressed_and_asked_about(model, tmp_path):
    """As any other model: 49 tokens a frame, two frames a second, merged to a budget."""
    path = write(tmp_path / "video.mkv", Video())
    memory = lc.compress(model, path, budget=60, progress=False)
    assert memory.num_tokens == 60 and memory.streams["video"].size.sum() == 8 * 49
    assert isinstance(memory.ask("What happens?", max_new_tokens=3).text, str)
    features = encoders_of("mmduet", base={"llava": str(BASE)}, device="cpu")
    assert features.video.patches == 49 and features.streams == ("video",)
