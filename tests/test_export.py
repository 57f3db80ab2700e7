"""What is exported gives, in transformers in the place of a server, the logits of our own path to the bit."""

import json
import re
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer
from transformers.modeling_outputs import BaseModelOutputWithPooling

import longcompress as lc
from longcompress.cli import main as cli
from longcompress.encoders.families import FAMILIES
from longcompress.export import IMAGES, POSITIONS, export
from longcompress.llm import Example
from longcompress.media.reader import arrays
from longcompress.memory import VideoMemory

import models as small_models
from stock_folders import save
from stock_inputs import stock_mel, stock_pixels
from stock_models import MISSING, MODELS
from stock_videos import raw_audio, raw_video, stock_lm, video_of

QUESTION = "What happens, and when does it end?"
KINDS = {  # family -> its name in the tests
    "qwen2_5_omni_thinker": "qwen2_5_omni", "qwen3_omni_moe_thinker": "qwen3_omni"
}  # fmt: skip
PLAIN = [
    name for name, family in FAMILIES.items()
    if family.positions == "plain"
    and not family.token_types
    and name not in {*MISSING, "lfm3_vl", "glm5_next"}  # these carry a state
]  # fmt: skip


def memory_of(name, audio=False):
    """A memory of a family's small model: of raw tokens, every third is left, so that stretches differ."""
    model, tokenizer = MODELS[KINDS.get(name, name)]()
    llm = stock_lm(model, tokenizer)
    tokens = raw_video(model, stock_pixels(model, 9))
    index = torch.cat([torch.arange(0, len(tokens) // 2, 3), torch.arange(len(tokens) // 2, len(tokens), 2)])
    streams = {"video": tokens.take(index)}
    if audio:
        streams["audio"] = raw_audio(model, *stock_mel(6.0))
    return VideoMemory(video_of(**streams), SimpleNamespace(llm=llm, config=SimpleNamespace(name=name)))


def export_to(memory, server, folder, question=QUESTION):
    """(content of request.json, tensors)."""
    export(memory, server, folder, question)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "request.json", "tensors.safetensors"
    ]  # fmt: skip
    return json.loads((folder / "request.json").read_text()), load_file(folder / "tensors.safetensors")


def own_logits(memory, change=lambda batch: None):
    batch = memory.model.llm.collate([Example(memory.video, [(QUESTION, None)])])
    del batch["labels"]
    change(batch)
    with torch.no_grad():
        return memory.model.llm(**batch)["logits"][0]


def features_of(x, deepstack, counts=None):
    """Rows (N, D (1 + deepstack)) as a stock model's encoder gives them, of a video or of several images."""
    parts = [part.split(counts) if counts else [part] for part in x.split(x.shape[1] // (1 + deepstack), -1)]
    output = BaseModelOutputWithPooling(pooler_output=list(parts[0]))
    if deepstack:
        output.deepstack_features = [list(part) for part in parts[1:]]
    return output


@pytest.mark.parametrize("name", POSITIONS)
def test_sglang_gets_what_gives_our_logits(name, tmp_path):
    memory = memory_of(name)
    _, tensors = export_to(memory, "sglang", tmp_path)
    lm, family = memory.model.llm.lm, FAMILIES[name]
    ids, position = tensors["prompt_token_ids"], tensors["mrope_positions"]
    assert position.dtype == torch.int64 and position.shape == (3, len(ids))
    is_token = torch.zeros(len(ids), dtype=torch.bool)
    for first, last in tensors["offsets"].tolist():
        is_token[first : last + 1] = True
    assert torch.equal(is_token, ids == lm.config.video_token_id)
    assert len(tensors["feature"]) == int(is_token.sum())
    output = features_of(tensors["feature"], family.deepstack)
    with torch.no_grad():
        got = lm(
            input_ids=ids[None], position_ids=position[:, None], attention_mask=torch.ones_like(ids)[None],
            mm_encoder_outputs={"video": output}, use_cache=False,
        ).logits[0]  # fmt: skip
    assert torch.equal(got, own_logits(memory))
    delta = int(tensors["mrope_position_delta"])
    assert len(ids) + delta == int(position.max()) + 1  # where the answer begins


def test_sglang_gets_deepstack_features_beside_the_first(tmp_path):
    memory = memory_of("qwen3_vl")
    _, tensors = export_to(memory, "sglang", tmp_path)
    assert tensors["feature"].shape[1] == 4 * memory.model.llm.lm.config.text_config.hidden_size


@pytest.mark.parametrize("name", IMAGES)
def test_vllm_gets_images_that_give_our_logits_at_their_positions(name, tmp_path):
    memory = memory_of(name)
    _, tensors = export_to(memory, "vllm-image", tmp_path)
    lm = memory.model.llm.lm
    grid, short = tensors["image_grid_thw"], tensors["prompt_token_ids"]
    is_image = short == lm.config.image_token_id
    counts = (grid.prod(1) // 4).tolist()
    assert len(counts) == int(is_image.sum()) > 2 and len(set(counts)) > 1  # stretches of unequal length
    assert set(grid[:, 0].tolist()) == {1} and set(grid[:, 1].tolist()) == {2}
    ids = short.repeat_interleave(torch.ones_like(short).masked_scatter(is_image, torch.tensor(counts)))
    types = (ids == lm.config.image_token_id).long()
    output = features_of(tensors["image_embeds"], FAMILIES[name].deepstack, counts)
    with torch.no_grad():
        got = lm(
            input_ids=ids[None], attention_mask=torch.ones_like(ids)[None], image_grid_thw=grid,
            mm_encoder_outputs={"image": output}, mm_token_type_ids=types[None], use_cache=False,
        ).logits[0]  # fmt: skip

    def in_strips(batch):
        """Row 0, and columns 0 to n - 1 of each stretch."""
        is_token = batch["input_ids"][0] == lm.config.video_token_id
        position = torch.arange(len(is_token)).expand(3, -1).clone()
        starts = torch.where(is_token & ~is_token.roll(1), position[0], 0).cummax(0).values
        position[:2, is_token] = starts[is_token]
        batch["position_ids"] = position[None]

    assert torch.equal(got, own_logits(memory, in_strips))
    assert not torch.equal(got, own_logits(memory))  # true places are another thing


@pytest.mark.parametrize("name", PLAIN)
def test_vllm_gets_embeddings_that_give_our_logits(name, tmp_path):
    memory = memory_of(name)
    _, tensors = export_to(memory, "vllm-prompt", tmp_path)
    lm = memory.model.llm.lm
    x, ids = tensors["prompt_embeds"], tensors["prompt_token_ids"]
    is_token = ~tensors["prompt_is_token_ids"]
    assert len(x) == len(ids) == len(is_token)
    assert torch.equal(is_token, ids == memory.model.llm.prompt.placeholders[0])
    with torch.no_grad():
        got = lm(inputs_embeds=x[None], use_cache=False).logits[0]  # as of text
    assert torch.equal(got, own_logits(memory))


REFUSED = {
    ("qwen3_vl", "vllm-prompt"): r"of 'qwen3_vl': its positions have three axes.* take sglang",
    ("glm4v", "vllm-prompt"): r"'glm4v': its positions have three axes.*take `ask`",
    ("gemma4", "vllm-prompt"): r"'gemma4': its layers need the ids of video tokens",
    ("lfm3_vl", "vllm-prompt"): r"'lfm3_vl': some of its layers carry a state",
    ("lfm3_vl", "sglang"): r"its positions have one axis; answer with `ask`",
    ("llava_onevision", "sglang"): r"'llava_onevision': its positions have one axis; take vllm-prompt",
    ("smolvlm", "vllm-image"): r"'smolvlm': its positions have one axis; take vllm-prompt",
    ("qwen2_5_vl", "vllm-image"): r"'qwen2_5_vl': its time is in positions, .*; take sglang",
    ("qwen3_omni", "sglang"): r"its positions in time are fractions, and the servers' are whole numbers",
    ("qwen2_5_omni", "sglang"): r"only qwen2_vl, .*, qwen3_5_moe are known to be taken",
    ("glm4v", "vllm-image"): r"only qwen3_vl, qwen3_vl_moe, qwen3_5, qwen3_5_moe are known to be taken",
}  # fmt: skip


@pytest.mark.parametrize("name, server", [case for case in REFUSED if case[0] not in MISSING])
def test_a_server_that_cannot_take_a_family_is_refused_by_name(name, server, tmp_path):
    with pytest.raises(ValueError, match=REFUSED[name, server]):
        export(memory_of(name), server, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_audio_another_server_and_other_models_are_refused(tmp_path):
    memory = memory_of("qwen2_5_omni", audio=True)
    with pytest.raises(ValueError, match=r"must have video and no audio for sglang.* --media.audio false"):
        export(memory, "sglang", tmp_path)
    with pytest.raises(ValueError, match=r"server must be one of sglang, vllm-image, vllm-prompt, got 'tgi'"):
        export(memory, "tgi", tmp_path)
    memory.model = None
    with pytest.raises(ValueError, match=r"memory has no model; use longcompress.load_memory"):
        export(memory, "sglang", tmp_path)
    model = small_models.model()
    pixels = np.zeros((4, 64, 64, 3), dtype=np.uint8)
    memory = lc.compress(model, arrays(pixels), budget=4, progress=False)
    with pytest.raises(ValueError, match=r"memory must be of a stock video LLM.* got model"):
        export(memory, "sglang", tmp_path)
    assert not list(tmp_path.iterdir())


# --- the folder by itself


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of the model of each family, and a memory file beside it."""
    cache = {}

    def folder(name):
        if name not in cache:
            cache[name] = root = tmp_path_factory.mktemp(name)
            model = lc.load(save(name, root / "model"), device="cpu")
            if not model.video.family.fixed:
                model.change({"media": {"size_px": 32}})
            size, rate = model.config.media.size_px, model.config.media.rate_fps
            rng = np.random.default_rng(0)
            pixels = rng.integers(0, 256, (round(30 * rate), size, size, 3), dtype=np.uint8)
            memory = lc.compress(model, arrays(pixels, rate), budget=40, progress=False)
            memory.save(root / "video.lcm")
            model.save_pretrained(root / "light")
        return cache[name]

    return folder


class Recorder:
    """A server's Python class: keeps how it was made and what it was asked."""

    def __init__(self, *args, **options):
        self.args, self.options = args, options
        Recorder.last = self

    def generate(self, *args, **request):
        self.request = request or args[0][0]
        return {"text": "ok"} if request else [SimpleNamespace(outputs=[SimpleNamespace(text="ok")])]


def blocks(folder):
    """The Python of the README: what loads, what puts another question in, what sends."""
    load, ask, send = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    return load, ask, send


def send_with(codes, folder, monkeypatch):
    """The options and the request that a server gets of the README's Python."""
    sglang, vllm = ModuleType("sglang"), ModuleType("vllm")
    sglang.Engine, vllm.LLM, vllm.SamplingParams = Recorder, Recorder, dict
    monkeypatch.setitem(sys.modules, "sglang", sglang)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.chdir(folder)
    exec("\n".join(codes), {})
    return Recorder.last.options, Recorder.last.request


def flat(request):
    """(name, value) at any depth."""
    for name, value in request.items():
        is_part = isinstance(value, dict) or name == "video_data"
        yield from flat(value[0] if isinstance(value, list) else value) if is_part else [(name, value)]


@pytest.mark.parametrize(
    "name, server",
    [
        ("qwen3_vl", "sglang"), ("qwen2_5_vl", "sglang"), ("qwen3_vl", "vllm-image"),
        ("llava_onevision", "vllm-prompt"), ("smolvlm", "vllm-prompt"),
    ],
)  # fmt: skip
def test_the_readme_sends_the_request_and_another_question(
    name, server, folders, tmp_path, monkeypatch, capsys
):
    root = folders(name)
    outputs = {}
    for kind, question in (("asked", QUESTION), ("open", None), ("other", "What happens?")):
        words = [
            "export",
            f"{root}/video.lcm",
            "--for",
            server,
            "--model",
            f"{root}/light",
            "--device",
            "cpu",
        ]
        words += ["--out", f"{tmp_path}/{kind}", *(["--question", question] if question else [])]
        assert cli.main(words) == 0
        assert capsys.readouterr().out.splitlines()[0] == f"{tmp_path}/{kind}/tensors.safetensors"
        outputs[kind] = tmp_path / kind
    content = json.loads((outputs["asked"] / "request.json").read_text())
    assert content["for"] == server and content["question"]["question"] == QUESTION
    load, ask, send = blocks(outputs["asked"])
    options, want = send_with([blocks(outputs["other"])[0], send], outputs["other"], monkeypatch)
    assert options.pop("model_path", None) in (None, content["model"])
    assert options == json.loads((outputs["other"] / "request.json").read_text())["engine"]
    for kind in ("asked", "open"):  # the README's own question takes the place of any
        _, got = send_with([load, ask, send], outputs[kind], monkeypatch)
        got, values = dict(flat(got)), dict(flat(want))
        assert got.keys() == values.keys()
        for key, value in values.items():
            if key == "prompt_embeds":  # rows of text are not read
                keep = ~torch.tensor(want["prompt_is_token_ids"])
                assert torch.equal(got[key][keep], value[keep])
            elif isinstance(value, torch.Tensor):
                assert torch.equal(got[key], value)
            else:
                assert got[key] == value
    text = (outputs["asked"] / "README.md").read_text()
    assert "never sent to a server" in text and all(
        f"--{n.replace('_', '-')}" in text for n in content["engine"]
    )


def test_the_place_of_the_question_is_its_text_in_the_prompt(folders, tmp_path):
    root = folders("qwen3_vl")
    memory = lc.load_memory(root / "video.lcm", lc.load(root / "light", device="cpu"))
    content, tensors = export_to(memory, "sglang", tmp_path)
    place = content["question"]
    text = place["text"].replace("{question}", QUESTION)
    ids = AutoTokenizer.from_pretrained(root / "model")(text, add_special_tokens=False).input_ids[1:]
    assert tensors["prompt_token_ids"][place["first_id"] :].tolist() == ids
    assert tensors["mrope_positions"][0, place["first_id"]] == place["position"]


def test_a_lora_adapter_is_told(folders, tmp_path):
    root = folders("qwen3_vl")
    model = lc.load(root / "light", device="cpu")
    memory = lc.load_memory(root / "video.lcm", model)
    _, want = export_to(memory, "sglang", tmp_path / "a")
    model.add_lora()
    with pytest.warns(UserWarning, match=r"has a LoRA adapter, which the server must load too"):
        _, tensors = export_to(memory, "sglang", tmp_path / "b")
    assert all(torch.equal(tensors[name], value) for name, value in want.items())


def test_the_command_refuses_in_one_line(folders, tmp_path, capsys):
    root = folders("qwen3_vl")
    words = ["export", f"{root}/video.lcm", "--model", f"{root}/light", "--device", "cpu"]
    assert cli.main([*words, "--for", "vllm-prompt", "--out", f"{tmp_path}/a"]) == 2
    assert "vllm-prompt can't take tokens of 'qwen3_vl'" in capsys.readouterr().err
    assert cli.main([*words, "--for", "tgi", "--out", f"{tmp_path}/a"]) == 2
    assert "--for" in capsys.readouterr().err
    assert cli.main(words) == 2
    assert "needs SOURCE and --out and --for" in capsys.readouterr().err
