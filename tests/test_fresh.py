"""What fresh models begin with: norms beside the language model's words, numbers whose digits have places."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    PreTrainedTokenizerFast,
    WhisperFeatureExtractor,
)

import longcompress as lc
from longcompress.config import (
    BudgetConfig,
    HostConfig,
    MediaConfig,
    MemoryConfig,
    ModelConfig,
    SoundConfig,
    VisionConfig,
    from_dict,
    to_dict,
)
from longcompress.hosts import CausalHost, Example
from longcompress.hosts.causal import together
from longcompress.hosts.fresh import embedding_norm, time_norm
from longcompress.hosts.prompt import encode
from longcompress.model import LongCompress
from longcompress.presets import tiny
from longcompress.published import longvale
from longcompress.scenes import make_scene, parts_of
from longcompress.session import watch

from models import hearing, language_model, listening

FIRST = {"numbers": "mean", "token_norm": 0.0, "time_norm": 0.0}


def digits():
    """A tokenizer that writes every digit with a token of its own."""
    known = ["<pad>", "<end>", *"0123456789:", "when", "does", "it", "happen", "now"]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[\d:]"), "isolated")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>")


def reader(**options):
    """A host of a random language model with that tokenizer."""
    torch.manual_seed(3)
    config = HostConfig(question="{question}", max_offset_s=40, **options)
    return CausalHost(language_model(vocabulary=len(digits())), digits(), config, {"picture": 8})


def gemma():
    """A random Gemma 3, whose embeddings are scaled as they are read."""
    torch.manual_seed(9)
    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=32, hidden_size=48, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, head_dim=16, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        )
    )  # fmt: skip


def eyes(kind, loud):
    """A random picture tower whose features are `loud` times as long as they were."""
    torch.manual_seed(11)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"image_size": 32, "patch_size": 8}
    if kind == "clip":
        tower = CLIPVisionModel(CLIPVisionConfig(**shape, intermediate_size=48))
        torch.nn.init.normal_(tower.embeddings.patch_embedding.weight, std=0.05)
        tower.pre_layrnorm.weight.data.mul_(loud)
    else:
        tower = Dinov2Model(Dinov2Config(**shape, mlp_ratio=1))
        tower.embeddings.patch_embeddings.projection.weight.data.mul_(20 * loud)
    return tower


LOUD = {"clip-whisper-llama": 0.03, "dino-beats-qwen2": 10.0, "clip-whisper-gemma": 1.0}


@pytest.fixture(scope="module", params=LOUD)
def made(request, tmp_path_factory):
    """A fresh model of real classes, from folders, by `from_config`."""
    folder = tmp_path_factory.mktemp(request.param)
    seen, heard, read = request.param.split("-")
    eyes(seen, LOUD[request.param]).save_pretrained(folder / "eyes")
    if heard == "beats":
        sound = replace(hearing().config, base="./ears")
        hearing().save_pretrained(folder / "ears")
    else:
        sound = SoundConfig(base="./ears", pool=50, width=8)
        listening().tower.save_pretrained(folder / "ears")
        WhisperFeatureExtractor(feature_size=8).save_pretrained(folder / "ears")
    (gemma() if read == "gemma" else language_model(read, 32)).save_pretrained(folder / "lm")
    digits().save_pretrained(folder / "lm")
    config = ModelConfig(
        media=MediaConfig(size_px=32), vision=VisionConfig(base="./eyes", layer=-1, width=32), sound=sound,
        memory=MemoryConfig(kind="none"), budget=BudgetConfig(tokens=60),
        host=HostConfig(
            base="./lm", question="{question}", projector="mlp" if read == "gemma" else "linear",
            mark="{start}",
        ),
    )  # fmt: skip
    torch.manual_seed(1)
    return LongCompress.from_config(config, folder=folder, device="cpu")


def rms(x):
    return float(x.detach().float().square().sum(-1).mean().sqrt())


def test_tokens_are_as_long_as_words_and_time_is_the_stated_share(made):
    scene = make_scene(4, 30.0)  # not the one that was measured
    memory = watch(made, list(parts_of(scene, 1.0)), 60, progress=False)
    table = made.host.lm.get_input_embeddings()
    words = float(table(torch.arange(32)).detach().norm(dim=1).median())
    assert embedding_norm(made.host) == pytest.approx(words, rel=0.05)
    assert time_norm(made.host) == pytest.approx(0.4 * words, rel=1e-3)
    for name, tokens in memory.streams.items():
        x = made.host.project[name](tokens.x.float())
        assert 1 / 3 < rms(x - x.mean(0)) / words < 3, name  # what a token shows, of another film
        assert rms(x) / words < 4
    bare = made.host.embed(made.host.collate([Example(memory.film, [("when", None)])]))
    time = made.host.time
    made.host.time = None
    without = made.host.embed(made.host.collate([Example(memory.film, [("when", None)])]))
    made.host.time = time
    added = (bare - without)[0]
    added = added[added.norm(dim=1) > 0]
    assert len(added) == memory.num_tokens
    assert 0.2 < rms(added) / words < 0.6


def test_what_was_chosen_is_saved_and_a_loaded_model_is_the_same(made, tmp_path):
    made.save_pretrained(tmp_path / "new", include_base=True)
    again = LongCompress.from_pretrained(tmp_path / "new", device="cpu")
    values = json.loads((tmp_path / "new" / "config.json").read_text())
    assert values["format"] == 2
    assert {k: values["host"][k] for k in FIRST} == {"numbers": "places", "token_norm": 1.0, "time_norm": 0.4}
    for name, value in made.host.project.state_dict().items():
        assert torch.equal(again.host.project.state_dict()[name], value)
    assert torch.equal(again.host.time.gain, made.host.time.gain)


def test_paper_presets_and_the_embedded_model_begin_as_they_did(made):
    assert longvale().host.token_norm == 0 and not longvale().host.time
    assert longvale("ours").host.token_norm == 1 and longvale("ours").host.time_norm == 0.4
    assert {k: getattr(tiny().host, k) for k in FIRST} == FIRST
    config = replace(made.config, host=replace(made.config.host, token_norm=0.0, time_norm=0.0))
    torch.manual_seed(1)
    plain = LongCompress.from_config(config, folder=made.folder, device="cpu")
    torch.manual_seed(1)
    widths = {name: tower.width for name, tower in made.towers.items()}
    want = CausalHost(plain.host.lm, plain.host.tokenizer, config.host, widths)
    for name, value in want.project.state_dict().items():
        assert torch.equal(plain.host.project.state_dict()[name], value)
    assert torch.equal(plain.host.time.gain.abs(), torch.ones_like(want.time.gain))


def test_no_two_numbers_are_one():
    numbers = reader().numbers().detach()
    apart = torch.cdist(numbers, numbers) + torch.eye(len(numbers))
    assert float(apart.min()) > 0.1 * float(numbers.norm(dim=1).mean())
    mean = reader(numbers="mean").numbers().detach()
    torch.testing.assert_close(mean[12], mean[21])  # what it is there against
    torch.testing.assert_close(mean[11], mean[1])
    table = reader().lm.get_input_embeddings()
    assert torch.equal(numbers[:10], table(torch.tensor([encode(digits(), str(k))[0] for k in range(10)])))
    lengths = numbers[10:].norm(dim=1)
    assert float(lengths.min() / lengths.mean()) > 0.5 and float(lengths.max() / lengths.mean()) < 2


def test_no_two_marks_are_one():
    table = reader().lm.get_input_embeddings()
    texts = [f"{k // 3600}:{k // 60 % 60:02d}:{k % 60:02d}" for k in range(0, 7200, 70)]
    ids = torch.tensor([encode(digits(), text) for text in texts])
    marks = together(table, ids, "places").detach()
    apart = torch.cdist(marks, marks) + torch.eye(len(marks))
    assert float(apart.min()) > 0.1 * float(marks.norm(dim=1).mean())
    # a shorter one beside longer ones is what it is alone
    ragged = torch.tensor([[2, 3, -1], [4, 5, 6]])
    alone = together(table, torch.tensor([[2, 3]]), "places")
    torch.testing.assert_close(together(table, ragged, "places")[:1], alone)
    assert not together(table, torch.tensor([[-1, -1]]), "places").any()


def test_the_signs_of_places_are_orthogonal():
    table = torch.nn.Embedding.from_pretrained(torch.ones(1, 64))
    sums = [together(table, torch.zeros(1, n, dtype=torch.int64), "places")[0] * n**0.5 for n in range(1, 8)]
    signs = torch.stack([sums[0], *(b - a for a, b in pairwise(sums))])
    torch.testing.assert_close(signs @ signs.t() / 64, torch.eye(7), atol=1e-5, rtol=0)
    assert bool((signs[0] == 1).all())


def test_files_of_format_1_are_read_as_they_were_meant():
    old = to_dict(ModelConfig()) | {"format": 1}
    for name in FIRST:
        del old["host"][name]
    read = from_dict(ModelConfig, old)
    assert {k: getattr(read.host, k) for k in FIRST} == FIRST and read.format == 2
    assert from_dict(ModelConfig, to_dict(read)) == read
    assert from_dict(ModelConfig, {}).host.numbers == "places"
    embedded = lc.load("tiny", device="cpu")
    assert embedded.host.settings.numbers == "mean"
    with pytest.raises(ValueError, match="format 3, this version reads up to 2; upgrade"):
        from_dict(ModelConfig, {"format": 3})
    with pytest.raises(ValueError, match=r"token_norm must be >= 0 norms of embeddings, got -1"):
        HostConfig(token_norm=-1)


def test_a_host_without_time_has_no_norm_of_it():
    with pytest.raises(ValueError, match="host must have a time embedding"):
        time_norm(reader(time=False))
